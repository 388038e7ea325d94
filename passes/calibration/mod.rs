//! Calibration: what passes learn of activations from samples.
//!
//! A pass says which values it wants to see and what to accumulate of them; [`Calibration::collect`] runs the model on one
//! sample after the other and feeds what it computes to the accumulators. No activation is kept longer than that, so memory
//! is bounded by the statistics and by the samples that are being run at the moment, and both are forecast before the run.
//!
//! Samples are run in parallel and accumulated in their order, so that the result does not depend on the number of threads.

mod bindings;
mod forecast;
mod gram;
mod histogram;
mod range;
mod rows;
mod store;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range as Span,
};

use planish_ir::{Dims, Model, Tensor, infer};
use rayon::prelude::*;

use crate::{Engine, NoObserver, PassError, Runnable, Tensors};
use forecast::Plan;

pub use bindings::{bindings, unit_bindings};
pub use forecast::Forecast;
pub use gram::Gram;
pub(crate) use gram::{CHUNK, mirror};
pub use histogram::Histogram;
pub use range::{Moments, Range};
pub use rows::{Rows, Unfold};
pub use store::{Asked, Reader, Record, Store, Take};

/// Inputs to run a model on, one run each.
pub trait Samples: Sync {
    /// How many runs there are.
    fn len(&self) -> usize;

    /// The inputs of one run, by name. They may be made anew each time. Fails if they cannot be read.
    fn get(&self, index: usize) -> Result<Cow<'_, Tensors>, SampleError>;

    /// Shapes of the inputs of one run, in the order of their names. A source may know them without making the inputs.
    fn shapes(&self, index: usize) -> Result<Vec<Dims>, SampleError> {
        Ok(self.get(index)?.values().map(|t| Dims::from_slice(t.dims())).collect())
    }

    /// True if there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why the inputs of a run cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SampleError(pub String);

impl Samples for &[Tensors] {
    fn len(&self) -> usize {
        <[Tensors]>::len(self)
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Tensors>, SampleError> {
        let run = <[Tensors]>::get(self, index).map(Cow::Borrowed);
        run.ok_or_else(|| SampleError(format!("there is no sample {index}")))
    }
}

/// Some of the samples: from `first` on every `step`-th, at most `limit`.
#[derive(Clone, Copy)]
pub struct Selected<'a> {
    /// All of them.
    pub samples: &'a dyn Samples,
    /// Number of the first one.
    pub first: usize,
    /// Distance from one to the next.
    pub step: usize,
    /// Most that there are.
    pub limit: usize,
}

impl<'a> Selected<'a> {
    fn index(&self, index: usize) -> usize {
        index.saturating_mul(self.step.max(1)).saturating_add(self.first)
    }
}

impl Samples for Selected<'_> {
    fn len(&self) -> usize {
        self.samples.len().saturating_sub(self.first).div_ceil(self.step.max(1)).min(self.limit)
    }

    fn get(&self, index: usize) -> Result<Cow<'_, Tensors>, SampleError> {
        self.samples.get(self.index(index))
    }

    fn shapes(&self, index: usize) -> Result<Vec<Dims>, SampleError> {
        self.samples.shapes(self.index(index))
    }
}

/// Samples, and who runs models on them.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// Runs the models.
    pub engine: &'a dyn Engine,
    /// What it runs them on.
    pub samples: &'a dyn Samples,
    /// Half of these bytes is what activations may take at a time. If they need more, the samples are run several times; the results are
    /// the same. Passes that can do without all statistics at the same time keep these within it, too.
    pub memory: u64,
    /// Is told what is forecast, and how far a run is.
    pub watch: &'a dyn Watch,
    /// Where statistics are kept for later runs, if the user wants that.
    pub store: Option<&'a dyn Store>,
}

