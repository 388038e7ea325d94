//! Splitting the layers of a model: which, into what, and what makes up for it. The same for all methods.
//!
//! 1. Layers are listed by their weights, so that a weight which several nodes read is factorized once.
//! 2. With samples, the second moments of what each reads are collected, in two halves.
//! 3. Each layer is decomposed, fitted to the first half. Options that the cost model finds no faster are dropped. Of layers that read the same
//!    value, either those or what they are together is left (`shared_input.rs`).
//! 4. For a budget, options are taken where the outputs lose least for what they save (`search.rs`).
//! 5. Layers are split and fitted in their order, each from what it reads by then (`in_turn.rs`); that is kept if it is better on the
//!    half of the samples that it is not fitted to.
//! 6. What was chosen is fitted to all samples.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    GraphPath, Model, Numerics, Patch, ValueId,
    infer::{self, Bindings},
};
use rayon::prelude::*;

use super::{
    in_turn::{InTurn, Turn, damped},
    method::{Decomposed, Known, Method, Moments, Reads, Scene},
    rank::{Allocation, Factorization, Rule},
    search::Ranks,
    shared_input::left_out,
    sites::{Pick, Site, best, ranks, sites},
};
use crate::{
    Calibration, Changes, Context, PassError,
    calibration::{Rows, Want, bindings},
    reconstruct::{FitErrors, Fold, Halves, Held, KEPT, Masks, Sequence, with_own_vectors},
};

/// Ridge of second moments, as a share of the mean of their diagonal.
const DAMPING: f64 = 1e-4;

/// Matrices of the size of second moments that a decomposition has at a time: the moments, those of each half or in blocks, what they are behind
/// a projection, and the factor of that.
const WORKING: u64 = 5;

/// The decompositions of a site, in the order of its layers.
pub(super) type Decompositions<'s> = Vec<Result<Box<dyn Decomposed + 's>, String>>;

/// Splits the layers of the main graph by the methods.
pub(super) fn factorize(
    model: &Model,
    cx: &Context<'_>,
    settings: &Factorization,
    methods: &[&dyn Method],
) -> Result<Changes, PassError> {
    let run = |model: &Model, cx: &Context<'_>| factorize_own(model, cx, settings, methods);
    // Without samples no bias changes.
    if cx.calibration.is_some() { with_own_vectors(model, cx, run) } else { run(model, cx) }
}

/// The same, of a model where no two layers have a bias in common that may change.
fn factorize_own(
    model: &Model,
    cx: &Context<'_>,
    settings: &Factorization,
    methods: &[&dyn Method],
) -> Result<Changes, PassError> {
    let rule = settings.rule()?;
    let scene = Scene { model, facts: cx.facts.graph(), settings, rule };
    let mut changes = Changes::default();
    let sizes = match cx.calibration.filter(|c| !c.samples.is_empty()) {
        Some(c) => bindings(model, &*c.samples.get(0)?),
        None => Bindings::new(),
    };
    let bound = infer::infer(model, &sizes);
    let sites = sites(&scene, bound.graph(), methods, &mut changes);
    if sites.is_empty() {
        changes.notes.push("there is no layer that can be split".to_owned());
        return Ok(changes);
    }
    let split = Splitting { model, cx, settings, rule, sites, calibration: cx.calibration };
    split.run(&mut changes)?;
    Ok(changes)
}

/// A model that is being split.
pub(super) struct Splitting<'a> {
    pub(super) model: &'a Model,
    pub(super) cx: &'a Context<'a>,
    pub(super) settings: &'a Factorization,
    rule: Rule,
    pub(super) sites: Vec<Site<'a>>,
    pub(super) calibration: Option<&'a Calibration<'a>>,
}

/// Second moments by what they are of.
pub(super) struct Statistics {
    index: BTreeMap<(ValueId, Rows, usize), usize>,
    halves: Vec<Halves>,
}

