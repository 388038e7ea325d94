//! Passes that store or compute in fewer bits.

mod algorithm;
mod awq;
mod bias_correction;
mod blocks;
pub mod clipping;
mod codebook_weights;
mod dynamic;
mod equalize;
mod fold_scales;
pub mod grid;
mod legalize;
mod low_float_weights;
mod migrate;
mod operands;
mod qoperator;
#[expect(clippy::module_inception, reason = "the pass is called as the folder of its kind")]
mod quantize;
mod quantize_weights;
mod smooth_quant;
mod static_;

pub use algorithm::Algorithm;
pub use awq::Awq;
pub use bias_correction::BiasCorrection;
pub use codebook_weights::CodebookWeights;
pub use dynamic::QuantizeDynamic;
pub use equalize::Equalize;
pub use legalize::Legalize;
pub use low_float_weights::{LowFloat, LowFloatWeights};
pub use qoperator::Qoperator;
pub(crate) use quantize::Site;
pub use quantize::{BiasType, Choice, Quantize, Scheme, Sensitivity, WeightRounding};
pub use quantize_weights::QuantizeWeights;
pub use smooth_quant::SmoothQuant;
pub use static_::weights::ReduceRange;
