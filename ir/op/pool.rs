//! AveragePool, LpPool and MaxPool: pools with a window.
//!
//! Opsets: AveragePool 1, 7, 10 `ceil_mode`, 11, 19 `dilations`, 22; LpPool 1, 2, 11, 18, 22; MaxPool 1, 8 a second output,
//! 10 `ceil_mode` and `dilations`, 11, 12, 22.
//!
//! Shape rule: batch and channels stay; each spatial axis as [`Window`] says. The second output of MaxPool holds int64
//! indices.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    DType, Dim, Shape,
    infer::{Call, Fact, Outcome, Window, shape::show},
};

pub(super) static AVERAGE: OpSpec = OpSpec::new("AveragePool", &[sig(1, 1, 1)], Traits::ROUNDING, infer).axes(axes);
pub(super) static LP: OpSpec = OpSpec::new("LpPool", &[sig(1, 1, 1)], Traits::ROUNDING, infer).axes(axes);
pub(super) static MAX: OpSpec =
    OpSpec::new("MaxPool", &[sig(1, 1, 1), sig(8, 1, 1).outputs(1, 2)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let shape = output(call, false)?;
    Ok(vec![call.like(0, shape.clone()), Fact::tensor(Some(DType::I64), shape)])
}

/// Shape of what the window yields; `Ok(None)` if the rank is not known.
pub(super) fn output(call: &Call<'_>, channels_last: bool) -> Result<Option<Shape>, String> {
    let Some(x) = call.shape(0) else { return Ok(None) };
    let (batch, channels, spatial) = match x {
        [batch, spatial @ .., channels] if channels_last => (batch, channels, spatial),
        [batch, channels, spatial @ ..] if !channels_last => (batch, channels, spatial),
        _ => return Err(format!("its input {} has no channels", show(x))),
    };
    let kernel: Vec<Dim> = match call.attrs().ints("kernel_shape") {
        Some(k) if k.len() == spatial.len() => {
            k.iter().map(|&k| u64::try_from(k).map_or(Dim::Unknown, Dim::Known)).collect()
        }
        Some(k) => return Err(format!("kernel_shape lists {} sizes for {} spatial axes", k.len(), spatial.len())),
        None => vec![Dim::Unknown; spatial.len()],
    };
    let mut shape = vec![batch.clone()];
    let slid = Window::read(call, kernel)?.slide(spatial);
    match channels_last {
        true => shape.extend(slid.into_iter().chain([channels.clone()])),
        false => shape.extend([channels.clone()].into_iter().chain(slid)),
    }
    Ok(Some(shape))
}

/// `0[n,c,h!] -> 0[n,c,i!]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    same_axes(s, &[In(0), Out(0), Out(1)], 0..2, Role::Free)
}
