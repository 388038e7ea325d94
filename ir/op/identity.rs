//! Identity.
//!
//! Opsets: 1, 13, 14 sequences, 16 optionals, 19 to 25 more types.
//!
//! Shape rule: the input as it is.

use super::{OpSpec, Traits, sig};

pub(super) static SPEC: OpSpec =
    OpSpec::new("Identity", &[sig(1, 1, 1)], Traits::ELEMENTWISE, |c| Ok(vec![c.fact(0).clone()]));
