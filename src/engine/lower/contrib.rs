//! Operators of `com.microsoft` that are compositions of standard ones. ONNX Runtime's optimizer makes them.

use planish_ir::DType;
use planish_passes::EngineError;
use planish_proto::onnx::AttributeProto;

use super::{
    build::{Builder, float, int, ints},
    scope::Op,
};

pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    // ONNX Runtime writes this one into the default domain, where ONNX does not define it.
    if op.domain().is_empty() && op.name() == "SimplifiedLayerNormalization" {
        return simplified_layer_norm(op, b);
    }
    if op.domain() != "com.microsoft" {
        return Ok(false);
    }
    match op.name() {
        "BiasGelu" => bias_gelu(op, b),
        "FastGelu" => fast_gelu(op, b),
        "FusedConv" => fused_conv(op, b),
        "FusedGemm" => fused_gemm(op, b),
        "FusedMatMul" => fused_mat_mul(op, b),
        "Gelu" => gelu(op, b),
        "QuickGelu" => quick_gelu(op, b),
        "SimplifiedLayerNormalization" => simplified_layer_norm(op, b),
        "SkipLayerNormalization" => skip_layer_norm(op, b, false),
        "SkipSimplifiedLayerNormalization" => skip_layer_norm(op, b, true),
        _ => Ok(false),
    }
}

fn dtype(op: &Op<'_>) -> DType {
    (0..3).find_map(|slot| op.dtype(slot)).unwrap_or(DType::F32)
}

fn output<'a>(op: &Op<'a>) -> Result<&'a str, EngineError> {
    op.output(0).ok_or_else(|| op.unsupported("its output is left out"))
}

/// `Conv`, plus Z, through an activation.
fn fused_conv(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let bias = op.input(2).unwrap_or("");
    let mut value = b.op("Conv", &[op.required(0)?, op.required(1)?, bias], without_activation(op));
    if let Some(z) = op.input(3) {
        value = b.op("Add", &[&value, z], vec![]);
    }
    activate(op, b, &value, op.attribute("activation_params").map_or(&[], |a| &a.floats))
}

/// `Gemm` through an activation.
fn fused_gemm(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let value = b.op("Gemm", &[op.required(0)?, op.required(1)?, op.input(2).unwrap_or("")], without_activation(op));
    let given = ["activation_alpha", "activation_beta"].into_iter().filter_map(|name| op.attribute(name)?.f);
    activate(op, b, &value, &given.collect::<Vec<f32>>())
}

fn without_activation(op: &Op<'_>) -> Vec<AttributeProto> {
    let own = |a: &&AttributeProto| !a.name.as_deref().unwrap_or("").starts_with("activation");
    op.node.attribute.iter().filter(own).cloned().collect()
}

/// The output of a node whose attribute `activation` names a function of a value.
fn activate(op: &Op<'_>, b: &mut Builder<'_>, value: &str, parameters: &[f32]) -> Result<bool, EngineError> {
    let y = output(op)?;
    let parameter =
        |i: usize| parameters.get(i).copied().ok_or_else(|| op.unsupported("its activation lacks a parameter"));
    match op.str("activation").unwrap_or("") {
        "" => b.op_into("Identity", &[value], vec![], &[y]),
        plain @ ("Relu" | "Sigmoid" | "Tanh") => b.op_into(plain, &[value], vec![], &[y]),
        "LeakyRelu" => b.op_into("LeakyRelu", &[value], vec![float("alpha", parameter(0)?)], &[y]),
        "HardSigmoid" => {
            let attributes = vec![float("alpha", parameter(0)?), float("beta", parameter(1)?)];
            b.op_into("HardSigmoid", &[value], attributes, &[y]);
        }
        "Clip" => {
            let low = b.float(dtype(op), f64::from(parameter(0)?))?;
            let high = b.float(dtype(op), f64::from(parameter(1)?))?;
            let bounded = b.op("Max", &[value, &low], vec![]);
            b.op_into("Min", &[&bounded, &high], vec![], &[y]);
        }
        other => return Err(op.unsupported(format!("its activation {other:?} is not known"))),
    }
    Ok(true)
}

