//! What could be pruned, and what it carries.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    GraphPath, Model, Node, ValueId,
    axes::{Block, Class, Classes},
    cost,
    infer::{Bindings, GraphFacts, Inferred},
};

/// A class of channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its index in [`Classes::all`].
    pub class: usize,
    /// How many channels it has; `None` if that is open.
    pub size: Option<u64>,
    /// Elements of weights that go with all of its channels.
    pub parameters: u64,
    /// Multiply-accumulates that go with all of its channels.
    pub macs: u64,
}

/// What of a model could be pruned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prunable {
    /// Classes that carry weights or multiply-accumulates and that nothing blocks, in the order of [`Classes::all`].
    pub free: Vec<Unit>,
    /// The same, but something blocks them.
    pub blocked: Vec<Unit>,
    /// Multiply-accumulates of the model, as far as they are known.
    pub macs: u64,
    /// Those of nodes that a free class is on.
    pub free_macs: u64,
}

/// Lists the classes of a model that carry something. Places in a window or image, which nobody thinks of as channels, are left out.
pub fn prunable(model: &Model, facts: &Inferred, classes: &Classes, bindings: &Bindings) -> Prunable {
    let mut result = Prunable::default();
    let mut carried: BTreeMap<usize, u64> = BTreeMap::new();
    let unknown = GraphFacts::default();
    for path in model.graph_paths() {
        let Some(graph) = model.graph_at(&path) else { continue };
        let facts = facts.graph().at(&path).unwrap_or(&unknown);
        for (_, node) in graph.nodes() {
            let Some(macs) = cost::node_macs(model, node, facts, bindings).filter(|&m| m > 0) else { continue };
            result.macs = result.macs.saturating_add(macs);
            let shares = shares(&path, node, facts, classes);
            let is_free =
                |index: &usize| classes.all().get(*index).is_some_and(|c| c.blocks.is_empty() && has_weight(model, c));
            if shares.keys().any(is_free) {
                result.free_macs = result.free_macs.saturating_add(macs);
            }
            for (class, (part, whole)) in shares {
                let share = u128::from(macs) * u128::from(part) / u128::from(whole.max(1));
                let sum = carried.entry(class).or_default();
                *sum = sum.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
            }
        }
    }
    for (index, class) in classes.all().iter().enumerate().filter(|(_, c)| has_weight(model, c)) {
        let macs = carried.get(&index).copied().unwrap_or(0);
        let unit = Unit { class: index, size: class.size.known(), parameters: parameters(model, class), macs };
        if (macs == 0 && unit.parameters == 0) || class.blocks.iter().any(Block::is_window) {
            continue;
        }
        if class.blocks.is_empty() { result.free.push(unit) } else { result.blocked.push(unit) }
    }
    result
}

/// Classes on the axes of a node, with the largest part of an axis that each takes.
fn shares(path: &GraphPath, node: &Node, facts: &GraphFacts, classes: &Classes) -> BTreeMap<usize, (u64, u64)> {
    let mut shares: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let values: BTreeSet<ValueId> = node.inputs().iter().chain(node.outputs()).flatten().copied().collect();
    for value in values {
        for (axis, size) in facts.fact(value).shape().into_iter().flatten().enumerate() {
            let Some(whole) = size.known().filter(|&n| n > 0) else { continue };
            for &index in classes.indices_along(path, value, axis) {
                let Some(class) = classes.all().get(index) else { continue };
                let here = class.members.iter().filter(|m| m.graph == *path && m.value == value && m.axis == axis);
                let part: u64 = here.filter_map(|m| places(class, m)).sum();
                let share = shares.entry(index).or_insert((0, 1));
                // Compared as fractions.
                if u128::from(part) * u128::from(share.1) > u128::from(share.0) * u128::from(whole) {
                    *share = (part, whole);
                }
            }
        }
    }
    shares
}

/// How many places of its axis a member takes.
fn places(class: &Class, member: &planish_ir::axes::Member) -> Option<u64> {
    let copies = member.repeats.iter().try_fold(1u64, |n, r| n.checked_mul(r.count.known()?))?;
    class.size.known()?.checked_mul(member.block.known()?)?.checked_mul(copies)
}

fn has_weight(model: &Model, class: &Class) -> bool {
    class.members.iter().any(|m| tensor(model, &m.graph, m.value).is_some_and(|t| t.rank() > 1))
}

fn tensor<'a>(model: &'a Model, path: &GraphPath, value: ValueId) -> Option<&'a planish_ir::Tensor> {
    model.graph_at(path)?.constant(value).filter(|t| cost::is_weight(t))
}

/// Elements of the weights that all channels of a class take.
fn parameters(model: &Model, class: &Class) -> u64 {
    let of = |m: &planish_ir::axes::Member| {
        let tensor = tensor(model, &m.graph, m.value)?;
        let size = *tensor.dims().get(m.axis)?;
        let part = places(class, m)?;
        u64::try_from(u128::from(tensor.elements()) * u128::from(part) / u128::from(size.max(1))).ok()
    };
    // A weight with the class on two axes loses its elements once.
    let mut largest: BTreeMap<(&GraphPath, ValueId), u64> = BTreeMap::new();
    for m in &class.members {
        let lost = largest.entry((&m.graph, m.value)).or_default();
        *lost = (*lost).max(of(m).unwrap_or(0));
    }
    largest.values().fold(0, |sum, n| sum.saturating_add(*n))
}
