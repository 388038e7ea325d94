//! The matrices of sparse weights, from what they are multiplied with.

use std::collections::BTreeMap;

use faer::Mat;
use planish_ir::Model;
use rayon::prelude::*;

use super::{Method, Sparsify, compensate::compensate, pattern::Goal, sites::Site};
use crate::{
    Calibration, PassError,
    calibration::{Statistic, Want},
    prune::eliminate::power,
    reconstruct::{Fold, Halves, KEPT, Second},
};

/// Ridges that are tried, as a share of the mean of the diagonal.
const DAMPINGS: [f64; 4] = [1e-3, 1e-2, 1e-1, 1.0];
/// Outputs of a layer on which they are compared.
const TRIED: usize = 64;
/// Share of the memory that statistics may take, as one over this: the rest is for the fit of a layer.
const SHARE: u64 = 2;

/// A weight that has become sparse.
pub(super) struct Fitted {
    pub(super) matrices: Vec<Mat<f64>>,
    /// What is to be added to the bias, if anything.
    pub(super) shift: Option<Vec<f64>>,
    /// Squared error of what the layer computes, as a share of its power.
    pub(super) error: Option<f64>,
    /// In words: which weights went, and on what the error was measured.
    pub(super) by: String,
}

fn matrices(site: &Site<'_>) -> Result<Vec<Mat<f64>>, PassError> {
    let error = |source| PassError::Tensor { place: site.name.clone(), source };
    site.linears.first().map_or(Ok(Vec::new()), |l| l.matrices(site.tensor).map_err(error))
}

/// The weights with the least scores go.
fn masked(weights: &Mat<f64>, goal: Goal, site: &Site<'_>, by_row: bool, scale: impl Fn(usize) -> f64) -> Mat<f64> {
    let (rows, width) = (weights.nrows(), weights.ncols());
    let score = |i: usize| weights[(i / width, i % width)].abs() * scale(i % width);
    let scores: Vec<f64> = (0..rows * width).map(score).collect();
    let kept = goal.kept(&scores, &site.columns, by_row);
    Mat::from_fn(rows, width, |r, c| if kept[r * width + c] { weights[(r, c)] } else { 0.0 })
}

/// The smallest weights go.
pub(super) fn magnitude(site: &Site<'_>, goal: Goal) -> Result<Fitted, PassError> {
    let matrices = matrices(site)?.iter().map(|m| masked(m, goal, site, false, |_| 1.0)).collect();
    Ok(Fitted { matrices, shift: None, error: None, by: "magnitude".to_owned() })
}

/// What a layer loses on rows with these second moments, and what there is.
#[derive(Clone, Copy, Default)]
struct Loss {
    lost: f64,
    power: f64,
}

impl Loss {
    fn of(old: &Mat<f64>, new: &Mat<f64>, moments: &Mat<f64>) -> Loss {
        Loss { lost: power(&(new - old), moments), power: power(old, moments) }
    }

    fn and(self, other: Loss) -> Loss {
        Loss { lost: self.lost + other.lost, power: self.power + other.power }
    }

    fn share(self) -> f64 {
        if self.power > 0.0 { self.lost / self.power } else { 0.0 }
    }
}

/// Weights that read the same, and so share its statistics.
struct Inputs {
    wants: Vec<Want<Halves>>,
    /// About the mean, which their biases take up.
    centred: bool,
    sites: Vec<usize>,
}

impl Inputs {
    /// Of one site, and what tells it from others.
    fn of(at: usize, site: &Site<'_>, method: Method) -> (String, Inputs) {
        let mut reads: Vec<_> = site.linears.iter().map(|l| (site.graph.name_of(l.input), l.rows.clone())).collect();
        reads.sort_by_key(|(name, rows)| format!("{name:?} {rows:?}"));
        reads.dedup();
        // Wanda leaves the biases as they are.
        let centred = site.own_bias().is_some() && method != Method::Wanda;
        let key = format!("{reads:?} {} {centred}", site.width);
        let want = |(name, rows)| Want::of(name, Halves::new(rows, site.width));
        (key, Inputs { wants: reads.into_iter().map(want).collect(), centred, sites: vec![at] })
    }
}

