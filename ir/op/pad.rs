//! Pad.
//!
//! Opsets: 1 (`paddings`), 2 (`pads` is an attribute), 11 (an input), 13, 18 `axes`, 19 mode `wrap`, 21 to 25 more types.
//!
//! Shape rule: each axis grows by its pads, which are listed for all beginnings and then for all ends; negative ones cut.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Pad", &[sig(1, 1, 1), sig(11, 2, 3), sig(18, 2, 4)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let open = || Ok(vec![call.like(0, Some(vec![Dim::Unknown; input.len()]))]);
    let axes: Vec<usize> = match (call.has(3), call.ints(3)) {
        (true, Some(axes)) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_, _>>()?,
        (true, None) => return open(),
        (false, _) => (0..input.len()).collect(),
    };
    let attr = || {
        let list = call.attrs().ints(if call.opset < 2 { "paddings" } else { "pads" })?;
        Some(list.iter().map(|&n| Num::Int(n)).collect())
    };
    let pads: Option<Vec<Num>> = if call.opset < 11 { attr() } else { call.elements(1).map(<[_]>::to_vec) };
    let Some(pads) = pads else { return open() };
    if pads.len() != axes.len().saturating_mul(2) {
        return Err(format!("it is given {} pads for {} axes", pads.len(), axes.len()));
    }
    let mut shape = input.to_vec();
    let (before, after) = pads.split_at(axes.len());
    for ((&at, b), a) in axes.iter().zip(before).zip(after) {
        if let Some(d) = shape.get_mut(at) {
            *d = Num::from_dim(d).add(b).add(a).dim();
        }
    }
    Ok(vec![call.like(0, Some(shape))])
}
