//! Which integer kernels ONNX Runtime forms of operators between DequantizeLinear and QuantizeLinear, on the CPU.
//!
//! Found out with version 1.32 from the graphs that it saves after optimization. It copies a DequantizeLinear for each of its readers,
//! turns int8 activations into uint8 on x86, and quantizes a constant bias of a convolution itself, so none of that has to be done
//! beforehand.

use planish_ir::{DType, Node, NodeId, OpName, ValueId};

use super::view::{Grid, View};

/// What becomes of a node.
pub(crate) enum Kernel {
    /// Nothing of it is quantized, or there is no integer kernel for the operator.
    None,
    /// Integers. With the quantization of its output, if that is a part of it.
    Integer(Option<NodeId>),
    /// It is computed in floats although activations that it reads are quantized.
    Float { problem: String, advice: &'static str },
    /// The same, because of an activation function before the QuantizeLinear.
    Unclipped { activation: NodeId, value: ValueId },
}

struct Form {
    op: &'static str,
    /// Slots that have to be quantized; empty for all.
    slots: &'static [usize],
    /// Whether the result has to be quantized too.
    requantizes: bool,
    /// The slot of a weight, which may have a scale for each channel.
    weight: Option<usize>,
}

const fn form(op: &'static str, slots: &'static [usize]) -> Form {
    Form { op, slots, requantizes: true, weight: None }
}

const FORMS: &[Form] = &[
    form("Add", &[0, 1]),
    form("AveragePool", &[0]),
    form("Concat", &[]),
    Form { weight: Some(1), ..form("Conv", &[0, 1]) },
    Form { weight: Some(1), requantizes: false, ..form("Gemm", &[0, 1]) },
    form("GlobalAveragePool", &[0]),
    form("LeakyRelu", &[0]),
    Form { weight: Some(1), requantizes: false, ..form("MatMul", &[0, 1]) },
    form("Mul", &[0, 1]),
    form("Sigmoid", &[0]),
    form("Softmax", &[0]),
    form("Where", &[1, 2]),
];

/// Operators that move elements, which run on integers if both sides have the same grid.
const MOVES: &[&str] = &[
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// True for an operator of ONNX that may compute with integers, or moves elements.
pub(crate) fn takes_integers(op: &OpName) -> bool {
    FORMS.iter().any(|f| op.is(f.op)) || MOVES.iter().any(|m| op.is(m))
}

/// True for an operator that moves elements.
pub(crate) fn moves(node: &Node) -> bool {
    MOVES.iter().any(|op| node.op.is(op)) && !node.is_local()
}

/// What becomes of a node.
pub(crate) fn kernel(view: &View<'_>, node: &Node) -> Kernel {
    let Some(form) = FORMS.iter().find(|f| node.op.is(f.op)) else { return Kernel::None };
    let all: Vec<usize> = (0..node.inputs().len()).collect();
    let slots = if form.slots.is_empty() { all.as_slice() } else { form.slots };
    let inputs: Vec<(usize, ValueId, Option<Grid<'_>>)> =
        slots.iter().filter_map(|&slot| node.input(slot).map(|v| (slot, v, view.dequantized(v)))).collect();
    // Weights alone are quantized for their size.
    if !inputs.iter().any(|(_, v, grid)| grid.is_some() && !view.is_weight(*v)) {
        return Kernel::None;
    }
    for (slot, value, grid) in &inputs {
        let name = view.name(*value);
        let Some(grid) = grid else {
            let problem = format!("{name:?} is not quantized, but another input is");
            return Kernel::Float { problem, advice: "quantize all of its inputs, or none" };
        };
        if !matches!(grid.dtype(view), Some(DType::U8 | DType::I8)) {
            let problem = format!("{name:?} is not quantized to 8 bits");
            return Kernel::Float { problem, advice: "quantize activations to uint8 or int8, or leave them as floats" };
        }
        if form.weight != Some(*slot) && grid.is_per_tensor(view) == Some(false) {
            let problem = format!("{name:?} has several scales, and only weights may");
            return Kernel::Float { problem, advice: "give an activation one scale" };
        }
    }
    if node.op.is("Gemm") && node.attrs.float("beta").is_some_and(|b| b != 1.0) {
        return Kernel::Float { problem: "beta is not 1".into(), advice: "multiply the bias by beta" };
    }
    let bias = || node.input(2).map(|b| (view.dequantized(b).is_some(), view.graph.constant(b).is_some()));
    if node.op.is("Conv") && matches!(bias(), Some((false, false))) {
        let problem = "its bias is computed".to_owned();
        return Kernel::Float { problem, advice: "make the bias a constant" };
    }
    let requantizes = form.requantizes || (node.op.is("Gemm") && matches!(bias(), Some((false, _))));
    match (requantization(view, node), requantizes) {
        (Output::Quantized(q), _) => Kernel::Integer(Some(q)),
        (Output::Unclipped { activation, value }, _) if requantizes => Kernel::Unclipped { activation, value },
        (_, true) => Kernel::Float {
            problem: "its output is not quantized, or is read elsewhere too".into(),
            advice: "put one QuantizeLinear behind it, and let everything read what that gives",
        },
        (_, false) if is_biased_later(view, node) => Kernel::Float {
            problem: "the Add behind it joins it to a Gemm in floats".into(),
            advice: "quantize the output of the Add, or make both a Gemm whose bias is a dequantized int32 constant",
        },
        (_, false) => Kernel::Integer(None),
    }
}

/// What reads the output of a node.
enum Output {
    Quantized(NodeId),
    Unclipped { activation: NodeId, value: ValueId },
    Other,
}

fn requantization(view: &View<'_>, node: &Node) -> Output {
    let only = |value: ValueId| view.graph.only_user(value).filter(|(_, n, slot)| *slot == 0 && !n.is_local());
    let Some(value) = node.output(0) else { return Output::Other };
    match only(value) {
        Some((id, next, _)) if super::view::half(next) == Some(super::view::Half::Quantize) => Output::Quantized(id),
        Some((id, next, _)) if next.op.is("Relu") || next.op.is("Clip") => {
            let Some(value) = next.output(0) else { return Output::Other };
            match only(value) {
                Some((q, quantize, _)) if super::view::half(quantize) == Some(super::view::Half::Quantize) => {
                    match clips_nothing(view, next, quantize) {
                        true => Output::Quantized(q),
                        false => Output::Unclipped { activation: id, value },
                    }
                }
                _ => Output::Other,
            }
        }
        _ => Output::Other,
    }
}

/// True if the range of a QuantizeLinear ends where that of the Relu or Clip before it does, or before.
fn clips_nothing(view: &View<'_>, activation: &Node, quantize: &Node) -> bool {
    let single = |slot: usize| view.constant(quantize.input(slot)?)?.single_f64();
    let integer = |slot: usize| view.constant(quantize.input(slot)?)?.single_i64();
    let limits = match view.dtype(quantize.output(0)) {
        Some(DType::U8) => (0.0, 255.0),
        Some(DType::I8) => (-128.0, 127.0),
        Some(DType::U16) => (0.0, 65535.0),
        Some(DType::I16) => (-32768.0, 32767.0),
        _ => return false,
    };
    let zero = if quantize.input(2).is_some() { integer(2) } else { Some(0) };
    let (Some(scale), Some(zero)) = (single(1), zero) else { return false };
    let (low, high) = ((limits.0 - zero as f64) * scale, (limits.1 - zero as f64) * scale);
    if activation.op.is("Relu") {
        return low >= 0.0;
    }
    let bound = |slot: usize, name: &str| match activation.input(slot) {
        Some(v) => view.constant(v).and_then(planish_ir::Tensor::single_f64).map(Some),
        None => Some(activation.attrs.float(name).map(f64::from)),
    };
    match (bound(1, "min"), bound(2, "max")) {
        (Some(min), Some(max)) => min.is_none_or(|m| m <= low) && max.is_none_or(|m| m >= high),
        _ => false,
    }
}

/// True for a product that ONNX Runtime makes a Gemm: of sizes that are all known, and with a constant added to each column.
fn is_biased_later(view: &View<'_>, node: &Node) -> bool {
    let Some((_, add, _)) = node.output(0).and_then(|y| view.graph.only_user(y)) else { return false };
    let fixed = |slot: usize| {
        let shape = node.input(slot).and_then(|v| view.facts.fact(v).shape());
        shape.is_some_and(|s| s.iter().all(|d| d.known().is_some()))
    };
    let bias = add.inputs().iter().flatten().find_map(|&v| view.constant(v));
    node.op.is("MatMul") && add.op.is("Add") && fixed(0) && fixed(1) && bias.is_some_and(|b| b.rank() == 1)
}
