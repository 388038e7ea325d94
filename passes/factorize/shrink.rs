//! Making heads smaller: their bases, how many channels stay, the cut, and what makes up for it.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use faer::Mat;
use planish_ir::{Graph, GraphPath, Model, Numerics, Patch, Tensor, TensorError, ValueId, axes::Classes};
use rayon::prelude::*;

use super::{
    allocate::{Ladder, Step, allocate, uniform},
    attention::LowRankAttention,
    heads::{Kind, Product, Side},
    rank::{Allocation, Budget, Own, Rule},
    rotate::{Basis, query_key, value_output},
};
use crate::{
    Bias, Calibration, Changes, Context, Linear, PassError, Samples,
    calibration::{Rows, Selected, Want},
    prune::{Refit, cut, masks},
    reconstruct::{Halves, Held, Sequence},
};

/// Channels of heads that go together.
pub(super) struct Unit {
    pub(super) class: usize,
    pub(super) size: usize,
    pub(super) products: Vec<Product>,
    pub(super) name: String,
    pub(super) macs: u64,
    pub(super) parameters: u64,
}

/// Relative squared error that float32 arithmetic may leave of a change of basis.
const ROUNDING: f64 = 1e-6;

/// The bases of a unit: for each product those of its heads.
type Bases = Vec<Vec<Basis>>;

/// A model whose heads are made smaller.
pub(super) struct Shrinking<'a> {
    settings: &'a LowRankAttention,
    model: &'a Model,
    cx: &'a Context<'a>,
    calibration: &'a Calibration<'a>,
    classes: &'a Classes,
    units: Vec<Unit>,
    /// Of what layers read.
    moments: BTreeMap<ValueId, Halves>,
}

