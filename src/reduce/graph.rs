//! Smaller candidates.

use std::collections::BTreeSet;

use planish_ir::{Graph, GraphPath, Model, NodeId, Numerics, OpName, Patch, Use, ValueId};

/// The smallest set of `0..count` found of which `fails` is true, given that it is true of all: no single chunk of the size that
/// the search ended with, 1, can be left out alone.
pub fn minimize(count: usize, fails: &mut dyn FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..count).collect();
    let mut chunk = count.div_ceil(2);
    while chunk > 0 && !kept.is_empty() {
        // From the end, since what comes later depends on what comes earlier.
        let mut end = kept.len();
        let mut shrunk = false;
        while end > 0 {
            let start = end.saturating_sub(chunk);
            let rest: Vec<usize> =
                kept.iter().enumerate().filter(|(i, _)| !(start..end).contains(i)).map(|(_, &k)| k).collect();
            if fails(&rest) {
                kept = rest;
                shrunk = true;
            }
            end = start;
        }
        // Whatever went may have been what another one needed.
        chunk = match (chunk, shrunk) {
            (1, true) => 1,
            (1, false) => 0,
            _ => chunk.div_ceil(2),
        };
    }
    kept
}

/// The values that nodes make.
pub(super) fn made_by(graph: &Graph, nodes: &[NodeId]) -> BTreeSet<ValueId> {
    nodes.iter().filter_map(|&id| graph.node(id)).flat_map(|n| n.outputs().iter().flatten().copied()).collect()
}

/// The values that nodes make for others or for the outside.
pub(super) fn frontier(graph: &Graph, nodes: &[NodeId]) -> Vec<ValueId> {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let leaves = |v: &ValueId| {
        graph.users(*v).any(|u| match u {
            Use::Output(_) => true,
            Use::Node(n, _) => !inside.contains(&n),
        })
    };
    made_by(graph, nodes).into_iter().filter(leaves).collect()
}

/// The model without a node, once for each of its inputs that can take the place of its only output.
pub(super) fn bridged(model: &Model, id: NodeId) -> Vec<Model> {
    let g = &model.graph;
    let Some(node) = g.node(id) else { return Vec::new() };
    let outputs: Vec<ValueId> = node.outputs().iter().flatten().copied().collect();
    let [output] = outputs[..] else { return Vec::new() };
    let Some(ty) = g.ty(output) else { return Vec::new() };
    let inputs: BTreeSet<ValueId> = node.inputs().iter().flatten().copied().filter(|&v| g.ty(v) == Some(ty)).collect();
    let bridge = |input: ValueId| {
        let mut patch = Patch::new(Numerics::Lossy, "bridged");
        patch.replace(output, input);
        let mut smaller = model.clone();
        smaller.apply(&GraphPath::main(), patch).ok()?;
        // Without what only the node had read, and without inputs that nobody reads.
        let outputs = smaller.graph.outputs().to_vec();
        smaller.extract(&GraphPath::main(), &outputs)
    };
    inputs.into_iter().filter_map(bridge).collect()
}

/// Removes local functions that nothing calls.
pub(super) fn drop_unused_functions(model: &mut Model) {
    let mut called: BTreeSet<OpName> = BTreeSet::new();
    let mut work = vec![calls(&model.graph)];
    while let Some(names) = work.pop() {
        for name in names {
            if let Some(f) = model.function(&name)
                && called.insert(name)
            {
                work.push(calls(&f.body));
            }
        }
    }
    model.functions.retain(|f| called.contains(&f.op));
}

fn calls(graph: &Graph) -> Vec<OpName> {
    let mut names = Vec::new();
    graph.walk(&mut |g| names.extend(g.nodes().map(|(_, n)| n.op.clone())));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let mut tests = 0;
        let needed = [3, 17, 18, 60];
        let kept = minimize(100, &mut |keep| {
            tests += 1;
            needed.iter().all(|n| keep.contains(n))
        });
        assert_eq!(kept, needed);
        assert!(tests < 100, "{tests}");
        assert!(minimize(5, &mut |_| true).is_empty());
        assert!(minimize(0, &mut |_| true).is_empty());
    }
}
