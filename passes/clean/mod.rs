//! Passes that remove what a model does not need.

mod constants;
mod cse;
mod dead_code;
mod dedup;
mod fold;
mod no_ops;
mod simplify;

pub use constants::ConstantsToInitializers;
pub(crate) use constants::constant_of;
pub use cse::Cse;
pub use dead_code::DeadCode;
pub use dedup::DedupInitializers;
pub use fold::FoldConstants;
pub use no_ops::NoOps;
pub use simplify::Simplify;
