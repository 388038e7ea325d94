//! Gather, GatherElements, GatherND, and Compress: elements picked by index.
//!
//! Opsets: Gather 1, 11 negative indices, 13; GatherElements 11, 13; GatherND 11, 12 `batch_dims`, 13; Compress 9, 11, 28.
//!
//! Shape rules: Gather replaces the axis by the axes of the indices. GatherElements has the shape of the indices.
//! GatherND keeps the indices' axes but the last, whose length says how many axes of the data vanish. Compress makes the
//! axis, or a vector of everything, as long as there are true conditions.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim, Shape,
    infer::{Call, Num, Outcome},
};

pub(super) static COMPRESS: OpSpec = OpSpec::new("Compress", &[sig(9, 2, 2)], Traits::PURE, infer_compress);
pub(super) static GATHER: OpSpec = OpSpec::new("Gather", &[sig(1, 2, 2)], Traits::PURE, infer);
pub(super) static GATHER_ELEMENTS: OpSpec = OpSpec::new("GatherElements", &[sig(11, 2, 2)], Traits::PURE, |c| {
    Ok(vec![c.like(0, c.shape(1).map(<[_]>::to_vec))])
});
pub(super) static GATHER_ND: OpSpec = OpSpec::new("GatherND", &[sig(11, 2, 2)], Traits::PURE, infer_nd);

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
