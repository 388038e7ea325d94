//! Trilu: the upper or lower triangle.
//!
//! Opsets: 14.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};

pub(super) static SPEC: OpSpec = OpSpec::new("Trilu", &[sig(14, 1, 2)], Traits::PURE, same);
