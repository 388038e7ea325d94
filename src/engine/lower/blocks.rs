//! `GatherBlockQuantized` and `MatMulBnb4` of `com.microsoft`: their tables, packed in 4 or 8 bits, as plain ones.

use planish_ir::{DType, Dims, Tensor};
use planish_passes::EngineError;

use super::{
    build::{Builder, int},
    packed::elements,
    scope::Op,
};
use crate::engine::program::failed;

pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("com.microsoft", "GatherBlockQuantized") => gather(op, b),
        ("com.microsoft", "MatMulBnb4") => bnb4(op, b),
        _ => Ok(false),
    }
}

fn count(op: &Op<'_>, name: &str, default: i64) -> Result<usize, EngineError> {
    let n = usize::try_from(op.int(name, default)).ok().filter(|&n| n > 0);
    n.ok_or_else(|| op.unsupported(format!("its attribute {name} is not positive")))
}

/// `Gather((table - zero) * scale, indices)`, with a scale for each block along an axis.
fn gather(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let Some(output) = op.output(0) else { return Ok(false) };
    let table = table(op)?;
    let dtype = op.required_constant(2)?.dtype();
    let table = b.constant(table);
    let axis = int("axis", op.int("gather_axis", 0));
    let picked = b.op("Gather", &[&table, op.required(1)?], vec![axis]);
    b.op_into("Cast", &[&picked], vec![int("to", i64::from(dtype.code()))], &[output]);
    Ok(true)
}

fn table(op: &Op<'_>) -> Result<Tensor, EngineError> {
    let wrong = || op.unsupported("its table, scales or zero points do not have the sizes that its attributes say");
    let (data, scale) = (op.required_constant(0)?, op.required_constant(2)?);
    let block = count(op, "block_size", 128)?;
    let bits = count(op, "bits", 4)?;
    let (q, dims) = unpacked(data, bits)?;
    let axis = op.int("quantize_axis", 1);
    let axis = if axis < 0 { axis.checked_add_unsigned(dims.len() as u64) } else { Some(axis) };
    let axis = axis.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < dims.len()).ok_or_else(wrong)?;
    let size = |dims: &[u64]| planish_ir::product(dims).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong);
    let (along, inner) =
        (size(dims.get(axis..=axis).unwrap_or_default())?, size(dims.get(axis + 1..).unwrap_or_default())?);
    let blocks = along.div_ceil(block);
    let mut wanted = dims.clone();
    if let Some(d) = wanted.get_mut(axis) {
        *d = blocks as u64;
    }
    let scales = elements(scale)?;
    let zeros = match op.input(3) {
        Some(_) => Some(unpacked(op.required_constant(3)?, bits)?.0),
        None => None,
    };
    if scale.dims() != wanted.as_slice() || zeros.as_ref().is_some_and(|z| z.len() < scales.len()) {
        return Err(wrong());
    }
    // Packed zero points may fill up the last byte.
    let row = |n: u64| if data.dtype() == DType::U8 && bits < 8 { n.next_multiple_of(8 / bits as u64) } else { n };
    let (last, padded) = wanted.last().map_or((1, 1), |&n| (n as usize, row(n) as usize));
    let middle = if data.dtype() == DType::U8 { f64::from(1u32 << (bits - 1).min(7)) } else { 0.0 };
    let values: Vec<f32> = q
        .iter()
        .take(size(&dims)?)
        .enumerate()
        .map(|(i, q)| {
            let at = (i / inner / along * blocks + i / inner % along / block) * inner + i % inner;
            let zero = zeros.as_ref().map_or(Some(&middle), |z| z.get(at / last * padded + at % last));
            (q - zero.copied().unwrap_or(f64::NAN)) as f32 * scales.get(at).map_or(f32::NAN, |&s| s as f32)
        })
        .collect();
    Tensor::from_f32(dims.as_slice(), &values).map_err(|e| failed(e.to_string()))
}

/// The elements and the shape of a table of integers; bytes may hold several of them each.
fn unpacked(t: &Tensor, bits: usize) -> Result<(Vec<f64>, Dims), EngineError> {
    let raw = elements(t)?;
    let mut dims: Dims = t.dims().into();
    if t.dtype() != DType::U8 || !matches!(bits, 2 | 4) {
        return Ok((raw, dims));
    }
    let per_byte = 8 / bits;
    if let Some(last) = dims.last_mut() {
        *last = last.saturating_mul(per_byte as u64);
    }
    let part = |byte: f64, i: usize| f64::from((byte as u8 >> (i * bits)) & ((1u8 << bits) - 1));
    Ok((raw.iter().flat_map(|&byte| (0..per_byte).map(move |i| part(byte, i))).collect(), dims))
}

/// Normal float of 4 bits: quantiles of the normal distribution (Dettmers et al., QLoRA, 2023).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Float of 4 bits with its largest element at 1: sign, 2 bits of exponent, 1 bit of mantissa.
const FP4: [f32; 8] = [0.0, 0.005_208_333, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25];

/// `A · Wᵀ`, W `[N, K]` in row-major order: two elements in a byte, the first one in its high bits, and the largest magnitude of each
/// block.
fn bnb4(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let Some(output) = op.output(0) else { return Ok(false) };
    if op.int("transB", 1) != 1 {
        return Err(op.unsupported("its weight is not transposed"));
    }
    let (k, n, block) = (count(op, "K", 0)?, count(op, "N", 0)?, count(op, "block_size", 0)?);
    let (packed, scale) = (op.required_constant(1)?, elements(op.required_constant(2)?)?);
    let bytes = packed.raw().map_or(&[][..], |b| b);
    let total = k.checked_mul(n).filter(|t| t.div_ceil(2) == bytes.len() && t.div_ceil(block) == scale.len());
    let total =
        total.ok_or_else(|| op.unsupported("its weight or its scales do not have the size that its attributes say"))?;
    let decode: fn(usize) -> f32 = match op.int("quant_type", 0) {
        0 => |i| FP4.get(i % 8).copied().unwrap_or(f32::NAN) * if i < 8 { 1.0 } else { -1.0 },
        _ => |i| NF4.get(i).copied().unwrap_or(f32::NAN),
    };
    let mut values = vec![0f32; total];
    for i in 0..total {
        let byte = bytes.get(i / 2).copied().unwrap_or(0);
        let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
        if let (Some(v), Some(&s)) = (values.get_mut(i % k * n + i / k), scale.get(i / block)) {
            *v = decode(usize::from(code)) * s as f32;
        }
    }
    let weight = Tensor::from_f32([k as u64, n as u64].as_slice(), &values).map_err(|e| failed(e.to_string()))?;
    let weight = b.constant(weight);
    let dtype = op.dtype(0).unwrap_or(DType::F32);
    let a = b.cast(op.required(0)?, DType::F32);
    let y = b.op("MatMul", &[&a, &weight], vec![]);
    b.op_into("Cast", &[&y], vec![int("to", i64::from(dtype.code()))], &[output]);
    Ok(true)
}
