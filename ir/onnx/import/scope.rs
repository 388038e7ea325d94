//! Names across nested graphs.
//!
//! A subgraph may read any name of the graphs around it. Import makes that explicit: the outer value becomes a capture
//! of the node that owns the subgraph, and each graph in between passes it on.

use std::collections::{BTreeSet, HashMap};

use planish_proto::onnx;

use crate::{Def, Graph, Type, ValueId};

/// The graphs under construction, outermost first.
#[derive(Default)]
pub(super) struct Scopes(Vec<Scope>);

struct Scope {
    graph: Graph,
    /// Values of the enclosing graph that the owner of this graph captures, its other subgraphs' included.
    captures: Vec<ValueId>,
    /// Types that the file declares for values which nodes make; only for look-ups.
    declared: HashMap<String, Type>,
    /// The number of each capture; only for look-ups.
    numbers: HashMap<ValueId, u32>,
}

impl Scopes {
    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    pub(super) fn enter(&mut self, graph: Graph, captures: Vec<ValueId>) {
        let numbers = captures.iter().enumerate().map(|(k, &v)| (v, k as u32)).collect();
        self.0.push(Scope { graph, captures, declared: HashMap::new(), numbers });
    }

    /// Enters declared types for the innermost graph.
    pub(super) fn declare(&mut self, types: HashMap<String, Type>) {
        if let Some(scope) = self.0.last_mut() {
            scope.declared = types;
        }
    }

    /// The type that the file declares for a value of the innermost graph.
    pub(super) fn declared(&self, name: &str) -> Option<Type> {
        self.0.last()?.declared.get(name).cloned()
    }

    /// The innermost graph and its owner's captures.
    pub(super) fn leave(&mut self) -> (Graph, Vec<ValueId>) {
        self.0.pop().map(|s| (s.graph, s.captures)).unwrap_or_default()
    }

    /// The innermost graph.
    pub(super) fn graph(&mut self) -> &mut Graph {
        if self.0.is_empty() {
            self.enter(Graph::default(), Vec::new());
        }
        let last = self.0.len() - 1;
        &mut self.0[last].graph
    }

    /// True if the innermost graph itself has the name.
    pub(super) fn defined(&self, name: &str) -> bool {
        self.0.last().is_some_and(|s| s.graph.value_named(name).is_some())
    }

    /// The value that a name means in the innermost graph.
    pub(super) fn resolve(&mut self, name: &str) -> Option<ValueId> {
        self.resolve_at(self.0.len().checked_sub(1)?, name)
    }

    fn resolve_at(&mut self, level: usize, name: &str) -> Option<ValueId> {
        if let Some(id) = self.0.get(level)?.graph.value_named(name) {
            return Some(id);
        }
        let outer = self.resolve_at(level.checked_sub(1)?, name)?;
        let ty = self.0.get(level - 1)?.graph.ty(outer).cloned();
        let scope = self.0.get_mut(level)?;
        let number = *scope.numbers.entry(outer).or_insert_with(|| {
            scope.captures.push(outer);
            scope.captures.len() as u32 - 1
        });
        Some(scope.graph.add_value(name.to_owned(), ty, Def::Captured(number)))
    }
}

/// Names that the subgraphs of a node read and do not define themselves.
pub(super) fn names_read_inside(node: &onnx::NodeProto) -> BTreeSet<&str> {
    let mut free = BTreeSet::new();
    for a in &node.attribute {
        for g in a.g.iter().chain(&a.graphs) {
            free.append(&mut names_read(g));
        }
    }
    free
}

fn names_read(g: &onnx::GraphProto) -> BTreeSet<&str> {
    let mut read: BTreeSet<&str> = g.output.iter().filter_map(|o| o.name.as_deref()).collect();
    let mut defined: BTreeSet<&str> = g.input.iter().filter_map(|i| i.name.as_deref()).collect();
    defined.extend(g.initializer.iter().filter_map(|t| t.name.as_deref()));
    defined.extend(g.sparse_initializer.iter().filter_map(|t| t.values.as_ref()?.name.as_deref()));
    for n in &g.node {
        read.extend(n.input.iter().map(String::as_str));
        read.append(&mut names_read_inside(n));
        defined.extend(n.output.iter().map(String::as_str));
    }
    read.retain(|name| !name.is_empty() && !defined.contains(name));
    read
}
