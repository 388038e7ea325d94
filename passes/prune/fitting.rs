//! Fitting the weights behind channels that go, and finding out what it costs the outputs.

use std::collections::{BTreeMap, BTreeSet};

use faer::Mat;
use planish_ir::{GraphPath, Model, NodeId, Patch, Tensor, axes::Classes};
use rayon::prelude::*;

use super::{
    cut::{Refit, cut, masks},
    eliminate::{Curve, Reader, eliminate, loss, refit},
    prune::{Group, Reads},
};
use crate::{
    Bias, Calibration, Context, Linear, PassError, Samples,
    calibration::{Selected, Want},
    reconstruct::{Halves, Held, Sequence},
};

/// Channels of classes, by the index of the class.
pub(super) type Removed = BTreeMap<usize, BTreeSet<u64>>;

/// Ridges that are tried, as a share of the mean of the diagonal.
const DAMPINGS: [f64; 6] = [1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0];
/// The same, for the order in which channels go.
const ORDER_DAMPINGS: [f64; 3] = [1e-6, 1e-2, 0.1];
/// Steps in which a class is taken out.
const STEPS: u64 = 64;

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

/// A model, and what is known of the layers that can be fitted.
pub(super) struct Fitting<'a> {
    model: &'a Model,
    cx: &'a Context<'a>,
    calibration: &'a Calibration<'a>,
    classes: &'a Classes,
    /// Of each class.
    readers: BTreeMap<usize, &'a [Reads]>,
    layers: BTreeMap<NodeId, Layer>,
}

