//! Refitting layer by layer: what each layer reads in the compressed model, to what it computed in the original one.
//!
//! The one fit of all layers takes what a layer reads as it was before. Here a layer makes up for the errors of those before it too,
//! and, where its result is added to another value, for the errors of that value (He, Zhang, Sun: Channel pruning for accelerating very
//! deep neural networks, ICCV 2017). Layers are fitted in stages, so that each sees what the earlier ones have become.

use std::collections::BTreeSet;

use faer::Mat;
use planish_ir::{Graph, GraphPath, Model, NodeId, Numerics, Patch, Tensor, ValueId, infer, infer::Inferred};
use rayon::prelude::*;

use super::{
    FitErrors, Held, Masks, Shift,
    joint::{Joint, Row, bytes},
    stages::{Border, Stages, Wanted, run},
};
use crate::{Bias, Calibration, Linear, PassError, calibration::Rows};

/// A compressed model, and the one that it was made of.
pub(crate) struct Sequence<'a> {
    pub(crate) original: &'a Model,
    pub(crate) facts: &'a Inferred,
    pub(crate) masks: &'a Masks,
    pub(crate) calibration: &'a Calibration<'a>,
    /// How many layers behind a change are fitted.
    pub(crate) reach: usize,
    /// What is put in the place of layers when it is their turn.
    pub(crate) replace: Option<&'a dyn Replace>,
}

/// Puts something else in the place of layers, each when those in front of it are done.
pub(crate) trait Replace: Sync {
    /// If the layer with these weights is to be replaced: those of all that are replaced with it, in their order. They read the same.
    fn together(&self, weight: ValueId) -> Option<&[ValueId]>;

    /// The patch that replaces layers together.
    fn patch(&self, fitted: &[Fitted<'_>]) -> Result<Patch, PassError>;
}

/// A layer with the weights that fit best to what it is to compute, and what it reads.
pub(crate) struct Fitted<'a> {
    pub(crate) linear: &'a Linear,
    /// Of its groups.
    pub(crate) weights: Vec<Mat<f64>>,
    /// What its biases are less than those that make the means agree.
    pub(crate) shift: Vec<f64>,
    /// Second moments of what its groups read, about the mean if it has a bias.
    pub(crate) moments: Vec<Mat<f64>>,
    /// Mean of what the first of its groups reads.
    pub(crate) mean: Vec<f64>,
}

/// A layer of the compressed model, and what it is to compute.
struct Layer {
    linear: Linear,
    /// Value of the original model.
    target: ValueId,
    /// Value of the compressed model that is taken off it.
    other: Option<ValueId>,
    /// Axis of the outputs.
    axis: usize,
    stage: usize,
}

/// The weights that a layer has, and what is accumulated for others.
type Seen = (Vec<Mat<f64>>, Joint);

/// A layer that is looked at.
type Open<'l> = (&'l Layer, Seen);

/// The weights that fit a layer best.
struct Solution {
    /// None if the old ones do already.
    weights: Option<Vec<Mat<f64>>>,
    biases: Vec<Shift>,
    /// The biases are to be changed.
    is_shifted: bool,
}

/// A model and what was made of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) original: &'a Model,
    pub(crate) compressed: &'a Model,
}

/// What came of trying a fit on one half of the samples.
pub(crate) struct Tried {
    /// Of the outputs, before and after.
    pub(crate) errors: FitErrors,
    /// How many layers were fitted.
    pub(crate) layers: usize,
    /// That fit to all samples; none if that is not better.
    pub(crate) patches: Option<Vec<Patch>>,
}

