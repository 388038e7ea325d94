//! Take out channels, heads and neurons, and let the weights behind them make up for it.
//!
//! Before     h = Relu (Conv (x, w0));  y = Conv (h, w1)          h has 64 channels
//! After      h = Relu (Conv (x, w0'));  y = Conv (h, w1', b')    h has 40; w1' and b' are fitted to what the layer computed before
//! When       channels that nothing blocks (`planish inspect --prunable`) and that only layers with constant weights sum over:
//!            MatMul, Gemm and Conv of the main graph
//! Refuses    channels that are mixed (normalized over), that an activation sums over (the size of queries and keys), or that a
//!            convolution in groups sums over · without calibration data
//! Numerics   Lossy: the report gives the error of the outputs on samples that the fit has not seen
//! Reference  Hassibi, Stork: Second order derivatives for network pruning: optimal brain surgeon, NIPS 1992; Frantar, Alistarh: Optimal
//!            Brain Compression, NeurIPS 2022
//!
//! Which channels go within a class follows from the second moments of what its readers read; how many go in each class from what
//! taking a quarter out of it alone does to the outputs, on samples that were held out, and from what it saves.

use std::collections::{BTreeMap, BTreeSet};

use faer::Mat;
use planish_ir::{
    Dim, GraphPath, Model, NodeId, Tensor,
    axes::{Class, Classes, classes},
    infer::Bindings,
};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    allocate::{Budget, Candidate, Costs, allocate},
    cut::{Refit, cut, masks},
    eliminate::{Curve, Reader, eliminate, loss, refit},
    halves::{Halves, Held, output_error},
    sequential::Sequence,
    units::prunable,
};
use crate::{
    Bias, Calibration, Changes, Context, Linear, Pass, PassError, Shape, Transform,
    calibration::{Want, bindings},
};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// Share of the multiply-accumulates to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of the parameters to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// What is kept of a class is a multiple of this, where the class is large enough: runtimes are slow on odd sizes.
    pub round_to: u64,
    /// Share of each class that is kept at least.
    pub min_keep: f64,
    /// Weights whose channels stay, by name.
    pub protect: Vec<String>,
    /// Samples on which the effect of each class is measured.
    pub probes: u64,
}

impl Default for Prune {
    fn default() -> Prune {
        Prune { macs: None, params: None, round_to: 8, min_keep: 0.1, protect: Vec::new(), probes: 32 }
    }
}

/// Ridges that are tried, as a share of the mean of the diagonal.
const DAMPINGS: [f64; 5] = [1e-3, 1e-2, 0.1, 0.3, 1.0];
/// Steps in which a class is taken out.
const STEPS: u64 = 64;

