//! Transpose.
//!
//! Opsets: 1, 13, 21 to 25 more types.
//!
//! Shape rule: axis `i` of the output is axis `perm[i]` of the input; without `perm` the axes are reversed.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim, Shape,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Transpose", &[sig(1, 1, 1)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else {
        let rank = call.attrs().ints("perm").map(<[_]>::len);
        return Ok(vec![call.like(0, rank.map(|r| vec![Dim::Unknown; r]))]);
    };
    let perm: Vec<usize> = match call.attrs().ints("perm") {
        Some(perm) => perm.iter().map(|&a| axis(a, input.len())).collect::<Result<_, _>>()?,
        None => (0..input.len()).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..input.len()).collect::<Vec<_>>() {
        return Err(format!("perm is no permutation of the {} axes", input.len()));
    }
    let shape: Shape = perm.iter().filter_map(|&a| input.get(a)).cloned().collect();
    let elements = match (call.elements(0), input, perm.as_slice()) {
        (Some(e), [_, columns], [1, 0]) => transposed(e, columns),
        (Some(e), [_], _) => Some(e.to_vec()),
        _ => None,
    };
    Ok(vec![call.like(0, Some(shape)).with(elements)])
}

/// The elements of a small matrix, column by column.
fn transposed(elements: &[Num], columns: &Dim) -> Option<Vec<Num>> {
    let columns = usize::try_from(columns.known()?).ok()?;
    Some((0..columns).flat_map(|c| elements.iter().skip(c).step_by(columns).cloned()).collect())
}

fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let perm: Vec<usize> = match s.call.attrs().ints("perm") {
        Some(perm) => perm.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>().map_err(|_| "perm is not valid")?,
        None => (0..rank).rev().collect(),
    };
    perm.into_iter()
        .enumerate()
        .try_for_each(|(to, from)| s.tie(&[(In(0), from), (Out(0), to)], Role::Free).map(|_| ()))
}
