//! ReverseSequence.
//!
//! Opsets: 10, 28.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};

pub(super) static SPEC: OpSpec = OpSpec::new("ReverseSequence", &[sig(10, 2, 2)], Traits::PURE, same).axes(axes);

/// `0[t!,n,a] 1[n] -> 0[t!,n,a]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let batch = s.call.axis("batch_axis", 1, rank).map_err(|_| "its axes do not exist")?;
    let time = s.call.axis("time_axis", 0, rank).map_err(|_| "its axes do not exist")?;
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| a != batch && a != time), Role::Free)?;
    same_axes(s, &[In(0), Out(0)], [time], Role::Whole("it is reversed"))?;
    s.tie(&[(In(0), batch), (In(1), 0), (Out(0), batch)], Role::Free).map(|_| ())
}
