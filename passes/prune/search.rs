//! How many channels of each class go, by what that does to the outputs.
//!
//! The curve of a class says how its error grows, in what its readers compute; the factor from there to the error of the outputs is
//! measured. Errors do not simply add up, so the factors are measured again where the budget leads: around a model that keeps to it, and
//! followed as far as they lead to a better one (`trust_region.rs`).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    allocate::{Budget, Candidate, Costs, allocate},
    eliminate::Curve,
    fitting::{Fits, Fitting, Removed},
    groups::Group,
    latency::{self, Latency},
};
use crate::{
    PassError,
    reconstruct::{FitErrors, Held},
    trust_region::{ALONE, CHANGE, Landscape, Told, Tried, descend, overlapped},
};

/// What the outputs lose below this is rounding, and says nothing of what more channels cost.
const ROUNDING: f64 = 1e-8;

/// What is searched, and how it is judged.
pub(super) struct Search<'a> {
    pub(super) groups: &'a [Group],
    /// Of each group.
    pub(super) curves: &'a [Option<Curve>],
    pub(super) fitting: &'a Fitting<'a>,
    /// None without samples: then errors of the readers are as good as errors of the outputs.
    pub(super) held: Option<Judging<'a>>,
    /// The samples that fits see, when they see the others. None with one sample.
    pub(super) crossed: Option<&'a Held>,
    pub(super) costs: &'a Costs,
    pub(super) budget: Budget,
    /// How often factors are measured at the best that they led to, at most.
    pub(super) rounds: u64,
    /// Asked for instead of the budget, which is then one of MACs.
    pub(super) latency: Option<Latency<'a>>,
}

/// Samples that choices are judged by.
#[derive(Clone, Copy)]
pub(super) struct Judging<'a> {
    pub(super) all: &'a Held,
    /// Those of them that changes are measured on.
    pub(super) few: &'a Held,
}

/// A group, its curve, and how many of its channels go.
pub(super) type Taken<'a> = (&'a Group, &'a Curve, u64);

/// What a search found.
pub(super) struct Found<'a> {
    pub(super) taken: Vec<Taken<'a>>,
    /// What the outputs lose with that on the samples that nothing was measured on. None if there are none, and if nothing goes.
    pub(super) errors: Option<FitErrors>,
}

/// A group of which something may go.
#[derive(Clone)]
struct Open<'a> {
    group: &'a Group,
    curve: &'a Curve,
    /// Numbers of channels that may go, ascending from 0.
    counts: Vec<u64>,
    /// So many go for nothing.
    free: u64,
    /// Error of the outputs per error of the readers, behind what goes for nothing.
    factor: f64,
}

