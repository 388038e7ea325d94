//! The parts of static quantization: what can compute with codes ([`unit`]), what does ([`place`]), on which grids
//! ([`grids`], [`weights`]), how it is written ([`emit`]), and what the runtime makes of it ([`predict`]).

pub(crate) mod emit;
pub(crate) mod grids;
pub(crate) mod place;
pub(crate) mod predict;
pub(crate) mod unit;
pub(crate) mod weights;
