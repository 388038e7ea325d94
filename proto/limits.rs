//! Sizes: what the format allows, and what a tensor's type and shape demand.
//!
//! Shapes come from the file and may claim anything. All arithmetic on them is checked, and happens before a byte is reserved.

use thiserror::Error;

use crate::onnx::tensor_proto::DataType;

/// The newest IR version whose fields `onnx.proto` describes.
pub const NEWEST_IR_VERSION: i64 = 14;

/// The largest message that protobuf implementations read or write: 2 GiB - 1.
pub const MAX_MESSAGE_BYTES: u64 = 0x7fff_ffff;

/// Why a data type and a shape do not give a size.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// A dimension below zero.
    #[error("dimension {axis} is {size}; it must not be negative")]
    NegativeDim {
        /// Its index.
        axis: usize,
        /// Its value.
        size: i64,
    },
    /// The size does not fit 64 bits.
    #[error("the product of its dimensions overflows 64 bits")]
    Overflow,
    /// Not a value of `TensorProto.DataType`, or `UNDEFINED`.
    #[error("data type {0} is unknown")]
    UnknownType(i32),
    /// Strings vary in size.
    #[error("strings have no fixed size: they cannot be raw or external data")]
    Strings,
}

/// Bits of one element of `data_type`, a value of `TensorProto.DataType`.
///
/// # Errors
/// If the type is unknown, or is STRING.
pub fn element_bits(data_type: i32) -> Result<u32, SizeError> {
    let known = DataType::try_from(data_type).map_err(|_| SizeError::UnknownType(data_type))?;
    Ok(match known {
        DataType::Undefined => return Err(SizeError::UnknownType(data_type)),
        DataType::String => return Err(SizeError::Strings),
        DataType::Uint2 | DataType::Int2 => 2,
        DataType::Uint4 | DataType::Int4 | DataType::Float4e2m1 => 4,
        DataType::Float6e2m3 | DataType::Float6e3m2 => 6,
        DataType::Uint8
        | DataType::Int8
        | DataType::Bool
        | DataType::Float8e4m3fn
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2
        | DataType::Float8e5m2fnuz
        | DataType::Float8e8m0 => 8,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 16,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 32,
        DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => 64,
        DataType::Complex128 => 128,
    })
}

/// The number of elements of a tensor of shape `dims`: one for a scalar, none as soon as one dimension is zero.
///
/// # Errors
/// If a dimension is negative, or the product overflows.
pub fn element_count(dims: &[i64]) -> Result<u64, SizeError> {
    let negative = |(axis, &size)| SizeError::NegativeDim { axis, size };
    let sizes: Vec<u64> = dims
        .iter()
        .enumerate()
        .map(|dim| u64::try_from(*dim.1).map_err(|_| negative(dim)))
        .collect::<Result<_, _>>()?;
    if sizes.contains(&0) {
        return Ok(0);
    }
    sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size)).ok_or(SizeError::Overflow)
}

/// Bytes of a tensor as `raw_data` or external data. Elements below 8 bits are packed without gaps, the last byte is padded.
///
/// # Errors
/// If the type is unknown or STRING, a dimension is negative, or the size overflows.
pub fn tensor_byte_len(data_type: i32, dims: &[i64]) -> Result<u64, SizeError> {
    let bits = u128::from(element_bits(data_type)?) * u128::from(element_count(dims)?);
    u64::try_from(bits.div_ceil(8)).map_err(|_| SizeError::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_byte_types_are_packed() {
        let len = |data_type: DataType, dims: &[i64]| tensor_byte_len(data_type as i32, dims).unwrap();
        assert_eq!(len(DataType::Int4, &[3, 3]), 5);
        assert_eq!(len(DataType::Uint2, &[5]), 2);
        assert_eq!(len(DataType::Float6e2m3, &[4]), 3);
        assert_eq!(len(DataType::Complex128, &[2]), 32);
        assert_eq!(len(DataType::Float, &[]), 4);
    }

    #[test]
    fn empty_tensors_have_no_bytes_whatever_else_they_claim() {
        assert_eq!(element_count(&[i64::MAX, i64::MAX, 0]), Ok(0));
        assert_eq!(element_count(&[0, -1]), Err(SizeError::NegativeDim { axis: 1, size: -1 }));
    }

    #[test]
    fn overflow_is_refused() {
        assert_eq!(element_count(&[1 << 32, 1 << 32]), Err(SizeError::Overflow));
        assert_eq!(tensor_byte_len(DataType::Double as i32, &[i64::MAX]), Err(SizeError::Overflow));
        assert_eq!(tensor_byte_len(DataType::Int4 as i32, &[i64::MAX]), Ok(1 << 62));
    }

    #[test]
    fn types_without_a_size_are_refused() {
        assert_eq!(element_bits(0), Err(SizeError::UnknownType(0)));
        assert_eq!(element_bits(99), Err(SizeError::UnknownType(99)));
        assert_eq!(element_bits(DataType::String as i32), Err(SizeError::Strings));
    }
}
