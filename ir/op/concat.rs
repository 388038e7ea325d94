//! Concat.
//!
//! Opsets: 1 (`axis` defaults to 1), 4 (`axis` is required), 11 negative axis, 13.
//!
//! Shape rule: sizes along `axis` add up, all others have to be equal.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::axes::{
    Port::{self, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim,
    infer::{
        Call, Num, Outcome,
        shape::{show, unify},
    },
};

pub(super) static SPEC: OpSpec = OpSpec::new("Concat", &[sig(1, 1, VARIADIC)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let count = call.node.inputs().len();
    let Some(first) = (0..count).find_map(|i| call.shape(i)) else { return Ok(vec![call.like(0, None)]) };
    let at = call.axis("axis", 1, first.len())?;
    let mut shape = first.to_vec();
    let mut along = Dim::Known(0);
    for i in 0..count {
        let Some(s) = call.shape(i) else {
            along = Dim::Unknown;
            continue;
        };
        if s.len() != first.len() {
            return Err(format!("the inputs {} and {} differ in rank", show(first), show(s)));
        }
        for (axis, (have, new)) in shape.iter_mut().zip(s).enumerate() {
            if axis == at {
                along = along.add(new);
            } else {
                *have = unify(have, new).map_err(|e| format!("axis {axis} of input {i}: {e}"))?;
            }
        }
    }
    if let Some(slot) = shape.get_mut(at) {
        *slot = along;
    }
    let fact = call.like(0, Some(shape));
    // Vectors: parts whose length is known may be unknown themselves.
    let elements = (first.len() == 1 && fact.small_count().is_some()).then(|| {
        let part = |i: usize| match call.elements(i) {
            Some(e) => Some(e.to_vec()),
            None => Some(vec![Num::Unknown; call.fact(i).small_count()?]),
        };
        (0..count).map(part).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
    });
    Ok(vec![fact.with(elements.flatten())])
}

/// `0[a] 1[b] -> 0[a|b]` along the axis; all others are tied.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(Out(0))?.len();
    let at = s.call.axis("axis", 1, rank).map_err(|_| "its axis does not exist")?;
    let ports: Vec<Port> = s.ports().collect();
    same_axes(s, &ports, (0..rank).filter(|&a| a != at), Role::Free)?;
    let mut parts = Vec::with_capacity(ports.len());
    for port in ports.into_iter().filter(|&p| p != Out(0)) {
        parts.push(vec![s.tie(&[(port, at)], Role::Free)?]);
    }
    s.parts(Out(0), at, parts);
    Ok(())
}
