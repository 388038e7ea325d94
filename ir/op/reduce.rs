//! Reductions: ReduceL1, L2, LogSum, LogSumExp, Max, Mean, Min, Prod, Sum, SumSquare.
//!
//! Opsets: 1; 11 allows negative axes; the axes become an input with 13 (ReduceSum) or 18 (all others).
//!
//! Shape rule: reduced axes become 1, or vanish with `keepdims` = 0. Without axes all are reduced, or none if
//! `noop_with_empty_axes` is set.

use super::{OpSpec, Signature, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim, Shape,
    infer::{Call, Num, Outcome},
};

const SUM_SIGNATURES: &[Signature] = &[sig(1, 1, 1), sig(13, 1, 2)];
const SIGNATURES: &[Signature] = &[sig(1, 1, 1), sig(18, 1, 2)];

pub(super) static L1: OpSpec = reduction("ReduceL1");
pub(super) static L2: OpSpec = reduction("ReduceL2");
pub(super) static LOG_SUM: OpSpec = reduction("ReduceLogSum");
pub(super) static LOG_SUM_EXP: OpSpec = reduction("ReduceLogSumExp").axes(|s| axes(s, Role::Mixed));
pub(super) static MAX: OpSpec =
    OpSpec::new("ReduceMax", SIGNATURES, Traits::PURE, |c| fold(c, Num::max)).axes(|s| axes(s, Role::Mixed));
pub(super) static MEAN: OpSpec = reduction("ReduceMean").axes(|s| axes(s, Role::Mixed));
pub(super) static MIN: OpSpec =
    OpSpec::new("ReduceMin", SIGNATURES, Traits::PURE, |c| fold(c, Num::min)).axes(|s| axes(s, Role::Mixed));
pub(super) static PROD: OpSpec =
    OpSpec::new("ReduceProd", SIGNATURES, Traits::ROUNDING, |c| fold(c, Num::mul)).axes(|s| axes(s, Role::Mixed));
pub(super) static SUM: OpSpec =
    OpSpec::new("ReduceSum", SUM_SIGNATURES, Traits::ROUNDING, |c| fold(c, Num::add)).axes(|s| axes(s, Role::Summed));
pub(super) static SUM_SQUARE: OpSpec = reduction("ReduceSumSquare");

const fn reduction(name: &'static str) -> OpSpec {
    OpSpec::new(name, SIGNATURES, Traits::ROUNDING, |c| fold(c, |_, _| Num::Unknown)).axes(|s| axes(s, Role::Summed))
}

fn fold(call: &Call<'_>, f: fn(&Num, &Num) -> Num) -> Outcome {
    let keep = call.flag("keepdims", true);
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let axes = match call.axes(1, input.len())? {
        // Which axes is open, but not how many sizes are left.
        None if keep => return Ok(vec![call.like(0, Some(vec![Dim::Unknown; input.len()]))]),
        None => {
            // Axes are named once each.
            let named = call.fact(1).count().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
            let left = named.and_then(|n| input.len().checked_sub(n));
            return Ok(vec![call.like(0, left.map(|n| vec![Dim::Unknown; n]))]);
        }
        Some(axes) => axes.filter(|a| !a.is_empty()),
    };
    let reduced = |i: &usize| match &axes {
        Some(axes) => axes.contains(i),
        None => !call.flag("noop_with_empty_axes", false),
    };
    let shape: Shape = input
        .iter()
        .enumerate()
        .filter_map(|(i, d)| match (reduced(&i), keep) {
            (false, _) => Some(d.clone()),
            (true, true) => Some(Dim::Known(1)),
            (true, false) => None,
        })
        .collect();
    let fact = call.like(0, Some(shape));
    // The elements of a vector are followed if all are reduced to one.
    let elements = match (call.elements(0), call.dtype(0)) {
        (Some([first, rest @ ..]), Some(dtype)) if input.len() == 1 && reduced(&0) => {
            Some(vec![rest.iter().fold(first.clone(), |a, b| f(&a, b)).fit(dtype)])
        }
        _ => None,
    };
    Ok(vec![fact.with(elements)])
}

/// `0[a,b+] -> 0[a,1]`, or mixed where zeros change the result.
fn axes(s: &mut Spelling<'_>, role: Role) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let listed = s.call.axes(1, rank).ok().flatten().ok_or("its axes are not known")?;
    let axes: Vec<usize> = match listed.filter(|a| !a.is_empty()) {
        Some(axes) => axes,
        None if s.call.flag("noop_with_empty_axes", false) => Vec::new(),
        None => (0..rank).collect(),
    };
    for &axis in &axes {
        s.tie(&[(In(0), axis)], role)?;
    }
    reduced(s, &axes, s.call.flag("keepdims", true))
}

/// Ties the axes that a reduction leaves.
pub(super) fn reduced(s: &mut Spelling<'_>, axes: &[usize], keep: bool) -> Result<(), Why> {
    let mut to = 0;
    for axis in 0..s.shape(In(0))?.len() {
        match axes.contains(&axis) {
            true if keep => s.spell(Out(0), to, &[]),
            true => continue,
            false => {
                s.tie(&[(In(0), axis), (Out(0), to)], Role::Free)?;
            }
        }
        to += 1;
    }
    Ok(())
}
