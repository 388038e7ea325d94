//! CenterCropPad.
//!
//! Opsets: 18.
//!
//! Shape rule: the named axes, by default all, get the sizes in input 1.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, axis},
};

pub(super) static SPEC: OpSpec = OpSpec::new("CenterCropPad", &[sig(18, 2, 2)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let axes: Vec<usize> = match call.attrs().ints("axes") {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_, _>>()?,
        None => (0..input.len()).collect(),
    };
    let sizes = call.per_axis(1).unwrap_or_default();
    let mut shape = input.to_vec();
    for (i, &a) in axes.iter().enumerate() {
        if let Some(d) = shape.get_mut(a) {
            *d = sizes.get(i).map_or(Dim::Unknown, Num::dim);
        }
    }
    Ok(vec![call.like(0, Some(shape))])
}