/// Divides the sites into parts whose statistics fit into memory together; in each, sites by what they read.
fn batches(sites: &[Site<'_>], method: Method, calibration: &Calibration<'_>) -> Vec<BTreeMap<String, Inputs>> {
    let mut batches: Vec<BTreeMap<String, Inputs>> = Vec::new();
    let mut taken = 0u64;
    for (at, site) in sites.iter().enumerate() {
        let (key, inputs) = Inputs::of(at, site, method);
        if let Some(known) = batches.last_mut().and_then(|b| b.get_mut(&key)) {
            known.sites.push(at);
            continue;
        }
        let bytes = |w: &Want<Halves>| w.statistic.needs().saturating_mul(SHARE);
        let more = inputs.wants.iter().map(bytes).fold(0, u64::saturating_add);
        taken = taken.saturating_add(more);
        match batches.last_mut().filter(|_| taken <= calibration.memory) {
            Some(batch) => drop(batch.insert(key, inputs)),
            None => {
                batches.push(BTreeMap::from([(key, inputs)]));
                taken = more;
            }
        }
    }
    batches
}

/// Runs the samples and makes sites sparse, as many at a time as memory allows. `done` takes them.
pub(super) fn fit(
    model: &Model,
    sites: &[Site<'_>],
    calibration: &Calibration<'_>,
    config: &Sparsify,
    goal: Goal,
    mut done: impl FnMut(&Site<'_>, Fitted) -> Result<(), PassError>,
) -> Result<(), PassError> {
    for batch in batches(sites, config.method, calibration) {
        let (mut groups, mut wants) = (Vec::new(), Vec::new());
        for Inputs { wants: more, centred, sites } in batch.into_values() {
            groups.push((more.len(), centred, sites));
            wants.extend(more);
        }
        let mut moments = calibration.collect_for_search(model, wants, KEPT)?.into_iter();
        let mut fitted = Vec::new();
        for (count, centred, here) in groups {
            let halves: Vec<Halves> = moments.by_ref().take(count).collect();
            let layers: Vec<(usize, &Site<'_>)> = here.iter().filter_map(|&at| Some((at, sites.get(at)?))).collect();
            fitted.extend(Fit { config, goal, centred, halves }.all(&layers)?);
        }
        fitted.sort_by_key(|(at, _)| *at);
        for (at, fitted) in fitted {
            if let Some(site) = sites.get(at) {
                done(site, fitted)?;
            }
        }
    }
    Ok(())
}

/// Layers that read the same.
struct Fit<'a> {
    config: &'a Sparsify,
    goal: Goal,
    centred: bool,
    /// Of each value that they read.
    halves: Vec<Halves>,
}

impl Fit<'_> {
    /// Second moments of both halves of the samples, and of all.
    fn moments(&self, group: usize) -> ([Mat<f64>; 2], Mat<f64>) {
        let sum = |a: Option<Mat<f64>>, b: Mat<f64>| Some(a.map_or_else(|| b.clone(), |a| a + &b));
        let both = self.halves.iter().map(|h| h.both_of(group, self.centred));
        let (mut first, mut second, mut all) = (None, None, None);
        for [a, b] in both {
            (first, second) = (sum(first, a), sum(second, b));
        }
        for h in &self.halves {
            all = sum(all, h.matrix_of(group, Fold::Both, self.centred));
        }
        let none = || Mat::zeros(0, 0);
        ([first.unwrap_or_else(none), second.unwrap_or_else(none)], all.unwrap_or_else(none))
    }

    fn all(&self, layers: &[(usize, &Site<'_>)]) -> Result<Vec<(usize, Fitted)>, PassError> {
        let mut groups = 1;
        let mut weights = Vec::new();
        for (_, site) in layers {
            let matrices = matrices(site)?;
            groups = groups.max(matrices.len());
            weights.push(matrices);
        }
        // Groups of channels have moments of their own; layers that share them also share the ridge.
        let mut fitted: Vec<Vec<Part>> = layers.iter().map(|_| Vec::new()).collect();
        for group in 0..groups {
            let (halves, all) = self.moments(group);
            let old: Vec<(&Site<'_>, &Mat<f64>)> =
                layers.iter().zip(&weights).filter_map(|((_, site), m)| Some((*site, m.get(group)?))).collect();
            for (parts, part) in fitted.iter_mut().zip(self.group(&old, &halves, &all)) {
                parts.push(part);
            }
        }
        let result = layers.iter().zip(weights).zip(fitted).map(|((&(at, site), old), parts)| {
            let error = parts.iter().fold(Loss::default(), |sum, p| sum.and(p.error));
            let by = parts.iter().map(|p| p.by).fold(By::Sparsegpt(0.0), By::worse);
            let matrices: Vec<Mat<f64>> = parts.into_iter().map(|p| p.new).collect();
            let shift =
                site.own_bias().filter(|_| self.config.method != Method::Wanda).map(|_| self.shift(&old, &matrices));
            (at, Fitted { matrices, shift, error: Some(error.share()), by: by.words() })
        });
        Ok(result.collect())
    }

    /// What the biases are to take up: what the changes make of the means.
    fn shift(&self, old: &[Mat<f64>], new: &[Mat<f64>]) -> Vec<f64> {
        let mut shift = Vec::new();
        for (group, (old, new)) in old.iter().zip(new).enumerate() {
            let mean = self.halves.first().map(|h| h.mean_of(group, Fold::Both)).unwrap_or_default();
            let lost = |r: usize| mean.iter().enumerate().map(|(c, m)| (old[(r, c)] - new[(r, c)]) * m).sum::<f64>();
            shift.extend((0..old.nrows()).map(lost));
        }
        shift
    }

    /// One group of channels of all layers.
    fn group(&self, layers: &[(&Site<'_>, &Mat<f64>)], halves: &[Mat<f64>; 2], all: &Mat<f64>) -> Vec<Part> {
        let goal = self.goal;
        let wanda = |site: &Site<'_>, old: &Mat<f64>, moments: &Mat<f64>| {
            masked(old, goal, site, true, |c| moments[(c, c)].max(0.0).sqrt())
        };
        let by_wanda = |by: By| {
            let part = |(site, old): &(&Site<'_>, &Mat<f64>)| {
                let new = wanda(site, old, all);
                let error = Loss::of(old, &new, all);
                Part { new, error, by }
            };
            layers.par_iter().map(part).collect()
        };
        if self.config.method == Method::Wanda {
            return by_wanda(By::Wanda);
        }
        // On some outputs, fitted to one half of the samples: what is lost on the other half.
        let tried: Vec<(&Site<'_>, Mat<f64>)> = layers.iter().map(|(s, m)| (*s, some_rows(m))).collect();
        let [first, second] = halves;
        let held = |new: Vec<Mat<f64>>| -> Vec<Loss> {
            tried.iter().zip(new).map(|((_, old), new)| Loss::of(old, &new, second)).collect()
        };
        let sum = |losses: &[Loss]| losses.iter().map(|l| l.share()).sum::<f64>();
        let own = self.config.damping.map(|d| vec![d]);
        let candidates = own.unwrap_or_else(|| DAMPINGS.to_vec()).into_par_iter().filter_map(|damping| {
            let new = solve(&tried.iter().map(|(s, m)| (*s, m)).collect::<Vec<_>>(), goal, first, damping)?;
            let losses = held(new);
            Some((sum(&losses), damping, losses))
        });
        let candidates: Vec<_> = candidates.collect();
        let best = candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((_, damping, errors)) = best else { return by_wanda(By::Singular) };
        let Some(new) = solve(layers, goal, all, damping) else { return by_wanda(By::Singular) };
        let plain = held(tried.par_iter().map(|(site, old)| wanda(site, old, first)).collect());
        let mut parts = Vec::new();
        for (((site, old), new), (error, plain)) in layers.iter().zip(new).zip(errors.into_iter().zip(plain)) {
            parts.push(match error.lost <= plain.lost {
                true => Part { new, error, by: By::Sparsegpt(damping) },
                false => Part { new: wanda(site, old, all), error: plain, by: By::Worse },
            });
        }
        parts
    }
}

/// The matrix of a group of channels.
struct Part {
    new: Mat<f64>,
    error: Loss,
    by: By,
}

/// Which weights went.
#[derive(Clone, Copy)]
enum By {
    /// With this ridge.
    Sparsegpt(f64),
    Wanda,
    /// Wanda, as it was better.
    Worse,
    /// Wanda, as there is nothing to fit to.
    Singular,
}

impl By {
    /// Of two groups what says more.
    const fn worse(self, other: By) -> By {
        match (self, other) {
            (By::Sparsegpt(_), other) => other,
            (by, By::Sparsegpt(_)) => by,
            (by, _) => by,
        }
    }

    fn words(self) -> String {
        match self {
            By::Sparsegpt(damping) => format!("sparsegpt with a ridge of {damping}"),
            By::Wanda => "wanda".to_owned(),
            By::Worse => "wanda, as compensation lost more on samples that it had not seen".to_owned(),
            By::Singular => "wanda, as its inputs are zero".to_owned(),
        }
    }
}

/// Compensated weights of layers that read the same. Nothing if their inputs are zero.
fn solve(layers: &[(&Site<'_>, &Mat<f64>)], goal: Goal, moments: &Mat<f64>, damping: f64) -> Option<Vec<Mat<f64>>> {
    let (site, _) = layers.first()?;
    let width = moments.nrows();
    let products: Vec<f64> = (0..width * width).map(|i| moments[(i / width, i % width)]).collect();
    let second = Second::ordered(&products, site.columns.order.clone(), damping)?;
    Some(layers.par_iter().map(|(site, old)| compensate(old, goal, &site.columns, &second)).collect())
}

/// At most [`TRIED`] rows, evenly spread.
fn some_rows(m: &Mat<f64>) -> Mat<f64> {
    let step = m.nrows().div_ceil(TRIED).max(1);
    Mat::from_fn(m.nrows().div_ceil(step), m.ncols(), |r, c| m[(r * step, c)])
}
