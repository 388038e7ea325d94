//! Which weights are stored in int8, and along which axis.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{DType, Graph, Node, NodeId, Operand, Tensor, Use, ValueId};

use super::Int8Weights;
use crate::{Skip, clean};

/// A weight, all of whose readers take it in int8.
pub(super) struct Weight {
    pub(super) value: ValueId,
    pub(super) tensor: Tensor,
    /// The readers, by the axis along which they want one scale per channel.
    pub(super) readers: BTreeMap<usize, Vec<Reader>>,
}

/// An input slot that reads a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reader {
    pub(super) node: NodeId,
    pub(super) slot: usize,
    /// The node only picks rows, so the rows are widened after it, not the whole table before it.
    pub(super) picks: bool,
}

/// The weights of a graph, and the nodes that keep theirs, with the reason.
pub(super) fn weights(graph: &Graph, opset: i64, config: &Int8Weights) -> (Vec<Weight>, Vec<(NodeId, Skip)>) {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for (value, v) in graph.values() {
        if !matches!(v.dtype(), Some(DType::F32 | DType::F16)) {
            continue;
        }
        let Some(tensor) = clean::constant_of(graph, value) else { continue };
        // Only what some reader takes as a weight is worth a word.
        let takers = graph.users(value).filter_map(|u| reader(graph, u, &tensor, config)?.ok());
        let candidates: BTreeSet<NodeId> = takers.map(|(_, r)| r.node).collect();
        if candidates.is_empty() {
            refused.extend(graph.users(value).filter_map(|u| match (u, reader(graph, u, &tensor, config)?) {
                (Use::Node(node, _), Err(skip)) => Some((node, skip)),
                _ => None,
            }));
            continue;
        }
        match readers(graph, value, &tensor, opset, config) {
            Ok(readers) => found.push(Weight { value, tensor, readers }),
            Err(skip) => refused.extend(candidates.into_iter().map(|node| (node, skip.clone()))),
        }
    }
    (found, refused)
}

/// The readers of a weight by axis, if all of them take int8 and it is worth it.
fn readers(
    graph: &Graph,
    value: ValueId,
    tensor: &Tensor,
    opset: i64,
    config: &Int8Weights,
) -> Result<BTreeMap<usize, Vec<Reader>>, Skip> {
    let name = graph.name_of(value);
    if config.exclude.contains(&name) {
        return Err(Skip::because(format!("{name:?} is listed in `exclude`")));
    }
    let elements = tensor.elements();
    if elements == 0 || elements < config.min_elements {
        return Err(Skip::because(format!(
            "{name:?} has {elements} elements, and `min_elements` is {}",
            config.min_elements
        )));
    }
    if tensor.dtype() == DType::F16 && opset < FLOAT16_OPSET {
        return Err(Skip::because(format!(
            "{name:?} is float16, which DequantizeLinear makes from opset {FLOAT16_OPSET} on"
        )));
    }
    let mut by_axis: BTreeMap<usize, Vec<Reader>> = BTreeMap::new();
    for user in graph.users(value) {
        let needs_floats =
            || Skip::because(format!("{name:?} is also read where it has to be float: {}", place(graph, user)));
        let (axis, reader) = reader(graph, user, tensor, config).ok_or_else(needs_floats)??;
        by_axis.entry(axis).or_default().push(reader);
    }
    Ok(merge(by_axis))
}

/// A table of words that also turns states into words, as in language models, is most of the model: it is stored once.
/// The look-up has no choice of the axis, and any other reader can have its scales along any.
fn merge(by_axis: BTreeMap<usize, Vec<Reader>>) -> BTreeMap<usize, Vec<Reader>> {
    let picked = by_axis.iter().find(|(_, readers)| readers.iter().any(|r| r.picks)).map(|(axis, _)| *axis);
    match picked {
        Some(axis) => BTreeMap::from([(axis, by_axis.into_values().flatten().collect())]),
        None => by_axis,
    }
}

/// First opset version at which `DequantizeLinear` has float16 scales.
const FLOAT16_OPSET: i64 = 19;