impl Splitting<'_> {
    fn run(&self, changes: &mut Changes) -> Result<(), PassError> {
        let statistics = self.collect()?;
        let statistics = statistics.as_ref();
        let held = self.calibration.map(|c| Held::new(Fold::First, self.model, c, self.settings.probes)).transpose()?;
        changes.notes.extend(held.as_ref().and_then(Held::bounded));
        let decomposed = self.decompose(statistics, Fold::First, None);
        let mut options: Vec<Vec<Pick>> = self.sites.iter().zip(&decomposed).map(|(s, d)| s.options(d)).collect();
        let left_out = left_out(self.rule, &self.sites, &options);
        for &i in &left_out {
            options.iter_mut().skip(i).take(1).for_each(Vec::clear);
        }
        let mut crossed = None;
        let (chosen, confirmed) = match self.rule {
            Rule::Own(own) => (options.iter().map(|o| best(own, o).cloned()).collect(), None),
            Rule::Budget(budget) => {
                let searched = self.calibration.filter(|_| self.settings.allocation == Allocation::Global);
                let of = |c| Held::crossed(self.model, c, self.settings.probes);
                crossed = searched.map(of).transpose()?.flatten();
                let ranks =
                    Ranks { split: self, options: &options, left_out: &left_out, decomposed: &decomposed, statistics };
                ranks.for_budget(budget, held.as_ref(), crossed.as_ref(), &mut changes.notes)?
            }
        };
        self.report(&options, &decomposed, &chosen, &left_out, statistics.is_some(), changes);
        if chosen.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut in_turn = false;
        if let (Some(held), Some(calibration)) = (&held, self.calibration) {
            let (errors, held) = match confirmed.zip(crossed.as_ref()) {
                Some(confirmed) => confirmed,
                None => {
                    let patches = self.patches(&chosen, &decomposed)?;
                    (self.errors(&chosen, &patches, statistics, held, calibration)?, held)
                }
            };
            in_turn = errors.prefer_in_turn();
            changes.notes.insert(0, format!("{}: {errors}", held.place()));
        }
        if let (true, Some(calibration)) = (in_turn, self.calibration) {
            drop(decomposed);
            let patches = self.in_turn(&chosen, statistics, Fold::Both, calibration, &mut changes.notes)?;
            changes.patches.extend(patches.into_iter().map(|p| (GraphPath::main(), p)));
            return Ok(());
        }
        // Without samples, and with only one, there is nothing more to fit to.
        let patches = match statistics {
            Some(s) if s.halves.iter().any(Halves::are_two) => {
                drop(decomposed);
                self.patches(&chosen, &self.decompose(statistics, Fold::Both, Some(&chosen)))?
            }
            _ => self.patches(&chosen, &decomposed)?,
        };
        changes.patches.extend(patches.into_iter().map(|p| (GraphPath::main(), p)));
        Ok(())
    }

    /// Second moments of what the layers read, each once. Nothing without samples.
    fn collect(&self) -> Result<Option<Statistics>, PassError> {
        let Some(calibration) = self.calibration.filter(|_| self.settings.whiten) else { return Ok(None) };
        let mut index = BTreeMap::new();
        let mut wants = Vec::new();
        for reads in self.sites.iter().flat_map(|s| &s.layers).filter_map(|l| l.reads()) {
            for &value in &reads.values {
                index.entry((value, reads.rows.clone(), reads.width)).or_insert_with(|| {
                    let halves = Halves::new(reads.rows.clone(), reads.width).with_working(WORKING);
                    wants.push(Want::of(self.model.graph.name_of(value), halves));
                    wants.len() - 1
                });
            }
        }
        let halves = calibration.collect_for_search(self.model, wants, KEPT)?;
        Ok(Some(Statistics { index, halves }))
    }

    /// Decomposes all sites in all ways, or only as it was chosen; fitted to a half of the samples or to all.
    pub(super) fn decompose(
        &self,
        statistics: Option<&Statistics>,
        fold: Fold,
        chosen: Option<&[Option<Pick>]>,
    ) -> Vec<Decompositions<'_>> {
        let layers = |(i, s): (usize, &Site<'_>)| (0..s.layers.len()).map(move |l| (i, l)).collect::<Vec<_>>();
        let jobs: Vec<(usize, usize)> = self.sites.iter().enumerate().flat_map(layers).collect();
        let run = |&(i, l): &(usize, usize)| {
            let site = self.sites.get(i)?;
            let layer = site.layers.get(l)?;
            let pick = chosen.map(|c| c.get(i).and_then(Option::as_ref).filter(|p| p.layer == l));
            if matches!(pick, Some(None)) {
                return Some((i, Err("it was not chosen".to_owned())));
            }
            let ranks = pick.flatten().map(|p| p.choice.ranks.as_slice());
            let moments = statistics.zip(layer.reads()).and_then(|(s, reads)| s.moments(&reads, fold));
            Some((
                i,
                layer.decompose(&Known { places: &site.places, moments: moments.as_ref(), ranks, refitted: None }),
            ))
        };
        let done: Vec<Option<_>> = jobs.par_iter().map(run).collect();
        let mut sorted: Vec<Decompositions<'_>> = self.sites.iter().map(|_| Vec::new()).collect();
        for (i, d) in done.into_iter().flatten() {
            if let Some(list) = sorted.get_mut(i) {
                list.push(d);
            }
        }
        sorted
    }

    pub(super) fn patches(
        &self,
        chosen: &[Option<Pick>],
        decomposed: &[Decompositions<'_>],
    ) -> Result<Vec<Patch>, PassError> {
        let mut patches = Vec::new();
        for ((site, pick), decompositions) in self.sites.iter().zip(chosen).zip(decomposed) {
            let Some(pick) = pick else { continue };
            let mut patch = Patch::new(Numerics::Lossy, site.title(pick));
            let decomposition = match decompositions.get(pick.layer) {
                Some(Ok(d)) => d,
                Some(Err(why)) => return Err(PassError::Precondition(format!("{:?}: {why}", site.name))),
                None => continue,
            };
            let emitted = decomposition.emit(&pick.choice.ranks, &mut patch);
            emitted.map_err(|why| PassError::Precondition(format!("{:?}: {why}", site.name)))?;
            patches.push(patch);
        }
        Ok(patches)
    }

    pub(super) fn apply(&self, patches: &[Patch]) -> Result<Model, PassError> {
        let mut model = self.model.clone();
        for patch in patches {
            let applied = model.apply(&GraphPath::main(), patch.clone());
            applied.map_err(|e| PassError::Precondition(e.to_string()))?;
        }
        Ok(model)
    }

    /// What the outputs lose on held samples with layers split by these patches, from what they read before, and with each split and fitted after
    /// those in front of it, if that may be done.
    pub(super) fn errors(
        &self,
        chosen: &[Option<Pick>],
        patches: &[Patch],
        statistics: Option<&Statistics>,
        held: &Held,
        calibration: &Calibration<'_>,
    ) -> Result<FitErrors, PassError> {
        let at_once = held.error(&self.apply(patches)?, calibration)?;
        // With one sample nothing could tell which is better.
        if !self.settings.refit || held.is_seen() {
            return Ok(FitErrors { at_once, in_turn: None });
        }
        let fitted = held.fitted(calibration);
        let half = Calibration { samples: &fitted, ..*calibration };
        let patches = self.in_turn(chosen, statistics, held.fold(), &half, &mut Vec::new())?;
        Ok(FitErrors { at_once, in_turn: Some(held.error(&self.apply(&patches)?, calibration)?) })
    }

    /// The patches that split layers in their order, each after those in front of it.
    fn in_turn(
        &self,
        chosen: &[Option<Pick>],
        statistics: Option<&Statistics>,
        fold: Fold,
        calibration: &Calibration<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Patch>, PassError> {
        let masks = Masks::new();
        let mut in_turn = InTurn { turns: Vec::new(), damping: DAMPING };
        for (site, pick) in self.sites.iter().zip(chosen) {
            let Some(pick) = pick else { continue };
            let Some(layer) = site.layers.get(pick.layer) else { continue };
            in_turn.turns.push(Turn {
                weights: &site.weights,
                layer: layer.as_ref(),
                places: &site.places,
                ranks: &pick.choice.ranks,
                title: site.title(pick),
            });
        }
        let sequence = Sequence {
            original: self.model,
            facts: self.cx.facts,
            masks: &masks,
            calibration,
            reach: usize::MAX,
            replace: None,
        };
        // Layers that cannot be fitted are split by what they read before.
        let fitted = Sequence { replace: Some(&in_turn), ..sequence }.weights(self.model);
        let is_fitted = |weights: &[ValueId]| weights.iter().all(|w| fitted.contains(w));
        let others: Vec<Option<Pick>> =
            self.sites.iter().zip(chosen).map(|(s, p)| p.clone().filter(|_| !is_fitted(&s.weights))).collect();
        let mut patches = self.patches(&others, &self.decompose(statistics, fold, Some(&others)))?;
        in_turn.turns.retain(|t| is_fitted(t.weights));
        let mut model = self.apply(&patches)?;
        patches.extend(Sequence { replace: Some(&in_turn), ..sequence }.refit(&mut model, notes)?);
        Ok(patches)
    }

    /// The table: what was decided of each layer, and why.
    fn report(
        &self,
        options: &[Vec<Pick>],
        decomposed: &[Decompositions<'_>],
        chosen: &[Option<Pick>],
        left_out: &BTreeSet<usize>,
        whitened: bool,
        changes: &mut Changes,
    ) {
        let sites = self.sites.iter().zip(options).zip(decomposed).zip(chosen).enumerate();
        for (_, (((site, options), decompositions), chosen)) in sites.filter(|(i, _)| !left_out.contains(i)) {
            let reads = |p: &Pick| whitened && site.layers.get(p.layer).is_some_and(|l| l.reads().is_some());
            let decision = match chosen {
                Some(pick @ Pick { choice, .. }) => format!(
                    "rank {}{}, energy {:.4}, error of its {} {:.2e}, MACs {} to {}, bytes moved {} to {}: split",
                    ranks(choice),
                    if site.weights.len() > 1 { " in common" } else { "" },
                    choice.energy,
                    if reads(pick) { "outputs" } else { "weights" },
                    choice.error,
                    site.cost.macs,
                    choice.cost.macs,
                    site.cost.bytes(),
                    choice.cost.bytes(),
                ),
                None => {
                    let failed = decompositions.iter().find_map(|d| d.as_ref().err());
                    let why = match (failed, options.is_empty(), self.rule) {
                        (Some(why), true, _) => why.clone(),
                        (None, true, Rule::Budget(_)) => format!("no rank makes it {}", site.gain().word()),
                        (None, true, Rule::Own(_)) => {
                            format!("at the rank asked for it is no {}", site.gain().word())
                        }
                        (_, false, _) => "the budget is kept at less loss in other layers".to_owned(),
                    };
                    format!("MACs {}, bytes moved {}: stays: {why}", site.cost.macs, site.cost.bytes())
                }
            };
            changes.notes.push(format!("{} ({}): {decision}", site.name, site.form));
        }
    }
}

impl Statistics {
    /// Of the rows of all nodes of a layer.
    fn moments(&self, reads: &Reads, fold: Fold) -> Option<Moments> {
        let of = |v: &ValueId| self.halves.get(*self.index.get(&(*v, reads.rows.clone(), reads.width))?);
        let halves: Vec<&Halves> = reads.values.iter().map(of).collect::<Option<_>>()?;
        let count = halves.len().max(1) as f64;
        let (first, others) = halves.split_first()?;
        let mut matrix = first.matrix(fold, reads.centred);
        let mut mean = vec![0.0; reads.width];
        others.iter().for_each(|h| matrix += h.matrix(fold, reads.centred));
        for h in &halves {
            mean.iter_mut().zip(h.mean(fold)).for_each(|(m, x)| *m += x / count);
        }
        Some(Moments { matrix: damped(matrix, DAMPING), mean: reads.centred.then_some(mean) })
    }
}