impl Sequence<'_> {
    /// The weights of the layers that are fitted or replaced.
    pub(crate) fn weights(&self, compressed: &Model) -> BTreeSet<ValueId> {
        self.layers(compressed).0.iter().map(|l| l.linear.weight).collect()
    }

    /// Fits a trial to the half of the samples that is not held, in place; returns what its outputs then lose on the others, and the number of
    /// layers that were fitted. With one sample nothing tells if that is better, and nothing is fitted.
    pub(crate) fn judge(
        &self,
        trial: &mut Model,
        held: &Held,
        notes: &mut Vec<String>,
    ) -> Result<(Option<f64>, usize), PassError> {
        if held.is_seen() {
            return Ok((None, 0));
        }
        let fitted = held.fitted(self.calibration);
        let half = Calibration { samples: &fitted, ..*self.calibration };
        let layers = Sequence { calibration: &half, ..*self }.refit(trial, notes)?.len();
        Ok((Some(held.error(trial, self.calibration)?), layers))
    }

    /// Judges a trial; if its fit is better, fits `whole` to all samples. Both are the same model, the first one made of the first half only.
    pub(crate) fn refit_if_better(
        &self,
        mut trial: Model,
        whole: Pair<'_>,
        held: &Held,
        notes: &mut Vec<String>,
    ) -> Result<Tried, PassError> {
        let at_once = held.error(&trial, self.calibration)?;
        let (in_turn, layers) = self.judge(&mut trial, held, notes)?;
        drop(trial);
        let errors = FitErrors { at_once, in_turn };
        let patches = match errors.prefer_in_turn() {
            true => {
                let sequence = Sequence { original: whole.original, ..*self };
                Some(sequence.refit(&mut whole.compressed.clone(), &mut Vec::new())?)
            }
            false => None,
        };
        Ok(Tried { errors, layers, patches })
    }

    /// Fits every layer of the compressed model whose input has changed, and returns the patches that did, in their order. What is left out
    /// is noted.
    pub(crate) fn refit(&self, compressed: &mut Model, notes: &mut Vec<String>) -> Result<Vec<Patch>, PassError> {
        let (layers, stages, large) = self.layers(compressed);
        if !large.is_empty() {
            notes.push(format!("not refitted, as that takes more than `memory`: {}", large.join(", ")));
        }
        let last = layers.iter().map(|l| l.stage).max().unwrap_or(0);
        // The pieces that are run need the types of their inputs.
        let (mut original, mut model) = (self.original.clone(), compressed.clone());
        infer::annotate(&mut original);
        infer::annotate(&mut model);
        let both = [stages.carried_to(&original), stages];
        let mut patches = Vec::new();
        let mut borders = [Border::default(), Border::default()];
        for stage in 0..=last {
            let now: Vec<&Layer> = layers.iter().filter(|l| l.stage == stage).collect();
            let later: Vec<&Layer> = layers.iter().filter(|l| l.stage > stage).collect();
            let made = match self.stage(&original, &model, &both, &now, &later, &borders) {
                // What an engine cannot run from the middle, it may run from the beginning.
                Err(PassError::Engine(_)) if borders.iter().any(Border::is_known) => {
                    self.stage(&original, &model, &both, &now, &later, &Default::default())
                }
                made => made,
            };
            let (made, next) = made?;
            for patch in made {
                for model in [&mut *compressed, &mut model] {
                    let applied = model.apply(&GraphPath::main(), patch.clone());
                    applied.map_err(|e| PassError::Precondition(e.to_string()))?;
                }
                patches.push(patch);
            }
            borders = next;
        }
        Ok(patches)
    }

    /// The layers that are fitted, and the weights of those that memory does not allow. One that reads what another makes, or makes up for
    /// its error, comes a stage later.
    fn layers(&self, compressed: &Model) -> (Vec<Layer>, Stages, Vec<String>) {
        let (mut layers, mut stages, mut large) = (Vec::new(), Stages::default(), Vec::new());
        let mut changed: BTreeSet<ValueId> = BTreeSet::new();
        let mut computed: BTreeSet<ValueId> = BTreeSet::new();
        let mut left = 0;
        for id in compressed.graph.topological_order().unwrap_or_default() {
            let Some(node) = compressed.graph.node(id) else { continue };
            let is_changed = self.reads_others(compressed, id)
                || node.operands().any(|v| self.is_cut(v) || self.together(v).is_some());
            if is_changed {
                left = self.reach;
            }
            // In front of the first change nothing is different.
            let differs = is_changed || node.operands().any(|v| changed.contains(&v));
            let outputs = node.outputs().iter().flatten().copied();
            computed.extend(outputs.clone());
            let before = stages.before(compressed, id);
            if differs {
                changed.extend(outputs);
            }
            let linear = Linear::of(&compressed.graph, id).filter(|_| differs && left > 0);
            let mut linear = linear.filter(|l| compressed.graph.only_user(l.weight).is_some());
            if let Some(l) = linear.take_if(|l| bytes_of(&compressed.graph, l) > self.calibration.memory) {
                large.push(compressed.graph.name_of(l.weight));
            }
            match linear.and_then(|l| self.layer(compressed, l)) {
                Some(mut layer) => {
                    let other = layer.other.filter(|v| computed.contains(v)).map_or(0, |v| stages.of(v));
                    layer.stage = before.max(other);
                    stages.enter(compressed, id, layer.stage + 1);
                    left -= 1;
                    layers.push(layer);
                }
                None => stages.enter(compressed, id, before),
            }
        }
        (layers, stages, large)
    }

    /// True if a node is new or reads other values than in the original.
    fn reads_others(&self, compressed: &Model, node: NodeId) -> bool {
        let inputs = |model: &Model| model.graph.node(node).map(|n| n.inputs().to_vec());
        inputs(compressed) != inputs(self.original)
    }

    fn is_cut(&self, value: ValueId) -> bool {
        self.masks.get(&GraphPath::main()).is_some_and(|m| m.contains_key(&value))
    }

    /// What a layer of the compressed model is to compute: its output in the original, or the sum that it is a part of.
    fn layer(&self, compressed: &Model, linear: Linear) -> Option<Layer> {
        let graph = &compressed.graph;
        let mut value = graph.node(linear.node)?.output(0)?;
        let is_matmul = graph.node(linear.node).is_some_and(|n| n.op.is("MatMul"));
        // A scale, or a bias that others read or that is computed, is in what is to be computed, and not in the weights.
        if linear.bias == Bias::None && !is_matmul {
            return None;
        }
        if let (true, Bias::Constant(_)) = (is_matmul, linear.bias) {
            value = graph.only_user(value)?.1.output(0)?;
        }
        let rank = self.facts.shape(value)?.len();
        let axis = match linear.rows {
            Rows::Axis(_) if linear.channel_axis == -1 => rank.checked_sub(1)?,
            // The rows of a transposed matrix are the outputs' rows.
            Rows::Axis(-2) if graph.node(linear.node).is_some_and(|n| n.op.is("Gemm")) => rank.checked_sub(1)?,
            _ => 1,
        };
        let sum = graph.only_user(value).filter(|(_, n, _)| n.op.is("Add"));
        let other =
            sum.and_then(|(_, n, _)| Some((n.output(0)?, n.inputs().iter().flatten().copied().find(|&v| v != value)?)));
        // Layers that are replaced together have their turn together, when what they read is done.
        let is_alone = self.together(linear.weight).is_none_or(|w| w.len() == 1);
        let same_shape =
            |v: ValueId| is_alone && self.facts.shape(v).is_some_and(|s| Some(s) == self.facts.shape(value));
        let (target, other) = match other.filter(|(_, o)| graph.constant(*o).is_none() && same_shape(*o)) {
            Some((sum, other)) => (sum, Some(other)),
            None => (value, None),
        };
        Some(Layer { linear, target, other, axis, stage: 0 })
    }

    /// The patches that fit the layers of a stage, and the borders behind it. As many layers are seen at a time as memory allows.
    fn stage(
        &self,
        original: &Model,
        compressed: &Model,
        stages: &[Stages; 2],
        now: &[&Layer],
        later: &[&Layer],
        before: &[Border; 2],
    ) -> Result<(Vec<Patch>, [Border; 2]), PassError> {
        let mut patches = Vec::new();
        let mut next = [Border::default(), Border::default()];
        let mut open: Vec<Open<'_>> = Vec::new();
        let mut bytes = 0u64;
        for (at, layer) in now.iter().enumerate() {
            if let Some(seen) = self.joint(compressed, layer)? {
                bytes = bytes.saturating_add(seen.1.bytes());
                open.push((layer, seen));
            }
            let is_last = at + 1 == now.len();
            let is_enough = bytes >= self.calibration.memory / 2 && self.is_whole(&open);
            if open.is_empty() || !(is_enough || is_last) {
                continue;
            }
            next = self.see(original, compressed, stages, &mut open, later, before)?;
            let made = self.units(&open).into_par_iter().map(|unit| self.patch(compressed, &unit));
            let made: Vec<Option<Patch>> = made.collect::<Result<_, _>>()?;
            patches.extend(made.into_iter().flatten());
            open.clear();
            bytes = 0;
        }
        Ok((patches, next))
    }

    /// Runs both models and enters what the layers read and are to compute.
    fn see(
        &self,
        original: &Model,
        compressed: &Model,
        stages: &[Stages; 2],
        open: &mut [Open<'_>],
        later: &[&Layer],
        before: &[Border; 2],
    ) -> Result<[Border; 2], PassError> {
        let stage = open.first().map_or(0, |o| o.0.stage);
        let [theirs, ours] = stages;
        let targets: Vec<ValueId> = open.iter().map(|o| o.0.target).collect::<BTreeSet<_>>().into_iter().collect();
        let read = |l: &Layer| [Some(l.linear.input), l.other].into_iter().flatten();
        let reads: Vec<ValueId> = open.iter().flat_map(|o| read(o.0)).collect::<BTreeSet<_>>().into_iter().collect();
        let (split, places) = (targets.len(), (targets.clone(), reads.clone()));
        let wanted = [
            Wanted::new(original, targets, theirs, stage, later.iter().map(|l| l.target)),
            Wanted::new(compressed, reads, ours, stage, later.iter().flat_map(|l| read(l))),
        ];
        let mut take = |samples: &[Vec<Tensor>]| -> Result<(), PassError> {
            let (targets, reads) = &places;
            open.par_iter_mut().try_for_each(|(layer, (_, joint))| {
                let rows = samples.iter().map(|values| {
                    let (of_original, of_compressed) = values.split_at_checked(split)?;
                    let own = |v: ValueId| reads.iter().position(|&r| r == v).and_then(|at| of_compressed.get(at));
                    let target = targets.iter().position(|&v| v == layer.target).and_then(|at| of_original.get(at))?;
                    Some(Row { input: own(layer.linear.input)?, target, other: layer.other.and_then(own) })
                });
                let rows: Option<Vec<Row<'_>>> = rows.collect();
                let added = rows.map_or_else(|| Err("a value is missing".to_owned()), |rows| joint.add(&rows));
                let value = || compressed.graph.name_of(layer.linear.input);
                added.map_err(|message| PassError::Calibration { value: value(), message })
            })
        };
        run(self.calibration, &wanted, before, &mut take)
    }

    /// What a layer is fitted with. None if it cannot be.
    fn joint(&self, compressed: &Model, layer: &Layer) -> Result<Option<Seen>, PassError> {
        let graph = &compressed.graph;
        let linear = &layer.linear;
        let Some(weight) = graph.constant(linear.weight) else { return Ok(None) };
        let error = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
        let old = linear.matrices(weight).map_err(error)?;
        let (width, outputs) = old.first().map_or((0, 0), |m| (m.ncols(), m.nrows()));
        let kept = self.masks.get(&GraphPath::main()).and_then(|m| m.get(&layer.target)?.get(&layer.axis));
        let kept = kept.cloned().unwrap_or_else(|| vec![true; outputs * old.len()]);
        Ok(Joint::new(linear.rows.clone(), width, old.len(), layer.axis, kept).map(|joint| (old, joint)))
    }

    /// The weights that are replaced with one that is replaced.
    fn together(&self, weight: ValueId) -> Option<&[ValueId]> {
        self.replace.and_then(|r| r.together(weight))
    }

    /// True if no layer is missing that is replaced together with one of these.
    fn is_whole(&self, open: &[Open<'_>]) -> bool {
        let is_open = |w: &ValueId| open.iter().any(|(l, ..)| l.linear.weight == *w);
        open.iter().filter_map(|(l, ..)| self.together(l.linear.weight)).flatten().all(is_open)
    }

    /// Layers that are replaced together, and others one by one.
    fn units<'o, 'l>(&self, open: &'o [Open<'l>]) -> Vec<Vec<&'o Open<'l>>> {
        let mut units: Vec<Vec<&Open<'_>>> = Vec::new();
        for one in open {
            let together = self.together(one.0.linear.weight);
            let is_with = |unit: &&mut Vec<&Open<'_>>| {
                let first = unit.first().map(|o| o.0.linear.weight);
                together.zip(first).is_some_and(|(weights, first)| weights.contains(&first))
            };
            match units.iter_mut().find(is_with) {
                Some(unit) => unit.push(one),
                None => units.push(vec![one]),
            }
        }
        units
    }

    /// The patch that gives a layer the weights that fit best, or replaces layers.
    fn patch(&self, model: &Model, unit: &[&Open<'_>]) -> Result<Option<Patch>, PassError> {
        let Some((layer, (old, joint))) = unit.first() else { return Ok(None) };
        let linear = &layer.linear;
        if let Some(replace) = self.replace.filter(|r| r.together(linear.weight).is_some()) {
            let fitted = unit.iter().map(|open| fitted(model, open)).collect::<Result<Vec<_>, _>>()?;
            return replace.patch(&fitted).map(Some);
        }
        let graph = &model.graph;
        let error = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
        let solution = solve(graph, linear, old, joint)?;
        let (Some(new), Some(weight)) = (&solution.weights, graph.constant(linear.weight)) else { return Ok(None) };
        let mut patch = Patch::new(Numerics::Lossy, format!("{:?} refitted", graph.name_of(linear.weight)));
        patch.set_tensor(linear.weight, linear.tensor(new, weight).map_err(error)?);
        if solution.is_shifted {
            let values: Vec<f64> = solution.biases.iter().map(|b| b.value).collect();
            linear.set_bias(graph, &mut patch, &values).map_err(error)?;
        }
        Ok(Some(patch))
    }
}

