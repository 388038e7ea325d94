//! What a pipeline says of its samples.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    data::{Images, Source, Text},
    memory::Bytes,
};

/// Samples. Exactly one of `npz`, `npy`, `images`, `text` and `random` is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// An .npz file of arrays named by the model's inputs, samples first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub npz: Option<PathBuf>,
    /// A folder of .npy files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub npy: Option<PathBuf>,
    /// A folder of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// A file of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Random numbers, from this seed. What is measured on them says little about real inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<u64>,
    /// How many samples to use; all by default, 16 random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Samples per run, where the model leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// Who runs the model for passes that look at activations.
    #[serde(default, skip_serializing_if = "CalibrationEngine::is_default")]
    pub engine: CalibrationEngine,
    /// What activations, and the layers that are fitted at a time, may take, such as 2GB. More rounds over the samples make up for less
    /// memory; a layer that does not fit by itself is named. By default half of what is free, but not more than 4 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// A folder where statistics are kept, to be used again by later runs on the same model and samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

/// Who runs the model for passes that look at activations. Two engines differ in the last digits, so what is installed decides
/// nothing but whether there is a result at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationEngine {
    /// Tract; ONNX Runtime for a model whose first sample tract cannot run.
    #[default]
    Auto,
    /// The engine inside planish.
    Tract,
    /// ONNX Runtime, from its shared library.
    Onnxruntime,
}

impl CalibrationEngine {
    fn is_default(&self) -> bool {
        *self == CalibrationEngine::default()
    }
}

impl Calibration {
    /// The files and folders that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let images = self.images.iter_mut().map(|i| &mut i.folder);
        let text = self.text.iter_mut().flat_map(|t| std::iter::once(&mut t.file).chain(&mut t.tokenizer));
        self.npz.iter_mut().chain(&mut self.npy).chain(images).chain(text).chain(&mut self.cache)
    }

    /// Where the samples come from.
    pub fn source(&self) -> Source {
        match self {
            Calibration { npz: Some(path), .. } => Source::Npz(path.clone()),
            Calibration { npy: Some(path), .. } => Source::Folder(path.clone()),
            Calibration { images: Some(images), .. } => Source::Images(Box::new(images.clone())),
            Calibration { text: Some(text), .. } => Source::Text(text.clone()),
            Calibration { random, .. } => Source::Random { seed: random.unwrap_or(0) },
        }
    }

    /// Takes another source. Settings of images and of text stay if it is of the same kind.
    pub fn set_source(&mut self, source: Source) {
        let (images, text) = (self.images.take(), self.text.take());
        (self.npz, self.npy, self.random) = (None, None, None);
        match source {
            Source::Npz(path) => self.npz = Some(path),
            Source::Folder(path) => self.npy = Some(path),
            Source::Random { seed } => self.random = Some(seed),
            Source::Images(new) => {
                self.images = Some(Images { folder: new.folder.clone(), ..images.unwrap_or(*new) });
            }
            Source::Text(new) => self.text = Some(Text { file: new.file.clone(), ..text.unwrap_or(new) }),
        }
    }

    /// Fails unless there is exactly one source; the message names the keys.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let given =
            [self.npz.is_some(), self.npy.is_some(), self.images.is_some(), self.text.is_some(), self.random.is_some()];
        if given.iter().filter(|&&g| g).count() != 1 {
            return Err("calibration: give exactly one of npz, npy, images, text and random".into());
        }
        self.images.iter().try_for_each(Images::check).map_err(|e| format!("calibration.{e}"))
    }
}
