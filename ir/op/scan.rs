//! Scan.
//!
//! Opsets: 8 (with a batch axis and an optional first input), 9, 11, 16, 19 to 25 more types.
//!
//! The body takes the state variables and one slice of each scan input; it returns the state variables and one slice of
//! each scan output.
//!
//! Shape rule: state variables keep type and shape. A scan output gets a new axis as long as the scanned axis, at the front
//! or where `scan_output_axes` says.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new(
    "Scan",
    &[sig(8, 2, VARIADIC).outputs(1, VARIADIC), sig(9, 1, VARIADIC).outputs(1, VARIADIC)],
    Traits::OPAQUE,
    infer,
)
.bodies(body_inputs);

/// Slots of the state variables and of the scan inputs; `None` for the old form with a batch axis.
fn slots(call: &Call<'_>) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let inputs = call.node.inputs().len();
    let scanned = usize::try_from(call.attrs().int("num_scan_inputs")?).ok()?;
    let states = inputs.checked_sub(scanned)?;
    (call.opset >= 9).then_some((0..states, states..inputs))
}

/// The axis along which scan input `i` of the shape is scanned.
fn scan_axis(call: &Call<'_>, i: usize, rank: usize) -> Option<usize> {
    axis(call.attrs().ints("scan_input_axes").and_then(|a| a.get(i)).copied().unwrap_or(0), rank).ok()
}

fn body_inputs(call: &Call<'_>, _: usize) -> Vec<Fact> {
    let Some((states, scanned)) = slots(call) else { return Vec::new() };
    let state = |i: usize| call.same(i);
    let slice = |(i, slot): (usize, usize)| {
        let shape = call.shape(slot).and_then(|s| {
            let mut shape = s.to_vec();
            shape.remove(scan_axis(call, i, s.len())?);
            Some(shape)
        });
        call.like(slot, shape)
    };
    states.map(state).chain(scanned.enumerate().map(slice)).collect()
}

fn infer(call: &Call<'_>) -> Outcome {
    let ([body], Some((states, scanned))) = (call.bodies.as_slice(), slots(call)) else { return Ok(Vec::new()) };
    let length = scanned.enumerate().find_map(|(i, slot)| {
        let s = call.shape(slot)?;
        s.get(scan_axis(call, i, s.len())?).filter(|d| **d != Dim::Unknown).cloned()
    });
    let length = length.unwrap_or(Dim::Unknown);
    let count = states.len();
    body.iter()
        .enumerate()
        .map(|(i, fact)| match i.checked_sub(count) {
            None => Ok(call.same(i)),
            Some(output) => {
                let Some(s) = fact.shape() else { return Ok(Fact::tensor(fact.dtype(), None)) };
                let given = call.attrs().ints("scan_output_axes").and_then(|a| a.get(output)).copied();
                let mut shape = s.to_vec();
                shape.insert(axis(given.unwrap_or(0), s.len() + 1)?, length.clone());
                Ok(Fact::tensor(fact.dtype(), Some(shape)))
            }
        })
        .collect()
}
