//! Quantize matrix products dynamically: weights now, activations by their own range at every run.
//!
//! Before     m = MatMul (x, w);  y = Add (m, b)
//! After      q, s, z = DynamicQuantizeLinear (x)        once for all products that read x
//!            y = com.microsoft.MatMulIntegerToFloat (q, w', s, scale, z, , b)        w' int8, one scale for each column
//!            for any runtime: MatMulInteger, Cast, Mul by s · scale
//!            of a table, only the rows that are picked: r = Gather (t', i);  y = DequantizeLinear <axis = -1> (r, scale)
//!            of a convolution over one axis: q as above, its taps side by side by Slice and Concat, and one product
//! When       MatMul and Gemm with a constant float weight of `min_elements` or more; for onnxruntime-cpu also the projections of
//!            com.microsoft.Attention, which becomes MultiHeadAttention; from opset 13 on tables of Gather
//! Refuses    targets that are not asked for it: tensorrt, onnxruntime-gpu · a weight that is read by other operators too, or not finite ·
//!            Gemm with a transposed left factor · Attention with a padding mask or a past · convolutions over several axes and recurrent layers, which stay
//! Numerics   Lossy: weights move by half a step of their column, activations by half a step of their range at that run
//! Reference  ONNX DynamicQuantizeLinear-11; Jacob et al., CVPR 2018, section 2
//!
//! No calibration data is needed. Behind products of many columns it loses little; it gains less than static quantization, because
//! ranges are computed anew at every run, and all between the products stays in floats.
//!
//! Processors with AVX2 and without VNNI multiply uint8 by int8 in pairs that are added in 16 bits, with saturation. Two neighbours in
//! a column whose codes add up to more than 128 can saturate. So a column's step is chosen such that no such pair exists, which costs
//! about a third of a bit where the usual remedy, 7 bits for all, costs a whole one. `vnni` leaves that out.
//!
//! ConvInteger is never used: in ONNX Runtime 1.32 it and what goes with it take 1.6 to 2.8 times as long as Conv.

mod columns;
mod emit;
mod sites;
mod tables;
mod windows;

use std::collections::BTreeMap;

use planish_ir::{Model, ValueId, infer::GraphFacts};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Target, Transform};
use columns::Columns;
use sites::Site;

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeDynamic {
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub exclude: Vec<String>,
    /// Tables of Gather, such as word embeddings, are stored in int8 too.
    pub tables: bool,
    /// The processor has VNNI, or is an ARM: no product can saturate, and weights use the whole range.
    pub vnni: bool,
}

impl Default for QuantizeDynamic {
    fn default() -> QuantizeDynamic {
        QuantizeDynamic { min_elements: 1024, exclude: Vec::new(), tables: true, vnni: false }
    }
}

/// DynamicQuantizeLinear begins here.
const MIN_OPSET: i64 = 11;

impl Pass for QuantizeDynamic {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for QuantizeDynamic {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        self.check(model, cx.target)?;
        let mut changes = Changes::default();
        let mut summary = Summary::default();
        let unknown = GraphFacts::default();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let facts = cx.facts.graph().at(&path).unwrap_or(&unknown);
            let (found, refused) = sites::find(graph, facts, model, cx.target, self);
            changes.skipped.extend(refused.into_iter().map(|(node, skip)| (path.clone(), node, skip)));
            for group in groups(found) {
                let weights: BTreeMap<ValueId, &Site> = group.iter().map(|s| (s.weight, s)).collect();
                let quantize = |(&value, site): (&ValueId, &&Site)| {
                    let columns = Columns::of(&site.tensor, site.transposed, !self.vnni);
                    site.tensor.raw().into_iter().for_each(|raw| cx.weights.release(raw));
                    (value, columns)
                };
                let results: BTreeMap<ValueId, Result<Columns, String>> = weights.par_iter().map(quantize).collect();
                let failed = |site: &Site| match results.get(&site.weight) {
                    Some(Err(why)) => Some(format!("{:?}: {why}", graph.name_of(site.weight))),
                    Some(Ok(_)) | None => None,
                };
                let mut fit = Vec::with_capacity(group.len());
                for site in &group {
                    match failed(site) {
                        Some(why) => changes.skipped.push((path.clone(), site.node, Skip::because(why))),
                        None => fit.push(site),
                    }
                }
                let columns: BTreeMap<ValueId, Columns> =
                    results.into_iter().filter_map(|(v, r)| Some((v, r.ok()?))).collect();
                if !fit.is_empty() {
                    columns.iter().for_each(|(&v, c)| summary.add(graph.name_of(v), c));
                    changes.patches.push((path.clone(), emit::patch(graph, model.opset(), cx.target, &fit, &columns)));
                }
            }
            // Behind the products: these may read rows, of which the values change here.
            for table in tables::find(graph, self).into_iter().filter(|_| self.tables && model.opset() >= 13) {
                match tables::patch(graph, &table) {
                    Ok((patch, sqnr, bytes)) => {
                        summary.sqnr.push((sqnr, table.name(graph)));
                        summary.bytes += bytes;
                        changes.patches.push((path.clone(), patch));
                    }
                    Err(why) => {
                        let reason = Skip::because(format!("{:?}: {why}", table.name(graph)));
                        changes.skipped.extend(table.reader().map(|id| (path.clone(), id, reason)));
                    }
                }
            }
        }
        changes.notes.extend(summary.note());
        Ok(changes)
    }
}

