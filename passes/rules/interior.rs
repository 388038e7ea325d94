//! The nodes of a match, and who else reads what they make.

use std::collections::BTreeSet;

use planish_ir::{
    Graph, NodeId, Use, ValueId,
    infer::{Fact, prospect},
};

use super::{
    ast::{RuleDef, Slot},
    eval::Eval,
    matcher::Found,
};

/// Nodes that are looked at to find out whether a result would feed itself.
const MAX_UPSTREAM: usize = 256;

/// The nodes of a match.
pub(super) struct Interior {
    pub(super) root_id: NodeId,
    nodes: BTreeSet<NodeId>,
    /// Outputs of the root that the rule names.
    root_outputs: Vec<Slot>,
    /// Other results.
    also: Vec<ValueId>,
}

impl Interior {
    /// Fails with the reader if somebody outside of the match reads what would be gone.
    pub(super) fn of(graph: &Graph, rule: &RuleDef, found: &Found, root_id: NodeId) -> Result<Interior, String> {
        let root_outputs: Vec<Slot> =
            rule.lines.last().map(|l| l.outputs.iter().flatten().copied().collect()).unwrap_or_default();
        let values = |slots: &mut dyn Iterator<Item = Slot>| slots.filter_map(|s| found.value(s)).collect::<Vec<_>>();
        let also = values(&mut rule.also.iter().map(|(s, _)| *s));
        let open: BTreeSet<ValueId> =
            values(&mut root_outputs.iter().copied().chain(rule.shared.iter().map(|(s, _)| *s)))
                .into_iter()
                .chain(also.iter().copied())
                .collect();
        let nodes: BTreeSet<NodeId> = found.nodes.iter().copied().collect();
        for &id in &nodes {
            let Some(node) = graph.node(id) else { continue };
            for &output in node.outputs().iter().flatten().filter(|v| !open.contains(v)) {
                let stranger = graph.users(output).find(|u| !matches!(u, Use::Node(n, _) if nodes.contains(n)));
                if let Some(reader) = stranger {
                    return Err(format!("{:?} is also {}", graph.name_of(output), describe(graph, reader)));
                }
            }
        }
        Ok(Interior { root_id, nodes, root_outputs, also })
    }

    pub(super) fn is_root_output(&self, slot: Slot) -> bool {
        self.root_outputs.contains(&slot)
    }

    /// Name of what the root makes.
    pub(super) fn root(&self, graph: &Graph) -> String {
        graph.node(self.root_id).and_then(|n| n.output(0)).map_or_else(String::new, |v| graph.name_of(v))
    }

    /// How many nodes go if the results are replaced and `reads` are read, and their multiply-accumulates.
    pub(super) fn removed(&self, eval: &Eval<'_>, replaced: &[ValueId], reads: &[ValueId]) -> (usize, Option<u64>) {
        let graph = eval.cx.graph;
        let mut gone: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            let goes = |id: &NodeId| {
                graph.node(*id).is_some_and(|n| {
                    n.outputs().iter().flatten().all(|v| {
                        let unread = |u: Use| matches!(u, Use::Node(n, _) if gone.contains(&n));
                        !reads.contains(v) && (replaced.contains(v) || graph.users(*v).all(unread))
                    })
                })
            };
            let next: Vec<NodeId> = self.nodes.iter().filter(|id| !gone.contains(id) && goes(id)).copied().collect();
            if next.is_empty() {
                break;
            }
            gone.extend(next);
        }
        let macs = gone.iter().try_fold(0u64, |sum, id| {
            let node = graph.node(*id)?;
            let facts: Vec<Option<Fact>> =
                node.inputs().iter().map(|v| v.map(|v| eval.cx.facts.fact(v).clone())).collect();
            let known = prospect(&node.op, &node.attrs, &facts, node.outputs().len(), eval.cx.opsets).ok()?;
            sum.checked_add(known.macs?)
        });
        (gone.len(), macs)
    }

    /// A result other than the root's has readers that may lead to the inputs of its replacement, which would then wait
    /// for itself. Fails if that is so, or would take long to find out.
    pub(super) fn accepts_inputs(&self, eval: &Eval<'_>, reads: &[ValueId]) -> Result<(), String> {
        if self.also.is_empty() {
            return Ok(());
        }
        let graph = eval.cx.graph;
        let upstream = self.upstream_of_results(graph);
        let mut seen: BTreeSet<NodeId> = BTreeSet::new();
        let mut work: Vec<ValueId> = reads.to_vec();
        while let Some(v) = work.pop() {
            if self.also.contains(&v) {
                return Err(format!("{:?} would feed its own replacement", graph.name_of(v)));
            }
            let Some((id, node)) = graph.producer(v).filter(|_| !upstream.contains(&v)) else { continue };
            if !seen.insert(id) {
                continue;
            }
            if seen.len() > MAX_UPSTREAM {
                return Err(format!("not known within {MAX_UPSTREAM} nodes whether a result would feed itself"));
            }
            work.extend(node.operands());
        }
        Ok(())
    }

    /// Values on the way to the other results, as far as the match goes: they cannot depend on those.
    fn upstream_of_results(&self, graph: &Graph) -> BTreeSet<ValueId> {
        let mut upstream = BTreeSet::new();
        let mut work = self.also.clone();
        while let Some(v) = work.pop() {
            let Some((_, node)) = graph.producer(v).filter(|(id, _)| self.nodes.contains(id)) else { continue };
            work.extend(node.operands().filter(|&v| upstream.insert(v)));
        }
        self.also.iter().for_each(|v| {
            upstream.remove(v);
        });
        upstream
    }
}

fn describe(graph: &Graph, reader: Use) -> String {
    match reader {
        Use::Output(_) => "a graph output".to_owned(),
        Use::Node(id, _) => {
            let Some(node) = graph.node(id) else { return "read elsewhere".to_owned() };
            match (node.name.as_str(), node.output(0)) {
                ("", Some(v)) => format!("read by {} making {:?}", node.op, graph.name_of(v)),
                (name, _) => format!("read by {} {name:?}", node.op),
            }
        }
    }
}
