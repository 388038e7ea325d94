//! Passes that bring a model into another form that means the same.

mod bfloat16;
mod float16;
mod half;
mod raise_opset;
mod sparse_initializers;

pub use bfloat16::Bfloat16;
pub use float16::Float16;
pub use half::InterfaceTypes;
pub use raise_opset::RaiseOpset;
pub(crate) use raise_opset::keeps_meaning;
pub use sparse_initializers::SparseInitializers;
