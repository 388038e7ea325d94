//! Moving difficulty between activations and weights: factors per channel, chosen by the error that quantization leaves.
//!
//! `smooth-quant` and `awq` differ in the factors that they propose and in the error that they count; the rest is here. Factors
//! follow from what is measured of the channels of an activation and of the weights that read it, with an exponent α that
//! is searched for each group of weights that read the same values.

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, Tensor};
use rayon::prelude::*;

use super::fold_scales::{Absorber, Component, Scales};
use crate::{
    Changes, Context, PassError, Skip,
    calibration::{Moments, Range, Want},
};

/// A weight that reads an activation, and what is known of both.
pub(super) struct Reader {
    /// Its number among those of the graph.
    absorber: usize,
    /// What was measured of each channel of the activation.
    pub(super) moments: Vec<Moments>,
    /// For each output channel, its weights and the input channels that they belong to.
    pub(super) rows: Vec<Vec<(f32, u32)>>,
}

impl Reader {
    /// One that stands for itself.
    #[cfg(test)]
    pub(super) const fn new(moments: Vec<Moments>, rows: Vec<Vec<(f32, u32)>>) -> Reader {
        Reader { absorber: 0, moments, rows }
    }
}

/// How a pass chooses factors.
pub(super) struct Method<'a> {
    /// Binary logarithm of the factor of a channel, from what was measured of it, its largest weight, and α.
    pub(super) propose: &'a (dyn Fn(&Moments, f64, f64) -> f64 + Sync),
    /// The error of the outputs of a weight, if its input channels are multiplied by these factors and it is divided by them.
    pub(super) error: &'a (dyn Fn(&Reader, &[f64]) -> f64 + Sync),
    /// What is tried for α, besides doing nothing.
    pub(super) alphas: &'a [f64],
    /// The error has to become smaller by this share.
    pub(super) least_gain: f64,
    /// Factors are powers of two.
    pub(super) powers_of_two: bool,
}

/// What was chosen for a component.
struct Choice {
    alpha: f64,
    /// Binary logarithms of the factors, by root.
    exponents: BTreeMap<u32, f64>,
    /// Relative to the error without factors.
    error: f64,
}

/// Largest exponent.
const MOST: f64 = 20.0;

/// Chooses and applies factors in a whole model.
pub(super) fn migrate(model: &Model, cx: &Context<'_>, method: &Method<'_>) -> Result<Changes, PassError> {
    let calibration = cx.calibrated()?;
    let mut changes = Changes::default();
    let mut scales = Scales::of(model, cx.facts.graph());
    for i in 0..scales.absorbers().len() {
        let node = scales.absorbers().get(i).map(|a| a.node);
        if let (Some(node), Some(why)) = (node, scales.obstacle(i)) {
            changes.skipped.push((GraphPath::main(), node, Skip::because(why)));
        }
    }
    let components: Vec<Component> = scales.components().into_iter().filter(|c| !c.readers.is_empty()).collect();
    // Several weights read one value; it is measured once.
    let mut measured: BTreeMap<(String, usize), usize> = BTreeMap::new();
    let mut wants = Vec::new();
    for i in components.iter().flat_map(|c| &c.readers) {
        let Some(a) = scales.absorbers().get(*i) else { continue };
        measured.entry((model.graph.name_of(a.data.value), a.data.axis)).or_insert_with_key(|(name, axis)| {
            wants.push(Want::of(name.clone(), Range::per_channel(*axis as i64)));
            wants.len() - 1
        });
    }
    let ranges = calibration.collect(&[model], wants)?;
    let mut tensors = BTreeMap::new();
    let (mut chosen, mut errors) = (0usize, 0.0f64);
    for c in &components {
        let mut readers = Vec::with_capacity(c.readers.len());
        for &i in &c.readers {
            let Some(a) = scales.absorbers().get(i) else { continue };
            let key = (model.graph.name_of(a.data.value), a.data.axis);
            let moments = measured.get(&key).and_then(|&at| ranges.get(at)).map_or(&[][..], Range::channels);
            if moments.len() == a.data.factors.len() {
                readers.push(Reader { absorber: i, moments: moments.to_vec(), rows: rows(model, a, &tensors)? });
            }
        }
        let Some(choice) = choose(&scales, c, &readers, method) else { continue };
        chosen += 1;
        errors += choice.error.ln();
        let note = format!(
            "{} channels of {}: α {:.2}, error {:.3} of what it was",
            choice.exponents.len(),
            names(model, &scales, c),
            choice.alpha,
            choice.error
        );
        let factor = |root: u32| choice.exponents.get(&root).copied().unwrap_or(0.0).exp2();
        match scales.patch(c, &factor, note, &mut tensors) {
            Ok(patch) => changes.patches.push((GraphPath::main(), patch)),
            Err(why) => {
                let nodes = c.readers.iter().filter_map(|&i| scales.absorbers().get(i)).map(|a| a.node);
                let skipped: Vec<_> = nodes.map(|n| (GraphPath::main(), n, Skip::because(why.clone()))).collect();
                changes.skipped.extend(skipped);
            }
        }
    }
    if chosen > 0 {
        changes.notes.push(format!(
            "factors in {chosen} of {} groups of weights; their errors are {:.3} of what they were, on the geometric mean",
            components.len(),
            (errors / chosen as f64).exp()
        ));
    }
    Ok(changes)
}

