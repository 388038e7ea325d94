//! Which products have to stay in higher precision for the outputs to keep a bound, and cost least.
//!
//! First everything is in codes; if the bound holds, nothing else is run. Otherwise each site is put in codes alone, and what
//! this does to the outputs is its error: errors of sites add up, as long as they are small and independent, which they are
//! only roughly. So errors give an order, by what a site adds for each of its multiply-accumulates, and whole assignments are
//! run to find how far down this order precision has to be raised: doubling steps, then halving ones, as many as the logarithm
//! of the number of sites. Where floats were needed, as many as possible of those with 16 bits go back to 8. At last the sites
//! with most multiply-accumulates are tried in codes again, one by one.
//!
//! Reference: Wu et al., Integer Quantization for Deep Learning Inference, 2020, section 6 (partial quantization by the
//! sensitivity of single layers); the order by error for cost is the greedy one of Dantzig, Discrete-Variable Extremum
//! Problems, Operations Research 5, 1957.

use super::bound::Figures;
use crate::quantize::clipping::Observer;

/// In what a product computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Codes.
    Codes,
    /// Codes; the range of what it reads is found by another observer.
    Observed(Observer),
    /// Codes of 16 bits for what it reads and gives.
    Wide,
    /// Floats.
    Float,
}

/// What an assignment does to the outputs. Assignments have one level for each site.
pub(crate) trait Measure<E> {
    /// On all samples that there are for it.
    fn all(&mut self, levels: &[Level]) -> Result<Figures, E>;
    /// The error, on a few of them.
    fn few(&mut self, levels: &[Level]) -> Result<f64, E>;
}

/// What a search may use.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Other observers to try where the error is.
    pub(crate) observers: Vec<Observer>,
    /// Levels to go to, one after the other, the cheapest first.
    pub(crate) steps: Vec<Level>,
}

/// What a search found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Of each site.
    pub(crate) levels: Vec<Level>,
    /// Of each site the error that it alone adds; empty if that was not asked.
    pub(crate) alone: Vec<f64>,
    /// As assigned.
    pub(crate) figures: Figures,
    /// Whole assignments that were run.
    pub(crate) runs: usize,
}

/// Share of the error of all sites that is made by those for which other observers are tried.
const MOST: f64 = 0.9;
/// An observer is changed for one with at most this share of the error; less is noise of few samples.
const BETTER: f64 = 0.8;
/// So many sites at most are tried in codes again.
const RETRIES: usize = 8;

/// Finds levels for sites, of which the multiply-accumulates are given; `plain` is with all of them in codes. The bound holds with
/// all of them in floats.
pub(crate) fn search<E>(
    macs: &[u64],
    options: &Options,
    plain: Figures,
    measure: &mut impl Measure<E>,
) -> Result<Found, E> {
    let mut levels = vec![Level::Codes; macs.len()];
    if plain.holds() {
        return Ok(Found { levels, alone: Vec::new(), figures: plain, runs: 0 });
    }
    let mut alone = Vec::new();
    for site in 0..macs.len() {
        alone.push(measure.few(&only(macs.len(), site, Level::Codes))?);
    }
    observe(&mut levels, &mut alone, options, measure)?;
    let mut search = Search { base: levels.clone(), levels, figures: plain, runs: 0, measure };
    if search.levels.iter().any(|l| *l != Level::Codes) {
        search.run()?;
    }
    let order = order(macs, &alone);
    for &step in &options.steps {
        if search.figures.holds() {
            break;
        }
        search.raise(&order, step)?;
    }
    search.lower(&order)?;
    search.retry(macs)?;
    let Search { levels, figures, runs, .. } = search;
    Ok(Found { levels, alone, figures, runs })
}

/// One site in codes, all others in floats.
fn only(sites: usize, site: usize, level: Level) -> Vec<Level> {
    (0..sites).map(|s| if s == site { level } else { Level::Float }).collect()
}

/// Most error for each multiply-accumulate first; of equal ones, the first first.
fn order(macs: &[u64], alone: &[f64]) -> Vec<usize> {
    let worth = |site: usize| {
        let (error, macs) = (alone.get(site).copied().unwrap_or(0.0), macs.get(site).copied().unwrap_or(0));
        // A product of which nothing is known costs something, too.
        if error.is_nan() { f64::INFINITY } else { error / (macs.max(1) as f64) }
    };
    let mut order: Vec<usize> = (0..macs.len()).collect();
    order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
    order
}

