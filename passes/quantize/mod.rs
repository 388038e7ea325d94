//! Passes that store or compute in fewer bits.

mod awq;
mod equalize;
mod fold_scales;
mod dynamic;
mod int8_weights;
mod legalize;
mod migrate;
mod per_channel;
mod smooth_quant;

pub use awq::Awq;
pub use equalize::Equalize;
pub use dynamic::QuantizeDynamic;
pub use int8_weights::Int8Weights;
pub use legalize::Legalize;
pub use smooth_quant::SmoothQuant;
mod algorithm;
mod blocks;
mod codebook_weights;
mod quantize_weights;

pub use codebook_weights::CodebookWeights;
pub use quantize_weights::QuantizeWeights;
