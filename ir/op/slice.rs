//! Slice.
//!
//! Opsets: 1 (bounds are attributes), 10 (inputs, with steps), 11 negative axes, 13.
//!
//! Shape rule: each named axis is cut as [`Range`] says, the others stay.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At, Part,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Fact, MAX_RANK, Num, Outcome, Range, axis},
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("Slice", &[sig(1, 1, 1), sig(10, 3, 5)], Traits::PURE, infer).axes(axes).reads(crate::cost::picked);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let Some(cuts) = cuts(call, input.len())? else {
        // Whatever is cut, the rank stays.
        return Ok(vec![call.like(0, Some(vec![Dim::Unknown; input.len()]))]);
    };
    let mut shape = input.to_vec();
    for (at, cut) in &cuts {
        if let Some(d) = shape.get_mut(*at) {
            *d = match cut {
                Some(range) => range.size(d),
                None => Dim::Unknown,
            };
        }
    }
    let elements = elements(call.fact(0), &cuts);
    Ok(vec![call.like(0, Some(shape)).with(elements)])
}

/// An axis, and what is cut out of it if the step is known.
type Cut = (usize, Option<Range>);

/// `Ok(None)` if it is not known which axes are cut.
fn cuts(call: &Call<'_>, rank: usize) -> Result<Option<Vec<Cut>>, String> {
    let attr = |name: &str| call.attrs().ints(name).map(|v| v.iter().map(|&n| Num::Int(n)).collect::<Vec<_>>());
    let from = |slot: usize, name: &str| if call.opset < 10 { attr(name) } else { call.per_axis(slot) };
    let (Some(starts), Some(ends)) = (from(1, "starts"), from(2, "ends")) else { return Ok(None) };
    let axes_given = if call.opset < 10 { call.attrs().ints("axes").is_some() } else { call.has(3) };
    let axes = match (axes_given, from(3, "axes")) {
        (true, Some(axes)) => axes,
        (true, None) => return Ok(None),
        (false, _) => (0..starts.len()).map(|i| Num::Int(i as i64)).collect(),
    };
    let steps = match (call.opset >= 10 && call.has(4), from(4, "steps")) {
        (true, Some(steps)) => steps,
        (true, None) => vec![Num::Unknown; starts.len()],
        (false, _) => vec![Num::Int(1); starts.len()],
    };
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(format!(
            "it is given {} starts, {} ends, {} axes and {} steps",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        ));
    }
    let mut cuts = Vec::with_capacity(starts.len());
    for (((start, end), at), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let Some(at) = at.int() else { return Ok(None) };
        let range = match step.int() {
            Some(0) => return Err("a step is 0".into()),
            Some(step) => Some(Range { start, end, step }),
            None => None,
        };
        cuts.push((axis(at, rank)?, range));
    }
    Ok(Some(cuts))
}

/// Elements of a slice, where the input's are known.
fn elements(input: &Fact, cuts: &[Cut]) -> Option<Vec<Num>> {
    // A vector or matrix has few axes to cut; longer lists name an axis again and again.
    let mut elements = input.elements().filter(|_| cuts.len() <= MAX_RANK)?.to_vec();
    let mut dims: Vec<usize> =
        input.shape()?.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok())).collect::<Option<_>>()?;
    for (at, cut) in cuts {
        let size = *dims.get(*at)?;
        let range = cut.as_ref()?;
        let (start, count) = range.on(i64::try_from(size).ok()?)?;
        let picked: Vec<usize> = (0..count)
            .map(|i| usize::try_from(start.checked_add(i.checked_mul(range.step)?)?).ok())
            .collect::<Option<_>>()?;
        elements = pick(&elements, &dims, *at, &picked)?;
        *dims.get_mut(*at)? = picked.len();
    }
    Some(elements)
}

/// The elements at some places along one axis of a small row-major tensor.
pub(super) fn pick(elements: &[Num], dims: &[usize], at: usize, places: &[usize]) -> Option<Vec<Num>> {
    let size = *dims.get(at)?;
    let inner: usize = dims.get(at + 1..)?.iter().product();
    let outer: usize = dims.get(..at)?.iter().product();
    let mut out = Vec::with_capacity(outer.checked_mul(inner)?.checked_mul(places.len())?);
    for block in 0..outer {
        for &place in places {
            let from = (block * size + place) * inner;
            out.extend_from_slice(elements.get(from..from + inner)?);
        }
    }
    Some(out)
}

/// `0[a|b|c] -> 0[b]` along each axis that is cut in steps of 1.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (input, output) = (s.shape(In(0))?, s.shape(Out(0))?);
    let cuts = cuts(s.call, input.len()).ok().flatten().ok_or("it is not known which axes are cut")?;
    for (axis, (before, after)) in input.iter().zip(output).enumerate() {
        let mut own = cuts.iter().filter(|(at, _)| *at == axis).map(|(_, range)| range.as_ref());
        let skipped = match (own.next(), own.next()) {
            (None, _) => Some(Dim::Known(0)),
            (Some(range), None) => range.and_then(|r| skipped(r, before)),
            (Some(_), Some(_)) => None,
        };
        let rest = skipped.as_ref().map(|n| before.sub(n).sub(after));
        match (skipped, rest) {
            (Some(Dim::Known(0)), _) if before.same(after) || !cuts.iter().any(|(at, _)| *at == axis) => {
                let whole = s.tie(&[(In(0), axis), (Out(0), axis)], Role::Free)?;
                state_bounds(s, &cuts, axis, vec![], vec![vec![whole]]);
            }
            (Some(front), Some(back)) if front != Dim::Unknown && back != Dim::Unknown => {
                let [front, back] = [front, back].map(|size| s.letter(size, Role::Free));
                let taken = s.tie(&[(Out(0), axis)], Role::Free)?;
                s.parts(In(0), axis, vec![vec![front], vec![taken], vec![back]]);
                state_bounds(s, &cuts, axis, vec![vec![front]], vec![vec![front], vec![taken]]);
            }
            _ => {
                s.whole(In(0), axis, "what is cut out of it is not known, or not in one piece")?;
                s.whole(Out(0), axis, "what is cut out of it is not known, or not in one piece")?;
            }
        }
    }
    Ok(())
}

/// The bounds of the only cut of an axis, if it has one.
fn state_bounds(s: &mut Spelling<'_>, cuts: &[Cut], axis: usize, start: Vec<Part>, end: Vec<Part>) {
    let Some(i) = cuts.iter().position(|(at, _)| *at == axis) else { return };
    let listed = s.call.opset < 10;
    for (slot, name, parts) in [(1, "starts", start), (2, "ends", end)] {
        s.state_parts(if listed { At::Item(name, i) } else { At::Bound(slot, i) }, parts);
    }
}

/// How many elements lie in front of a slice in steps of 1.
fn skipped(range: &Range, axis: &Dim) -> Option<Dim> {
    if range.step != 1 {
        return None;
    }
    if let Some((start, _)) = axis.known().and_then(|n| range.on(i64::try_from(n).ok()?)) {
        return u64::try_from(start).ok().map(Dim::Known);
    }
    match range.start.int()? {
        n if n < 0 => Some(axis.offset(n)),
        n => u64::try_from(n).ok().map(Dim::Known),
    }
}
