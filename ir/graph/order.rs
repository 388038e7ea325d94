//! Orders of the nodes.
//!
//! The canonical order is the post-order of a depth-first walk from the graph's outputs over operands in their order;
//! nodes that no output needs follow, by the name of their first output. It depends on the structure alone, not on
//! the order of a file, which makes everything downstream of import independent of it.

use petgraph::algo::tarjan_scc;

use crate::{Graph, NodeId};

/// Nodes that wait for each other, so that the graph cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the nodes {} form a cycle", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "))]
pub struct Cycle {
    /// Names of the nodes (or of their first outputs, where they have none), at most eight of them.
    pub names: Vec<String>,
}

impl Graph {
    /// The canonical topological order of the nodes that live. It is kept until the graph changes.
    pub fn topological_order(&self) -> Result<Vec<NodeId>, Cycle> {
        if let Some(order) = self.order.get() {
            debug_assert_eq!(Ok(order), self.find_order().as_ref(), "an edit did not forget the order");
            return Ok(order.clone());
        }
        let order = self.find_order()?;
        // Two threads that ask at the same time find the same one.
        let _ = self.order.set(order.clone());
        Ok(order)
    }

    /// The same, found anew: for the verifier, which trusts nothing that was kept.
    pub(crate) fn find_order(&self) -> Result<Vec<NodeId>, Cycle> {
        let bound = self.nodes().next_back().map_or(0, |(id, _)| id.index() + 1);
        let successors = |i: usize, out: &mut Vec<usize>| {
            if let Some(node) = self.node(NodeId(i as u32)) {
                out.extend(node.operands().filter_map(|v| self.value(v)?.producer()).map(NodeId::index));
            }
        };
        let mut walk = PostOrder::new(bound);
        let producers = self.outputs().iter().filter_map(|&v| self.value(v)?.producer());
        let mut done = walk.visit(producers.map(NodeId::index), successors);
        if done.is_ok() {
            let rest = self.nodes().filter(|(id, _)| !walk.has_visited(id.index()));
            let mut rest: Vec<(&str, NodeId)> = rest.map(|(id, n)| (self.first_output_name(n), id)).collect();
            // Without outputs to tell them apart the ids have to do.
            rest.sort_unstable();
            done = walk.visit(rest.into_iter().map(|(_, id)| id.index()), successors);
        }
        match done {
            Ok(()) => Ok(walk.order.into_iter().map(|i| NodeId(i as u32)).collect()),
            Err(_) => Err(self.find_cycle()),
        }
    }

    fn first_output_name<'a>(&'a self, node: &'a crate::Node) -> &'a str {
        node.outputs.iter().flatten().find_map(|&v| Some(self.value(v)?.name())).unwrap_or(&node.name)
    }

    fn find_cycle(&self) -> Cycle {
        let label = |id: NodeId| match self.node(id) {
            Some(n) if !n.name.is_empty() => n.name.clone(),
            Some(n) => self.first_output_name(n).to_owned(),
            None => id.to_string(),
        };
        let names = tarjan_scc(&self.dag)
            .into_iter()
            .find(|scc| scc.len() > 1 || scc.iter().any(|&n| self.dag.contains_edge(n, n)))
            .map(|scc| {
                let mut ids: Vec<NodeId> = scc.into_iter().map(|n| NodeId(n.index() as u32)).collect();
                ids.sort_unstable();
                ids.into_iter().take(8).map(label).collect()
            })
            .unwrap_or_default();
        Cycle { names }
    }
}

/// Post-order of a depth-first walk over `0..bound`, iterative because graphs are tens of thousands of nodes deep.
pub(crate) struct PostOrder {
    marks: Vec<Mark>,
    /// What was visited so far.
    pub(crate) order: Vec<usize>,
    /// Nodes still to look at, or, where it says true, to be closed.
    stack: Vec<(usize, bool)>,
    next: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// A node that is on a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnCycle(pub(crate) usize);

impl PostOrder {
    pub(crate) fn new(bound: usize) -> PostOrder {
        let order = Vec::with_capacity(bound);
        PostOrder { marks: vec![Mark::New; bound], order, stack: Vec::new(), next: Vec::new() }
    }

    pub(crate) fn has_visited(&self, i: usize) -> bool {
        self.marks.get(i).is_some_and(|&m| m == Mark::Done)
    }

    /// Visits what can be reached from `roots` and was not visited yet.
    pub(crate) fn visit(
        &mut self,
        roots: impl Iterator<Item = usize>,
        successors: impl Fn(usize, &mut Vec<usize>),
    ) -> Result<(), OnCycle> {
        let PostOrder { marks, order, stack, next } = self;
        for root in roots {
            stack.push((root, false));
            while let Some((i, close)) = stack.pop() {
                if close {
                    marks[i] = Mark::Done;
                    order.push(i);
                    continue;
                }
                match marks[i] {
                    Mark::Done => continue,
                    Mark::Open => return Err(OnCycle(i)),
                    Mark::New => {}
                }
                marks[i] = Mark::Open;
                stack.push((i, true));
                next.clear();
                successors(i, next);
                // Reversed, so that the first operand is visited first.
                stack.extend(next.iter().rev().filter(|&&j| marks[j] != Mark::Done).map(|&j| (j, false)));
            }
        }
        Ok(())
    }
}

/// [`PostOrder`] of one set of roots. Fails with a node that is on a cycle.
pub(crate) fn post_order(
    bound: usize,
    roots: impl Iterator<Item = usize>,
    successors: impl Fn(usize, &mut Vec<usize>),
) -> Result<Vec<usize>, usize> {
    let mut walk = PostOrder::new(bound);
    walk.visit(roots, successors).map_err(|OnCycle(i)| i)?;
    Ok(walk.order)
}
