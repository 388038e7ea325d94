//! `sensitivity: auto`: runs assignments on samples, and says what was decided.

use std::collections::BTreeMap;

use planish_ir::{Model, NodeId, cost};

use super::{
    bound::{Bound, Figures},
    draft::{Draft, Written},
    emit,
    judged::Judged,
    predict::{self, Decision},
    sensitivity::{self, Found, Level, Measure, Options},
};
use crate::{PassError, quantize::Site, reconstruct::Held};

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) bound: Bound,
    /// Least share of the multiply-accumulates in codes.
    pub(crate) least_share: f64,
    pub(crate) samples: u64,
    pub(crate) probes: u64,
    pub(crate) options: Options,
    /// Weights may be rounded for what they are multiplied with.
    pub(crate) compensates: bool,
}

/// Runs assignments.
struct Runs<'d, 'a> {
    draft: &'d mut Draft<'a>,
    sites: &'d [Site],
    bound: Bound,
    outputs: &'d Judged,
    all: Held,
    few: Held,
}

impl Runs<'_, '_> {
    fn model(&mut self, levels: &[Level]) -> Result<Model, PassError> {
        let written = self.draft.write(&by_node(self.sites, levels))?;
        let mut model = self.draft.model.clone();
        let applied = written.patch.apply(&mut model.graph);
        applied.map_err(|e| PassError::Precondition(format!("an assignment cannot be written: {e}")))?;
        Ok(model)
    }

    fn figures(&mut self, levels: &[Level], all: bool) -> Result<Figures, PassError> {
        let model = self.model(levels)?;
        let held = if all { &self.all } else { &self.few };
        self.outputs.figures(&self.bound, held, &model, self.draft.calibration)
    }
}

impl Measure<PassError> for Runs<'_, '_> {
    fn all(&mut self, levels: &[Level]) -> Result<Figures, PassError> {
        let figures = self.figures(levels, true)?;
        let floats = levels.iter().filter(|l| **l == Level::Float).count();
        log::debug!("{floats} of {} sites in floats: {}", levels.len(), figures.summary);
        Ok(figures)
    }

    fn few(&mut self, levels: &[Level]) -> Result<f64, PassError> {
        let error = self.figures(levels, false)?.error;
        let site = levels.iter().position(|l| *l != Level::Float).and_then(|at| self.sites.get(at));
        let name = site.and_then(|s| s.nodes.first()).map(|n| emit::label(self.draft.at.graph, *n));
        log::debug!("only {} in codes: {:.1} dB", name.unwrap_or_default(), -10.0 * error.log10());
        Ok(error)
    }
}

fn by_node(sites: &[Site], levels: &[Level]) -> BTreeMap<NodeId, Level> {
    sites.iter().zip(levels).flat_map(|(site, level)| site.nodes.iter().map(|n| (*n, *level))).collect()
}

/// The cheapest assignment that was found to keep the bound, written. Fails if there is none, and says how near it came.
pub(crate) fn assign(
    draft: &mut Draft<'_>,
    sites: &[Site],
    total: &cost::ModelCost,
    asked: &Asked,
    notes: &mut Vec<String>,
) -> Result<(Written, BTreeMap<NodeId, Decision>), PassError> {
    let (model, calibration) = (draft.model, draft.calibration);
    let outputs = Judged::of(model);
    let names = outputs.names();
    let all = Held::spread(model, calibration, asked.samples, names.clone())?;
    let few = Held::spread(model, calibration, asked.probes, names)?.of_changes(model, calibration)?;
    notes.extend(all.bounded());
    let (samples, probes) = (all.len(), few.len());
    let macs: Vec<u64> = sites
        .iter()
        .map(|s| s.nodes.iter().filter_map(|n| draft.units.get(n)).fold(0, |sum, u| u.macs.saturating_add(sum)))
        .collect();
    let mut runs = Runs { draft, sites, bound: asked.bound, outputs: &outputs, all, few };
    let everything = vec![Level::Codes; sites.len()];
    let mut plain = runs.all(&everything)?;
    notes.push(format!("everything in codes, on {samples} samples: {}", plain.summary));
    if asked.compensates && !plain.holds() {
        let (mut said, before) = (Vec::new(), plain.clone());
        let weights = runs.draft.compensate(&mut said)?;
        plain = runs.all(&everything)?;
        if plain.error < before.error {
            notes.append(&mut said);
            notes.push(format!("with these, everything in codes: {}", plain.summary));
        } else {
            (plain, runs.draft.weights) = (before, weights);
        }
    }
    let found = sensitivity::search(&macs, &asked.options, plain.clone(), &mut runs)?;
    let written = draft.write(&by_node(sites, &found.levels))?;
    let (in_codes, of) = predict::share(&written.placement, total);
    let share = in_codes as f64 / of.max(1) as f64;
    let is_empty = found.levels.iter().all(|l| *l == Level::Float);
    if is_empty || share < asked.least_share || !found.figures.holds() {
        return Err(missed(asked, &plain, &found, share));
    }
    if !found.alone.is_empty() {
        let raised = |level: Level| found.levels.iter().filter(|l| **l == level).count();
        notes.push(format!(
            "{} sites measured one by one on {probes} samples, {} assignments on {samples}",
            sites.len(),
            found.runs + 1
        ));
        let observed = found.levels.iter().filter(|l| matches!(l, Level::Observed(_))).count();
        notes.push(format!(
            "{observed} sites have another observer, {} have 16 bits and {} stay in floats: {}",
            raised(Level::Wide),
            raised(Level::Float),
            found.figures.summary
        ));
    }
    let decisions = decisions(sites, &found);
    Ok((written, decisions))
}

fn missed(asked: &Asked, plain: &Figures, found: &Found, share: f64) -> PassError {
    let mut message = match plain.holds() {
        true => String::new(),
        false => format!("with everything in codes, {}. ", plain.failures.join("; ")),
    };
    message += &match found.figures.holds() && share > 0.0 {
        true => format!(
            "The bound holds with {:.1} % of the multiply-accumulates in codes, below `least_share: {}` ({})",
            100.0 * share,
            asked.least_share,
            found.figures.summary
        ),
        false => "No assignment that leaves a product in codes was found to keep the bound".to_owned(),
    };
    let advice = if plain.holds() { "lower `least_share`" } else { "lower the bound, or choose another scheme" };
    PassError::Precondition(format!("{message}; {advice}"))
}

fn decisions(sites: &[Site], found: &Found) -> BTreeMap<NodeId, Decision> {
    let total: f64 = found.alone.iter().filter(|e| e.is_finite()).sum();
    let mut decisions = BTreeMap::new();
    for (at, (site, level)) in sites.iter().zip(&found.levels).enumerate() {
        let error = found.alone.get(at).copied();
        let share = 100.0 * error.unwrap_or(0.0) / total.max(f64::MIN_POSITIVE);
        let makes = match share.is_finite() {
            true => format!("makes {share:.1} % of the error of all"),
            false => "breaks the outputs".to_owned(),
        };
        let (precision, reason) = match level {
            Level::Codes => (None, None),
            Level::Observed(observer) => {
                (None, Some(format!("its range is found by the observer `{}`", observer.name())))
            }
            Level::Wide => (Some("int16"), Some(format!("in 8 bits it {makes}"))),
            Level::Float => (None, Some(format!("in codes it {makes}"))),
        };
        for node in &site.nodes {
            decisions.insert(*node, Decision { precision, error, reason: reason.clone() });
        }
    }
    decisions
}

#[cfg(test)]
#[path = "auto_tests.rs"]
mod tests;
