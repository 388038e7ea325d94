//! Constants of a graph, and when one counts as the number that a rule writes.

use std::borrow::Cow;

use planish_ir::{Attr, DType, Graph, Tensor, ValueId};

use super::ast::Pattern;

/// Elements of a constant that are looked at; those that exporters stretch a number to are shorter.
const MAX_ELEMENTS: u64 = 1 << 16;

/// Relative distance at which a float counts as the number. Exporters compute a factor such as 1/√2 in float, and print it.
const NEAR: f64 = 1e-6;

/// The tensor of a constant: an initializer that nobody can override, or the output of a `Constant` node.
pub(super) fn constant(graph: &Graph, value: ValueId) -> Option<&Tensor> {
    graph.constant(value).or_else(|| {
        let (_, node) = graph.producer(value)?;
        match node.attrs.get("value") {
            Some(Attr::Tensor(t)) if node.op.is("Constant") && !node.is_local() => Some(t),
            _ => None,
        }
    })
}

/// True if the pattern matches numbers, so that the constant's shape is not seen by the rule.
pub(super) fn may_be_number(p: &Pattern) -> bool {
    match p {
        Pattern::Number { .. } | Pattern::Anything => true,
        Pattern::Any(all) => all.iter().any(may_be_number),
        _ => false,
    }
}

/// True if two floats are the same number in this language: within 1e-6 of each other.
pub(super) fn near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= NEAR * a.abs().max(b.abs())
}

/// Fails with the reason unless all elements of a constant are the number that a rule writes.
///
/// Zero is the zero of this sign. In float and double a number within 1e-6 is meant; in float16 and bfloat16 it is the
/// number itself if the type has it, or else one of its two neighbours.
pub(super) fn matches(tensor: Option<&Tensor>, text: &str, wanted: f64) -> Result<(), Cow<'static, str>> {
    let Some(t) = tensor else { return Err(format!("an input is not the constant {text}").into()) };
    if t.elements() == 0 || t.elements() > MAX_ELEMENTS {
        return Err(format!("the constant has {} elements", t.elements()).into());
    }
    let wrong = |found: String| Err(format!("the constant is {found}, not {text}").into());
    let dtype = t.dtype();
    if dtype.is_integer() {
        let Ok(values) = t.to_i64() else { return wrong("out of range".into()) };
        return match values.iter().find(|&&v| !text.parse::<i64>().is_ok_and(|w| w == v)) {
            Some(v) => wrong(v.to_string()),
            None => Ok(()),
        };
    }
    let Ok(values) = t.to_f64() else { return wrong(format!("of type {dtype}")) };
    match values.iter().find(|&&v| !is_float(dtype, v, wanted)) {
        Some(v) => wrong(v.to_string()),
        None => Ok(()),
    }
}

fn is_float(dtype: DType, found: f64, wanted: f64) -> bool {
    if wanted == 0.0 {
        return found.to_bits() == wanted.to_bits();
    }
    match dtype {
        DType::F16 | DType::BF16 => {
            let stored = |x: f64| Tensor::from_f64_as(dtype, planish_ir::Dims::new(), &[x]).ok()?.single_f64();
            let Some(rounded) = stored(wanted) else { return false };
            // The spacing of numbers of a normal size.
            let step = if dtype == DType::F16 { 1.0 / 1024.0 } else { 1.0 / 128.0 };
            if rounded == wanted { found == wanted } else { (found - wanted).abs() <= step * wanted.abs() }
        }
        _ => near(found, wanted),
    }
}
