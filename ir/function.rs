//! What a call of a local function stands for.

use std::collections::BTreeSet;

use crate::{Attr, Attrs, Function, Graph, Model, Node, NodeId, OpName};

impl Function {
    /// The body with the attributes of a call, ready to be inlined where the call is. An attribute that neither the call
    /// nor a default gives is left out, as the standard has it. Declared types of the body's own values are dropped: a
    /// function may be called with tensors of other types.
    ///
    /// Fails with the reason if the call gives a subgraph, whose captures would be those of another node.
    pub fn instantiate(&self, call: &Node) -> Result<Graph, String> {
        if call.attrs.has_graphs() || self.defaults.has_graphs() {
            return Err("a subgraph is given as an attribute".into());
        }
        let mut body = self.body.clone();
        self.resolve(&mut body, &call.attrs);
        body.forget_types();
        Ok(body)
    }

    fn resolve(&self, graph: &mut Graph, given: &Attrs) {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        for id in ids {
            let Some(node) = graph.node_mut(id) else { continue };
            let refs: Vec<(String, Option<Attr>)> = node
                .attrs
                .iter()
                .filter_map(|(name, attr)| match attr {
                    Attr::Ref { name: outer, .. } => {
                        Some((name.to_owned(), given.get(outer).or_else(|| self.defaults.get(outer)).cloned()))
                    }
                    _ => None,
                })
                .collect();
            for (name, value) in refs {
                match value {
                    Some(value) => node.attrs.set(name, value),
                    None => node.attrs.remove(&name),
                };
            }
            for inner in node.attrs.graphs_mut() {
                self.resolve(inner, given);
            }
        }
    }
}

impl Model {
    /// Removes the functions that no call in the main graph needs, directly or through another function; returns how many
    /// they were. None is removed if the model carries training methods, which may call them.
    pub fn remove_uncalled_functions(&mut self) -> usize {
        if !self.training.is_empty() {
            return 0;
        }
        let mut called: BTreeSet<OpName> = BTreeSet::new();
        let mut next: Vec<OpName> = calls(&self.graph);
        while let Some(op) = next.pop() {
            if !called.contains(&op) {
                next.extend(self.function(&op).into_iter().flat_map(|f| calls(&f.body)));
                called.insert(op);
            }
        }
        let before = self.functions.len();
        self.functions.retain(|f| called.contains(&f.op));
        before - self.functions.len()
    }
}

/// The functions that a graph and its subgraphs call, each once.
fn calls(graph: &Graph) -> Vec<OpName> {
    let mut ops = BTreeSet::new();
    graph.walk(&mut |g| ops.extend(g.nodes().filter(|(_, n)| n.is_local()).map(|(_, n)| n.op.clone())));
    ops.into_iter().collect()
}
