//! Passes that make one operator of several.

#[cfg(test)]
mod activation_tests;
mod affine;
mod associate_constants;
mod attention;
mod bn_into_conv;
mod fold_affine;
#[expect(clippy::module_inception, reason = "the pass is called as the family")]
mod fuse;
#[cfg(test)]
mod fuse_tests;
mod fused_conv;
mod hard_sigmoid;
mod linear;
mod linear_chain;
mod matmul_add;
mod merge_parallel;
#[cfg(test)]
mod norm_tests;
mod pad_into_window;
mod rotary;
mod scale_into_linear;
#[cfg(test)]
mod transformer_tests;

pub use associate_constants::AssociateConstants;
pub use attention::Attention;
pub use bn_into_conv::BnIntoConv;
pub use fuse::Fuse;
pub use fused_conv::FusedConv;
pub use hard_sigmoid::HardSigmoid;
pub use linear_chain::LinearChain;
pub use matmul_add::MatMulAdd;
pub use merge_parallel::MergeParallel;
pub use pad_into_window::PadIntoWindow;
pub use rotary::RotaryHalves;
pub use scale_into_linear::ScaleIntoLinear;