/// `alpha * A' · B'`, where the last two axes of either may be exchanged.
fn fused_mat_mul(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let y = output(op)?;
    if op.int("transBatchA", 0) != 0 || op.int("transBatchB", 0) != 0 {
        return Err(op.unsupported("it exchanges batch axes"));
    }
    let mut operand = |slot: usize, flag: &str| -> Result<String, EngineError> {
        let name = op.required(slot)?;
        if op.int(flag, 0) == 0 {
            return Ok(name.to_owned());
        }
        let rank = op.rank(slot).ok_or_else(|| op.unsupported(format!("the rank of its input {slot} is not known")))?;
        let mut order: Vec<i64> = (0..rank).map(|i| i as i64).collect();
        if let [.., a, z] = order.as_mut_slice() {
            std::mem::swap(a, z);
        }
        Ok(b.op("Transpose", &[name], vec![ints("perm", &order)]))
    };
    let (left, right) = (operand(0, "transA")?, operand(1, "transB")?);
    let product = b.op("MatMul", &[&left, &right], vec![]);
    let alpha = b.float(dtype(op), f64::from(op.float("alpha", 1.0)))?;
    b.op_into("Mul", &[&product, &alpha], vec![], &[y]);
    Ok(true)
}

/// `x / 2 * (1 + erf(x / √2))`.
fn gelu(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (x, y) = (op.required(0)?, output(op)?);
    exact_gelu(op, b, x, y)?;
    Ok(true)
}

fn bias_gelu(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let y = output(op)?;
    let x = b.op("Add", &[op.required(0)?, op.required(1)?], vec![]);
    exact_gelu(op, b, &x, y)?;
    Ok(true)
}

fn exact_gelu(op: &Op<'_>, b: &mut Builder<'_>, x: &str, y: &str) -> Result<(), EngineError> {
    let (root, one, half) = (b.float(dtype(op), 2f64.sqrt())?, b.float(dtype(op), 1.0)?, b.float(dtype(op), 0.5)?);
    let scaled = b.op("Div", &[x, &root], vec![]);
    let erf = b.op("Erf", &[&scaled], vec![]);
    let gate = b.op("Add", &[&erf, &one], vec![]);
    let gated = b.op("Mul", &[x, &gate], vec![]);
    b.op_into("Mul", &[&gated, &half], vec![], &[y]);
    Ok(())
}

/// `x / 2 * (1 + tanh(√(2/π) * (x + 0.044715 x³)))`, after an optional bias.
fn fast_gelu(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let y = output(op)?;
    let x = match op.input(1) {
        Some(bias) => b.op("Add", &[op.required(0)?, bias], vec![]),
        None => op.required(0)?.to_owned(),
    };
    let mut number = |value: f64| b.float(dtype(op), value);
    let (cubic, root, one, half) =
        (number(0.044715)?, number((2.0 / std::f64::consts::PI).sqrt())?, number(1.0)?, number(0.5)?);
    let square = b.op("Mul", &[&x, &x], vec![]);
    let mut inner = b.op("Mul", &[&square, &cubic], vec![]);
    inner = b.op("Add", &[&inner, &one], vec![]);
    inner = b.op("Mul", &[&inner, &x], vec![]);
    inner = b.op("Mul", &[&inner, &root], vec![]);
    inner = b.op("Tanh", &[&inner], vec![]);
    inner = b.op("Add", &[&inner, &one], vec![]);
    inner = b.op("Mul", &[&inner, &x], vec![]);
    b.op_into("Mul", &[&inner, &half], vec![], &[y]);
    Ok(true)
}

