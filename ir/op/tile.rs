//! Tile.
//!
//! Opsets: 1 (one axis: inputs `tiles` and `axis`), 6 (`repeats` for every axis), 13.
//!
//! Shape rule: each axis is multiplied by its repeats.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Tile", &[sig(1, 3, 3), sig(6, 2, 2)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else {
        let repeats = if call.opset < 6 { None } else { call.per_axis(1) };
        return Ok(vec![call.like(0, repeats.map(|r| vec![Dim::Unknown; r.len()]))]);
    };
    let repeats: Vec<Num> = match (call.opset < 6, call.elements(1)) {
        (true, _) | (_, None) => vec![Num::Unknown; input.len()],
        (false, Some(r)) => r.to_vec(),
    };
    if repeats.len() != input.len() {
        return Err(format!("it is given {} repeats for {} axes", repeats.len(), input.len()));
    }
    let shape = input.iter().zip(&repeats).map(|(d, r)| d.mul(&r.dim())).collect();
    let fact = call.like(0, Some(shape));
    let elements = match (call.elements(0), input, fact.small_count()) {
        (Some(e), [_], Some(n)) => Some(e.iter().cycle().take(n).cloned().collect::<Vec<_>>()),
        _ => None,
    };
    Ok(vec![fact.with(elements)])
}

/// `0[a] -> 0[b*a]`, with b copies.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (input, output) = (s.shape(In(0))?, s.shape(Out(0))?);
    for (axis, (size, whole)) in input.iter().zip(output).enumerate() {
        match if whole.same(size) { Some(Dim::Known(1)) } else { whole.div_exact(size) } {
            Some(copies) => {
                let copies = s.letter(copies, Role::Free);
                let own = s.tie(&[(In(0), axis)], Role::Free)?;
                s.spell(Out(0), axis, &[copies, own]);
            }
            None => {
                s.whole(In(0), axis, "it is not known how often it is repeated")?;
                s.whole(Out(0), axis, "it is not known how often it is repeated")?;
            }
        }
    }
    Ok(())
}
