//! Operators with quantized inputs and outputs: dequantize, compute, quantize.

use planish_ir::DType;
use planish_passes::EngineError;
use planish_proto::onnx::AttributeProto;

use super::{
    build::{Builder, int},
    scope::Op,
};

/// How one operator's inputs are laid out: each operand takes a value, a scale and a zero point.
pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("", "QLinearMatMul") => binary(op, b, "MatMul"),
        ("", "QLinearConv") => conv(op, b),
        ("com.microsoft", "QLinearAdd") => binary(op, b, "Add"),
        ("com.microsoft", "QLinearMul") => binary(op, b, "Mul"),
        ("com.microsoft", "QLinearSigmoid") => unary(op, b, "Sigmoid"),
        ("com.microsoft", "QLinearLeakyRelu") => unary(op, b, "LeakyRelu"),
        ("com.microsoft", "QLinearGlobalAveragePool") if op.int("channels_last", 0) == 0 => {
            unary(op, b, "GlobalAveragePool")
        }
        ("com.microsoft", "QGemm") => gemm(op, b),
        _ => Ok(false),
    }
}

fn binary(op: &Op<'_>, b: &mut Builder<'_>, float: &str) -> Result<bool, EngineError> {
    // The columns of a matrix may have scales of their own.
    let columns = (float == "MatMul").then_some(-1);
    let (left, right) = (dequantized(op, b, 0, None)?, dequantized(op, b, 3, columns)?);
    let result = b.op(float, &[&left, &right], vec![]);
    quantized(op, b, &result, 6)
}

fn unary(op: &Op<'_>, b: &mut Builder<'_>, float: &str) -> Result<bool, EngineError> {
    let x = dequantized(op, b, 0, None)?;
    let own = |a: &&AttributeProto| a.name.as_deref() != Some("channels_last");
    let result = b.op(float, &[&x], op.node.attribute.iter().filter(own).cloned().collect());
    quantized(op, b, &result, 3)
}

/// The scales of the weight belong to its output channels, and the bias counts in units of the product of both scales.
fn conv(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (x, w) = (dequantized(op, b, 0, None)?, dequantized(op, b, 3, Some(0))?);
    let bias = match op.input(8) {
        Some(bias) => scaled_bias(op, b, bias)?,
        None => String::new(),
    };
    let result = b.op("Conv", &[&x, &w, &bias], op.node.attribute.clone());
    quantized(op, b, &result, 6)
}

/// `alpha * A' · B' + C`, quantized if there is a scale for it.
fn gemm(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let rows = if op.int("transB", 0) == 0 { 1 } else { 0 };
    let (left, right) = (dequantized(op, b, 0, None)?, dequantized(op, b, 3, Some(rows))?);
    let bias = match op.input(6) {
        Some(bias) => scaled_bias(op, b, bias)?,
        None => String::new(),
    };
    // The bias is in units of alpha times both scales, so it is added before alpha is applied.
    let own = |a: &&AttributeProto| a.name.as_deref() != Some("alpha");
    let product = b.op("Gemm", &[&left, &right, &bias], op.node.attribute.iter().filter(own).cloned().collect());
    let alpha = b.float(DType::F32, f64::from(op.float("alpha", 1.0)))?;
    let result = b.op("Mul", &[&product, &alpha], vec![]);
    if op.input(7).is_none() {
        let output = op.output(0).unwrap_or("");
        b.op_into("Identity", &[&result], vec![], &[output]);
        return Ok(true);
    }
    quantized(op, b, &result, 7)
}

fn scaled_bias(op: &Op<'_>, b: &mut Builder<'_>, bias: &str) -> Result<String, EngineError> {
    let unit = b.op("Mul", &[op.required(1)?, op.required(4)?], vec![]);
    let bias = b.cast(bias, DType::F32);
    Ok(b.op("Mul", &[&bias, &unit], vec![]))
}

/// The operand that starts at a slot, along an axis if it has several scales.
fn dequantized(op: &Op<'_>, b: &mut Builder<'_>, slot: usize, axis: Option<i64>) -> Result<String, EngineError> {
    let inputs = [op.required(slot)?, op.required(slot + 1)?, op.input(slot + 2).unwrap_or("")];
    let scalar = op.shape(slot + 1).is_some_and(|s| s.is_empty() || s == [Some(1)]);
    let attributes = match axis {
        Some(axis) => vec![int("axis", axis)],
        None if scalar => vec![],
        None => return Err(op.unsupported("an operand has a scale for each row or column, or one of unknown shape")),
    };
    Ok(b.op("DequantizeLinear", &inputs, attributes))
}

/// The result by the scale and zero point that start at a slot.
fn quantized(op: &Op<'_>, b: &mut Builder<'_>, result: &str, slot: usize) -> Result<bool, EngineError> {
    let output = op.output(0).ok_or_else(|| op.unsupported("its output is left out"))?;
    let inputs = [result, op.required(slot)?, op.input(slot + 1).unwrap_or("")];
    b.op_into("QuantizeLinear", &inputs, vec![], &[output]);
    Ok(true)
}
