//! `planish inspect --types`: what shape inference knows of every value.

use planish_ir::{Def, Dim, Graph, Model, NodeId, Type, infer};
use serde::Serialize;

use crate::report::table;

/// What is known of one value.
#[derive(Serialize)]
pub struct Typed {
    /// Where the value is: empty for the main graph, else for each subgraph on the way the first output of the node that
    /// owns it and the number of the subgraph, in the order of the attributes' names.
    graph: Vec<(String, usize)>,
    name: String,
    r#type: Option<String>,
    /// Element type of a dense tensor.
    dtype: Option<String>,
    /// One size per axis, a number, an expression, or nothing, if the rank of a dense tensor is known.
    shape: Option<Vec<Option<Size>>>,
    /// Elements of a small tensor in row-major order, as far as they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    elements: Option<Vec<Option<Number>>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Number {
    Int(i64),
    Float(f64),
    Expression(String),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Size {
    Number(u64),
    Expression(String),
}

/// Types of all values, subgraphs included, as inference alone finds them with those sizes bound.
pub fn types(model: &Model, bindings: &infer::Bindings) -> Vec<Typed> {
    let inferred = infer::infer(model, bindings);
    let mut all = Vec::new();
    collect(&model.graph, inferred.graph(), &[], &mut all);
    all
}

fn collect(g: &Graph, facts: &infer::GraphFacts, place: &[(String, usize)], all: &mut Vec<Typed>) {
    for (id, value) in g.values().filter(|(_, v)| !matches!(v.def(), Def::Captured(_))) {
        let ty = facts.ty(id);
        all.push(Typed {
            graph: place.to_vec(),
            name: value.name().to_owned(),
            r#type: ty.map(Type::to_string),
            dtype: ty.and_then(Type::dtype).map(|d| d.to_string()),
            shape: ty.and_then(Type::shape).map(|s| s.iter().map(size).collect()),
            elements: facts.value(id).map(|e| e.iter().map(number).collect()),
        });
    }
    for (id, node) in g.nodes() {
        for (i, body) in node.attrs.graphs().enumerate() {
            if let Some(inner) = facts.subgraph(id, i) {
                collect(body, inner, &[place, &[(owner(g, id), i)]].concat(), all);
            }
        }
    }
}

fn owner(g: &Graph, id: NodeId) -> String {
    let first = g.node(id).and_then(|n| n.outputs().iter().flatten().next());
    first.map(|&v| g.name_of(v)).unwrap_or_default()
}

fn size(d: &Dim) -> Option<Size> {
    match d {
        Dim::Known(n) => Some(Size::Number(*n)),
        Dim::Symbolic(_) => Some(Size::Expression(d.to_string())),
        Dim::Unknown => None,
    }
}

fn number(n: &infer::Num) -> Option<Number> {
    match n {
        infer::Num::Int(n) => Some(Number::Int(*n)),
        infer::Num::Float(x) => Some(Number::Float(*x)),
        infer::Num::Symbolic(d) => Some(Number::Expression(d.to_string())),
        infer::Num::Quotient(d, k) => Some(Number::Expression(format!("({d})/{k}"))),
        infer::Num::Unknown => None,
    }
}

/// A table for people.
pub fn render(types: &[Typed]) -> String {
    let mut t = table(&["value", "type"]);
    for v in types {
        let place: String = v.graph.iter().map(|(owner, i)| format!("{owner}.{i}/")).collect();
        t.add_row([format!("{place}{}", v.name), v.r#type.clone().unwrap_or_else(|| "not known".into())]);
    }
    format!("{t}\n")
}
