//! ArgMax and ArgMin.
//!
//! Opsets: 1, 11 negative axis, 12 `select_last_index`, 13.
//!
//! Shape rule: int64; the axis becomes 1, or vanishes with `keepdims` = 0.

use super::{OpSpec, Traits, reduce::reduced, sig};
use crate::axes::{Port::In, Spelling, Why};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static MAX: OpSpec = OpSpec::new("ArgMax", &[sig(1, 1, 1)], Traits::PURE, infer).axes(axes);
pub(super) static MIN: OpSpec = OpSpec::new("ArgMin", &[sig(1, 1, 1)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![Fact::tensor(Some(DType::I64), None)]) };
    let at = call.axis("axis", 0, input.len())?;
    let mut shape = input.to_vec();
    if call.flag("keepdims", true) {
        if let Some(d) = shape.get_mut(at) {
            *d = Dim::Known(1);
        }
    } else {
        shape.remove(at);
    }
    Ok(vec![Fact::tensor(Some(DType::I64), Some(shape))])
}

/// `0[a,b!] -> 0[a,1]`: the results are places along the axis.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", 0, rank).map_err(|_| "its axis does not exist")?;
    s.whole(In(0), at, "the results are places along it")?;
    reduced(s, &[at], s.call.flag("keepdims", true))
}