/// Tries other observers at the sites that make most of the error.
fn observe<E>(
    levels: &mut [Level],
    alone: &mut [f64],
    options: &Options,
    measure: &mut impl Measure<E>,
) -> Result<(), E> {
    let total: f64 = alone.iter().sum();
    let mut worst: Vec<usize> = (0..alone.len()).collect();
    let error = |site: usize, alone: &[f64]| alone.get(site).copied().unwrap_or(0.0);
    worst.sort_by(|&a, &b| error(b, alone).total_cmp(&error(a, alone)));
    let mut seen = 0.0;
    for site in worst {
        if seen > MOST * total {
            break;
        }
        seen += error(site, alone);
        let before = error(site, alone);
        for &observer in &options.observers {
            let level = Level::Observed(observer);
            let tried = measure.few(&only(alone.len(), site, level))?;
            let least = error(site, alone).min(BETTER * before);
            if let (true, Some(l), Some(e)) = (tried < least, levels.get_mut(site), alone.get_mut(site)) {
                (*l, *e) = (level, tried);
            }
        }
    }
    Ok(())
}

struct Search<'a, M> {
    /// Before anything was raised.
    base: Vec<Level>,
    levels: Vec<Level>,
    /// Of these levels.
    figures: Figures,
    runs: usize,
    measure: &'a mut M,
}