/// The weights and biases that fit a layer best to what was accumulated.
fn solve(graph: &Graph, linear: &Linear, old: &[Mat<f64>], joint: &Joint) -> Result<Solution, PassError> {
    let error = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
    let centred = linear.bias != Bias::None;
    let weights = joint.fit(old, &linear.biases(graph).map_err(error)?, centred);
    let biases = joint.biases(weights.as_deref().unwrap_or(old));
    let is_shifted = centred && weights.is_some() && Shift::are_worth_adding(&biases, linear.bias);
    Ok(Solution { weights, biases, is_shifted })
}

/// A layer as it is before it is replaced.
fn fitted<'o>(model: &Model, (layer, (old, joint)): &'o Open<'_>) -> Result<Fitted<'o>, PassError> {
    let (graph, linear) = (&model.graph, &layer.linear);
    let error = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
    let Solution { weights, biases, is_shifted } = solve(graph, linear, old, joint)?;
    let given = linear.biases(graph).map_err(error)?;
    let bias = |o: usize| given.get(o).copied().unwrap_or(0.0);
    let shift = |(o, s): (usize, &Shift)| if is_shifted { s.value - bias(o) } else { 0.0 };
    Ok(Fitted {
        linear,
        shift: biases.iter().enumerate().map(shift).collect(),
        moments: joint.inputs(linear.bias != Bias::None),
        mean: joint.mean(),
        weights: weights.unwrap_or_else(|| old.clone()),
    })
}

/// Bytes of the statistics that a layer is fitted with.
fn bytes_of(graph: &Graph, linear: &Linear) -> u64 {
    let Some(weight) = graph.constant(linear.weight) else { return 0 };
    let (width, groups) = (linear.width(weight).unwrap_or(1).max(1), linear.groups().max(1));
    let outputs = usize::try_from(weight.elements()).unwrap_or(usize::MAX) / width / groups;
    bytes(groups, width, outputs)
}
