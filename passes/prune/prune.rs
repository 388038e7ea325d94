//! Take out channels, heads and neurons, and let the weights behind them make up for it.
//!
//! Before     h = Relu (Conv (x, w0));  y = Conv (h, w1)          h has 64 channels
//! After      h = Relu (Conv (x, w0'));  y = Conv (h, w1', b')    h has 40; w1' and b' are fitted to what the layer computed before
//! When       channels that nothing blocks (`planish inspect --prunable`) and that only layers with constant weights sum over:
//!            MatMul, Gemm and Conv of the main graph
//! Refuses    channels that are mixed (normalized over), that an activation sums over (the size of queries and keys), or that a
//!            convolution in groups sums over · without calibration data
//! Numerics   Lossy: the report gives the error of the outputs on samples that the fits, of which it takes the better, have not seen
//! Reference  Hassibi, Stork: Second order derivatives for network pruning: optimal brain surgeon, NIPS 1992; Frantar, Alistarh: Optimal
//!            Brain Compression, NeurIPS 2022
//!
//! Which channels go within a class follows from the second moments of what its readers read; how many go in each class from what
//! taking a quarter out of it alone does to the outputs, on samples that were held out, and from what it saves.

use std::collections::BTreeMap;

use planish_ir::{
    Dim, GraphPath, Model, NodeId,
    axes::{Class, Classes, classes},
    infer::Bindings,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    allocate::{Budget, Candidate, Costs, allocate},
    eliminate::Curve,
    fitting::{Fitting, Removed},
    units::prunable,
};
use crate::{Changes, Context, Linear, Pass, PassError, Shape, Transform, calibration::bindings, reconstruct::Held};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// Share of the multiply-accumulates to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of the parameters to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// What is kept of a class is a multiple of this, where the class is large enough: runtimes are slow on odd sizes.
    pub round_to: u64,
    /// Share of each class that is kept at least.
    pub min_keep: f64,
    /// Weights whose channels stay, by name.
    pub protect: Vec<String>,
    /// Samples on which the effect of each class is measured.
    pub probes: u64,
}

/// What readers lose below this is rounding, and says nothing of what more channels cost.
const ROUNDING: f64 = 1e-8;

impl Default for Prune {
    fn default() -> Prune {
        Prune { macs: None, params: None, round_to: 8, min_keep: 0.1, protect: Vec::new(), probes: 32 }
    }
}