/// The best factors for the weights that read a component; `None` if none are better than none.
fn choose(scales: &Scales<'_>, component: &Component, readers: &[Reader], method: &Method<'_>) -> Option<Choice> {
    let ones: Vec<Vec<f64>> = readers.iter().map(|r| vec![1.0; r.moments.len()]).collect();
    // Each weight counts with its error relative to what it was, so that none is drowned by others.
    let base: Vec<f64> = readers.iter().zip(&ones).map(|(r, f)| (method.error)(r, f)).collect();
    let try_alpha = |&alpha: &f64| {
        let exponents = propose(scales, component, readers, method, alpha);
        let mut error = 0.0;
        for (r, base) in readers.iter().zip(&base).filter(|(_, b)| **b > 0.0) {
            let a = scales.absorbers().get(r.absorber)?;
            let exponent = |s: &super::fold_scales::Signed| {
                let e = exponents.get(&s.root).copied().unwrap_or(0.0);
                if s.inverse { -e } else { e }
            };
            let factors: Vec<f64> = a.data.factors.iter().map(|f| f.as_ref().map_or(0.0, exponent).exp2()).collect();
            error += (method.error)(r, &factors) / base;
        }
        let error = error / base.iter().filter(|b| **b > 0.0).count() as f64;
        error.is_finite().then_some(Choice { alpha, exponents, error })
    };
    let tried: Vec<Option<Choice>> = method.alphas.par_iter().map(try_alpha).collect();
    let best = tried.into_iter().flatten().min_by(|a, b| a.error.total_cmp(&b.error))?;
    (best.error < 1.0 - method.least_gain && best.exponents.values().any(|e| *e != 0.0)).then_some(best)
}

/// Exponents for one α, centred so that the largest and the smallest factor are inverse to each other.
fn propose(
    scales: &Scales<'_>,
    component: &Component,
    readers: &[Reader],
    method: &Method<'_>,
    alpha: f64,
) -> BTreeMap<u32, f64> {
    // What is read several times is as difficult as it is for the largest weight.
    let mut largest: BTreeMap<(u32, bool), (Moments, f64)> = BTreeMap::new();
    for r in readers {
        let Some(a) = scales.absorbers().get(r.absorber) else { continue };
        let mut weights = vec![0.0f64; r.moments.len()];
        for &(w, d) in r.rows.iter().flatten() {
            if let Some(slot) = weights.get_mut(d as usize) {
                *slot = slot.max(f64::from(w.abs()));
            }
        }
        for ((factor, m), w) in a.data.factors.iter().zip(&r.moments).zip(weights) {
            if let Some(s) = factor {
                let entry = largest.entry((s.root, s.inverse)).or_insert((*m, w));
                if m.max_abs() > entry.0.max_abs() {
                    entry.0 = *m;
                }
                entry.1 = entry.1.max(w);
            }
        }
    }
    let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for ((root, inverse), (m, w)) in largest {
        let e = (method.propose)(&m, w, alpha);
        if e.is_finite() {
            let sum = sums.entry(root).or_default();
            *sum = (sum.0 + 1.0, sum.1 + if inverse { -e } else { e });
        }
    }
    let mut exponents: BTreeMap<u32, f64> = sums.into_iter().map(|(root, (n, sum))| (root, sum / n)).collect();
    let (low, high) = exponents.values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &e| (l.min(e), h.max(e)));
    let middle = if low <= high { (low + high) / 2.0 } else { 0.0 };
    for e in exponents.values_mut() {
        *e = (*e - middle).clamp(-MOST, MOST);
        if method.powers_of_two {
            *e = e.round();
        }
    }
    exponents.retain(|root, _| component.roots.binary_search(root).is_ok());
    exponents
}

/// The weights by output channel.
fn rows(
    model: &Model,
    a: &Absorber,
    tensors: &BTreeMap<planish_ir::ValueId, Tensor>,
) -> Result<Vec<Vec<(f32, u32)>>, PassError> {
    let tensor = tensors.get(&a.weight).or_else(|| model.graph.constant(a.weight));
    let values = tensor.map_or(Ok(Vec::new()), Tensor::to_f64);
    let values = values.map_err(|source| PassError::Tensor { place: model.graph.name_of(a.weight), source })?;
    let mut rows = vec![Vec::new(); a.result.factors.len()];
    a.visit(values.len(), &mut |flat, d, r| {
        if let (Some(row), Some(w)) = (rows.get_mut(r), values.get(flat)) {
            row.push((*w as f32, d as u32));
        }
    });
    Ok(rows)
}

/// The weights that read a component, for the log.
fn names(model: &Model, scales: &Scales<'_>, c: &Component) -> String {
    let weights = c.readers.iter().filter_map(|&i| scales.absorbers().get(i)).map(|a| a.weight);
    weights.map(|w| format!("{:?}", model.graph.name_of(w))).collect::<Vec<_>>().join(", ")
}
