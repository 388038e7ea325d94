//! Splitting the layers of a model: which, into what, and what makes up for it. The same for all methods.
//!
//! 1. Layers are listed by their weights, so that a weight which several nodes read is factorized once.
//! 2. With samples, the second moments of what each reads are collected, in two halves.
//! 3. Each layer is decomposed, fitted to the first half. Options that the cost model finds no faster are dropped.
//! 4. For a budget, options are taken where the outputs lose least for what they save (`search.rs`).
//! 5. Layers are split and fitted in their order, each from what it reads by then (`in_turn.rs`); that is kept if it is better on the
//!    half of the samples that it is not fitted to.
//! 6. What was chosen is fitted to all samples.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    Graph, GraphPath, Model, Node, NodeId, Numerics, Operand, Patch, Use, ValueId,
    infer::{self, Bindings, GraphFacts},
    op,
};
use rayon::prelude::*;

use super::{
    in_turn::{InTurn, Turn, damped},
    method::{Choice, Cost, Decomposed, Gain, Known, Layer, Method, Moments, Place, Reads, Scene},
    rank::{Allocation, Factorization, Own, Rule},
    search::Ranks,
};
use crate::{
    Calibration, Changes, Context, PassError, Skip,
    calibration::{Rows, Want, bindings},
    reconstruct::{FitErrors, Fold, Halves, Held, Masks, Sequence},
};

/// Ridge of second moments, as a share of the mean of their diagonal.
const DAMPING: f64 = 1e-4;

/// Matrices of the size of second moments that a decomposition has at a time: the moments, those of each half or in blocks, what they are behind
/// a projection, and the factor of that.
const WORKING: u64 = 5;

/// A weight that can be split.
pub(super) struct Site<'a> {
    weight: ValueId,
    name: String,
    /// Operator and dims, for the table.
    form: String,
    /// As each of the methods sees it that can split it.
    layers: Vec<Box<dyn Layer + 'a>>,
    places: Vec<Place>,
    pub(super) cost: Cost,
}

/// An option of a site.
#[derive(Clone, PartialEq)]
pub(super) struct Pick {
    /// Index in [`Site::layers`].
    layer: usize,
    pub(super) choice: Choice,
}

/// The decompositions of a site, in the order of its layers.
pub(super) type Decompositions<'s> = Vec<Result<Box<dyn Decomposed + 's>, String>>;

/// Splits the layers of the main graph by the methods.
pub(super) fn factorize(
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

/// The weights that a method can split, in the order of the nodes that read them. What is refused is noted.
fn sites<'a>(scene: &Scene<'a>, bound: &GraphFacts, methods: &[&dyn Method], changes: &mut Changes) -> Vec<Site<'a>> {
    let graph = &scene.model.graph;
    let mut sites = Vec::new();
    let mut seen = BTreeSet::new();
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        if is_quantized(graph, node) {
            let why = "its weights are quantized already; factorize before quantizing";
            changes.skipped.push((GraphPath::main(), id, Skip::because(why)));
            continue;
        }
        for weight in node.inputs().iter().flatten().copied() {
            let is_weight = graph.constant(weight).is_some_and(|t| t.rank() > 1 && t.dtype().is_float());
            if is_weight && !seen.contains(&weight) {
                match site(scene, bound, methods, weight, id) {
                    Ok(found) => sites.push(found),
                    // Another node that reads it may be one that a method is about.
                    Err(Skip::NoMatch) => continue,
                    Err(skip) => changes.skipped.push((GraphPath::main(), id, skip)),
                }
                seen.insert(weight);
            }
        }
    }
    sites
}