impl<'a> Search<'a> {
    /// How many channels go, where any do. What cannot go is noted.
    pub(super) fn run(&self, round_to: u64, notes: &mut Vec<String>) -> Result<Found<'a>, PassError> {
        let mut open = Vec::new();
        let near = self.held.map(|h| self.fitting.near(&Removed::new(), h.few, &Fits::new())).transpose()?;
        let near = near.map(|(near, _)| near);
        if near.is_some() {
            self.fitting.calibration()?.watch.says(ALONE);
        }
        let all: Vec<_> = self.groups.iter().zip(self.curves).collect();
        let alone = |(group, curve): &(&'a Group, &'a Option<Curve>)| {
            match self.alone(near.as_ref(), group, curve.as_ref(), round_to) {
                // A class that cannot be cut; an engine that fails is no reason of a class.
                Err(PassError::Precondition(why)) => {
                    Ok(Err(format!("{}: {} channels stay: {why}", group.name, group.size)))
                }
                found => found.map(Ok),
            }
        };
        for found in overlapped(&all, alone)? {
            match found {
                Ok(found) => open.extend(found),
                Err(note) => notes.push(note),
            }
        }
        drop(near);
        let Some(held) = self.held else {
            let chosen = self.allocate(&open, self.budget);
            return Ok(Found { taken: taken(&open, &chosen), errors: None });
        };
        let Some(latency) = &self.latency else {
            let (chosen, errors) = self.refine(held, &mut open, self.budget)?;
            return Ok(Found { taken: taken(&open, &chosen), errors });
        };
        let mut timing = latency.beside()?;
        let mut macs = latency::largest(latency.share, |macs| {
            let chosen = self.allocate(&open, Budget::Macs(macs));
            Ok(timing.share(&self.fitting.shaped(&removed(&open, &chosen))?)?)
        })?;
        let mut tries = 0;
        loop {
            // From the same start for each budget, so that the budget alone tells what comes of it.
            let mut refined = open.clone();
            let (chosen, errors) = self.refine(held, &mut refined, Budget::Macs(macs))?;
            let time = timing.share(&self.fitting.shaped(&removed(&refined, &chosen))?)?;
            let less = latency::less(macs, latency.share / time);
            tries += 1;
            if time <= latency.share || tries == latency::TRIES || less == macs {
                notes.push(latency.said(time, macs));
                return Ok(Found { taken: taken(&refined, &chosen), errors });
            }
            macs = less;
        }
    }

    /// The best choice for a budget that is found from where the factors lead, and from where they would if all were the same.
    fn refine(
        &self,
        held: Judging<'_>,
        open: &mut [Open<'a>],
        budget: Budget,
    ) -> Result<(Vec<usize>, Option<FitErrors>), PassError> {
        let alike: Vec<Open<'a>> = open.iter().map(|o| Open { factor: 1.0, ..o.clone() }).collect();
        let nothing = vec![0; open.len()];
        let mut starts = vec![self.allocate(open, budget), self.allocate(&alike, budget)];
        starts.dedup();
        starts.retain(|start| *start != nothing);
        let told = Told { pass: "prune", watch: self.fitting.calibration()?.watch };
        let found = descend(told, &mut Choosing { search: self, held, open, budget }, starts, self.rounds)?;
        Ok(found.map_or((nothing, None), |found| (found.chosen, found.confirmed)))
    }

    /// A group with the factor that taking about a quarter out of it alone shows; more, while that goes for nothing. None if nothing may
    /// go; fails with the reason if it cannot be found out.
    fn alone(
        &self,
        held: Option<&Held>,
        group: &'a Group,
        curve: Option<&'a Curve>,
        round_to: u64,
    ) -> Result<Option<Open<'a>>, PassError> {
        let stays = |why: &str| PassError::Precondition(why.to_owned());
        let curve = curve.ok_or_else(|| stays("what its readers read is singular or not finite"))?;
        let counts = group.allowed(curve.order.len() as u64, round_to);
        let mut open = Open { group, curve, counts, free: 0, factor: 1.0 };
        let Some(&last) = open.counts.last().filter(|&&k| k > 0) else { return Ok(None) };
        let Some(held) = held else { return Ok(Some(open)) };
        let nearest = |aim: u64| {
            let more = open.counts.iter().copied().filter(|&k| k > 0);
            more.min_by_key(|k| k.abs_diff(aim)).unwrap_or(last)
        };
        let mut count = nearest(group.size / 4);
        loop {
            let removed = BTreeMap::from([(group.class, curve.first(count))]);
            let (error, _) = self.fitting.probe(&removed, held, &Fits::new())?;
            if error > ROUNDING {
                open.factor = error / open.local(count);
                break;
            }
            open.free = count;
            if count == last {
                open.factor = 0.0;
                break;
            }
            let further = open.counts.iter().copied().find(|&k| k >= 2 * count);
            count = further.unwrap_or(last);
        }
        match open.factor.is_finite() {
            true => Ok(Some(open)),
            false => Err(stays("what their going does to the outputs is not finite")),
        }
    }

    fn allocate(&self, open: &[Open<'_>], budget: Budget) -> Vec<usize> {
        self.allocate_near(open, &vec![0; open.len()], 1.0, budget)
    }

    /// No class goes further from what is chosen than so large a share of its channels.
    fn allocate_near(&self, open: &[Open<'_>], chosen: &[usize], reach: f64, budget: Budget) -> Vec<usize> {
        let from = |o: &Open<'_>, at: usize| -> usize {
            let far = |&k: &u64| o.count(at).abs_diff(k) as f64 > reach * o.group.size as f64;
            o.counts.iter().take(at).rposition(far).map_or(0, |p| p + 1)
        };
        let starts: Vec<usize> = open.iter().zip(chosen).map(|(o, &at)| from(o, at)).collect();
        let candidate = |((o, &at), &start): ((&Open<'_>, &usize), &usize)| {
            let is_near = |k: &&u64| o.count(at).abs_diff(**k) as f64 <= reach * o.group.size as f64;
            let steps = o.counts.iter().skip(start).take_while(is_near).map(|&k| (k, o.factor * o.local(k))).collect();
            Candidate { class: o.group.class, size: o.group.size, steps }
        };
        let candidates: Vec<Candidate> = open.iter().zip(chosen).zip(&starts).map(candidate).collect();
        allocate(&candidates, self.costs, budget).iter().zip(starts).map(|(step, start)| start + step).collect()
    }
}

/// What there is to choose from for a budget.
struct Choosing<'s, 'a> {
    search: &'s Search<'a>,
    held: Judging<'s>,
    open: &'s mut [Open<'a>],
    budget: Budget,
}

