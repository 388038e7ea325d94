//! `ReduceMax` and `ReduceMin` over nothing but infinities, as fully masked attention rows are: tract starts from the
//! largest finite number, and so never gives an infinite one.

use planish_ir::{DType, Dims, Tensor};
use planish_passes::EngineError;

use super::{
    build::{Builder, int},
    scope::Op,
};
use crate::engine::program::failed;

/// The result is infinite exactly where all elements are.
pub(super) fn extremum(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let empty = match op.name() {
        "ReduceMax" => f64::NEG_INFINITY,
        "ReduceMin" => f64::INFINITY,
        _ => return Ok(false),
    };
    let (true, Some(x), Some(y)) = (op.domain().is_empty(), op.input(0), op.output(0)) else { return Ok(false) };
    if op.dtype(0).is_some_and(|d| !d.is_float()) {
        return Ok(false);
    }
    let rest = |first: &str| {
        let axes = op.node.input.iter().skip(1).cloned();
        std::iter::once(first.to_owned()).chain(axes).collect::<Vec<_>>()
    };
    let finite = b.settled(op.node, rest(x));
    let infinite = b.float(DType::F32, empty)?;
    let infinite = b.op("CastLike", &[&infinite, x], vec![]);
    let is_infinite = b.op("Equal", &[x, &infinite], vec![]);
    let counted = b.op("Cast", &[&is_infinite], vec![int("to", i64::from(DType::F32.code()))]);
    let least = {
        let mut node = op.node.clone();
        node.op_type = Some("ReduceMin".to_owned());
        b.settled(&node, rest(&counted))
    };
    let half = b.constant(Tensor::from_f32(Dims::new(), &[0.5]).map_err(|e| failed(e.to_string()))?);
    let all = b.op("Greater", &[&least, &half], vec![]);
    b.op_into("Where", &[&all, &infinite, &finite], vec![], &[y]);
    Ok(true)
}
