//! Take the mean error of each quantized layer out of its bias.
//!
//! Before     y = Conv (x, w, b)      on calibration data, y is off by d on average, per channel
//! After      y = Conv (x, w, b + d)
//! When       after a lossy pass: Conv, ConvTranspose and Gemm with a bias, and MatMul with an Add behind it, whose operands are
//!            dequantized; a bias in int32 moves by whole steps of its scale; channels in which the mean is a tenth or more
//!            of the power of the error (`least_share`)
//! Refuses    a layer without a bias, or with one that is computed, has other readers, or is stored in 8 bits · an output that the
//!            model did not have before the first lossy pass
//! Numerics   Lossy: it moves outputs towards those of the model before the first lossy pass
//! Reference  Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2, with
//!            data instead of assumptions; Banner et al., Post Training 4-bit Quantization of Convolutional Networks, NeurIPS 2019
//!
//! Layers are corrected one after another, each with all before it corrected: the error of a layer has a part that it was handed
//! down, and if all were corrected at once, that part would be taken out once in each layer. Between two layers the values are kept
//! that the rest is computed of, so that the model runs about once, on `samples` from all over one half of the calibration samples. As
//! many of the other half tell whether the outputs are nearer to those before; if not, nothing is corrected.
//!
//! Outputs are compared where both models have a value of the same name. Where a quantizer let a Relu go because the range of the
//! codes clips as it does, that is behind the rounding, as the name is that of the Relu's output. Ranges may be chosen for what a swish
//! makes of them, and leave out what it maps to nearly 0; that is no error, so outputs are compared as far as codes reach.

use planish_ir::{DType, Graph, GraphPath, Model, Node, Numerics, OpName, Patch, Tensor, ValueId, infer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    grid::{Codes, Grid},
    static_::{bound::Bound, judged::Judged},
};
use crate::{
    Calibration, Changes, Context, Pass, PassError, Shape, Skip, Transform,
    calibration::{Samples, Selected},
    reconstruct::{
        Fold, Held,
        stages::{Border, Stages, Wanted, run},
    },
};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BiasCorrection {
    /// How many calibration samples are looked at, at most.
    pub samples: usize,
    /// A channel is corrected if the square of its mean error is at least this share of its mean squared error.
    pub least_share: f64,
}

impl Default for BiasCorrection {
    fn default() -> BiasCorrection {
        BiasCorrection { samples: 32, least_share: 0.1 }
    }
}

