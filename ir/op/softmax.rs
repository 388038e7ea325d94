//! Softmax, LogSoftmax, Hardmax.
//!
//! Opsets: 1 (over all axes from `axis` on), 11 negative axis, 13 (over one axis).
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};

pub(super) static SOFTMAX: OpSpec = OpSpec::new("Softmax", &[sig(1, 1, 1)], Traits::ROUNDING, same);
pub(super) static LOG_SOFTMAX: OpSpec = OpSpec::new("LogSoftmax", &[sig(1, 1, 1)], Traits::ROUNDING, same);
pub(super) static HARDMAX: OpSpec = OpSpec::new("Hardmax", &[sig(1, 1, 1)], Traits::PURE, same);
