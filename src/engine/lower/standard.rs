//! Forms of standard operators that tract does not take or takes for another one.

use planish_ir::{DType, Dims, Tensor};
use planish_passes::EngineError;
use planish_proto::onnx::NodeProto;

use super::{
    build::{Builder, int, ints},
    scope::Op,
};
use crate::engine::program::failed;

pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("", "Gemm") => half_gemm(op, b),
        ("", "Compress") => compress(op, b),
        ("", "MatMul") => dot_product(op, b),
        ("", "Mod") => modulo(op, b),
        ("", "Pad") => Ok(crop(op, b)? || pad(op, b)? || pad_with_computed(op, b)?),
        ("", "Range") => range(op, b),
        ("", "STFT") => real_signal(op, b),
        ("", "Squeeze") => squeeze(op, b),
        _ => Ok(false),
    }
}

/// tract gives the product of half precision matrices in single precision, and then finds that it does not fit.
fn half_gemm(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(dtype @ (DType::F16 | DType::BF16)), Some(y)) = (op.dtype(0), op.output(0)) else { return Ok(false) };
    let inputs: Vec<String> = (0..3).filter_map(|i| op.input(i)).map(|v| b.cast(v, DType::F32)).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let product = b.op("Gemm", &inputs, op.node.attribute.clone());
    b.op_into("Cast", &[&product], vec![int("to", dtype.code().into())], &[y]);
    Ok(true)
}

/// With a constant condition, the entries that are kept are known.
fn compress(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(condition), Some(y)) = (op.constant(1).and_then(Tensor::raw), op.output(0)) else { return Ok(false) };
    let kept: Vec<i64> = condition.iter().zip(0..).filter(|(c, _)| **c != 0).map(|(_, i)| i).collect();
    let x = op.required(0)?;
    let (x, axis) = match op.attribute("axis") {
        Some(_) => (x.to_owned(), op.int("axis", 0)),
        None => (reshaped(b, x, &[-1]), 0),
    };
    let kept = b.ints(&kept);
    b.op_into("Gather", &[&x, &kept], vec![int("axis", axis)], &[y]);
    Ok(true)
}

/// tract multiplies no vector with a vector.
fn dot_product(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(1), Some(1), Some(y)) = (op.rank(0), op.rank(1), op.output(0)) else { return Ok(false) };
    let row = reshaped(b, op.required(0)?, &[1, -1]);
    let column = reshaped(b, op.required(1)?, &[-1, 1]);
    let product = b.op("MatMul", &[&row, &column], vec![]);
    let scalar = b.ints(&[]);
    b.op_into("Reshape", &[&product, &scalar], vec![], &[y]);
    Ok(true)
}

fn reshaped(b: &mut Builder<'_>, value: &str, shape: &[i64]) -> String {
    let shape = b.ints(shape);
    b.op("Reshape", &[value, &shape], vec![])
}

/// The remainder of signed integers has the sign of the divisor; tract gives it the sign of the dividend, which is what
/// ONNX means by fmod.
fn modulo(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    if op.int("fmod", 0) != 0 {
        return Ok(false);
    }
    let (Some(dtype), Some(y)) = (op.dtype(0), op.output(0)) else {
        return Err(op.unsupported("the type of its inputs is not known, on which its result depends"));
    };
    if !matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64) {
        return Ok(false);
    }
    let divisor = op.required(1)?;
    let zero = Tensor::from_i64(Dims::new(), &[0]).map_err(|e| failed(e.to_string()))?;
    let zero = b.constant(zero);
    let zero = b.cast(&zero, dtype);
    let remainder = b.op("Mod", &[op.required(0)?, divisor], vec![int("fmod", 1)]);
    let left = b.op("Less", &[&remainder, &zero], vec![]);
    let right = b.op("Less", &[divisor, &zero], vec![]);
    let differ = b.op("Xor", &[&left, &right], vec![]);
    let is_zero = b.op("Equal", &[&remainder, &zero], vec![]);
    let some = b.op("Not", &[&is_zero], vec![]);
    let wrong = b.op("And", &[&differ, &some], vec![]);
    let shifted = b.op("Add", &[&remainder, divisor], vec![]);
    b.op_into("Where", &[&wrong, &shifted, &remainder], vec![], &[y]);
    Ok(true)
}

/// A value to pad with says nothing where another mode is asked for, but tract pads with it; and it wants a true
/// scalar.
fn pad(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let Some(value) = op.input(2) else { return Ok(false) };
    let other = op.str("mode").is_some_and(|m| m != "constant");
    if !other && op.rank(2) != Some(1) {
        return Ok(false);
    }
    let value = if other { String::new() } else { reshaped(b, value, &[]) };
    let mut node: NodeProto = op.node.clone();
    if let Some(slot) = node.input.get_mut(2) {
        *slot = value;
    }
    b.node(node);
    Ok(true)
}

