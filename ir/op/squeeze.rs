//! Squeeze and Unsqueeze: axes of size 1 taken out or put in.
//!
//! Opsets: 1 (`axes` is an attribute), 11 negative axes, 13 (an input), 21 to 25 more types.
//!
//! Shape rule: Squeeze drops the named axes, or all of size 1; Unsqueeze inserts axes so that they stand at the named
//! places of the output.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    self,
    Port::{self, In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, MAX_RANK, Outcome, axis},
};

pub(super) static SQUEEZE: OpSpec =
    OpSpec::new("Squeeze", &[sig(1, 1, 1), sig(13, 1, 2)], Traits::PURE, infer_squeeze).axes(axes_squeezed);
pub(super) static UNSQUEEZE: OpSpec =
    OpSpec::new("Unsqueeze", &[sig(1, 1, 1), sig(13, 2, 2)], Traits::PURE, infer_unsqueeze)
        .axes(|s| axes_with_ones(s, Out(0), In(0)));

fn infer_squeeze(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let axes = match call.axes(1, input.len())? {
        None => {
            let named = call.fact(1).count().and_then(|n| usize::try_from(n).ok());
            let left = named.and_then(|n| input.len().checked_sub(n));
            return Ok(vec![call.like(0, left.map(|n| vec![Dim::Unknown; n]))]);
        }
        Some(Some(axes)) => axes,
        // Which axes have size 1 is known only if all sizes are.
        Some(None) if input.iter().any(|d| d.known().is_none()) => return Ok(vec![call.like(0, None)]),
        Some(None) => (0..input.len()).filter(|&i| input.get(i) == Some(&Dim::Known(1))).collect(),
    };
    if let Some(d) = axes.iter().filter_map(|&a| input.get(a)).find(|d| d.known().is_some_and(|n| n != 1)) {
        return Err(format!("an axis of size {d} cannot be squeezed out"));
    }
    let shape = input.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
    Ok(vec![call.like(0, Some(shape)).with(call.fact(0).shared())])
}

fn infer_unsqueeze(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let raw = match call.opset < 13 {
        true => call.attrs().ints("axes").map(<[_]>::to_vec),
        false => call.ints(1),
    };
    let Some(raw) = raw else {
        let added = call.fact(1).count().and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MAX_RANK);
        return Ok(vec![call.like(0, added.map(|n| vec![Dim::Unknown; input.len() + n]))]);
    };
    let rank = input.len().saturating_add(raw.len());
    if rank > MAX_RANK {
        return Ok(vec![call.like(0, None)]);
    }
    let mut axes = raw.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    if axes.windows(2).any(|w| w[0] == w[1]) {
        return Err("an axis is named twice".into());
    }
    let mut shape = input.to_vec();
    for a in axes {
        shape.insert(a.min(shape.len()), Dim::Known(1));
    }
    Ok(vec![call.like(0, Some(shape)).with(call.fact(0).shared())])
}

fn axes_squeezed(s: &mut Spelling<'_>) -> Result<(), Why> {
    let given = s.has(In(1)) || s.call.attrs().ints("axes").is_some();
    if !given {
        // All axes of size 1 go, and they need no letter.
        return axes::reshape(s);
    }
    axes_with_ones(s, In(0), Out(0))
}

/// `long` has axes of size 1 that `short` lacks.
fn axes_with_ones(s: &mut Spelling<'_>, long: Port, short: Port) -> Result<(), Why> {
    let rank = s.shape(long)?.len();
    let ones = s.call.axes(1, rank).ok().flatten().flatten().ok_or("its axes are not known")?;
    let kept = (0..rank).filter(|a| !ones.contains(a));
    ones.iter().for_each(|&a| s.spell(long, a, &[]));
    kept.enumerate().try_for_each(|(to, from)| s.tie(&[(long, from), (short, to)], Role::Free).map(|_| ()))
}
