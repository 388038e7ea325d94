//! Samples in two halves: what is fitted to one is held against the other.

use std::{collections::BTreeMap, sync::Arc};

use faer::Mat;
use planish_ir::{Def, Model, Tensor};
use rayon::prelude::*;

use super::checkpoints::Checkpoints;
use crate::{
    Calibration, PassError, Samples,
    calibration::{Gram, Rows, Selected, Statistic},
    metrics::Comparison,
};

/// Samples that weights are fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// The first, the third and so on.
    First,
    /// The second, the fourth and so on. With one sample it is the same as the first.
    Second,
    /// All.
    Both,
}

/// Second moments of the first, third, … and of the second, fourth, … sample.
#[derive(Debug, Clone)]
pub(crate) struct Halves {
    halves: [Gram; 2],
    seen: usize,
    /// Matrices of this size that what reads them has at a time.
    working: u64,
}

impl Halves {
    pub(crate) fn new(rows: Rows, width: usize) -> Halves {
        // The matrices of both halves, and the factor of a part of one.
        Halves { halves: [Gram::new(rows.clone(), width), Gram::new(rows, width)], seen: 0, working: 3 }
    }

    /// For what has so many matrices of this size at a time when it reads them.
    pub(crate) fn with_working(self, working: u64) -> Halves {
        Halves { working, ..self }
    }

    fn at_hand(&mut self) -> &mut Gram {
        let [first, second] = &mut self.halves;
        if self.seen.is_multiple_of(2) { first } else { second }
    }

    /// True if there is a second sample.
    pub(crate) const fn are_two(&self) -> bool {
        self.seen > 1
    }

    fn grams(&self, group: usize, fold: Fold) -> Vec<&Gram> {
        let [first, second] = &self.halves;
        match fold {
            Fold::Both => vec![first, second],
            Fold::Second if second.count(group) > 0 => vec![second],
            Fold::First | Fold::Second => vec![first],
        }
    }

    /// Mean of a row.
    pub(crate) fn mean(&self, fold: Fold) -> Vec<f64> {
        self.mean_of(0, fold)
    }

    /// The same, of a group of channels.
    pub(crate) fn mean_of(&self, group: usize, fold: Fold) -> Vec<f64> {
        Gram::mean_of(&self.grams(group, fold), group)
    }

    /// Mean of `x xᵀ`, or covariance.
    pub(crate) fn matrix(&self, fold: Fold, centred: bool) -> Mat<f64> {
        self.matrix_of(0, fold, centred)
    }

    /// The same, of a group of channels.
    pub(crate) fn matrix_of(&self, group: usize, fold: Fold, centred: bool) -> Mat<f64> {
        Gram::moments_of(&self.grams(group, fold), group, centred)
    }

    /// The matrices of both halves of a group of channels.
    pub(crate) fn both_of(&self, group: usize, centred: bool) -> [Mat<f64>; 2] {
        [Fold::First, Fold::Second].map(|fold| self.matrix_of(group, fold, centred))
    }
}

impl Statistic for Halves {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let added = self.at_hand().add(tensors);
        self.seen += 1;
        added
    }

    fn bytes(&self) -> u64 {
        self.halves.iter().map(Gram::bytes).fold(0, u64::saturating_add)
    }

    fn working(&self) -> u64 {
        let [either, _] = &self.halves;
        either.working().saturating_mul(self.working)
    }
}

/// Names of the outputs that a node computes.
pub(crate) fn computed_outputs(model: &Model) -> Vec<String> {
    let graph = &model.graph;
    let computed = |v: &planish_ir::ValueId| graph.value(*v).is_some_and(|v| matches!(v.def(), Def::Node { .. }));
    graph.outputs().iter().copied().filter(computed).map(|v| graph.name_of(v)).collect()
}

