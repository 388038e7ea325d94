//! Differences of numbers that are almost the same, where the result is divided by.
//!
//! A variance computed as the mean of squares minus the square of the mean is what is left of two rounded numbers. Where
//! they cancel, little but their rounding errors is, and a division carries that into everything. (Where a difference is
//! added or multiplied with, its error is no larger than before, beside what else is there.)

use std::collections::BTreeSet;

use planish_ir::{Graph, Node, NodeId, Operand, Use, ValueId, op};

use super::{literals::constant, measure::Measured, select::is_f32};

/// A result that is divided by has to keep this much above the rounding errors of what it is the difference of.
const MIN_DB: f64 = 45.0;

/// How far makers and readers of a difference are looked at.
const REACH: usize = 8;

/// A difference, and the nodes that have to be as precise as it: those that make its terms, each from what both have in
/// common, and those up to the division.
pub(super) struct Cancelling {
    pub(super) difference: NodeId,
    pub(super) nodes: BTreeSet<NodeId>,
    /// How much of the difference is left above the rounding errors; `None` if it was not measured.
    pub(super) left_db: Option<f64>,
}

/// The differences of a graph that may not be computed in 16 bits.
pub(super) fn cancelling(graph: &Graph, measured: &Measured) -> Vec<Cancelling> {
    graph.nodes().filter_map(|(id, node)| find(graph, id, node, measured)).collect()
}

fn find(graph: &Graph, id: NodeId, node: &Node, measured: &Measured) -> Option<Cancelling> {
    // A sum of numbers of both signs cancels too, but nobody divides by one who does not know that it is positive.
    let (a, b) = node.input(0).zip(node.input(1)).filter(|_| node.op.is("Sub"))?;
    let result = node.output(0).filter(|&v| is_f32(graph, v))?;
    if a == b || constant(graph, a).is_some() || constant(graph, b).is_some() {
        return None;
    }
    let division = path_to_division(graph, result)?;
    let extents = [a, b, result].map(|v| measured.extent(v));
    let left_db = match extents {
        [Some(a), Some(b), Some(result)] => {
            let left = 10.0 * (result.power() / (a.noise_power() + b.noise_power())).log10();
            if left >= MIN_DB || left.is_nan() {
                return None;
            }
            Some(left)
        }
        _ => None,
    };
    let (of_a, of_b) = (makers(graph, a), makers(graph, b));
    let mut nodes: BTreeSet<NodeId> = of_a.symmetric_difference(&of_b).copied().collect();
    nodes.extend(division);
    nodes.insert(id);
    Some(Cancelling { difference: id, nodes, left_db })
}

/// The nodes through which a value becomes a divisor, the division among them.
fn path_to_division(graph: &Graph, value: ValueId) -> Option<BTreeSet<NodeId>> {
    let (mut path, mut value) = (BTreeSet::new(), value);
    for _ in 0..REACH {
        let readers = || {
            graph.users(value).filter_map(|u| match u {
                Use::Node(id, Operand::Input(slot)) => Some((id, graph.node(id)?, slot as usize)),
                _ => None,
            })
        };
        let divides = |node: &Node, slot: usize| match node.op.name.as_str() {
            "Div" => slot == 1,
            "Sqrt" | "Reciprocal" | "Log" => true,
            // A root, or a root to divide by.
            "Pow" => slot == 0 && node.input(1).and_then(|v| constant(graph, v)?.single_f64()).is_none_or(|e| e < 1.0),
            _ => false,
        };
        if let Some((id, ..)) = readers().find(|(_, n, slot)| n.op.domain.is_empty() && divides(n, *slot)) {
            path.insert(id);
            return Some(path);
        }
        // Guards and factors.
        let guards = |node: &Node| {
            let name = node.op.name.as_str();
            let others = node.inputs().iter().flatten().filter(|v| **v != value);
            let passes =
                matches!(name, "Add" | "Mul" | "Max" | "Clip" | "Relu" | "Abs" | "Identity" | "Reshape" | "Unsqueeze");
            node.op.domain.is_empty()
                && passes
                && others.into_iter().all(|&v| crate::clean::constant_of(graph, v).is_some())
        };
        let (id, node, _) = readers().find(|(_, n, _)| guards(n))?;
        path.insert(id);
        value = node.output(0)?;
    }
    None
}

/// Nodes that make a value, up to linear algebra, and not too far away.
fn makers(graph: &Graph, value: ValueId) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    let mut work = vec![value];
    for _ in 0..REACH {
        for (id, node) in std::mem::take(&mut work).into_iter().filter_map(|v| graph.producer(v)) {
            let calculates = op::of(node).is_some_and(|s| s.macs.is_none()) && !node.op.is("Constant");
            if calculates && found.insert(id) {
                work.extend(node.inputs().iter().copied().flatten().filter(|&v| is_f32(graph, v)));
            }
        }
    }
    found
}
