//! From a file or from bytes to a message.
//!
//! Weights are slices of what is read, never copies: opening a model of any size takes the memory of its graph alone.
//! Fields that `onnx.proto` does not know are dropped; that is why a newer IR version is refused.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use prost::Message;

use crate::error::{Error, Result};
use crate::limits::NEWEST_IR_VERSION;
use crate::mapped::MappedFile;
use crate::onnx::ModelProto;
use crate::sources::Sources;

/// A model, and the files that its weights are slices of.
#[derive(Debug)]
pub struct Loaded {
    /// As it is in the file; tensors with external data still only name it.
    pub model: ModelProto,
    /// Resolves external data and knows the mapped files.
    pub sources: Sources,
    /// The path it was opened by.
    pub path: PathBuf,
}

/// Map the file at `path` and decode the model in it. External data is not touched before somebody asks `sources` for it.
///
/// # Errors
/// If the file cannot be read or is not a regular one, or the model is not one that [`decode`] accepts.
pub fn open(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    let file = MappedFile::open(path)?;
    file.expect_hops(true);
    let decoded = decode_from(file.bytes(), &path.display().to_string());
    file.expect_hops(false);
    // The system maps neighbours of every page that was looked at; by now nobody needs them.
    file.release(0..file.size());
    Ok(Loaded { model: decoded?, sources: Sources::of_model(path, file), path: path.to_owned() })
}

/// Decode a model. Its `bytes` fields are slices of `bytes`.
///
/// # Errors
/// If the bytes are empty, truncated, malformed, nested more than 100 messages deep, without a graph, or of a newer IR version
/// than [`NEWEST_IR_VERSION`]. A missing or old IR version passes.
pub fn decode(bytes: Bytes) -> Result<ModelProto> {
    decode_from(bytes, "the given bytes")
}

fn decode_from(mut bytes: Bytes, origin: &str) -> Result<ModelProto> {
    if bytes.is_empty() {
        return Err(Error::Empty { origin: origin.to_owned() });
    }
    let start = bytes.clone();
    // Lent, not given: what is left over tells how far decoding came.
    let model = ModelProto::decode(&mut bytes).map_err(|error| {
        let text = error.to_string();
        let detail = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text).to_owned();
        let offset = start.len().saturating_sub(bytes.remaining()) as u64;
        Error::Decode {
            origin: origin.to_owned(),
            hint: hint(&start, &detail),
            detail,
            offset,
            size: start.len() as u64,
        }
    })?;
    if model.graph.is_none() {
        return Err(Error::NoGraph { origin: origin.to_owned() });
    }
    if model.ir_version() > NEWEST_IR_VERSION {
        return Err(Error::NewerIrVersion { origin: origin.to_owned(), version: model.ir_version() });
    }
    Ok(model)
}

/// What probably happened to bytes that do not decode.
fn hint(bytes: &[u8], detail: &str) -> &'static str {
    if bytes.starts_with(b"version https://git-lfs") {
        ": this is a Git LFS pointer, fetch the file itself with `git lfs pull`"
    } else if detail.ends_with("buffer underflow") || detail.ends_with("delimited length exceeded") {
        ": the file is truncated or damaged"
    } else if detail.ends_with("recursion limit reached") {
        ": it is nested more than 100 messages deep"
    } else {
        ""
    }
}
