//! Passes that take apart what nodes contain: subgraphs, functions, sequences.

mod hand_over;
mod inline_functions;
mod inline_if;
mod inline_loop;
mod local_constants;
mod sequences;
mod trim_subgraphs;

pub use inline_functions::InlineFunctions;
pub use inline_if::InlineIf;
pub use inline_loop::InlineLoop;
pub use local_constants::LocalConstants;
pub use sequences::Sequences;
pub use trim_subgraphs::TrimSubgraphs;