fn site<'a>(
    scene: &Scene<'a>,
    bound: &GraphFacts,
    methods: &[&dyn Method],
    weight: ValueId,
    first: NodeId,
) -> Result<Site<'a>, Skip> {
    let graph = &scene.model.graph;
    let slot = graph.node(first).and_then(|n| n.inputs().iter().position(|v| *v == Some(weight)));
    let reader = |u: Use| match u {
        Use::Node(id, Operand::Input(at)) if usize::try_from(at).ok() == slot => Some(id),
        Use::Node(..) | Use::Output(_) => None,
    };
    let users: Option<Vec<NodeId>> = graph.users(weight).map(reader).collect();
    let mut layers = Vec::new();
    let mut refused = Skip::NoMatch;
    for method in methods {
        match method.layer(scene, weight, users.as_deref().unwrap_or(&[first])) {
            Ok(layer) => layers.push(layer),
            Err(skip @ Skip::Refused(_)) => refused = skip,
            Err(_) => {}
        }
    }
    if layers.is_empty() {
        return Err(refused);
    }
    let name = graph.name_of(weight);
    let Some(users) = users else {
        let why = "its weights are read in another way too, or by a subgraph, or are an output of the model";
        return Err(Skip::because(why));
    };
    let other = slot.map_or(0, |at| usize::from(at == 0));
    let is_constant =
        |id: &NodeId| graph.node(*id).and_then(|n| n.input(other)).is_some_and(|v| graph.constant(v).is_some());
    if users.iter().any(is_constant) {
        return Err(Skip::because("it is multiplied with a constant; `fold-constants` may compute the product"));
    }
    if scene.settings.protect.contains(&name) {
        return Err(Skip::because("its weights are protected"));
    }
    let dims = |v: Option<ValueId>| -> Vec<u64> {
        let shape = v.and_then(|v| bound.fact(v).shape()).unwrap_or_default();
        shape.iter().map(|d| d.known().unwrap_or(1)).collect()
    };
    // What it reads besides the weight.
    let input = |n: &Node| n.inputs().iter().flatten().copied().find(|&v| v != weight);
    let place = |n: &Node| Place { input: dims(input(n)), output: dims(n.output(0)) };
    let places: Vec<Place> = users.iter().filter_map(|&id| graph.node(id)).map(place).collect();
    let cost = layers.first().map(|l| l.cost(&places)).unwrap_or_default();
    let sizes: Vec<String> = graph.constant(weight).map_or(&[][..], |t| t.dims()).iter().map(u64::to_string).collect();
    let op = graph.node(first).map(|n| n.op.to_string()).unwrap_or_default();
    Ok(Site { weight, name, form: format!("{op} {}", sizes.join("x")), layers, places, cost })
}

/// True if a node multiplies by integers that stand for floats.
fn is_quantized(graph: &Graph, node: &Node) -> bool {
    let from_integers = |v: ValueId| {
        let producer = graph.producer(v).filter(|(_, n)| n.op.is("DequantizeLinear"));
        producer.is_some_and(|(_, n)| n.input(0).is_some_and(|q| graph.constant(q).is_some()))
    };
    let multiplies = op::of(node).is_some_and(|s| s.macs.is_some());
    let integer = |v: &ValueId| graph.constant(*v).is_some_and(|t| t.rank() > 1 && !t.dtype().is_float());
    multiplies && node.inputs().iter().flatten().any(|v| from_integers(*v) || integer(v))
}

