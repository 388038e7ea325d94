//! Constants that a 16-bit format cannot hold.
//!
//! A finite value beyond ±65504 would become infinite, and a single number below 2⁻²⁵ would become zero: an epsilon that
//! guards a division would guard nothing. In both cases what reads the constant stays in float32.
//!
//! One kind of large constant is no number to calculate with: the -3.4e38 or -1e9 that attention masks add to scores, so
//! that `Softmax` gives a weight of zero. If every way from the constant leads through mask arithmetic into `Softmax`, it
//! becomes ∓32768, for which `exp` is zero just the same, and which leaves the scores as much room again before a sum
//! would be infinite. (Infinity itself would not do: a row in which everything is masked would be `inf - inf`.)

use std::collections::BTreeSet;

use planish_ir::{Attr, DType, Graph, Node, NodeId, Operand, Tensor, TensorError, Use, ValueId};
use rayon::prelude::*;

use super::{
    format::Format,
    support::{Kind, support},
};
use crate::clean;

/// What stands for a mask's large number.
pub(super) const MASK: f32 = 32768.0;

/// Codes are at most 448 in magnitude, so that products with this stay in range.
const LARGEST_SCALE: f32 = 128.0;

/// Where a constant is written down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    /// An initializer, or the output of a `Constant` node.
    Value(ValueId),
    /// An attribute of a node.
    Attribute(NodeId),
}

/// The constants that the format cannot hold.
#[derive(Default)]
pub(super) struct Literals {
    /// What reads them stays in float32. With the number that does not fit.
    pub(super) outside: Vec<(Source, f32)>,
    /// Large numbers of masks, to be brought to [`MASK`].
    pub(super) masks: BTreeSet<Source>,
    /// Every value between such a number and its `Softmax`.
    pub(super) masked: BTreeSet<ValueId>,
}

/// The float32 tensor of an initializer or of a `Constant` node.
pub(super) fn constant(graph: &Graph, value: ValueId) -> Option<Tensor> {
    clean::constant_of(graph, value).filter(|t| t.dtype() == DType::F32)
}

/// Looks at every constant of the graph; `weights` is told of each when it was read.
pub(super) fn literals(graph: &Graph, weights: &dyn crate::Weights, format: Format) -> Literals {
    let constants: Vec<(ValueId, Tensor)> =
        graph.values().filter_map(|(id, _)| Some((id, constant(graph, id)?))).collect();
    let values = constants.par_iter().filter_map(|(id, t)| {
        let strict = graph.users(*id).any(|u| is_quantization_scale(graph, u));
        let misfit = misfit(t, strict, format);
        t.raw().into_iter().for_each(|raw| weights.release(raw));
        Some((Source::Value(*id), misfit?))
    });
    let mut found: Vec<(Source, f32)> = values.collect();
    for (id, node) in graph.nodes().filter(|(_, n)| !n.op.is("Constant")) {
        found
            .extend(node.attrs.iter().filter_map(|(_, a)| Some((Source::Attribute(id), attribute_misfit(a, format)?))));
    }
    let mut result = Literals::default();
    for (source, number) in found {
        match mask_path(graph, source) {
            Some(path) if number.abs() > 1.0 => {
                result.masks.insert(source);
                result.masked.extend(path);
            }
            _ => result.outside.push((source, number)),
        }
    }
    result
}

/// A number that the format cannot hold, if there is one. In a larger tensor a weight may become zero, since it then does
/// not matter beside the others; with `strict`, every number must keep its precision and leave room for its codes.
fn misfit(tensor: &Tensor, strict: bool, format: Format) -> Option<f32> {
    let alone = tensor.elements() == 1;
    let is_misfit = |&v: &f32| {
        let too_large = format.overflows(v) || alone && !strict && format.flushes(v);
        too_large || strict && v.is_finite() && is_coarse(v, format)
    };
    tensor.iter_f32().ok()?.find(is_misfit)
}

/// True for a scale that would move codes by half a step and more, or with which they would leave the range.
fn is_coarse(scale: f32, format: Format) -> bool {
    match format {
        Format::Float16 => scale != 0.0 && scale.abs() <= format.min_normal() || scale.abs() > LARGEST_SCALE,
        Format::Bfloat16 => format.round(scale) != scale,
    }
}

fn attribute_misfit(attr: &Attr, format: Format) -> Option<f32> {
    match attr {
        // Small numbers are the epsilons of normalizations, which runtimes add in float32.
        Attr::Float(v) => Some(*v).filter(|v| format.overflows(*v)),
        Attr::Tensor(t) => misfit(t, false, format),
        _ => None,
    }
}

