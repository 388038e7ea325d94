//! Elements of 2, 4 and 8 bits that tract has no types for.
//!
//! Integers below a byte live in bytes, small floats (4 and 8 bits) in f32.

use bytes::Bytes;
use planish_ir::{DType, SmallFloat, Tensor, TensorError, little_endian, onnx::import_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{GraphProto, TypeProto, type_proto};

use super::build::initializer;
use crate::engine::program::failed;

/// The type in which elements of a type live: the type itself, or one that holds all of its numbers.
pub(in crate::engine) const fn container(dtype: DType) -> DType {
    match dtype {
        DType::U4 | DType::U2 => DType::U8,
        DType::I4 | DType::I2 => DType::I8,
        DType::F8E8M0 => DType::F32,
        other if SmallFloat::of(other).is_some() => DType::F32,
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
    let at = |i: usize| {
        let (per_byte, mask) = ((8 / bits) as usize, ((1u16 << bits) - 1) as u8);
        raw.get(i / per_byte).map_or(0, |b| (b >> ((i % per_byte) * bits as usize)) & mask)
    };
    let packed = |decode: fn(u8) -> f64| -> Vec<f64> { (0..n).map(|i| decode(at(i))).collect() };
    Ok(match t.dtype() {
        DType::U4 | DType::U2 => packed(f64::from),
        DType::I4 => packed(|v| f64::from(v) - if v >= 8 { 16.0 } else { 0.0 }),
        DType::I2 => packed(|v| f64::from(v) - if v >= 2 { 4.0 } else { 0.0 }),
        small if SmallFloat::of(small).is_some() => {
            let decode = |v: u8| SmallFloat::of(small).map_or(f64::NAN, |f| f64::from(f.decode(v)));
            (0..n).map(|i| decode(at(i))).collect()
        }
        DType::F8E8M0 => packed(|v| if v == 0xFF { f64::NAN } else { (f64::from(v) - 127.0).exp2() }),
        d if d.is_float() => t.to_f64().map_err(|e| failed(e.to_string()))?,
        _ => t.to_i64().map_err(|e| failed(e.to_string()))?.into_iter().map(|v| v as f64).collect(),
    })
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

/// A tensor with each element in the type that it lives in.
pub(in crate::engine) fn widened(t: &Tensor) -> Result<Tensor, EngineError> {
    let values = elements(t)?;
    let bytes: Bytes = match container(t.dtype()) {
        DType::U8 => values.iter().map(|&v| v as u8).collect(),
        DType::I8 => values.iter().map(|&v| (v as i8).cast_unsigned()).collect(),
        DType::F32 => little_endian(&values, |v| (v as f32).to_le_bytes()),
        _ => return Ok(t.clone()),
    };
    Tensor::from_raw(container(t.dtype()), t.dims(), bytes).map_err(|e| failed(e.to_string()))
}

/// The reverse of [`widened`]: a tensor packed into elements of a type that lives in another one.
pub(in crate::engine) fn narrowed(t: &Tensor, to: DType) -> Result<Tensor, TensorError> {
    let bits = to.bits() as usize;
    let mask = ((1u16 << bits) - 1) as u8;
    let pack = |elements: &[u8]| elements.iter().rev().fold(0u8, |byte, e| (byte << bits) | (e & mask));
    let codes: Bytes = match (SmallFloat::of(to), to) {
        (Some(format), _) => t.iter_f32()?.map(|v| format.encode(v, true)).collect(),
        // Powers of two, of which the exponent is the code.
        (None, DType::F8E8M0) => t.iter_f32()?.map(|v| (v.to_bits() >> 23) as u8).collect(),
        (None, _) => t.raw().cloned().unwrap_or_default(),
    };
    let bytes: Bytes = if bits == 8 { codes } else { codes.chunks(8 / bits).map(pack).collect() };
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
    fn small_floats_come_back() {
        for (dtype, codes) in [
            (DType::F8E4M3FN, &[0x7E, 0x01, 0xB8][..]),
            (DType::F4E2M1, &[0x71, 0x0F]),
            (DType::F8E8M0, &[127, 1, 200]),
        ] {
            let t = Tensor::from_raw(dtype, [3].as_slice(), Bytes::from_static(codes)).unwrap();
            assert_eq!(widened(&t).unwrap().dtype(), DType::F32);
            assert_eq!(narrowed(&widened(&t).unwrap(), dtype).unwrap(), t);
        }
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
