//! Elements of 2, 4 and 8 bits that tract has no types for.
//!
//! Integers below a byte live in bytes. Small floats (4 and 8 bits) only occur as constants that are dequantized.

use bytes::Bytes;
use planish_ir::{DType, Tensor, TensorError, onnx::import_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{GraphProto, TypeProto, type_proto};

use super::build::initializer;
use crate::engine::program::failed;

/// The type in which integers of a type live: the type itself, or the byte that is wide enough.
pub(in crate::engine) const fn container(dtype: DType) -> DType {
    match dtype {
        DType::U4 | DType::U2 => DType::U8,
        DType::I4 | DType::I2 => DType::I8,
        other => other,
    }
}

/// Smallest and largest integer of a type; `None` for others and for those that a float does not hold exactly.
pub(super) const fn limits(dtype: DType) -> Option<(f64, f64)> {
    Some(match dtype {
        DType::U2 => (0.0, 3.0),
        DType::I2 => (-2.0, 1.0),
        DType::U4 => (0.0, 15.0),
        DType::I4 => (-8.0, 7.0),
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        _ => return None,
    })
}

/// The elements of a tensor of any number type that f64 holds.
pub(super) fn elements(t: &Tensor) -> Result<Vec<f64>, EngineError> {
    let raw = t.raw().map_or(&[][..], |b| b);
    let n = usize::try_from(t.elements()).unwrap_or(0);
    let bits = t.dtype().bits();
    let packed = |decode: fn(u8) -> f64| -> Vec<f64> {
        let (per_byte, mask) = ((8 / bits) as usize, ((1u16 << bits) - 1) as u8);
        let at = |i: usize| raw.get(i / per_byte).map_or(0, |b| (b >> ((i % per_byte) * bits as usize)) & mask);
        (0..n).map(|i| decode(at(i))).collect()
    };
    Ok(match t.dtype() {
        DType::U4 | DType::U2 => packed(f64::from),
        DType::I4 => packed(|v| f64::from(v) - if v >= 8 { 16.0 } else { 0.0 }),
        DType::I2 => packed(|v| f64::from(v) - if v >= 2 { 4.0 } else { 0.0 }),
        DType::F4E2M1 => packed(|v| small_float(v << 4, &E2M1)),
        DType::F8E4M3FN => packed(|v| if v & 0x7F == 0x7F { f64::NAN } else { small_float(v, &E4M3) }),
        DType::F8E4M3FNUZ => packed(|v| if v == 0x80 { f64::NAN } else { small_float(v, &E4M3_UZ) }),
        DType::F8E5M2 => packed(|v| match v & 0x7F {
            0x7C => f64::INFINITY.copysign(f64::from(v.cast_signed())),
            0x7D..=0x7F => f64::NAN,
            _ => small_float(v, &E5M2),
        }),
        DType::F8E5M2FNUZ => packed(|v| if v == 0x80 { f64::NAN } else { small_float(v, &E5M2_UZ) }),
        DType::F8E8M0 => packed(|v| if v == 0xFF { f64::NAN } else { (f64::from(v) - 127.0).exp2() }),
        d if d.is_float() => t.to_f64().map_err(|e| failed(e.to_string()))?,
        _ => t.to_i64().map_err(|e| failed(e.to_string()))?.into_iter().map(|v| v as f64).collect(),
    })
}

/// Layout of a float of at most 8 bits, aligned to the top of the byte: bits of the exponent and of the mantissa, and
/// the bias.
struct Layout {
    exponent: u32,
    mantissa: u32,
    bias: i32,
}

const E2M1: Layout = Layout { exponent: 2, mantissa: 1, bias: 1 };
const E4M3: Layout = Layout { exponent: 4, mantissa: 3, bias: 7 };
const E4M3_UZ: Layout = Layout { exponent: 4, mantissa: 3, bias: 8 };
const E5M2: Layout = Layout { exponent: 5, mantissa: 2, bias: 15 };
const E5M2_UZ: Layout = Layout { exponent: 5, mantissa: 2, bias: 16 };

/// A float that is not special.
fn small_float(byte: u8, layout: &Layout) -> f64 {
    let unused = 7 - layout.exponent - layout.mantissa;
    let magnitude = u32::from(byte & 0x7F) >> unused;
    let (exponent, mantissa) = (magnitude >> layout.mantissa, magnitude & ((1 << layout.mantissa) - 1));
    let fraction = f64::from(mantissa) / f64::from(1u32 << layout.mantissa);
    let value = match exponent {
        0 => fraction * f64::from(1 - layout.bias).exp2(),
        e => (1.0 + fraction) * (f64::from(e) - f64::from(layout.bias)).exp2(),
    };
    if byte & 0x80 == 0 { value } else { -value }
}

/// Moves the inputs of a graph, and its and its subgraphs' constants, that tract cannot read into types that it can.
pub(super) fn widen(graph: &mut GraphProto) -> Result<(), EngineError> {
    for input in &mut graph.input {
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &mut input.r#type
            && let Some(dtype) = t.elem_type.and_then(DType::from_code)
        {
            t.elem_type = Some(container(dtype).code());
        }
    }
    for t in &mut graph.initializer {
        let dtype = t.data_type.and_then(DType::from_code);
        if dtype.is_none_or(|d| container(d) == d) {
            continue;
        }
        let tensor = import_tensor(t.clone(), &|_| Err("external".into())).map_err(|e| failed(e.to_string()))?;
        *t = initializer(t.name.as_deref().unwrap_or(""), &widened(&tensor)?);
    }
    for inner in graph.node.iter_mut().flat_map(|n| &mut n.attribute).flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
    {
        widen(inner)?;
    }
    Ok(())
}

/// A tensor with each element in the byte that it lives in.
pub(in crate::engine) fn widened(t: &Tensor) -> Result<Tensor, EngineError> {
    let values = elements(t)?;
    let bytes: Bytes = match container(t.dtype()) {
        DType::U8 => values.iter().map(|&v| v as u8).collect(),
        DType::I8 => values.iter().map(|&v| (v as i8).cast_unsigned()).collect(),
        _ => return Ok(t.clone()),
    };
    Tensor::from_raw(container(t.dtype()), t.dims(), bytes).map_err(|e| failed(e.to_string()))
}

/// The reverse of [`widened`]: a tensor of bytes, packed into elements of a type that lives in them.
pub(in crate::engine) fn narrowed(t: &Tensor, to: DType) -> Result<Tensor, TensorError> {
    let bits = to.bits() as usize;
    let mask = ((1u16 << bits) - 1) as u8;
    let pack = |elements: &[u8]| elements.iter().rev().fold(0u8, |byte, e| (byte << bits) | (e & mask));
    let bytes: Bytes = t.raw().map_or(&[][..], |b| b).chunks(8 / bits).map(pack).collect();
    Tensor::from_raw(to, t.dims(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_ir::Dims;

    fn decode(dtype: DType, n: u64, bytes: &'static [u8]) -> Vec<f64> {
        elements(&Tensor::from_raw(dtype, Dims::from_slice(&[n]), Bytes::from_static(bytes)).unwrap()).unwrap()
    }

    #[test]
    fn packed_elements_start_in_the_low_bits() {
        assert_eq!(decode(DType::I4, 3, &[0x8F, 0x07]), [-1.0, -8.0, 7.0]);
        assert_eq!(decode(DType::U4, 3, &[0x8F, 0x07]), [15.0, 8.0, 7.0]);
        assert_eq!(decode(DType::I2, 4, &[0b11_10_01_00]), [0.0, 1.0, -2.0, -1.0]);
        assert_eq!(decode(DType::F4E2M1, 4, &[0x71, 0xF2]), [0.5, 6.0, 1.0, -6.0]);
    }

    #[test]
    fn bytes_are_packed_again() {
        let packed = Tensor::from_raw(DType::I4, [3].as_slice(), Bytes::from_static(&[0x8F, 0x07])).unwrap();
        assert_eq!(narrowed(&widened(&packed).unwrap(), DType::I4).unwrap(), packed);
    }

    #[test]
    fn small_floats_have_their_values() {
        assert_eq!(decode(DType::F8E4M3FN, 4, &[0x7E, 0x01, 0x38, 0xB8]), [448.0, 0.001953125, 1.0, -1.0]);
        assert!(decode(DType::F8E4M3FN, 1, &[0xFF])[0].is_nan());
        assert_eq!(decode(DType::F8E5M2, 3, &[0x7B, 0x7C, 0xFC]), [57344.0, f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!(decode(DType::F8E4M3FNUZ, 1, &[0x7F]), [240.0]);
        assert_eq!(decode(DType::F8E5M2FNUZ, 1, &[0x7F]), [57344.0]);
        assert_eq!(decode(DType::F8E8M0, 2, &[127, 0]), [1.0, 2f64.powi(-127)]);
    }
}
