//! Turning heads into other bases, which keeps what the model computes.

use std::collections::{BTreeMap, btree_map::Entry};

use faer::Mat;
use planish_ir::{Graph, GraphPath, Model, Numerics, Patch, Tensor, TensorError, ValueId};
use rayon::prelude::*;

use super::{
    basis::{Basis, query_key, value_output},
    find::Unit,
    product::{Kind, Product, Side},
};
use crate::{
    Bias, Calibration, Linear, PassError,
    calibration::{Rows, Want},
    reconstruct::{Fold, Halves, KEPT},
};

/// Relative squared error that float32 arithmetic may leave of a change of basis.
pub(crate) const ROUNDING: f64 = 1e-6;

/// The bases of a unit: for each product those of its heads.
pub(crate) type Bases = Vec<Vec<Basis>>;

/// A model whose heads are turned, and what is known of what their layers read.
pub(crate) struct Turning<'a> {
    model: &'a Model,
    units: &'a [Unit],
    moments: BTreeMap<ValueId, Halves>,
}

impl<'a> Turning<'a> {
    /// Runs the model on all samples.
    pub(crate) fn new(
        model: &'a Model,
        calibration: &Calibration<'_>,
        units: &'a [Unit],
    ) -> Result<Turning<'a>, PassError> {
        let sides = units.iter().flat_map(|u| &u.products).flat_map(|p| &p.sides);
        let mut widths: BTreeMap<ValueId, usize> = BTreeMap::new();
        for side in sides {
            let width = model.graph.constant(side.linear.weight).and_then(|w| side.linear.width(w)).unwrap_or(0);
            widths.insert(side.linear.input, width);
        }
        let want =
            |(v, width): (&ValueId, &usize)| Want::of(model.graph.name_of(*v), Halves::new(Rows::Axis(-1), *width));
        let halves = calibration.collect_for_search(model, widths.iter().map(want).collect(), KEPT)?;
        let moments = widths.into_keys().zip(halves).collect();
        Ok(Turning { model, units, moments })
    }

    /// The bases of all units, from what was seen of some samples.
    pub(crate) fn bases(&self, fold: Fold) -> Result<Vec<Option<Bases>>, PassError> {
        let unit = |u: &Unit| u.products.iter().map(|p| self.product(p, fold)).collect::<Result<Option<Bases>, _>>();
        let error = |source| PassError::Tensor { place: "a head".to_owned(), source };
        self.units.par_iter().map(unit).collect::<Result<_, _>>().map_err(error)
    }

    fn product(&self, product: &Product, fold: Fold) -> Result<Option<Vec<Basis>>, TensorError> {
        let [first, second] = &product.sides;
        let (Some(a), Some(b)) = (self.layer(first, fold)?, self.layer(second, fold)?) else { return Ok(None) };
        let pairs = first.heads.iter().zip(&second.heads);
        let basis = |(x, y): (&Vec<usize>, &Vec<usize>)| match product.kind {
            Kind::QueryKey { softmax } => query_key(&a.made(x, false), &b.made(y, softmax)),
            Kind::ValueOutput => {
                let columns = Mat::from_fn(b.weights.nrows(), y.len(), |o, j| b.weights[(o, y[j])]);
                let mean = |i: usize| if second.linear.bias == Bias::None { b.mean[i] } else { 0.0 };
                let moments = |i: usize, j: usize| b.covariance[(y[i], y[j])] + mean(y[i]) * mean(y[j]);
                value_output(&columns, &Mat::from_fn(y.len(), y.len(), moments))
            }
        };
        Ok(pairs.map(basis).collect())
    }

    fn layer(&self, side: &Side, fold: Fold) -> Result<Option<Layer>, TensorError> {
        let graph = &self.model.graph;
        let (Some(weight), Some(halves)) = (graph.constant(side.linear.weight), self.moments.get(&side.linear.input))
        else {
            return Ok(None);
        };
        let weights = side.linear.matrices(weight)?.swap_remove(0);
        let bias = bias(graph, &side.linear, weights.nrows())?;
        Ok(Some(Layer { weights, bias, covariance: halves.matrix(fold, true), mean: halves.mean(fold) }))
    }

    /// The weights and biases of some units, in their new bases.
    pub(crate) fn constants(
        &self,
        bases: &[Option<Bases>],
        is_turned: impl Fn(&Unit) -> bool,
    ) -> Result<BTreeMap<ValueId, Tensor>, PassError> {
        let graph = &self.model.graph;
        let mut weights: BTreeMap<ValueId, (Linear, Mat<f64>)> = BTreeMap::new();
        let mut biases: BTreeMap<ValueId, Vec<f64>> = BTreeMap::new();
        let tensor = |v: ValueId| move |source| PassError::Tensor { place: graph.name_of(v), source };
        for (unit, bases) in self.units.iter().zip(bases) {
            let Some(bases) = bases.as_ref().filter(|_| is_turned(unit)) else { continue };
            for (product, heads) in unit.products.iter().zip(bases) {
                for (at, side) in product.sides.iter().enumerate() {
                    let (linear, v) = (&side.linear, side.linear.weight);
                    let Some(old) = graph.constant(v) else { continue };
                    if let Entry::Vacant(e) = weights.entry(v) {
                        let matrix = linear.matrices(old).map_err(tensor(v))?.swap_remove(0);
                        e.insert((linear.clone(), matrix));
                    }
                    let Some((_, matrix)) = weights.get_mut(&v) else { continue };
                    let is_reader = at == 1 && product.kind == Kind::ValueOutput;
                    let transform = |b: &'_ Basis| if at == 0 { b.first.clone() } else { b.second.clone() };
                    let mut bias = None;
                    if let (Bias::Constant(b), false) = (linear.bias, is_reader) {
                        if let Entry::Vacant(e) = biases.entry(b) {
                            e.insert(self::bias(graph, linear, matrix.nrows()).map_err(tensor(b))?);
                        }
                        bias = biases.get_mut(&b);
                    }
                    for (places, basis) in side.heads.iter().zip(heads) {
                        let by = transform(basis);
                        match is_reader {
                            true => mix_columns(matrix, places, &by),
                            false => mix_rows(matrix, places, &by),
                        }
                        if let Some(bias) = bias.as_deref_mut() {
                            mix(bias, places, &by);
                        }
                    }
                }
            }
        }
        let mut constants = BTreeMap::new();
        for (v, (linear, matrix)) in weights {
            let Some(old) = graph.constant(v) else { continue };
            constants.insert(v, linear.tensor(&[matrix], old).map_err(tensor(v))?);
        }
        for (v, values) in biases {
            let Some(old) = graph.constant(v) else { continue };
            constants.insert(v, Tensor::from_f64_as(old.dtype(), old.dims(), &values).map_err(tensor(v))?);
        }
        Ok(constants)
    }

    /// The model with other constants.
    pub(crate) fn with(&self, constants: &BTreeMap<ValueId, Tensor>) -> Result<Model, PassError> {
        let mut patch = Patch::new(Numerics::Lossy, "other bases");
        constants.iter().for_each(|(v, t)| patch.set_tensor(*v, t.clone()));
        let mut turned = self.model.clone();
        turned.apply(&GraphPath::main(), patch).map_err(|e| PassError::Precondition(e.to_string()))?;
        Ok(turned)
    }
}

