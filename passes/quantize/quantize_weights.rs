//! Store weights in 8, 4 or 2 bits, in blocks that share a scale; compute as before.
//!
//! Before     y = MatMul (x, w);  r = Gather (t, i)
//! After      generic, tensorrt: v = DequantizeLinear <axis, block_size> (w', scale, zero_point);  y = MatMul (x, v)
//!            onnxruntime: y = com.microsoft::MatMulNBits <K, N, bits, block_size> (x, w', scale, zero_point, , bias)
//!            tables: onnxruntime: r = com.microsoft::GatherBlockQuantized (t', i, scale, zero_point)
//!            generic: rows of bytes are picked and taken apart by BitwiseAnd and BitShift; in 8 bits r = DequantizeLinear (Gather (t', i))
//! When       weights of Conv, ConvTranspose, Gemm, MatMul and Gather, float or float16, of `min_elements` or more
//! Refuses    a weight that is read elsewhere too, or not finite · ConvTranspose in groups · Gather along the last axis ·
//!            blocks before opset 21, 2 bits before 25 · for tensorrt: tables, zero points, 2 bits, blocks that are not whole
//! Numerics   Lossy: the report gives the signal-to-noise ratio of the weights
//! Reference  ONNX DequantizeLinear-21; com.microsoft MatMulNBits-1, GatherBlockQuantized-1; the algorithms' files name their papers
//!
//! **What is stored.** A product's weight has blocks of `block` neighbours along the axis that is summed over, each with a scale and, unless
//! `symmetric`, a zero point. `block: none` is one scale per output channel, by `DequantizeLinear` on all targets. By default 8 bits have one scale per channel, which
//! runtimes know best (for onnxruntime: blocks of 128), fewer bits blocks of 32 (TensorRT: 128). Convolutions, and products of
//! more than two axes, have 8 bits and one scale per channel whatever `bits` says. Tables of Gather, such as word embeddings, have
//! blocks along their rows; in 8 bits they have a scale per column, which stays constant behind the look-up. A table that is
//! also multiplied with is stored once, even if the model holds it twice, transposed.
//!
//! **Zero points** cost half a byte per block of 4 bits and are worth half a decibel; so they are used except in 8 bits and for
//! TensorRT.
//!
//! **How codes are found** is `algorithm`. With calibration data it is `gptq`, which is much better than the others; without, `mse`.
//! On a sentence encoder (all-MiniLM-L6-v2, 4 bits in blocks of 32) the embeddings kept a cosine of 0.973 with `rtn`, 0.969 with `hqq`,
//! 0.975 with `mse`, 0.991 with `gptq` (2 bits: 0.854). `damping` is the share of the mean second moment that is added to all of them; `act_order`
//! rounds the channels with large inputs first, which is a little better than their own order.
//!
//! It goes last: passes that fold constants would widen a table that is also multiplied with.
//!
//! **accuracy_level** tells onnxruntime's CPU kernels how exactly to treat the other factor: 4, the default, rounds it to 8 bits
//! block by block. That adds an error of 0.5 %, a tenth of what 4 bits lose. On a machine with AVX2, products of one row took 0.3 (4 bits)
//! to 0.5 (8 bits) of the time of float32, those of 16 rows 0.6 to 1.1; with level 0 single rows in 4 bits took 0.7, and in 2 and 8
//! bits more than 5 times as long as float32, because the whole weight is widened at each run.

mod emit;
pub(super) mod forms;
pub(super) mod moments;
pub(super) mod sites;
#[cfg(test)]
mod tests;

use planish_ir::{Model, NodeId, OpName};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    algorithm::{self, Algorithm},
    blocks::{Blocks, Matrix, Unfit},
};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Target, Transform, reconstruct::Second};
use emit::{Emit, MICROSOFT};
use forms::{Setting, Store};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeWeights {
    /// Bits of a code: 8, 4 or 2.
    pub bits: u32,
    /// Neighbours that share a scale; `none` for one scale per channel; `auto` for what suits target and bits.
    pub block: Block,
    /// How codes are found.
    pub algorithm: Algorithm,
    /// All zero points are 0. By default so in 8 bits, and for TensorRT.
    pub symmetric: Option<bool>,
    /// Tables of `Gather`, such as word embeddings, are weights too.
    pub tables: bool,
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub exclude: Vec<String>,
    /// GPTQ: the channels with large inputs are rounded first.
    pub act_order: bool,
    /// GPTQ: share of the mean second moment of the inputs that is added to all of them.
    pub damping: f64,
    /// onnxruntime on CPU: 4 rounds the other factor of a product to 8 bits, 0 leaves it as it is.
    pub accuracy_level: u32,
}

/// How many neighbours share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Block {
    /// That many: a power of two from 16 on.
    Size(u32),
    /// By name.
    Named(Named),
}

/// Sizes of blocks that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// What suits target and bits.
    Auto,
    /// One scale per channel.
    None,
}

impl Default for QuantizeWeights {
    fn default() -> QuantizeWeights {
        QuantizeWeights {
            bits: 4,
            block: Block::Named(Named::Auto),
            algorithm: Algorithm::Auto,
            symmetric: None,
            tables: true,
            min_elements: 1024,
            exclude: Vec::new(),
            act_order: true,
            damping: 0.01,
            accuracy_level: 4,
        }
    }
}

