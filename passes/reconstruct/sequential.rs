//! Refitting layer by layer: what each layer reads in the compressed model, to what it computed in the original one.
//!
//! The one fit of all layers takes what a layer reads as it was before. Here a layer makes up for the errors of those before it too,
//! and, where its result is added to another value, for the errors of that value (He, Zhang, Sun: Channel pruning for accelerating very
//! deep neural networks, ICCV 2017). One layer after the other is fitted, so that each sees what the earlier ones have become.

use faer::{Mat, Side, linalg::solvers::Solve};
use planish_ir::{GraphPath, Model, NodeId, Numerics, Patch, Tensor, ValueId, infer::Inferred};

use super::{Halves, Masks, ridge};
use crate::{
    Bias, Calibration, Linear, PassError,
    calibration::{CHUNK, Rows, Statistic, Want},
};

/// Ridges that are tried, as a share of the mean of the diagonal.
const DAMPINGS: [f64; 6] = [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0];

/// A compressed model, and the one that it was made of.
pub(crate) struct Sequence<'a> {
    pub(crate) original: &'a Model,
    pub(crate) facts: &'a Inferred,
    pub(crate) masks: &'a Masks,
    pub(crate) calibration: &'a Calibration<'a>,
    /// How many layers behind a change are fitted.
    pub(crate) reach: usize,
}

/// What a layer is to compute, and of what.
struct Target {
    /// Value of the original model.
    value: ValueId,
    /// Value of the compressed model that is taken off it.
    other: Option<ValueId>,
    /// Axis of the outputs.
    axis: usize,
}

impl Sequence<'_> {
    /// Fits every layer of the compressed model whose input has changed, and returns the patches that did, in their order.
    pub(crate) fn refit(&self, compressed: &mut Model) -> Result<Vec<Patch>, PassError> {
        let mut patches = Vec::new();
        let mut left = 0;
        for node in compressed.graph.topological_order().unwrap_or_default() {
            if self.reads_others(compressed, node) {
                left = self.reach;
            }
            let Some(linear) = Linear::of(&compressed.graph, node).filter(|l| l.groups() == 1) else { continue };
            if self.is_cut(linear.input) || self.is_cut(linear.weight) {
                left = self.reach;
            }
            // In front of the first change nothing is different.
            if left == 0 || compressed.graph.only_user(linear.weight).is_none() {
                continue;
            }
            left -= 1;
            if let Some(patch) = self.layer(compressed, &linear)? {
                compressed
                    .apply(&GraphPath::main(), patch.clone())
                    .map_err(|e| PassError::Precondition(e.to_string()))?;
                patches.push(patch);
            }
        }
        Ok(patches)
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
    fn target(&self, compressed: &Model, linear: &Linear) -> Option<Target> {
        let graph = &compressed.graph;
        let mut value = graph.node(linear.node)?.output(0)?;
        let is_matmul = graph.node(linear.node).is_some_and(|n| n.op.is("MatMul"));
        if let (true, Bias::Constant(_)) = (is_matmul, linear.bias) {
            value = graph.only_user(value)?.1.output(0)?;
        }
        let rank = self.facts.shape(value)?.len();
        let axis = match linear.rows {
            Rows::Axis(_) if linear.channel_axis == -1 => rank.checked_sub(1)?,
            // The rows of a transposed matrix are the outputs' rows.
            Rows::Axis(-2) if is_gemm(compressed, linear.node) => rank.checked_sub(1)?,
            _ => 1,
        };
        let sum = graph.only_user(value).filter(|(_, n, _)| n.op.is("Add"));
        let other =
            sum.and_then(|(_, n, _)| Some((n.output(0)?, n.inputs().iter().flatten().copied().find(|&v| v != value)?)));
        let same_shape = |v: ValueId| self.facts.shape(v).is_some_and(|s| Some(s) == self.facts.shape(value));
        match other.filter(|(_, o)| graph.constant(*o).is_none() && same_shape(*o)) {
            Some((sum, other)) => Some(Target { value: sum, other: Some(other), axis }),
            None => Some(Target { value, other: None, axis }),
        }
    }

    fn layer(&self, compressed: &Model, linear: &Linear) -> Result<Option<Patch>, PassError> {
        let graph = &compressed.graph;
        let (Some(target), Some(weight)) = (self.target(compressed, linear), graph.constant(linear.weight)) else {
            return Ok(None);
        };
        let error = |source| PassError::Tensor { place: graph.name_of(linear.weight), source };
        let mut matrices = linear.matrices(weight).map_err(error)?;
        let old = matrices.swap_remove(0);
        let outputs = self.masks.get(&GraphPath::main()).and_then(|m| m.get(&target.value)?.get(&target.axis));
        let statistic = Joint {
            rows: linear.rows.clone(),
            width: old.ncols(),
            axis: target.axis as i64,
            kept: outputs.cloned().unwrap_or_else(|| vec![true; old.nrows()]),
            halves: Halves::new(Rows::Axis(-1), old.ncols() + old.nrows()),
        };
        let mut reads = vec![(1, graph.name_of(linear.input)), (0, self.original.graph.name_of(target.value))];
        reads.extend(target.other.map(|o| (1, graph.name_of(o))));
        let wants = vec![Want { reads, statistic }];
        let Some(joint) = self.calibration.collect(&[self.original, compressed], wants)?.pop() else { return Ok(None) };
        let centred = linear.bias != Bias::None;
        let Some(new) = joint.fit(&old, centred) else { return Ok(None) };
        let mut patch = Patch::new(Numerics::Lossy, format!("{:?} refitted", graph.name_of(linear.weight)));
        patch.set_tensor(linear.weight, linear.tensor(std::slice::from_ref(&new), weight).map_err(error)?);
        let bias = joint.bias(&new);
        match linear.bias {
            Bias::Constant(v) => {
                if let Some(b) = graph.constant(v) {
                    patch.set_tensor(v, Tensor::from_f64_as(b.dtype(), b.dims(), &bias).map_err(error)?);
                }
            }
            Bias::Absent(slot) => {
                let tensor =
                    Tensor::from_f64_as(weight.dtype(), [bias.len() as u64].as_slice(), &bias).map_err(error)?;
                let constant = patch.constant(format!("{}_bias", graph.name_of(linear.weight)), tensor);
                patch.set_input(linear.node, slot, Some(constant));
            }
            Bias::None => {}
        }
        Ok(Some(patch))
    }
}

