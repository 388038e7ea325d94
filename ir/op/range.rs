//! Range.
//!
//! Opsets: 11, 27.
//!
//! Shape rule: a vector with `max(0, ceil((limit - start) / delta))` elements.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, MAX_ELEMENTS, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Range", &[sig(11, 3, 3)], Traits::ROUNDING, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let single = |slot: usize| match call.elements(slot) {
        Some([n]) => n.clone(),
        _ => Num::Unknown,
    };
    let (start, limit, delta) = (single(0), single(1), single(2));
    let size = match (&start, &limit, &delta) {
        (_, _, Num::Int(0)) => return Err("delta is 0".into()),
        (Num::Int(a), Num::Int(b), Num::Int(d)) => count(*a, *b, *d).map_or(Dim::Unknown, Dim::Known),
        (Num::Float(_), Num::Float(_), Num::Float(d)) => {
            // Runtimes subtract in the element type and divide in double precision.
            let span = call.dtype(0).map_or(Num::Unknown, |t| limit.sub(&start).fit(t));
            match span.float().map(|s| (s / d).ceil()) {
                Some(n) if n < 2f64.powi(32) => Dim::Known(n.max(0.0) as u64),
                _ => Dim::Unknown,
            }
        }
        (_, _, Num::Int(1)) => limit.sub(&start).dim(),
        _ => Dim::Unknown,
    };
    let elements = match (&start, &delta, size.known()) {
        (Num::Int(a), Num::Int(d), Some(n)) if n <= MAX_ELEMENTS => {
            let at = |i: i64| d.checked_mul(i).and_then(|o| a.checked_add(o)).map_or(Num::Unknown, Num::Int);
            Some((0..n as i64).map(at).collect::<Vec<_>>())
        }
        _ => None,
    };
    Ok(vec![call.like(0, Some(vec![size])).with(elements)])
}

/// Number of steps from `a` to `b`; `None` if it overflows.
fn count(a: i64, b: i64, step: i64) -> Option<u64> {
    let span = if step > 0 { b.checked_sub(a)? } else { a.checked_sub(b)? };
    Some(u64::try_from(span).map_or(0, |s| s.div_ceil(step.unsigned_abs())))
}
