//! Types of values, and elements of small integer tensors, from the inputs on.
//!
//! One pass over the nodes in topological order; what an operator does is its line of the [operator table](crate::op).
//! Sizes are symbolic ([`Dim`]), and the integers that a model computes shapes with are followed as expressions of the
//! same kind ([`Num`]), so that a `Reshape` whose target the graph computes has a known shape.
//!
//! What it relies on: declared types of the main graph's inputs, constants, and the operators' definitions. Declared
//! types of other values only fill gaps, and names in them are not used: exporters let users label sizes, and two values
//! with one label may differ in size. Named sizes are taken to be large enough that slices with constant bounds do not
//! run over the end.
//!
//! Work is linear in the number of nodes, each of which is looked at once; subgraphs included, bodies of local
//! functions excluded: what they return is known only as far as the file declares it.

mod call;
mod fact;
mod num;
pub mod shape;
mod slice;
mod window;

use std::collections::{BTreeMap, BTreeSet};

pub use call::{Call, axis};
pub use fact::{Fact, MAX_ELEMENTS};
pub use num::Num;
pub use slice::Range;
pub use window::Window;

use crate::{Attr, Def, Dim, Graph, Model, Node, NodeId, OpName, Opsets, TensorType, Type, ValueId, op};

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

/// Longest name of a size that is followed. Longer ones would be copied into every expression.
const MAX_NAME: usize = 128;

/// What is known of every value of a model's main graph and its subgraphs.
#[derive(Debug, Default)]
pub struct Inferred {
    graph: GraphFacts,
    contradictions: Vec<Contradiction>,
}

/// What is known of every value of one graph.
#[derive(Debug, Default)]
pub struct GraphFacts {
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
    let functions = model.functions.iter().map(|f| &f.op).collect();
    let mut engine = Engine { opsets: &model.opsets, functions, place: Vec::new(), contradictions: Vec::new() };
    let inputs: Vec<Fact> = model.graph.inputs().iter().map(|&v| interface(&model.graph, v, bindings)).collect();
    let graph = engine.graph(&model.graph, &inputs, &[]);
    Inferred { graph, contradictions: engine.contradictions }
}

/// Infers a model and stores what is new in its values: types of values that have none, and sizes that are declared
/// neither as a number nor by a name.
pub fn annotate(model: &mut Model) {
    let inferred = infer(model, &Bindings::new());
    store(&mut model.graph, &inferred.graph);
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
    let outcome = call(node, opsets, inputs.iter().collect(), Vec::new()).map(|c| outputs(&c));
    let facts = outcome.and_then(Result::ok).unwrap_or_default();
    let mut types: Vec<Option<Type>> = facts.into_iter().map(|f| f.ty).collect();
    types.resize(node.outputs().len(), None);
    types
}

/// The call that a node makes, if it is one of the table's operators.
pub(crate) fn call<'a>(
    node: &'a Node,
    opsets: &Opsets,
    inputs: Vec<&'a Fact>,
    bodies: Vec<Vec<Fact>>,
) -> Option<Call<'a>> {
    op::spec(&node.op)?;
    let opset = *opsets.get(&node.op.domain)?;
    // What an attribute of the caller is, no table line can know.
    let fixed = !node.attrs.iter().any(|(_, a)| matches!(a, Attr::Ref { .. }));
    fixed.then_some(Call { node, opset, inputs, bodies })
}

fn outputs(call: &Call<'_>) -> Outcome {
    match op::spec(&call.node.op) {
        Some(spec) => (spec.infer)(call),
        None => Ok(Vec::new()),
    }
}

struct Engine<'a> {
    opsets: &'a Opsets,
    functions: BTreeSet<&'a OpName>,
    /// Labels of the nodes around the graph that is being looked at.
    place: Vec<String>,
    contradictions: Vec<Contradiction>,
}

