//! Compute in float16, with float32 at the model's inputs and outputs and wherever float16 would fail.
//!
//! Before     y = Conv (x, w);  z = Exp (y)                                 float32
//! After      c = Conv (Cast (x), w);  y = Cast (c);  z = Exp (y)           c and w float16
//! When       the operator takes float16 at the model's opset
//! Refuses    operators without a float16 form, functions, and unknown operators · nodes with subgraphs · operators that
//!            grow (squares, exponentials, sums of them), until an operator brings the result back into range · readers
//!            of a constant beyond ±65504 or of a single one below 2⁻²⁵ · sizes and positions that are computed from
//!            integers for an exact reader · what `keep` lists · what comes close to the limit on calibration samples
//! Numerics   Lossy: 11 bits of precision instead of 24. Masks of -3.4e38 before Softmax become -32768.
//! Reference  IEEE 754-2019, binary16; Micikevicius et al., Mixed Precision Training, ICLR 2018
//!
//! Without calibration samples only weights and constants are checked for range; that activations stay inside it is for
//! the verification afterwards to find. Fuse normalizations first: LayerNormalization computes its statistics in float32
//! by definition, while its parts cost two casts each time.

mod literals;
mod measure;
mod rewrite;
mod select;
mod support;

use planish_ir::{GraphPath, Model};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};

/// Configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Float16 {
    /// Nodes that stay in float32, by name, or all of an operator, such as `Softmax` or `com.example::Op`.
    pub keep: Vec<String>,
}

/// `Cast` names its target by number from this opset on.
const MIN_OPSET: i64 = 6;

impl Pass for Float16 {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Float16 {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if model.opset() < MIN_OPSET {
            let opset = model.opset();
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and float16 needs {MIN_OPSET} or later; run `raise-opset` first"
            )));
        }
        let mut changes = Changes::default();
        let literals = literals::literals(&model.graph);
        let wide = match measure::wide(model, cx, &literals.masked) {
            Ok(wide) => wide,
            Err(e) => {
                changes.notes.push(format!("the ranges of activations are not known, only those of constants: {e}"));
                Default::default()
            }
        };
        let selection = select::Selection::new(model, &self.keep, &literals, &wide);
        let converted = model.graph.nodes().filter(|(id, node)| {
            let half = selection.half(*id);
            let input = |slot: usize| half.is_some_and(|s| s.input_follows(slot));
            node.inputs().iter().enumerate().any(|(i, v)| input(i) && v.is_some_and(|v| select::is_f32(&model.graph, v)))
                || node.outputs().iter().flatten().any(|&v| selection.made_half(v))
        });
        let converted = converted.count();
        if converted == 0 {
            return Ok(changes);
        }
        changes.patches.push((GraphPath::main(), rewrite::rewrite(&model.graph, &selection, &literals)?));
        self.report(model, &selection, &wide, converted, &mut changes);
        Ok(changes)
    }
}

impl Float16 {
    fn report(
        &self,
        model: &Model,
        selection: &select::Selection<'_>,
        wide: &std::collections::BTreeMap<planish_ir::ValueId, f32>,
        converted: usize,
        changes: &mut Changes,
    ) {
        let graph = &model.graph;
        let is_float = |id| graph.node(id).is_some_and(|n| n.operands().chain(n.outputs().iter().copied().flatten()).any(|v| select::is_f32(graph, v)));
        for (&id, reason) in selection.full().iter().filter(|(id, n)| is_float(**id) && !graph.node(**id).is_some_and(|n| n.op.is("Constant"))) {
            changes.skipped.push((GraphPath::main(), id, Skip::because(reason.clone())));
        }
        changes.notes.push(format!("{converted} nodes in float16, {} stay in float32", changes.skipped.len()));
        if !wide.is_empty() {
            let limit = measure::limit();
            changes.notes.push(format!("{} values exceed {limit} on the samples and stay in float32", wide.len()));
        }
        for k in &self.keep {
            if !graph.nodes().any(|(_, n)| n.name == *k || n.op.to_string() == *k) {
                changes.notes.push(format!("`keep` lists {k:?}, which is neither a node nor an operator of the model"));
            }
        }
    }
}
