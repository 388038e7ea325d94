//! Passes that bring a model into another form that means the same.

mod float16;
mod raise_opset;

pub use float16::Float16;
pub use raise_opset::RaiseOpset;
pub(crate) use raise_opset::keeps_meaning;
