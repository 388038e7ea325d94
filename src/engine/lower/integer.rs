//! Products of integers that come out as floats: `MatMulIntegerToFloat` and `DynamicQuantizeMatMul` of `com.microsoft`.

use planish_ir::DType;
use planish_passes::EngineError;

use super::{build::Builder, scope::Op};

pub(super) fn expand(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    match (op.domain(), op.name()) {
        ("com.microsoft", "MatMulIntegerToFloat") => {
            let zeros = [op.input(4).unwrap_or(""), op.input(5).unwrap_or("")];
            to_float(op, b, [op.required(0)?, op.required(1)?], [op.required(2)?, op.required(3)?], zeros, op.input(6))
        }
        ("com.microsoft", "DynamicQuantizeMatMul") => dynamic(op, b),
        _ => Ok(false),
    }
}

/// The left factor is quantized to uint8 by its own range.
fn dynamic(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let [q, scale, zero] = ["quantized", "scale", "zero"].map(|hint| b.fresh(hint));
    b.op_into("DynamicQuantizeLinear", &[op.required(0)?], vec![], &[&q, &scale, &zero]);
    let zeros = [&zero, op.input(3).unwrap_or("")];
    to_float(op, b, [&q, op.required(1)?], [&scale, op.required(2)?], zeros, op.input(4))
}

/// `(A - zero) (B - zero) * scale * scale + bias`, the product and sum of integers being exact. The right factor's scale may be
/// one for each column.
fn to_float(
    op: &Op<'_>,
    b: &mut Builder<'_>,
    factors: [&str; 2],
    scales: [&str; 2],
    zeros: [&str; 2],
    bias: Option<&str>,
) -> Result<bool, EngineError> {
    let y = op.output(0).ok_or_else(|| op.unsupported("its output is left out"))?;
    let product = b.op("MatMulInteger", &[factors[0], factors[1], zeros[0], zeros[1]], vec![]);
    let unit = b.op("Mul", &[scales[0], scales[1]], vec![]);
    let product = b.cast(&product, DType::F32);
    match bias {
        Some(bias) => {
            let scaled = b.op("Mul", &[&product, &unit], vec![]);
            b.op_into("Add", &[&scaled, bias], vec![], &[y]);
        }
        None => b.op_into("Mul", &[&product, &unit], vec![], &[y]),
    }
    Ok(true)
}
