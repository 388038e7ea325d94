//! Which weights are stored, by whom they are read, and along which axis their scales lie.

use std::collections::BTreeMap;

use planish_ir::{DType, Graph, Node, NodeId, Operand, Tensor, Use, ValueId};

use super::{LowFloat, LowFloatWeights, blocks::Layout};
use crate::{Skip, Target, clean};

/// A weight, and those of its readers that want the same layout.
pub(super) struct Site {
    pub(super) value: ValueId,
    pub(super) tensor: Tensor,
    pub(super) layout: Layout,
    pub(super) readers: Vec<Reader>,
}

/// An input slot that reads a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reader {
    pub(super) node: NodeId,
    pub(super) slot: usize,
}

/// The axes of a weight: that of the output channels, and the one that is summed over, if it is only one.
#[derive(Clone, Copy)]
struct Axes {
    channels: usize,
    summed: Option<usize>,
    /// It is a table, of which any layout would do.
    picks: bool,
}

/// The weights of a graph, and the nodes that keep theirs, with the reason.
pub(super) fn sites(graph: &Graph, config: &LowFloatWeights, target: Target) -> (Vec<Site>, Vec<(NodeId, Skip)>) {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for (value, v) in graph.values() {
        if !matches!(v.dtype(), Some(DType::F32 | DType::F16 | DType::BF16)) {
            continue;
        }
        let Some(tensor) = clean::constant_of(graph, value) else { continue };
        let takers: Vec<NodeId> = graph
            .users(value)
            .filter(|&u| axes(graph, u, tensor.rank()).is_some())
            .filter_map(|u| match u {
                Use::Node(id, _) => Some(id),
                Use::Output(_) => None,
            })
            .collect();
        // Only what some node takes as a weight is worth a word.
        if takers.is_empty() {
            continue;
        }
        match readers(graph, value, &tensor, config, target) {
            Ok(by_layout) => found.extend(by_layout.into_iter().map(|(layout, readers)| Site {
                value,
                tensor: tensor.clone(),
                layout,
                readers,
            })),
            Err(skip) => refused.extend(takers.into_iter().map(|node| (node, skip.clone()))),
        }
    }
    (found, refused)
}

fn readers(
    graph: &Graph,
    value: ValueId,
    tensor: &Tensor,
    config: &LowFloatWeights,
    target: Target,
) -> Result<BTreeMap<Layout, Vec<Reader>>, Skip> {
    let name = graph.name_of(value);
    if config.exclude.contains(&name) {
        return Err(Skip::because(format!("{name:?} is listed in `exclude`")));
    }
    let elements = tensor.elements();
    if elements == 0 || elements < config.min_elements {
        let least = config.min_elements;
        return Err(Skip::because(format!("{name:?} has {elements} elements, and `min_elements` is {least}")));
    }
    let mut readers = Vec::new();
    for user in graph.users(value) {
        let elsewhere = || Skip::because(format!("{name:?} is also read where it has to be float"));
        let axes = axes(graph, user, tensor.rank()).ok_or_else(elsewhere)??;
        let Use::Node(id, Operand::Input(slot)) = user else { return Err(elsewhere()) };
        let label = graph.node(id).map(|n| n.name.clone()).unwrap_or_default();
        if config.exclude.contains(&label) {
            return Err(Skip::because(format!("{label:?} is listed in `exclude`")));
        }
        if axes.picks && !config.gather {
            return Err(Skip::because(format!("{name:?} is a table, and `gather` is off")));
        }
        readers.push((axes, Reader { node: id, slot: slot as usize }));
    }
    // A table that also turns states into words is most of some models: it is stored once, as the product wants it.
    readers.sort_by_key(|(axes, _)| axes.picks);
    let mut by_layout: BTreeMap<Layout, Vec<Reader>> = BTreeMap::new();
    for (axes, reader) in readers {
        let shared = by_layout.keys().next().copied().filter(|_| axes.picks);
        let layout = match (shared, config.format, axes.summed) {
            (Some(layout), ..) => layout,
            (None, LowFloat::Float8, _) | (None, _, None) => Layout::PerChannel { axis: axes.channels },
            (None, LowFloat::MxFp8, Some(axis)) => Layout::Blocks { codes: DType::F8E4M3FN, axis, block: 32 },
            (None, LowFloat::MxFp4, Some(axis)) => Layout::Blocks { codes: DType::F4E2M1, axis, block: 32 },
            (None, LowFloat::NvFp4, Some(axis)) => Layout::ScaledBlocks { axis, block: 16 },
        };
        if let (Target::Tensorrt, Some(block)) = (target, layout.block()) {
            check_for_tensorrt(&name, tensor, layout.axis(), block)?;
        }
        by_layout.entry(layout).or_default().push(reader);
    }
    Ok(by_layout)
}

