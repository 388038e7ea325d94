//! Split.
//!
//! Opsets: 1 (`split` is an attribute or an input), 2 (an attribute), 11, 13 (an input), 18 `num_outputs`.
//!
//! Shape rule: the axis is cut into the listed parts, or into parts of equal size of which the last may be smaller.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::axes::{
    At,
    Port::{self, In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new(
    "Split",
    &[sig(1, 1, 2).outputs(1, VARIADIC), sig(2, 1, 1).outputs(1, VARIADIC), sig(13, 1, 2).outputs(1, VARIADIC)],
    Traits::PURE,
    infer,
)
.axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let count = call.node.outputs().len();
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None); count]) };
    let at = call.axis("axis", 0, input.len())?;
    let sizes = match (call.has(1), call.attrs().ints("split")) {
        (true, _) => call.elements(1).map(|e| e.iter().map(Num::dim).collect()),
        (false, Some(split)) => Some(split.iter().map(|&n| Num::Int(n).dim()).collect()),
        (false, None) => input.get(at).map(|d| equal_parts(d, count)),
    };
    let sizes = sizes.unwrap_or_else(|| vec![Dim::Unknown; count]);
    if sizes.len() != count {
        return Err(format!("it has {count} outputs, but lists {} parts", sizes.len()));
    }
    if let (Some(whole), Some(sum)) =
        (input.get(at).and_then(Dim::known), sizes.iter().try_fold(0u64, |n, d| n.checked_add(d.known()?)))
        && whole != sum
    {
        return Err(format!("its parts add up to {sum}, but axis {at} has size {whole}"));
    }
    let mut from = 0usize;
    Ok(sizes
        .into_iter()
        .map(|size| {
            let mut shape = input.to_vec();
            let length = size.known().and_then(|n| usize::try_from(n).ok());
            if let Some(slot) = shape.get_mut(at) {
                *slot = size;
            }
            let elements = match (call.elements(0), length) {
                (Some(e), Some(n)) if input.len() == 1 => e.get(from..from.saturating_add(n)).map(<[_]>::to_vec),
                _ => None,
            };
            from = from.saturating_add(length.unwrap_or(0));
            call.like(0, Some(shape)).with(elements)
        })
        .collect())
}

fn equal_parts(size: &Dim, count: usize) -> Vec<Dim> {
    let parts = count as u64;
    let Some(n) = size.known() else { return vec![size.floor_div(parts); count] };
    let each = n.div_ceil(parts.max(1));
    (0..parts).map(|i| Dim::Known(n.saturating_sub(each.saturating_mul(i)).min(each))).collect()
}

/// `0[a|b] -> 0[a] 1[b]` along the axis; all others are tied.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", 0, rank).map_err(|_| "its axis does not exist")?;
    let outputs = (0..s.call.node.outputs().len()).map(Out);
    let mut parts = Vec::new();
    for (i, port) in outputs.clone().enumerate() {
        // Of an output that nobody reads, no size is known.
        let part = vec![s.tie(&[(port, at)], Role::Free)?];
        s.state_parts(At::Part(i), vec![part.clone()]);
        parts.push(part);
    }
    s.parts(In(0), at, parts);
    let ports: Vec<Port> = outputs.chain([In(0)]).collect();
    same_axes(s, &ports, (0..rank).filter(|&a| a != at), Role::Free)
}
