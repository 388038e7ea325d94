//! The verifier. It runs after every pass, also in release builds, and export accepts only what it has passed.
//!
//! Structure, for every graph, subgraph and function body:
//! * operands, outputs and graph outputs exist; defining and using sides of a value agree; so do petgraph's edges
//! * names are unique and not empty where the outside needs them; the nodes form no cycle
//! * what subgraphs capture is what their owner lists
//!
//! Operators: every domain in use is imported; known operators have as many inputs and outputs as their table line says.
//!
//! Types: a constant has the type that its value declares.
//!
//! Interface: [`Interface`] holds names and types of the main graph's inputs and outputs against those of before.
//!
//! Not checked here: that stored shapes equal inferred ones.

use std::collections::BTreeSet;

use crate::{Def, Dim, Graph, Model, Node, NodeId, Operand, Opsets, Type, Use, Value, ValueId, op};

/// A model that passed the verifier.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a>(&'a Model);

impl<'a> Verified<'a> {
    /// The model.
    pub const fn model(&self) -> &'a Model {
        self.0
    }
}

/// Everything that is wrong with a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model is not valid:{}", violations.iter().map(|v| format!("\n  {v}")).collect::<String>())]
pub struct VerifyError {
    /// In the order of the graphs; never empty. At most [`MAX_VIOLATIONS`] are kept, the last one then says so.
    pub violations: Vec<Violation>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Violation {
    /// Graph, and node or value.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

/// A broken model breaks in thousands of places; nobody reads beyond a few.
pub const MAX_VIOLATIONS: usize = 50;

/// Names and types of the inputs and outputs of the main graph, which passes must not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    inputs: Vec<(String, Option<Type>)>,
    outputs: Vec<(String, Option<Type>)>,
}

impl Interface {
    /// The interface of a model as it is now.
    pub fn of(model: &Model) -> Interface {
        let g = &model.graph;
        let list = |ids: &[ValueId]| {
            ids.iter().map(|&v| (g.name_of(v), g.ty(v).cloned())).collect::<Vec<(String, Option<Type>)>>()
        };
        Interface { inputs: list(g.inputs()), outputs: list(g.outputs()) }
    }

    /// The interface of a model for callers who do not pass what `other` no longer takes: inputs that have a default.
    pub fn shared(model: &Model, other: &Model) -> Interface {
        let is_input = |m: &Model, v: &ValueId| m.graph.value(*v).is_some_and(|v| matches!(v.def(), Def::Input { .. }));
        let input = |m: &Model, name: &str| m.graph.value_named(name).filter(|v| is_input(m, v));
        let is_default = |name: &str| {
            let value = input(model, name).and_then(|v| model.graph.value(v));
            value.is_some_and(Value::has_default)
        };
        let mut interface = Interface::of(model);
        interface.inputs.retain(|(name, _)| input(other, name).is_some() || !is_default(name));
        interface
    }

