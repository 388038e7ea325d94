//! What a layer reads in one model and is to compute according to another, together.

use faer::Mat;
use planish_ir::Tensor;
use rayon::prelude::*;

use super::{
    Shift, best_ridge,
    cross::{self, Cross, Moments},
    factor::{change, dot, residual, toward},
    products, ridge,
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
    /// Of the first, third, … and of the second, fourth, … sample.
    groups: Vec<[Cross; 2]>,
    /// Outputs of a group.
    outputs: usize,
    /// Samples so far.
    seen: usize,
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
        let groups = vec![[Cross::new(width, outputs), Cross::new(width, outputs)]; groups];
        Some(Joint { rows, width, axis: i64::try_from(axis).ok()?, kept, groups, outputs, seen: 0 })
    }

    pub(super) fn bytes(&self) -> u64 {
        bytes(self.groups.len(), self.width, self.outputs)
    }

    /// Adds a sample: what the layer reads, what it is to compute, and what is taken off that.
    pub(super) fn add(&mut self, input: &Tensor, target: &Tensor, other: Option<&Tensor>) -> Result<(), String> {
        let all = self.outputs * self.groups.len();
        let mut wanted = Vec::new();
        let size = self.kept.len();
        let rows = Rows::Axis(self.axis);
        rows.each(target, size, CHUNK / size.max(1) + 1, |_, rows| {
            for row in rows.chunks(size) {
                wanted.extend(row.iter().zip(&self.kept).filter(|(_, k)| **k).map(|(x, _)| *x));
            }
        })?;
        if let Some(other) = other {
            let mut at = 0;
            rows.each(other, all, CHUNK / all.max(1) + 1, |_, rows| {
                for (w, x) in wanted.iter_mut().skip(at).zip(rows.iter()) {
                    *w -= x;
                }
                at += rows.len();
            })?;
        }
        let (mut at, mut targets, mut result) = (vec![0; self.groups.len()], Vec::new(), Ok(()));
        let (width, outputs, half, groups) = (self.width, self.outputs, self.seen % 2, &mut self.groups);
        self.rows.each(input, width, (CHUNK / (width + outputs).max(1)).max(1), |group, rows| {
            let half = groups.get_mut(group).and_then(|halves| halves.get_mut(half));
            let (Some(at), Some(half)) = (at.get_mut(group), half) else { return };
            targets.clear();
            for row in *at..*at + rows.len() / width {
                let first = row * all + group * outputs;
                targets.extend_from_slice(wanted.get(first..first + outputs).unwrap_or_default());
            }
            *at += rows.len() / width;
            if result.is_ok() {
                result = half.add(rows, &mut targets);
            }
        })?;
        self.seen += 1;
        match at.iter().all(|at| at * all == wanted.len()) {
            true => result,
            false => Err("what a layer reads and what it computes have different numbers of rows".to_owned()),
        }
    }

    /// Weights of the groups with the ridge that generalizes best from one half to the other. None if there is nothing to fit to.
    pub(super) fn fit(&self, old: &[Mat<f64>], centred: bool) -> Option<Vec<Mat<f64>>> {
        let damping = match self.seen > 1 {
            true => {
                let open = |(halves, old): (&[Cross; 2], &Mat<f64>)| -> [Open; 2] {
                    halves.each_ref().map(|half| Open::new(Cross::moments(&[half], centred), old))
                };
                let both: Vec<[Open; 2]> = self.groups.par_iter().zip(old).map(open).collect();
                best_ridge(|damping| {
                    let on = |fitted: &Open, other: &Open| {
                        fitted.change(damping).map_or(f64::INFINITY, |change| other.loss(&change))
                    };
                    let each = |[a, b]: &[Open; 2]| rayon::join(|| on(a, b), || on(b, a));
                    let lost: Vec<(f64, f64)> = both.par_iter().map(each).collect();
                    lost.into_iter().map(|(a, b)| a + b).sum()
                })
            }
            false => 0.1,
        };
        self.groups.iter().zip(old).map(|(halves, old)| all(halves, centred).solve(old, damping)).collect()
    }

    /// Second moments of what the groups read.
    pub(super) fn inputs(&self, centred: bool) -> Vec<Mat<f64>> {
        self.groups.iter().map(|halves| all(halves, centred).inputs).collect()
    }

    /// Mean of what the first group reads.
    pub(super) fn mean(&self) -> Vec<f64> {
        self.groups.first().map(|[a, b]| Cross::means_of(&[a, b]).0).unwrap_or_default()
    }

    /// The biases that make the means agree.
    pub(super) fn biases(&self, weights: &[Mat<f64>]) -> Vec<Shift> {
        let of = |([a, b], weights): (&[Cross; 2], &Mat<f64>)| -> Vec<Shift> {
            let (of_inputs, of_outputs) = Cross::means_of(&[a, b]);
            let target = |o: usize| of_outputs.get(o).copied().unwrap_or(0.0);
            let bias =
                |o: usize| Shift::of([target(o)].into_iter().chain(products(weights, o, &of_inputs).map(|p| -p)));
            (0..weights.nrows()).map(bias).collect()
        };
        self.groups.iter().zip(weights).flat_map(of).collect()
    }

    /// True if weights with such biases compute the targets up to rounding, so that a fit would be one to rounding errors.
    pub(super) fn is_met(&self, weights: &[Mat<f64>], biases: &[f64], centred: bool) -> bool {
        let shifts = self.biases(weights);
        let bias = |o: usize| biases.get(o).copied().unwrap_or(0.0);
        let is_level = |(o, s): (usize, &Shift)| (s.value - bias(o)).abs() <= MET.sqrt() * s.magnitude;
        let is_near = |(halves, weights): (&[Cross; 2], &Mat<f64>)| {
            let moments = all(halves, centred);
            moments.power + moments.loss(weights) <= MET * moments.power
        };
        (!centred || shifts.iter().enumerate().all(is_level)) && self.groups.iter().zip(weights).all(is_near)
    }
}

/// Moments over all samples.
fn all([a, b]: &[Cross; 2], centred: bool) -> Moments {
    Cross::moments(&[a, b], centred)
}

/// Moments of one half of the samples, and weights that are to fit to it.
struct Open {
    inputs: Mat<f64>,
    residual: Mat<f64>,
}

impl Open {
    fn new(moments: Moments, old: &Mat<f64>) -> Open {
        let residual = residual(old, &moments.inputs, &moments.cross);
        Open { inputs: moments.inputs, residual }
    }

    /// What least squares with a ridge adds to the weights.
    fn change(&self, damping: f64) -> Option<Mat<f64>> {
        change(&self.residual, self.inputs.clone(), ridge(&self.inputs, damping))
    }

    /// Squared error with such a change, less that without one.
    fn loss(&self, change: &Mat<f64>) -> f64 {
        dot(&(change * &self.inputs), change) - 2.0 * dot(&self.residual, change)
    }
}

impl Moments {
    /// Least squares with a ridge toward the old weights.
    fn solve(&self, old: &Mat<f64>, damping: f64) -> Option<Mat<f64>> {
        toward(old, &self.inputs, &self.cross, ridge(&self.inputs, damping))
    }

    /// Squared error, less the power of the targets.
    fn loss(&self, weights: &Mat<f64>) -> f64 {
        dot(&(weights * &self.inputs), weights) - 2.0 * dot(&self.cross, weights)
    }
}
