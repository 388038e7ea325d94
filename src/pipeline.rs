//! Pipeline files.
//!
//! A pipeline is YAML. Unknown keys are refused, with the line and the key that was probably meant. The same types give
//! the JSON Schema that `planish schema` prints.

mod calibration;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use planish_passes::{StepConfig, Target, find, suggest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bounds,
    cli::Preset,
    failure::{Failure, Kind, OrFail, Result},
};

pub use calibration::{Calibration, CalibrationEngine};

/// A pipeline: what to do to a model, and how to make sure of the result.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Version of this format; 1.
    pub version: Version,
    /// What the result is made for.
    #[serde(default)]
    pub target: Target,
    /// Samples for passes that look at activations, and for verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The passes, in order.
    pub passes: Vec<StepConfig>,
    /// How the result is compared with the original.
    #[serde(default)]
    pub verify: Verify,
    /// Files to write besides the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// The only version so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version;

/// How the result is compared with the original. What the passes declare is always asked for: bit equality after exact
/// ones, equality within float rounding after those that reassociate. Bounds come on top of that; after lossy passes
/// they are all that is asked for, and without them the figures are only reported.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// Who runs the two models.
    pub engine: EngineChoice,
    /// How many samples, at least; all sizes of `dims` are seen in any case.
    pub samples: u64,
    /// Sizes that random samples take in turn, by the name of a dynamic dim or `INPUT.AXIS`. By default 2 and 3 for the
    /// first axis of an input, 8 and 16 for others, or larger ones if the original does not run with these. `--dim` fixes one size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, Vec<u64>>,
    /// Fail below this cosine, for any output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cosine: Option<f64>,
    /// Fail below this signal to quantization noise ratio in dB, for any output; measured before a Softmax, LogSoftmax, Sigmoid or Tanh
    /// that an output ends with in both models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_sqnr_db: Option<f64>,
    /// Fail below this share of rows with the same largest element, for any output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_agreement: Option<f64>,
    /// Fail above this absolute difference of any element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
}

/// Who runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Tract; ONNX Runtime, if it is installed, for what tract cannot run.
    #[default]
    Auto,
    /// Nobody; nothing is verified.
    Off,
    /// The engine inside planish.
    Tract,
    /// ONNX Runtime, from its shared library.
    Onnxruntime,
}

/// Files to write besides the model.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The report as JSON.
    pub json: PathBuf,
}

impl Default for Verify {
    fn default() -> Verify {
        Verify {
            engine: EngineChoice::Auto,
            samples: 8,
            dims: BTreeMap::new(),
            min_cosine: None,
            min_sqnr_db: None,
            top1_agreement: None,
            max_abs: None,
        }
    }
}

impl Preset {
    /// The text of the pipeline.
    pub const fn text(self) -> &'static str {
        match self {
            Preset::Simplify => include_str!("presets/simplify.yaml"),
            Preset::Optimize => include_str!("presets/optimize.yaml"),
            Preset::Fp16 => include_str!("presets/fp16.yaml"),
            Preset::Int4Weights => include_str!("presets/int4-weights.yaml"),
            Preset::Int8Weights => include_str!("presets/int8-weights.yaml"),
            Preset::OrtCpuInt8Dynamic => include_str!("presets/ort-cpu-int8-dynamic.yaml"),
            Preset::TensorrtFp16 => include_str!("presets/tensorrt-fp16.yaml"),
            Preset::OrtCpuInt8 => include_str!("presets/ort-cpu-int8.yaml"),
            Preset::TensorrtInt8 => include_str!("presets/tensorrt-int8.yaml"),
        }
    }
}

impl Pipeline {
    /// A built-in pipeline.
    pub fn preset(preset: Preset) -> Result<Pipeline> {
        Pipeline::parse(preset.text()).map_err(|e| Failure::message(Kind::Internal, format!("preset {preset:?}: {e}")))
    }

