//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.
//!
//! Opsets: QuantizeLinear and DequantizeLinear 10, 13 `axis`, 19, 21 blocks, 23 to 28; DynamicQuantizeLinear 11.
//!
//! Shape rule: the shape stays. A quantized tensor has the type of the zero point, or of `output_dtype`, or else uint8; a
//! dequantized one that of the scale, or of `output_dtype`. The dynamic scale and zero point are scalars.

use super::{Folding, OpSpec, Traits, sig};
use crate::{
    DType,
    infer::{Call, Fact, Outcome},
};

pub(super) static QUANTIZE: OpSpec = OpSpec::new("QuantizeLinear", &[sig(10, 2, 3)], Traits::ROUNDING, |c| {
    let default = c.dtype_attr("output_dtype").or(Some(DType::U8));
    convert(c, if c.has(2) { c.dtype(2) } else { default })
});
/// Folding a constant's dequantization would undo the quantization.
const STAYS: Traits = Traits { folding: Folding::Never, ..Traits::ROUNDING };

pub(super) static DEQUANTIZE: OpSpec = OpSpec::new("DequantizeLinear", &[sig(10, 2, 3)], STAYS, |c| {
    convert(c, c.dtype_attr("output_dtype").or_else(|| c.dtype(1)))
});
pub(super) static DYNAMIC: OpSpec =
    OpSpec::new("DynamicQuantizeLinear", &[sig(11, 1, 1).outputs(3, 3)], Traits::ROUNDING, |c| {
        let quantized = Fact::tensor(Some(DType::U8), c.shape(0).map(<[_]>::to_vec));
        Ok(vec![quantized, Fact::scalar(DType::F32), Fact::scalar(DType::U8)])
    });

fn convert(call: &Call<'_>, to: Option<DType>) -> Outcome {
    Ok(vec![Fact::tensor(to, call.shape(0).map(<[_]>::to_vec))])
}
