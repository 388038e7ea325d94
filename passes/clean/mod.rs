//! Passes that remove what a model does not need.

mod broadcasts;
mod casts;
mod constants;
mod cse;
mod dead_code;
mod dedup;
mod fold;
mod hoists;
mod no_ops;
pub(crate) mod operands;
mod requantize;
mod reshape_chains;
mod shape_values;
mod simplify;
mod slices;
mod transpose_chains;

pub use broadcasts::Broadcasts;
pub use casts::Casts;
pub use constants::ConstantsToInitializers;
pub(crate) use constants::constant_of;
pub use cse::Cse;
pub(crate) use cse::attrs_key;
pub use dead_code::DeadCode;
pub use dedup::DedupInitializers;
pub use fold::FoldConstants;
pub use hoists::Hoists;
pub use no_ops::NoOps;
pub use requantize::Requantize;
pub use reshape_chains::ReshapeChains;
pub use shape_values::ShapeValues;
pub use simplify::Simplify;
pub use slices::Slices;
pub use transpose_chains::TransposeChains;
