//! Shape and Size: sizes of a tensor as numbers.
//!
//! Opsets: Shape 1, 13, 15 `start` and `end`, 19 to 25 more types; Size 1, 13, 19 to 25.
//!
//! Shape rule: Shape gives an int64 vector with one element per axis (between `start` and `end`), Size an int64 scalar.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{
        Call, Fact, Num, Outcome,
        shape::{numbers, volume},
    },
};

pub(super) static SHAPE: OpSpec = OpSpec::new("Shape", &[sig(1, 1, 1)], Traits::PURE, infer_shape);
pub(super) static SIZE: OpSpec = OpSpec::new("Size", &[sig(1, 1, 1)], Traits::PURE, |call| {
    let elements = call.shape(0).map(|s| vec![Num::from_dim(&volume(s))]);
    Ok(vec![Fact::scalar(DType::I64).with(elements)])
});

fn infer_shape(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else {
        return Ok(vec![Fact::tensor(Some(DType::I64), Some(vec![Dim::Unknown]))]);
    };
    let rank = i64::try_from(input.len()).unwrap_or(i64::MAX);
    // Out of range is allowed and clamped.
    let place = |name: &str, default: i64| {
        let i = call.int(name, default);
        let i = if i < 0 { i.saturating_add(rank) } else { i };
        usize::try_from(i.clamp(0, rank)).unwrap_or(0)
    };
    let part = input.get(place("start", 0)..place("end", rank)).unwrap_or(&[]);
    let fact = Fact::tensor(Some(DType::I64), Some(vec![Dim::Known(part.len() as u64)]));
    Ok(vec![fact.with(Some(numbers(part)))])
}
