//! OneHot.
//!
//! Opsets: 9, 11, 28.
//!
//! Shape rule: the indices' shape with a new axis of length `depth` (input 1) at `axis`; the type of the two values.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new("OneHot", &[sig(9, 3, 3)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(indices) = call.shape(0) else { return Ok(vec![call.like(2, None)]) };
    let depth = match call.elements(1) {
        // A float is allowed and stands for its integer part.
        Some([Num::Float(x)]) if *x >= 0.0 && *x < 2f64.powi(32) => Dim::Known(*x as u64),
        Some([n]) => n.dim(),
        _ => Dim::Unknown,
    };
    let at = axis(call.int("axis", -1), indices.len() + 1)?;
    let mut shape = indices.to_vec();
    shape.insert(at, depth);
    Ok(vec![call.like(2, Some(shape))])
}

/// `0[a] -> 0[a,b!]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(Out(0))?.len();
    let at = axis(s.call.int("axis", -1), rank).map_err(|_| "its axis does not exist")?;
    s.whole(Out(0), at, "the indices are places along it")?;
    let kept = (0..rank).filter(|&a| a != at);
    kept.enumerate().try_for_each(|(from, to)| s.tie(&[(In(0), from), (Out(0), to)], Role::Free).map(|_| ()))
}
