//! Tensors: constants and weights.
//!
//! The elements of every type but strings are held as ONNX's `raw_data` would: little-endian, packed below a byte, in
//! row-major order. The bytes are reference-counted and usually a slice of the mapped model file, so a clone copies
//! nothing, and a weight that no pass touches is never read. They are not aligned; read them through the accessors.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

use crate::DType;

/// Sizes of the axes. A scalar has none.
pub type Dims = SmallVec<[u64; 4]>;

/// A constant tensor. Its byte length always fits its type and dims.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Dims,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Raw(Bytes),
    Strings(Arc<[Bytes]>),
}

/// Why bytes do not form a tensor, or a tensor cannot be read as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The product of the dims leaves 64 bits.
    #[error("the dims {dims:?} overflow")]
    Overflow {
        /// As given.
        dims: Dims,
    },
    /// Data and dims disagree.
    #[error("a {dtype} tensor with dims {dims:?} takes {expected} {unit}, but {actual} are given")]
    Length {
        /// Element type.
        dtype: DType,
        /// As given.
        dims: Dims,
        /// What the dims ask for.
        expected: u64,
        /// What there is.
        actual: u64,
        /// Bytes or strings.
        unit: &'static str,
    },
    /// The accessor does not read this type.
    #[error("the tensor holds {actual}, not {wanted}")]
    Type {
        /// Element type of the tensor.
        actual: DType,
        /// What the accessor reads.
        wanted: &'static str,
    },
}

impl Tensor {
    /// A tensor over raw little-endian bytes. Fails if their number does not fit, or for strings.
    pub fn from_raw(dtype: DType, dims: impl Into<Dims>, bytes: Bytes) -> Result<Tensor, TensorError> {
        let dims = dims.into();
        let elements = product(&dims).ok_or_else(|| TensorError::Overflow { dims: dims.clone() })?;
        if dtype == DType::String {
            return Err(TensorError::Type { actual: dtype, wanted: "a type with a raw form" });
        }
        let expected = dtype.byte_len(elements).ok_or_else(|| TensorError::Overflow { dims: dims.clone() })?;
        let actual = bytes.len() as u64;
        if expected != actual {
            return Err(TensorError::Length { dtype, dims, expected, actual, unit: "bytes" });
        }
        Ok(Tensor { dtype, dims, data: Data::Raw(bytes) })
    }

    /// A tensor of strings, each of any bytes.
    pub fn from_strings(dims: impl Into<Dims>, strings: impl Into<Arc<[Bytes]>>) -> Result<Tensor, TensorError> {
        let (dims, strings) = (dims.into(), strings.into());
        let expected = product(&dims).ok_or_else(|| TensorError::Overflow { dims: dims.clone() })?;
        let actual = strings.len() as u64;
        if expected != actual {
            return Err(TensorError::Length { dtype: DType::String, dims, expected, actual, unit: "strings" });
        }
        Ok(Tensor { dtype: DType::String, dims, data: Data::Strings(strings) })
    }

    /// A tensor of 32-bit floats.
    pub fn from_f32(dims: impl Into<Dims>, values: &[f32]) -> Result<Tensor, TensorError> {
        Tensor::from_raw(DType::F32, dims, little_endian(values, f32::to_le_bytes))
    }

    /// A tensor of 64-bit integers.
    pub fn from_i64(dims: impl Into<Dims>, values: &[i64]) -> Result<Tensor, TensorError> {
        Tensor::from_raw(DType::I64, dims, little_endian(values, i64::to_le_bytes))
    }

    /// A 1-D tensor of 64-bit integers, as axes and shapes are given.
    pub fn ints(values: &[i64]) -> Tensor {
        let bytes = little_endian(values, i64::to_le_bytes);
        Tensor { dtype: DType::I64, dims: SmallVec::from_slice(&[values.len() as u64]), data: Data::Raw(bytes) }
    }

    /// A scalar 32-bit float.
    pub fn scalar_f32(value: f32) -> Tensor {
        Tensor { dtype: DType::F32, dims: Dims::new(), data: Data::Raw(Bytes::copy_from_slice(&value.to_le_bytes())) }
    }

