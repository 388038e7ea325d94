//! Spellings of operators, and classes of small models.

mod classes;
mod models;
mod removal;
mod spellings;

use super::*;
use crate::{Model, infer, infer::Bindings, text};

/// The model of some inputs, weights and nodes; the last argument names its outputs.
fn model(opset: i64, inputs: &str, weights: &str, nodes: &str, outputs: &str) -> Model {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}"#
    );
    text::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

/// The spelling of each node.
fn spell(opset: i64, inputs: &str, weights: &str, nodes: &str) -> String {
    let m = model(opset, inputs, weights, nodes, "");
    let inferred = infer::infer(&m, &Bindings::new());
    assert_eq!(inferred.contradictions(), []);
    let facts = inferred.graph();
    let mut text = String::new();
    for (_, node) in m.graph.nodes() {
        let fact = |v: &Option<crate::ValueId>| v.map_or(&infer::Fact::UNKNOWN, |v| facts.fact(v));
        let call = infer::call(node, &m.opsets, node.inputs().iter().map(fact).collect(), Vec::new()).unwrap();
        let outputs: Vec<infer::Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
        text += &format!("{}: {}\n", node.op.name, Axes::of(&call, &outputs));
    }
    text
}

/// True for constants that are more than a shape.
fn is_weight(m: &Model, member: &Member) -> bool {
    m.graph_at(&member.graph).and_then(|g| g.constant(member.value)).is_some_and(crate::cost::is_weight)
}

/// The classes of a model that weights are in.
fn show(m: &Model) -> String {
    let inferred = infer::infer(m, &Bindings::new());
    assert_eq!(inferred.contradictions(), []);
    classes(m, &inferred).show(m, |c| c.members.iter().any(|member| is_weight(m, member)), |_| true)
}