/// The axis of a weight's channels at a place; `None` if what reads it there does not take it as a weight.
fn reader(graph: &Graph, user: Use, tensor: &Tensor, config: &Int8Weights) -> Option<Result<(usize, Reader), Skip>> {
    let Use::Node(id, Operand::Input(slot)) = user else { return None };
    let (node, slot) = (graph.node(id)?, slot as usize);
    let axis = match node.op.is("Transpose") {
        true => axis_behind(graph, node, tensor.rank(), config)?,
        false => channel_axis(node, slot, tensor.rank())?,
    };
    if config.exclude.contains(&node.name) {
        return Some(Err(Skip::because(format!("{:?} is listed in `exclude`", node.name))));
    }
    let picks = node.op.is("Gather");
    if picks && !config.gather {
        return Some(Err(Skip::because("`gather` is off")));
    }
    Some(axis.map(|axis| (axis, Reader { node: id, slot, picks })))
}

/// The axis along which a weight has one scale per channel: that of the outputs, so that a runtime can multiply codes and
/// scale afterwards.
fn channel_axis(node: &Node, slot: usize, rank: usize) -> Option<Result<usize, Skip>> {
    if !node.op.domain.is_empty() {
        return None;
    }
    let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
    match (node.op.name.as_str(), slot, rank) {
        ("Conv", 1, 2..) => Some(Ok(0)),
        ("ConvTranspose", 1, 2..) => match node.attrs.int("group").unwrap_or(1) {
            1 => Some(Ok(1)),
            groups => {
                Some(Err(Skip::because(format!("{:?} has {groups} groups, of which axis 1 holds only one", node.name))))
            }
        },
        ("Gemm", 1, 2) => Some(Ok(if flag("transB") { 0 } else { 1 })),
        ("Gemm", 0, 2) => Some(Ok(if flag("transA") { 1 } else { 0 })),
        ("MatMul", 1, 2..) => Some(Ok(rank - 1)),
        ("MatMul", 0, 2..) => Some(Ok(rank - 2)),
        // Scales per column of the table stay constant behind the look-up; scales per row would have to be looked up too.
        ("Gather", 0, 2..) => match node.attrs.int("axis").unwrap_or(0) {
            axis if axis == -1 || axis == rank as i64 - 1 => {
                Some(Err(Skip::because(format!("{:?} picks along the last axis", node.name))))
            }
            _ => Some(Ok(rank - 1)),
        },
        _ => None,
    }
}

/// The axis of the channels of a weight that is transposed first, if all who read the result agree on it.
fn axis_behind(graph: &Graph, transpose: &Node, rank: usize, config: &Int8Weights) -> Option<Result<usize, Skip>> {
    let from = |axis: usize| match transpose.attrs.ints("perm") {
        Some(perm) => usize::try_from(*perm.get(axis)?).ok(),
        None => rank.checked_sub(axis + 1),
    };
    let mut agreed = None;
    for user in graph.users(transpose.output(0)?) {
        let Use::Node(id, Operand::Input(slot)) = user else { return None };
        let node = graph.node(id).filter(|n| !n.op.is("Gather"))?;
        if config.exclude.contains(&node.name) {
            return Some(Err(Skip::because(format!("{:?} is listed in `exclude`", node.name))));
        }
        let axis = match channel_axis(node, slot as usize, rank)? {
            Ok(axis) => from(axis)?,
            refusal => return Some(refusal),
        };
        if *agreed.get_or_insert(axis) != axis {
            return None;
        }
    }
    agreed.map(Ok)
}

fn place(graph: &Graph, user: Use) -> String {
    match user {
        Use::Output(_) => "it is a graph output".into(),
        Use::Node(id, operand) => {
            let label = graph.node(id).map_or_else(
                || id.to_string(),
                |n| match (n.name.as_str(), n.output(0)) {
                    ("", Some(made)) => format!("the {} that makes {:?}", n.op, graph.name_of(made)),
                    (name, _) => format!("{} {name:?}", n.op),
                },
            );
            match operand {
                Operand::Input(slot) => format!("input {slot} of {label}"),
                Operand::Capture(_) => format!("a subgraph of {label}"),
            }
        }
    }
}
