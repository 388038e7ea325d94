//! The parts of static quantization: what can compute with codes ([`unit`]), what does ([`place`]), on which grids
//! ([`grids`], [`weights`], `compensate`), how it is written ([`emit`], and for any assignment [`draft`]), what the runtime makes of it
//! ([`predict`]), and which products have to stay in higher precision ([`sensitivity`] over what [`auto`] runs, held to a [`bound`]).

pub(crate) mod auto;
pub(crate) mod bound;
mod compensate;
pub(crate) mod draft;
pub(crate) mod emit;
pub(crate) mod grids;
pub(crate) mod judged;
pub(crate) mod place;
pub(crate) mod predict;
pub(crate) mod sensitivity;
pub(crate) mod unit;
pub(crate) mod weights;
