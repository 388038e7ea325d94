//! How statistics are collected within a bound of memory, and what is forecast of it.

use std::{collections::BTreeSet, ops::Range};

use planish_ir::{Def, Model, ValueId, infer::Inferred};

use super::{Calibration, Statistic, Want};

/// How many values of the largest size an engine has at a time, besides those that it hands out: what a node reads and makes,
/// and a rearranged copy of one of them.
const LIVE: u64 = 3;

/// How many values of the largest size there are on the borders of a layer that is fitted, in the original and in the compressed model.
const BORDERS: u64 = 4;

/// What a collection of statistics is going to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// Bytes of the statistics, which are there until the last round is done.
    pub statistics: u64,
    /// Bytes of what is made when statistics are added to, or read afterwards, by all threads.
    pub working: u64,
    /// Bytes of the activations that they read, for one sample, in the largest round.
    pub activations: u64,
    /// Values whose size is not known before they are computed, and which are not in `activations`.
    pub open: usize,
    /// Bytes of what the engine computes with besides, for one sample.
    pub scratch: u64,
    /// Bytes of the weights in the engine, and of what it makes of them.
    pub weights: u64,
    /// Bytes that a search afterwards keeps of samples at most: what is computed on the way, and outputs.
    pub kept: u64,
    /// Samples that are run at the same time.
    pub parallel: usize,
    /// How many samples there are.
    pub samples: usize,
    /// How often they are run.
    pub rounds: usize,
}

impl Forecast {
    /// Bytes at the peak, besides what the model itself takes.
    pub const fn peak(&self) -> u64 {
        let run = self.activations.saturating_add(self.scratch).saturating_mul(self.parallel as u64);
        // Memory is had in larger pieces than it is asked for.
        let run = run.saturating_add(run / 8);
        let held = self.statistics.saturating_add(self.working).saturating_add(self.kept);
        held.saturating_add(run).saturating_add(self.weights)
    }
}

/// Which statistics are collected together.
pub(super) struct Plan {
    pub(super) rounds: Vec<Range<usize>>,
    pub(super) forecast: Forecast,
}

impl Plan {
    /// Fills one round after the other: half of the memory is for activations. What is too large by itself gets a round of its own. A search
    /// afterwards `keeps` so much of each kind.
    pub(super) fn new<S: Statistic>(
        calibration: &Calibration<'_>,
        models: &[&Model],
        facts: &[Inferred],
        wants: &[Want<S>],
        shapes: usize,
        keeps: Option<u64>,
    ) -> Plan {
        let (half, samples) = (calibration.memory / 2, calibration.samples.len());
        let mut rounds = Vec::new();
        let mut forecast = Forecast { samples, ..Forecast::default() };
        let (mut round, mut working) = (Round::default(), 0);
        for (at, want) in wants.iter().enumerate() {
            forecast.statistics = forecast.statistics.saturating_add(want.statistic.bytes());
            working = working.max(want.statistic.working());
            let mut next = round.clone();
            next.add(models, facts, want);
            if next.activations > half && at > round.start {
                rounds.push(round.close(at, &mut forecast));
                next = Round { start: at, ..Round::default() };
                next.add(models, facts, want);
            }
            round = next;
        }
        rounds.push(round.close(wants.len(), &mut forecast));
        let threads = rayon::current_num_threads().min(samples.max(1));
        forecast.scratch = facts.iter().zip(models).map(|(f, m)| largest(m, f)).max().unwrap_or(0).saturating_mul(LIVE);
        let run = forecast.activations.saturating_add(forecast.scratch);
        let affordable = half.checked_div(run).map_or(threads, |n| usize::try_from(n).unwrap_or(threads));
        forecast.parallel = threads.min(affordable).max(1);
        forecast.working = working.saturating_mul(rayon::current_num_threads().min(wants.len()) as u64);
        forecast.rounds = rounds.len();
        let kept = |keeps| {
            facts.iter().zip(models).map(|(f, m)| kept(m, f, samples, (keeps, half))).fold(0, u64::saturating_add)
        };
        forecast.kept = keeps.map_or(0, kept);
        let held = |m: &&Model| calibration.engine.holds(weight_bytes(m), shapes);
        forecast.weights = models.iter().map(held).fold(0, u64::saturating_add);
        Plan { rounds, forecast }
    }
}

#[derive(Clone, Default)]
struct Round {
    start: usize,
    activations: u64,
    open: usize,
    seen: BTreeSet<(usize, String)>,
}

impl Round {
    fn add<S: Statistic>(&mut self, models: &[&Model], facts: &[Inferred], want: &Want<S>) {
        for read in &want.reads {
            if !self.seen.insert(read.clone()) {
                continue;
            }
            match bytes(models, facts, read) {
                Some(bytes) => self.activations = self.activations.saturating_add(bytes),
                None => self.open += 1,
            }
        }
    }

    fn close(self, end: usize, forecast: &mut Forecast) -> Range<usize> {
        forecast.activations = forecast.activations.max(self.activations);
        forecast.open = forecast.open.max(self.open);
        self.start..end
    }
}

/// Bytes of a value on the sample that the facts are of.
fn bytes(models: &[&Model], facts: &[Inferred], (model, name): &(usize, String)) -> Option<u64> {
    value_bytes(facts.get(*model)?, models.get(*model)?.graph.value_named(name)?)
}

fn value_bytes(facts: &Inferred, value: ValueId) -> Option<u64> {
    let fact = facts.graph().fact(value);
    fact.dtype()?.byte_len(fact.count()?)
}

/// Bytes of each value that is computed, on the sample that the facts are of.
fn computed<'m>(model: &'m Model, facts: &'m Inferred) -> impl Iterator<Item = u64> + 'm {
    let computed = model.graph.values().filter(|(_, v)| matches!(v.def(), Def::Node { .. }));
    computed.filter_map(|(id, _)| value_bytes(facts, id))
}

/// Bytes of the largest value that is computed.
fn largest(model: &Model, facts: &Inferred) -> u64 {
    computed(model, facts).max().unwrap_or(0)
}

/// Bytes that a search keeps of samples: of outputs and of what probes are run from so much at most, and of what layers are fitted from so much.
fn kept(model: &Model, facts: &Inferred, samples: usize, (keeps, half): (u64, u64)) -> u64 {
    let outputs = model.graph.outputs().iter().filter_map(|&v| value_bytes(facts, v)).fold(0, u64::saturating_add);
    let of = |each: u64, most: u64| each.saturating_mul(samples as u64).min(most);
    let probed = of(computed(model, facts).fold(0, u64::saturating_add), keeps);
    let borders = of(largest(model, facts).saturating_mul(BORDERS), half);
    // Layers are fitted when probes are done.
    of(outputs, keeps).saturating_add(probed.max(borders))
}

fn weight_bytes(model: &Model) -> u64 {
    let constants = model.graph.values().filter_map(|(_, v)| v.constant());
    constants.map(planish_ir::Tensor::byte_len).fold(0, u64::saturating_add)
}
