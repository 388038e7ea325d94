//! ReverseSequence.
//!
//! Opsets: 10, 28.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};

pub(super) static SPEC: OpSpec = OpSpec::new("ReverseSequence", &[sig(10, 2, 2)], Traits::PURE, same);
