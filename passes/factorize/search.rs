//! Which option each layer gets, such that no more than a budget is left, by what that does to the outputs.
//!
//! One option of each layer is tried alone: what it does to the model's outputs on samples that no fit has seen, over the layer's own error,
//! is how sensitive the model is to the layer. Errors do not add up, so what that leads to is measured, and how sensitive the model is there;
//! that is followed as far as it leads to a better one (`trust_region.rs`).

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Model, Patch};

use super::{
    allocate::{Ladder, Step, allocate, dearest_first, hull, uniform},
    rank::{Allocation, Budget},
    sites::{Pick, Site},
    split::{Decompositions, Splitting, Statistics},
};
use crate::{
    Calibration, PassError,
    reconstruct::{FitErrors, Fold, Held},
    trust_region::{ALONE, CHANGE, Landscape, Told, Tried, descend, few, overlapped},
};

/// The layers of a model, what there is to choose from for each, and how it is split.
#[derive(Clone, Copy)]
pub(super) struct Ranks<'s> {
    pub(super) split: &'s Splitting<'s>,
    pub(super) options: &'s [Vec<Pick>],
    /// Layers that are not looked at: what they are together, or apart, is.
    pub(super) left_out: &'s BTreeSet<usize>,
    pub(super) decomposed: &'s [Decompositions<'s>],
    pub(super) statistics: Option<&'s Statistics>,
}

impl Ranks<'_> {
    /// An option for each layer, or none; and if the search has looked at it, what the outputs lose on samples that nothing was measured on.
    pub(super) fn for_budget(
        self,
        budget: Budget,
        held: Option<&Held>,
        crossed: Option<&Held>,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<Option<Pick>>, Option<FitErrors>), PassError> {
        let Ranks { split, options, left_out, .. } = self;
        let share = budget.share();
        let ladder = |(i, (site, options)): (usize, (&Site<'_>, &Vec<Pick>))| match left_out.contains(&i) {
            true => vec![Step { cost: 0, error: 0.0 }],
            false => site.ladder(options, budget),
        };
        let own: Vec<Ladder> = split.sites.iter().zip(options).enumerate().map(ladder).collect();
        let whole: u64 = own.iter().filter_map(|l| l.first()).map(|s| s.cost).fold(0, u64::saturating_add);
        let limit = (share * whole as f64) as u64;
        let (chosen, errors) = match (split.settings.allocation, held, split.calibration) {
            (Allocation::Uniform, ..) => (uniform(&own, share), None),
            (Allocation::Global, Some(held), Some(calibration)) => {
                let places: Vec<usize> = (0..own.len()).collect();
                let few = few(held, (split.model, split.cx.facts), calibration, own.len())?;
                notes.extend(few.measured(held));
                let near = few.of_changes(split.model, calibration)?;
                calibration.watch.says(ALONE);
                let gains = overlapped(&places, |&i| self.gain(i, share, &near, calibration))?;
                drop(near);
                let crossed = crossed.map(|held| Crossed { held, fits: BTreeMap::new() });
                let mut layers = Layers { ranks: self, held, few, crossed, calibration, own: &own, gains, limit };
                let mut starts = vec![allocate(&layers.ladders(), limit), allocate(&own, limit)];
                starts.dedup();
                let whole = vec![0; own.len()];
                starts.retain(|start| *start != whole);
                let told = Told { pass: "split", watch: calibration.watch };
                let found = descend(told, &mut layers, starts, split.settings.rounds)?;
                found.map_or((whole, None), |found| (found.chosen, found.confirmed))
            }
            (Allocation::Global | Allocation::Local, ..) => (allocate(&own, limit), None),
        };
        let left: u64 =
            own.iter().zip(&chosen).filter_map(|(l, &at)| l.get(at)).map(|s| s.cost).fold(0, u64::saturating_add);
        let kept = left as f64 / whole.max(1) as f64;
        let looked_at = split.sites.iter().enumerate().filter(|(i, _)| !left_out.contains(i));
        let count: usize = looked_at.map(|(_, s)| s.weights.len()).sum();
        let what = if matches!(budget, Budget::Macs(_)) { "MACs" } else { "parameters" };
        notes.push(format!("{:.1} % of the {what} of {count} layers are kept", 100.0 * kept));
        if kept > share + 0.02 {
            notes.push(format!("{:.1} % were asked for: no more can be saved by splitting", 100.0 * share));
        }
        if held.is_none() && split.settings.allocation == Allocation::Global {
            notes.push("ranks go by the error of the weights alone: there is no calibration data".to_owned());
        }
        Ok((self.picks(&chosen), errors))
    }

    /// Error of the model's outputs over the error of a layer's, from one option of the layer alone.
    fn gain(self, layer: usize, share: f64, held: &Held, calibration: &Calibration<'_>) -> Result<f64, PassError> {
        let Some(whole) = self.split.sites.get(layer).map(|s| s.cost.macs as f64 * share) else { return Ok(1.0) };
        let options = self.options.get(layer).map(Vec::as_slice).unwrap_or_default();
        let distance = |p: &Pick| (p.choice.cost.macs as f64 - whole).abs();
        let tried = options.iter().enumerate().filter(|(_, p)| p.choice.error > 0.0);
        let Some((at, pick)) = tried.min_by(|a, b| distance(a.1).total_cmp(&distance(b.1))) else { return Ok(1.0) };
        let mut chosen = vec![0; layer];
        chosen.push(at + 1);
        Ok(held.error(&self.model(&chosen)?, calibration)? / pick.choice.error)
    }

    /// By their numbers in the ladders, of which the first is the layer as it is.
    fn picks(self, chosen: &[usize]) -> Vec<Option<Pick>> {
        let pick = |(options, &at): (&Vec<Pick>, &usize)| options.get(at.checked_sub(1)?).cloned();
        self.options.iter().zip(chosen).map(pick).collect()
    }

    fn model(self, chosen: &[usize]) -> Result<Model, PassError> {
        self.split.apply(&self.split.patches(&self.picks(chosen), self.decomposed)?)
    }
}

