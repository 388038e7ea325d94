//! Which kernel the runtime forms for each node.

use std::collections::BTreeMap;

use planish_ir::{NodeId, cost};

use super::{
    emit::{Noise, label},
    place::Placement,
    unit::{Gate, Place, Product, Role, Unit},
};
use crate::{Layer, Skip};

/// What the kernel of a unit is called in onnxruntime's optimized graph.
fn kernel(at: Place<'_>, placement: &Placement, unit: &Unit) -> String {
    let emits = placement.emits.contains(&unit.node);
    let name = match &unit.role {
        Role::Linear(l) => match (l.op, emits) {
            (Product::Conv, _) => "QLinearConv",
            (Product::MatMul, true) => "QLinearMatMul",
            (Product::MatMul, false) => "MatMulIntegerToFloat",
            (Product::Gemm, _) => "QGemm",
            (Product::ConvTranspose, _) => "ConvTranspose",
        },
        Role::Kernel(kernel) => kernel,
        Role::HardGate { .. } => "QLinearAdd",
        Role::SelfGated(_) => "QLinearMul",
        Role::Passes | Role::Scales(_) | Role::AddedTo(_) => {
            return at.graph.node(unit.node).map_or_else(String::new, |n| n.op.name.clone());
        }
    };
    name.to_owned()
}

/// One entry for each node that computes with codes, and for each product that does not, in the order of nodes.
pub(crate) fn layers(
    at: Place<'_>,
    placement: &Placement,
    refused: &[(NodeId, Skip)],
    noise: &BTreeMap<NodeId, Noise>,
    precision: &'static str,
) -> Vec<Layer> {
    let reasons: BTreeMap<NodeId, &Skip> = refused.iter().map(|(id, skip)| (*id, skip)).collect();
    let mut layers = Vec::new();
    for (id, node) in at.graph.nodes() {
        let name = label(at.graph, id);
        let layer = |node: String, kernel: Option<String>| Layer {
            node,
            op: String::new(),
            precision,
            kernel,
            macs: 0,
            weight_sqnr_db: None,
            reason: None,
        };
        if let Some(unit) = placement.units.get(&id) {
            // The codes stay as they are; nothing is left to run.
            if matches!(unit.role, Role::Scales(_)) {
                continue;
            }
            let runs = !at.inputs_only;
            let kernel = runs.then(|| kernel(at, placement, unit));
            let weight_sqnr_db = noise.get(&id).map(|n| 10.0 * (n.signal / n.noise.max(f64::MIN_POSITIVE)).log10());
            layers.push(Layer {
                op: node.op.to_string(),
                macs: unit.macs,
                weight_sqnr_db,
                ..layer(name.clone(), kernel)
            });
            if let Role::SelfGated(gate) = unit.role {
                let kernel = match gate {
                    Gate::Hard => "QLinearAdd",
                    Gate::Sigmoid(_) => "QLinearSigmoid",
                };
                let gate = layer(format!("{name}_gate"), runs.then(|| kernel.to_owned()));
                layers.push(Layer { op: node.op.to_string(), ..gate });
            }
        } else if let Some(Skip::Refused(reason)) = reasons.get(&id) {
            let float = layer(name, None);
            layers.push(Layer {
                op: node.op.to_string(),
                precision: "float32",
                reason: Some(reason.to_string()),
                ..float
            });
        }
    }
    layers
}

/// Multiply-accumulates in codes, and of the whole model.
pub(crate) fn share(placement: &Placement, total: &cost::ModelCost) -> (u64, u64) {
    let in_codes = placement.units.values().fold(0u64, |n, u| n.saturating_add(u.macs));
    (in_codes, total.macs.max(in_codes))
}