/// Is told what a collection of statistics does, or a search that runs models on the samples. All methods default to nothing.
pub trait Watch: Sync {
    /// Samples are going to be run, which will take this.
    fn forecast(&self, _forecast: &Forecast) {}
    /// So many of so many samples are done.
    fn sampled(&self, _done: usize, _of: usize) {}
    /// What a search does now, in words.
    fn says(&self, _what: &str) {}
}

impl Watch for NoObserver {}

/// Something that is accumulated over samples.
pub trait Statistic: Send {
    /// Adds what one sample gives for the values that the statistic reads, in their order. Fails on a type or a shape that
    /// it is not made for, and says what it is.
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String>;

    /// Bytes that it takes at most.
    fn bytes(&self) -> u64;

    /// Bytes of what is made at a time when it is added to, or read.
    fn working(&self) -> u64 {
        0
    }

    /// Bytes that it needs where it is the only one: those that it takes, and those of what is made of it.
    fn needs(&self) -> u64 {
        self.bytes().saturating_add(self.working())
    }

    /// What it is and how it is set up, in words that no other statistic has. `None` if it is not kept in a [`Store`].
    fn identity(&self) -> Option<String> {
        None
    }

    /// What was accumulated.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// One that is set up in the same way, with what [`Statistic::save`] gave. Fails if that cannot be.
    fn restore(&self, _record: &[u8]) -> Result<Self, String>
    where
        Self: Sized,
    {
        Err("it is not kept".to_owned())
    }
}

/// A statistic and what it reads.
#[derive(Debug)]
pub struct Want<S> {
    /// Values of main graphs: which of the models, and the name.
    pub reads: Vec<(usize, String)>,
    /// What is accumulated.
    pub statistic: S,
}

impl<S> Want<S> {
    /// A statistic of one value of the only model.
    pub fn of(value: impl Into<String>, statistic: S) -> Want<S> {
        Want { reads: vec![(0, value.into())], statistic }
    }
}