impl Pass for Prune {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Prune {
    fn budget(&self) -> Result<Budget, PassError> {
        let (budget, share) = match (self.macs, self.params) {
            (Some(share), None) => (Budget::Macs(share), share),
            (None, Some(share)) => (Budget::Parameters(share), share),
            _ => {
                let message =
                    "give one budget, the share that is kept: `- prune: {macs: 0.5}` or `- prune: {params: 0.5}`";
                return Err(PassError::Precondition(message.to_owned()));
            }
        };
        match share > 0.0 && share <= 1.0 {
            true => Ok(budget),
            false => Err(PassError::Precondition(format!("{share} is no share to keep, from above 0 to 1"))),
        }
    }
}

impl Transform for Prune {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let budget = self.budget()?;
        let calibration = cx.calibrated()?;
        let sample = calibration.samples.get(0)?;
        let bindings = bindings(model, &sample);
        let classes = classes(model, cx.facts);
        let mut changes = Changes::default();
        let groups = self.groups(model, cx, &classes, &bindings, &mut changes);
        if groups.is_empty() {
            changes.notes.push("nothing can be pruned; `planish inspect --prunable` says why".to_owned());
            return Ok(changes);
        }
        let mut pruning = Pruning { model, cx, calibration, classes: &classes, layers: BTreeMap::new() };
        pruning.measure(&groups)?;
        let curves = pruning.curves(&groups, self);
        let held = Held::new(model, calibration, self.probes)?;
        let mut candidates = Vec::new();
        for (group, curve) in groups.iter().zip(&curves) {
            let Some(curve) = curve else { continue };
            let steps = self.allowed(group, curve);
            let Some(&probe) = steps.iter().min_by_key(|&&k| k.abs_diff(group.size / 4).max(u64::from(k == 0) << 60))
            else {
                continue;
            };
            let local = curve.error_at(probe);
            if probe == 0 {
                continue;
            }
            let removed = BTreeMap::from([(group.class, curve.first(probe))]);
            let error = match pruning.apply(&removed, Fit::First).and_then(|m| output_error(&m, calibration, &held)) {
                Ok(error) => error,
                Err(e) => {
                    changes.notes.push(format!("{} stays: {e}", group.name));
                    continue;
                }
            };
            let gain = if local > 0.0 { error / local } else { 0.0 };
            let steps = steps.iter().map(|&k| (k, gain * curve.error_at(k))).collect();
            candidates.push(Candidate { class: group.class, size: group.size, steps });
        }
        let costs = Costs::of(model, cx.facts, &classes, &bindings, budget);
        let chosen = allocate(&candidates, &costs, budget);
        let mut removed = BTreeMap::new();
        for (candidate, at) in candidates.iter().zip(chosen) {
            let count = candidate.steps.get(at).map_or(0, |s| s.0);
            let found = groups.iter().zip(&curves).find(|(g, _)| g.class == candidate.class);
            if let (true, Some((group, Some(curve)))) = (count > 0, found) {
                removed.insert(group.class, curve.first(count));
                let share = 100.0 * curve.error_at(count);
                changes.notes.push(format!(
                    "{}: {} of {} stay; its readers lose {share:.2} % of their power",
                    group.name,
                    group.size - count,
                    group.size
                ));
            }
        }
        let before = costs.total(&|_| 0.0);
        let share = |class: usize| {
            removed.get(&class).map_or(0.0, |r: &BTreeSet<u64>| {
                r.len() as f64 / groups.iter().find(|g| g.class == class).map_or(1, |g| g.size) as f64
            })
        };
        let kept = costs.total(&share) / before.max(1.0);
        let what = if matches!(budget, Budget::Macs(_)) { "MACs" } else { "parameters" };
        let (patches, errors) = pruning.finish(&removed, &held)?;
        changes.notes.insert(
            0,
            format!(
                "{:.1} % of the {what} are kept; relative squared error of the outputs on {} samples: {}",
                100.0 * kept,
                held.len(),
                errors
            ),
        );
        let (Budget::Macs(asked) | Budget::Parameters(asked)) = budget;
        if kept > asked + 0.02 {
            changes.notes.push(format!("{:.1} % were asked for: no more can be taken out", 100.0 * asked));
        }
        changes.patches = patches;
        Ok(changes)
    }
}

/// A layer, and its columns for each channel of a class.
type Reads = (NodeId, Vec<Vec<usize>>);

/// A class that can be pruned.
struct Group {
    class: usize,
    size: u64,
    /// Its first weight.
    name: String,
    /// Layers that sum over it, and the columns of each channel.
    readers: Vec<Reads>,
    /// Channels are blocks, as heads are.
    is_blocked: bool,
}

impl Prune {
    /// The classes that can be pruned; what cannot is noted.
    fn groups(
        &self,
        model: &Model,
        cx: &Context<'_>,
        classes: &Classes,
        bindings: &Bindings,
        changes: &mut Changes,
    ) -> Vec<Group> {
        let units = prunable(model, cx.facts, classes, bindings);
        let mut groups = Vec::new();
        for unit in &units.free {
            let Some(class) = classes.all().get(unit.class) else { continue };
            let names = weights(model, class);
            let name = names.first().cloned().unwrap_or_default();
            let Some(size) = unit.size.filter(|&n| n > 1) else { continue };
            if names.iter().any(|n| self.protect.contains(n)) {
                continue;
            }
            match readers(model, cx, class) {
                Ok(readers) => {
                    let is_blocked = is_blocked(class);
                    groups.push(Group { class: unit.class, size, name, readers, is_blocked });
                }
                Err(why) => changes.notes.push(format!("{name}: {size} channels stay: {why}")),
            }
        }
        groups
    }

