//! `QuantizeLinear` and `DequantizeLinear` in plain arithmetic.
//!
//! tract has both for 8 bits per tensor and per axis with constant parameters; it multiplies by the reciprocal of the
//! scale, which rounds to another integer now and then, and has neither 16, 4 and 2 bits, nor blocks, nor float16
//! scales. Written out they follow the definition for every type:
//!
//! `q = saturate(round_half_even(x / scale) + zero_point)`, `x = (q - zero_point) * scale`.

use planish_ir::{DType, Dims, SmallFloat, Tensor};
use planish_passes::EngineError;

use super::{
    build::{Builder, int},
    packed::{container, elements, limits},
    rounding_to,
    scope::Op,
};
use crate::engine::program::failed;

/// A constant that is dequantized with constant parameters becomes a float constant.
pub(super) fn dequantize_constant(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(x), Some(output)) = (op.is("DequantizeLinear"), op.constant(0), op.output(0)) else {
        return Ok(false);
    };
    let Some(scale) = op.constant(1) else { return Ok(false) };
    if op.input(2).is_some() && op.constant(2).is_none() {
        return Ok(false);
    }
    let spread = Spread::new(op, x.dims(), scale)?;
    let (q, s) = (elements(x)?, elements(scale)?);
    let z = op.constant(2).map(elements).transpose()?;
    let at = |values: &[f64], i: usize| values.get(spread.index(i)).copied().unwrap_or(f64::NAN);
    let values: Vec<f32> = q
        .iter()
        .enumerate()
        .map(|(i, q)| {
            let shifted = q - z.as_ref().map_or(0.0, |z| at(z, i));
            // In f32, as the definition has it.
            shifted as f32 * at(&s, i) as f32
        })
        .collect();
    let dtype = result_type(op, scale.dtype());
    let values = match dtype {
        DType::F32 => Tensor::from_f32(x.dims(), &values),
        other => Tensor::from_f64_as(other, x.dims(), &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()),
    };
    b.constant_named(output, values.map_err(|e| op.unsupported(e.to_string()))?);
    Ok(true)
}

/// `DequantizeLinear` of what is computed.
pub(super) fn dequantize(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(output)) = (op.is("DequantizeLinear"), op.output(0)) else { return Ok(false) };
    let Some(to) = scale_type(op) else { return Ok(false) };
    let Some(scale) = parameter(op, b, 1)? else { return Ok(false) };
    let zero = if op.input(2).is_some() { parameter(op, b, 2)? } else { None };
    let mut x = b.cast(op.required(0)?, DType::F32);
    if let Some(zero) = zero {
        x = b.op("Sub", &[&x, &zero], vec![]);
    }
    x = b.op("Mul", &[&x, &scale], vec![]);
    let to = result_type(op, to);
    b.op_into("Cast", &[&x], vec![int("to", i64::from(to.code()))], &[output]);
    Ok(true)
}

/// `QuantizeLinear` to integers and small floats.
pub(super) fn quantize(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(output)) = (op.is("QuantizeLinear"), op.output(0)) else { return Ok(false) };
    if scale_type(op).is_none() {
        return Ok(false);
    }
    let to = match op.input(2) {
        Some(_) => op.dtype(2),
        None => Some(DType::from_code(i32::try_from(op.int("output_dtype", 0)).unwrap_or(0)).unwrap_or(DType::U8)),
    };
    let Some(to) = to else { return Ok(false) };
    let is_small_float = SmallFloat::of(to).is_some();
    if limits(to).is_none() && !is_small_float {
        return Err(op.unsupported(format!("it makes {to}, for which the engine has no type")));
    }
    let Some(scale) = parameter(op, b, 1)? else { return Ok(false) };
    let zero = if op.input(2).is_some() { parameter(op, b, 2)? } else { None };
    // tract divides floats by multiplying with the reciprocal, which is off by a bit. In f64 that is too little to
    // matter.
    let wide = b.cast(op.required(0)?, DType::F64);
    let scale = b.cast(&scale, DType::F64);
    let quotient = b.op("Div", &[&wide, &scale], vec![]);
    let mut x = b.cast(&quotient, DType::F32);
    let Some((low, high)) = limits(to).filter(|_| !is_small_float) else {
        // Floats have no zero point but 0.
        b.op_into(&rounding_to(to, op.int("saturate", 1) != 0), &[&x], vec![], &[output]);
        return Ok(true);
    };
    x = b.op("Round", &[&x], vec![]);
    if let Some(zero) = zero {
        x = b.op("Add", &[&x, &zero], vec![]);
    }
    let (low, high) = (b.float(DType::F32, low)?, b.float(DType::F32, high)?);
    x = b.op("Max", &[&x, &low], vec![]);
    x = b.op("Min", &[&x, &high], vec![]);
    b.op_into("Cast", &[&x], vec![int("to", i64::from(container(to).code()))], &[output]);
    Ok(true)
}

/// The type that dequantization gives.
fn result_type(op: &Op<'_>, scale: DType) -> DType {
    let given = DType::from_code(i32::try_from(op.int("output_dtype", 0)).unwrap_or(0));
    given.unwrap_or(if scale.is_float() && scale.bits() >= 16 { scale } else { DType::F32 })
}

