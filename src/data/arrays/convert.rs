//! Element types of arrays to those of inputs, where nothing is lost that matters.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use planish_ir::{DType, Tensor};

use crate::data::inputs::Input;

/// The array in the input's element type. Integers may change their width if every number fits; floats are rounded,
/// with a note. Integers for a float input are refused: they usually are raw pixels, and the scale is missing.
pub(in crate::data) fn convert(array: &Tensor, input: &Input, notes: &mut Vec<String>) -> Result<Tensor> {
    let (from, to) = (array.dtype(), input.dtype);
    if from == to {
        return Ok(array.clone());
    }
    let whole = |d: DType| d.is_integer() || d == DType::Bool;
    let converted = if whole(from) && whole(to) {
        integers(array, to, &input.name)?
    } else if from.is_float() && matches!(to, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        Tensor::from_f64_as(to, array.dims(), &array.to_f64()?)?
    } else {
        bail!(
            "the array for {:?} holds {from}, but the model wants {to}; convert it, with \
             the scaling that the model was trained with",
            input.name
        )
    };
    let note = format!("the array for {:?} was converted from {from} to {to}", input.name);
    if !notes.contains(&note) {
        notes.push(note);
    }
    Ok(converted)
}

fn integers(array: &Tensor, to: DType, name: &str) -> Result<Tensor> {
    let mut bytes = Vec::new();
    let values = array.to_i64()?;
    for &v in &values {
        ensure!(
            fits(v, to),
            "the array for {name:?} holds {v}, which does not fit {to}, the type that the model wants"
        );
        // The low bytes of the two's complement are the number in every narrower type that it fits.
        let width = (to.bits() / 8) as usize;
        bytes.extend_from_slice(&v.to_le_bytes()[..width]);
    }
    Ok(Tensor::from_raw(to, array.dims(), Bytes::from(bytes))?)
}

/// True if a number is in the range of an integer type of 8 bits or more; smaller ones are packed, no array can give
/// them.
pub(in crate::data) fn fits(v: i64, dtype: DType) -> bool {
    match dtype {
        DType::Bool => (0..=1).contains(&v),
        DType::U8 => u8::try_from(v).is_ok(),
        DType::I8 => i8::try_from(v).is_ok(),
        DType::U16 => u16::try_from(v).is_ok(),
        DType::I16 => i16::try_from(v).is_ok(),
        DType::U32 => u32::try_from(v).is_ok(),
        DType::I32 => i32::try_from(v).is_ok(),
        DType::U64 => v >= 0,
        DType::I64 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(array: &Tensor, to: DType) -> Result<Tensor> {
        let input = Input { name: "x".into(), dtype: to, shape: None, optional: false };
        convert(array, &input, &mut Vec::new())
    }

    #[test]
    fn only_what_fits_is_converted() {
        let ints = Tensor::from_i64([3].as_slice(), &[-1, 0, 127]).unwrap();
        assert_eq!(run(&ints, DType::I8).unwrap().to_i64().unwrap(), [-1, 0, 127]);
        assert!(run(&ints, DType::U8).unwrap_err().to_string().contains("-1, which does not fit uint8"));
        assert!(run(&ints, DType::F32).unwrap_err().to_string().contains("scaling"));
        let doubles = Tensor::from_f64_as(DType::F64, [1].as_slice(), &[0.1]).unwrap();
        assert_eq!(run(&doubles, DType::F32).unwrap(), Tensor::from_f32([1].as_slice(), &[0.1]).unwrap());
    }
}