    /// Numbers of channels that may go, ascending from 0.
    fn allowed(&self, group: &Group, curve: &Curve) -> Vec<u64> {
        let limit = curve.order.len() as u64;
        let mut quantum = if group.is_blocked { 1 } else { self.round_to.max(1) };
        while quantum > 1 && group.size < 4 * quantum {
            quantum /= 2;
        }
        (0..=limit).filter(|k| *k == 0 || (group.size - k).is_multiple_of(quantum)).collect()
    }
}

/// True if channels are blocks, as heads are: of them there are few, and each is large.
fn is_blocked(class: &Class) -> bool {
    class.members.iter().any(|m| m.block != Dim::Known(1))
}

fn weights(model: &Model, class: &Class) -> Vec<String> {
    let name = |m: &planish_ir::axes::Member| {
        let graph = model.graph_at(&m.graph)?;
        graph.constant(m.value).filter(|t| t.rank() > 1).map(|_| graph.name_of(m.value))
    };
    class.members.iter().filter_map(name).collect()
}

/// The layers that sum over a class; or why it is not pruned.
fn readers(model: &Model, cx: &Context<'_>, class: &Class) -> Result<Vec<Reads>, String> {
    if !class.mixed.is_empty() {
        return Err("a normalization or the like mixes them".into());
    }
    let main = GraphPath::main();
    if class.members.iter().any(|m| m.graph != main) {
        return Err("a subgraph has them".into());
    }
    let mut readers = Vec::new();
    for place in &class.summed {
        let graph = &model.graph;
        let name = || {
            graph
                .node(place.node)
                .map_or_else(String::new, |n| n.output(0).map_or_else(String::new, |v| graph.name_of(v)))
        };
        let linear = Linear::of(graph, place.node).filter(|l| l.groups() == 1);
        let linear =
            linear.ok_or_else(|| format!("{:?} sums over them, and is no layer with constant weights", name()))?;
        let rank = cx.facts.shape(linear.input).map_or(0, <[_]>::len);
        let axis = planish_ir::infer::axis(linear.channel_axis, rank)?;
        let size = class.size.known().unwrap_or(0);
        let here: Vec<_> =
            class.members.iter().filter(|m| m.graph == main && m.value == linear.input && m.axis == axis).collect();
        let columns = |channel: u64| -> Option<Vec<usize>> {
            let mut columns = Vec::new();
            for m in &here {
                for p in m.places(channel)? {
                    let first = usize::try_from(p).ok()?.checked_mul(linear.taps)?;
                    columns.extend(first..first.checked_add(linear.taps)?);
                }
            }
            columns.sort_unstable();
            Some(columns)
        };
        let all: Option<Vec<Vec<usize>>> = (0..size).map(columns).collect();
        let all = all.filter(|c| c.iter().any(|c| !c.is_empty()));
        readers.push((place.node, all.ok_or_else(|| format!("where {:?} has them is not known", name()))?));
    }
    if readers.is_empty() { Err("nothing sums over them".into()) } else { Ok(readers) }
}

/// Which samples weights are fitted to.
#[derive(Clone, Copy, PartialEq)]
enum Fit {
    /// The first half.
    First,
    /// All.
    All,
}

/// A layer and what is known of its input.
struct Layer {
    linear: Linear,
    weights: Mat<f64>,
    moments: Halves,
    /// Ridge that generalizes best from one half of the samples to the other.
    damping: f64,
}

struct Pruning<'a> {
    model: &'a Model,
    cx: &'a Context<'a>,
    calibration: &'a Calibration<'a>,
    classes: &'a Classes,
    layers: BTreeMap<NodeId, Layer>,
}