fn scale_type(op: &Op<'_>) -> Option<DType> {
    op.dtype(1).or_else(|| op.constant(1).map(Tensor::dtype))
}

/// The scale or zero point at a slot as f32, in a shape that broadcasts against input 0. `None` if what would have to
/// be known is not.
fn parameter(op: &Op<'_>, b: &mut Builder<'_>, slot: usize) -> Result<Option<String>, EngineError> {
    let Some(dims) = op.shape(slot) else { return Ok(None) };
    if let Some(t) = op.constant(slot) {
        return constant_parameter(op, b, t);
    }
    let value = b.cast(op.required(slot)?, DType::F32);
    if dims.is_empty() {
        return Ok(Some(value));
    }
    if dims == [Some(1)] && op.int("block_size", 0) == 0 {
        let scalar = b.ints(&[]);
        return Ok(Some(b.op("Reshape", &[&value, &scalar], vec![])));
    }
    if dims.len() > 1 || op.int("block_size", 0) != 0 {
        return Err(op.unsupported("the parameters of its blocks are computed"));
    }
    let Some(rank) = op.rank(0) else { return Ok(None) };
    let mut shape = vec![1; rank];
    if let Some(axis) = shape.get_mut(axis(op, rank)?) {
        *axis = -1;
    }
    let shape = b.ints(&shape);
    Ok(Some(b.op("Reshape", &[&value, &shape], vec![])))
}

fn constant_parameter(op: &Op<'_>, b: &mut Builder<'_>, t: &Tensor) -> Result<Option<String>, EngineError> {
    let as_f32 = |dims: &[u64], values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Tensor::from_f32(dims, &values).map_err(|e| failed(e.to_string()))
    };
    let values = elements(t)?;
    if t.elements() == 1 && op.int("block_size", 0) == 0 {
        return Ok(Some(b.constant(as_f32(&[], &values)?)));
    }
    let Some(shape) = op.shape(0) else { return Ok(None) };
    if t.rank() == 1 && op.int("block_size", 0) == 0 {
        let mut dims = vec![1; shape.len()];
        if let Some(d) = dims.get_mut(axis(op, shape.len())?) {
            *d = t.elements();
        }
        return Ok(Some(b.constant(as_f32(&dims, &values)?)));
    }
    let dims: Option<Dims> = shape.into_iter().collect();
    let Some(dims) = dims else {
        return Err(op.unsupported("its blocks lie on an axis whose size is not fixed"));
    };
    let spread = Spread::new(op, &dims, t)?;
    let n = planish_ir::product(&dims).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let spread: Vec<f64> = (0..n).map(|i| values.get(spread.index(i)).copied().unwrap_or(f64::NAN)).collect();
    Ok(Some(b.constant(as_f32(&dims, &spread)?)))
}

fn axis(op: &Op<'_>, rank: usize) -> Result<usize, EngineError> {
    let axis = op.int("axis", 1);
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    let found = from_front.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank.max(1));
    found.ok_or_else(|| op.unsupported(format!("its axis {axis} does not exist in a tensor of rank {rank}")))
}

/// Which parameter belongs to which element of a tensor.
struct Spread {
    /// Elements behind the axis, size of the axis, entries of the axis that share a parameter, parameters along the
    /// axis.
    inner: usize,
    size: usize,
    block: usize,
    blocks: usize,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    Single,
    PerAxis,
    Blocked,
}

impl Spread {
    fn new(op: &Op<'_>, dims: &[u64], parameter: &Tensor) -> Result<Spread, EngineError> {
        let block = usize::try_from(op.int("block_size", 0)).unwrap_or(0);
        let kind = match block {
            0 if parameter.elements() == 1 => Kind::Single,
            0 => Kind::PerAxis,
            _ => Kind::Blocked,
        };
        if kind == Kind::Single {
            return Ok(Spread { inner: 1, size: 1, block: 1, blocks: 1, kind });
        }
        let axis = axis(op, dims.len())?;
        let fits = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let size = dims.get(axis).copied().map_or(1, fits);
        let inner = dims.get(axis + 1..).unwrap_or_default().iter().map(|&d| fits(d)).product();
        let block = block.max(1);
        let blocks = match kind {
            Kind::Blocked => size.div_ceil(block),
            Kind::PerAxis | Kind::Single => size,
        };
        let wanted: Vec<u64> = match kind {
            Kind::Blocked => {
                let mut wanted = dims.to_vec();
                if let Some(d) = wanted.get_mut(axis) {
                    *d = blocks as u64;
                }
                wanted
            }
            Kind::PerAxis | Kind::Single => vec![size as u64],
        };
        if parameter.dims() != wanted {
            return Err(op.unsupported(format!(
                "its scale has the shape {:?} where {wanted:?} is needed for an input of the shape {dims:?}",
                parameter.dims()
            )));
        }
        Ok(Spread { inner, size, block, blocks, kind })
    }

    /// Number of the parameter for element number `i`.
    fn index(&self, i: usize) -> usize {
        if self.kind == Kind::Single || self.inner == 0 || self.size == 0 {
            return 0;
        }
        let along = i / self.inner % self.size;
        match self.kind {
            Kind::PerAxis | Kind::Single => along,
            Kind::Blocked => {
                let outer = i / self.inner / self.size;
                (outer * self.blocks + along / self.block) * self.inner + i % self.inner
            }
        }
    }
}
