//! What a layer reads in one model and is to compute according to another, together.

use faer::{Mat, Side, linalg::solvers::Solve};
use planish_ir::Tensor;

use super::{Halves, Shift, products, ridge};
use crate::calibration::{CHUNK, Rows};

/// Ridges that are tried, as a share of the mean of the diagonal.
const DAMPINGS: [f64; 6] = [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0];

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
    groups: Vec<Halves>,
    /// Outputs of a group.
    outputs: usize,
}

/// Bytes of two halves of second moments for each group, of so many inputs and outputs.
pub(super) fn bytes(groups: usize, side: usize) -> u64 {
    let square = (side as u64).saturating_mul(side as u64);
    (groups as u64).saturating_mul(square).saturating_mul(2 * 8)
}

impl Joint {
    /// None if the outputs that are kept do not divide into the groups.
    pub(super) fn new(rows: Rows, width: usize, groups: usize, axis: usize, kept: Vec<bool>) -> Option<Joint> {
        let all = kept.iter().filter(|k| **k).count();
        let outputs = all.checked_div(groups).filter(|n| n * groups == all && *n > 0)?;
        let groups = vec![Halves::new(Rows::Axis(-1), width + outputs); groups];
        Some(Joint { rows, width, axis: i64::try_from(axis).ok()?, kept, groups, outputs })
    }

    pub(super) fn bytes(&self) -> u64 {
        bytes(self.groups.len(), self.width + self.outputs)
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
        let (mut at, mut joint, mut result) = (vec![0; self.groups.len()], Vec::new(), Ok(()));
        let (width, outputs, groups) = (self.width, self.outputs, &mut self.groups);
        self.rows.each(input, width, (CHUNK / (width + outputs).max(1)).max(1), |group, rows| {
            let (Some(at), Some(halves)) = (at.get_mut(group), groups.get_mut(group)) else { return };
            joint.clear();
            for row in rows.chunks(width) {
                joint.extend_from_slice(row);
                let first = *at * all + group * outputs;
                joint.extend_from_slice(wanted.get(first..first + outputs).unwrap_or_default());
                *at += 1;
            }
            if result.is_ok() {
                result = halves.add_rows(&mut joint);
            }
        })?;
        groups.iter_mut().for_each(Halves::next);
        match at.iter().all(|at| at * all == wanted.len()) {
            true => result,
            false => Err("what a layer reads and what it computes have different numbers of rows".to_owned()),
        }
    }

    /// Weights of the groups with the ridge that generalizes best from one half to the other. None if there is nothing to fit to.
    pub(super) fn fit(&self, old: &[Mat<f64>], centred: bool) -> Option<Vec<Mat<f64>>> {
        let both: Vec<[Moments; 2]> = self.groups.iter().map(|h| h.both(centred).map(|h| self.moments(&h))).collect();
        let lost = |damping: f64| -> f64 {
            let of = |([a, b], old): (&[Moments; 2], &Mat<f64>)| {
                let on = |fitted: &Moments, other: &Moments| {
                    let lost = fitted.solve(old, damping).map_or(f64::INFINITY, |w| other.loss(&w));
                    if lost.is_nan() { f64::INFINITY } else { lost }
                };
                on(a, b) + on(b, a)
            };
            both.iter().zip(old).map(of).sum()
        };
        let damping = match self.groups.iter().all(Halves::are_two) {
            true => DAMPINGS.map(|d| (lost(d), d)).into_iter().min_by(|x, y| x.0.total_cmp(&y.0))?.1,
            false => 0.1,
        };
        let fit = |(h, old): (&Halves, &Mat<f64>)| self.moments(&h.matrix(true, centred)).solve(old, damping);
        self.groups.iter().zip(old).map(fit).collect()
    }

    /// Second moments of what the groups read.
    pub(super) fn inputs(&self, centred: bool) -> Vec<Mat<f64>> {
        self.groups.iter().map(|h| self.moments(&h.matrix(true, centred)).inputs).collect()
    }

    /// Mean of what the first group reads.
    pub(super) fn mean(&self) -> Vec<f64> {
        let mut mean = self.groups.first().map(|h| h.mean(true)).unwrap_or_default();
        mean.truncate(self.width);
        mean
    }

    /// The biases that make the means agree.
    pub(super) fn biases(&self, weights: &[Mat<f64>]) -> Vec<Shift> {
        let of = |(halves, weights): (&Halves, &Mat<f64>)| -> Vec<Shift> {
            let mean = halves.mean(true);
            let (of_inputs, of_outputs) = mean.split_at(self.width.min(mean.len()));
            let target = |o: usize| of_outputs.get(o).copied().unwrap_or(0.0);
            let bias = |o: usize| Shift::of([target(o)].into_iter().chain(products(weights, o, of_inputs).map(|p| -p)));
            (0..weights.nrows()).map(bias).collect()
        };
        self.groups.iter().zip(weights).flat_map(of).collect()
    }

    /// True if weights with such biases compute the targets up to rounding, so that a fit would be one to rounding errors.
    pub(super) fn is_met(&self, weights: &[Mat<f64>], biases: &[f64], centred: bool) -> bool {
        let shifts = self.biases(weights);
        let bias = |o: usize| biases.get(o).copied().unwrap_or(0.0);
        let is_level = |(o, s): (usize, &Shift)| (s.value - bias(o)).abs() <= MET.sqrt() * s.magnitude;
        let is_near = |(halves, weights): (&Halves, &Mat<f64>)| {
            let moments = self.moments(&halves.matrix(true, centred));
            moments.power + moments.loss(weights) <= MET * moments.power
        };
        (!centred || shifts.iter().enumerate().all(is_level)) && self.groups.iter().zip(weights).all(is_near)
    }

    /// Takes the second moments of inputs and targets together apart.
    fn moments(&self, joint: &Mat<f64>) -> Moments {
        let width = self.width;
        let outputs = joint.nrows().saturating_sub(width);
        Moments {
            inputs: Mat::from_fn(width, width, |i, j| joint[(i, j)]),
            cross: Mat::from_fn(outputs, width, |o, i| joint[(width + o, i)]),
            power: (0..outputs).map(|o| joint[(width + o, width + o)]).sum(),
        }
    }
}

/// Mean products of inputs with themselves and with the targets.
struct Moments {
    inputs: Mat<f64>,
    /// `outputs x inputs`.
    cross: Mat<f64>,
    /// Of the targets.
    power: f64,
}

impl Moments {
    /// Least squares with a ridge toward the old weights: `W + (C - W G) (G + λI)⁻¹`.
    fn solve(&self, old: &Mat<f64>, damping: f64) -> Option<Mat<f64>> {
        let n = self.inputs.nrows();
        let lambda = ridge(&self.inputs, damping);
        let damped = Mat::from_fn(n, n, |i, j| self.inputs[(i, j)] + if i == j { lambda } else { 0.0 });
        let residual = &self.cross - old * &self.inputs;
        let change = damped.llt(Side::Lower).ok()?.solve(residual.transpose());
        Some(old + change.transpose())
    }

    /// Squared error, less the power of the targets.
    fn loss(&self, weights: &Mat<f64>) -> f64 {
        let fitted = weights * &self.inputs;
        let sum = |a: &Mat<f64>, b: &Mat<f64>| -> f64 {
            (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
        };
        sum(&fitted, weights) - 2.0 * sum(&self.cross, weights)
    }
}