impl Pass for BiasCorrection {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

/// A layer whose bias can be corrected.
struct Layer {
    /// Its output in the model before and in this one.
    outputs: [ValueId; 2],
    /// The axis of its channels.
    axis: i64,
    /// What its codes reach from and to.
    ends: (f32, f32),
    bias: Bias,
    /// How many corrections there are in front of it.
    stage: usize,
}

/// The constant that a bias is stored in.
enum Bias {
    Float(ValueId),
    /// Codes, and what one step of each is.
    Int32(ValueId, Vec<f64>),
}

impl Transform for BiasCorrection {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let Some(original) = cx.lossless else {
            changes.notes.push("no pass before it was lossy, so there is no error to take out".into());
            return Ok(changes);
        };
        let given = cx.calibrated()?;
        if given.samples.is_empty() {
            return Err(PassError::Precondition("there is no calibration sample".to_owned()));
        }
        let limit = self.samples.max(1);
        let judged = Judged::of(original).kept_in(model);
        let held =
            Held::of_values(Fold::First, original, given, u64::try_from(limit).unwrap_or(u64::MAX), judged.names())?;
        let half = held.fitted(given);
        let some = Selected { samples: &half, first: 0, step: half.len().div_ceil(limit), limit };
        let calibration = Calibration { samples: &some, ..*given };
        // The pieces that are run need the types of their inputs.
        let (mut original, mut corrected) = (original.clone(), model.clone());
        infer::annotate(&mut original);
        infer::annotate(&mut corrected);
        let (layers, stages) = layers(model, &original, &mut changes);
        let stages = [stages.carried_to(&original), stages];
        let mut borders = [Border::default(), Border::default()];
        let (mut moved_layers, mut moved_channels) = (0usize, 0usize);
        for stage in 0..=layers.iter().map(|l| l.stage).max().unwrap_or(0) {
            let drifts = match drifts([&original, &corrected], &layers, stage, &stages, &mut borders, &calibration) {
                // What an engine cannot run from the middle, it may run from the beginning.
                Err(PassError::Engine(_)) if borders.iter().any(Border::is_known) => {
                    borders = Default::default();
                    drifts([&original, &corrected], &layers, stage, &stages, &mut borders, &calibration)
                }
                drifts => drifts,
            };
            for drift in drifts? {
                let layer = drift.layer;
                let means = drift.means(self.least_share);
                let moved = means.iter().filter(|m| **m != 0.0).count();
                if moved == 0 {
                    continue;
                }
                let place = || model.graph.name_of(layer.bias.value());
                let tensor = layer.bias.plus(&corrected.graph, &means);
                let tensor = tensor.map_err(|source| PassError::Tensor { place: place(), source })?;
                let Some(tensor) = tensor else { continue };
                let mut patch = Patch::new(Numerics::Lossy, format!("{moved} channels of the bias {:?}", place()));
                patch.set_tensor(layer.bias.value(), tensor);
                // What comes later is measured behind this one. A patch that does not apply is reported by whoever applies it.
                if patch.clone().apply(&mut corrected.graph).is_ok() {
                    moved_layers += 1;
                    moved_channels += moved;
                }
                changes.patches.push((GraphPath::main(), patch));
            }
        }
        if moved_layers == 0 {
            return Ok(changes);
        }
        // With one sample nothing could tell.
        if !held.is_seen() {
            let error = |model: &Model| -> Result<f64, PassError> {
                Ok(judged.figures(&Bound::default(), &held, model, given)?.error)
            };
            let (before, after) = (error(model)?, error(&corrected)?);
            if after >= before {
                changes.patches.clear();
                let others = held.len();
                changes.notes.push(format!(
                    "not made: on {others} other samples the outputs would be no nearer to those before"
                ));
                return Ok(changes);
            }
        }
        let samples = some.len();
        changes
            .notes
            .push(format!("{moved_channels} channels of {moved_layers} layers corrected on {samples} samples"));
        Ok(changes)
    }

    fn compares(&self) -> bool {
        true
    }
}

/// The layers of a model whose biases can be corrected, in its order, and the stages of its values. Reasons why others cannot are noted.
fn layers(model: &Model, original: &Model, changes: &mut Changes) -> (Vec<Layer>, Stages) {
    let (mut layers, mut stages) = (Vec::new(), Stages::default());
    for id in model.graph.topological_order().unwrap_or_default() {
        let Some(node) = model.graph.node(id) else { continue };
        let mut stage = stages.before(model, id);
        match layer(&model.graph, &original.graph, node) {
            Ok(layer) => {
                layers.push(Layer { stage, ..layer });
                stage += 1;
            }
            Err(Skip::NoMatch) => {}
            Err(skip) => changes.skipped.push((GraphPath::main(), id, skip)),
        }
        stages.enter(model, id, stage);
    }
    (layers, stages)
}