    /// Fails if `model` has other inputs or outputs, takes inputs of other types, or gives outputs types that these exclude.
    /// The type of an output may get more precise.
    pub fn check(&self, model: &Model) -> Result<(), VerifyError> {
        let now = Interface::of(model);
        let mut found = Vec::new();
        for (kind, before, after) in [("input", &self.inputs, &now.inputs), ("output", &self.outputs, &now.outputs)] {
            if before.len() != after.len() {
                found.push(violation("interface".into(), format!("{} {kind}s became {}", before.len(), after.len())));
            }
            for ((name, ty), (new_name, new_ty)) in before.iter().zip(after) {
                let narrows = kind == "input" && !same_but_for_names(ty.as_ref(), new_ty.as_ref());
                let place = format!("{kind} {name:?}");
                if name != new_name {
                    found.push(violation(place, format!("was renamed to {new_name:?}")));
                } else if let (Some(a), Some(b)) = (ty, new_ty)
                    && (narrows || !a.compatible(b))
                {
                    found.push(violation(place, format!("was {a} and became {b}")));
                }
            }
        }
        if found.is_empty() { Ok(()) } else { Err(VerifyError { violations: found }) }
    }
}

/// True for equal types, and for those in which a size that was open got a name.
fn same_but_for_names(before: Option<&Type>, after: Option<&Type>) -> bool {
    let shape = |ty: Option<&Type>| ty.and_then(Type::as_tensor).and_then(|t| t.shape.clone());
    match (shape(before), shape(after)) {
        (Some(a), Some(b)) if before != after => {
            let named = |(a, b): (&Dim, &Dim)| a == b || (*a == Dim::Unknown && matches!(b, Dim::Symbolic(_)));
            before.and_then(Type::dtype) == after.and_then(Type::dtype)
                && a.len() == b.len()
                && a.iter().zip(&b).all(named)
        }
        _ => before == after,
    }
}

/// Checks a whole model.
pub fn verify(model: &Model) -> Result<Verified<'_>, VerifyError> {
    let mut v = Verifier { found: Vec::new() };
    v.graph(&model.graph, "graph", &model.opsets, None, model);
    for f in &model.functions {
        let place = format!("function {}", f.op);
        v.graph(&f.body, &place, &f.opsets, None, model);
        let constants = f.body.values().filter(|(_, v)| matches!(v.def, Def::Constant(_) | Def::SparseConstant(_)));
        for (_, value) in constants {
            v.report(|| place.clone(), format!("holds the constant {:?}; the body of a function cannot", value.name));
        }
    }
    match v.found.is_empty() {
        true => Ok(Verified(model)),
        false => Err(VerifyError { violations: v.found }),
    }
}

fn violation(place: String, message: String) -> Violation {
    Violation { place, message }
}

struct Verifier {
    found: Vec<Violation>,
}

impl Verifier {
    fn report(&mut self, place: impl FnOnce() -> String, message: String) {
        if self.found.len() + 1 < MAX_VIOLATIONS {
            self.found.push(violation(place(), message));
        } else if self.found.len() < MAX_VIOLATIONS {
            self.found.push(violation("…".into(), "and more; the rest is not listed".into()));
        }
    }

    fn graph(&mut self, g: &Graph, place: &str, opsets: &Opsets, owner: Option<&Node>, model: &Model) {
        self.values(g, place, owner);
        let mut domains = BTreeSet::new();
        for (id, node) in g.nodes() {
            let at = || format!("{place}, node {} ({})", label(g, id, node), node.op);
            self.node_structure(g, id, node, &at);
            self.node_operator(node, opsets, model, &at);
            domains.insert(node.op.domain.as_str());
            for inner in node.attrs.graphs() {
                self.graph(inner, &at(), opsets, Some(node), model);
            }
        }
        for domain in domains {
            if !opsets.contains_key(domain) {
                let name = if domain.is_empty() { "ai.onnx" } else { domain };
                self.report(|| place.to_owned(), format!("the operator set {name} is used but not imported"));
            }
        }
        if let Err(cycle) = g.find_order() {
            self.report(|| place.to_owned(), cycle.to_string());
        }
    }

