//! Residual blocks: sums of a value and what is computed from it.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Graph, Node, NodeId, Patch, ValueId, infer::GraphFacts, op};

/// A sum `x + f(x)` of values of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The node that adds.
    pub(super) sum: NodeId,
    /// `x`.
    pub(super) stays: ValueId,
    /// What `x` can stand for: the sum, and behind it what a normalization or an activation makes of the sum, if that is its only reader.
    pub(super) ends: Vec<ValueId>,
}

/// The residual blocks of a graph, in its order. Sums whose shape is not known to be that of what is added to are counted.
pub(super) fn blocks(graph: &Graph, facts: &GraphFacts) -> (Vec<Block>, usize) {
    let order = graph.topological_order().unwrap_or_default();
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(at, &id)| (id, at)).collect();
    let (mut blocks, mut open) = (Vec::new(), 0);
    for id in order {
        let Some(node) = graph.node(id).filter(|n| n.op.is("Add") || n.op.is("Sum")) else { continue };
        let (&[Some(a), Some(b)], Some(out)) = (node.inputs(), node.output(0)) else { continue };
        if [a, b].iter().any(|&v| graph.constant(v).is_some()) {
            continue;
        }
        let from = [(a, b), (b, a)].into_iter().find(|&(x, f)| x != f && follows(graph, &position, f, x));
        let Some((stays, _)) = from else { continue };
        if !is_same(facts, stays, out) {
            open += usize::from(may_be_same(facts, stays, out));
            continue;
        }
        let mut ends = vec![out];
        if let Some((_, next, _)) = graph.only_user(out)
            && let Some(behind) =
                next.output(0).filter(|&v| is_elementwise(graph, next, out) && is_same(facts, stays, v))
        {
            ends.push(behind);
        }
        blocks.push(Block { sum: id, stays, ends });
    }
    (blocks, open)
}

/// True if `x` is needed to compute `value`.
fn follows(graph: &Graph, position: &BTreeMap<NodeId, usize>, value: ValueId, x: ValueId) -> bool {
    // What comes before the node that makes `x` does not depend on it.
    let first = graph.producer(x).and_then(|(id, _)| position.get(&id));
    let (mut seen, mut open) = (BTreeSet::new(), vec![value]);
    while let Some(v) = open.pop() {
        if v == x {
            return true;
        }
        let Some((id, node)) = graph.producer(v) else { continue };
        if position.get(&id) > first && seen.insert(id) {
            open.extend(node.inputs().iter().flatten().chain(node.captures()));
        }
    }
    false
}

/// True if both have the same type and, for all sizes of the inputs, the same shape.
fn is_same(facts: &GraphFacts, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (facts.fact(a), facts.fact(b));
    a.dtype().is_some() && a.dtype() == b.dtype() && a.shape().is_some() && a.shape() == b.shape()
}

/// True unless it is known that they differ.
fn may_be_same(facts: &GraphFacts, a: ValueId, b: ValueId) -> bool {
    let (Some(a), Some(b)) = (facts.fact(a).shape(), facts.fact(b).shape()) else { return true };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || a.known().is_none() || b.known().is_none())
}

/// True for a node that reads one value and constants, makes one value, and neither multiplies matrices nor moves elements: an activation or
/// a normalization.
fn is_elementwise(graph: &Graph, node: &Node, read: ValueId) -> bool {
    let others = node.inputs().iter().flatten().filter(|&&v| v != read);
    let is_one = node.outputs().iter().flatten().count() == 1;
    let computes =
        |s: &op::OpSpec| s.macs.is_none() && (s.traits.elementwise || s.traits.folding == op::Folding::Rounding);
    op::of(node).is_some_and(computes)
        && is_one
        && node.captures().is_empty()
        && others.clone().all(|&v| graph.constant(v).is_some())
}

/// The patch after which `stays` is read instead of `end`; the branch goes as far as nobody else needs it.
pub(super) fn patch(graph: &Graph, stays: ValueId, end: ValueId) -> Patch {
    let note = format!("{:?} instead of {:?}", graph.name_of(stays), graph.name_of(end));
    let mut patch = Patch::new(planish_ir::Numerics::Lossy, note);
    patch.replace(end, stays);
    patch
}
