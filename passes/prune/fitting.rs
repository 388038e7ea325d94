//! Fitting the weights behind channels that go, and finding out what it costs the outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use faer::Mat;
use planish_ir::{GraphPath, Model, NodeId, Patch, Tensor, ValueId, axes::Classes};
use rayon::prelude::*;

use super::{
    criterion::{Criterion, likeness},
    cut::{Refit, cut, masks},
    eliminate::{Curve, Reader, eliminate, power, refit},
    groups::{Group, Reads},
    moments::Moments,
    normalized::normalized_by,
};
use crate::{
    Bias, Calibration, Context, Linear, PassError,
    calibration::Want,
    reconstruct::{FitErrors, Fold, Halves, Held, KEPT, Masks, Sequence, Shift, best_ridge, products, told_by},
};

/// Channels of classes, by the index of the class.
pub(super) type Removed = BTreeMap<usize, BTreeSet<u64>>;

/// Ridges that are tried for the order in which channels go, as a share of the mean of the diagonal.
const ORDER_DAMPINGS: [f64; 3] = [1e-6, 1e-2, 0.1];
/// Where nothing tells which ridge is right.
const DEFAULT_DAMPING: f64 = 0.1;
/// Steps in which a class is taken out.
const STEPS: u64 = 64;

/// For each layer the columns that it loses, and the matrix that makes up for them; none if there is none.
pub(super) type Fits = BTreeMap<NodeId, (Vec<usize>, Option<Arc<Mat<f64>>>)>;

/// A layer and what is known of its input.
struct Layer {
    linear: Linear,
    weights: Mat<f64>,
    moments: Moments,
    /// Ridge that generalizes best from one half of the samples to the other.
    damping: f64,
    /// What a normalization behind the layer scales its outputs with.
    scale: Option<Vec<f64>>,
}

/// A model, and what is known of the layers that can be fitted.
pub(super) struct Fitting<'a> {
    model: &'a Model,
    cx: &'a Context<'a>,
    /// None if there are no samples.
    calibration: Option<&'a Calibration<'a>>,
    classes: &'a Classes,
    /// Of each class.
    readers: BTreeMap<usize, &'a [Reads]>,
    layers: BTreeMap<NodeId, Layer>,
}