impl Pass for Prune {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Prune {
    fn budget(&self) -> Result<Budget, PassError> {
        let (budget, share) = match (self.macs, self.params) {
            (Some(share), None) => (Budget::Macs(share), share),
            (None, Some(share)) => (Budget::Parameters(share), share),
            _ => {
                let message =
                    "give one budget, the share that is kept: `- prune: {macs: 0.5}` or `- prune: {params: 0.5}`";
                return Err(PassError::Precondition(message.to_owned()));
            }
        };
        match share > 0.0 && share <= 1.0 {
            true => Ok(budget),
            false => Err(PassError::Precondition(format!("{share} is no share to keep, from above 0 to 1"))),
        }
    }
}

impl Transform for Prune {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let budget = self.budget()?;
        let calibration = cx.calibrated()?;
        let sample = calibration.samples.get(0)?;
        let bindings = bindings(model, &sample);
        let classes = classes(model, cx.facts);
        let mut changes = Changes::default();
        let groups = self.groups(model, cx, &classes, &bindings, &mut changes);
        if groups.is_empty() {
            changes.notes.push("nothing can be pruned; `planish inspect --prunable` says why".to_owned());
            return Ok(changes);
        }
        let mut fitting = Fitting::new(model, cx, calibration, &classes, &groups)?;
        let curves = fitting.curves(&groups, self.min_keep);
        let held = Held::new(model, calibration, self.probes)?;
        let mut candidates = Vec::new();
        for (group, curve) in groups.iter().zip(&curves) {
            match self.candidate(group, curve.as_ref(), &fitting, &held) {
                Ok(candidate) => candidates.extend(candidate),
                Err(why) => changes.notes.push(format!("{}: {} channels stay: {why}", group.name, group.size)),
            }
        }
        let costs = Costs::of(model, cx.facts, &classes, &bindings, budget);
        let chosen = allocate(&candidates, &costs, budget);
        let mut removed = Removed::new();
        let mut shares = BTreeMap::new();
        for (candidate, at) in candidates.iter().zip(chosen) {
            let count = candidate.steps.get(at).map_or(0, |s| s.0);
            let found = groups.iter().zip(&curves).find(|(g, _)| g.class == candidate.class);
            if let (true, Some((group, Some(curve)))) = (count > 0, found) {
                removed.insert(group.class, curve.first(count));
                shares.insert(group.class, count as f64 / group.size as f64);
                let share = 100.0 * curve.error_at(count);
                changes.notes.push(format!(
                    "{}: {} of {} stay; its readers lose {share:.2} % of their power",
                    group.name,
                    group.size - count,
                    group.size
                ));
            }
        }
        let kept = costs.total(&shares) / costs.total(&BTreeMap::new()).max(1.0);
        let what = if matches!(budget, Budget::Macs(_)) { "MACs" } else { "parameters" };
        let finished = fitting.finish(&removed, &held)?;
        let summary = format!("{:.1} % of the {what} are kept; {}", 100.0 * kept, finished.errors);
        changes.notes.insert(0, summary);
        changes.notes.extend(finished.notes);
        let (Budget::Macs(asked) | Budget::Parameters(asked)) = budget;
        if kept > asked + 0.02 {
            changes.notes.push(format!("{:.1} % were asked for: no more can be taken out", 100.0 * asked));
        }
        changes.patches = finished.patches;
        Ok(changes)
    }
}

/// A layer, and its columns for each channel of a class.
pub(super) type Reads = (NodeId, Vec<Vec<usize>>);

/// A class that can be pruned.
pub(super) struct Group {
    /// Its index in [`Classes::all`].
    pub(super) class: usize,
    /// Channels.
    pub(super) size: u64,
    /// Its first weight.
    name: String,
    /// Layers that sum over it, and the columns of each channel.
    pub(super) readers: Vec<Reads>,
    /// Channels are blocks, as heads are.
    is_blocked: bool,
}

impl Prune {
    /// The classes that can be pruned; what cannot is noted.
    fn groups(
        &self,
        model: &Model,
        cx: &Context<'_>,
        classes: &Classes,
        bindings: &Bindings,
        changes: &mut Changes,
    ) -> Vec<Group> {
        let units = prunable(model, cx.facts, classes, bindings);
        let mut groups = Vec::new();
        for unit in &units.free {
            let Some(class) = classes.all().get(unit.class) else { continue };
            let names = weights(model, class);
            let name = names.first().cloned().unwrap_or_default();
            let Some(size) = unit.size.filter(|&n| n > 1) else { continue };
            if names.iter().any(|n| self.protect.contains(n)) {
                continue;
            }
            match readers(model, cx, class) {
                Ok(readers) => {
                    let is_blocked = is_blocked(class);
                    groups.push(Group { class: unit.class, size, name, readers, is_blocked });
                }
                Err(why) => changes.notes.push(format!("{name}: {size} channels stay: {why}")),
            }
        }
        groups
    }

