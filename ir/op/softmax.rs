//! Softmax, LogSoftmax, Hardmax.
//!
//! Opsets: 1 (over all axes from `axis` on), 11 negative axis, 13 (over one axis).
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};

pub(super) static SOFTMAX: OpSpec = OpSpec::new("Softmax", &[sig(1, 1, 1)], Traits::ROUNDING, same).axes(axes);
pub(super) static LOG_SOFTMAX: OpSpec = OpSpec::new("LogSoftmax", &[sig(1, 1, 1)], Traits::ROUNDING, same).axes(axes);
pub(super) static HARDMAX: OpSpec = OpSpec::new("Hardmax", &[sig(1, 1, 1)], Traits::PURE, same).axes(axes);

/// `0[a,b~] -> 0[a,b~]`; before opset 13 all axes from `axis` on are mixed.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let whole = s.call.opset < 13;
    let at = s.call.axis("axis", if whole { 1 } else { -1 }, rank).map_err(|_| "its axis does not exist")?;
    let mixed = |a: usize| a == at || (whole && a > at);
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| !mixed(a)), Role::Free)?;
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| mixed(a)), Role::Mixed)
}