    fn values(&mut self, g: &Graph, place: &str, owner: Option<&Node>) {
        let inputs: BTreeSet<ValueId> = g.inputs().iter().copied().collect();
        for (id, v) in g.values() {
            let at = || format!("{place}, value {:?}", v.name);
            if v.name.is_empty() {
                self.report(at, "has no name".into());
            } else if g.value_named(&v.name) != Some(id) {
                self.report(at, "shares its name with another value".into());
            }
            for user in &v.users {
                let agrees = match *user {
                    Use::Output(i) => g.outputs().get(i as usize) == Some(&id),
                    Use::Node(node, Operand::Input(i)) => g.node(node).is_some_and(|n| n.input(i as usize) == Some(id)),
                    Use::Node(node, Operand::Capture(k)) => {
                        g.node(node).is_some_and(|n| n.captures.get(k as usize) == Some(&id))
                    }
                };
                if !agrees {
                    self.report(at, format!("lists a reader that does not read it: {user:?}"));
                }
            }
            match &v.def {
                Def::Node { node, slot } => {
                    if g.node(*node).and_then(|n| n.output(*slot as usize)) != Some(id) {
                        self.report(at, format!("names {node} as its producer, which does not make it"));
                    }
                }
                Def::Captured(k) => {
                    if owner.is_none_or(|n| n.captures.len() <= *k as usize) {
                        self.report(at, format!("stands for capture {k}, which its owner does not have"));
                    }
                }
                Def::Input { .. } => {
                    if !inputs.contains(&id) {
                        self.report(at, "is an input that the graph does not list".into());
                    }
                }
                Def::Constant(t) => {
                    let actual = Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into()));
                    if let Some(ty) = v.ty.as_ref().filter(|ty| !ty.compatible(&actual)) {
                        self.report(at, format!("is declared as {ty}, but its tensor is {actual}"));
                    }
                }
                Def::SparseConstant(_) => {}
            }
        }
        for (i, &id) in g.outputs().iter().enumerate() {
            if !g.value(id).is_some_and(|v| v.users.contains(&Use::Output(i as u32))) {
                self.report(
                    || place.to_owned(),
                    format!("its output {i} does not exist or does not know that it is one"),
                );
            }
        }
    }

    fn node_structure(&mut self, g: &Graph, id: NodeId, node: &Node, at: &dyn Fn() -> String) {
        let inputs = node.inputs.iter().enumerate().filter_map(|(i, v)| Some((Operand::Input(i as u32), (*v)?)));
        let captures = node.captures.iter().enumerate().map(|(k, &v)| (Operand::Capture(k as u32), v));
        let mut edges = Vec::new();
        for (operand, value) in inputs.chain(captures) {
            let Some(v) = g.value(value) else {
                self.report(at, format!("reads {value} at {operand:?}, which does not exist"));
                continue;
            };
            if !v.users.contains(&Use::Node(id, operand)) {
                self.report(at, format!("reads {:?}, which does not list it as a reader", v.name));
            }
            edges.extend(v.producer().map(|p| (p, operand)));
        }
        edges.sort_unstable();
        if edges != g.edges_into(id) {
            self.report(at, "its edges do not match its operands".into());
        }
        for (slot, output) in node.outputs.iter().enumerate() {
            let Some(output) = *output else { continue };
            let agrees = matches!(g.value(output).map(|v| &v.def),
                Some(Def::Node { node, slot: s }) if *node == id && *s as usize == slot);
            if !agrees {
                self.report(at, format!("its output {slot} does not exist or has another producer"));
            }
        }
        for inner in node.attrs.graphs() {
            for (value, k) in inner.captured() {
                if node.captures.len() <= k as usize {
                    self.report(
                        at,
                        format!(
                            "its subgraph captures {:?} under number {k}, which it does not list",
                            inner.name_of(value)
                        ),
                    );
                }
            }
        }
    }

    fn node_operator(&mut self, node: &Node, opsets: &Opsets, model: &Model, at: &dyn Fn() -> String) {
        if model.function(&node.op).is_some() {
            return;
        }
        let Some(version) = opsets.get(&node.op.domain) else { return };
        let Some(spec) = op::of(node) else { return };
        if let Err(message) = spec.check_arity(node, *version) {
            self.report(at, message);
        }
    }
}

/// How a message names a node: by its name, or else by what it makes.
fn label(g: &Graph, id: NodeId, node: &Node) -> String {
    match (node.name.as_str(), node.output(0)) {
        ("", Some(v)) => format!("making {:?}", g.name_of(v)),
        ("", None) => id.to_string(),
        (name, _) => format!("{name:?}"),
    }
}