/// What there is to choose from for a budget.
struct Layers<'s> {
    ranks: Ranks<'s>,
    held: &'s Held,
    /// Those of them that changes are measured on.
    few: Held,
    /// None with one sample.
    crossed: Option<Crossed<'s>>,
    calibration: &'s Calibration<'s>,
    /// With the errors of what the layers themselves compute.
    own: &'s [Ladder],
    /// Error of the outputs over that, of each layer.
    gains: Vec<f64>,
    /// Of what may be left.
    limit: u64,
}

/// The samples that fits see, when they see the others.
struct Crossed<'s> {
    held: &'s Held,
    /// The fits to the others that were made last, by layer.
    fits: BTreeMap<usize, (Pick, Patch)>,
}

impl Crossed<'_> {
    /// Layers split as they are picked; those that are as before are not fitted again.
    fn patches(&mut self, ranks: Ranks<'_>, picks: &[Option<Pick>]) -> Result<Vec<Patch>, PassError> {
        let Ranks { split, statistics, .. } = ranks;
        let is_new = |(i, pick): &(usize, &Pick)| self.fits.get(i).is_none_or(|(known, _)| known != *pick);
        let new = |(i, pick): (usize, &Option<Pick>)| pick.as_ref().filter(|p| is_new(&(i, p))).cloned();
        let new: Vec<Option<Pick>> = picks.iter().enumerate().map(new).collect();
        let made = split.patches(&new, &split.decompose(statistics, Fold::Second, Some(&new)))?;
        let of_layers = new.into_iter().enumerate().filter_map(|(i, pick)| Some((i, pick?)));
        self.fits.extend(of_layers.zip(made).map(|((i, pick), patch)| (i, (pick, patch))));
        let picked = picks.iter().enumerate().filter(|(_, pick)| pick.is_some());
        Ok(picked.filter_map(|(i, _)| Some(self.fits.get(&i)?.1.clone())).collect())
    }
}

