//! Drop whole residual blocks, those that the outputs miss least.
//!
//! Before     y = Add (x, MatMul (Relu (MatMul (x, u)), v));  z = MatMul (y, w)
//! After      z = MatMul (x, w')
//! When       a sum of a value and of something that is computed from it, in the same shape, with multiplications on the way: the
//!            blocks of transformers and of residual networks, whatever they are made of
//! Refuses    sums whose shapes are not known to be equal · blocks in subgraphs · without calibration data
//! Numerics   Lossy: the report gives the error of the outputs for each block, on samples that were held out
//! Reference  Huang et al.: Deep Networks with Stochastic Depth, ECCV 2016; Gromov et al.: The Unreasonable Ineffectiveness of the Deeper
//!            Layers, 2024; the fit: He, Zhang, Sun: Channel pruning for accelerating very deep neural networks, ICCV 2017
//!
//! The budget is the share that is kept, `macs: 0.8` or `params: 0.8`, or the number of blocks that go, `count: 2`. One block after the other
//! is dropped: always the one that adds least to the error of the outputs, per share that it saves. Where a normalization or an activation
//! follows the sum, as in transformers with the normalization behind each block, it is tried with the block and alone. Then the linear layers
//! that follow are fitted to what they, or the sums that they are a part of, were in the original model, if that is better on held samples.

mod blocks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, NodeId, Patch, PatchError, ValueId, cost::cost_of, infer::Bindings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Calibration, Changes, Context, Pass, PassError, Shape, Transform,
    calibration::bindings,
    reconstruct::{Fold, Held, Masks, Pair, Sequence, with_own_vectors},
};
use blocks::{blocks, patch};

/// Linear layers behind a dropped block that are fitted: about those of a block of a transformer.
const REACH: usize = 6;

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DropLayers {
    /// Share of the multiply-accumulates to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of the parameters to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// How many blocks go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The layers that follow are fitted, if it helps.
    pub refit: bool,
    /// Sums whose blocks stay, by the name of the value or of its node.
    pub protect: Vec<String>,
    /// Samples on which the effect of each block is measured.
    pub probes: u64,
}

impl Default for DropLayers {
    fn default() -> DropLayers {
        DropLayers { macs: None, params: None, count: None, refit: true, protect: Vec::new(), probes: 32 }
    }
}

impl Pass for DropLayers {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Budget {
    Macs(f64),
    Parameters(f64),
    Count(u64),
}

impl DropLayers {
    fn budget(&self) -> Result<Budget, PassError> {
        let wrong = |reason: String| Err(PassError::Precondition(reason));
        let budget = match (self.macs, self.params, self.count) {
            (Some(share), None, None) => Budget::Macs(share),
            (None, Some(share), None) => Budget::Parameters(share),
            (None, None, Some(count)) => Budget::Count(count),
            _ => {
                return wrong(
                    "give one budget: the share that is kept, `- drop-layers: {macs: 0.8}` or `{params: 0.8}`, or the number of blocks that \
                     go, `{count: 1}`"
                        .to_owned(),
                );
            }
        };
        match budget {
            Budget::Macs(share) | Budget::Parameters(share) if !(share > 0.0 && share <= 1.0) => {
                wrong(format!("{share} is no share to keep, from above 0 to 1"))
            }
            _ => Ok(budget),
        }
    }
}

impl Transform for DropLayers {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        with_own_vectors(model, cx, |model, cx| self.drop_blocks(model, cx))
    }
}