/// By how much the layers of a stage are off, and the borders behind it in the place of those before it. Models are the one before and the
/// one that is corrected.
fn drifts<'l>(
    models: [&Model; 2],
    layers: &'l [Layer],
    stage: usize,
    stages: &[Stages; 2],
    borders: &mut [Border; 2],
    calibration: &Calibration<'_>,
) -> Result<Vec<Drift<'l>>, PassError> {
    let now = layers.iter().filter(|l| l.stage == stage);
    let mut open: Vec<Drift<'l>> = now.map(|layer| Drift { layer, channels: Vec::new() }).collect();
    let wanted = [0, 1].map(|m| {
        let reads = open.iter().map(|d| d.layer.outputs[m]).collect();
        let later = layers.iter().filter(|l| l.stage > stage).map(|l| l.outputs[m]);
        Wanted::new(models[m], reads, &stages[m], stage, later)
    });
    let mut add = |values: &Vec<Tensor>| -> Result<(), PassError> {
        let (before, now) = values.split_at(values.len() / 2);
        open.iter_mut().zip(before.iter().zip(now)).try_for_each(|(drift, (before, now))| {
            let value = drift.layer.outputs[1];
            drift
                .add(before, now)
                .map_err(|message| PassError::Calibration { value: models[1].graph.name_of(value), message })
        })
    };
    let mut take = |samples: &[Vec<Tensor>]| samples.iter().try_for_each(&mut add);
    *borders = run(calibration, &wanted, borders, &mut take)?;
    Ok(open)
}

/// A node as a layer with a bias, and where its output can be compared.
fn layer(graph: &Graph, original: &Graph, node: &Node) -> Result<Layer, Skip> {
    let is = |n: &Node, names: &[&str]| !n.is_local() && n.op.domain.is_empty() && names.contains(&n.op.name.as_str());
    let dequantized =
        |n: &Node| (0..2).any(|i| n.input(i).is_some_and(|v| made_by(graph, v, "DequantizeLinear").is_some()));
    let (slot, axis) = match node {
        n if is(n, &["Conv", "ConvTranspose", "Gemm"]) && dequantized(n) => (2, 1),
        n if is(n, &["Add"]) => {
            let product = |slot: usize| {
                let v = n.input(slot)?;
                let made = graph.producer(quantized_from(graph, v).unwrap_or(v))?.1;
                let packed = made.op == OpName::new("com.microsoft", "MatMulNBits") && !made.is_local();
                (packed || (is(made, &["MatMul"]) && dequantized(made))).then_some(1 - slot)
            };
            let slot = product(0).or_else(|| product(1)).ok_or(Skip::NoMatch)?;
            (slot, -1)
        }
        _ => return Err(Skip::NoMatch),
    };
    let bias = node.input(slot).ok_or_else(|| Skip::because("it has no bias that could take up its mean error"))?;
    let output = node.output(0).ok_or(Skip::NoMatch)?;
    let seen = rounded(graph, output).unwrap_or(output);
    let name = graph.name_of(seen);
    let before = original.value_named(&name).filter(|&v| original.producer(v).is_some());
    let before = before
        .ok_or_else(|| Skip::because(format!("there was no {name:?} before the first lossy pass, to compare with")))?;
    let grid = if seen == output { None } else { grid(graph, output) };
    let ends = grid.map_or((f32::NEG_INFINITY, f32::INFINITY), |g| g.ends());
    Ok(Layer { outputs: [before, seen], axis, ends, bias: Bias::of(graph, bias)?, stage: 0 })
}

/// The node that makes a value, if it is of this operator.
fn made_by<'g>(graph: &'g Graph, value: ValueId, op: &str) -> Option<&'g Node> {
    graph.producer(value).map(|(_, n)| n).filter(|n| !n.is_local() && n.op.is(op))
}

/// What a value is after it was rounded, if nothing else reads it.
fn rounded(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let only = |v: ValueId, op: &str| {
        let (_, n, slot) = graph.only_user(v)?;
        (slot == 0 && !n.is_local() && n.op.is(op)).then(|| n.output(0)).flatten()
    };
    only(only(value, "QuantizeLinear")?, "DequantizeLinear")
}

