//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, and those two of com.microsoft that had 16 and 4 bits before ONNX.
//!
//! Opsets: QuantizeLinear and DequantizeLinear 10, 13 `axis`, 19, 21 blocks, 23 to 28; DynamicQuantizeLinear 11; of com.microsoft 1.
//!
//! Shape rule: the shape stays. A quantized tensor has the type of the zero point, or of `output_dtype`, or else uint8; a
//! dequantized one that of the scale, or of `output_dtype`. The dynamic scale and zero point are scalars.

use super::{Folding, OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static QUANTIZE: OpSpec = OpSpec::new("QuantizeLinear", &[sig(10, 2, 3)], Traits::ROUNDING, |c| {
    let default = c.dtype_attr("output_dtype").or(Some(DType::U8));
    convert(c, if c.has(2) { c.dtype(2) } else { default })
})
.axes(axes);
/// Folding a constant's dequantization would undo the quantization.
const STAYS: Traits = Traits { folding: Folding::Never, ..Traits::ROUNDING };

pub(super) static DEQUANTIZE: OpSpec = OpSpec::new("DequantizeLinear", &[sig(10, 2, 3)], STAYS, |c| {
    convert(c, c.dtype_attr("output_dtype").or_else(|| c.dtype(1)))
})
.axes(axes);
pub(super) static MS_QUANTIZE: OpSpec = OpSpec::new("QuantizeLinear", &[sig(1, 2, 3)], Traits::ROUNDING, |c| {
    convert(c, if c.has(2) { c.dtype(2) } else { Some(DType::U8) })
})
.domain("com.microsoft")
.axes(axes);
pub(super) static MS_DEQUANTIZE: OpSpec =
    OpSpec::new("DequantizeLinear", &[sig(1, 2, 3)], STAYS, |c| convert(c, c.dtype(1)))
        .domain("com.microsoft")
        .axes(axes);
pub(super) static DYNAMIC: OpSpec =
    OpSpec::new("DynamicQuantizeLinear", &[sig(11, 1, 1).outputs(3, 3)], Traits::ROUNDING, |c| {
        let quantized = Fact::tensor(Some(DType::U8), c.shape(0).map(<[_]>::to_vec));
        Ok(vec![quantized, Fact::scalar(DType::F32), Fact::scalar(DType::U8)])
    })
    .axes(axes_dynamic);

fn convert(call: &Call<'_>, to: Option<DType>) -> Outcome {
    Ok(vec![Fact::tensor(to, call.shape(0).map(<[_]>::to_vec))])
}

/// `0[a,b] 1[b] 2[b] -> 0[a,b]`; with blocks `0[a,b*c] 1[a,b] 2[a,b] -> 0[a,b*c]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (input, scale) = (s.shape(In(0))?, s.shape(In(1))?);
    let at = s.call.axis("axis", 1, input.len());
    let blocks = s.call.int("block_size", 0) > 0;
    let per_axis = scale.len() == 1 && scale != [Dim::Known(1)];
    let at = match (per_axis || blocks, at) {
        (true, Err(_)) => return Err("its axis does not exist"),
        (true, Ok(at)) => Some(at),
        (false, _) => None,
    };
    for axis in 0..input.len() {
        let tied = [(In(0), axis), (Out(0), axis)];
        match (Some(axis) == at, blocks) {
            (true, true) => {
                let block = s.letter(Dim::Known(s.count("block_size", None)?), Role::Free);
                let count = s.tie(&[(In(1), axis), (In(2), axis)], Role::Free)?;
                // A last block that is not full is no product.
                if !s.size(In(0), axis)?.same(&s.size(In(1), axis)?.mul(&Dim::Known(s.count("block_size", None)?))) {
                    return Err("its blocks do not divide the axis");
                }
                tied.into_iter().for_each(|(port, axis)| s.spell(port, axis, &[count, block]));
            }
            (true, false) => {
                let letter = s.tie(&tied, Role::Free)?;
                [In(1), In(2)].into_iter().try_for_each(|p| s.vector(p, &[letter]))?;
            }
            (false, true) => {
                s.tie(&[tied.as_slice(), &[(In(1), axis), (In(2), axis)]].concat(), Role::Free)?;
            }
            (false, false) => {
                s.tie(&tied, Role::Free)?;
            }
        }
    }
    Ok(())
}

/// The scale depends on all elements.
fn axes_dynamic(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    same_axes(s, &[In(0), Out(0)], 0..rank, Role::Mixed)
}