impl<'a> Fitting<'a> {
    /// Collects the second moments of the inputs of all readers.
    pub(super) fn new(
        model: &'a Model,
        cx: &'a Context<'a>,
        calibration: &'a Calibration<'a>,
        classes: &'a Classes,
        groups: &'a [Group],
    ) -> Result<Fitting<'a>, PassError> {
        let graph = &model.graph;
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
        let moments = calibration.collect(&[model], wants)?;
        let layer = |((linear, weights), moments): ((Linear, _), _)| {
            (linear.node, Layer { linear, weights, moments, damping: 0.1 })
        };
        let layers = linears.into_iter().zip(moments).map(layer).collect();
        let readers = groups.iter().map(|g| (g.class, g.readers.as_slice())).collect();
        Ok(Fitting { model, cx, calibration, classes, readers, layers })
    }

    /// In which order the channels of each class go, and finds the ridge of each layer on the way. None for a class whose matrices are
    /// singular even with a ridge, as they are if values are not finite.
    pub(super) fn curves(&mut self, groups: &[Group], min_keep: f64) -> Vec<Option<Curve>> {
        let curve = |g: &Group| {
            let limit = g.size - ((g.size as f64 * min_keep).ceil() as u64).clamp(1, g.size);
            let (size, limit) = (usize::try_from(g.size).ok()?, usize::try_from(limit).ok()?);
            let step = usize::try_from(g.size.div_ceil(STEPS)).ok()?;
            // Little ridge finds what can stand for each other, much is not misled by few samples.
            let tried = ORDER_DAMPINGS.map(|damping| {
                let readers = self.readers_of(g, Fit::First)?;
                let curve = eliminate(&readers, size, limit, step, damping)?;
                let lost = g.readers.iter().map(|reads| self.held_loss(reads, &curve, damping)).sum::<f64>();
                Some((lost, damping))
            });
            let best = tried.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))?;
            eliminate(&self.readers_of(g, Fit::All)?, size, limit, step, best.1)
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

    fn readers_of(&self, group: &Group, fit: Fit) -> Option<Vec<Reader>> {
        let reader = |(node, columns): &Reads| {
            let layer = self.layers.get(node)?;
            Some(Reader { weights: layer.weights.clone(), moments: layer.moments(fit), columns: columns.clone() })
        };
        group.readers.iter().map(reader).collect()
    }

    /// What a layer loses on the second half of the samples, fitted to the first, once half of what may go is gone.
    fn held_loss(&self, (node, columns): &Reads, curve: &Curve, damping: f64) -> f64 {
        let Some(layer) = self.layers.get(node) else { return f64::INFINITY };
        let going = curve.order.iter().take(curve.order.len().div_ceil(2));
        let gone: BTreeSet<usize> = going.filter_map(|&c| columns.get(c)).flatten().copied().collect();
        let gone: Vec<usize> = gone.into_iter().collect();
        let [first, second] = layer.moments.both(layer.linear.bias != Bias::None);
        refit(&layer.weights, &first, &gone, damping).map_or(f64::INFINITY, |w| loss(&layer.weights, &w, &second))
    }

    /// The weights and biases that make up for what is removed; and the weights that could not be fitted.
    fn refit(&self, removed: &Removed, fit: Fit) -> Result<(Refit, Vec<String>), PassError> {
        let graph = &self.model.graph;
        let mut gone: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        for (&class, channels) in removed {
            let readers = self.readers.get(&class).copied().unwrap_or_default();
            for (node, columns) in readers {
                let columns = channels.iter().filter_map(|&c| columns.get(usize::try_from(c).ok()?)).flatten();
                gone.entry(*node).or_default().extend(columns);
            }
        }
        let fitted = gone.par_iter().filter_map(|(node, gone)| {
            let layer = self.layers.get(node)?;
            let gone: Vec<usize> = gone.iter().copied().collect();
            Some((layer, refit(&layer.weights, &layer.moments(fit), &gone, layer.damping)))
        });
        let fitted: Vec<(&Layer, Option<Mat<f64>>)> = fitted.collect();
        let mut result = Refit::default();
        let mut unfitted = Vec::new();
        for (layer, new) in fitted {
            let linear = &layer.linear;
            let tensor = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
            // A weight that others read too is cut, and not changed.
            let own = graph.constant(linear.weight).filter(|_| graph.only_user(linear.weight).is_some());
            let (Some(old), Some(new)) = (own, new) else {
                unfitted.push(graph.name_of(linear.weight));
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

    /// Error of the outputs on held samples without some channels, when the weights behind them are fitted to the others.
    pub(super) fn probe(&self, removed: &Removed, held: &Held) -> Result<f64, PassError> {
        let (refit, _) = self.refit(removed, Fit::First)?;
        held.error(&self.apply(&self.patches(removed, &refit)?)?, self.calibration)
    }

    /// Takes channels out for good. Of two fits, all layers at once and one after the other, that is taken which is better on held
    /// samples when both are fitted to the others; then it is fitted to all.
    pub(super) fn finish(&self, removed: &Removed, held: &Held) -> Result<Finished, PassError> {
        let masks = masks(self.model, self.cx.facts, self.classes, removed);
        let masks = masks.map_err(|e| PassError::Precondition(e.to_string()))?;
        let sequence = |model: &mut Model, samples: &dyn Samples| {
            let calibration = Calibration { samples, ..*self.calibration };
            let sequence = Sequence {
                original: self.model,
                facts: self.cx.facts,
                masks: &masks,
                calibration: &calibration,
                reach: usize::MAX,
            };
            sequence.refit(model)
        };
        let (refit, _) = self.refit(removed, Fit::First)?;
        let mut trial = self.apply(&self.patches(removed, &refit)?)?;
        let at_once = held.error(&trial, self.calibration)?;
        sequence(&mut trial, &Selected::first_half(self.calibration.samples))?;
        let in_turn = held.error(&trial, self.calibration)?;

        let (refit, unfitted) = self.refit(removed, Fit::All)?;
        let mut patches = self.patches(removed, &refit)?;
        let mut notes = Vec::new();
        if in_turn < at_once {
            let mut model = self.apply(&patches)?;
            let refits = sequence(&mut model, self.calibration.samples)?;
            patches.extend(refits.into_iter().map(|p| (GraphPath::main(), p)));
        } else if !unfitted.is_empty() {
            notes.push(format!(
                "not fitted, because others read them or their inputs are singular: {}",
                unfitted.join(", ")
            ));
        }
        let errors = format!(
            "relative squared error of the outputs on {} samples {}: {at_once:.2e} with all layers fitted at once, {in_turn:.2e} one after \
             the other; the better one was then fitted to all samples",
            held.len(),
            if held.is_seen() { "that the fits had seen, as there is only one" } else { "that the fits had not seen" },
        );
        Ok(Finished { patches, errors, notes })
    }
}

/// A pruned model.
pub(super) struct Finished {
    /// That make it.
    pub(super) patches: Vec<(GraphPath, Patch)>,
    /// What its outputs lost, in words.
    pub(super) errors: String,
    /// For the report.
    pub(super) notes: Vec<String>,
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
