//! Models on disk: opened, checked, hashed, written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use planish_ir::{Model, Tensor, onnx, text, verify};
use planish_passes::{Weights, part};
use planish_proto::{External, Late, MappedFile, SaveOptions, Sources, Written};

use crate::{
    cli::ExternalData,
    failure::{Kind, OrFail, Result},
};

/// A model and the files that its weights are slices of.
pub struct ModelFile {
    /// The model, verified.
    pub model: Model,
    /// Knows where the weights come from.
    pub sources: Sources,
    /// Where it was read from.
    pub path: PathBuf,
}

impl ModelFile {
    /// Opens, imports and verifies a model. No weight is read. A file that is named `.onnxtxt` is one in ONNX's textual syntax;
    /// weights that it leaves out are drawn from a generator seeded by their names.
    pub fn open(path: &Path) -> Result<ModelFile> {
        let context = || format!("cannot read the model {}", path.display());
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnxtxt")) {
            let text = std::fs::read_to_string(path).or_fail_with(Kind::File, context)?;
            let model = text::parse(&text).or_fail_with(Kind::File, context)?;
            verify(&model).or_fail_with(Kind::File, context)?;
            let sources = Sources::of_model(path, MappedFile::open(path).or_fail(Kind::File)?);
            return Ok(ModelFile { model, sources, path: path.to_owned() });
        }
        let loaded = planish_proto::open(path).or_fail(Kind::File)?;
        let external = |t: &planish_proto::onnx::TensorProto| Ok(loaded.sources.external(t)?);
        let model = onnx::import(loaded.model, &external).or_fail_with(Kind::File, context)?;
        verify(&model).or_fail_with(Kind::File, context)?;
        Ok(ModelFile { model, sources: loaded.sources, path: loaded.path })
    }

    /// The files that the model was read from, its own first. Importing has looked at every weight, so none is missing.
    pub fn files(&self) -> Vec<Arc<MappedFile>> {
        self.sources.files()
    }
}

/// Through the file, so that nothing stays resident.
impl Weights for ModelFile {
    fn read(&self, tensor: &Tensor, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.sources.read_into(part(tensor, offset, buffer.len())?, buffer)
    }

    fn release(&self, bytes: &[u8]) {
        self.sources.release(bytes);
    }
}

/// BLAKE3 of a file, as `b3sum` prints it.
pub fn hash_file(path: &Path) -> Result<String> {
    Ok(hash(&*MappedFile::open(path).or_fail(Kind::File)?))
}

/// BLAKE3 of a mapped file.
pub fn hash(file: &MappedFile) -> String {
    let mut hasher = blake3::Hasher::new();
    file.scan(|piece| {
        hasher.update_rayon(piece);
    });
    hasher.finalize().to_hex().to_string()
}

/// The name of a data file beside the model at `path`, by what determines its content.
pub fn data_name(path: &Path, identity: &str) -> String {
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let digest = blake3::hash(identity.as_bytes()).to_hex();
    format!("{stem}.{}.data", &digest[..12])
}

/// Verifies a model and writes it in one step: whatever happens, the old file or the new one is there.
///
/// A data file beside it is named by `late`, or by its content.
pub fn save(
    model: &Model,
    sources: &Sources,
    path: &Path,
    external: ExternalData,
    sync: bool,
    late: Option<Late<'_>>,
) -> Result<Written> {
    let verified = verify(model).or_fail(Kind::Internal)?;
    let message = onnx::export(&verified);
    let options = SaveOptions {
        external: match external {
            ExternalData::Auto => External::Auto,
            ExternalData::Always => External::Always,
            ExternalData::Never => External::Never,
        },
        sync,
        ..SaveOptions::default()
    };
    planish_proto::save_with(message, sources, path, &options, late).or_fail(Kind::File)
}
