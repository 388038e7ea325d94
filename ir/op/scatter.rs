//! Scatter, ScatterElements, ScatterND, TensorScatter.
//!
//! Opsets: Scatter 9, 11 (deprecated); ScatterElements and ScatterND 11, 13, 16 `reduction`, 18; TensorScatter 24.
//!
//! Shape rule: that of the data.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};

/// With a reduction, the order in which duplicate indices are added up is free.
const TRAITS: Traits = Traits::ROUNDING;

pub(super) static SCATTER: OpSpec = OpSpec::new("Scatter", &[sig(9, 3, 3)], Traits::PURE, same).axes(axes_elements);
pub(super) static ELEMENTS: OpSpec = OpSpec::new("ScatterElements", &[sig(11, 3, 3)], TRAITS, same).axes(axes_elements);
pub(super) static ND: OpSpec = OpSpec::new("ScatterND", &[sig(11, 3, 3)], TRAITS, same).axes(axes_nd);
pub(super) static TENSOR: OpSpec = OpSpec::new("TensorScatter", &[sig(24, 2, 3)], Traits::PURE, same).axes(axes_tensor);

const INDEXED: Why = "indices address it";

/// `0[a,b!] 1[a,c] 2[a,c] -> 0[a,b!]`, where the updates are as long as the data.
fn axes_elements(s: &mut Spelling<'_>) -> Result<(), Why> {
    let data = s.shape(In(0))?;
    let at = s.call.axis("axis", 0, data.len()).map_err(|_| "its axis does not exist")?;
    for (axis, size) in data.iter().enumerate() {
        if axis != at && size.same(s.size(In(1), axis)?) {
            same_axes(s, &[In(0), In(1), In(2), Out(0)], [axis], Role::Free)?;
        } else {
            same_axes(s, &[In(0), Out(0)], [axis], Role::Whole(INDEXED))?;
            same_axes(s, &[In(1), In(2)], [axis], Role::Free)?;
        }
    }
    Ok(())
}

/// `0[a!,b] 1[c,d!] 2[c,b] -> 0[a!,b]`, where d says how many axes a stands for.
fn axes_nd(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (data, indices) = (s.shape(In(0))?.len(), s.shape(In(1))?);
    let (depth, kept) = indices.split_last().ok_or("its indices are a scalar")?;
    let depth = depth.known().and_then(|d| usize::try_from(d).ok()).ok_or("the length of its indices is not known")?;
    same_axes(s, &[In(0), Out(0)], 0..depth.min(data), Role::Whole(INDEXED))?;
    same_axes(s, &[In(1), In(2)], 0..kept.len(), Role::Free)?;
    for (i, axis) in (depth..data).enumerate() {
        s.tie(&[(In(0), axis), (In(2), kept.len() + i), (Out(0), axis)], Role::Free)?;
    }
    Ok(())
}

/// `0[n,a!,b] 1[n,c,b] -> 0[n,a!,b]`: rows of the update are written behind each other.
fn axes_tensor(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", -2, rank).map_err(|_| "its axis does not exist")?;
    same_axes(s, &[In(0), Out(0)], [at], Role::Whole(INDEXED))?;
    same_axes(s, &[In(0), In(1), Out(0)], (0..rank).filter(|&a| a != at), Role::Free)
}
