//! The walk over a graph: facts of values in topological order, subgraphs with their nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Bindings, Call, Contradiction, Fact, GraphFacts, Outcome,
    function::{self, Frame},
    shape,
};
use crate::{
    Attr, Def, Dim, Function, Graph, Model, Node, NodeId, OpName, Opsets, TensorType, Type, Value, ValueId, op,
};

/// Longest name of a size that is followed. Longer ones would be copied into every expression.
const MAX_NAME: usize = 128;

/// Facts of a model's main graph, and what contradicts.
pub(super) fn run(model: &Model, bindings: &Bindings) -> (GraphFacts, Vec<Contradiction>) {
    let mut engine = Engine::new(model);
    let frame = Frame::main(&model.opsets);
    let graph = engine.graph(&frame, &model.graph, &interface(&model.graph, bindings), &[]);
    (graph, engine.contradictions)
}

/// Brings facts of a main graph up to date: those of new values, of `touched` nodes, and of what depends on facts that
/// thereby changed.
pub(super) fn update(model: &Model, facts: &mut GraphFacts, touched: &BTreeSet<NodeId>) {
    Engine::new(model).update(&Frame::main(&model.opsets), &model.graph, facts, touched);
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

/// Facts of the outputs of a call.
pub(super) fn outputs(call: &Call<'_>) -> Outcome {
    match op::spec(&call.node.op) {
        Some(spec) => (spec.infer)(call),
        None => Ok(Vec::new()),
    }
}

/// What stays the same, or is counted, while graphs are walked; what depends on the function around is a [`Frame`].
pub(super) struct Engine<'a> {
    pub(super) functions: BTreeMap<&'a OpName, &'a Function>,
    /// The functions whose bodies are being looked at, outermost first.
    pub(super) calls: Vec<&'a OpName>,
    /// How many more nodes in bodies of functions may be looked at.
    pub(super) budget: usize,
    /// Tells the sizes that get names in the graph at hand apart from those in other graphs.
    pub(super) scope: String,
    /// Labels of the nodes around the graph that is being looked at.
    pub(super) place: Vec<String>,
    contradictions: Vec<Contradiction>,
}

impl<'a> Engine<'a> {
    fn new(model: &'a Model) -> Engine<'a> {
        Engine {
            functions: model.functions.iter().map(|f| (&f.op, f)).collect(),
            calls: Vec::new(),
            budget: function::MAX_NODES,
            scope: String::new(),
            place: Vec::new(),
            contradictions: Vec::new(),
        }
    }

    pub(super) fn graph(&mut self, frame: &Frame<'_>, g: &Graph, inputs: &[Fact], captures: &[Fact]) -> GraphFacts {
        let mut facts =
            GraphFacts { scope: self.scope.clone(), facts: vec![Fact::UNKNOWN; bound(g)], inner: BTreeMap::new() };
        for (id, value) in g.values() {
            if let Some(known) = given(value, captures) {
                facts.set(id, known);
            }
        }
        for (i, &v) in g.inputs().iter().enumerate() {
            let given = inputs.get(i).cloned().unwrap_or_default();
            let declared = frame.declared(g, v);
            let fact = refine(given.clone(), declared.as_ref()).unwrap_or(given);
            facts.set(v, fact.bounded().named(&self.scope, v));
        }
        // A cycle is for the verifier to report; nothing on it can be known.
        for id in g.topological_order().unwrap_or_default() {
            if let Some(node) = g.node(id) {
                self.node(frame, g, id, node, &mut facts);
            }
        }
        facts
    }

    fn update(&mut self, frame: &Frame<'_>, g: &Graph, facts: &mut GraphFacts, touched: &BTreeSet<NodeId>) {
        let old = facts.facts.len();
        facts.facts.resize(bound(g).max(old), Fact::UNKNOWN);
        // Values that what was known before says nothing of.
        let mut changed = vec![false; facts.facts.len()];
        for (id, value) in g.values() {
            let is_known = facts.ty(id).is_some();
            if !is_known && let Some(known) = given(value, &[]) {
                facts.set(id, known);
            }
            changed[id.index()] = !is_known;
        }
        // A cycle is for the verifier to report.
        for id in g.topological_order().unwrap_or_default() {
            let Some(node) = g.node(id) else { continue };
            let is_new = |v: &ValueId| v.index() >= old;
            let reads_changed = node.operands().any(|v| changed.get(v.index()).copied().unwrap_or(true));
            if !touched.contains(&id) && !reads_changed && !node.outputs().iter().flatten().any(is_new) {
                continue;
            }
            let outputs = || node.outputs().iter().flatten().copied();
            let before: Vec<Fact> = outputs().map(|v| facts.fact(v).clone()).collect();
            self.node(frame, g, id, node, facts);
            for (v, before) in outputs().zip(before) {
                if let Some(flag) = changed.get_mut(v.index()) {
                    *flag |= *facts.fact(v) != before;
                }
            }
        }
    }

    fn node(&mut self, frame: &Frame<'_>, g: &Graph, id: NodeId, node: &Node, facts: &mut GraphFacts) {
        let (outcome, inner) = self.call(frame, g, id, node, facts);
        facts.inner.extend(inner.into_iter().enumerate().map(|(i, f)| ((id, i), f)));
        let mut known = outcome.unwrap_or_else(|message| {
            self.contradiction(g, id, node, message);
            Vec::new()
        });
        known.resize(node.outputs().len(), Fact::UNKNOWN);
        for (slot, (output, fact)) in node.outputs().iter().zip(known).enumerate() {
            let Some(output) = *output else { continue };
            let declared = frame.declared(g, output);
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
            facts.set(output, fact.bounded().named(&self.scope, output));
        }
    }

    fn call(
        &mut self,
        frame: &Frame<'_>,
        g: &Graph,
        id: NodeId,
        node: &Node,
        facts: &GraphFacts,
    ) -> (Outcome, Vec<GraphFacts>) {
        let inputs = node.inputs().iter().map(|v| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v))).collect();
        if let Some(&function) = self.functions.get(&node.op) {
            self.place.push(label(g, id, node));
            let outputs = self.function(frame, function, id, node, inputs);
            self.place.pop();
            return (Ok(outputs), Vec::new());
        }
        let bound = frame.bind(node);
        let Some(mut call) = call(&bound, frame.opsets, inputs, Vec::new()) else {
            return (Ok(Vec::new()), Vec::new());
        };
        let mut inner = Vec::new();
        if node.attrs.has_graphs() {
            let captures: Vec<Fact> = node.captures().iter().map(|&v| facts.fact(v).clone()).collect();
            let body_inputs = op::spec(&node.op).and_then(|s| s.bodies);
            self.place.push(label(g, id, node));
            for (i, body) in node.attrs.graphs().enumerate() {
                let inputs = body_inputs.map_or_else(Vec::new, |rule| rule(&call, i));
                let known = self.within(&format!("{id}.{i}/"), |engine, scope| {
                    let known = engine.graph(frame, body, &inputs, &captures);
                    call.bodies.push(body.outputs().iter().map(|&v| known.fact(v).outside(scope)).collect());
                    known
                });
                inner.push(known);
            }
            self.place.pop();
        }
        (outputs(&call), inner)
    }

    /// Runs `f` in a scope of its own, which it is given.
    pub(super) fn within<R>(&mut self, step: &str, f: impl FnOnce(&mut Self, &str) -> R) -> R {
        let outer = self.scope.len();
        self.scope.push_str(step);
        let scope = self.scope.clone();
        let result = f(self, &scope);
        self.scope.truncate(outer);
        result
    }

    fn contradiction(&mut self, g: &Graph, id: NodeId, node: &Node, message: String) {
        let mut place = self.place.clone();
        place.push(label(g, id, node));
        self.contradictions.push(Contradiction { place: place.join(", "), node: id, message });
    }
}