/// A scale is a factor of every weight, so its relative error counts.
fn is_quantization_scale(graph: &Graph, user: Use) -> bool {
    let Use::Node(node, Operand::Input(1)) = user else { return false };
    graph.node(node).is_some_and(|n| n.op.is("QuantizeLinear") || n.op.is("DequantizeLinear"))
}

/// The values on the ways of a constant, if all of them end in `Softmax`.
fn mask_path(graph: &Graph, source: Source) -> Option<BTreeSet<ValueId>> {
    let mut work = match source {
        Source::Value(v) => vec![v],
        Source::Attribute(id) => {
            let node = graph.node(id).filter(|n| n.op.is("ConstantOfShape"))?;
            node.outputs().iter().copied().flatten().collect()
        }
    };
    let mut path = BTreeSet::new();
    let mut ends = false;
    while let Some(value) = work.pop() {
        if !path.insert(value) {
            continue;
        }
        for user in graph.users(value) {
            let Use::Node(id, Operand::Input(slot)) = user else { return None };
            let node = graph.node(id)?;
            match mask_step(node, slot as usize) {
                MaskStep::End => ends = true,
                MaskStep::Through => work.extend(node.outputs().iter().flatten()),
                MaskStep::Aside => {}
                MaskStep::No => return None,
            }
        }
    }
    ends.then_some(path)
}

enum MaskStep {
    /// The value is turned into weights.
    End,
    /// The result is a mask again.
    Through,
    /// The value itself is not used.
    Aside,
    /// It is calculated with.
    No,
}

fn mask_step(node: &Node, slot: usize) -> MaskStep {
    let Some(support) = support(&node.op, Format::Float16) else { return MaskStep::No };
    match (node.op.name.as_str(), slot) {
        ("Softmax", _) | ("Attention", 3) => MaskStep::End,
        ("Add" | "Sub" | "Mul" | "Neg" | "Where", _) => MaskStep::Through,
        ("Shape" | "Size", _) => MaskStep::Aside,
        ("Cast", _) => match node.attrs.int("to").and_then(|t| DType::from_code(i32::try_from(t).ok()?)) {
            Some(t) if t.is_float() => MaskStep::Through,
            _ => MaskStep::No,
        },
        _ if support.kind == Kind::Moves => MaskStep::Through,
        _ => MaskStep::No,
    }
}

/// The tensor with finite numbers beyond the range brought to ∓[`MASK`].
pub(super) fn clamp_mask(tensor: &Tensor, format: Format) -> Result<Tensor, TensorError> {
    let clamped = |v: f32| if format.overflows(v) { MASK.copysign(v) } else { v };
    let values: Vec<f32> = tensor.iter_f32()?.map(clamped).collect();
    Tensor::from_f32(tensor.dims(), &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_f32([values.len() as u64].as_slice(), values).unwrap()
    }

    #[test]
    fn what_does_not_fit() {
        let f = Format::Float16;
        assert_eq!(misfit(&tensor(&[1.0, 65504.0, f32::INFINITY, f32::NAN]), false, f), None);
        assert_eq!(misfit(&tensor(&[1.0, 65520.0]), false, f), Some(65520.0));
        assert_eq!(misfit(&tensor(&[1e-12]), false, f), Some(1e-12));
        assert_eq!(misfit(&tensor(&[1e-7]), false, f), None);
        assert_eq!(misfit(&tensor(&[0.0]), false, f), None);
        assert_eq!(misfit(&tensor(&[1e-12, 1.0]), false, f), None, "a small weight among others");
        assert_eq!(misfit(&tensor(&[1e-5, 1.0]), true, f), Some(1e-5), "a subnormal scale");
        let b = Format::Bfloat16;
        assert_eq!(misfit(&tensor(&[1e-12]), false, b), None);
        assert_eq!(misfit(&tensor(&[f32::MIN]), false, b), Some(f32::MIN));
        assert_eq!(misfit(&tensor(&[0.5, 0.1]), true, b), Some(0.1), "a scale of which bits are lost");
    }

    #[test]
    fn masks_keep_what_is_not_large() {
        let t = clamp_mask(&tensor(&[f32::MIN, -1e4, f32::NEG_INFINITY, 0.0]), Format::Float16).unwrap();
        assert_eq!(t, tensor(&[-MASK, -1e4, f32::NEG_INFINITY, 0.0]));
    }
}
