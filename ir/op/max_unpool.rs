//! MaxUnpool.
//!
//! Opsets: 9, 11, 22.
//!
//! Shape rule: what `output_shape` (input 2) lists, or per spatial axis `stride * (size - 1) + kernel - pads`.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::infer::{Call, Num, Outcome, Window};

pub(super) static SPEC: OpSpec = OpSpec::new("MaxUnpool", &[sig(9, 2, 3)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    if call.has(2) {
        let shape = call.per_axis(2).map(|s| s.iter().map(Num::dim).collect());
        return Ok(vec![call.like(0, shape)]);
    }
    let (Some([batch, channels, spatial @ ..]), Some(kernel)) = (call.shape(0), call.attrs().ints("kernel_shape"))
    else {
        return Ok(vec![call.like(0, None)]);
    };
    if kernel.len() != spatial.len() {
        return Err(format!("kernel_shape lists {} sizes for {} spatial axes", kernel.len(), spatial.len()));
    }
    let window = Window::read(call, kernel.iter().map(|&k| Num::Int(k).dim()).collect())?;
    let sizes = window.unslide(spatial, &[]);
    Ok(vec![call.like(0, Some([batch.clone(), channels.clone()].into_iter().chain(sizes).collect()))])
}

/// `0[n!,c!,h!] 1[n!,c!,h!] -> 0[n!,c!,i!]`: the indices count through the whole tensor.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    same_axes(s, &[In(0), In(1), Out(0)], 0..2, Role::Whole("indices count through it"))?;
    let spatial = 2..s.shape(In(0))?.len();
    same_axes(s, &[In(0), In(1)], spatial, Role::Whole("indices count through it"))
}