/// `x * sigmoid(alpha * x)`.
fn quick_gelu(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (x, y) = (op.required(0)?, output(op)?);
    let alpha = b.float(dtype(op), f64::from(op.float("alpha", 1.702)))?;
    let scaled = b.op("Mul", &[x, &alpha], vec![]);
    let gate = b.op("Sigmoid", &[&scaled], vec![]);
    b.op_into("Mul", &[x, &gate], vec![], &[y]);
    Ok(true)
}

/// `x / √(mean(x²) + epsilon) * scale` along the last axis.
fn simplified_layer_norm(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    if op.int("axis", -1) != -1 {
        return Err(op.unsupported("it normalizes along more than the last axis"));
    }
    if op.output(1).is_some() {
        return Err(op.unsupported("its inverse deviation is asked for"));
    }
    let (x, y) = (op.required(0)?, output(op)?);
    rms_norm(op, b, x, op.required(1)?, y)?;
    Ok(true)
}

fn rms_norm(op: &Op<'_>, b: &mut Builder<'_>, x: &str, scale: &str, y: &str) -> Result<(), EngineError> {
    let epsilon = b.float(dtype(op), f64::from(op.float("epsilon", 1e-5)))?;
    let square = b.op("Mul", &[x, x], vec![]);
    let mean = mean_of_last(op, b, &square);
    let shifted = b.op("Add", &[&mean, &epsilon], vec![]);
    let deviation = b.op("Sqrt", &[&shifted], vec![]);
    let normal = b.op("Div", &[x, &deviation], vec![]);
    b.op_into("Mul", &[&normal, scale], vec![], &[y]);
    Ok(())
}

/// The axes of `ReduceMean` became an input with opset 18.
fn mean_of_last(op: &Op<'_>, b: &mut Builder<'_>, value: &str) -> String {
    if op.scope.opset() < 18 {
        return b.op("ReduceMean", &[value], vec![ints("axes", &[-1]), int("keepdims", 1)]);
    }
    let axes = b.ints(&[-1]);
    b.op("ReduceMean", &[value, &axes], vec![int("keepdims", 1)])
}

/// The sum of x, skip and bias, normalized along the last axis.
fn skip_layer_norm(op: &Op<'_>, b: &mut Builder<'_>, simplified: bool) -> Result<bool, EngineError> {
    let y = output(op)?;
    if op.output(1).is_some() || op.output(2).is_some() {
        return Err(op.unsupported("its mean or its inverse deviation is asked for"));
    }
    let (gamma, beta, bias) = match simplified {
        true => (op.required(2)?, None, op.input(3)),
        false => (op.required(2)?, op.input(3), op.input(4)),
    };
    let mut sum = b.op("Add", &[op.required(0)?, op.required(1)?], vec![]);
    if let Some(bias) = bias {
        sum = b.op("Add", &[&sum, bias], vec![]);
    }
    if let Some(handed_out) = op.output(3) {
        b.op_into("Identity", &[&sum], vec![], &[handed_out]);
    }
    if simplified {
        rms_norm(op, b, &sum, gamma, y)?;
        return Ok(true);
    }
    let epsilon = b.float(dtype(op), f64::from(op.float("epsilon", 1e-12)))?;
    let mean = mean_of_last(op, b, &sum);
    let centred = b.op("Sub", &[&sum, &mean], vec![]);
    let square = b.op("Mul", &[&centred, &centred], vec![]);
    let variance = mean_of_last(op, b, &square);
    let shifted = b.op("Add", &[&variance, &epsilon], vec![]);
    let deviation = b.op("Sqrt", &[&shifted], vec![]);
    let normal = b.op("Div", &[&centred, &deviation], vec![]);
    match beta {
        Some(beta) => {
            let scaled = b.op("Mul", &[&normal, gamma], vec![]);
            b.op_into("Add", &[&scaled, beta], vec![], &[y]);
        }
        None => b.op_into("Mul", &[&normal, gamma], vec![], &[y]),
    }
    Ok(true)
}