impl<'a> Shrinking<'a> {
    pub(super) fn new(
        settings: &'a LowRankAttention,
        model: &'a Model,
        cx: &'a Context<'a>,
        calibration: &'a Calibration<'a>,
        classes: &'a Classes,
        units: Vec<Unit>,
    ) -> Result<Shrinking<'a>, PassError> {
        let sides = units.iter().flat_map(|u| &u.products).flat_map(|p| &p.sides);
        let mut widths: BTreeMap<ValueId, usize> = BTreeMap::new();
        for side in sides {
            let width = model.graph.constant(side.linear.weight).and_then(|w| side.linear.width(w)).unwrap_or(0);
            widths.insert(side.linear.input, width);
        }
        let want =
            |(v, width): (&ValueId, &usize)| Want::of(model.graph.name_of(*v), Halves::new(Rows::Axis(-1), *width));
        let halves = calibration.collect(&[model], widths.iter().map(want).collect())?;
        let moments = widths.into_keys().zip(halves).collect();
        Ok(Shrinking { settings, model, cx, calibration, classes, units, moments })
    }

    pub(super) fn run(&self, rule: Rule, changes: &mut Changes) -> Result<(), PassError> {
        let first = self.bases(false)?;
        let held = Held::new(self.model, self.calibration, self.settings.probes)?;
        changes.notes.extend(held.bounded());
        let kept = match rule {
            Rule::Own(own) => self.units.iter().zip(&first).map(|(u, b)| self.own(own, u, b.as_ref())).collect(),
            Rule::Budget(budget) => self.allocate(budget, &first, &held, changes)?,
        };
        for ((unit, bases), &kept) in self.units.iter().zip(&first).zip(&kept) {
            let decision = match bases {
                None => "stays: what its heads read is singular or not finite".to_owned(),
                Some(_) if kept == unit.size => format!("all {} channels of each head stay", unit.size),
                Some(b) => format!(
                    "{kept} of {} channels of each head stay; energy {:.4}, MACs {} to {}",
                    unit.size,
                    1.0 - lost(b, kept),
                    unit.macs,
                    unit.macs / unit.size.max(1) as u64 * kept as u64,
                ),
            };
            changes.notes.push(format!("{}: {decision}", unit.name));
        }
        if kept.iter().zip(&self.units).all(|(k, u)| *k == u.size) {
            return Ok(());
        }
        let first_half = Selected::first_half(self.calibration.samples);
        let Shrunk { model: mut trial, rotated, .. } = self.shrink(&first, &kept)?;
        // A channel on two sides of a product, for example, would be turned twice.
        let turned = held.error(&rotated, self.calibration)?;
        if turned > ROUNDING {
            let why = format!(
                "nothing is made smaller: the change of basis alone changes the outputs by {turned:.2e}, which it must not"
            );
            changes.notes.push(why);
            return Ok(());
        }
        let shrunk = held.error(&trial, self.calibration)?;
        let mut errors = format!(
            "relative squared error of the outputs on {} samples {}: {shrunk:.2e} with heads made smaller",
            held.len(),
            if held.is_seen() { "that the fits had seen, as there is only one" } else { "that the fits had not seen" },
        );
        let mut in_turn = false;
        if self.settings.refit {
            self.sequence(&rotated, &kept, &mut trial, &first_half, &mut changes.notes)?;
            let refitted = held.error(&trial, self.calibration)?;
            in_turn = held.prefers(refitted, shrunk);
            errors.push_str(&format!(", {refitted:.2e} with what is behind refitted; the better one is taken"));
        }
        changes.notes.insert(0, errors);
        let Shrunk { mut patches, mut model, rotated } = self.shrink(&self.bases(true)?, &kept)?;
        if in_turn {
            let refits = self.sequence(&rotated, &kept, &mut model, self.calibration.samples, &mut Vec::new())?;
            patches.extend(refits.into_iter().map(|p| (GraphPath::main(), p)));
        }
        changes.patches = patches;
        Ok(())
    }

    /// How many channels each unit keeps, such that no more than the budget is left.
    fn allocate(
        &self,
        budget: Budget,
        bases: &[Option<Bases>],
        held: &Held,
        changes: &mut Changes,
    ) -> Result<Vec<usize>, PassError> {
        let (Budget::Macs(share) | Budget::Parameters(share)) = budget;
        let mut ladders: Vec<Ladder> = Vec::new();
        let mut sizes: Vec<Vec<usize>> = Vec::new();
        for (i, (unit, b)) in self.units.iter().zip(bases).enumerate() {
            let cost = if matches!(budget, Budget::Macs(_)) { unit.macs } else { unit.parameters };
            let at = |kept: usize| cost * kept as u64 / unit.size.max(1) as u64;
            let mut ladder = vec![Step { cost, error: 0.0 }];
            let mut kept = vec![unit.size];
            if let Some(b) = b {
                let grid: Vec<usize> =
                    self.settings.settings().grid(unit.size).into_iter().filter(|&k| k < unit.size).collect();
                let probe = grid.iter().copied().min_by_key(|k| (4 * k).abs_diff(3 * unit.size));
                let gain = match (self.settings.allocation, probe) {
                    (Allocation::Global, Some(probe)) => {
                        let all = self.units.iter().enumerate();
                        let alone: Vec<usize> = all.map(|(j, u)| if i == j { probe } else { u.size }).collect();
                        let error = held.error(&self.shrink(bases, &alone)?.model, self.calibration)?;
                        let own = lost(b, probe);
                        if own > 0.0 { error / own } else { 0.0 }
                    }
                    _ => 1.0,
                };
                ladder.extend(grid.iter().map(|&k| Step { cost: at(k), error: gain * lost(b, k) }));
                kept.extend(grid);
            }
            ladders.push(ladder);
            sizes.push(kept);
        }
        let whole: u64 = ladders.iter().filter_map(|l| l.first()).map(|s| s.cost).fold(0, u64::saturating_add);
        let chosen = match self.settings.allocation {
            Allocation::Uniform => uniform(&ladders, share),
            Allocation::Global | Allocation::Local => allocate(&ladders, (share * whole as f64) as u64),
        };
        let left: u64 = ladders.iter().zip(&chosen).filter_map(|(l, &at)| l.get(at)).map(|s| s.cost).sum();
        let what = if matches!(budget, Budget::Macs(_)) { "MACs" } else { "parameters" };
        let kept = 100.0 * left as f64 / whole.max(1) as f64;
        changes.notes.push(format!("{kept:.1} % of the {what} of heads in {} places are kept", self.units.len()));
        let size = |(sizes, at): (&Vec<usize>, usize)| sizes.get(at).copied().unwrap_or(0);
        Ok(sizes.iter().zip(chosen).map(size).collect())
    }

    /// How many channels a unit keeps by a rule for itself.
    fn own(&self, own: Own, unit: &Unit, bases: Option<&Bases>) -> usize {
        let settings = self.settings.settings();
        let Some(bases) = bases else { return unit.size };
        let enough = match own {
            Own::Energy(share) => (1..=unit.size).find(|&k| 1.0 - lost(bases, k) >= share).unwrap_or(unit.size),
            Own::Ratio(share) => (share * unit.size as f64).round() as usize,
            Own::Rank(_) | Own::Evbmf => unit.size,
        };
        settings.rounded(enough.max(1), unit.size)
    }

    /// The bases of all units, from the first half of the samples or from all.
    fn bases(&self, all: bool) -> Result<Vec<Option<Bases>>, PassError> {
        let unit = |u: &Unit| u.products.iter().map(|p| self.product(p, all)).collect::<Result<Option<Bases>, _>>();
        let error = |source| PassError::Tensor { place: "a head".to_owned(), source };
        self.units.par_iter().map(unit).collect::<Result<_, _>>().map_err(error)
    }

    fn product(&self, product: &Product, all: bool) -> Result<Option<Vec<Basis>>, TensorError> {
        let [first, second] = &product.sides;
        let (Some(a), Some(b)) = (self.layer(first, all)?, self.layer(second, all)?) else { return Ok(None) };
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

    fn layer(&self, side: &Side, all: bool) -> Result<Option<Layer>, TensorError> {
        let graph = &self.model.graph;
        let (Some(weight), Some(halves)) = (graph.constant(side.linear.weight), self.moments.get(&side.linear.input))
        else {
            return Ok(None);
        };
        let weights = side.linear.matrices(weight)?.swap_remove(0);
        let bias = bias(graph, &side.linear, weights.nrows())?;
        Ok(Some(Layer { weights, bias, covariance: halves.matrix(all, true), mean: halves.mean(all) }))
    }

    /// Keeps so many channels of each unit.
    fn shrink(&self, bases: &[Option<Bases>], kept: &[usize]) -> Result<Shrunk, PassError> {
        let precondition = |e: String| PassError::Precondition(e);
        let constants = self.rotated(bases, kept)?;
        let removed = self.removed(kept);
        let refit = Refit { constants: constants.clone(), biases: BTreeMap::new() };
        let patches = cut(self.model, self.cx.facts, self.classes, &removed, &refit);
        let patches = patches.map_err(|e| precondition(e.to_string()))?;
        let mut shrunk = self.model.clone();
        for (path, patch) in &patches {
            shrunk.apply(path, patch.clone()).map_err(|e| precondition(e.to_string()))?;
        }
        let mut change = Patch::new(Numerics::Lossy, "other bases");
        constants.into_iter().for_each(|(v, t)| change.set_tensor(v, t));
        let mut rotated = self.model.clone();
        rotated.apply(&GraphPath::main(), change).map_err(|e| precondition(e.to_string()))?;
        Ok(Shrunk { patches, model: shrunk, rotated })
    }

    fn removed(&self, kept: &[usize]) -> BTreeMap<usize, BTreeSet<u64>> {
        let goes = |(u, &k): (&Unit, &usize)| (u.class, (k as u64..u.size as u64).collect::<BTreeSet<u64>>());
        self.units.iter().zip(kept).map(goes).filter(|(_, c)| !c.is_empty()).collect()
    }

    /// The weights and biases of the units that become smaller, in their new bases.
    fn rotated(&self, bases: &[Option<Bases>], kept: &[usize]) -> Result<BTreeMap<ValueId, Tensor>, PassError> {
        let graph = &self.model.graph;
        let mut weights: BTreeMap<ValueId, (Linear, Mat<f64>)> = BTreeMap::new();
        let mut biases: BTreeMap<ValueId, Vec<f64>> = BTreeMap::new();
        let tensor = |v: ValueId| move |source| PassError::Tensor { place: graph.name_of(v), source };
        for ((unit, bases), &kept) in self.units.iter().zip(bases).zip(kept) {
            let Some(bases) = bases.as_ref().filter(|_| kept < unit.size) else { continue };
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

    fn sequence(
        &self,
        rotated: &Model,
        kept: &[usize],
        shrunk: &mut Model,
        samples: &dyn Samples,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Patch>, PassError> {
        let masks = masks(self.model, self.cx.facts, self.classes, &self.removed(kept));
        let masks = masks.map_err(|e| PassError::Precondition(e.to_string()))?;
        let calibration = Calibration { samples, ..*self.calibration };
        // What layers inside attention computed they computed in the new bases.
        let sequence = Sequence {
            original: rotated,
            facts: self.cx.facts,
            masks: &masks,
            calibration: &calibration,
            reach: usize::MAX,
            replace: None,
        };
        sequence.refit(shrunk, notes)
    }
}

/// A model with smaller heads.
struct Shrunk {
    /// That make it.
    patches: Vec<(GraphPath, Patch)>,
    model: Model,
    /// The model in the bases of the smaller one, with all channels.
    rotated: Model,
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
fn lost(bases: &Bases, kept: usize) -> f64 {
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
