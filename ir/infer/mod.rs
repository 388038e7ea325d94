//! Types of values, and elements of small integer tensors, from the inputs on.
//!
//! One pass over the nodes in topological order; what an operator does is its line of the [operator table](crate::op).
//! Sizes are symbolic ([`Dim`]), and the integers that a model computes shapes with are followed as expressions of the
//! same kind ([`Num`]), so that a `Reshape` whose target the graph computes has a known shape.
//!
//! What it relies on: declared types of the main graph's inputs, constants, and the operators' definitions. Declared
//! types of other values only fill gaps, and names in them are not used: exporters let users label sizes, and two values
//! with one label may differ in size. Named sizes are taken to be within tables of fixed size that are cut to them, such
//! as those of position embeddings. They may be 0.
//!
//! A size of which nothing is known, such as the number of elements that `NonZero` finds, gets a name that says where it
//! arises, such as `?v7.1`. It is the same in whatever follows from it, and is no evidence of how large it is.
//!
//! Work is linear in the number of nodes, each of which is looked at once, subgraphs included. Bodies of local functions
//! are looked at once for each call, up to a bound.

mod annotate;
mod call;
mod engine;
mod fact;
mod function;
#[cfg(test)]
mod generated;
mod num;
mod prospect;
pub mod shape;
mod slice;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet};

pub use call::{Call, axis};
pub(crate) use engine::call;
pub use fact::{Fact, MAX_ELEMENTS, MAX_RANK};
pub use num::Num;
pub use prospect::{Prospect, prospect};
pub use slice::Range;
pub use window::Window;

use crate::{Dim, Graph, GraphPath, Model, Node, NodeId, Opsets, Type, ValueId};

/// Sizes for names of dims, as given by `--dim name=N`. A size that the file does not name is `input.axis`, as in `x.0`.
pub type Bindings = BTreeMap<String, u64>;

/// What is known of each output of a node, by slot; or why the node cannot be valid.
pub type Outcome = Result<Vec<Fact>, String>;

