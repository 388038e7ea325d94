//! What nodes do to the range of their inputs.

use planish_ir::{Graph, Node, ValueId};

use super::{
    format::Format,
    literals::constant,
    sums::Terms,
    support::{Kind, support},
};

/// The largest result for inputs that are `headroom` times larger; `None` if that cannot be said.
pub(super) fn grown(graph: &Graph, node: &Node, largest: f32, headroom: f32) -> Option<f32> {
    Some(match node.op.name.as_str() {
        "Mul" | "ReduceSumSquare" => largest * headroom * headroom,
        "Pow" => {
            let exponent = node.input(1).and_then(|v| constant(graph, v)?.single_f64())?;
            largest * headroom.powf(exponent.abs() as f32)
        }
        "Exp" => largest.max(1.0).powf(headroom),
        "CumSum" | "GlobalLpPool" | "LpPool" | "ReduceL2" => largest * headroom,
        // These bring their inputs to about the same size, whatever it was.
        "LpNormalization" | "MeanVarianceNormalization" => largest,
        _ => return None,
    })
}

/// How large a sum can get for inputs that are `headroom` times larger.
pub(super) fn reach_of_sum(terms: Terms, sum: f32, headroom: f32) -> f32 {
    match terms {
        Terms::Magnitudes => sum * headroom,
        Terms::Squares => sum * headroom * headroom,
    }
}

/// True if zero at this operand gives infinity where a small number did not.
pub(super) fn is_divisor(graph: &Graph, node: &Node, value: ValueId) -> bool {
    let at = |slot: usize| node.input(slot) == Some(value);
    match node.op.name.as_str() {
        "Div" => at(1),
        "Reciprocal" | "Log" => at(0),
        "Pow" => at(0) && node.input(1).and_then(|e| constant(graph, e)?.single_f64()).is_none_or(|e| e < 0.0),
        _ => false,
    }
}

/// What a node does to the range of its inputs, as far as its constants say more than the operator alone.
pub(super) fn kind(graph: &Graph, node: &Node, format: Format) -> Kind {
    match (node.op.name.as_str(), support(&node.op, format)) {
        (_, None) => Kind::Plain,
        ("Mul", _) if node.input(0) == node.input(1) => Kind::Grows,
        ("Pow", _) => {
            let exponent = node.input(1).and_then(|v| constant(graph, v)?.single_f64());
            if exponent.is_some_and(|e| (0.0..=1.0).contains(&e)) { Kind::Damps } else { Kind::Grows }
        }
        (_, Some(support)) => support.kind,
    }
}