impl Landscape for Choosing<'_, '_> {
    type Known = Fits;

    fn probe(&self, chosen: &[usize]) -> Result<(f64, Fits), PassError> {
        self.search.fitting.probe(&removed(self.open, chosen), self.held.all, &Fits::new())
    }

    fn confirm(&mut self, chosen: &[usize]) -> Result<Option<FitErrors>, PassError> {
        let removed = removed(self.open, chosen);
        self.search.crossed.map(|crossed| self.search.fitting.errors(&removed, crossed)).transpose()
    }

    /// The factors: half of what goes comes back, or an eighth of a class goes that is whole.
    fn measure(&mut self, tried: &Tried<Fits>, far: f64) -> Result<(), PassError> {
        let Tried { chosen, known, .. } = tried;
        let fitting = self.search.fitting;
        let (near, error) = fitting.near(&removed(self.open, chosen), self.held.few, known)?;
        let before = &*self.open;
        let moved = |i: usize| {
            let o = before.get(i)?;
            let at = chosen.get(i).copied().unwrap_or(0);
            let far = (far * o.group.size as f64) as u64;
            let aim = if at == 0 { far.min(o.group.size / 8) } else { o.count(at) - far.min(o.count(at) / 2) };
            let others = (0..o.counts.len()).filter(|&other| other != at);
            let other = others.min_by_key(|&other| o.count(other).abs_diff(aim))?;
            let mut moved = chosen.to_vec();
            moved.iter_mut().skip(i).take(1).for_each(|at| *at = other);
            Some((i, o, removed(before, &moved), o.count(at), o.count(other)))
        };
        let moves: Vec<_> = (0..before.len()).filter_map(moved).collect();
        let probed = overlapped(&moves, |(_, _, removed, ..)| fitting.probe(removed, &near, known))?;
        let mut factors = Vec::new();
        for ((i, o, _, from, to), (changed, _)) in moves.into_iter().zip(probed) {
            // What goes for nothing alone may cost something now that others go that could stand for it.
            let paid = (error - changed) * if from > to { 1.0 } else { -1.0 };
            let is_free = from.min(to) >= o.free || paid <= ROUNDING;
            let free = if is_free { o.free } else { from.min(to) };
            let local = o.curve.error_at(from.max(to)) - o.curve.error_at(from.min(to).max(free));
            let factor = paid / local;
            match is_free {
                _ if !factor.is_finite() => {}
                true if o.factor > 0.0 => factors.push((i, free, factor.clamp(o.factor / CHANGE, o.factor * CHANGE))),
                true => {}
                false => factors.push((i, free, factor)),
            }
        }
        for (i, free, factor) in factors {
            self.open.iter_mut().skip(i).take(1).for_each(|o| (o.free, o.factor) = (free, factor));
        }
        Ok(())
    }

    fn next(&self, chosen: &[usize], reach: f64) -> Vec<usize> {
        self.search.allocate_near(self.open, chosen, reach, self.budget)
    }
}

impl Open<'_> {
    /// What the readers lose, without what goes for nothing.
    fn local(&self, count: u64) -> f64 {
        (self.curve.error_at(count) - self.curve.error_at(self.free)).max(0.0)
    }

    fn count(&self, step: usize) -> u64 {
        self.counts.get(step).copied().unwrap_or(0)
    }
}

/// What goes of the groups of which something does.
fn taken<'a>(open: &[Open<'a>], chosen: &[usize]) -> Vec<Taken<'a>> {
    let taken = open.iter().zip(chosen).map(|(o, &at)| (o.group, o.curve, o.count(at)));
    taken.filter(|t| t.2 > 0).collect()
}

fn removed(open: &[Open<'_>], chosen: &[usize]) -> Removed {
    let of = |(o, &at): (&Open<'_>, &usize)| -> (usize, BTreeSet<u64>) { (o.group.class, o.curve.first(o.count(at))) };
    open.iter().zip(chosen).map(of).filter(|(_, channels)| !channels.is_empty()).collect()
}