impl Pruning<'_> {
    /// Collects the second moments of the inputs of all readers.
    fn measure(&mut self, groups: &[Group]) -> Result<(), PassError> {
        let graph = &self.model.graph;
        let nodes: BTreeSet<NodeId> = groups.iter().flat_map(|g| g.readers.iter().map(|r| r.0)).collect();
        let mut linears = Vec::new();
        let mut wants = Vec::new();
        for node in nodes {
            let Some(linear) = Linear::of(graph, node) else { continue };
            let Some(weight) = graph.constant(linear.weight) else { continue };
            let width = linear.width(weight).unwrap_or(0);
            wants.push(Want::of(graph.name_of(linear.input), Halves::new(linear.rows.clone(), width)));
            let tensor = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
            let weights = linear.matrices(weight).map_err(tensor)?.swap_remove(0);
            linears.push((linear, weights));
        }
        let moments = self.calibration.collect(&[self.model], wants)?;
        for ((linear, weights), moments) in linears.into_iter().zip(moments) {
            self.layers.insert(linear.node, Layer { linear, weights, moments, damping: 0.1 });
        }
        Ok(())
    }

    /// In which order the channels of each class go, and finds the ridge of each layer on the way. None for a class whose matrices are
    /// singular even with a ridge, as they are if values are not finite.
    fn curves(&mut self, groups: &[Group], config: &Prune) -> Vec<Option<Curve>> {
        let layers = &self.layers;
        let curve = |g: &Group| {
            let reader = |(node, columns): &Reads| {
                let layer = layers.get(node)?;
                Some(Reader {
                    weights: layer.weights.clone(),
                    moments: layer.moments(Fit::All),
                    columns: columns.clone(),
                })
            };
            let readers: Vec<Reader> = g.readers.iter().map(reader).collect::<Option<_>>()?;
            let limit = g.size - ((g.size as f64 * config.min_keep).ceil() as u64).clamp(1, g.size);
            let (size, limit) = (usize::try_from(g.size).ok()?, usize::try_from(limit).ok()?);
            eliminate(&readers, size, limit, usize::try_from(g.size.div_ceil(STEPS)).ok()?, 0.1)
        };
        let curves: Vec<Option<Curve>> = groups.par_iter().map(curve).collect();
        // Half of what each layer may lose shows which ridge it needs.
        let mut gone: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        for (g, curve) in groups.iter().zip(&curves) {
            let Some(curve) = curve else { continue };
            for (node, columns) in &g.readers {
                let first = curve.order.iter().take(curve.order.len() / 2).filter_map(|&c| columns.get(c));
                gone.entry(*node).or_default().extend(first.flatten());
            }
        }
        self.layers.par_iter_mut().for_each(|(node, layer)| {
            let gone: Vec<usize> = gone.get(node).into_iter().flatten().copied().collect();
            layer.damping = layer.best_damping(&gone);
        });
        curves
    }

    /// The weights and biases that make up for what is removed.
    fn refit(&self, removed: &BTreeMap<usize, BTreeSet<u64>>, fit: Fit) -> Result<Refit, PassError> {
        let graph = &self.model.graph;
        let mut gone: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        for (&class, channels) in removed {
            let Some(class) = self.classes.all().get(class) else { continue };
            let readers = readers(self.model, self.cx, class).unwrap_or_default();
            for (node, columns) in readers {
                let columns = channels.iter().filter_map(|&c| columns.get(usize::try_from(c).ok()?)).flatten();
                gone.entry(node).or_default().extend(columns);
            }
        }
        let fitted: Vec<(&Layer, Mat<f64>)> = gone
            .par_iter()
            .filter_map(|(node, gone)| {
                let layer = self.layers.get(node)?;
                let gone: Vec<usize> = gone.iter().copied().collect();
                Some((layer, refit(&layer.weights, &layer.moments(fit), &gone, layer.damping)?))
            })
            .collect();
        let mut result = Refit::default();
        for (layer, new) in fitted {
            let linear = &layer.linear;
            let tensor = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
            // A weight that others read too is cut, and not changed.
            let Some(old) = graph.constant(linear.weight).filter(|_| graph.only_user(linear.weight).is_some()) else {
                continue;
            };
            result.constants.insert(linear.weight, linear.tensor(std::slice::from_ref(&new), old).map_err(tensor)?);
            let mean = layer.moments.mean(fit == Fit::All);
            let shift = (0..new.nrows()).map(|o| {
                (0..new.ncols())
                    .map(|i| (layer.weights[(o, i)] - new[(o, i)]) * mean.get(i).copied().unwrap_or(0.0))
                    .sum::<f64>()
            });
            match linear.bias {
                Bias::Constant(bias) => {
                    let Some(old) = graph.constant(bias) else { continue };
                    let values: Vec<f64> =
                        old.to_f64().map_err(tensor)?.iter().zip(shift).map(|(b, s)| b + s).collect();
                    result
                        .constants
                        .insert(bias, Tensor::from_f64_as(old.dtype(), old.dims(), &values).map_err(tensor)?);
                }
                Bias::Absent(slot) => {
                    let values: Vec<f64> = shift.collect();
                    let bias =
                        Tensor::from_f64_as(old.dtype(), [values.len() as u64].as_slice(), &values).map_err(tensor)?;
                    result.biases.insert(linear.node, (slot, bias, 1));
                }
                Bias::None => {}
            }
        }
        Ok(result)
    }

    fn patches(
        &self,
        removed: &BTreeMap<usize, BTreeSet<u64>>,
        fit: Fit,
    ) -> Result<Vec<(GraphPath, planish_ir::Patch)>, PassError> {
        let refit = self.refit(removed, fit)?;
        cut(self.model, self.cx.facts, self.classes, removed, &refit)
            .map_err(|e| PassError::Precondition(e.to_string()))
    }

    /// The patches of the better of two fits, all layers at once and one after the other; and what their errors are.
    fn finish(
        &self,
        removed: &BTreeMap<usize, BTreeSet<u64>>,
        held: &Held,
    ) -> Result<(Vec<(GraphPath, planish_ir::Patch)>, String), PassError> {
        let once = output_error(&self.apply(removed, Fit::First)?, self.calibration, held)?;
        let masks = masks(self.model, self.cx.facts, self.classes, removed)
            .map_err(|e| PassError::Precondition(e.to_string()))?;
        let sequence =
            Sequence { original: self.model, facts: self.cx.facts, masks: &masks, calibration: self.calibration };
        let mut patches = self.patches(removed, Fit::All)?;
        let mut model = self.apply(removed, Fit::All)?;
        let before = output_error(&model, self.calibration, held)?;
        let refits = sequence.refit(&mut model)?;
        let after = output_error(&model, self.calibration, held)?;
        let text = format!(
            "{once:.2e} if they are not fitted to, {before:.2e} if they are, {after:.2e} with layers fitted one after the other"
        );
        if after < before {
            patches.extend(refits.into_iter().map(|p| (GraphPath::main(), p)));
        }
        Ok((patches, text))
    }

    /// The model without what is removed.
    fn apply(&self, removed: &BTreeMap<usize, BTreeSet<u64>>, fit: Fit) -> Result<Model, PassError> {
        let mut model = self.model.clone();
        for (path, patch) in self.patches(removed, fit)? {
            model.apply(&path, patch).map_err(|e| PassError::Precondition(e.to_string()))?;
        }
        Ok(model)
    }
}

