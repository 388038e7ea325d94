//! Gather, GatherElements, GatherND, and Compress: elements picked by index.
//!
//! Opsets: Gather 1, 11 negative indices, 13; GatherElements 11, 13; GatherND 11, 12 `batch_dims`, 13; Compress 9, 11, 28.
//!
//! Shape rules: Gather replaces the axis by the axes of the indices. GatherElements has the shape of the indices.
//! GatherND keeps the indices' axes but the last, whose length says how many axes of the data vanish. Compress makes the
//! axis, or a vector of everything, as long as there are true conditions.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim, Shape,
    infer::{Call, Num, Outcome},
};

pub(super) static COMPRESS: OpSpec =
    OpSpec::new("Compress", &[sig(9, 2, 2)], Traits::PURE, infer_compress).axes(axes_compress);
pub(super) static GATHER: OpSpec =
    OpSpec::new("Gather", &[sig(1, 2, 2)], Traits::PURE, infer).axes(axes).reads(crate::cost::picked);
pub(super) static GATHER_ELEMENTS: OpSpec = OpSpec::new("GatherElements", &[sig(11, 2, 2)], Traits::PURE, |c| {
    Ok(vec![c.like(0, c.shape(1).map(<[_]>::to_vec))])
})
.axes(axes_elements)
.reads(crate::cost::picked);
pub(super) static GATHER_ND: OpSpec =
    OpSpec::new("GatherND", &[sig(11, 2, 2)], Traits::PURE, infer_nd).axes(axes_nd).reads(crate::cost::picked);

fn infer(call: &Call<'_>) -> Outcome {
    let (Some(data), Some(indices)) = (call.shape(0), call.shape(1)) else { return Ok(vec![call.like(0, None)]) };
    let at = call.axis("axis", 0, data.len())?;
    let (before, after) = data.split_at(at);
    let shape: Shape = before.iter().chain(indices).chain(after.iter().skip(1)).cloned().collect();
    let elements = if data.len() == 1 { picked(call)? } else { None };
    Ok(vec![call.like(0, Some(shape)).with(elements)])
}

/// Elements of a vector at some places.
fn picked(call: &Call<'_>) -> Result<Option<Vec<Num>>, String> {
    let (Some(data), Some(places)) = (call.elements(0), call.elements(1)) else { return Ok(None) };
    let pick = |place: &Num| match place.int() {
        Some(i) => {
            let from_front = if i < 0 {
                usize::try_from(i.unsigned_abs()).ok().and_then(|n| data.len().checked_sub(n))
            } else {
                usize::try_from(i).ok()
            };
            let missing = || format!("index {i} does not exist among {} elements", data.len());
            from_front.and_then(|i| data.get(i)).cloned().ok_or_else(missing)
        }
        None => Ok(Num::Unknown),
    };
    places.iter().map(pick).collect::<Result<Vec<_>, _>>().map(Some)
}

fn infer_nd(call: &Call<'_>) -> Outcome {
    let (Some(data), Some(indices)) = (call.shape(0), call.shape(1)) else { return Ok(vec![call.like(0, None)]) };
    let Some((depth, kept)) = indices.split_last() else { return Err("its indices are a scalar".into()) };
    let Some(depth) = depth.known().and_then(|d| usize::try_from(d).ok()) else { return Ok(vec![call.like(0, None)]) };
    let batch = usize::try_from(call.int("batch_dims", 0)).map_err(|_| "batch_dims is negative")?;
    let gone = batch.saturating_add(depth);
    let Some(rest) = data.get(gone..) else {
        return Err(format!("its indices address {gone} axes, but its data has {}", data.len()));
    };
    Ok(vec![call.like(0, Some(kept.iter().chain(rest).cloned().collect()))])
}

fn infer_compress(call: &Call<'_>) -> Outcome {
    let count = call.ints(1).map(|c| c.iter().filter(|&&c| c != 0).count() as u64);
    // Conditions beyond the end of the axis do not count, so the number is reliable for static shapes only.
    let size = |axis: Option<u64>| match (count, axis, call.fact(1).count()) {
        (Some(n), Some(axis), Some(length)) if length <= axis => Dim::Known(n),
        _ => Dim::Unknown,
    };
    if call.attrs().int("axis").is_none() {
        return Ok(vec![call.like(0, Some(vec![size(call.fact(0).count())]))]);
    }
    let Some(data) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let at = call.axis("axis", 0, data.len())?;
    let cut = |(i, d): (usize, &Dim)| if i == at { size(d.known()) } else { d.clone() };
    Ok(vec![call.like(0, Some(data.iter().enumerate().map(cut).collect()))])
}

const INDEXED: Why = "indices address it";

/// `0[a,b!,c] 1[d] -> 0[a,d,c]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (data, indices) = (s.shape(In(0))?.len(), s.shape(In(1))?.len());
    let at = s.call.axis("axis", 0, data).map_err(|_| "its axis does not exist")?;
    s.whole(In(0), at, INDEXED)?;
    for axis in 0..at {
        s.tie(&[(In(0), axis), (Out(0), axis)], Role::Free)?;
    }
    for axis in 0..indices {
        s.tie(&[(In(1), axis), (Out(0), at + axis)], Role::Free)?;
    }
    for axis in at + 1..data {
        s.tie(&[(In(0), axis), (Out(0), axis + indices - 1)], Role::Free)?;
    }
    Ok(())
}

/// `0[a,b!] 1[a,c] -> 0[a,c]`, where the data is no longer than the indices.
fn axes_elements(s: &mut Spelling<'_>) -> Result<(), Why> {
    let data = s.shape(In(0))?;
    let at = s.call.axis("axis", 0, data.len()).map_err(|_| "its axis does not exist")?;
    for (axis, size) in data.iter().enumerate() {
        if axis != at && size.same(s.size(In(1), axis)?) {
            s.tie(&[(In(0), axis), (In(1), axis), (Out(0), axis)], Role::Free)?;
        } else {
            s.whole(In(0), axis, INDEXED)?;
            s.tie(&[(In(1), axis), (Out(0), axis)], Role::Free)?;
        }
    }
    Ok(())
}

/// `0[a,b!,c] 1[a,d,e!] -> 0[a,d,c]`, where e says how many axes b stands for.
fn axes_nd(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (data, indices) = (s.shape(In(0))?.len(), s.shape(In(1))?);
    let batch = usize::try_from(s.call.int("batch_dims", 0)).map_err(|_| "batch_dims is negative")?;
    let (depth, kept) = indices.split_last().ok_or("its indices are a scalar")?;
    let depth = depth.known().and_then(|d| usize::try_from(d).ok()).ok_or("the length of its indices is not known")?;
    for axis in 0..kept.len() {
        match axis < batch {
            true => s.tie(&[(In(0), axis), (In(1), axis), (Out(0), axis)], Role::Free)?,
            false => s.tie(&[(In(1), axis), (Out(0), axis)], Role::Free)?,
        };
    }
    for (i, axis) in (batch.saturating_add(depth)..data).enumerate() {
        s.tie(&[(In(0), axis), (Out(0), kept.len() + i)], Role::Free)?;
    }
    Ok(())
}

fn axes_compress(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.attrs().int("axis").ok_or("all axes become one")?;
    let at = crate::infer::axis(at, rank).map_err(|_| "its axis does not exist")?;
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| a != at), Role::Free)
}