/// Samples that a fit to the first half has not seen, and what the model computes on them.
pub(crate) struct Held {
    /// What weights are fitted to: the others; with one sample, that one too.
    fitted: Fold,
    /// Where the first of them is, how far apart they are, and how many there are at most.
    samples: (usize, usize, usize),
    outputs: Vec<String>,
    expected: Arc<Vec<Vec<Tensor>>>,
    /// Samples that there would be if nothing bound them.
    asked: usize,
    /// Of a model that others are made of.
    checkpoints: Option<Checkpoints>,
}

/// What is kept of held samples takes at most so many bytes, and what is kept on the way as many. The same on every machine and for every
/// `memory`, because results depend on it.
pub(crate) const KEPT: u64 = 512 << 20;

/// A value beside that of the original, or in words why it cannot be compared.
pub(crate) type Compared = Result<Comparison, String>;

impl Held {
    /// Those of the other half than weights are fitted to, at most so many; and of them the outputs. With one sample there is no other.
    pub(crate) fn new(
        fitted: Fold,
        model: &Model,
        calibration: &Calibration<'_>,
        limit: u64,
    ) -> Result<Held, PassError> {
        Held::of_values(fitted, model, calibration, limit, computed_outputs(model))
    }

    /// The same, of other values than the outputs.
    pub(crate) fn of_values(
        fitted: Fold,
        model: &Model,
        calibration: &Calibration<'_>,
        limit: u64,
        values: Vec<String>,
    ) -> Result<Held, PassError> {
        let fitted = if calibration.samples.len() > 1 { fitted } else { Fold::Both };
        let first = usize::from(fitted == Fold::First);
        Held::every(fitted, (first, 2), model, calibration, limit, values)
    }

    /// At most so many, with an even distance so that they come from all over the samples; and of them some values.
    pub(crate) fn spread(
        model: &Model,
        calibration: &Calibration<'_>,
        limit: u64,
        values: Vec<String>,
    ) -> Result<Held, PassError> {
        let step = calibration.samples.len().div_ceil(usize::try_from(limit).unwrap_or(usize::MAX).max(1)).max(1);
        Held::every(Fold::Both, (0, step), model, calibration, limit, values)
    }

