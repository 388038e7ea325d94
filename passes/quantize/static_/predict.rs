//! Which kernel the runtime forms for each node.

use std::collections::BTreeMap;

use planish_ir::{Node, NodeId, cost};

use super::{
    draft::Written,
    emit::label,
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
        Role::Passes | Role::Affine { .. } | Role::AddedTo(_) => {
            return at.graph.node(unit.node).map_or_else(String::new, |n| n.op.name.clone());
        }
    };
    name.to_owned()
}

/// What was decided of a product.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decision {
    /// In what it computes, if not as all others.
    pub(crate) precision: Option<&'static str>,
    /// Error of the outputs with it alone in codes.
    pub(crate) error: Option<f64>,
    /// Why.
    pub(crate) reason: Option<String>,
}

/// What is known when layers are listed.
pub(crate) struct Listed<'a> {
    pub(crate) at: Place<'a>,
    pub(crate) written: &'a Written,
    pub(crate) refused: &'a [(NodeId, Skip)],
    pub(crate) decisions: &'a BTreeMap<NodeId, Decision>,
    pub(crate) precision: &'static str,
    /// Multiply-accumulates of a node.
    pub(crate) macs: &'a dyn Fn(&Node) -> u64,
    /// Of the model.
    pub(crate) total: u64,
}

/// One entry for each node that computes with codes, and for each product that does not, in the order of nodes.
pub(crate) fn layers(listed: &Listed<'_>) -> Vec<Layer> {
    let Listed { at, written, refused, decisions, .. } = *listed;
    let reasons: BTreeMap<NodeId, &Skip> = refused.iter().map(|(id, skip)| (*id, skip)).collect();
    let mut layers = Vec::new();
    for (id, node) in at.graph.nodes() {
        let name = label(at.graph, id);
        let layer = |precision: &'static str, macs: u64| Layer {
            node: name.clone(),
            op: node.op.to_string(),
            precision,
            kernel: None,
            macs,
            share: macs as f64 / listed.total.max(1) as f64,
            weight_sqnr_db: None,
            output_sqnr_db: None,
            reason: None,
        };
        let decision = decisions.get(&id).cloned().unwrap_or_default();
        let output_sqnr_db = decision.error.filter(|e| *e > 0.0).map(|e| -10.0 * e.log10());
        if let Some(unit) = written.placement.units.get(&id) {
            // The codes stay as they are; nothing is left to run.
            if matches!(unit.role, Role::Affine { .. }) {
                continue;
            }
            let runs = !at.inputs_only;
            let precision = decision.precision.unwrap_or(listed.precision);
            let noise = written.noise.get(&id);
            layers.push(Layer {
                kernel: runs.then(|| kernel(at, &written.placement, unit)),
                weight_sqnr_db: noise.map(|n| 10.0 * (n.signal / n.noise.max(f64::MIN_POSITIVE)).log10()),
                output_sqnr_db,
                reason: decision.reason,
                ..layer(precision, unit.macs)
            });
            if let Role::SelfGated(gate) = unit.role {
                let kernel = match gate {
                    Gate::Hard => "QLinearAdd",
                    Gate::Sigmoid(_) => "QLinearSigmoid",
                };
                let kernel = runs.then(|| kernel.to_owned());
                layers.push(Layer { node: format!("{name}_gate"), kernel, ..layer(precision, 0) });
            }
        } else if decision.reason.is_some() {
            let macs = (listed.macs)(node);
            layers.push(Layer { output_sqnr_db, reason: decision.reason, ..layer("float32", macs) });
        } else if let Some(Skip::Refused(reason)) = reasons.get(&id) {
            let macs = (listed.macs)(node);
            layers.push(Layer { reason: Some(reason.to_string()), ..layer("float32", macs) });
        }
    }
    layers
}

/// Multiply-accumulates in codes, and of the whole model.
pub(crate) fn share(placement: &Placement, total: &cost::ModelCost) -> (u64, u64) {
    let in_codes = placement.units.values().fold(0u64, |n, u| n.saturating_add(u.macs));
    (in_codes, total.macs.max(in_codes))
}