    /// What it costs to take channels out of a class, from what taking about a quarter out of it does to the outputs. Nothing if
    /// none may go; fails with the reason if it cannot be found out.
    fn candidate(
        &self,
        group: &Group,
        curve: Option<&Curve>,
        fitting: &Fitting<'_>,
        held: &Held,
    ) -> Result<Option<Candidate>, String> {
        let curve = curve.ok_or("what its readers read is singular or not finite")?;
        let steps = self.allowed(group, curve);
        if steps.iter().all(|&k| k == 0) {
            return Ok(None);
        }
        let costs = steps.iter().copied().filter(|&k| curve.error_at(k) > ROUNDING);
        let gain = match costs.min_by_key(|k| k.abs_diff(group.size / 4)) {
            Some(probe) => {
                let removed = BTreeMap::from([(group.class, curve.first(probe))]);
                fitting.probe(&removed, held).map_err(|e| e.to_string())? / curve.error_at(probe)
            }
            // All that may go is free.
            None => 0.0,
        };
        let steps = steps.iter().map(|&k| (k, gain * curve.error_at(k))).collect();
        Ok(Some(Candidate { class: group.class, size: group.size, steps }))
    }

    /// Numbers of channels that may go, ascending from 0.
    fn allowed(&self, group: &Group, curve: &Curve) -> Vec<u64> {
        let limit = curve.order.len() as u64;
        let mut quantum = if group.is_blocked { 1 } else { self.round_to.max(1) };
        while quantum > 1 && group.size < 4 * quantum {
            quantum /= 2;
        }
        (0..=limit).filter(|k| *k == 0 || (group.size - k).is_multiple_of(quantum)).collect()
    }
}

/// True if channels are blocks, as heads are: of them there are few, and each is large.
fn is_blocked(class: &Class) -> bool {
    class.members.iter().any(|m| m.block != Dim::Known(1))
}

fn weights(model: &Model, class: &Class) -> Vec<String> {
    let name = |m: &planish_ir::axes::Member| {
        let graph = model.graph_at(&m.graph)?;
        graph.constant(m.value).filter(|t| t.rank() > 1).map(|_| graph.name_of(m.value))
    };
    class.members.iter().filter_map(name).collect()
}

/// The layers that sum over a class; or why it is not pruned.
fn readers(model: &Model, cx: &Context<'_>, class: &Class) -> Result<Vec<Reads>, String> {
    if !class.mixed.is_empty() {
        return Err("a normalization or the like mixes them".into());
    }
    let main = GraphPath::main();
    if class.members.iter().any(|m| m.graph != main) {
        return Err("a subgraph has them".into());
    }
    let mut readers = Vec::new();
    for place in &class.summed {
        let graph = &model.graph;
        let name = || {
            graph
                .node(place.node)
                .map_or_else(String::new, |n| n.output(0).map_or_else(String::new, |v| graph.name_of(v)))
        };
        let linear = Linear::of(graph, place.node).filter(|l| l.groups() == 1);
        let linear =
            linear.ok_or_else(|| format!("{:?} sums over them, and is no layer with constant weights", name()))?;
        let rank = cx.facts.shape(linear.input).map_or(0, <[_]>::len);
        let axis = planish_ir::infer::axis(linear.channel_axis, rank)?;
        let size = class.size.known().unwrap_or(0);
        let here: Vec<_> =
            class.members.iter().filter(|m| m.graph == main && m.value == linear.input && m.axis == axis).collect();
        let columns = |channel: u64| -> Option<Vec<usize>> {
            let mut columns = Vec::new();
            for m in &here {
                for p in m.places(channel)? {
                    let first = usize::try_from(p).ok()?.checked_mul(linear.taps)?;
                    columns.extend(first..first.checked_add(linear.taps)?);
                }
            }
            columns.sort_unstable();
            Some(columns)
        };
        let all: Option<Vec<Vec<usize>>> = (0..size).map(columns).collect();
        let width = graph.constant(linear.weight).and_then(|w| linear.width(w)).unwrap_or(0);
        let all = all.filter(|c| c.iter().any(|c| !c.is_empty()) && c.iter().flatten().all(|&c| c < width));
        readers.push((place.node, all.ok_or_else(|| format!("where {:?} has them is not known", name()))?));
    }
    if readers.is_empty() { Err("nothing sums over them".into()) } else { Ok(readers) }
}
