//! Sampling of images: AffineGrid, GridSample, MaxRoiPool, RoiAlign.
//!
//! Opsets: AffineGrid 20; GridSample 16, 20, 22; MaxRoiPool 1, 22; RoiAlign 10, 16, 22.
//!
//! Shape rules: AffineGrid makes `[N,spatial…,axes]` from sizes `[N,C,spatial…]`. GridSample keeps batch and channels and
//! takes the spatial sizes of the grid. The pools make `[rois,C,height,width]`.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim,
    infer::{Call, Num, Outcome},
};

pub(super) static AFFINE_GRID: OpSpec = OpSpec::new("AffineGrid", &[sig(20, 2, 2)], Traits::ROUNDING, affine_grid);
pub(super) static GRID_SAMPLE: OpSpec =
    OpSpec::new("GridSample", &[sig(16, 2, 2)], Traits::ROUNDING, grid_sample).axes(axes_grid);
pub(super) static MAX_ROI_POOL: OpSpec = OpSpec::new("MaxRoiPool", &[sig(1, 2, 2)], Traits::ROUNDING, |c| {
    let size =
        |i: usize| c.attrs().ints("pooled_shape").and_then(|s| s.get(i)).map_or(Dim::Unknown, |&n| Num::Int(n).dim());
    pooled(c, size(0), size(1))
})
.axes(axes_pooled);
pub(super) static ROI_ALIGN: OpSpec = OpSpec::new("RoiAlign", &[sig(10, 3, 3)], Traits::ROUNDING, |c| {
    pooled(c, Num::Int(c.int("output_height", 1)).dim(), Num::Int(c.int("output_width", 1)).dim())
})
.axes(axes_pooled);

fn affine_grid(call: &Call<'_>) -> Outcome {
    let Some(sizes) = call.per_axis(1) else { return Ok(vec![call.like(0, None)]) };
    let [batch, _, spatial @ ..] = sizes.as_slice() else { return Err("its sizes have no channels".into()) };
    let axes = Dim::Known(spatial.len() as u64);
    let shape = [batch.dim()].into_iter().chain(spatial.iter().map(Num::dim)).chain([axes]).collect();
    Ok(vec![call.like(0, Some(shape))])
}

fn grid_sample(call: &Call<'_>) -> Outcome {
    let shape = match (call.shape(0), call.shape(1)) {
        (Some([n, c, ..]), Some([_, spatial @ .., _])) => Some([n, c].into_iter().chain(spatial).cloned().collect()),
        _ => None,
    };
    Ok(vec![call.like(0, shape)])
}

fn pooled(call: &Call<'_>, height: Dim, width: Dim) -> Outcome {
    let size = |slot: usize, at: usize| call.shape(slot).and_then(|s| s.get(at)).cloned().unwrap_or(Dim::Unknown);
    Ok(vec![call.like(0, Some(vec![size(1, 0), size(0, 1), height, width]))])
}

/// `0[n,c,h!] 1[n,i,1] -> 0[n,c,i]`.
fn axes_grid(s: &mut Spelling<'_>) -> Result<(), Why> {
    same_axes(s, &[In(0), In(1), Out(0)], [0], Role::Free)?;
    same_axes(s, &[In(0), Out(0)], [1], Role::Free)?;
    for axis in 2..s.shape(Out(0))?.len() {
        s.tie(&[(In(1), axis - 1), (Out(0), axis)], Role::Free)?;
    }
    Ok(())
}

/// `0[n!,c,h!,w!] 1[r,a!] -> 0[r,c,i!,j!]`.
fn axes_pooled(s: &mut Spelling<'_>) -> Result<(), Why> {
    s.tie(&[(In(1), 0), (In(2), 0), (Out(0), 0)], Role::Free)?;
    s.tie(&[(In(0), 1), (Out(0), 1)], Role::Free).map(|_| ())
}
