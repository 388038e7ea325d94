//! The graph: nodes and values in SSA form, over a private petgraph.
//!
//! Three facts shape it. petgraph reuses the index of a removed node, so nodes are never removed from it: they leave a
//! tombstone, and an id stays dead for ever. petgraph yields edges in reverse order of insertion, so operand order is
//! data of the node, and the edges are an index of it, which the verifier holds against it. A constant may have tens of
//! thousands of users, so constants and inputs are no petgraph nodes; each value keeps an ordered set of its users.

mod edit;
mod order;

use std::{collections::HashMap, sync::OnceLock};

use petgraph::graph::{DiGraph, NodeIndex};
use planish_proto::onnx;

pub use order::Cycle;
pub(crate) use order::post_order;

use crate::{Def, Metadata, Node, NodeId, Operand, Tensor, Type, Use, Value, ValueId};

/// A graph, a subgraph of a node, or the body of a local function.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the graph.
    pub name: String,
    /// Documentation string.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Metadata,
    /// One petgraph node for each node ever added, `None` once it is removed; one edge for each operand that a node
    /// produces, labelled with the place at which it is read.
    dag: DiGraph<Option<Node>, Operand>,
    values: Vec<Option<Value>>,
    /// Only for look-ups; never iterated.
    by_name: HashMap<String, ValueId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// The canonical order, once somebody has asked for it; each edit forgets it.
    order: OnceLock<Vec<NodeId>>,
    /// Carried through.
    pub(crate) quantization: Vec<onnx::TensorAnnotation>,
}

impl Graph {
    /// The inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs, in order. A value may be listed twice.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A node; `None` if it was removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.dag.node_weight(NodeIndex::new(id.index()))?.as_ref()
    }

    /// A value; `None` if it was removed.
    pub fn value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index())?.as_ref()
    }

    /// The nodes that live, in the order of their ids. Import numbers them in topological order; nodes that patches
    /// add come last. Use [`Graph::topological_order`] where producers have to come first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        (0..self.dag.node_count()).filter_map(|i| {
            let id = NodeId(i as u32);
            Some((id, self.node(id)?))
        })
    }

    /// The values that live, in the order of their ids.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().filter_map(|(i, v)| Some((ValueId(i as u32), v.as_ref()?)))
    }

    /// Number of nodes that live; those of subgraphs are not counted.
    pub fn node_count(&self) -> usize {
        self.nodes().count()
    }

    /// The value with this name.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// The name of a value, for messages; a removed value shows its id.
    pub fn name_of(&self, id: ValueId) -> String {
        self.value(id).map_or_else(|| id.to_string(), |v| v.name.clone())
    }

    /// The tensor of a constant that no caller can override.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id)?.constant()
    }

    /// The tensor at an input slot of a node, if it is a constant.
    pub fn constant_input(&self, node: &Node, slot: usize) -> Option<&Tensor> {
        self.constant(node.input(slot)?)
    }

    /// Type of a value, as declared or inferred.
    pub fn ty(&self, id: ValueId) -> Option<&Type> {
        self.value(id)?.ty()
    }

    /// The node that makes a value.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        let node = self.value(id)?.producer()?;
        Some((node, self.node(node)?))
    }

    /// Who reads a value, in a fixed order; empty for a removed value.
    pub fn users(&self, id: ValueId) -> impl ExactSizeIterator<Item = Use> + '_ {
        static NOBODY: std::collections::BTreeSet<Use> = std::collections::BTreeSet::new();
        self.value(id).map_or(&NOBODY, |v| &v.users).iter().copied()
    }

    /// The single node input that reads a value, if nothing else does (no other slot, subgraph or graph output).
    pub fn only_user(&self, id: ValueId) -> Option<(NodeId, &Node, usize)> {
        let mut users = self.users(id);
        match (users.next()?, users.next()) {
            (Use::Node(node, Operand::Input(slot)), None) => Some((node, self.node(node)?, slot as usize)),
            _ => None,
        }
    }

    /// True if the value is an output of the graph.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.value(id).is_some_and(Value::is_output)
    }

    /// The graphs in this one, itself first, then those of its nodes in the order of node ids, depth first.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Graph)) {
        visit(self);
        for (_, node) in self.nodes() {
            for inner in node.attrs.graphs() {
                inner.walk(visit);
            }
        }
    }

    /// A name that no value of this graph has yet: `hint`, or `hint_1`, `hint_2`, …; where very many have it, a larger number,
    /// so that the search stays short.
    pub fn fresh_name(&self, hint: &str) -> String {
        let hint = if hint.is_empty() { "value" } else { hint };
        if !self.by_name.contains_key(hint) {
            return hint.to_owned();
        }
        const TRIES: u64 = 100;
        // Grows with every value that is added, so it is not taken unless the file itself used it.
        let beyond = self.values.len() as u64 + TRIES;
        let mut numbers = (1..=TRIES).chain(beyond..).map(|n| format!("{hint}_{n}"));
        numbers.find(|name| !self.by_name.contains_key(name)).unwrap_or_default()
    }

    /// For the verifier: edges into a node as (producer, place).
    pub(crate) fn edges_into(&self, id: NodeId) -> Vec<(NodeId, Operand)> {
        use petgraph::visit::EdgeRef;
        let mut edges: Vec<_> = self
            .dag
            .edges_directed(NodeIndex::new(id.index()), petgraph::Direction::Incoming)
            .map(|e| (NodeId(e.source().index() as u32), *e.weight()))
            .collect();
        edges.sort_unstable();
        edges
    }

    /// A value and the capture number it stands for, for each captured value that lives.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (ValueId, u32)> + '_ {
        self.values().filter_map(|(id, v)| match v.def {
            Def::Captured(k) => Some((id, k)),
            Def::Input { .. } | Def::Constant(_) | Def::SparseConstant(_) | Def::Node { .. } => None,
        })
    }
}
