//! Shape and type inference over the operator table.
/// Infers output types of one node.
pub type Rule = fn();
