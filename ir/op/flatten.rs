//! Flatten.
//!
//! Opsets: 1, 9, 11 negative axis, 13, 21 to 25 more types.
//!
//! Shape rule: a matrix; its rows are the axes before `axis`, its columns the others.

use super::{OpSpec, Traits, sig};
use crate::axes;
use crate::{
    Dim,
    infer::{Call, Outcome, axis, shape::volume},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Flatten", &[sig(1, 1, 1)], Traits::PURE, infer).axes(axes::reshape);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, Some(vec![Dim::Unknown, Dim::Unknown]))]) };
    // The axis may also be the rank: everything is rows.
    let at = match call.int("axis", 1) {
        a if usize::try_from(a) == Ok(input.len()) => input.len(),
        a => axis(a, input.len())?,
    };
    let (rows, columns) = input.split_at(at);
    Ok(vec![call.like(0, Some(vec![volume(rows), volume(columns)]))])
}
