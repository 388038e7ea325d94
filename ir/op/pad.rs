//! Pad.
//!
//! Opsets: 1 (`paddings`), 2 (`pads` is an attribute), 11 (an input), 13, 18 `axes`, 19 mode `wrap`, 21 to 25 more types.
//!
//! Shape rule: each axis grows by its pads, which are listed for all beginnings and then for all ends; negative ones cut.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("Pad", &[sig(1, 1, 1), sig(11, 2, 3), sig(18, 2, 4)], Traits::PURE, infer).axes(axes);

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

/// `0[a] -> 0[b|a|c]` along each axis that grows.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (input, output) = (s.shape(In(0))?, s.shape(Out(0))?);
    let constant = s.call.attrs().str("mode").is_none_or(|m| m == "constant");
    let listed: Vec<usize> = match (s.has(In(3)), s.call.ints(3)) {
        (true, Some(axes)) => axes.iter().map(|&a| axis(a, input.len()).unwrap_or(usize::MAX)).collect(),
        (true, None) => return Err("it is not known which axes are padded"),
        (false, _) => (0..input.len()).collect(),
    };
    let pads = match s.call.opset < 11 {
        true => s.call.attrs().ints(if s.call.opset < 2 { "paddings" } else { "pads" }).map(<[_]>::to_vec),
        false => s.call.ints(1),
    };
    let pads = pads.filter(|p| p.len() == listed.len() * 2).ok_or("its pads are not known")?;
    let (before, after) = pads.split_at(listed.len());
    for at in 0..input.len().min(output.len()) {
        let mut own = listed.iter().zip(before.iter().zip(after)).filter(|(a, _)| **a == at).map(|(_, p)| p);
        let (front, back) = own.next().map_or((0, 0), |(&b, &a)| (b, a));
        match (u64::try_from(front), u64::try_from(back)) {
            (Ok(0), Ok(0)) => {
                s.tie(&[(In(0), at), (Out(0), at)], Role::Free)?;
            }
            (Ok(front), Ok(back)) if constant => {
                let kept = s.tie(&[(In(0), at)], Role::Free)?;
                let [front, back] = [front, back].map(|n| s.letter(Dim::Known(n), Role::Free));
                s.parts(Out(0), at, vec![vec![front], vec![kept], vec![back]]);
            }
            _ => {
                s.whole(In(0), at, "it is padded with its own elements, or cut")?;
                s.whole(Out(0), at, "it is padded with its own elements, or cut")?;
            }
        }
    }
    Ok(())
}