/// A layer, and what is known of what it reads.
struct Layer {
    weights: Mat<f64>,
    bias: Vec<f64>,
    covariance: Mat<f64>,
    mean: Vec<f64>,
}

impl Layer {
    /// Second moments of some outputs, about their mean or not.
    fn made(&self, rows: &[usize], centred: bool) -> Mat<f64> {
        let w = Mat::from_fn(rows.len(), self.weights.ncols(), |i, j| self.weights[(rows[i], j)]);
        let moments = &w * (&self.covariance * w.transpose());
        if centred {
            return moments;
        }
        let mean = |i: usize| {
            let product: f64 = self.mean.iter().enumerate().map(|(j, m)| w[(i, j)] * m).sum();
            product + self.bias.get(rows[i]).copied().unwrap_or(0.0)
        };
        let means: Vec<f64> = (0..rows.len()).map(mean).collect();
        Mat::from_fn(rows.len(), rows.len(), |i, j| moments[(i, j)] + means[i] * means[j])
    }
}

/// Share of what counts that is lost if each head keeps so many channels, in the product that loses most.
pub(crate) fn lost(bases: &Bases, kept: usize) -> f64 {
    let share = |heads: &Vec<Basis>| {
        let sum = |from: usize| heads.iter().flat_map(|b| b.squares.iter().skip(from)).sum::<f64>();
        let whole = sum(0);
        if whole > 0.0 { sum(kept) / whole } else { 0.0 }
    };
    bases.iter().map(share).fold(0.0, f64::max)
}

fn bias(graph: &Graph, linear: &Linear, outputs: usize) -> Result<Vec<f64>, TensorError> {
    match linear.bias {
        Bias::Constant(b) => graph.constant(b).map_or_else(|| Ok(vec![0.0; outputs]), Tensor::to_f64),
        Bias::Absent(_) | Bias::None => Ok(vec![0.0; outputs]),
    }
}

/// Multiplies some rows by a matrix.
fn mix_rows(matrix: &mut Mat<f64>, rows: &[usize], by: &Mat<f64>) {
    let old = Mat::from_fn(rows.len(), matrix.ncols(), |i, j| matrix[(rows[i], j)]);
    let new = by * old;
    for (i, &row) in rows.iter().enumerate() {
        for j in 0..matrix.ncols() {
            matrix[(row, j)] = new[(i, j)];
        }
    }
}

/// Multiplies some columns by a matrix.
fn mix_columns(matrix: &mut Mat<f64>, columns: &[usize], by: &Mat<f64>) {
    let old = Mat::from_fn(matrix.nrows(), columns.len(), |i, j| matrix[(i, columns[j])]);
    let new = old * by;
    for (j, &column) in columns.iter().enumerate() {
        for i in 0..matrix.nrows() {
            matrix[(i, column)] = new[(i, j)];
        }
    }
}

/// Multiplies some elements by a matrix.
fn mix(values: &mut [f64], places: &[usize], by: &Mat<f64>) {
    let old: Vec<f64> = places.iter().map(|&p| values.get(p).copied().unwrap_or(0.0)).collect();
    for (i, &place) in places.iter().enumerate() {
        if let Some(value) = values.get_mut(place) {
            *value = old.iter().enumerate().map(|(j, x)| by[(i, j)] * x).sum();
        }
    }
}
