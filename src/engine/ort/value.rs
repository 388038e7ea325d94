//! Tensors to and from ONNX Runtime.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use half::{bf16, f16};
use ort::value::{DynValue, PrimitiveTensorElementType, Shape, TensorElementType, ValueType};
use planish_ir::{DType, Dims, Tensor, little_endian};

/// Copies a tensor into a value.
pub(super) fn to_ort(t: &Tensor) -> Result<DynValue> {
    let raw = t.raw().context("string tensors are not supported")?;
    let shape: Vec<i64> = t.dims().iter().map(|&d| i64::try_from(d)).collect::<Result<_, _>>()?;
    Ok(match t.dtype() {
        DType::F32 => make(shape, raw, f32::from_le_bytes)?,
        DType::F64 => make(shape, raw, f64::from_le_bytes)?,
        DType::F16 => make(shape, raw, f16::from_le_bytes)?,
        DType::BF16 => make(shape, raw, bf16::from_le_bytes)?,
        DType::I8 => make(shape, raw, i8::from_le_bytes)?,
        DType::I16 => make(shape, raw, i16::from_le_bytes)?,
        DType::I32 => make(shape, raw, i32::from_le_bytes)?,
        DType::I64 => make(shape, raw, i64::from_le_bytes)?,
        DType::U8 => make(shape, raw, u8::from_le_bytes)?,
        DType::U16 => make(shape, raw, u16::from_le_bytes)?,
        DType::U32 => make(shape, raw, u32::from_le_bytes)?,
        DType::U64 => make(shape, raw, u64::from_le_bytes)?,
        DType::Bool => make(shape, raw, |[b]: [u8; 1]| b != 0)?,
        other => bail!("{other} tensors are not supported as inputs"),
    })
}

fn make<T, const N: usize>(shape: Vec<i64>, raw: &[u8], decode: impl Fn([u8; N]) -> T) -> Result<DynValue>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    let values: Vec<T> = raw.as_chunks::<N>().0.iter().map(|&c| decode(c)).collect();
    Ok(ort::value::Tensor::from_array((shape, values))?.into_dyn())
}

/// The tensor of a value; it keeps the value if its elements lie there as they have to.
pub(super) fn from_ort(value: DynValue) -> Result<Tensor> {
    let ValueType::Tensor { ty, .. } = value.dtype() else { bail!("{} is no tensor", value.dtype()) };
    let ty = *ty;
    if ty == TensorElementType::Float32 && cfg!(target_endian = "little") {
        let dims = dims(value.try_extract_tensor::<f32>()?.0)?;
        return Ok(Tensor::from_raw(DType::F32, dims, Bytes::from_owner(Floats(value)))?);
    }
    let value = &value;
    match ty {
        TensorElementType::Float32 => take(value, DType::F32, f32::to_le_bytes),
        TensorElementType::Float64 => take(value, DType::F64, f64::to_le_bytes),
        TensorElementType::Float16 => take(value, DType::F16, f16::to_le_bytes),
        TensorElementType::Bfloat16 => take(value, DType::BF16, bf16::to_le_bytes),
        TensorElementType::Int8 => take(value, DType::I8, i8::to_le_bytes),
        TensorElementType::Int16 => take(value, DType::I16, i16::to_le_bytes),
        TensorElementType::Int32 => take(value, DType::I32, i32::to_le_bytes),
        TensorElementType::Int64 => take(value, DType::I64, i64::to_le_bytes),
        TensorElementType::Uint8 => take(value, DType::U8, u8::to_le_bytes),
        TensorElementType::Uint16 => take(value, DType::U16, u16::to_le_bytes),
        TensorElementType::Uint32 => take(value, DType::U32, u32::to_le_bytes),
        TensorElementType::Uint64 => take(value, DType::U64, u64::to_le_bytes),
        TensorElementType::Bool => take(value, DType::Bool, |b: bool| [u8::from(b)]),
        other => bail!("{other} tensors are not supported as outputs"),
    }
}

fn dims(shape: &Shape) -> Result<Dims> {
    Ok(shape.iter().map(|&d| u64::try_from(d)).collect::<Result<_, _>>()?)
}

/// A value of floats, as bytes.
struct Floats(DynValue);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        // A value of another type has no such bytes, and then its tensor is refused.
        self.0.try_extract_tensor::<f32>().map_or(&[], |(_, values)| bytemuck::cast_slice(values))
    }
}

fn take<T, const N: usize>(value: &DynValue, dtype: DType, encode: impl Fn(T) -> [u8; N]) -> Result<Tensor>
where
    T: PrimitiveTensorElementType + Copy,
{
    let (shape, values): (&Shape, &[T]) = value.try_extract_tensor()?;
    Ok(Tensor::from_raw(dtype, dims(shape)?, little_endian(values, encode))?)
}