    /// Floats stored in `dtype`, which must be a floating type of 16 to 64 bits; rounds to nearest even.
    pub fn from_f64_as(dtype: DType, dims: impl Into<Dims>, values: &[f64]) -> Result<Tensor, TensorError> {
        let bytes = match dtype {
            DType::F32 => little_endian(values, |v| (v as f32).to_le_bytes()),
            DType::F64 => little_endian(values, f64::to_le_bytes),
            DType::F16 => little_endian(values, |v| f16::from_f64(v).to_le_bytes()),
            DType::BF16 => little_endian(values, |v| bf16::from_f64(v).to_le_bytes()),
            _ => return Err(TensorError::Type { actual: dtype, wanted: "a 16 to 64 bit float" }),
        };
        Tensor::from_raw(dtype, dims, bytes)
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes of the axes.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // Checked when the tensor was made.
        self.dims.iter().product()
    }

    /// Bytes of the elements: of `raw_data`, or of all strings together.
    pub fn byte_len(&self) -> u64 {
        match &self.data {
            Data::Raw(b) => b.len() as u64,
            Data::Strings(s) => s.iter().map(|b| b.len() as u64).sum(),
        }
    }

    /// The raw bytes; `None` for strings.
    pub const fn raw(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Raw(b) => Some(b),
            Data::Strings(_) => None,
        }
    }

    /// The strings; `None` for every other type.
    pub fn strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(s) => Some(s),
            Data::Raw(_) => None,
        }
    }

    /// The same elements under other dims with the same product.
    pub fn with_dims(&self, dims: impl Into<Dims>) -> Result<Tensor, TensorError> {
        match &self.data {
            Data::Raw(b) => Tensor::from_raw(self.dtype, dims, b.clone()),
            Data::Strings(s) => Tensor::from_strings(dims, Arc::clone(s)),
        }
    }

    /// Elements of a floating tensor of 16 to 64 bits, widened.
    pub fn to_f64(&self) -> Result<Vec<f64>, TensorError> {
        let b = self.bytes();
        Ok(match self.dtype {
            DType::F32 => chunks(b).map(|c| f64::from(f32::from_le_bytes(c))).collect(),
            DType::F64 => chunks(b).map(f64::from_le_bytes).collect(),
            DType::F16 => chunks(b).map(|c| f16::from_le_bytes(c).to_f64()).collect(),
            DType::BF16 => chunks(b).map(|c| bf16::from_le_bytes(c).to_f64()).collect(),
            actual => return Err(TensorError::Type { actual, wanted: "a 16 to 64 bit float" }),
        })
    }

    /// Elements of a 32-bit float tensor, read one after another without a copy of the whole.
    pub fn iter_f32(&self) -> Result<impl ExactSizeIterator<Item = f32> + '_, TensorError> {
        match self.dtype {
            DType::F32 => Ok(chunks(self.bytes()).map(f32::from_le_bytes)),
            actual => Err(TensorError::Type { actual, wanted: "float" }),
        }
    }

    /// Elements of a 32-bit float tensor in one piece: without a copy if they lie in memory as the machine reads them.
    pub fn as_f32(&self) -> Result<Cow<'_, [f32]>, TensorError> {
        let in_place = if cfg!(target_endian = "little") { bytemuck::try_cast_slice(self.bytes()).ok() } else { None };
        match (self.dtype, in_place) {
            (DType::F32, Some(values)) => Ok(Cow::Borrowed(values)),
            _ => self.iter_f32().map(|values| Cow::Owned(values.collect())),
        }
    }

    /// Elements of an integer or bool tensor of 8 to 64 bits, widened. Fails on unsigned values above `i64::MAX`.
    pub fn to_i64(&self) -> Result<Vec<i64>, TensorError> {
        let b = self.bytes();
        let type_error =
            TensorError::Type { actual: self.dtype, wanted: "an 8 to 64 bit integer in the range of int64" };
        Ok(match self.dtype {
            DType::I64 => chunks(b).map(i64::from_le_bytes).collect(),
            DType::I32 => chunks(b).map(|c| i64::from(i32::from_le_bytes(c))).collect(),
            DType::I16 => chunks(b).map(|c| i64::from(i16::from_le_bytes(c))).collect(),
            DType::I8 => chunks(b).map(|c| i64::from(i8::from_le_bytes(c))).collect(),
            DType::U8 | DType::Bool => b.iter().map(|&c| i64::from(c)).collect(),
            DType::U16 => chunks(b).map(|c| i64::from(u16::from_le_bytes(c))).collect(),
            DType::U32 => chunks(b).map(|c| i64::from(u32::from_le_bytes(c))).collect(),
            DType::U64 => chunks(b)
                .map(|c| i64::try_from(u64::from_le_bytes(c)))
                .collect::<Result<_, _>>()
                .map_err(|_| type_error)?,
            _ => return Err(type_error),
        })
    }

    /// The one element of a floating tensor with a single element.
    pub fn single_f64(&self) -> Option<f64> {
        if self.elements() != 1 {
            return None;
        }
        self.to_f64().ok()?.first().copied()
    }

    /// The one element of an integer tensor with a single element.
    pub fn single_i64(&self) -> Option<i64> {
        if self.elements() != 1 {
            return None;
        }
        self.to_i64().ok()?.first().copied()
    }

    /// A short digest of type, dims and content, as the text form prints it. Reads all bytes.
    pub fn digest(&self) -> blake3::Hash {
        let mut h = blake3::Hasher::new();
        h.update(self.dtype.name().as_bytes());
        for d in &self.dims {
            h.update(&d.to_le_bytes());
        }
        match &self.data {
            Data::Raw(b) => {
                h.update(b);
            }
            Data::Strings(s) => {
                for b in s.iter() {
                    h.update(&(b.len() as u64).to_le_bytes());
                    h.update(b);
                }
            }
        }
        h.finalize()
    }

    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Raw(b) => b,
            Data::Strings(_) => &[],
        }
    }
}

