//! CumSum and CumProd.
//!
//! Opsets: CumSum 11, 14; CumProd 26.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};

pub(super) static PROD: OpSpec = OpSpec::new("CumProd", &[sig(26, 2, 2)], Traits::ROUNDING, same);
pub(super) static SUM: OpSpec = OpSpec::new("CumSum", &[sig(11, 2, 2)], Traits::ROUNDING, same);