/// One above the largest index of a value.
fn bound(g: &Graph) -> usize {
    g.values().next_back().map_or(0, |(id, _)| id.index() + 1)
}

/// What is known of a value that no node makes, and that is no input.
fn given(value: &Value, captures: &[Fact]) -> Option<Fact> {
    let known = match &value.def {
        Def::Constant(t) => Fact::constant(t),
        Def::SparseConstant(t) => Fact::of(Type::tensor(t.values.dtype(), t.dims.iter().map(|&d| d.into()))),
        Def::Captured(k) => captures.get(*k as usize).cloned().unwrap_or_default(),
        Def::Input { .. } | Def::Node { .. } => return None,
    };
    Some(known.bounded())
}

/// The main graph's inputs as declared, with sizes bound. A size without a name gets that of its place, such as `x.0`, so
/// that what follows from it can be told apart from what follows from another one.
fn interface(g: &Graph, bindings: &Bindings) -> Vec<Fact> {
    let declared: BTreeSet<&str> =
        g.inputs().iter().filter_map(|&v| g.ty(v)?.shape()).flatten().flat_map(Dim::names).collect();
    let bind = |d: &Dim| match d {
        Dim::Symbolic(_) if d.names_result() || d.names().any(|n| n.len() > MAX_NAME) => Dim::Unknown,
        _ => d.bind(bindings),
    };
    let input = |&v: &ValueId| {
        let Some(value) = g.value(v) else { return Fact::UNKNOWN };
        let mut ty = value.ty().map(|ty| shape::map_dims(ty, &bind));
        if let Some(Type::Tensor(TensorType { shape: Some(dims), .. })) = &mut ty {
            for (axis, d) in dims.iter_mut().enumerate().filter(|(_, d)| **d == Dim::Unknown) {
                let name = format!("{}.{axis}", value.name());
                let named = Dim::symbol(&name);
                let free = name.len() <= MAX_NAME && !declared.contains(name.as_str()) && !named.names_result();
                let named = if free { named } else { Dim::Unknown };
                *d = bindings.get(&name).map_or(named, |&n| Dim::Known(n));
            }
        }
        Fact::typed(ty).bounded()
    };
    g.inputs().iter().map(input).collect()
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
pub(super) fn fill(known: &Type, declared: &Type) -> Type {
    let (Some(k), Some(d)) = (known.as_tensor(), declared.as_tensor()) else { return known.merge(declared) };
    let shape = match (&k.shape, &d.shape) {
        (Some(a), Some(b)) => {
            let open = |x: &Dim, y: &Dim| *x == Dim::Unknown || (x.is_open() && y.known().is_some());
            Some(a.iter().zip(b).map(|(x, y)| if open(x, y) { y.clone() } else { x.clone() }).collect())
        }
        (None, b) => b.clone(),
        (a, None) => a.clone(),
    };
    Type::Tensor(TensorType { dtype: k.dtype, shape })
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