fn check_for_tensorrt(name: &str, tensor: &Tensor, axis: usize, block: usize) -> Result<(), Skip> {
    let size = tensor.dims().get(axis).copied().unwrap_or(0);
    if !size.is_multiple_of(block as u64) {
        return Err(Skip::because(format!(
            "axis {axis} of {name:?} has {size} entries, which blocks of {block} do not fill"
        )));
    }
    if tensor.dims().last().is_some_and(|d| !d.is_multiple_of(2)) {
        return Err(Skip::because(format!("the last axis of {name:?} is odd, which TensorRT does not take in 4 bits")));
    }
    Ok(())
}

/// The axes of a weight at a place; `None` if what reads it there does not take it as a weight.
fn axes(graph: &Graph, user: Use, rank: usize) -> Option<Result<Axes, Skip>> {
    let Use::Node(id, Operand::Input(slot)) = user else { return None };
    let node = graph.node(id)?;
    match node.op.is("Transpose") {
        true => axes_behind(graph, node, rank),
        false => axes_at(node, slot as usize, rank),
    }
}

fn axes_at(node: &Node, slot: usize, rank: usize) -> Option<Result<Axes, Skip>> {
    if !node.op.domain.is_empty() || node.is_local() {
        return None;
    }
    let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
    let matrix = |channels: usize, summed: usize| Some(Ok(Axes { channels, summed: Some(summed), picks: false }));
    let other = |channels: usize| Some(Ok(Axes { channels, summed: None, picks: false }));
    match (node.op.name.as_str(), slot, rank) {
        ("Conv", 1, 2..) => other(0),
        ("ConvTranspose", 1, 2..) => match node.attrs.int("group").unwrap_or(1) {
            1 => other(1),
            groups => {
                Some(Err(Skip::because(format!("{:?} has {groups} groups, of which axis 1 holds only one", node.name))))
            }
        },
        ("Gemm", 1, 2) => {
            if flag("transB") {
                matrix(0, 1)
            } else {
                matrix(1, 0)
            }
        }
        ("Gemm", 0, 2) => {
            if flag("transA") {
                matrix(1, 0)
            } else {
                matrix(0, 1)
            }
        }
        ("MatMul", 1, 2..) => matrix(rank - 1, rank - 2),
        ("MatMul", 0, 2..) => matrix(rank - 2, rank - 1),
        ("Gather", 0, 2..) => Some(Ok(Axes { channels: 0, summed: Some(rank - 1), picks: true })),
        _ => None,
    }
}

/// The axes of a weight that is transposed first, if all who read the result agree on them.
fn axes_behind(graph: &Graph, transpose: &Node, rank: usize) -> Option<Result<Axes, Skip>> {
    let from = |axis: usize| match transpose.attrs.ints("perm") {
        Some(perm) => usize::try_from(*perm.get(axis)?).ok().filter(|&a| a < rank),
        None => rank.checked_sub(axis + 1),
    };
    let mut agreed: Option<(usize, Option<usize>)> = None;
    for user in graph.users(transpose.output(0)?) {
        let Use::Node(id, Operand::Input(slot)) = user else { return None };
        let node = graph.node(id).filter(|n| !n.op.is("Gather"))?;
        let axes = match axes_at(node, slot as usize, rank)? {
            Ok(axes) => (from(axes.channels)?, axes.summed.and_then(from)),
            refusal => return Some(refusal),
        };
        if *agreed.get_or_insert(axes) != axes {
            return None;
        }
    }
    agreed.map(|(channels, summed)| Ok(Axes { channels, summed, picks: false }))
}
