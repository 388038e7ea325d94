//! com.microsoft::GatherBlockQuantized: rows of a table that is quantized block by block, dequantized.
//!
//! Opsets: 1.
//!
//! Shape rule: as Gather, in the type of the scales. A table of bytes with fewer than 8 bits per element has several elements in each
//! byte of its last axis.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    DType, Dim, Shape,
    infer::{Call, Fact, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("GatherBlockQuantized", &[sig(1, 3, 4)], Traits::ROUNDING, infer)
    .domain("com.microsoft")
    .reads(crate::cost::picked)
    .axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let dtype = call.dtype(2);
    let (Some(data), Some(indices)) = (call.shape(0), call.shape(1)) else {
        return Ok(vec![Fact::tensor(dtype, None)]);
    };
    let at = call.axis("gather_axis", 0, data.len())?;
    let mut shape: Shape = data.to_vec();
    if let (Some(last), Some(n)) = (shape.last_mut(), elements_per_byte(call)) {
        *last = n.map_or(Dim::Unknown, |n| last.mul(&Dim::Known(n)));
    }
    shape.splice(at..=at, indices.iter().cloned());
    Ok(vec![Fact::tensor(dtype, Some(shape))])
}

/// Elements in each byte of the table; `None` if each element has a place of its own, `Some(None)` if that is not known.
fn elements_per_byte(call: &Call<'_>) -> Option<Option<u64>> {
    match (call.dtype(0), u64::try_from(call.int("bits", 4))) {
        (Some(DType::U8), Ok(bits @ (2 | 4))) => Some(Some(8 / bits)),
        (Some(_), _) => None,
        (None, _) => Some(None),
    }
}

/// `0[a!,b!] 1[c] 2[a!,d!] -> 0[c,e!]`: what is gathered loses its place, and blocks stay whole.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    const PACKED: Why = "it is quantized in blocks";
    let (data, indices) = (s.shape(In(0))?.len(), s.shape(In(1))?.len());
    let at = s.call.axis("gather_axis", 0, data).map_err(|_| "its axis does not exist")?;
    let blocks = s.call.axis("quantize_axis", 1, data).map_err(|_| "its axis does not exist")?;
    for axis in 0..indices {
        s.tie(&[(In(1), axis), (Out(0), at + axis)], Role::Free)?;
    }
    for axis in (0..data).filter(|&a| a != at && a != blocks && a + 1 != data) {
        let to = if axis < at { axis } else { axis + indices - 1 };
        s.tie(&[(In(0), axis), (In(2), axis), (In(3), axis), (Out(0), to)], Role::Free)?;
    }
    same_axes(s, &[In(0), In(2)], [at], Role::Whole("its places are indices"))?;
    s.whole(In(0), blocks, PACKED)
}
