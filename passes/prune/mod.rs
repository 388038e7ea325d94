//! Structured pruning: channels that are coupled go together.

mod allocate;
mod cut;
mod eliminate;
mod fitting;
#[expect(clippy::module_inception, reason = "a pass has a file of its name")]
mod prune;
mod units;

pub(crate) use cut::masks;
pub use cut::{CutError, Refit, cut};
pub use prune::Prune;
pub use units::{Prunable, Unit, prunable};

#[cfg(test)]
mod tests;
