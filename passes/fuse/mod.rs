//! Passes that make one operator of several.

mod affine;
mod bn_into_conv;
mod fold_affine;
mod hard_sigmoid;
mod linear;
mod matmul_add;
mod pad_into_window;
mod scale_into_linear;

pub use bn_into_conv::BnIntoConv;
pub use hard_sigmoid::HardSigmoid;
pub use matmul_add::MatMulAdd;
pub use pad_into_window::PadIntoWindow;
pub use scale_into_linear::ScaleIntoLinear;