/// The grid that a value is rounded to, if there is one for all channels.
fn grid(graph: &Graph, value: ValueId) -> Option<Grid> {
    let (_, quantize, _) = graph.only_user(value)?;
    let scale = graph.constant_input(quantize, 1)?.single_f64()? as f32;
    let (codes, zero_point) = match quantize.input(2) {
        // One that is left out is 0.
        None => (Codes::U8, 0),
        Some(z) => {
            let z = graph.constant(z)?;
            let codes = Codes::of(z.dtype())?;
            (codes, if codes == Codes::F8 { 0 } else { i32::try_from(z.single_i64()?).ok()? })
        }
    };
    Some(Grid { scale, zero_point, codes })
}

/// What a dequantized value was before it was rounded.
fn quantized_from(graph: &Graph, value: ValueId) -> Option<ValueId> {
    made_by(graph, made_by(graph, value, "DequantizeLinear")?.input(0)?, "QuantizeLinear")?.input(0)
}

impl Bias {
    fn of(graph: &Graph, bias: ValueId) -> Result<Bias, Skip> {
        let own = |v: ValueId| match graph.users(v).len() {
            1 => Ok(v),
            _ => Err(Skip::because(format!("the bias {:?} has other readers", graph.name_of(v)))),
        };
        if let Some(t) = graph.constant(bias) {
            let vector = t.dims().iter().filter(|&&d| d != 1).count() <= 1 && t.dims().last() == Some(&t.elements());
            return match vector && matches!(t.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
                true => own(bias).map(Bias::Float),
                false => Err(Skip::because("the bias is not one number per channel")),
            };
        }
        let Some(dequantize) = made_by(graph, bias, "DequantizeLinear") else {
            return Err(Skip::because("the bias is computed"));
        };
        own(bias)?;
        let codes = dequantize.input(0).ok_or(Skip::NoMatch)?;
        match (graph.constant(codes), graph.constant_input(dequantize, 1)) {
            (Some(t), Some(scale)) if t.dtype() == DType::I32 && t.rank() == 1 => {
                let scale = scale.to_f64().map_err(|e| Skip::because(e.to_string()))?;
                own(codes).map(|codes| Bias::Int32(codes, scale))
            }
            _ => Err(Skip::because("the bias is neither a constant nor one in int32")),
        }
    }

    const fn value(&self) -> ValueId {
        match self {
            Bias::Float(v) | Bias::Int32(v, _) => *v,
        }
    }

    /// The bias with something added per channel; `None` if there are other channels, or nothing moves.
    fn plus(&self, graph: &Graph, means: &[f64]) -> Result<Option<Tensor>, planish_ir::TensorError> {
        let Some(old) = graph.constant(self.value()) else { return Ok(None) };
        if old.elements() != means.len() as u64 {
            return Ok(None);
        }
        let new = match self {
            Bias::Float(_) => {
                let sums: Vec<f64> = old.to_f64()?.iter().zip(means).map(|(b, m)| b + m).collect();
                Tensor::from_f64_as(old.dtype(), old.dims(), &sums)?
            }
            Bias::Int32(_, scales) => {
                let one = scales.first().copied().unwrap_or(1.0);
                let scale = |c: usize| if scales.len() == 1 { one } else { scales.get(c).copied().unwrap_or(1.0) };
                let moved = |(c, (code, mean)): (usize, (i64, &f64))| {
                    let steps = (mean / scale(c)).round_ties_even();
                    // A cast saturates, so that any number of steps stays in range.
                    (code as f64 + steps) as i32
                };
                let codes = old.to_i64()?.into_iter().zip(means).enumerate().map(moved);
                Tensor::from_raw(DType::I32, old.dims(), codes.flat_map(i32::to_le_bytes).collect())?
            }
        };
        Ok((new != *old).then_some(new))
    }
}

/// By how much a value of one model is off from that of another, per channel.
struct Drift<'l> {
    layer: &'l Layer,
    /// Sum of the differences, of their squares, and how many there are.
    channels: Vec<(f64, f64, u64)>,
}

