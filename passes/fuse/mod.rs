//! Passes that make one operator of several.

mod affine;
mod bn_into_conv;
mod fold_affine;
mod linear;
mod scale_into_linear;

pub use bn_into_conv::BnIntoConv;
pub use scale_into_linear::ScaleIntoLinear;
