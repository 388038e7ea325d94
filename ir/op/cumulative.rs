//! CumSum and CumProd.
//!
//! Opsets: CumSum 11, 14; CumProd 26.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};

pub(super) static PROD: OpSpec = OpSpec::new("CumProd", &[sig(26, 2, 2)], Traits::ROUNDING, same).axes(axes);
pub(super) static SUM: OpSpec = OpSpec::new("CumSum", &[sig(11, 2, 2)], Traits::ROUNDING, same).axes(axes);

/// `0[a,b~] -> 0[a,b~]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.ints(1).and_then(|a| crate::infer::axis(*a.first()?, rank).ok()).ok_or("its axis is not known")?;
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| a != at), Role::Free)?;
    same_axes(s, &[In(0), Out(0)], [at], Role::Mixed)
}
