//! ONNX messages to and from the IR.

mod export;
mod import;
mod tensor;
mod types;

pub use export::{export, export_tensor, export_with_types};
pub use import::{ImportError, MAX_DEPTH, Problem, import};
pub use tensor::import_tensor;

use planish_proto::onnx;

use crate::Metadata;

/// What is wrong with a tensor or type message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A code that is 0 or from a newer version of ONNX.
    #[error("its element type has the code {0}, which ONNX up to IR version 13 does not define")]
    ElementType(i32),
    /// A negative size in a tensor that holds data.
    #[error("its dims {0:?} contain a negative size")]
    NegativeDim(Vec<i64>),
    /// Data in more than one field, or in a field that its type does not use.
    #[error("its data is not in one field that its element type allows")]
    Data,
    /// A number that does not fit the element type.
    #[error("the number {value} does not fit {dtype}")]
    Range {
        /// As in the file.
        value: i64,
        /// Element type.
        dtype: crate::DType,
    },
    /// Segmented tensors, which no known tool writes.
    #[error("it is segmented, which is not supported")]
    Segmented,
    /// Data and dims disagree.
    #[error(transparent)]
    Tensor(#[from] crate::TensorError),
    /// The weights beside the model cannot be read.
    #[error("its external data cannot be read: {0}")]
    External(Box<dyn std::error::Error + Send + Sync>),
    /// A type message without content, or an opaque type.
    #[error("its type is missing or opaque")]
    Type,
    /// An attribute whose type and content disagree.
    #[error("the attribute {0:?} has no value of the type that it declares")]
    Attribute(String),
}

/// Hands out the bytes of a tensor that is stored beside the model.
pub type External<'a> =
    dyn Fn(&onnx::TensorProto) -> Result<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>> + 'a;

fn metadata_in(entries: Vec<onnx::StringStringEntryProto>) -> Metadata {
    entries.into_iter().map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default())).collect()
}

fn metadata_out(metadata: &Metadata) -> Vec<onnx::StringStringEntryProto> {
    let entry =
        |(k, v): (&String, &String)| onnx::StringStringEntryProto { key: Some(k.clone()), value: Some(v.clone()) };
    metadata.iter().map(entry).collect()
}

fn text_out(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}
