//! Passes that make one operator of several.

mod bn_into_conv;

pub use bn_into_conv::BnIntoConv;
