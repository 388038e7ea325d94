//! What a layer reads in one model and is to compute according to another, together.

use faer::Mat;
use planish_ir::Tensor;
use rayon::prelude::*;

use super::{
    Shift, best_ridge,
    cross::{self, Cross, Moments},
    factor::{change, dot, residual, times},
    products, ridge, told_by,
};
use crate::calibration::{CHUNK, Rows};

/// Squared error, as a share of the power, that float32 arithmetic leaves.
const MET: f64 = 1e-10;

/// Second moments of what a layer reads and is to compute, as one row each, of alternating samples; for each group of a convolution.
pub(super) struct Joint {
    rows: Rows,
    width: usize,
    /// Axis of the outputs.
    axis: i64,
    /// Outputs that the compressed layer still has.
    kept: Vec<bool>,
    /// Of the first, third, … and of the second, fourth, … sample; of each the groups.
    halves: [Vec<Cross>; 2],
    /// Outputs of a group.
    outputs: usize,
    /// Samples so far.
    seen: usize,
}

/// What a layer reads of a sample, what it is to compute, and what is taken off that.
pub(super) struct Row<'t> {
    pub(super) input: &'t Tensor,
    pub(super) target: &'t Tensor,
    pub(super) other: Option<&'t Tensor>,
}

/// Bytes of two halves of second moments for each group, of so many inputs and outputs.
pub(super) fn bytes(groups: usize, width: usize, outputs: usize) -> u64 {
    (groups as u64).saturating_mul(2).saturating_mul(cross::bytes(width, outputs))
}

impl Joint {
    /// None if the outputs that are kept do not divide into the groups.
    pub(super) fn new(rows: Rows, width: usize, groups: usize, axis: usize, kept: Vec<bool>) -> Option<Joint> {
        let all = kept.iter().filter(|k| **k).count();
        let outputs = all.checked_div(groups).filter(|n| n * groups == all && *n > 0)?;
        let half = vec![Cross::new(width, outputs); groups];
        let halves = [half.clone(), half];
        Some(Joint { rows, width, axis: i64::try_from(axis).ok()?, kept, halves, outputs, seen: 0 })
    }

    fn groups(&self) -> usize {
        self.halves[0].len()
    }

    pub(super) fn bytes(&self) -> u64 {
        bytes(self.groups(), self.width, self.outputs)
    }

