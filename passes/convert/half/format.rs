//! The two 16-bit float formats.

use half::{bf16, f16};
use planish_ir::{DType, Tensor, TensorError};

/// A 16-bit float format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::convert) enum Format {
    /// IEEE 754 binary16: 11 bits of precision, from 6e-5 (6e-8 with fewer bits) to 65504.
    Float16,
    /// The upper half of a float32: 8 bits of precision, and the range of float32.
    Bfloat16,
}

impl Format {
    /// The element type.
    pub(super) const fn dtype(self) -> DType {
        match self {
            Format::Float16 => DType::F16,
            Format::Bfloat16 => DType::BF16,
        }
    }

    /// Name in ONNX and in messages.
    pub(super) const fn name(self) -> &'static str {
        self.dtype().name()
    }

    /// The nearest number of the format; ties go to even.
    pub(super) fn round(self, v: f32) -> f32 {
        match self {
            Format::Float16 => f16::from_f32(v).to_f32(),
            Format::Bfloat16 => bf16::from_f32(v).to_f32(),
        }
    }

    /// The largest finite number.
    pub(super) fn max(self) -> f32 {
        match self {
            Format::Float16 => f16::MAX.to_f32(),
            Format::Bfloat16 => bf16::MAX.to_f32(),
        }
    }

    /// The smallest number that has all bits of precision.
    pub(super) fn min_normal(self) -> f32 {
        match self {
            Format::Float16 => f16::MIN_POSITIVE.to_f32(),
            Format::Bfloat16 => bf16::MIN_POSITIVE.to_f32(),
        }
    }

    /// True for a finite number that becomes infinite.
    pub(super) fn overflows(self, v: f32) -> bool {
        v.is_finite() && self.round(v).is_infinite()
    }

    /// True for a number other than zero that becomes zero.
    pub(super) fn flushes(self, v: f32) -> bool {
        v != 0.0 && self.round(v) == 0.0
    }

    /// A float tensor in the format, rounded to nearest even.
    pub(super) fn convert(self, tensor: &Tensor) -> Result<Tensor, TensorError> {
        let numbers = tensor.iter_f32()?;
        let mut bytes = Vec::with_capacity(numbers.len().saturating_mul(2));
        for v in numbers {
            bytes.extend_from_slice(&match self {
                Format::Float16 => f16::from_f32(v).to_le_bytes(),
                Format::Bfloat16 => bf16::from_f32(v).to_le_bytes(),
            });
        }
        Tensor::from_raw(self.dtype(), tensor.dims(), bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_range() {
        let f = Format::Float16;
        assert!(!f.overflows(65519.0) && f.overflows(65520.0) && !f.overflows(f32::INFINITY));
        assert!(f.flushes(2f32.powi(-25)) && !f.flushes(2f32.powi(-25) * 1.001) && !f.flushes(0.0));
        let b = Format::Bfloat16;
        assert!(b.overflows(f32::MAX) && !b.overflows(3.38e38));
        assert!(b.flushes(1e-41) && !b.flushes(1e-40));
    }
}