impl<'a> Fitting<'a> {
    /// Collects the second moments of the inputs of all readers; without samples it guesses them.
    pub(super) fn new(
        model: &'a Model,
        cx: &'a Context<'a>,
        calibration: Option<&'a Calibration<'a>>,
        classes: &'a Classes,
        groups: &'a [Group],
    ) -> Result<Fitting<'a>, PassError> {
        let graph = &model.graph;
        let nodes: BTreeSet<NodeId> = groups.iter().flat_map(|g| g.readers.iter().map(|r| r.0)).collect();
        let mut linears = Vec::new();
        for node in nodes {
            let Some(linear) = Linear::of(graph, node) else { continue };
            let Some(weight) = graph.constant(linear.weight) else { continue };
            let tensor = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
            let weights = linear.matrices(weight).map_err(tensor)?.swap_remove(0);
            linears.push((linear, weights));
        }
        let moments: Vec<Moments> = match calibration {
            Some(calibration) => {
                let want = |(linear, weights): &(Linear, Mat<f64>)| {
                    Want::of(graph.name_of(linear.input), Halves::new(linear.rows.clone(), weights.ncols()))
                };
                let seen = calibration.collect_for_search(model, linears.iter().map(want).collect(), KEPT)?;
                seen.into_iter().map(|halves| Moments::Seen(Box::new(halves))).collect()
            }
            None => linears.iter().map(|(l, w)| guessed(model, classes, groups, l.node, w.ncols())).collect(),
        };
        let layer = |((linear, weights), moments): ((Linear, Mat<f64>), Moments)| {
            let scale = normalized_by(model, cx.facts, &linear, weights.nrows());
            (linear.node, Layer { linear, weights, moments, damping: DEFAULT_DAMPING, scale })
        };
        let layers = linears.into_iter().zip(moments).map(layer).collect();
        let readers = groups.iter().map(|g| (g.class, g.readers.as_slice())).collect();
        Ok(Fitting { model, cx, calibration, classes, readers, layers })
    }

    /// In which order the channels of each class go, and finds the ridge of each layer on the way; for some classes the order is `known`.
    /// None for a class whose matrices are singular even with a ridge, as they are if values are not finite.
    pub(super) fn curves(
        &mut self,
        groups: &[Group],
        known: &BTreeMap<usize, Option<Curve>>,
        min_keep: f64,
        criterion: Criterion,
    ) -> Vec<Option<Curve>> {
        let curve = |g: &Group| {
            if let Some(known) = known.get(&g.class) {
                return known.clone();
            }
            let limit = g.size - ((g.size as f64 * min_keep).ceil() as u64).clamp(1, g.size);
            let (size, limit) = (usize::try_from(g.size).ok()?, usize::try_from(limit).ok()?);
            let step = usize::try_from(g.size.div_ceil(STEPS)).ok()?;
            if criterion != Criterion::Surgeon {
                let readers = self.readers_of(g, Fold::Both)?;
                let order = self.order(g, &readers, criterion, size)?;
                return eliminate(readers, size, limit, step, DEFAULT_DAMPING, Some(&order));
            }
            // Little ridge finds what can stand for each other, much is not misled by few samples.
            let half = limit.div_ceil(2).next_multiple_of(step).min(limit);
            let tried = ORDER_DAMPINGS.map(|damping| {
                let curve = eliminate(self.readers_of(g, Fold::First)?, size, half, step, damping, None)?;
                let lost = g.readers.iter().map(|reads| self.held_loss(reads, &curve, damping)).sum::<Option<f64>>()?;
                Some((lost, damping))
            });
            let best = tried.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0));
            eliminate(self.readers_of(g, Fold::Both)?, size, limit, step, best.map_or(DEFAULT_DAMPING, |b| b.1), None)
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

    fn readers_of(&self, group: &Group, fold: Fold) -> Option<Vec<Reader>> {
        let reader = |(node, columns): &Reads| {
            let layer = self.layers.get(node)?;
            Some(Reader { weights: layer.seen(&layer.weights), moments: layer.moments(fold), columns: columns.clone() })
        };
        group.readers.iter().map(reader).collect()
    }

    /// The order in which the channels of a group go by a criterion that does not look at what can stand for what.
    fn order(&self, group: &Group, readers: &[Reader], criterion: Criterion, channels: usize) -> Option<Vec<usize>> {
        let weights: Vec<ValueId> =
            group.readers.iter().filter_map(|r| Some(self.layers.get(&r.0)?.linear.weight)).collect();
        let class = self.classes.all().get(group.class)?;
        let scores = criterion
            .of_weights(self.model, class, channels, &weights)
            .or_else(|| (0..channels).map(|c| readers.iter().map(|r| r.magnitude(c)).sum::<Option<f64>>()).collect())?;
        let mut order: Vec<usize> = (0..channels).collect();
        let score = |c: usize| scores.get(c).copied().unwrap_or(0.0);
        order.sort_by(|&a, &b| score(a).total_cmp(&score(b)).then(a.cmp(&b)));
        Some(order)
    }

    /// What a layer loses on the second half of the samples, fitted to the first, once the channels of a curve are gone. None without samples.
    fn held_loss(&self, (node, columns): &Reads, curve: &Curve, damping: f64) -> Option<f64> {
        let layer = self.layers.get(node)?;
        let gone: BTreeSet<usize> = curve.order.iter().filter_map(|&c| columns.get(c)).flatten().copied().collect();
        let gone: Vec<usize> = gone.into_iter().collect();
        let second = layer.moments.are_seen().then(|| layer.moments(Fold::Second))?;
        let old = layer.told();
        let new = refit(&old, &layer.moments(Fold::First), &gone, damping)?;
        Some(power(&(new - &old), &second) / power(&old, &second).max(f64::MIN_POSITIVE))
    }

    /// The columns of each layer that go with channels.
    fn gone(&self, removed: &Removed) -> BTreeMap<NodeId, Vec<usize>> {
        let mut gone: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        for (&class, channels) in removed.iter().filter(|(_, channels)| !channels.is_empty()) {
            let readers = self.readers.get(&class).copied().unwrap_or_default();
            for (node, columns) in readers {
                let columns = channels.iter().filter_map(|&c| columns.get(usize::try_from(c).ok()?)).flatten();
                gone.entry(*node).or_default().extend(columns);
            }
        }
        gone.into_iter().map(|(node, columns)| (node, columns.into_iter().collect())).collect()
    }

    /// The matrices that make up for what is removed. Those of layers that lose what they lose in `known` are taken from there.
    fn fit(&self, removed: &Removed, fold: Fold, known: &Fits) -> Fits {
        let fitted = self.gone(removed).into_par_iter().filter_map(|(node, gone)| {
            let layer = self.layers.get(&node)?;
            if let Some(same) = known.get(&node).filter(|k| k.0 == gone) {
                return Some((node, same.clone()));
            }
            let new = refit(&layer.weights, &layer.moments(fold), &gone, layer.damping);
            Some((node, (gone, new.map(Arc::new))))
        });
        fitted.collect()
    }

    /// The weights and biases that make up for what is removed; and the weights that could not be fitted.
    fn refit(&self, fits: &Fits, fold: Fold) -> Result<(Refit, Vec<String>), PassError> {
        let graph = &self.model.graph;
        let mut result = Refit::default();
        let mut unfitted = Vec::new();
        for (node, (_, new)) in fits {
            let Some(layer) = self.layers.get(node) else { continue };
            let linear = &layer.linear;
            let tensor = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
            // A weight that others read too is cut, and not changed.
            let own = graph.constant(linear.weight).filter(|_| graph.only_user(linear.weight).is_some());
            let (Some(old), Some(new)) = (own, new) else {
                unfitted.push(graph.name_of(linear.weight));
                continue;
            };
            result.constants.insert(linear.weight, linear.tensor(std::slice::from_ref(&**new), old).map_err(tensor)?);
            let mean = layer.moments.mean(fold);
            let shift: Vec<Shift> = (0..new.nrows())
                .map(|o| {
                    let (before, after) = (products(&layer.weights, o, &mean), products(new, o, &mean));
                    Shift::of(before.chain(after.map(|p| -p)))
                })
                .collect();
            if !Shift::are_worth_adding(&shift, linear.bias) {
                continue;
            }
            let shift = shift.iter().map(|s| s.value);
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
        Ok((result, unfitted))
    }

    fn patches(&self, removed: &Removed, refit: &Refit) -> Result<Vec<(GraphPath, Patch)>, PassError> {
        cut(self.model, self.cx.facts, self.classes, removed, refit).map_err(|e| PassError::Precondition(e.to_string()))
    }

    /// The model without what is removed.
    fn apply(&self, patches: &[(GraphPath, Patch)]) -> Result<Model, PassError> {
        let mut model = self.model.clone();
        for (path, patch) in patches {
            model.apply(path, patch.clone()).map_err(|e| PassError::Precondition(e.to_string()))?;
        }
        Ok(model)
    }

    /// The model without some channels, when the weights behind them are fitted to half of the samples; and how they are fitted, for the next
    /// time.
    fn without(&self, removed: &Removed, fold: Fold, known: &Fits) -> Result<(Model, Fits), PassError> {
        let fits = self.fit(removed, fold, known);
        let (refit, _) = self.refit(&fits, fold)?;
        Ok((self.apply(&self.patches(removed, &refit)?)?, fits))
    }

    /// The model without some channels and with the weights behind them as they were: only its shapes mean something.
    pub(super) fn shaped(&self, removed: &Removed) -> Result<Model, PassError> {
        self.apply(&self.patches(removed, &Refit::default())?)
    }

    pub(super) fn calibration(&self) -> Result<&'a Calibration<'a>, PassError> {
        self.calibration.ok_or_else(|| PassError::Precondition("there are no samples".to_owned()))
    }

    /// Error of the outputs on held samples without some channels; and how layers are fitted.
    pub(super) fn probe(&self, removed: &Removed, held: &Held, known: &Fits) -> Result<(f64, Fits), PassError> {
        let (model, fits) = self.without(removed, held.fold(), known)?;
        Ok((held.error(&model, self.calibration()?)?, fits))
    }

    /// For probes that differ little from a model without some channels; and the error of that model.
    pub(super) fn near(&self, removed: &Removed, held: &Held, known: &Fits) -> Result<(Held, f64), PassError> {
        let (model, calibration) = (self.without(removed, held.fold(), known)?.0, self.calibration()?);
        let near = held.of_changes(&model, calibration)?;
        let error = near.error(&model, calibration)?;
        Ok((near, error))
    }

    /// The ridge of each layer; the statistics go.
    pub(super) fn into_ridges(self) -> BTreeMap<NodeId, f64> {
        self.layers.into_iter().map(|(node, layer)| (node, layer.damping)).collect()
    }

    /// Takes ridges that were found for the same layers in other bases.
    pub(super) fn damped_as(mut self, ridges: &BTreeMap<NodeId, f64>) -> Fitting<'a> {
        for (node, layer) in &mut self.layers {
            layer.damping = ridges.get(node).copied().unwrap_or(layer.damping);
        }
        self
    }

    /// What the outputs lose on held samples without some channels, fitted in either way.
    pub(super) fn errors(&self, removed: &Removed, held: &Held) -> Result<FitErrors, PassError> {
        let mut trial = self.without(removed, held.fold(), &Fits::new())?.0;
        let at_once = held.error(&trial, self.calibration()?)?;
        let (in_turn, _) = self.sequence(&self.masks(removed)?)?.judge(&mut trial, held, &mut Vec::new())?;
        Ok(FitErrors { at_once, in_turn })
    }

    /// Takes channels out for good, fitted to all samples in the way that left less error when it was fitted to half of them. Without
    /// samples there is only one.
    pub(super) fn finish(self, removed: &Removed, errors: Option<FitErrors>) -> Result<Finished, PassError> {
        let masks = self.masks(removed)?;
        let (refit, unfitted) = self.refit(&self.fit(removed, Fold::Both, &Fits::new()), Fold::Both)?;
        let mut patches = self.patches(removed, &refit)?;
        let mut notes = Vec::new();
        if errors.is_some_and(FitErrors::prefer_in_turn) {
            let mut compressed = self.apply(&patches)?;
            let sequence = self.sequence(&masks)?;
            // What follows has statistics of its own.
            drop(self);
            let refits = sequence.refit(&mut compressed, &mut notes)?;
            patches.extend(refits.into_iter().map(|p| (GraphPath::main(), p)));
        } else if !unfitted.is_empty() {
            let why = "not fitted, because others read them or their inputs are singular";
            notes.push(format!("{why}: {}", unfitted.join(", ")));
        }
        Ok(Finished { patches, notes })
    }

    fn masks(&self, removed: &Removed) -> Result<Masks, PassError> {
        let masks = masks(self.model, self.cx.facts, self.classes, removed);
        masks.map_err(|e| PassError::Precondition(e.to_string()))
    }

    fn sequence<'s>(&self, masks: &'s Masks) -> Result<Sequence<'s>, PassError>
    where
        'a: 's,
    {
        let (original, facts, calibration) = (self.model, self.cx.facts, self.calibration()?);
        Ok(Sequence { original, facts, masks, calibration, reach: usize::MAX, replace: None })
    }
}

