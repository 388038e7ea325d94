//! Shape and Size: sizes of a tensor as numbers.
//!
//! Opsets: Shape 1, 13, 15 `start` and `end`, 19 to 25 more types; Size 1, 13, 19 to 25.
//!
//! Shape rule: Shape gives an int64 vector with one element per axis (between `start` and `end`), Size an int64 scalar.

use super::{OpSpec, Traits, sig};
use crate::axes::{Port::In, Role, Spelling, Why};
use crate::{
    DType, Dim,
    infer::{
        Call, Fact, Num, Outcome,
        shape::{numbers, volume},
    },
};

pub(super) static SHAPE: OpSpec =
    OpSpec::new("Shape", &[sig(1, 1, 1)], Traits::PURE, infer_shape).axes(|s| axes(s, true)).reads(crate::cost::none);
pub(super) static SIZE: OpSpec = OpSpec::new("Size", &[sig(1, 1, 1)], Traits::PURE, |call| {
    let elements = call.shape(0).map(|s| vec![Num::from_dim(&volume(s))]);
    Ok(vec![Fact::scalar(DType::I64).with(elements)])
})
.axes(|s| axes(s, false))
.reads(crate::cost::none);

fn infer_shape(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else {
        return Ok(vec![Fact::tensor(Some(DType::I64), Some(vec![Dim::Unknown]))]);
    };
    let (start, end) = bounds(call, input.len());
    let part = input.get(start..end).unwrap_or(&[]);
    let fact = Fact::tensor(Some(DType::I64), Some(vec![Dim::Known(part.len() as u64)]));
    Ok(vec![fact.with(Some(numbers(part)))])
}

/// The first axis that is listed, and the first one that is not any more.
fn bounds(call: &Call<'_>, rank: usize) -> (usize, usize) {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    // Out of range is allowed and clamped.
    let place = |name: &str, default: i64| {
        let i = call.int(name, default);
        let i = if i < 0 { i.saturating_add(signed) } else { i };
        usize::try_from(i.clamp(0, signed)).unwrap_or(0)
    };
    (place("start", 0), place("end", signed))
}

/// `0[a~,b] -> 0[c!]`: the result depends on how long an axis is.
fn axes(s: &mut Spelling<'_>, listed: bool) -> Result<(), Why> {
    let input = s.shape(In(0))?;
    let (start, end) = if listed { bounds(s.call, input.len()) } else { (0, input.len()) };
    for axis in 0..input.len() {
        let read = (start..end).contains(&axis);
        s.tie(&[(In(0), axis)], if read { Role::Mixed } else { Role::Free })?;
    }
    Ok(())
}
