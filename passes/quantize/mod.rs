//! Passes that store or compute in fewer bits.

mod algorithm;
mod awq;
mod blocks;
mod codebook_weights;
mod dynamic;
mod equalize;
mod fold_scales;
pub mod grid;
mod legalize;
mod low_float_weights;
mod migrate;
mod quantize_weights;
mod smooth_quant;

pub use awq::Awq;
pub use codebook_weights::CodebookWeights;
pub use dynamic::QuantizeDynamic;
pub use equalize::Equalize;
pub use legalize::Legalize;
pub use low_float_weights::{LowFloat, LowFloatWeights};
pub use quantize_weights::QuantizeWeights;
pub use smooth_quant::SmoothQuant;
