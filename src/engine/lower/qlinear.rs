//! Operators with quantized inputs and outputs: dequantize, compute, quantize.

use planish_ir::DType;
use planish_passes::EngineError;
use planish_proto::onnx::AttributeProto;

use super::{
    build::{Builder, int, ints},
    scope::Op,
};

/// Each operand takes a value, a scale and a zero point.
pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("", "QLinearMatMul") => binary(op, b, "MatMul"),
        ("", "QLinearConv") => conv(op, b),
        ("com.microsoft", "QLinearAdd") => binary(op, b, "Add"),
        ("com.microsoft", "QLinearMul") => binary(op, b, "Mul"),
        ("com.microsoft", "QLinearSigmoid") => unary(op, b, "Sigmoid"),
        ("com.microsoft", "QLinearLeakyRelu") => unary(op, b, "LeakyRelu"),
        ("com.microsoft", "QLinearSoftmax") => softmax(op, b),
        ("com.microsoft", "QLinearWhere") => choice(op, b),
        ("com.microsoft", "QLinearConcat") => concat(op, b),
        ("com.microsoft", "QLinearAveragePool") => unary(op, b, "AveragePool"),
        ("com.microsoft", "QLinearGlobalAveragePool") => unary(op, b, "GlobalAveragePool"),
        ("com.microsoft", "QLinearConv") => conv(op, b),
        ("com.microsoft", "QGemm") => gemm(op, b),
        ("com.microsoft", "QuantizeLinear" | "DequantizeLinear") => {
            let name = op.name();
            let inputs: Vec<&str> = (0..3).filter_map(|slot| op.input(slot)).collect();
            let output = op.output(0).ok_or_else(|| op.unsupported("its output is left out"))?;
            b.op_into(name, &inputs, op.node.attribute.clone(), &[output]);
            Ok(true)
        }
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
    let x = channels(op, b, x, End::First)?;
    let result = b.op(float, &[&x], without(op, "channels_last"));
    let result = channels(op, b, result, End::Last)?;
    quantized(op, b, &result, 3)
}

fn without(op: &Op<'_>, name: &str) -> Vec<AttributeProto> {
    op.node.attribute.iter().filter(|a| a.name.as_deref() != Some(name)).cloned().collect()
}

/// Where the channels go.
#[derive(PartialEq)]
enum End {
    First,
    Last,
}

/// If the node has the channels behind the spatial axes, its value with the channels in front of or behind them.
fn channels(op: &Op<'_>, b: &mut Builder<'_>, value: String, to: End) -> Result<String, EngineError> {
    if op.int("channels_last", 0) == 0 {
        return Ok(value);
    }
    let rank = op.rank(0).and_then(|r| i64::try_from(r).ok()).filter(|&r| r >= 2);
    let last = rank.ok_or_else(|| op.unsupported("the rank of its input is not known"))? - 1;
    let axes: Vec<i64> = match to {
        End::First => [0, last].into_iter().chain(1..last).collect(),
        End::Last => [0].into_iter().chain(2..=last).chain([1]).collect(),
    };
    Ok(b.op("Transpose", &[&value], vec![ints("perm", &axes)]))
}

/// The operator says by whose definition it goes: before opset 13 softmax was over all axes from its axis on.
fn softmax(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let axis = op.int("axis", -1);
    let is_last = axis == -1 || op.rank(0).and_then(|r| i64::try_from(r).ok()).is_some_and(|r| axis == r - 1);
    if !is_last && (op.int("opset", 13) < 13) != (op.scope.opset() < 13) {
        return Err(op.unsupported("its softmax is defined by another operator set version than the model's"));
    }
    let x = dequantized(op, b, 0, None)?;
    let result = b.op("Softmax", &[&x], vec![int("axis", axis)]);
    quantized(op, b, &result, 3)
}

fn choice(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (left, right) = (dequantized(op, b, 1, None)?, dequantized(op, b, 4, None)?);
    let result = b.op("Where", &[op.required(0)?, &left, &right], vec![]);
    quantized(op, b, &result, 7)
}

/// Scale and zero point of the result come first.
fn concat(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let parts = (2..op.node.input.len()).step_by(3).map(|slot| dequantized(op, b, slot, None));
    let parts: Vec<String> = parts.collect::<Result<_, _>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let result = b.op("Concat", &parts, vec![int("axis", op.int("axis", 1))]);
    quantized(op, b, &result, 0)
}

/// The scales of the weight belong to its output channels, and the bias counts in units of the product of both scales.
fn conv(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (x, w) = (dequantized(op, b, 0, None)?, dequantized(op, b, 3, Some(0))?);
    let bias = match op.input(8) {
        Some(bias) => scaled_bias(op, b, bias)?,
        None => String::new(),
    };
    let x = channels(op, b, x, End::First)?;
    let result = b.op("Conv", &[&x, &w, &bias], without(op, "channels_last"));
    let result = channels(op, b, result, End::Last)?;
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
    let product = b.op("Gemm", &[&left, &right, &bias], without(op, "alpha"));
    let alpha = b.float(DType::F32, f64::from(op.float("alpha", 1.0)))?;
    let result = b.op("Mul", &[&product, &alpha], vec![]);
    if op.input(8).is_none() && op.input(7).is_some() {
        return Err(op.unsupported("its result has a scale and no zero point, which is not defined"));
    }
    if op.input(8).is_none() {
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