impl Engine<'_> {
    fn graph(&mut self, g: &Graph, inputs: &[Fact], captures: &[Fact]) -> GraphFacts {
        let count = g.values().next_back().map_or(0, |(id, _)| id.index() + 1);
        let mut facts = GraphFacts { facts: vec![Fact::UNKNOWN; count], inner: BTreeMap::new() };
        for (id, value) in g.values() {
            let known = match &value.def {
                Def::Constant(t) => Fact::constant(t),
                Def::SparseConstant(t) => Fact::of(Type::tensor(t.values.dtype(), t.dims.iter().map(|&d| d.into()))),
                Def::Captured(k) => captures.get(*k as usize).cloned().unwrap_or_default(),
                Def::Input { .. } | Def::Node { .. } => continue,
            };
            facts.set(id, known.bounded());
        }
        for (i, &v) in g.inputs().iter().enumerate() {
            let given = inputs.get(i).cloned().unwrap_or_default();
            let declared = g.ty(v).map(shape::without_names);
            let fact = refine(given.clone(), declared.as_ref()).unwrap_or(given);
            facts.set(v, fact.bounded());
        }
        // A cycle is for the verifier to report; nothing on it can be known.
        for id in g.topological_order().unwrap_or_default() {
            if let Some(node) = g.node(id) {
                self.node(g, id, node, &mut facts);
            }
        }
        facts
    }

    fn node(&mut self, g: &Graph, id: NodeId, node: &Node, facts: &mut GraphFacts) {
        let (outcome, inner) = self.call(g, id, node, facts);
        facts.inner.extend(inner.into_iter().enumerate().map(|(i, f)| ((id, i), f)));
        let mut known = outcome.unwrap_or_else(|message| {
            self.contradiction(g, id, node, message);
            Vec::new()
        });
        known.resize(node.outputs().len(), Fact::UNKNOWN);
        for (slot, (output, fact)) in node.outputs().iter().zip(known).enumerate() {
            let Some(output) = *output else { continue };
            let declared = g.ty(output).map(shape::without_names);
            let fact = refine(fact, declared.as_ref()).unwrap_or_else(|fact| {
                let (declared, inferred) = (show(declared.as_ref()), show(fact.ty.as_ref()));
                let name = g.name_of(output);
                self.contradiction(
                    g,
                    id,
                    node,
                    format!("output {slot} {name:?} is {inferred}, but the file declares {declared}"),
                );
                fact
            });
            facts.set(output, fact.bounded());
        }
    }

    fn call(&mut self, g: &Graph, id: NodeId, node: &Node, facts: &GraphFacts) -> (Outcome, Vec<GraphFacts>) {
        if self.functions.contains(&node.op) {
            return (Ok(Vec::new()), Vec::new());
        }
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v));
        let inputs = node.inputs().iter().map(fact).collect();
        let Some(mut call) = call(node, self.opsets, inputs, Vec::new()) else { return (Ok(Vec::new()), Vec::new()) };
        let mut inner = Vec::new();
        if node.attrs.has_graphs() {
            let captures: Vec<Fact> = node.captures().iter().map(|&v| facts.fact(v).clone()).collect();
            let body_inputs = op::spec(&node.op).and_then(|s| s.bodies);
            self.place.push(label(g, id, node));
            for (i, body) in node.attrs.graphs().enumerate() {
                let inputs = body_inputs.map_or_else(Vec::new, |rule| rule(&call, i));
                let known = self.graph(body, &inputs, &captures);
                call.bodies.push(body.outputs().iter().map(|&v| known.fact(v).clone()).collect());
                inner.push(known);
            }
            self.place.pop();
        }
        (outputs(&call), inner)
    }

    fn contradiction(&mut self, g: &Graph, id: NodeId, node: &Node, message: String) {
        let mut place = self.place.clone();
        place.push(label(g, id, node));
        self.contradictions.push(Contradiction { place: place.join(", "), node: id, message });
    }
}

/// A main graph's input as declared, with sizes bound.
fn interface(g: &Graph, v: ValueId, bindings: &Bindings) -> Fact {
    let Some(value) = g.value(v) else { return Fact::UNKNOWN };
    let bind = |d: &Dim| match d {
        Dim::Symbolic(_) if d.names_quotient() || d.names().any(|n| n.len() > MAX_NAME) => Dim::Unknown,
        _ => d.bind(bindings),
    };
    let mut ty = value.ty().map(|ty| shape::map_dims(ty, &bind));
    if let Some(Type::Tensor(TensorType { shape: Some(dims), .. })) = &mut ty {
        for (axis, d) in dims.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Unknown) {
            *d = bindings.get(&format!("{}.{axis}", value.name())).map_or(Dim::Unknown, |&n| Dim::Known(n));
        }
    }
    Fact::typed(ty)
}

/// Fills what inference leaves open from a declared type without names. Gives the fact back if the two contradict.
fn refine(fact: Fact, declared: Option<&Type>) -> Result<Fact, Fact> {
    match (&fact.ty, declared) {
        (_, None) => Ok(fact),
        (None, Some(d)) => Ok(Fact::of(d.clone())),
        (Some(ty), Some(d)) if !ty.compatible(d) => Err(fact),
        (Some(ty), Some(d)) => {
            let ty = fill(ty, d);
            let elements = fact.shared();
            Ok(Fact::of(ty).with(elements))
        }
    }
}

/// As [`Type::merge`], but a size that inference expresses is kept where a number is declared: the declaration may be
/// left over from a model that was exported with fixed sizes.
fn fill(known: &Type, declared: &Type) -> Type {
    let (Some(k), Some(d)) = (known.as_tensor(), declared.as_tensor()) else { return known.merge(declared) };
    let shape = match (&k.shape, &d.shape) {
        (Some(a), Some(b)) => {
            Some(a.iter().zip(b).map(|(x, y)| if *x == Dim::Unknown { y.clone() } else { x.clone() }).collect())
        }
        (None, b) => b.clone(),
        (a, None) => a.clone(),
    };
    Type::Tensor(TensorType { dtype: k.dtype, shape })
}

fn store(g: &mut Graph, facts: &GraphFacts) {
    let values: Vec<(ValueId, Type)> = g
        .values()
        .filter_map(|(id, v)| {
            let known = facts.ty(id)?;
            let merged = match v.ty() {
                Some(declared) if !declared.compatible(known) => return None,
                Some(declared) => keep_names(declared, known),
                None => known.clone(),
            };
            (v.ty() != Some(&merged)).then_some((id, merged))
        })
        .collect();
    for (id, ty) in values {
        g.set_type(id, ty);
    }
    for ((node, index), inner) in &facts.inner {
        if let Some(body) = g.subgraphs_mut(*node).nth(*index) {
            store(body, inner);
        }
    }
}

/// The declared type with its gaps filled; also a declared name stays that is known to be a number.
fn keep_names(declared: &Type, known: &Type) -> Type {
    match (declared.as_tensor(), known.as_tensor()) {
        (Some(_), Some(_)) => fill(declared, known),
        _ => declared.merge(known),
    }
}

fn show(ty: Option<&Type>) -> String {
    ty.map_or_else(|| "unknown".into(), Type::to_string)
}

/// How messages name a node: by its name, or else by what it makes.
fn label(g: &Graph, id: NodeId, node: &Node) -> String {
    match (node.name.as_str(), node.output(0)) {
        ("", Some(v)) => format!("node making {:?} ({})", g.name_of(v), node.op),
        ("", None) => format!("node {id} ({})", node.op),
        (name, _) => format!("node {name:?} ({})", node.op),
    }
}