impl<M> Search<'_, M> {
    fn run<E>(&mut self) -> Result<(), E>
    where
        M: Measure<E>,
    {
        self.figures = self.measure.all(&self.levels)?;
        self.runs += 1;
        Ok(())
    }

    /// Raises the first sites of an order to a level: as few as hold the bound, or all.
    fn raise<E>(&mut self, order: &[usize], level: Level) -> Result<(), E>
    where
        M: Measure<E>,
    {
        let before = self.levels.clone();
        let first = |count: usize, search: &mut Self| search.put(&before, order.iter().take(count), |_| Some(level));
        let (mut fails, mut holds) = (0, 1.min(order.len()));
        while !first(holds, self)? {
            if holds == order.len() {
                return Ok(());
            }
            (fails, holds) = (holds, (2 * holds).min(order.len()));
        }
        let mut best = (self.levels.clone(), self.figures.clone());
        while holds - fails > 1 {
            let middle = fails + (holds - fails) / 2;
            if first(middle, self)? {
                holds = middle;
                best = (self.levels.clone(), self.figures.clone());
            } else {
                fails = middle;
            }
        }
        (self.levels, self.figures) = best;
        Ok(())
    }

    /// Puts sites with 16 bits back to where they were, those at the end of the order first: as many as the bound allows, where
    /// floats made more of them needless.
    fn lower<E>(&mut self, order: &[usize]) -> Result<(), E>
    where
        M: Measure<E>,
    {
        let is = |level: Level, site: &usize| self.levels.get(*site) == Some(&level);
        let wide: Vec<usize> = order.iter().rev().filter(|s| is(Level::Wide, s)).copied().collect();
        let has_floats = self.levels.contains(&Level::Float);
        if wide.is_empty() || !has_floats || !self.figures.holds() {
            return Ok(());
        }
        let (before, base) = (self.levels.clone(), self.base.clone());
        let mut best = (before.clone(), self.figures.clone());
        let (mut holds, mut fails) = (0, wide.len() + 1);
        while fails - holds > 1 {
            // All of them first: often the floats alone do it.
            let count = if fails > wide.len() { wide.len() } else { holds + (fails - holds) / 2 };
            if self.put(&before, wide.iter().take(count), |site| base.get(site).copied())? {
                holds = count;
                best = (self.levels.clone(), self.figures.clone());
            } else {
                fails = count;
            }
        }
        (self.levels, self.figures) = best;
        Ok(())
    }

    /// Runs some levels with others in their place; returns whether the bound holds.
    fn put<'s, E>(
        &mut self,
        before: &[Level],
        sites: impl Iterator<Item = &'s usize>,
        level: impl Fn(usize) -> Option<Level>,
    ) -> Result<bool, E>
    where
        M: Measure<E>,
    {
        self.levels = before.to_vec();
        for &site in sites {
            if let (Some(l), Some(new)) = (self.levels.get_mut(site), level(site)) {
                *l = new;
            }
        }
        self.run()?;
        Ok(self.figures.holds())
    }

    /// Tries raised sites at the level before, those with most multiply-accumulates first.
    fn retry<E>(&mut self, macs: &[u64]) -> Result<(), E>
    where
        M: Measure<E>,
    {
        let is_raised = |l: &Level| matches!(l, Level::Float | Level::Wide);
        let mut raised: Vec<usize> =
            (0..macs.len()).filter(|&site| self.levels.get(site).is_some_and(is_raised)).collect();
        // Of one alone, the search has tried it without.
        if raised.len() < 2 || !self.figures.holds() {
            return Ok(());
        }
        raised.sort_by_key(|&site| std::cmp::Reverse(macs.get(site).copied()));
        for site in raised.into_iter().take(RETRIES) {
            let held = (self.levels.clone(), self.figures.clone());
            if let (Some(l), Some(base)) = (self.levels.get_mut(site), self.base.get(site)) {
                *l = *base;
            }
            self.run()?;
            if !self.figures.holds() {
                (self.levels, self.figures) = held;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors of sites add up.
    struct Sum {
        errors: Vec<f64>,
        bound: f64,
        /// Share of the error that another observer leaves at site 0.
        observed: f64,
    }

    impl Sum {
        fn error(&self, levels: &[Level]) -> f64 {
            let one = |(at, level): (usize, &Level)| match level {
                Level::Codes => self.errors[at],
                Level::Observed(_) => self.errors[at] * if at == 0 { self.observed } else { 1.0 },
                Level::Wide => self.errors[at] / 100.0,
                Level::Float => 0.0,
            };
            levels.iter().enumerate().map(one).sum()
        }
    }

    impl Measure<()> for Sum {
        fn all(&mut self, levels: &[Level]) -> Result<Figures, ()> {
            let error = self.error(levels);
            let failures = if error > self.bound { vec!["too far".to_owned()] } else { Vec::new() };
            Ok(Figures { error, failures, summary: String::new() })
        }

        fn few(&mut self, levels: &[Level]) -> Result<f64, ()> {
            Ok(self.error(levels))
        }
    }

    fn found(errors: &[f64], macs: &[u64], bound: f64, steps: &[Level]) -> Found {
        let mut measure = Sum { errors: errors.to_vec(), bound, observed: 1.0 };
        let options = Options { observers: vec![Observer::MinMax], steps: steps.to_vec() };
        let plain = measure.all(&vec![Codes; macs.len()]).unwrap();
        search(macs, &options, plain, &mut measure).unwrap()
    }

    use Level::{Codes, Float, Wide};

    #[test]
    fn nothing_is_measured_where_the_bound_holds() {
        let f = found(&[1.0, 2.0], &[1, 1], 3.0, &[Float]);
        assert_eq!((f.levels, f.runs, f.alone.len()), (vec![Codes; 2], 0, 0));
    }

    #[test]
    fn the_error_of_each_multiply_accumulate_decides() {
        // Site 1 has as much error as site 2, for a tenth of the work.
        assert_eq!(found(&[0.1, 5.0, 5.0], &[10, 1, 10], 6.0, &[Float]).levels, [Codes, Float, Codes]);
        assert_eq!(found(&[0.1, 5.0, 5.0], &[10, 1, 10], 6.0, &[Wide, Float]).levels, [Codes, Wide, Codes]);
    }

    #[test]
    fn floats_come_where_16_bits_do_not_do() {
        let f = found(&[90.0, 1.0, 1.0], &[1, 1, 1], 0.5, &[Wide, Float]);
        assert!(f.figures.holds() && f.levels[0] == Float, "{f:?}");
    }

    #[test]
    fn sixteen_bits_that_floats_make_needless_go_back() {
        // All in 16 bits is not enough; with the first one in floats, eight bits do for the others.
        let f = found(&[900.0, 1.0, 1.0, 1.0, 40.0], &[1; 5], 4.0, &[Wide, Float]);
        assert_eq!(f.levels, [Float, Codes, Codes, Codes, Wide]);
        let n = 64;
        let errors: Vec<f64> = (0..n).map(|i| if i == 0 { 1e6 } else { 1.0 }).collect();
        let f = found(&errors, &vec![1; n], 40.0, &[Wide, Float]);
        assert!(f.figures.holds() && f.levels[0] == Float && f.runs < 40, "{f:?}");
        assert!(f.levels.iter().filter(|l| **l == Wide).count() <= 24, "{:?}", f.levels);
    }

    #[test]
    fn what_was_raised_in_vain_goes_back() {
        // The tiny sites come first by their ratio; the large one alone is enough.
        let f = found(&[1.0, 1.0, 50.0], &[1, 1, 100], 3.0, &[Float]);
        assert_eq!(f.levels, [Codes, Codes, Float]);
    }

    #[test]
    fn another_observer_is_taken_if_it_is_clearly_better() {
        let options = Options { observers: vec![Observer::MinMax], steps: vec![Float] };
        let levels = |observed: f64| {
            let mut measure = Sum { errors: vec![4.0, 1.0], bound: 3.0, observed };
            let plain = measure.all(&[Codes; 2]).unwrap();
            search(&[1, 1], &options, plain, &mut measure).unwrap().levels
        };
        assert_eq!(levels(0.25), [Level::Observed(Observer::MinMax), Codes]);
        assert_eq!(levels(0.9), [Float, Codes]);
    }

    #[test]
    fn whole_assignments_are_as_many_as_the_logarithm_of_sites() {
        let n = 512;
        let f = found(&vec![1.0; n], &vec![1; n], 100.0, &[Float]);
        assert!(f.figures.holds() && f.runs < 40, "{}", f.runs);
        assert_eq!(f.levels.iter().filter(|l| **l == Float).count(), n - 100);
    }
}