/// Bitwise equality of type, dims and content (so a NaN equals itself, and `-0.0` differs from `0.0`).
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.dims == other.dims
            && match (&self.data, &other.data) {
                (Data::Raw(a), Data::Raw(b)) => (a.as_ptr() == b.as_ptr() && a.len() == b.len()) || a == b,
                (Data::Strings(a), Data::Strings(b)) => a == b,
                _ => false,
            }
    }
}

/// Type and dims only: weights are large.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype, self.dims.as_slice())
    }
}

/// Number of elements of a tensor with these dims.
pub fn product(dims: &[u64]) -> Option<u64> {
    // A zero anywhere makes the tensor empty, but the other dims must still be addressable.
    let nonzero = dims.iter().filter(|&&d| d != 0).try_fold(1u64, |n, &d| n.checked_mul(d))?;
    Some(if dims.contains(&0) { 0 } else { nonzero })
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl ExactSizeIterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Elements as tensors store them. An iterator over bytes would take them one at a time.
pub fn little_endian<T: Copy, const N: usize>(values: &[T], encode: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut bytes = vec![0u8; values.len().saturating_mul(N)];
    bytes.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(chunk, &v)| *chunk = encode(v));
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_must_fit_the_dims() {
        assert!(Tensor::from_f32([2, 3].as_slice(), &[0.0; 6]).is_ok());
        assert!(matches!(
            Tensor::from_f32([2, 3].as_slice(), &[0.0; 5]),
            Err(TensorError::Length { expected: 24, .. })
        ));
        let huge = Tensor::from_raw(DType::F32, [u64::MAX, 2].as_slice(), Bytes::new());
        assert!(matches!(huge, Err(TensorError::Overflow { .. })));
        let empty_but_huge = Tensor::from_raw(DType::F32, [u64::MAX, 2, 0].as_slice(), Bytes::new());
        assert!(matches!(empty_but_huge, Err(TensorError::Overflow { .. })));
        assert!(Tensor::from_raw(DType::I4, [3].as_slice(), Bytes::from_static(&[0, 0])).is_ok());
    }

    #[test]
    fn elements_are_widened() {
        let t = Tensor::from_raw(DType::I8, [2].as_slice(), Bytes::from_static(&[255, 1])).unwrap();
        assert_eq!(t.to_i64().unwrap(), [-1, 1]);
        assert!(t.to_f64().is_err());
        let h = Tensor::from_f64_as(DType::F16, [1].as_slice(), &[0.1]).unwrap();
        assert!((h.single_f64().unwrap() - 0.1).abs() < 1e-4);
    }
}