impl Layer {
    /// Second moments; about the mean if the bias can take the mean up.
    fn moments(&self, fit: Fit) -> Mat<f64> {
        self.moments.matrix(fit == Fit::All, self.linear.bias != Bias::None)
    }

    /// The ridge with which a fit to one half of the samples loses least on the other.
    fn best_damping(&self, gone: &[usize]) -> f64 {
        let centred = self.linear.bias != Bias::None;
        let [first, second] = self.moments.both(centred);
        let lost = |damping: f64| {
            let on = |fitted: &Mat<f64>, other: &Mat<f64>| {
                refit(&self.weights, fitted, gone, damping).map_or(f64::INFINITY, |w| loss(&self.weights, &w, other))
            };
            on(&first, &second) + on(&second, &first)
        };
        let tried = DAMPINGS.map(|d| (lost(d), d));
        tried.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0.1, |t| t.1)
    }
}

impl Curve {
    fn error_at(&self, count: u64) -> f64 {
        let last = usize::try_from(count).ok().and_then(|n| n.checked_sub(1));
        last.and_then(|at| self.error.get(at)).copied().unwrap_or(0.0)
    }

    fn first(&self, count: u64) -> BTreeSet<u64> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.order.iter().take(count).map(|&c| c as u64).collect()
    }
}