impl QuantizeDynamic {
    fn check(&self, model: &Model, target: Target) -> Result<(), PassError> {
        let refused = |text: String| Err(PassError::Precondition(text));
        match target {
            Target::Generic | Target::OnnxruntimeCpu => {}
            Target::Tensorrt => {
                return refused("TensorRT quantizes with constant scales only; use static quantization for it".into());
            }
            Target::OnnxruntimeGpu => {
                return refused(
                    "ONNX Runtime has no dynamic quantization on GPUs; use float16, or static quantization for tensorrt".into(),
                );
            }
        }
        match model.opset() {
            opset if opset < MIN_OPSET => refused(format!(
                "the model has opset {opset}, and DynamicQuantizeLinear needs {MIN_OPSET} or later; run `raise-opset` first"
            )),
            _ => Ok(()),
        }
    }
}

/// Products that share an activation or a weight go together, so that what they share is made once, and so do those that read each
/// other's results, which one patch replaces.
fn groups(sites: Vec<Site>) -> Vec<Vec<Site>> {
    let mut group_of: Vec<usize> = (0..sites.len()).collect();
    fn root(group_of: &mut [usize], mut i: usize) -> usize {
        while let Some(&up) = group_of.get(i).filter(|&&up| up != i) {
            let above = group_of.get(up).copied().unwrap_or(up);
            if let Some(slot) = group_of.get_mut(i) {
                *slot = above;
            }
            i = above;
        }
        i
    }
    let mut first: BTreeMap<ValueId, usize> = sites.iter().enumerate().map(|(i, s)| (s.output, i)).collect();
    for (i, site) in sites.iter().enumerate() {
        for value in site.reads() {
            let other = *first.entry(value).or_insert(i);
            let (a, b) = (root(&mut group_of, i), root(&mut group_of, other));
            if let Some(slot) = group_of.get_mut(a.max(b)) {
                *slot = a.min(b);
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<Site>> = BTreeMap::new();
    for (i, site) in sites.into_iter().enumerate() {
        groups.entry(root(&mut group_of, i)).or_default().push(site);
    }
    groups.into_values().collect()
}

/// What the report says of all weights together.
#[derive(Default)]
struct Summary {
    sqnr: Vec<(f64, String)>,
    narrowed: usize,
    columns: usize,
    bytes: u64,
}

impl Summary {
    fn add(&mut self, name: String, c: &Columns) {
        self.sqnr.push((c.sqnr, name));
        self.narrowed += c.narrowed;
        self.columns += c.scales.elements() as usize;
        self.bytes += c.codes.byte_len() + c.scales.byte_len();
    }

    fn note(mut self) -> Option<String> {
        self.sqnr.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let (worst, name) = self.sqnr.first()?;
        let (median, _) = self.sqnr.get(self.sqnr.len() / 2)?;
        Some(format!(
            "{} weights in int8, {} bytes; signal-to-noise ratio {worst:.1} dB at worst ({name}), {median:.1} dB median; {} of {} \
             columns have a coarser step, so that no pair of products saturates",
            self.sqnr.len(),
            self.bytes,
            self.narrowed,
            self.columns
        ))
    }
}

#[cfg(test)]
mod tests;
