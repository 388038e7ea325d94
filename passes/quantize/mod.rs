//! Passes that store or compute in fewer bits.

mod equalize;
mod fold_scales;
mod dynamic;
mod int8_weights;
mod legalize;
mod per_channel;

pub use equalize::Equalize;
pub use dynamic::QuantizeDynamic;
pub use int8_weights::Int8Weights;
pub use legalize::Legalize;