impl Drift<'_> {
    /// Mean of first minus second where it is more than a share of the error, and otherwise 0.
    fn means(&self, least_share: f64) -> Vec<f64> {
        let mean = |&(sum, squares, count): &(f64, f64, u64)| {
            let n = count.max(1) as f64;
            let (mean, power) = (sum / n, squares / n);
            if mean.is_finite() && mean * mean > least_share * power { mean } else { 0.0 }
        };
        self.channels.iter().map(mean).collect()
    }

    /// Adds what both models compute on a sample. Fails if that has different shapes.
    fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<(), String> {
        if a.dims() != b.dims() {
            return Err(format!("it has the dims {:?} in one model and {:?} in the other", a.dims(), b.dims()));
        }
        let axis = infer::axis(self.layer.axis, a.rank())?;
        let size = |n: u64| usize::try_from(n).map_err(|_| "the tensor is too large".to_owned());
        let channels = size(a.dims().get(axis).copied().unwrap_or(1))?;
        let inner = size(a.dims().iter().skip(axis + 1).product())?;
        if self.channels.is_empty() {
            self.channels = vec![(0.0, 0.0, 0); channels];
        }
        if self.channels.len() != channels {
            return Err(format!("it has {channels} channels on one sample and {} on another", self.channels.len()));
        }
        if channels == 0 || inner == 0 {
            return Ok(());
        }
        let read = |t: &Tensor| t.to_f64().map_err(|e| e.to_string());
        let (a, b) = (read(a)?, read(b)?);
        let (low, high) = (f64::from(self.layer.ends.0), f64::from(self.layer.ends.1));
        for (row, (a, b)) in a.chunks(inner).zip(b.chunks(inner)).enumerate() {
            let Some((sum, squares, count)) = self.channels.get_mut(row % channels) else { continue };
            for d in a.iter().zip(b).map(|(a, b)| a.max(low).min(high) - b) {
                *sum += d;
                *squares += d * d;
            }
            *count += inner as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Engine, EngineError, NoObserver, Runnable, Tensors,
        testing::{drawn, parse},
    };

    const FLOAT: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {1.0, 0.0, 0.0, 1.0}, float[2] b = {1.0, 1.0}> { c = Gemm (x, w, b)  y = Relu (c) }"#;

    /// What a quantizer makes of it; the Relu is gone, since the codes begin at zero.
    fn quantized(bias: &str, input: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <int8[2,2] w = {{64, 0, 0, 64}}, float ws = {{0.0125}}, uint8 z = {{0}}, float s = {{0.0625}}, {bias}> {{
                wd = DequantizeLinear (w, ws)
                {input}
                r = Gemm (x, wd, bd)
                q = QuantizeLinear (r, s, z)
                y = DequantizeLinear (q, s, z)
            }}"#
        )
    }

    /// Hands out a fixed value of `y`: what the float model computes, or what the other one does.
    struct Fixed;

    struct FixedModel(bool);

    impl Engine for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }

        fn load(&self, model: &Model, _: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
            Ok(Box::new(FixedModel(model.graph.node_count() > 2)))
        }
    }

    impl Runnable for FixedModel {
        /// Channel 0 is off by 0.5 in the quantized model, channel 1 only by noise.
        fn run(&self, _: &Tensors) -> Result<Vec<Tensor>, EngineError> {
            let values = if self.0 { [1.0, 2.0, 2.0, 3.0] } else { [1.5, 1.9, 2.5, 3.1] };
            Ok(vec![Tensor::from_f32([2, 2].as_slice(), &values).unwrap()])
        }
    }

    fn run(original: Option<&str>, quantized: &str) -> (String, Vec<String>) {
        run_on(1, original, quantized)
    }

    fn run_on(samples: usize, original: Option<&str>, quantized: &str) -> (String, Vec<String>) {
        let original = original.map(parse);
        let mut model = parse(quantized);
        let samples = vec![Tensors::from([("x".to_owned(), drawn("x", &[2, 2]))]); samples];
        let samples = samples.as_slice();
        let calibration =
            Calibration { engine: &Fixed, samples: &samples, memory: 1 << 20, watch: &NoObserver, store: None };
        let cx = Context { calibration: Some(&calibration), lossless: original.as_ref(), ..Context::bare() };
        let changes = BiasCorrection::default().transform(&model, &cx).unwrap();
        let mut notes = changes.notes;
        for (_, _, skip) in changes.skipped {
            if let Skip::Refused(why) = skip {
                notes.push(why.into_owned());
            }
        }
        for (_, patch) in changes.patches {
            patch.apply(&mut model.graph).unwrap();
        }
        (planish_ir::text::print(&model), notes)
    }

    #[test]
    fn a_bias_in_int32_moves_by_whole_steps() {
        let text = quantized(
            "int32[2] b = {80, 80}, float[2] bs = {0.0125, 0.0125}",
            "bd = DequantizeLinear <axis = 0> (b, bs)",
        );
        let (after, notes) = run(Some(FLOAT), &text);
        assert!(after.contains("int32[2] b = {120, 80}"), "{after}");
        assert_eq!(notes, ["1 channels of 1 layers corrected on 1 samples"]);
    }

    #[test]
    fn a_bias_in_float_moves_by_the_mean() {
        let (after, _) = run(Some(FLOAT), &quantized("float[2] bd = {1.0, 1.0}", ""));
        assert!(after.contains("float[2] bd = {1.5, 1.0}"), "{after}");
    }

    #[test]
    fn what_codes_do_not_reach_is_no_error() {
        let graph = parse(&quantized("float[2] bd = {1.0, 1.0}", "")).graph;
        let output = graph.value_named("r").unwrap();
        let ends = grid(&graph, output).unwrap().ends();
        assert_eq!(ends, (0.0, 255.0 * 0.0625));
        let layer = Layer { outputs: [output; 2], axis: 1, ends, bias: Bias::Float(output), stage: 0 };
        let mut drift = Drift { layer: &layer, channels: Vec::new() };
        let of = |values: &[f32]| Tensor::from_f32([2, 2].as_slice(), values).unwrap();
        drift.add(&of(&[-3.0, 2.0, -5.0, 2.5]), &of(&[0.0, 1.5, 0.0, 2.0])).unwrap();
        assert_eq!(drift.means(0.1), [0.0, 0.5]);
    }

    #[test]
    fn what_brings_the_outputs_no_nearer_is_not_made() {
        // What the engine hands out does not depend on the bias.
        let float = quantized("float[2] bd = {1.0, 1.0}", "");
        let (after, notes) = run_on(2, Some(FLOAT), &float);
        assert_eq!(after, planish_ir::text::print(&parse(&float)));
        assert_eq!(notes, ["not made: on 1 other samples the outputs would be no nearer to those before"]);
    }

    #[test]
    fn refuses() {
        let reasons = |original: Option<&str>, text: &str| {
            let (after, notes) = run(original, text);
            assert_eq!(after, planish_ir::text::print(&parse(text)));
            notes.join("\n")
        };
        let float = quantized("float[2] bd = {1.0, 1.0}", "");
        insta::assert_snapshot!(reasons(None, &float), @"no pass before it was lossy, so there is no error to take out");
        insta::assert_snapshot!(reasons(Some(&FLOAT.replace('y', "other")), &float), @r#"there was no "y" before the first lossy pass, to compare with"#);
        insta::assert_snapshot!(reasons(Some(FLOAT), &quantized("float[2] a = {1.0, 1.0}", "bd = Relu (a)")), @"the bias is computed");
        insta::assert_snapshot!(reasons(Some(FLOAT), &float.replace(", bd)", ")")), @"it has no bias that could take up its mean error");
        let bytes = quantized("int8[2] b = {80, 80}, float bs = {0.0125}", "bd = DequantizeLinear (b, bs)");
        insta::assert_snapshot!(reasons(Some(FLOAT), &bytes), @"the bias is neither a constant nor one in int32");
    }
}
