//! Activations that tract computes without one of their attributes.

use planish_ir::DType;
use planish_passes::EngineError;

use super::{build::Builder, scope::Op};

pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    if op.is("Celu") {
        celu(op, b)
    } else if op.is("Swish") {
        swish(op, b)
    } else {
        Ok(false)
    }
}

/// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`.
fn celu(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (Some(x), Some(y)) = (op.input(0), op.output(0)) else { return Ok(false) };
    let alpha = like(b, x, op.float("alpha", 1.0))?;
    let (zero, one) = (like(b, x, 0.0)?, like(b, x, 1.0)?);
    let positive = b.op("Max", &[x, &zero], vec![]);
    let mut negative = b.op("Div", &[x, &alpha], vec![]);
    negative = b.op("Exp", &[&negative], vec![]);
    negative = b.op("Sub", &[&negative, &one], vec![]);
    negative = b.op("Mul", &[&negative, &alpha], vec![]);
    negative = b.op("Min", &[&negative, &zero], vec![]);
    b.op_into("Add", &[&positive, &negative], vec![], &[y]);
    Ok(true)
}

/// `x * sigmoid(alpha * x)`; tract has it for an alpha of 1.
fn swish(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let alpha = op.float("alpha", 1.0);
    let (Some(x), Some(y)) = (op.input(0), op.output(0)) else { return Ok(false) };
    if alpha == 1.0 {
        return Ok(false);
    }
    let alpha = like(b, x, alpha)?;
    let scaled = b.op("Mul", &[x, &alpha], vec![]);
    let gate = b.op("Sigmoid", &[&scaled], vec![]);
    b.op_into("Mul", &[x, &gate], vec![], &[y]);
    Ok(true)
}

/// A number in the type of a value, whether that is known here or not.
fn like(b: &mut Builder<'_>, value: &str, number: f32) -> Result<String, EngineError> {
    let number = b.float(DType::F32, f64::from(number))?;
    Ok(b.op("CastLike", &[&number, value], vec![]))
}