    fn every(
        fitted: Fold,
        (first, step): (usize, usize),
        model: &Model,
        calibration: &Calibration<'_>,
        limit: u64,
        outputs: Vec<String>,
    ) -> Result<Held, PassError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        let mut held = Held {
            fitted,
            samples: (first, step, limit),
            outputs,
            expected: Arc::default(),
            asked: 0,
            checkpoints: None,
        };
        held.asked = held.selected(calibration).len();
        // The first of them shows how many fit.
        held.samples.2 = 1;
        held.expected = Arc::new(held.run(model, calibration, |_, values| values)?);
        let each = held.expected.iter().flatten().map(Tensor::byte_len).fold(1, u64::saturating_add);
        let fit = usize::try_from(KEPT / each).unwrap_or(usize::MAX);
        held.samples.2 = limit.min(fit).max(1);
        if held.samples.2 > 1 {
            held.expected = Arc::new(held.run(model, calibration, |_, values| values)?);
        }
        Ok(held)
    }

    /// The half that weights are fitted to otherwise, held against fits to the other one. None with one sample.
    pub(crate) fn crossed(model: &Model, calibration: &Calibration<'_>, limit: u64) -> Result<Option<Held>, PassError> {
        let are_two = calibration.samples.len() > 1;
        are_two.then(|| Held::new(Fold::Second, model, calibration, limit)).transpose()
    }

    /// The same, for models that are made of this one: they are run from the first change on.
    pub(crate) fn of_changes(&self, model: &Model, calibration: &Calibration<'_>) -> Result<Held, PassError> {
        let checkpoints = Checkpoints::new(model, calibration, &self.selected(calibration), KEPT)?;
        let (outputs, expected) = (self.outputs.clone(), Arc::clone(&self.expected));
        Ok(Held {
            fitted: self.fitted,
            samples: self.samples,
            outputs,
            expected,
            asked: self.asked,
            checkpoints: Some(checkpoints),
        })
    }

    /// About so many of the samples, with an even distance so that they come from all over them.
    pub(crate) fn thinned(&self, about: usize) -> Held {
        let (first, step, _) = self.samples;
        let about = about.clamp(1, self.len().max(1));
        let every = (self.len() + about / 2) / about;
        let expected: Vec<Vec<Tensor>> = self.expected.iter().step_by(every.max(1)).cloned().collect();
        Held {
            fitted: self.fitted,
            samples: (first, step.saturating_mul(every), expected.len()),
            outputs: self.outputs.clone(),
            expected: Arc::new(expected),
            asked: self.asked,
            checkpoints: None,
        }
    }

    /// The half of the samples that weights are fitted to.
    pub(crate) const fn fold(&self) -> Fold {
        self.fitted
    }

    /// The samples that weights are fitted to.
    pub(crate) fn fitted<'a>(&self, calibration: &Calibration<'a>) -> Selected<'a> {
        let (first, step) = match self.fitted {
            Fold::First => (0, 2),
            Fold::Second => (1, 2),
            Fold::Both => (0, 1),
        };
        Selected { samples: calibration.samples, first, step, limit: usize::MAX }
    }

    fn selected<'a>(&self, calibration: &Calibration<'a>) -> Selected<'a> {
        let (first, step, limit) = self.samples;
        Selected { samples: calibration.samples, first, step, limit }
    }

    /// Says if fewer samples are kept than were asked for.
    pub(crate) fn bounded(&self) -> Option<String> {
        (self.len() < self.asked).then(|| {
            format!(
                "outputs are compared on {} samples instead of {}, as those of more take over {} MiB",
                self.len(),
                self.asked,
                KEPT >> 20
            )
        })
    }

    /// Says if these are not all of those that they come from, on which something is judged.
    pub(crate) fn measured(&self, all: &Held) -> Option<String> {
        let (few, all) = (self.len(), all.len());
        (few < all)
            .then(|| format!("what each change does is measured on {few} samples, and what comes of it on {all}"))
    }

    /// What an error is of, for a report.
    pub(crate) fn place(&self) -> String {
        let seen = if self.is_seen() { "which are all there are" } else { "that the fits had not seen" };
        format!("relative squared error of the outputs on {} samples {seen}", self.len())
    }

    /// How many samples there are.
    pub(crate) fn len(&self) -> usize {
        self.expected.len()
    }

    /// True if there is only one sample, which is fitted to as well.
    pub(crate) const fn is_seen(&self) -> bool {
        matches!(self.fitted, Fold::Both)
    }

    /// Runs a model on the samples, and keeps of each what `take` makes of its number and its outputs.
    fn run<T: Send>(
        &self,
        model: &Model,
        calibration: &Calibration<'_>,
        take: impl Fn(usize, Vec<Tensor>) -> T + Sync,
    ) -> Result<Vec<T>, PassError> {
        type One<'o> = &'o (dyn Fn(usize) -> Result<Vec<Tensor>, PassError> + Sync);
        let samples = self.selected(calibration);
        let all = |one: One<'_>| -> Result<Vec<T>, PassError> {
            let run = |i: usize| Ok(take(i, one(i)?));
            (0..samples.len()).into_par_iter().map(run).collect()
        };
        if let Some(started) = self.checkpoints.as_ref().and_then(|c| c.start(model, calibration, &self.outputs)) {
            match all(&|i| started.run(&samples, i)) {
                // What an engine cannot run from the middle, it may run from the beginning.
                Err(PassError::Engine(_)) => {}
                done => return done,
            }
        }
        let runnable = calibration.engine.load(model, &self.outputs)?;
        all(&|i| Ok(runnable.run(&*samples.get(i)?)?))
    }

    /// What a model computes beside the original, by name; what cannot be compared, as its shape is another one, in words. `view` may put
    /// something else in the place of a value.
    pub(crate) fn compare(
        &self,
        model: &Model,
        calibration: &Calibration<'_>,
        view: impl Fn(&str, &Tensor) -> Option<Tensor>,
    ) -> Result<BTreeMap<&String, Compared>, PassError> {
        let mut compared: Vec<(&String, Compared)> =
            self.outputs.iter().map(|name| (name, Ok(Comparison::new()))).collect();
        for (e, a) in self.expected.iter().zip(&self.run(model, calibration, |_, values| values)?) {
            for ((name, c), (e, a)) in compared.iter_mut().zip(e.iter().zip(a)) {
                let (e, a) = (view(name, e).unwrap_or_else(|| e.clone()), view(name, a).unwrap_or_else(|| a.clone()));
                if let Ok(comparison) = c
                    && let Err(mismatch) = comparison.add(&e, &a)
                {
                    *c = Err(mismatch.to_string());
                }
            }
        }
        Ok(compared.into_iter().collect())
    }

    /// Squared difference of the float outputs of a model to those of the original, as a share of their power; the mean over the
    /// outputs. Infinite if shapes differ, or numbers are not finite where the original has others.
    pub(crate) fn error(&self, model: &Model, calibration: &Calibration<'_>) -> Result<f64, PassError> {
        let compared = self.run(model, calibration, |sample, actual| {
            let expected = self.expected.get(sample).map_or(&[][..], Vec::as_slice);
            expected.iter().zip(&actual).map(|(e, a)| difference(e, a)).collect::<Vec<_>>()
        })?;
        let mut sums: Vec<Option<(f64, f64)>> = vec![None; self.outputs.len()];
        for of_sample in compared {
            for (sum, (difference, power)) in sums.iter_mut().zip(of_sample).filter_map(|(s, d)| Some((s, d?))) {
                let sum = sum.get_or_insert((0.0, 0.0));
                *sum = (sum.0 + difference, sum.1 + power);
            }
        }
        let share = |(difference, power): (f64, f64)| if power > 0.0 { difference / power } else { difference };
        let shares: Vec<f64> = sums.into_iter().flatten().map(share).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        Ok(if mean.is_finite() { mean } else { f64::INFINITY })
    }
}