/// Infers the outputs of one node. A list that is shorter than the outputs says nothing of the rest.
pub type Rule = fn(&Call<'_>) -> Outcome;

/// What is known of the inputs of a node's subgraph; the second argument counts subgraphs as [`Attrs::graphs`] does.
///
/// [`Attrs::graphs`]: crate::Attrs::graphs
pub type BodyRule = fn(&Call<'_>, usize) -> Vec<Fact>;

/// What is known of every value of a model's main graph and its subgraphs.
#[derive(Debug, Default)]
pub struct Inferred {
    graph: GraphFacts,
    contradictions: Vec<Contradiction>,
}

/// What is known of every value of one graph.
#[derive(Debug, Default)]
pub struct GraphFacts {
    /// Tells the sizes that got names in this graph apart from those in other graphs.
    scope: String,
    facts: Vec<Fact>,
    inner: BTreeMap<(NodeId, usize), GraphFacts>,
}

/// A node that cannot run on what it gets, or does not make what the file declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Contradiction {
    /// The node, with the nodes around it if it is in a subgraph.
    pub place: String,
    /// The node, in its own graph.
    pub node: NodeId,
    /// What does not fit.
    pub message: String,
}

impl Inferred {
    /// Nothing is known.
    pub const NOTHING: Inferred = Inferred {
        graph: GraphFacts { scope: String::new(), facts: Vec::new(), inner: BTreeMap::new() },
        contradictions: Vec::new(),
    };

    /// Stores what is new in the values of the model that was inferred, as [`annotate()`] does.
    pub fn store(&self, model: &mut Model) {
        annotate::store(&mut model.graph, &self.graph);
    }

    /// Brings what is known up to date after changes that keep what every value computes: adds what follows for new values,
    /// and looks again at `touched` nodes of the main graph, at their readers where that gives more, and so on. What was
    /// known of values that were there before stays known. Contradictions are not looked for.
    ///
    /// What other changes leave of it is not true: of the element type or shape of a value, of operator set versions.
    pub fn update(&mut self, model: &Model, touched: &BTreeSet<NodeId>) {
        engine::update(model, &mut self.graph, touched);
    }

    /// Type of a value of the main graph.
    pub fn ty(&self, value: ValueId) -> Option<&Type> {
        self.graph.ty(value)
    }

    /// Shape of a value of the main graph, if it is a tensor of known rank.
    pub fn shape(&self, value: ValueId) -> Option<&[Dim]> {
        self.graph.fact(value).shape()
    }

    /// Elements of a small value of the main graph in row-major order, as far as they are known.
    pub fn value(&self, value: ValueId) -> Option<&[Num]> {
        self.graph.value(value)
    }

    /// The main graph.
    pub const fn graph(&self) -> &GraphFacts {
        &self.graph
    }

    /// The main graph, to be added to.
    pub const fn graph_mut(&mut self) -> &mut GraphFacts {
        &mut self.graph
    }

    /// Nodes that cannot run as the model stands, or that disagree with declared types, in topological order.
    pub fn contradictions(&self) -> &[Contradiction] {
        &self.contradictions
    }
}

impl GraphFacts {
    /// Everything that is known of a value.
    pub fn fact(&self, value: ValueId) -> &Fact {
        self.facts.get(value.index()).unwrap_or(&Fact::UNKNOWN)
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> Option<&Type> {
        self.fact(value).ty.as_ref()
    }

    /// Elements of a small value in row-major order, as far as they are known.
    pub fn value(&self, value: ValueId) -> Option<&[Num]> {
        self.fact(value).elements()
    }

    /// Facts of the graph at a path from this one.
    pub fn at(&self, path: &GraphPath) -> Option<&GraphFacts> {
        path.steps().try_fold(self, |facts, (owner, index)| facts.subgraph(owner, index))
    }

    /// Facts of the graph at a path from this one, to be added to.
    pub fn at_mut(&mut self, path: &GraphPath) -> Option<&mut GraphFacts> {
        path.steps().try_fold(self, |facts, (owner, index)| facts.inner.get_mut(&(owner, index)))
    }

    /// The call that a node of this graph makes, if it is one of the table's operators.
    pub fn call<'a>(&'a self, node: &'a Node, opsets: &Opsets) -> Option<Call<'a>> {
        if node.is_local() {
            return None;
        }
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| self.fact(v));
        engine::call(node, opsets, node.inputs().iter().map(fact).collect(), Vec::new())
    }

    /// Facts of a node's subgraph; `index` counts as [`Attrs::graphs`](crate::Attrs::graphs) does.
    pub fn subgraph(&self, node: NodeId, index: usize) -> Option<&GraphFacts> {
        self.inner.get(&(node, index))
    }

    fn set(&mut self, value: ValueId, fact: Fact) {
        if let Some(slot) = self.facts.get_mut(value.index()) {
            *slot = fact;
        }
    }
}

/// Infers a model whose named sizes are as bound, or free.
pub fn infer(model: &Model, bindings: &Bindings) -> Inferred {
    let (graph, contradictions) = engine::run(model, bindings);
    Inferred { graph, contradictions }
}

/// Infers a model and stores what is new in its values: types of values that have none, and sizes that are declared
/// neither as a number nor by a name. An open size of a main graph's input is named after its place, such as `x.0`.
/// Returns what was inferred.
pub fn annotate(model: &mut Model) -> Inferred {
    let inferred = infer(model, &Bindings::new());
    inferred.store(model);
    inferred
}

/// Types of a node's outputs, by slot, from the stored types of its inputs and from constants alone; subgraphs are not
/// looked into. For a node that was just added.
pub fn node_types(graph: &Graph, id: NodeId, opsets: &Opsets) -> Vec<Option<Type>> {
    let Some(node) = graph.node(id) else { return Vec::new() };
    let known = |v: ValueId| match graph.value(v) {
        Some(value) => value.constant().map_or_else(|| Fact::typed(value.ty.clone()), Fact::constant),
        None => Fact::UNKNOWN,
    };
    let inputs: Vec<Fact> = node.inputs().iter().map(|v| v.map_or(Fact::UNKNOWN, known)).collect();
    let outcome = engine::call(node, opsets, inputs.iter().collect(), Vec::new()).map(|c| engine::outputs(&c));
    let facts = outcome.and_then(Result::ok).unwrap_or_default();
    let mut types: Vec<Option<Type>> = facts.into_iter().map(|f| f.ty).collect();
    types.resize(node.outputs().len(), None);
    types
}