/// Second moments of what a layer reads, if the weights that make its channels read what is white. The taps of a window are taken to be
/// independent, and so is what is not known.
fn guessed(model: &Model, classes: &Classes, groups: &[Group], node: NodeId, width: usize) -> Moments {
    let mut matrix = Mat::<f64>::identity(width, width);
    for group in groups {
        let Some((_, columns)) = group.readers.iter().find(|r| r.0 == node) else { continue };
        let weights: Vec<ValueId> =
            group.readers.iter().filter_map(|r| Some(Linear::of(&model.graph, r.0)?.weight)).collect();
        let class = classes.all().get(group.class);
        let Some(alike) = class.and_then(|c| likeness(model, c, columns.len(), &weights)) else { continue };
        for (i, rows) in columns.iter().enumerate() {
            for (j, others) in columns.iter().enumerate() {
                rows.iter().zip(others).for_each(|(&a, &b)| matrix[(a, b)] = alike[(i, j)]);
            }
        }
    }
    Moments::Guessed(matrix)
}

/// A pruned model.
pub(super) struct Finished {
    /// That make it.
    pub(super) patches: Vec<(GraphPath, Patch)>,
    /// For the report.
    pub(super) notes: Vec<String>,
}

impl Layer {
    /// Second moments; about the mean if the bias can take the mean up.
    fn moments(&self, fold: Fold) -> Mat<f64> {
        self.moments.matrix(fold, self.linear.bias != Bias::None)
    }

