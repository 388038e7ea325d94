//! `TensorProto` and `SparseTensorProto` to and from tensors.
//!
//! Whatever field a file keeps the elements in, the IR holds raw bytes; raw data itself is taken over without a copy.

use bytes::Bytes;
use planish_proto::onnx::{SparseTensorProto, TensorProto, tensor_proto::DataLocation};

use super::{External, WireError, types::dtype_in};
use crate::{DType, Dims, SparseTensor, Tensor};

/// Converts a tensor message; `external` fetches data that is stored beside the model.
pub fn import_tensor(message: TensorProto, external: &External<'_>) -> Result<Tensor, WireError> {
    if message.segment.is_some() {
        return Err(WireError::Segmented);
    }
    let dtype = dtype_in(message.data_type)?;
    let dims = dims_in(&message.dims)?;
    if message.data_location == Some(DataLocation::External.into()) {
        let bytes = external(&message).map_err(WireError::External)?;
        return Ok(Tensor::from_raw(dtype, dims, bytes)?);
    }
    if dtype == DType::String {
        return Ok(Tensor::from_strings(dims, message.string_data)?);
    }
    let bytes = match message.raw_data {
        Some(raw) if !raw.is_empty() || !has_typed_data(&message) => raw,
        _ => typed_data(dtype, &message)?,
    };
    Ok(Tensor::from_raw(dtype, dims, bytes)?)
}

pub(super) fn import_sparse(message: SparseTensorProto, external: &External<'_>) -> Result<SparseTensor, WireError> {
    let part = |t: Option<TensorProto>| import_tensor(t.ok_or(WireError::Data)?, external);
    Ok(SparseTensor { values: part(message.values)?, indices: part(message.indices)?, dims: dims_in(&message.dims)? })
}

pub(super) fn tensor_out(name: Option<String>, t: &Tensor) -> TensorProto {
    TensorProto {
        dims: dims_out(t.dims()),
        data_type: Some(t.dtype().code()),
        name,
        raw_data: t.raw().cloned(),
        string_data: t.strings().map(<[Bytes]>::to_vec).unwrap_or_default(),
        ..Default::default()
    }
}

pub(super) fn sparse_out(name: Option<String>, t: &SparseTensor) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(tensor_out(name, &t.values)),
        indices: Some(tensor_out(None, &t.indices)),
        dims: dims_out(&t.dims),
    }
}

fn dims_in(dims: &[i64]) -> Result<Dims, WireError> {
    let convert = |&d: &i64| u64::try_from(d).map_err(|_| WireError::NegativeDim(dims.to_vec()));
    dims.iter().map(convert).collect()
}

fn dims_out(dims: &[u64]) -> Vec<i64> {
    // Dims of a tensor come from int64 or describe bytes in memory, so they fit.
    dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect()
}

fn has_typed_data(m: &TensorProto) -> bool {
    !(m.float_data.is_empty()
        && m.int32_data.is_empty()
        && m.int64_data.is_empty()
        && m.double_data.is_empty()
        && m.uint64_data.is_empty())
}

/// The bytes of elements in the typed fields, by the rules in the comments of `TensorProto` (onnx.proto).
fn typed_data(dtype: DType, m: &TensorProto) -> Result<Bytes, WireError> {
    use DType::*;
    let fields = [m.float_data.len(), m.int32_data.len(), m.int64_data.len(), m.double_data.len(), m.uint64_data.len()];
    if fields.iter().filter(|&&n| n > 0).count() > 1 {
        return Err(WireError::Data);
    }
    let wanted = match dtype {
        F32 | Complex64 => 0,
        I64 => 2,
        F64 | Complex128 => 3,
        U32 | U64 => 4,
        _ => 1,
    };
    if fields.iter().enumerate().any(|(i, &n)| n > 0 && i != wanted) {
        return Err(WireError::Data);
    }
    Ok(match dtype {
        F32 | Complex64 => m.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        F64 | Complex128 => m.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        I64 => m.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        U64 => m.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        U32 => narrow(&m.uint64_data, |v| u32::try_from(v).ok().map(u32::to_le_bytes), dtype)?,
        I32 => m.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        I16 => narrow(&m.int32_data, |v| i16::try_from(v).ok().map(i16::to_le_bytes), dtype)?,
        I8 => narrow(&m.int32_data, |v| i8::try_from(v).ok().map(i8::to_le_bytes), dtype)?,
        U16 | F16 | BF16 => narrow(&m.int32_data, |v| u16::try_from(v).ok().map(u16::to_le_bytes), dtype)?,
        Bool => narrow(&m.int32_data, |v| u8::try_from(v).ok().filter(|&b| b <= 1).map(u8::to_le_bytes), dtype)?,
        // The rest are bytes: 8-bit types, and packed smaller ones, of which one number holds one byte. A packed signed
        // byte may have been written with its sign.
        U4 | I4 | U2 | I2 | F4E2M1 => narrow(
            &m.int32_data,
            |v| u8::try_from(v).ok().or_else(|| i8::try_from(v).ok().map(i8::cast_unsigned)).map(u8::to_le_bytes),
            dtype,
        )?,
        U8 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 => {
            narrow(&m.int32_data, |v| u8::try_from(v).ok().map(u8::to_le_bytes), dtype)?
        }
        String => return Err(WireError::Data),
    })
}

fn narrow<T: Copy, const N: usize>(
    values: &[T],
    convert: impl Fn(T) -> Option<[u8; N]>,
    dtype: DType,
) -> Result<Bytes, WireError>
where
    i128: From<T>,
{
    let mut bytes = Vec::with_capacity(values.len().saturating_mul(N));
    for &v in values {
        let element = convert(v)
            .ok_or_else(|| WireError::Range { value: i64::try_from(i128::from(v)).unwrap_or(i64::MAX), dtype })?;
        bytes.extend_from_slice(&element);
    }
    Ok(Bytes::from(bytes))
}
