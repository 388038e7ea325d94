//! Operations that are neutral because of what they get: done twice, with a neutral operand, over a single element.

use planish_ir::{Attr, DType, Node, Numerics, Tensor, ValueId};

use super::{is_all, same_shape};
use crate::{RuleContext, clean::operands::is_plain};

use Numerics::{Exact, Reassociated};

/// The input that the node hands on, and how exactly.
pub(super) fn input(cx: &RuleContext<'_>, node: &Node, output: ValueId) -> Option<(ValueId, Numerics)> {
    if !is_plain(node) {
        return None;
    }
    let x = node.input(0)?;
    let moved = |v: ValueId, numerics| same_shape(cx, v, output).then_some((v, numerics));
    let over_one = || moved(x, if is_float(cx, x) { Reassociated } else { Exact });
    match node.op.name.as_str() {
        "Neg" | "Not" => before(cx, x, &[&node.op.name]).map(|inner| (inner, Exact)),
        // Doing it again changes nothing.
        "Abs" => {
            before(cx, x, &["Abs"]).map(|_| (x, Exact)).or_else(|| before(cx, x, &["Relu"]).map(|_| (x, Reassociated)))
        }
        "Relu" | "Ceil" | "Floor" | "Round" | "Sign" => before(cx, x, &[&node.op.name]).map(|_| (x, Exact)),
        "CastLike" => moved(x, Exact),
        "DepthToSpace" | "SpaceToDepth" => {
            (node.attrs.int("blocksize") == Some(1)).then_some(()).and_then(|()| moved(x, Exact))
        }
        // The shape stays only if each axis that they reduce has one element.
        "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "GlobalAveragePool"
        | "GlobalMaxPool" => over_one(),
        "AveragePool" | "MaxPool" if node.outputs().len() == 1 && window_of_one(node) => over_one(),
        "Resize" | "Upsample" => {
            let slot = if node.op.is("Resize") && cx.opset() >= 11 { 2 } else { 1 };
            let scales = node.input(slot)?;
            let crops = node.attrs.str("coordinate_transformation_mode") == Some("tf_crop_and_resize");
            (!crops && is_all(cx, scales, 1.0)).then_some(()).and_then(|()| moved(x, Reassociated))
        }
        "Where" => {
            let (a, b) = (node.input(1)?, node.input(2)?);
            match cx.graph.constant(x).map(uniform) {
                _ if a == b => moved(a, Exact),
                Some(Some(true)) => moved(a, Exact),
                Some(Some(false)) => moved(b, Exact),
                _ => None,
            }
        }
        _ => operand(cx, node).and_then(|(v, numerics)| moved(v, numerics)),
    }
}

/// The operand beside a neutral one.
fn operand(cx: &RuleContext<'_>, node: &Node) -> Option<(ValueId, Numerics)> {
    let &[Some(a), Some(b)] = node.inputs() else { return None };
    let name = node.op.name.as_str();
    if a == b && matches!(name, "And" | "Or" | "Max" | "Min") {
        return Some((a, Exact));
    }
    [(a, b), (b, a)].into_iter().find_map(|(v, other)| {
        let float = is_float(cx, v);
        let neutral = match name {
            "And" => is_all_bool(cx, other, true),
            "Or" | "Xor" => is_all_bool(cx, other, false),
            "Add" => is_all(cx, other, 0.0) || is_all(cx, other, -0.0),
            "Max" if float => is_all(cx, other, f64::NEG_INFINITY),
            "Min" if float => is_all(cx, other, f64::INFINITY),
            _ => false,
        };
        neutral.then_some((v, if float { Reassociated } else { Exact }))
    })
}

/// The input of the node that makes a value, if that is one of these operators.
fn before(cx: &RuleContext<'_>, value: ValueId, names: &[&str]) -> Option<ValueId> {
    let (_, node) = cx.graph.producer(value)?;
    (is_plain(node) && names.iter().any(|name| node.op.is(name))).then(|| node.input(0)).flatten()
}

fn is_float(cx: &RuleContext<'_>, value: ValueId) -> bool {
    cx.facts.fact(value).dtype().is_none_or(DType::is_float)
}

fn is_all_bool(cx: &RuleContext<'_>, value: ValueId, wanted: bool) -> bool {
    cx.graph.constant(value).and_then(uniform) == Some(wanted)
}

/// What all elements of a small bool tensor are.
fn uniform(t: &Tensor) -> Option<bool> {
    const LARGE: u64 = 1 << 16;
    if t.dtype() != DType::Bool || t.elements() > LARGE {
        return None;
    }
    let elements = t.to_i64().ok()?;
    let first = elements.first()? != &0;
    elements.iter().all(|&e| (e != 0) == first).then_some(first)
}

/// True for a pool that looks at every element alone.
fn window_of_one(node: &Node) -> bool {
    let all = |name: &str, wanted: i64, absent: bool| match node.attrs.get(name) {
        Some(Attr::Ints(v)) => v.iter().all(|&n| n == wanted),
        Some(_) => false,
        None => absent,
    };
    all("kernel_shape", 1, false) && all("strides", 1, true) && all("pads", 0, true)
}
