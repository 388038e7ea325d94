//! Costs.
/// MACs of one node.
pub type Rule = fn();
