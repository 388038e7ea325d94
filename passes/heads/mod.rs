//! The channels of attention heads: which of them go together, and the bases in which the last of them matter least.

mod basis;
mod find;
mod product;
mod turn;

pub(crate) use find::{Asked, Unit, units};
pub(crate) use product::Kind;
pub(crate) use turn::{Bases, ROUNDING, Turning, lost};
