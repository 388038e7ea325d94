//! Tensors to and from tract.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use planish_ir::{DType, Dims, Tensor, TensorError, Type};
use tract_onnx::prelude::{DatumType, IntoArcTensor, IntoTValue, TValue, Tensor as TractTensor, TractResult};

use crate::engine::lower::{half, packed};

/// The element type in tract; `None` if it has no such type.
pub(super) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::F16 => DatumType::F16,
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::Bool => DatumType::Bool,
        _ => return None,
    })
}

/// Copies a tensor into tract's aligned memory, bfloat16 as f32 and elements below a byte as bytes.
pub(super) fn to_tract(t: &Tensor) -> TractResult<TValue> {
    if t.dtype() == DType::BF16 {
        return to_tract(&half::widened(t)?);
    }
    if packed::container(t.dtype()) != t.dtype() {
        return to_tract(&packed::widened(t)?);
    }
    let datum = datum_type(t.dtype()).with_context(|| format!("tract has no {} tensors", t.dtype()))?;
    let shape: Vec<usize> = t.dims().iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>()?;
    let bytes = t.raw().context("tract has no string tensors here")?;
    let mut copy = TractTensor::zero_dt(datum, &shape)?;
    if t.dtype() == DType::Bool {
        // A Rust bool may hold nothing but 0 and 1.
        for (to, from) in copy.try_as_plain_ram_mut()?.as_slice_mut::<bool>()?.iter_mut().zip(bytes) {
            *to = *from != 0;
        }
    } else {
        copy.as_bytes_mut().copy_from_slice(bytes);
    }
    Ok(copy.into_tvalue())
}

/// A computed value in the type that the model gives it, where tract ran it in another one for want of that.
pub(super) fn narrowed(t: Tensor, declared: Option<&Type>) -> Result<Tensor, TensorError> {
    match (t.dtype(), declared.and_then(Type::dtype)) {
        (DType::F32, Some(DType::BF16)) => Tensor::from_f64_as(DType::BF16, t.dims(), &t.to_f64()?),
        (from, Some(to)) if from != to && packed::container(to) == from => packed::narrowed(&t, to),
        _ => Ok(t),
    }
}

/// A tensor of tract's, whose memory it keeps. Symbolic sizes, which tract computes shapes with, are int64.
pub(super) fn from_tract(t: TValue) -> TractResult<Tensor> {
    let t = match t.datum_type() {
        DatumType::TDim => Arc::new(t.cast_to::<i64>()?.into_owned()),
        _ => t.into_arc_tensor(),
    };
    let dtype = match t.datum_type().unquantized() {
        DatumType::F32 => DType::F32,
        DatumType::F64 => DType::F64,
        DatumType::F16 => DType::F16,
        DatumType::I8 => DType::I8,
        DatumType::I16 => DType::I16,
        DatumType::I32 => DType::I32,
        DatumType::I64 => DType::I64,
        DatumType::U8 => DType::U8,
        DatumType::U16 => DType::U16,
        DatumType::U32 => DType::U32,
        DatumType::U64 => DType::U64,
        DatumType::Bool => DType::Bool,
        other => bail!("tract gave a tensor of {other:?}"),
    };
    let dims: Dims = t.shape().iter().map(|&d| d as u64).collect();
    Ok(Tensor::from_raw(dtype, dims, Bytes::from_owner(Memory(t)))?)
}

/// Memory of tract's. Activations are large: a copy of all that are handed out would take as much again.
struct Memory(Arc<TractTensor>);

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
