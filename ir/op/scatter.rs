//! Scatter, ScatterElements, ScatterND, TensorScatter.
//!
//! Opsets: Scatter 9, 11 (deprecated); ScatterElements and ScatterND 11, 13, 16 `reduction`, 18; TensorScatter 24.
//!
//! Shape rule: that of the data.

use super::{OpSpec, Traits, sig, unary::same};

/// With a reduction, the order in which duplicate indices are added up is free.
const TRAITS: Traits = Traits::ROUNDING;

pub(super) static SCATTER: OpSpec = OpSpec::new("Scatter", &[sig(9, 3, 3)], Traits::PURE, same);
pub(super) static ELEMENTS: OpSpec = OpSpec::new("ScatterElements", &[sig(11, 3, 3)], TRAITS, same);
pub(super) static ND: OpSpec = OpSpec::new("ScatterND", &[sig(11, 3, 3)], TRAITS, same);
pub(super) static TENSOR: OpSpec = OpSpec::new("TensorScatter", &[sig(24, 2, 3)], Traits::PURE, same);