/// A model that is being split.
pub(super) struct Splitting<'a> {
    pub(super) model: &'a Model,
    cx: &'a Context<'a>,
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
        let decomposed = self.decompose(statistics.as_ref(), Fold::First, None);
        let options: Vec<Vec<Pick>> = self.sites.iter().zip(&decomposed).map(|(s, d)| s.options(d)).collect();
        let held = self.calibration.map(|c| Held::new(Fold::First, self.model, c, self.settings.probes)).transpose()?;
        changes.notes.extend(held.as_ref().and_then(Held::bounded));
        let mut crossed = None;
        let (chosen, confirmed) = match self.rule {
            Rule::Own(own) => (options.iter().map(|o| best(own, o).cloned()).collect(), None),
            Rule::Budget(budget) => {
                let statistics = statistics.as_ref();
                let searched = self.calibration.filter(|_| self.settings.allocation == Allocation::Global);
                let of = |c| Held::crossed(self.model, c, self.settings.probes);
                crossed = searched.map(of).transpose()?.flatten();
                let ranks = Ranks { split: self, options: &options, decomposed: &decomposed, statistics };
                ranks.for_budget(budget, held.as_ref(), crossed.as_ref(), &mut changes.notes)?
            }
        };
        self.report(&options, &decomposed, &chosen, statistics.is_some(), changes);
        if chosen.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut in_turn = false;
        if let (Some(held), Some(calibration)) = (&held, self.calibration) {
            let (errors, held) = match confirmed.zip(crossed.as_ref()) {
                Some(confirmed) => confirmed,
                None => {
                    let patches = self.patches(&chosen, &decomposed)?;
                    (self.errors(&chosen, &patches, statistics.as_ref(), held, calibration)?, held)
                }
            };
            in_turn = errors.prefer_in_turn();
            changes.notes.insert(0, format!("{}: {errors}", held.place()));
        }
        if let (true, Some(calibration)) = (in_turn, self.calibration) {
            drop(decomposed);
            let patches = self.in_turn(&chosen, statistics.as_ref(), Fold::Both, calibration, &mut changes.notes)?;
            changes.patches.extend(patches.into_iter().map(|p| (GraphPath::main(), p)));
            return Ok(());
        }
        // Without samples, and with only one, there is nothing more to fit to.
        let patches = match &statistics {
            Some(s) if s.halves.iter().any(Halves::are_two) => {
                drop(decomposed);
                self.patches(&chosen, &self.decompose(Some(s), Fold::Both, Some(&chosen)))?
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
        let halves = calibration.collect(&[self.model], wants)?;
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
            let mut patch = Patch::new(Numerics::Lossy, title(site, pick));
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
        let mut in_turn = InTurn { layers: BTreeMap::new(), damping: DAMPING };
        for (site, pick) in self.sites.iter().zip(chosen) {
            let Some(pick) = pick else { continue };
            let Some(layer) = site.layers.get(pick.layer) else { continue };
            let (ranks, title) = (pick.choice.ranks.as_slice(), title(site, pick));
            in_turn.layers.insert(site.weight, Turn { layer: layer.as_ref(), places: &site.places, ranks, title });
        }
        let sequence = Sequence {
            original: self.model,
            facts: self.cx.facts,
            masks: &masks,
            calibration,
            reach: usize::MAX,
            replace: Some(&in_turn),
        };
        // Layers that cannot be fitted are split by what they read before.
        let fitted = sequence.weights(self.model);
        let is_other = |s: &Site<'_>| !fitted.contains(&s.weight);
        let others: Vec<Option<Pick>> =
            self.sites.iter().zip(chosen).map(|(s, p)| p.clone().filter(|_| is_other(s))).collect();
        let mut patches = self.patches(&others, &self.decompose(statistics, fold, Some(&others)))?;
        let mut model = self.apply(&patches)?;
        patches.extend(sequence.refit(&mut model, notes)?);
        Ok(patches)
    }

    /// The table: what was decided of each layer, and why.
    fn report(
        &self,
        options: &[Vec<Pick>],
        decomposed: &[Decompositions<'_>],
        chosen: &[Option<Pick>],
        whitened: bool,
        changes: &mut Changes,
    ) {
        for (((site, options), decompositions), chosen) in self.sites.iter().zip(options).zip(decomposed).zip(chosen) {
            let reads = |p: &Pick| whitened && site.layers.get(p.layer).is_some_and(|l| l.reads().is_some());
            let decision = match chosen {
                Some(pick @ Pick { choice, .. }) => format!(
                    "rank {}, energy {:.4}, error of its {} {:.2e}, MACs {} to {}, bytes moved {} to {}: split",
                    ranks(choice),
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

/// The option to take where ranks are chosen for each layer by itself: of those at a given rank the one that loses least, of those that keep
/// as much the fastest.
fn best(own: Own, options: &[Pick]) -> Option<&Pick> {
    match own {
        Own::Rank(_) | Own::Ratio(_) => options.iter().min_by(|a, b| a.choice.error.total_cmp(&b.choice.error)),
        Own::Energy(_) | Own::Evbmf => options.iter().min_by_key(|p| p.choice.cost.time()),
    }
}

impl Site<'_> {
    fn gain(&self) -> Gain {
        self.layers.first().map_or(Gain::Time, |l| l.gain())
    }

    /// What can be had and gains something over what there is.
    fn options(&self, decompositions: &Decompositions<'_>) -> Vec<Pick> {
        let mut picks = Vec::new();
        for (layer, decomposition) in decompositions.iter().enumerate() {
            let Ok(decomposition) = decomposition else { continue };
            let gain = self.gain();
            let pays = |c: &&Choice| gain.of(&c.cost) < gain.of(&self.cost) && c.error.is_finite();
            picks.extend(decomposition.options().iter().filter(pays).map(|c| Pick { layer, choice: c.clone() }));
        }
        picks
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

fn title(site: &Site<'_>, pick: &Pick) -> String {
    format!("{:?} split at {}", site.name, ranks(&pick.choice))
}

fn ranks(choice: &Choice) -> String {
    choice.ranks.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