    /// The ridge with which a fit to one half of the samples loses least on the other.
    fn best_damping(&self, gone: &[usize]) -> f64 {
        if !self.moments.are_seen() {
            return DEFAULT_DAMPING;
        }
        let [first, second] = [Fold::First, Fold::Second].map(|fold| self.moments(fold));
        let old = self.told();
        let powers = [&first, &second].map(|m| power(&old, m).max(f64::MIN_POSITIVE));
        let on = |fitted: &Mat<f64>, other: &Mat<f64>, of_other: f64, damping: f64| {
            let new = refit(&old, fitted, gone, damping);
            new.map_or(f64::INFINITY, |new| power(&(new - &old), other) / of_other)
        };
        best_ridge(|damping| on(&first, &second, powers[1], damping) + on(&second, &first, powers[0], damping))
    }

    /// Of the outputs that a ridge is found from, as what reads them sees them.
    fn told(&self) -> Mat<f64> {
        let (seen, every) = (self.seen(&self.weights), told_by(self.weights.nrows()));
        Mat::from_fn(seen.nrows().div_ceil(every), seen.ncols(), |o, i| seen[(o * every, i)])
    }

    /// Weights whose outputs are scaled by what a normalization behind them does with them.
    fn seen(&self, weights: &Mat<f64>) -> Mat<f64> {
        match &self.scale {
            Some(scale) => Mat::from_fn(weights.nrows(), weights.ncols(), |o, i| {
                scale.get(o).copied().unwrap_or(1.0) * weights[(o, i)]
            }),
            None => weights.clone(),
        }
    }
}
