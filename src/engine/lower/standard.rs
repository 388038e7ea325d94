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
        ("", "Pad") => pad(op, b),
        ("", "Range") => range(op, b),
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
