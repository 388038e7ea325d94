//! `RNN`, `GRU` and `LSTM` that run backwards. tract has forward and bidirectional ones, and runs the reverse ones
//! forward.

use planish_passes::EngineError;
use planish_proto::onnx::AttributeProto;

use super::{
    build::{Builder, string},
    scope::Op,
};

/// A reverse layer is a forward layer on the sequence from its end, with its output turned around again.
pub(super) fn reverse(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let recurrent = ["RNN", "GRU", "LSTM"].iter().any(|name| op.is(name));
    if !recurrent || op.str("direction") != Some("reverse") {
        return Ok(false);
    }
    // Time is the first axis, or the second of the batchwise layout, in X and in Y alike.
    let axis = if op.int("layout", 0) == 1 { 1 } else { 0 };
    let x = turn(b, op.required(0)?, axis);
    let mut inputs: Vec<&str> = op.node.input.iter().map(String::as_str).collect();
    if let Some(first) = inputs.first_mut() {
        *first = &x;
    }
    let forward = |a: &AttributeProto| match a.name.as_deref() {
        Some("direction") => string("direction", "forward"),
        _ => a.clone(),
    };
    let attributes = op.node.attribute.iter().map(forward).collect();
    let mut outputs: Vec<&str> = op.node.output.iter().map(String::as_str).collect();
    let turned = b.fresh("reversed");
    let y = op.output(0);
    if let (Some(_), Some(first)) = (y, outputs.first_mut()) {
        *first = &turned;
    }
    b.op_into(op.name(), &inputs, attributes, &outputs);
    if let Some(y) = y {
        let back = turn(b, &turned, axis);
        b.op_into("Identity", &[&back], vec![], &[y]);
    }
    Ok(true)
}

/// The value with one axis from its end to its start.
fn turn(b: &mut Builder<'_>, value: &str, axis: i64) -> String {
    let (start, end, axes, step) = (b.ints(&[-1]), b.ints(&[i64::MIN + 1]), b.ints(&[axis]), b.ints(&[-1]));
    b.op("Slice", &[value, &start, &end, &axes, &step], vec![])
}