    /// Adds samples, those of each half one after the other.
    pub(super) fn add(&mut self, samples: &[Row<'_>]) -> Result<(), String> {
        let mut halves = std::mem::take(&mut self.halves);
        let added = halves.par_iter_mut().enumerate().try_for_each(|(half, groups)| {
            let first = (self.seen + half) % 2;
            samples.iter().skip(first).step_by(2).try_for_each(|row| self.add_to(groups, row))
        });
        self.halves = halves;
        self.seen += samples.len();
        added
    }

    /// Adds a sample to one half.
    fn add_to(&self, groups: &mut [Cross], row: &Row<'_>) -> Result<(), String> {
        let all = self.outputs * groups.len();
        let mut wanted = Vec::new();
        let size = self.kept.len();
        let rows = Rows::Axis(self.axis);
        rows.each(row.target, size, CHUNK / size.max(1) + 1, |_, rows| {
            for row in rows.chunks(size) {
                wanted.extend(row.iter().zip(&self.kept).filter(|(_, k)| **k).map(|(x, _)| *x));
            }
        })?;
        if let Some(other) = row.other {
            let mut at = 0;
            rows.each(other, all, CHUNK / all.max(1) + 1, |_, rows| {
                for (w, x) in wanted.iter_mut().skip(at).zip(rows.iter()) {
                    *w -= x;
                }
                at += rows.len();
            })?;
        }
        let (mut at, mut targets, mut result) = (vec![0; groups.len()], Vec::new(), Ok(()));
        let (width, outputs) = (self.width, self.outputs);
        self.rows.each(row.input, width, (CHUNK / (width + outputs).max(1)).max(1), |group, rows| {
            let (Some(at), Some(cross)) = (at.get_mut(group), groups.get_mut(group)) else { return };
            targets.clear();
            for row in *at..*at + rows.len() / width {
                let first = row * all + group * outputs;
                targets.extend_from_slice(wanted.get(first..first + outputs).unwrap_or_default());
            }
            *at += rows.len() / width;
            if result.is_ok() {
                result = cross.add(rows, &mut targets);
            }
        })?;
        match at.iter().all(|at| at * all == wanted.len()) {
            true => result,
            false => Err("what a layer reads and what it computes have different numbers of rows".to_owned()),
        }
    }

    /// Weights of the groups with the ridge that generalizes best from one half to the other, in the place of old weights and biases. None if those
    /// compute the targets already, up to rounding, so that a fit would be one to rounding errors; and if there is nothing to fit to.
    pub(super) fn fit(&self, old: &[Mat<f64>], biases: &[f64], centred: bool) -> Option<Vec<Mat<f64>>> {
        let groups: Vec<[&Cross; 2]> = self.both().collect();
        let left = |(halves, old): (&[&Cross; 2], &Mat<f64>)| Left::new(halves, old, 1, centred);
        let left: Vec<Left> = groups.par_iter().zip(old).map(left).collect();
        let is_met = left.iter().all(|l| l.error <= MET * l.power);
        if is_met && (!centred || self.are_level(old, biases)) {
            return None;
        }
        // What they read comes again when it is needed: it is the largest matrix, and others of its size are made meanwhile.
        let residuals: Vec<Mat<f64>> = left.into_iter().map(|l| l.residual).collect();
        let damping = if self.seen > 1 { self.best_ridge(old, centred) } else { 0.1 };
        let fitted = |((halves, old), residual): ((&[&Cross; 2], &Mat<f64>), &Mat<f64>)| {
            let inputs = Cross::inputs_of(halves, centred);
            let lambda = ridge(&inputs, damping);
            Some(old + change(residual, inputs, lambda)?)
        };
        groups.par_iter().zip(old).zip(&residuals).map(fitted).collect()
    }

    /// The ridge with which a fit to one half of the samples loses least on the other.
    fn best_ridge(&self, old: &[Mat<f64>], centred: bool) -> f64 {
        let every = told_by(self.outputs);
        let groups: Vec<[&Cross; 2]> = self.both().collect();
        let left = |(halves, old): (&[&Cross; 2], &Mat<f64>)| -> [Left; 2] {
            halves.map(|half| Left::new(&[half], old, every, centred))
        };
        let both: Vec<[Left; 2]> = groups.par_iter().zip(old).map(left).collect();
        best_ridge(|damping| {
            let on = |fitted: &Left, other: &Left| {
                fitted.change(damping).map_or(f64::INFINITY, |change| other.loss(&change))
            };
            let each = |[a, b]: &[Left; 2]| rayon::join(|| on(a, b), || on(b, a));
            let lost: Vec<(f64, f64)> = both.par_iter().map(each).collect();
            lost.into_iter().map(|(a, b)| a + b).sum()
        })
    }

    /// Second moments of what the groups read.
    pub(super) fn inputs(&self, centred: bool) -> Vec<Mat<f64>> {
        self.both().map(|halves| Cross::inputs_of(&halves, centred)).collect()
    }

    /// Mean of what the first group reads.
    pub(super) fn mean(&self) -> Vec<f64> {
        self.both().next().map(|halves| Cross::means_of(&halves).0).unwrap_or_default()
    }

    /// The biases that make the means agree.
    pub(super) fn biases(&self, weights: &[Mat<f64>]) -> Vec<Shift> {
        let of = |(halves, weights): ([&Cross; 2], &Mat<f64>)| -> Vec<Shift> {
            let (of_inputs, of_outputs) = Cross::means_of(&halves);
            let target = |o: usize| of_outputs.get(o).copied().unwrap_or(0.0);
            let bias =
                |o: usize| Shift::of([target(o)].into_iter().chain(products(weights, o, &of_inputs).map(|p| -p)));
            (0..weights.nrows()).map(bias).collect()
        };
        self.both().zip(weights).flat_map(of).collect()
    }

    /// True if the means agree with such biases, up to rounding.
    fn are_level(&self, weights: &[Mat<f64>], biases: &[f64]) -> bool {
        let bias = |o: usize| biases.get(o).copied().unwrap_or(0.0);
        let is_level = |(o, s): (usize, &Shift)| (s.value - bias(o)).abs() <= MET.sqrt() * s.magnitude;
        self.biases(weights).iter().enumerate().all(is_level)
    }

    /// Both halves of each group.
    fn both(&self) -> impl Iterator<Item = [&Cross; 2]> {
        let [first, second] = &self.halves;
        first.iter().zip(second).map(|(a, b)| [a, b])
    }
}

/// What old weights leave to be fitted on some samples.
struct Left {
    /// Second moments of what is read.
    inputs: Mat<f64>,
    residual: Mat<f64>,
    /// Squared error of the old weights.
    error: f64,
    /// Of what is to be computed.
    power: f64,
}

impl Left {
    /// Of some outputs, so far apart.
    fn new(seen: &[&Cross], old: &Mat<f64>, every: usize, centred: bool) -> Left {
        let Moments { inputs, cross, power } = Cross::moments(seen, every, centred);
        let old = Mat::from_fn(cross.nrows(), old.ncols(), |o, i| old[(o * every, i)]);
        let residual = residual(&old, &inputs, &cross);
        // `|y - Wx|² = |y|² - 2 <W, C> + <W G, W>`, and `W G = C - R`.
        let error = power - dot(&cross, &old) - dot(&residual, &old);
        Left { inputs, residual, error, power }
    }

    /// What least squares with a ridge adds to the weights.
    fn change(&self, damping: f64) -> Option<Mat<f64>> {
        change(&self.residual, self.inputs.clone(), ridge(&self.inputs, damping))
    }

    /// Squared error with such a change, less that without one.
    fn loss(&self, change: &Mat<f64>) -> f64 {
        dot(&times(change.as_ref(), self.inputs.as_ref()), change) - 2.0 * dot(&self.residual, change)
    }
}
