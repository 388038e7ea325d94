//! From a file or from bytes to a message.
//!
//! Weights are slices of what is read, and are not looked at: opening a model of any size takes the memory of its graph alone.
//! Fields that `onnx.proto` does not know are dropped; that is why a newer IR version is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::{DecodeError, Message};

use crate::error::{Error, Result};
use crate::limits::NEWEST_IR_VERSION;
use crate::mapped::MappedFile;
use crate::onnx::ModelProto;
use crate::sources::Sources;
use crate::window::Window;

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

/// Map the file at `path` and decode the model in it. Fields of 4 KiB and more are slices of the mapping. External data is not touched before somebody asks `sources` for it.
///
/// # Errors
/// If the file cannot be read or is not a regular one, or the model is not one that [`decode`] accepts.
pub fn open(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    let file = MappedFile::open(path)?;
    let origin = path.display().to_string();
    let mut window = Window::new(Arc::clone(&file));
    let start = Bytes::copy_from_slice(window.chunk());
    let decoded = ModelProto::decode(&mut window);
    let (offset, state) = window.finish();
    state.map_err(Error::io("read", path))?;
    let model = check(decoded, &Input { origin, start: &start, offset: offset as u64, size: file.size() })?;
    Ok(Loaded { model, sources: Sources::of_model(path, file), path: path.to_owned() })
}

/// Decode a model. Its `bytes` fields are slices of `bytes`.
///
/// # Errors
/// If the bytes are empty, truncated, malformed, nested more than 100 messages deep, without a graph, or of a newer IR version
/// than [`NEWEST_IR_VERSION`]. A missing or old IR version passes.
pub fn decode(mut bytes: Bytes) -> Result<ModelProto> {
    let start = bytes.clone();
    // Lent, not given: what is left over tells how far decoding came.
    let decoded = ModelProto::decode(&mut bytes);
    let (size, offset) = (start.len() as u64, start.len().saturating_sub(bytes.len()) as u64);
    check(decoded, &Input { origin: "the given bytes".to_owned(), start: &start, offset, size })
}

/// What was decoded, for messages.
struct Input<'a> {
    origin: String,
    /// A few bytes at least, as far as there are any.
    start: &'a [u8],
    /// How far decoding came.
    offset: u64,
    size: u64,
}

fn check(decoded: std::result::Result<ModelProto, DecodeError>, input: &Input<'_>) -> Result<ModelProto> {
    let origin = input.origin.clone();
    if input.size == 0 {
        return Err(Error::Empty { origin });
    }
    let model = decoded.map_err(|error| {
        let text = error.to_string();
        let detail = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text).to_owned();
        let hint = hint(input.start, &detail);
        Error::Decode { origin: origin.clone(), detail, offset: input.offset, size: input.size, hint }
    })?;
    if model.graph.is_none() {
        return Err(Error::NoGraph { origin });
    }
    if model.ir_version() > NEWEST_IR_VERSION {
        return Err(Error::NewerIrVersion { origin, version: model.ir_version() });
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