impl DropLayers {
    fn drop_blocks(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let budget = self.budget()?;
        let calibration = cx.calibrated()?;
        let sample = calibration.samples.get(0)?;
        let bindings = bindings(model, &sample);
        let held = Held::new(Fold::First, model, calibration, self.probes)?;
        let mut search = Search {
            config: self,
            cx,
            calibration,
            bindings,
            budget,
            held,
            start: 0.0,
            scores: BTreeMap::new(),
            round: 0,
        };
        let mut changes = Changes::default();
        changes.notes.extend(search.held.bounded());
        let start = search.size(model);
        if start == 0.0 {
            let why = format!("nothing goes: the {} of the model are not known, or there are none", search.unit());
            changes.notes.push(why);
            return Ok(changes);
        }
        search.start = start;
        let mut current = State { model: model.clone(), error: 0.0, size: start };
        let mut patches = Vec::new();
        while !search.is_enough(current.size / start.max(1.0)) {
            let Some((choice, next)) = search.next(&current, &mut changes.notes)? else {
                let gone = patches.len();
                changes
                    .notes
                    .push(format!("fewer blocks than asked for can go: {gone} went, and there is no other one"));
                break;
            };
            changes.notes.push(format!(
                "{} goes, {:.1} % of the {}; relative squared error of the outputs so far: {:.2e}",
                choice.name,
                100.0 * (current.size - next.size) / start.max(1.0),
                search.unit(),
                next.error
            ));
            patches.push(choice.patch);
            current = next;
        }
        if patches.is_empty() {
            return Ok(changes);
        }
        let refits = if self.refit { search.refit(model, &current, &mut changes.notes)? } else { Vec::new() };
        changes.notes.insert(
            0,
            format!(
                "{} blocks go; {:.1} % of the {} are kept",
                patches.len(),
                100.0 * current.size / start.max(1.0),
                search.unit()
            ),
        );
        changes.patches = patches.into_iter().chain(refits).map(|p| (GraphPath::main(), p)).collect();
        Ok(changes)
    }
}

/// A model without some blocks.
struct State {
    model: Model,
    /// Of the outputs on held samples.
    error: f64,
    /// Multiply-accumulates or parameters.
    size: f64,
}

/// A block that goes.
struct Choice {
    name: String,
    patch: Patch,
}

/// What it costs to drop a block, as of the round in which it was measured.
struct Score {
    /// What the error of the outputs would grow by, per share that is saved.
    slope: f64,
    round: usize,
}

struct Search<'a> {
    config: &'a DropLayers,
    cx: &'a Context<'a>,
    calibration: &'a Calibration<'a>,
    bindings: Bindings,
    budget: Budget,
    held: Held,
    /// Size of the model as it came.
    start: f64,
    /// Of the sums, and of what they end with: which of [`blocks::Block::ends`].
    scores: BTreeMap<(NodeId, usize), Score>,
    round: usize,
}

/// A block as it is in the model at hand.
struct Candidate {
    key: (NodeId, usize),
    stays: ValueId,
    end: ValueId,
}