impl Pass for QuantizeWeights {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl QuantizeWeights {
    /// Fails if the settings contradict each other or the target.
    fn check(&self, target: Target) -> Result<(), PassError> {
        let wrong = |reason: String| Err(PassError::Precondition(reason));
        if !matches!(self.bits, 2 | 4 | 8) {
            return wrong(format!("`bits` is {}, and there are types of 2, 4 and 8 bits only", self.bits));
        }
        if let Block::Size(n) = self.block
            && !(n.is_power_of_two() && (16..=1 << 16).contains(&n))
        {
            return wrong(format!("`block` is {n}, and it has to be a power of two from 16 on, or `none`"));
        }
        if !matches!(self.accuracy_level, 0..=4) {
            return wrong(format!("`accuracy_level` is {}, and there are 0 to 4", self.accuracy_level));
        }
        if target != Target::Tensorrt {
            return Ok(());
        }
        if self.bits == 2 {
            return wrong("TensorRT has no weights of 2 bits".to_owned());
        }
        if self.symmetric == Some(false) {
            return wrong("TensorRT takes no zero points; leave `symmetric` out".to_owned());
        }
        match (self.bits, self.block) {
            (4, Block::Size(64 | 128) | Block::Named(Named::Auto)) | (8, Block::Named(_)) => Ok(()),
            (4, _) => wrong("TensorRT takes weights of 4 bits in blocks of 64 or 128".to_owned()),
            _ => wrong("TensorRT takes weights of 8 bits with one scale per channel; leave `block` out".to_owned()),
        }
    }
}

impl Transform for QuantizeWeights {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        self.check(cx.target)?;
        let mut changes = Changes::default();
        let mut jobs = Vec::new();
        let own = ["MatMulNBits", "GatherBlockQuantized"].map(|op| OpName::new(MICROSOFT, op));
        let callable = own.iter().all(|op| model.function(op).is_none())
            && model.opsets.get(MICROSOFT).is_none_or(|&version| version == 1);
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let facts = cx.facts.graph().at(&path);
            let setting = Setting { graph, facts, opset: model.opset(), target: cx.target, config: self, callable };
            let (weights, mut refused) = sites::weights(graph, self);
            let repeats = sites::repeated(&weights);
            let (stores, more) = setting.stores(weights, &repeats);
            refused.extend(more);
            changes.skipped.extend(refused.into_iter().map(|(node, skip)| (path.clone(), node, skip)));
            jobs.extend(stores.into_iter().map(|store| (path.clone(), store)));
        }
        let (seconds, note) = moments::collect(self, model, cx, &jobs)?;
        changes.notes.extend(note);

        let work = |(at, (_, store)): (usize, &(_, Store))| {
            let quantized = self.quantize(store, seconds.of(at));
            store.tensor.raw().into_iter().for_each(|raw| cx.weights.release(raw));
            quantized
        };
        let results: Vec<_> = jobs.par_iter().enumerate().map(work).collect();

        let mut summary = Summary::default();
        for ((path, store), result) in jobs.iter().zip(results) {
            let Some(graph) = model.graph_at(path) else { continue };
            let name = graph.name_of(store.value);
            let bits = store.format.bits();
            let emitted = result.and_then(|(blocks, sqnr)| {
                let level = (cx.target == Target::OnnxruntimeCpu).then_some(self.accuracy_level);
                let emit = Emit { graph, accuracy_level: level };
                summary.add(&name, store, sqnr);
                Ok(emit.patch(store, &blocks, format!("{name:?} in {bits} bits"))?)
            });
            match emitted {
                Ok(patch) => {
                    changes.patches.push((path.clone(), patch));
                    changes.ir_version = changes.ir_version.max(store.ir_version());
                }
                Err(unfit) => {
                    let reason = Skip::because(format!("{name:?}: {unfit}"));
                    let nodes = store.readers.iter().map(|s| s.reader.node);
                    let skipped = |node: NodeId| (path.clone(), node, reason.clone());
                    changes.skipped.extend(nodes.map(skipped));
                }
            }
        }
        changes.notes.extend(summary.note());
        Ok(changes)
    }
}

impl QuantizeWeights {
    fn quantize(&self, store: &Store, second: Option<&Second>) -> Result<(Blocks, f64), Unfit> {
        let matrix = Matrix::of(&store.tensor, store.outer)?;
        let blocks = algorithm::quantize(&matrix, store.format, self.algorithm, second);
        let sqnr = blocks.sqnr(&matrix);
        Ok((blocks, sqnr))
    }
}

/// What the report says of all weights together.
#[derive(Default)]
struct Summary {
    /// Signal-to-noise ratio and name, by bits.
    sqnr: std::collections::BTreeMap<u32, Vec<(f64, String)>>,
}

impl Summary {
    fn add(&mut self, name: &str, store: &Store, sqnr: f64) {
        self.sqnr.entry(store.format.bits()).or_default().push((sqnr, name.to_owned()));
    }

    fn note(self) -> Vec<String> {
        let line = |(bits, mut weights): (u32, Vec<(f64, String)>)| {
            weights.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            let (worst, name) = weights.first()?;
            let (median, _) = weights.get(weights.len() / 2)?;
            let count = weights.len();
            let are = if count == 1 { "weight" } else { "weights" };
            Some(format!(
                "{count} {are} in {bits} bits; signal-to-noise ratio {worst:.1} dB at worst ({name}), {median:.1} dB median"
            ))
        };
        self.sqnr.into_iter().filter_map(line).collect()
    }
}
