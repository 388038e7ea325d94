//! GlobalAveragePool, GlobalLpPool, GlobalMaxPool.
//!
//! Opsets: 1, 22 (GlobalLpPool also 2).
//!
//! Shape rule: every spatial axis becomes 1.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim,
    infer::{Call, Outcome},
};

pub(super) static AVERAGE: OpSpec =
    OpSpec::new("GlobalAveragePool", &[sig(1, 1, 1)], Traits::ROUNDING, infer).axes(|s| axes(s, Role::Mixed));
pub(super) static LP: OpSpec =
    OpSpec::new("GlobalLpPool", &[sig(1, 1, 1)], Traits::ROUNDING, infer).axes(|s| axes(s, Role::Summed));
pub(super) static MAX: OpSpec =
    OpSpec::new("GlobalMaxPool", &[sig(1, 1, 1)], Traits::PURE, infer).axes(|s| axes(s, Role::Mixed));

fn infer(call: &Call<'_>) -> Outcome {
    let shape = call
        .shape(0)
        .map(|x| x.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::Known(1) }).collect());
    Ok(vec![call.like(0, shape)])
}

/// `0[n,c,h~] -> 0[n,c,1]`.
fn axes(s: &mut Spelling<'_>, role: Role) -> Result<(), Why> {
    same_axes(s, &[In(0), Out(0)], 0..2, Role::Free)?;
    for axis in 2..s.shape(In(0))?.len() {
        s.tie(&[(In(0), axis)], role)?;
        s.spell(Out(0), axis, &[]);
    }
    Ok(())
}