impl Search<'_> {
    fn unit(&self) -> &'static str {
        if matches!(self.budget, Budget::Parameters(_)) { "parameters" } else { "MACs" }
    }

    fn size(&self, model: &Model) -> f64 {
        let cost = cost_of(model, self.cx.facts, &self.bindings);
        if matches!(self.budget, Budget::Parameters(_)) { cost.parameters as f64 } else { cost.macs as f64 }
    }

    fn is_enough(&self, kept: f64) -> bool {
        match self.budget {
            Budget::Macs(share) | Budget::Parameters(share) => kept <= share,
            Budget::Count(count) => self.round as u64 >= count,
        }
    }

    /// Drops the block that costs least. Blocks hardly cost less when others are gone; so what is known from earlier rounds is a bound,
    /// and only those are measured again that may be the least.
    fn next(&mut self, current: &State, notes: &mut Vec<String>) -> Result<Option<(Choice, State)>, PassError> {
        let graph = &current.model.graph;
        let (found, open) = blocks(graph, self.cx.facts.graph());
        if self.round == 0 && open > 0 {
            notes.push(format!(
                "{open} sums stay, as it is not known that their shapes are equal; `simplify` may find out"
            ));
        }
        let mut candidates = Vec::new();
        for block in found {
            let Some(node) = graph.node(block.sum) else { continue };
            let name = node.output(0).map_or_else(String::new, |v| graph.name_of(v));
            if self.config.protect.iter().any(|p| *p == name || *p == node.name) {
                continue;
            }
            let all = block.ends.iter().enumerate();
            candidates.extend(all.map(|(at, &end)| Candidate { key: (block.sum, at), stays: block.stays, end }));
        }
        let mut measured: BTreeMap<(NodeId, usize), State> = BTreeMap::new();
        loop {
            let slope = |c: &Candidate| self.scores.get(&c.key).map_or(f64::NEG_INFINITY, |s| s.slope);
            let best = candidates.iter().min_by(|a, b| slope(a).total_cmp(&slope(b)).then(a.key.cmp(&b.key)));
            let Some(best) = best.filter(|c| slope(c).is_finite() || !self.scores.contains_key(&c.key)) else {
                return Ok(None);
            };
            let name = format!("{:?} (up to {:?})", graph.name_of(best.stays), graph.name_of(best.end));
            if self.scores.get(&best.key).is_some_and(|s| s.round == self.round)
                && let Some(state) = measured.remove(&best.key)
            {
                let patch = patch(graph, best.stays, best.end);
                self.round += 1;
                return Ok(Some((Choice { name, patch }, state)));
            }
            let (slope, state) = match self.measure(current, best) {
                Err(PassError::Engine(e)) => {
                    notes.push(format!("{name} stays: without it the model cannot be run: {e}"));
                    (f64::INFINITY, None)
                }
                measured => measured?,
            };
            if let (0, Some(state)) = (self.round, &state) {
                let saved = 100.0 * (1.0 - state.size / current.size.max(1.0));
                notes.push(format!(
                    "{name}: {saved:.1} % of the {}, error {:.2e} if it goes alone",
                    self.unit(),
                    state.error
                ));
            }
            self.scores.insert(best.key, Score { slope, round: self.round });
            measured.extend(state.map(|s| (best.key, s)));
        }
    }

    /// The model without a block, and what that costs. Infinite if nothing is saved.
    fn measure(&self, current: &State, candidate: &Candidate) -> Result<(f64, Option<State>), PassError> {
        let mut model = current.model.clone();
        let patch = patch(&model.graph, candidate.stays, candidate.end);
        match model.apply(&GraphPath::main(), patch) {
            Ok(_) => {}
            // A value that has the name of an output and cannot lose it stays.
            Err(PatchError::Interface { .. }) => return Ok((f64::INFINITY, None)),
            Err(e) => return Err(PassError::Precondition(e.to_string())),
        }
        let size = self.size(&model);
        if size >= current.size {
            return Ok((f64::INFINITY, None));
        }
        let error = self.held.error(&model, self.calibration)?;
        let saved = match self.budget {
            Budget::Count(_) => 1.0,
            // Of the whole, so that what earlier rounds found can be compared.
            Budget::Macs(_) | Budget::Parameters(_) => (current.size - size) / self.start,
        };
        let slope = if error.is_finite() { (error - current.error) / saved } else { f64::INFINITY };
        Ok((slope, Some(State { model, error, size })))
    }

    /// Fits the layers behind the blocks that went, if it is better on samples that the fit has not seen.
    fn refit(&self, original: &Model, dropped: &State, notes: &mut Vec<String>) -> Result<Vec<Patch>, PassError> {
        let (nothing, facts, calibration) = (Masks::new(), self.cx.facts, self.calibration);
        let sequence = Sequence { original, facts, masks: &nothing, calibration, reach: REACH, replace: None };
        let pair = Pair { original, compressed: &dropped.model };
        let tried = sequence.refit_if_better(dropped.model.clone(), pair, &self.held, notes)?;
        let fitted = match tried.errors.in_turn {
            Some(after) => {
                let done = if tried.patches.is_some() { "what was done, on all samples" } else { "not done" };
                format!(", {after:.2e} with {} layers fitted, which is {done}", tried.layers)
            }
            None => String::new(),
        };
        notes.push(format!("{}: {:.2e} as it is{fitted}", self.held.place(), tried.errors.at_once));
        Ok(tried.patches.unwrap_or_default())
    }
}