/// tract takes no negative padding, which cuts off; what is cut off can be cut off before.
fn crop(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let Some(pads) = op.constant(1).and_then(|t| t.to_i64().ok()).filter(|p| p.iter().any(|&n| n < 0)) else {
        return Ok(false);
    };
    let (Some(shape), None | Some("constant")) = (op.shape(0), op.str("mode")) else { return Ok(false) };
    let rank = i64::try_from(shape.len()).unwrap_or(0);
    let axes = match (op.input(3), op.constant(3).map(Tensor::to_i64)) {
        (None, _) => (0..rank).collect(),
        (Some(_), Some(Ok(axes))) => axes,
        (Some(_), _) => return Ok(false),
    };
    let (begins, ends) = pads.split_at(pads.len() / 2);
    // Where more is cut off than there is, cutting and padding do not commute.
    let fits = |(axis, (&begin, &end)): (&i64, (&i64, &i64))| {
        let axis = usize::try_from(if *axis < 0 { axis + rank } else { *axis }).ok()?;
        let size = i64::try_from((*shape.get(axis)?)?).ok()?;
        Some(size >= begin.min(0).checked_neg()?.checked_sub(end.min(0))?)
    };
    let sides = || begins.iter().zip(ends);
    if axes.len() != begins.len()
        || begins.len() != ends.len()
        || axes.iter().zip(sides()).any(|s| fits(s) != Some(true))
    {
        return Ok(false);
    }
    let starts: Vec<i64> = begins.iter().map(|&n| n.min(0).saturating_neg()).collect();
    let stops: Vec<i64> = ends.iter().map(|&n| if n < 0 { n } else { i64::MAX }).collect();
    let (starts, stops, axes) = (b.ints(&starts), b.ints(&stops), b.ints(&axes));
    let kept = b.op("Slice", &[op.required(0)?, &starts, &stops, &axes], vec![]);
    let rest = b.ints(&pads.iter().map(|&n| n.max(0)).collect::<Vec<_>>());
    let mut node: NodeProto = op.node.clone();
    for (slot, name) in node.input.iter_mut().zip([kept, rest]) {
        *slot = name;
    }
    b.node(node);
    Ok(true)
}

/// tract wants to know the value to pad with beforehand; where it does not, what was added is replaced.
fn pad_with_computed(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(value), None, Some(y)) = (op.input(2), op.constant(2), op.output(0)) else { return Ok(false) };
    let x = op.required(0)?;
    let pads: Vec<&str> = [op.required(1)?, "", op.input(3).unwrap_or("")].to_vec();
    let padded = b.op("Pad", &[&[x], pads.as_slice()].concat(), op.node.attribute.clone());
    let shape = b.op("Shape", &[x], vec![]);
    let zeros = b.op("ConstantOfShape", &[&shape], vec![]);
    let one = b.float(DType::F32, 1.0)?;
    let inside = b.op("Add", &[&zeros, &one], vec![]);
    let inside = b.op("Pad", &[&[inside.as_str()], pads.as_slice()].concat(), op.node.attribute.clone());
    let inside = b.cast(&inside, DType::Bool);
    b.op_into("Where", &[&inside, &padded, value], vec![], &[y]);
    Ok(true)
}

/// Some exporters give a real signal without the axis of real and imaginary parts, which other engines take.
fn real_signal(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(2), Some(_)) = (op.rank(0), op.input(1)) else { return Ok(false) };
    let axes = b.ints(&[-1]);
    let signal = b.op("Unsqueeze", &[op.required(0)?, &axes], vec![]);
    let mut node: NodeProto = op.node.clone();
    if let Some(slot) = node.input.get_mut(0) {
        *slot = signal;
    }
    b.node(node);
    Ok(true)
}

/// Some exporters give its bounds as vectors of one element, which other engines take.
fn range(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let vectors: Vec<bool> = (0..op.node.input.len()).map(|slot| op.rank(slot) == Some(1)).collect();
    if !vectors.contains(&true) {
        return Ok(false);
    }
    let mut node: NodeProto = op.node.clone();
    for (name, _) in node.input.iter_mut().zip(&vectors).filter(|(_, v)| **v) {
        *name = reshaped(b, name, &[]);
    }
    b.node(node);
    Ok(true)
}

/// tract wants to be told the axes.
fn squeeze(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (None, None, Some(shape), Some(y)) = (op.input(1), op.attribute("axes"), op.shape(0), op.output(0)) else {
        return Ok(false);
    };
    let Some(shape) = shape.into_iter().collect::<Option<Vec<u64>>>() else { return Ok(false) };
    let ones: Vec<i64> = shape.iter().zip(0..).filter(|(d, _)| **d == 1).map(|(_, axis)| axis).collect();
    let x = op.required(0)?;
    if op.scope.opset() < 13 {
        b.op_into("Squeeze", &[x], vec![ints("axes", &ones)], &[y]);
    } else {
        let axes = b.ints(&ones);
        b.op_into("Squeeze", &[x, &axes], vec![], &[y]);
    }
    Ok(true)
}
