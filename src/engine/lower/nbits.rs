//! `com.microsoft::MatMulNBits`: its weight, packed in 2, 4 or 8 bits, as a plain matrix.

use planish_ir::{DType, Tensor};
use planish_passes::EngineError;

use super::{
    build::{Builder, int},
    scope::Op,
};
use crate::engine::program::failed;

/// `Y = A · dequantize(B)ᵀ + bias`, with B `[N, blocks, block_size * bits / 8]`, the first element in the low bits of
/// its byte, and one scale and zero point for each block of a row.
pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(output)) = (op.domain() == "com.microsoft" && op.name() == "MatMulNBits", op.output(0)) else {
        return Ok(false);
    };
    let a = op.required(0)?;
    let dtype = op.dtype(0).or_else(|| op.dtype(2)).unwrap_or(DType::F32);
    let weight = b.constant(weight(op)?);
    let a = if dtype == DType::F32 { a.to_owned() } else { b.cast(a, DType::F32) };
    let mut y = b.op("MatMul", &[&a, &weight], vec![]);
    if let Some(bias) = op.input(5) {
        let bias = if dtype == DType::F32 { bias.to_owned() } else { b.cast(bias, DType::F32) };
        y = b.op("Add", &[&y, &bias], vec![]);
    }
    b.op_into("Cast", &[&y], vec![int("to", i64::from(dtype.code()))], &[output]);
    Ok(true)
}

/// The weight, `[K, N]` in f32.
fn weight(op: &Op<'_>) -> Result<Tensor, EngineError> {
    let size = |name: &str, default: i64| {
        let n = usize::try_from(op.int(name, default)).ok().filter(|&n| n > 0);
        n.ok_or_else(|| op.unsupported(format!("its attribute {name} is not positive")))
    };
    let (k, n, bits, block) = (size("K", 0)?, size("N", 0)?, size("bits", 4)?, size("block_size", 0)?);
    if !matches!(bits, 2 | 4 | 8) {
        return Err(op.unsupported(format!("its weight has {bits} bits, and only 2, 4 and 8 are defined")));
    }
    if op.input(4).is_some() {
        return Err(op.unsupported("its columns are permuted by g_idx"));
    }
    let blocks = k.div_ceil(block);
    let (packed, scale) = (op.required_constant(1)?, op.required_constant(2)?);
    let (raw, scale) =
        (packed.raw().map_or(&[][..], |b| b), scale.to_f64().map_err(|e| op.unsupported(e.to_string()))?);
    let row_bytes = blocks.checked_mul((block * bits).div_ceil(8));
    let elements = k.checked_mul(n);
    let (Some(row_bytes), Some(elements)) = (row_bytes, elements) else {
        return Err(op.unsupported("its weight is larger than any memory"));
    };
    if row_bytes.checked_mul(n) != Some(raw.len()) || blocks.checked_mul(n) != Some(scale.len()) {
        return Err(op.unsupported("its weight or its scales do not have the size that its attributes say"));
    }
    let zero = Zero::new(op, bits, n, blocks)?;
    let mut values = vec![0f32; elements];
    for (row, bytes) in raw.chunks_exact(row_bytes).enumerate() {
        for column in 0..k {
            let at = row * blocks + column / block;
            let q = f64::from(unpack(bytes, column, bits));
            let (scale, zero) = (scale.get(at).copied().unwrap_or(0.0), zero.at(row, column / block));
            if let Some(v) = values.get_mut(column * n + row) {
                *v = (q - zero) as f32 * scale as f32;
            }
        }
    }
    Tensor::from_f32([k as u64, n as u64].as_slice(), &values).map_err(|e| failed(e.to_string()))
}

/// Element `i` of a row of packed elements of 2, 4 or 8 bits.
fn unpack(bytes: &[u8], i: usize, bits: usize) -> u8 {
    let per_byte = 8 / bits;
    let byte = bytes.get(i / per_byte).copied().unwrap_or(0);
    let shifted = byte >> (i % per_byte * bits);
    if bits == 8 { shifted } else { shifted & ((1 << bits) - 1) }
}

/// The zero points.
enum Zero {
    /// The middle of the range.
    Middle(f64),
    /// Each row of blocks starts at a byte of its own.
    Packed {
        bytes: bytes::Bytes,
        row: usize,
        bits: usize,
    },
    Floats {
        values: Vec<f64>,
        blocks: usize,
    },
}

impl Zero {
    fn new(op: &Op<'_>, bits: usize, n: usize, blocks: usize) -> Result<Zero, EngineError> {
        if op.input(3).is_none() {
            return Ok(Zero::Middle(f64::from(1u32 << (bits - 1))));
        }
        let t = op.required_constant(3)?;
        let wrong = || op.unsupported("its zero points do not have the size that its attributes say");
        if t.dtype() == DType::U8 {
            let row = (blocks * bits).div_ceil(8);
            let bytes = t.raw().cloned().filter(|b| row.checked_mul(n) == Some(b.len())).ok_or_else(wrong)?;
            return Ok(Zero::Packed { bytes, row, bits });
        }
        let values = t.to_f64().map_err(|e| op.unsupported(e.to_string()))?;
        if blocks.checked_mul(n) != Some(values.len()) {
            return Err(wrong());
        }
        Ok(Zero::Floats { values, blocks })
    }

    fn at(&self, row: usize, block: usize) -> f64 {
        match self {
            Zero::Middle(z) => *z,
            Zero::Packed { bytes, row: width, bits } => {
                f64::from(unpack(bytes.get(row * width..).unwrap_or_default(), block, *bits))
            }
            Zero::Floats { values, blocks } => values.get(row * blocks + block).copied().unwrap_or(0.0),
        }
    }
}