    /// Reads a file. Relative paths in it start from its folder.
    pub fn read(path: &Path) -> Result<Pipeline> {
        let text = std::fs::read_to_string(path)
            .or_fail_with(Kind::Config, || format!("cannot read the pipeline {}", path.display()))?;
        let mut pipeline =
            Pipeline::parse(&text).map_err(|e| Failure::message(Kind::Config, format!("{}: {e}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let from_folder = |p: &mut PathBuf| *p = folder.join(&*p);
        if let Some(c) = &mut pipeline.calibration {
            c.paths().for_each(from_folder);
        }
        pipeline.report.iter_mut().for_each(|r| from_folder(&mut r.json));
        for step in &mut pipeline.passes {
            read_rules(step, folder)?;
        }
        Ok(pipeline)
    }

    /// Parses the text of a pipeline. The message of an error has the line, and a suggestion for an unknown key.
    pub fn parse(text: &str) -> std::result::Result<Pipeline, String> {
        let pipeline: Pipeline = serde_yaml::from_str(text).map_err(|e| explain(&e))?;
        pipeline.calibration.iter().try_for_each(Calibration::check)?;
        pipeline.verify.check()?;
        Ok(pipeline)
    }
}

impl Verify {
    /// True if anything is asked for beyond what the passes declare.
    pub const fn has_bounds(&self) -> bool {
        self.min_cosine.is_some()
            || self.min_sqnr_db.is_some()
            || self.top1_agreement.is_some()
            || self.max_abs.is_some()
    }

    /// Fails if a figure makes no sense; the message names the key.
    fn check(&self) -> std::result::Result<(), String> {
        if self.samples == 0 {
            return Err("verify.samples: at least 1 is needed; `engine: off` verifies nothing".into());
        }
        if let Some((name, _)) = self.dims.iter().find(|(_, sizes)| sizes.is_empty() || sizes.contains(&0)) {
            return Err(format!("verify.dims.{name}: a list of sizes from 1 on is needed, such as [1, 7]"));
        }
        for (key, value, bound) in [
            ("min_cosine", self.min_cosine, bounds::COSINE),
            ("min_sqnr_db", self.min_sqnr_db, bounds::DECIBELS),
            ("top1_agreement", self.top1_agreement, bounds::SHARE),
            ("max_abs", self.max_abs, bounds::DIFFERENCE),
        ] {
            value.map(|x| bound.check(x)).transpose().map_err(|e| format!("verify.{key}: {e}"))?;
        }
        Ok(())
    }
}

/// Puts the text of a rule file beside its name, of which the folder is then left out: where a file lies is of no meaning
/// for the result.
fn read_rules(step: &mut StepConfig, folder: &Path) -> Result {
    let Some(entry) = find("rules").filter(|e| e.name == step.name) else { return Ok(()) };
    let Some(file) = step.config.get("file").and_then(|f| f.as_str()).map(|f| folder.join(f)) else { return Ok(()) };
    if step.config.get("text").is_some() {
        return Err(Failure::message(Kind::Config, "rules: give one of file and text"));
    }
    let text =
        std::fs::read_to_string(&file).or_fail_with(Kind::Config, || format!("cannot read {}", file.display()))?;
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned());
    let config = serde_json::json!({"file": name, "text": text});
    *step = entry.configured(config).map_err(|e| Failure::message(Kind::Config, e))?;
    Ok(())
}

/// serde lists the keys that exist: name the one that was probably meant.
fn explain(error: &serde_yaml::Error) -> String {
    let message = innermost(&error.to_string());
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.contains("unknown field") || message.contains("unknown variant");
    match (is_unknown, quoted.next()) {
        (true, Some(wrong)) if !message.contains("did you mean") => match suggest(wrong, quoted) {
            Some(like) => format!("{message}; did you mean `{like}`?"),
            None => message,
        },
        _ => message,
    }
}

/// Every level of a nested value that is read by itself adds its path in front and its place behind: keep the most
/// precise ones.
fn innermost(message: &str) -> String {
    let mut rest = message;
    while let Some((path, inner)) = rest.split_once(": ") {
        let is_extended = inner.strip_prefix(path).is_some_and(|after| after.starts_with([':', '.', '[']));
        if !is_extended {
            break;
        }
        rest = inner;
    }
    let mut text = rest;
    while let Some(outer) = text.rfind(" at line ").filter(|&at| is_place(&text[at..])) {
        match text[..outer].rfind(" at line ").filter(|&at| is_place(&text[at..outer])) {
            Some(_) => text = &text[..outer],
            None => break,
        }
    }
    text.to_owned()
}

/// True for ` at line 3 column 15`.
fn is_place(text: &str) -> bool {
    let numbers = text.strip_prefix(" at line ").and_then(|t| t.split_once(" column "));
    numbers.is_some_and(|(line, column)| line.parse::<u64>().is_ok() && column.parse::<u64>().is_ok())
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_u64(1)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Version, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Version),
            n => Err(serde::de::Error::custom(format!("version {n} is not known; this planish reads version 1"))),
        }
    }
}

impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"const": 1})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        for preset in Preset::value_variants() {
            Pipeline::preset(*preset).unwrap();
        }
    }

    #[test]
    fn mistakes_are_located_and_corrected() {
        let error = |text: &str| Pipeline::parse(text).unwrap_err();
        insta::assert_snapshot!(error("version: 1\npasses: []\nverfy: {}\n"), @"unknown field `verfy`, expected one of `version`, `target`, `calibration`, `passes`, `verify`, `report` at line 3 column 1; did you mean `verify`?");
        insta::assert_snapshot!(error("version: 1\npasses:\n  - simplfy\n"), @"passes[0]: unknown pass `simplfy`; did you mean `simplify`? at line 3 column 5");
        insta::assert_snapshot!(error("version: 1\npasses:\n  - simplify\n  - fold-constants: {max_bites: 3}\n"), @"passes[1].fold-constants: unknown field `max_bites`, expected `max_bytes` at line 4 column 22; did you mean `max_bytes`?");
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {engine: tracked}\n"), @"verify.engine: unknown variant `tracked`, expected one of `auto`, `off`, `tract`, `onnxruntime` at line 3 column 18; did you mean `tract`?");
        insta::assert_snapshot!(error("version: 2\npasses: []\n"), @"version 2 is not known; this planish reads version 1");
        insta::assert_snapshot!(error("version: 1\npasses: []\ncalibration: {npz: a.npz, random: 3}\n"), @"calibration: give exactly one of npz, npy, images, text and random");
        insta::assert_snapshot!(error("version: 1\npasses: []\ncalibration: {images: {folder: a, resiz: 3}}\n"), @"calibration.images: unknown field `resiz`, expected one of `folder`, `input`, `preprocess`, `resize`, `fit`, `fill`, `multiple`, `crop`, `layout`, `colors`, `interpolation`, `scale`, `mean`, `std` at line 3 column 35; did you mean `resize`?");
        insta::assert_snapshot!(error("version: 1\npasses: []\ncalibration: {images: {folder: a, std: [0]}}\n"), @"calibration.images.std: one finite number other than 0 is needed, or one per channel");
        insta::assert_snapshot!(error("version: 1\npasses: []\ncalibration: {random: 1, memory: lots}\n"), @r#"calibration.memory: "lots" is no amount of memory; write it like 2GB, 512MB or 1.5GiB at line 3 column 34"#);
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {min_cosine: .nan}\n"), @"verify.min_cosine: NaN is no number from -1 to 1");
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {max_abs: -1}\n"), @"verify.max_abs: -1 is no finite number from 0 on");
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {min_sqnr_db: .inf}\n"), @"verify.min_sqnr_db: inf is no finite number");
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {dims: {n: []}}\n"), @"verify.dims.n: a list of sizes from 1 on is needed, such as [1, 7]");
        insta::assert_snapshot!(error("version: 1\npasses: []\nverify: {samples: 0}\n"), @"verify.samples: at least 1 is needed; `engine: off` verifies nothing");
    }

    #[test]
    fn a_pipeline_survives_being_written() {
        let p = Pipeline::parse("version: 1\npasses:\n  - simplify\n  - fold-constants: {max_bytes: 3}\n").unwrap();
        let written = serde_yaml::to_string(&p).unwrap();
        assert_eq!(serde_yaml::to_string(&Pipeline::parse(&written).unwrap()).unwrap(), written);
    }
}