impl Layers<'_> {
    /// With errors of the outputs.
    fn ladders(&self) -> Vec<Ladder> {
        let ladder = |(own, gain): (&Ladder, &f64)| own.iter().map(|s| Step { error: gain * s.error, ..*s }).collect();
        self.own.iter().zip(&self.gains).map(ladder).collect()
    }
}

impl Landscape for Layers<'_> {
    type Known = ();

    fn probe(&self, chosen: &[usize]) -> Result<(f64, ()), PassError> {
        Ok((self.held.error(&self.ranks.model(chosen)?, self.calibration)?, ()))
    }

    fn confirm(&mut self, chosen: &[usize]) -> Result<Option<FitErrors>, PassError> {
        let Ranks { split, statistics, .. } = self.ranks;
        let Some(crossed) = &mut self.crossed else { return Ok(None) };
        let picks = self.ranks.picks(chosen);
        let patches = crossed.patches(self.ranks, &picks)?;
        split.errors(&picks, &patches, statistics, crossed.held, self.calibration).map(Some)
    }

    /// The gains: half of what a layer saves is given back, or an eighth is taken of one that is whole.
    fn measure(&mut self, tried: &Tried<()>, far: f64) -> Result<(), PassError> {
        let chosen = &tried.chosen;
        let model = self.ranks.model(chosen)?;
        let near = self.few.of_changes(&model, self.calibration)?;
        let error = near.error(&model, self.calibration)?;
        let moved = |(i, ladder): (usize, &Ladder)| {
            let at = chosen.get(i).copied()?;
            let (whole, now) = (ladder.first()?.cost, ladder.get(at)?.cost);
            let far = (far * whole as f64) as u64;
            let aim = match at {
                0 => whole - far.min(whole / 8),
                _ => now.saturating_add(far.min(whole.saturating_sub(now) / 2)),
            };
            let cost = |other: usize| ladder.get(other).map_or(0, |s| s.cost);
            let others = hull(ladder).into_iter().filter(|&other| other != at);
            let other = others.min_by_key(|&other| cost(other).abs_diff(aim))?;
            let mut moved = chosen.clone();
            moved.iter_mut().skip(i).take(1).for_each(|at| *at = other);
            Some((i, ladder.get(at)?.error - ladder.get(other)?.error, moved))
        };
        let moves: Vec<_> = self.own.iter().enumerate().filter_map(moved).collect();
        let probe = |(_, _, moved): &(usize, f64, Vec<usize>)| near.error(&self.ranks.model(moved)?, self.calibration);
        let probed = overlapped(&moves, probe)?;
        for ((i, lost, _), changed) in moves.into_iter().zip(probed) {
            let gain = (error - changed) / lost;
            let Some(old) = self.gains.get_mut(i).filter(|_| gain.is_finite()) else { continue };
            *old = if *old > 0.0 { gain.clamp(*old / CHANGE, *old * CHANGE) } else { gain.max(0.0) };
        }
        Ok(())
    }

    fn next(&self, chosen: &[usize], reach: f64) -> Vec<usize> {
        let near = |(ladder, &at): (&Ladder, &usize)| -> Vec<(usize, Step)> {
            let (Some(whole), Some(now)) = (ladder.first(), ladder.get(at)) else { return Vec::new() };
            let far = reach * whole.cost as f64;
            let is_near = |s: &Step| s.cost.abs_diff(now.cost) as f64 <= far;
            let mut near: Vec<(usize, Step)> = ladder.iter().copied().enumerate().filter(|(_, s)| is_near(s)).collect();
            // The dearest is where the allocation begins.
            near.sort_by(dearest_first);
            near
        };
        let near: Vec<Vec<(usize, Step)>> = self.ladders().iter().zip(chosen).map(near).collect();
        let ladders: Vec<Ladder> = near.iter().map(|l| l.iter().map(|s| s.1).collect()).collect();
        let step = |(near, at): (&Vec<(usize, Step)>, usize)| near.get(at).map_or(0, |s| s.0);
        near.iter().zip(allocate(&ladders, self.limit)).map(step).collect()
    }
}
