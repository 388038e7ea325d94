//! OneHot.
//!
//! Opsets: 9, 11, 28.
//!
//! Shape rule: the indices' shape with a new axis of length `depth` (input 1) at `axis`; the type of the two values.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new("OneHot", &[sig(9, 3, 3)], Traits::PURE, infer);

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