/// Squared difference and power of two tensors of floats; None for others. Infinite if shapes differ.
fn difference(expected: &Tensor, actual: &Tensor) -> Option<(f64, f64)> {
    if !expected.dtype().is_float() {
        return None;
    }
    let (e, a) = (expected.to_f64().ok()?, actual.to_f64().ok()?);
    if e.len() != a.len() {
        return Some((f64::INFINITY, 1.0));
    }
    let pairs = e.iter().zip(&a).filter(|(e, a)| e.to_bits() != a.to_bits() || e.is_finite());
    Some(pairs.fold((0.0, 0.0), |(difference, power), (e, a)| (difference + (e - a).powi(2), power + e.powi(2))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NoObserver, Tensors,
        testing::{Drawn, drawn, parse},
    };

    #[test]
    fn fewer_samples_come_from_all_over_them() {
        let model =
            parse(r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }"#);
        let sample = |i: usize| drawn(&format!("x{i}"), &[2]);
        let samples: Vec<Tensors> = (0..20).map(|i| Tensors::from([("x".to_owned(), sample(i))])).collect();
        let calibration = Calibration {
            engine: &Drawn,
            samples: &samples.as_slice(),
            memory: 1 << 30,
            watch: &NoObserver,
            store: None,
        };
        let held = Held::of_values(Fold::First, &model, &calibration, 128, vec!["x".to_owned()]).unwrap();
        let few = held.thinned(3);
        let first = |e: &Vec<Tensor>| e[0].clone();
        assert_eq!(few.expected.iter().map(first).collect::<Vec<_>>(), [1, 7, 13, 19].map(sample));
        // Of the same samples as what a model computes then.
        assert_eq!(few.error(&model, &calibration).unwrap(), 0.0);
        let said = "what each change does is measured on 4 samples, and what comes of it on 10";
        assert_eq!(few.measured(&held).as_deref(), Some(said));
        assert_eq!([7, 10, 99].map(|about| held.thinned(about).measured(&held)), [None, None, None]);
    }
}