fn is_gemm(model: &Model, node: NodeId) -> bool {
    model.graph.node(node).is_some_and(|n| n.op.is("Gemm"))
}

/// Second moments of what a layer reads and is to compute, as one row each, of alternating samples.
struct Joint {
    rows: Rows,
    width: usize,
    axis: i64,
    /// Outputs that the compressed layer still has.
    kept: Vec<bool>,
    halves: Halves,
}

impl Statistic for Joint {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let (&[input, target], rest) = tensors.split_first_chunk::<2>().ok_or("a value is missing")?;
        let outputs = self.kept.iter().filter(|k| **k).count();
        let mut wanted = Vec::new();
        let all = self.kept.len();
        let rows = Rows::Axis(self.axis);
        rows.each(target, all, CHUNK / all.max(1) + 1, |_, rows| {
            for row in rows.chunks(all) {
                wanted.extend(row.iter().zip(&self.kept).filter(|(_, k)| **k).map(|(x, _)| *x));
            }
        })?;
        if let Some(other) = rest.first() {
            let mut at = 0;
            rows.each(other, outputs, CHUNK / outputs.max(1) + 1, |_, rows| {
                for (w, x) in wanted.iter_mut().skip(at).zip(rows.iter()) {
                    *w -= x;
                }
                at += rows.len();
            })?;
        }
        let (mut at, mut joint, mut result) = (0, Vec::new(), Ok(()));
        let halves = &mut self.halves;
        self.rows.each(input, self.width, (CHUNK / (self.width + outputs).max(1)).max(1), |_, rows| {
            joint.clear();
            for row in rows.chunks(self.width) {
                joint.extend_from_slice(row);
                joint.extend_from_slice(wanted.get(at..at + outputs).unwrap_or_default());
                at += outputs;
            }
            if result.is_ok() {
                result = halves.add_rows(&mut joint);
            }
        })?;
        halves.next();
        match at == wanted.len() {
            true => result,
            false => Err("what a layer reads and what it computes have different numbers of rows".to_owned()),
        }
    }

    fn bytes(&self) -> u64 {
        self.halves.bytes()
    }
}

/// Mean products of inputs with themselves and with the targets.
struct Moments {
    inputs: Mat<f64>,
    /// `outputs x inputs`.
    cross: Mat<f64>,
}

impl Joint {
    /// Takes the second moments of inputs and targets together apart.
    fn moments(&self, joint: &Mat<f64>) -> Moments {
        let width = self.width;
        let outputs = joint.nrows().saturating_sub(width);
        Moments {
            inputs: Mat::from_fn(width, width, |i, j| joint[(i, j)]),
            cross: Mat::from_fn(outputs, width, |o, i| joint[(width + o, i)]),
        }
    }

    /// Weights with the ridge that generalizes best from one half to the other. None if there is nothing to fit to.
    fn fit(&self, old: &Mat<f64>, centred: bool) -> Option<Mat<f64>> {
        let damping = match self.halves.are_two() {
            true => {
                let [a, b] = self.halves.both(centred).map(|h| self.moments(&h));
                let lost = |damping: f64| {
                    let on = |fitted: &Moments, other: &Moments| {
                        fitted.solve(old, damping).map_or(f64::INFINITY, |w| other.loss(&w))
                    };
                    on(&a, &b) + on(&b, &a)
                };
                let tried = DAMPINGS.map(|d| (lost(d), d));
                tried.into_iter().min_by(|x, y| x.0.total_cmp(&y.0))?.1
            }
            false => 0.1,
        };
        self.moments(&self.halves.matrix(true, centred)).solve(old, damping)
    }

    /// The bias that makes the means agree.
    fn bias(&self, weights: &Mat<f64>) -> Vec<f64> {
        let mean = self.halves.mean(true);
        let at = |i: usize| mean.get(i).copied().unwrap_or(0.0);
        let made = |o: usize| (0..weights.ncols()).map(|i| weights[(o, i)] * at(i)).sum::<f64>();
        (0..weights.nrows()).map(|o| at(self.width + o) - made(o)).collect()
    }
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

    /// Squared error, up to a constant.
    fn loss(&self, weights: &Mat<f64>) -> f64 {
        let fitted = weights * &self.inputs;
        let sum = |a: &Mat<f64>, b: &Mat<f64>| -> f64 {
            (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
        };
        sum(&fitted, weights) - 2.0 * sum(&self.cross, weights)
    }
}
