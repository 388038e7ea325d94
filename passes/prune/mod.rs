//! Structured pruning: channels that are coupled go together.

mod allocate;
mod criterion;
mod cut;
mod drop_layers;
mod eliminate;
mod fitting;
mod groups;
mod latency;
mod moments;
mod normalized;
#[expect(clippy::module_inception, reason = "a pass has a file of its name")]
mod prune;
mod search;
mod sparsify;
mod turned;
mod units;

pub use criterion::Criterion;
pub(crate) use cut::masks;
pub use cut::{CutError, Refit, cut};
pub use drop_layers::DropLayers;
pub use groups::Kind;
pub use prune::Prune;
pub use sparsify::{Method, Pattern, Sparsify};
pub use units::{Prunable, Unit, prunable};

pub use crate::reconstruct::unshare;

#[cfg(test)]
mod tests;
