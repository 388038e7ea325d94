//! Making heads smaller: their bases, how many channels stay, the cut, and what makes up for it.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{GraphPath, Model, Patch, axes::Classes};

use super::{
    allocate::{Ladder, Step, allocate, uniform},
    attention::LowRankAttention,
    rank::{Allocation, Budget, Own, Rule},
};
use crate::{
    Calibration, Changes, Context, PassError,
    heads::{Bases, ROUNDING, Turning, Unit, lost},
    prune::{Refit, cut, masks},
    reconstruct::{FitErrors, Fold, Held, Pair, Sequence},
};

/// A model whose heads are made smaller.
pub(super) struct Shrinking<'a> {
    settings: &'a LowRankAttention,
    model: &'a Model,
    cx: &'a Context<'a>,
    calibration: &'a Calibration<'a>,
    classes: &'a Classes,
    units: &'a [Unit],
    turning: Turning<'a>,
}

impl<'a> Shrinking<'a> {
    pub(super) fn new(
        settings: &'a LowRankAttention,
        model: &'a Model,
        cx: &'a Context<'a>,
        calibration: &'a Calibration<'a>,
        classes: &'a Classes,
        units: &'a [Unit],
    ) -> Result<Shrinking<'a>, PassError> {
        let turning = Turning::new(model, calibration, units)?;
        Ok(Shrinking { settings, model, cx, calibration, classes, units, turning })
    }

    pub(super) fn run(&self, rule: Rule, changes: &mut Changes) -> Result<(), PassError> {
        let first = self.turning.bases(Fold::First)?;
        let held = Held::new(Fold::First, self.model, self.calibration, self.settings.probes)?;
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
        if kept.iter().zip(self.units).all(|(k, u)| *k == u.size) {
            return Ok(());
        }
        let Shrunk { model: trial, rotated, .. } = self.shrink(&first, &kept)?;
        // A channel on two sides of a product, for example, would be turned twice.
        let turned = held.error(&rotated, self.calibration)?;
        if turned > ROUNDING {
            let why = format!(
                "nothing is made smaller: the change of basis alone changes the outputs by {turned:.2e}, which it must not"
            );
            changes.notes.push(why);
            return Ok(());
        }
        let whole = self.shrink(&self.turning.bases(Fold::Both)?, &kept)?;
        changes.patches.clone_from(&whole.patches);
        let errors = match self.settings.refit {
            true => {
                let masks = masks(self.model, self.cx.facts, self.classes, &self.removed(&kept));
                let masks = masks.map_err(|e| PassError::Precondition(e.to_string()))?;
                // What layers inside attention computed they computed in the new bases.
                let sequence = Sequence {
                    original: &rotated,
                    facts: self.cx.facts,
                    masks: &masks,
                    calibration: self.calibration,
                    reach: usize::MAX,
                    replace: None,
                };
                let pair = Pair { original: &whole.rotated, compressed: &whole.model };
                let tried = sequence.refit_if_better(trial, pair, &held, &mut changes.notes)?;
                let refits = tried.patches.into_iter().flatten();
                changes.patches.extend(refits.map(|p| (GraphPath::main(), p)));
                tried.errors
            }
            false => FitErrors { at_once: held.error(&trial, self.calibration)?, in_turn: None },
        };
        changes.notes.insert(0, format!("{}: {errors}", held.place()));
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

    /// Keeps so many channels of each unit.
    fn shrink(&self, bases: &[Option<Bases>], kept: &[usize]) -> Result<Shrunk, PassError> {
        let precondition = |e: String| PassError::Precondition(e);
        let removed = self.removed(kept);
        let constants = self.turning.constants(bases, |u| removed.contains_key(&u.class))?;
        let rotated = self.turning.with(&constants)?;
        let refit = Refit { constants, biases: BTreeMap::new() };
        let patches = cut(self.model, self.cx.facts, self.classes, &removed, &refit);
        let patches = patches.map_err(|e| precondition(e.to_string()))?;
        let mut shrunk = self.model.clone();
        for (path, patch) in &patches {
            shrunk.apply(path, patch.clone()).map_err(|e| precondition(e.to_string()))?;
        }
        Ok(Shrunk { patches, model: shrunk, rotated })
    }

    fn removed(&self, kept: &[usize]) -> BTreeMap<usize, BTreeSet<u64>> {
        let goes = |(u, &k): (&Unit, &usize)| (u.class, (k as u64..u.size as u64).collect::<BTreeSet<u64>>());
        self.units.iter().zip(kept).map(goes).filter(|(_, c)| !c.is_empty()).collect()
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