impl Calibration<'_> {
    /// Runs the models on all samples and accumulates what is wanted of their values. The statistics come back in the order of
    /// the wants. Fails if an engine does not run a model, or if a statistic does not take what a value turns out to be.
    pub fn collect<S: Statistic>(&self, models: &[&Model], wants: Vec<Want<S>>) -> Result<Vec<S>, PassError> {
        self.collected(models, wants, None)
    }

    /// The same for a search, which keeps so many bytes at most of each kind of what models compute on the samples; the forecast counts them.
    pub(crate) fn collect_for_search<S: Statistic>(
        &self,
        model: &Model,
        wants: Vec<Want<S>>,
        keeps: u64,
    ) -> Result<Vec<S>, PassError> {
        self.collected(&[model], wants, Some(keeps))
    }

    fn collected<S: Statistic>(
        &self,
        models: &[&Model],
        wants: Vec<Want<S>>,
        keeps: Option<u64>,
    ) -> Result<Vec<S>, PassError> {
        if wants.is_empty() {
            return Ok(Vec::new());
        }
        if self.samples.is_empty() {
            return Err(PassError::Precondition("there is no calibration sample".to_owned()));
        }
        let kept = self.store.and_then(|store| Some((store, self.key(store, models, &wants)?)));
        if let Some((store, key)) = &kept
            && let Some(statistics) = store::restored(*store, key, &wants)
        {
            return Ok(statistics);
        }
        let (largest, shapes) = self.shapes()?;
        let largest = self.samples.get(largest)?;
        let facts: Vec<infer::Inferred> = models.iter().map(|m| infer::infer(m, &bindings(m, &largest))).collect();
        drop(largest);
        let plan = Plan::new(self, models, &facts, &wants, shapes, keeps);
        self.watch.forecast(&plan.forecast);
        let (reads, mut statistics): (Vec<_>, Vec<S>) = wants.into_iter().map(|w| (w.reads, w.statistic)).unzip();
        for round in &plan.rounds {
            self.round(models, &reads, &mut statistics, round.clone(), plan.forecast.parallel)?;
        }
        if let Some((store, key)) = &kept {
            let record = |at: usize| statistics.get(at).map(Statistic::save).unwrap_or_default();
            store.save(key, statistics.len(), &mut { record });
        }
        Ok(statistics)
    }

    /// Which sample is the largest, and how many shapes there are.
    fn shapes(&self) -> Result<(usize, usize), PassError> {
        let (mut largest, mut most, mut distinct) = (0, 0, BTreeSet::new());
        for index in 0..self.samples.len() {
            let shapes = self.samples.shapes(index)?;
            let elements = shapes.iter().filter_map(|s| planish_ir::product(s)).fold(0, u64::saturating_add);
            if elements > most {
                (largest, most) = (index, elements);
            }
            distinct.insert(shapes);
        }
        Ok((largest, distinct.len()))
    }

    /// What the statistics are kept under.
    fn key<S: Statistic>(&self, store: &dyn Store, models: &[&Model], wants: &[Want<S>]) -> Option<String> {
        let statistics = store::identities(wants)?;
        store.key(&Asked { models, samples: self.samples, engine: self.engine, statistics: &statistics })
    }

    /// One run over the samples for some of the statistics.
    fn round<S: Statistic>(
        &self,
        models: &[&Model],
        reads: &[Vec<(usize, String)>],
        statistics: &mut [S],
        round: Span<usize>,
        parallel: usize,
    ) -> Result<(), PassError> {
        let reads = reads.get(round.clone()).unwrap_or_default();
        let statistics = statistics.get_mut(round).unwrap_or_default();
        // Which values of each model are handed out, and where.
        let mut slots: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        slots.extend(reads.iter().flatten().map(|(model, name)| ((*model, name.as_str()), 0)));
        slots.values_mut().enumerate().for_each(|(at, slot)| *slot = at);
        let names =
            |model: usize| slots.keys().filter(|(m, _)| *m == model).map(|(_, name)| (*name).to_owned()).collect();
        let wanted: Vec<Vec<String>> = (0..models.len()).map(names).collect();
        let mut runnables = Vec::new();
        for (model, wanted) in models.iter().zip(&wanted).filter(|(_, wanted)| !wanted.is_empty()) {
            runnables.push(self.engine.load(model, wanted)?);
        }
        let count = self.samples.len();
        for start in (0..count).step_by(parallel.max(1)) {
            let wave = start..count.min(start + parallel.max(1));
            let runs: Vec<Vec<Tensor>> =
                wave.clone().into_par_iter().map(|i| self.run(&runnables, i)).collect::<Result<_, PassError>>()?;
            let add = |(reads, statistic): (&Vec<(usize, String)>, &mut S)| {
                runs.iter().try_for_each(|run| add(statistic, reads, &slots, run))
            };
            reads.par_iter().zip(statistics.par_iter_mut()).try_for_each(add)?;
            self.watch.sampled(wave.end, count);
        }
        Ok(())
    }

    /// The wanted values of all models on one sample, those of the first model first.
    fn run(&self, runnables: &[Box<dyn Runnable>], sample: usize) -> Result<Vec<Tensor>, PassError> {
        let inputs = self.samples.get(sample)?;
        let mut values = Vec::new();
        for runnable in runnables {
            values.extend(runnable.run(&inputs)?);
        }
        Ok(values)
    }
}

fn add<S: Statistic>(
    statistic: &mut S,
    reads: &[(usize, String)],
    slots: &BTreeMap<(usize, &str), usize>,
    run: &[Tensor],
) -> Result<(), PassError> {
    let tensor = |(model, name): &(usize, String)| run.get(*slots.get(&(*model, name.as_str()))?);
    let tensors: Option<Vec<&Tensor>> = reads.iter().map(tensor).collect();
    let added = tensors.ok_or_else(|| "the engine did not hand it out".to_owned()).and_then(|t| statistic.add(&t));
    added.map_err(|message| PassError::Calibration {
        value: reads.first().map_or_else(String::new, |(_, name)| name.clone()),
        message,
    })
}

#[cfg(test)]
mod tests;
