//! Structured pruning: channels that are coupled go together.

mod cut;
mod units;

pub use cut::{CutError, cut};
pub use units::{Prunable, Unit, prunable};

#[cfg(test)]
mod tests;
