//! Which layer is to blame: where between input and output the error of a compiled model arises.
//!
//! Values keep their names through compilation as long as they mean the same, so the two models are run on one sample with
//! every common value handed out. Error is the norm of the difference as a share of the norm of the reference. A layer is
//! blamed for what its output has on top of the worst of its inputs.

use std::collections::BTreeMap;

use planish_ir::{Model, Node, ValueId};
use planish_passes::{Engine, EngineError, Tensors};
use serde::Serialize;

use crate::{engine::adapt, metrics::Comparison};

/// A layer and the error that it adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suspect {
    /// Name of the node, or of its first output.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Relative error of its output.
    pub error: f64,
    /// The largest relative error among its inputs.
    pub error_of_inputs: f64,
}

/// The layers that add most, the worst first.
pub fn suspects(
    engine: &dyn Engine,
    reference: &Model,
    model: &Model,
    sample: &Tensors,
    limit: usize,
) -> Result<Vec<Suspect>, EngineError> {
    let names = common_values(reference, model);
    let expected = engine.load(reference, &names)?.run(sample)?;
    let actual = engine.load(model, &names)?.run(&*adapt::inputs(sample, model)?)?;
    let mut errors: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, (e, a)) in names.iter().zip(expected.iter().zip(actual)) {
        // Of another type or shape, so it does not mean the same after all.
        let Ok(c) = Comparison::of(e, &adapt::like(a, e)?) else { continue };
        errors.insert(name, relative_error(&c));
    }
    let g = &model.graph;
    // A verified graph has no cycle.
    let order = g.topological_order().unwrap_or_default();
    // Values that only the compiled model has (a cast, a dequantized weight) pass on the error of what they come from.
    let mut reached: BTreeMap<ValueId, f64> = BTreeMap::new();
    let mut found = Vec::new();
    for node in order.into_iter().filter_map(|id| g.node(id)) {
        let inputs = node.operands().filter_map(|v| reached.get(&v).copied()).fold(0.0, f64::max);
        for &output in node.outputs().iter().flatten() {
            let name = g.name_of(output);
            let error = errors.get(name.as_str()).copied().unwrap_or(inputs);
            reached.insert(output, error);
            if error > inputs {
                found.push(Suspect {
                    node: label(node, &name),
                    op: node.op.to_string(),
                    error,
                    error_of_inputs: inputs,
                });
            }
        }
    }
    let added = |s: &Suspect| s.error - s.error_of_inputs;
    found.sort_by(|a, b| added(b).total_cmp(&added(a)));
    found.truncate(limit);
    Ok(found)
}

/// Values that a node makes in both models.
fn common_values(reference: &Model, model: &Model) -> Vec<String> {
    let made = |m: &Model, name: &str| m.graph.value_named(name).is_some_and(|v| m.graph.producer(v).is_some());
    let names = model.graph.values().map(|(_, v)| v.name().to_owned());
    names.filter(|n| made(reference, n) && made(model, n)).collect()
}

fn relative_error(c: &Comparison) -> f64 {
    match (c.non_finite_mismatches(), c.sqnr_db()) {
        (0, db) => 10f64.powf(-db / 20.0),
        _ => f64::INFINITY,
    }
}

fn label(node: &Node, output: &str) -> String {
    if node.name.is_empty() { output.to_owned() } else { node.name.clone() }
}

/// One line per suspect.
pub fn render(suspects: &[Suspect]) -> String {
    let line = |s: &Suspect| {
        format!("  {} ({}): relative error {:.3e}, of its inputs {:.3e}\n", s.node, s.op, s.error, s.error_of_inputs)
    };
    suspects.iter().map(line).collect()
}
