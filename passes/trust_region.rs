//! A search over how much each of many items gives, by models that are measured: a trust region (Conn, Gould, Toint: Trust-Region Methods,
//! SIAM 2000, chapter 6).
//!
//! What a change of one item does is measured around a choice, and says where to go from there. That holds near the choice: errors do not
//! add up. So where it leads is tried, and if it is no better, a place on the way there, at half the distance, and so on.
//!
//! Where errors of two changes cancel each other on the samples that they are measured on, they need not on others; following that over many
//! rounds finds what is best for these samples. So a choice is taken only if it is better on others too, and with the fit that is shipped.

use std::iter::successors;

use planish_ir::{Model, cost::cost_of, infer::Inferred};
use rayon::prelude::*;

use crate::{
    Calibration, PassError,
    calibration::{Watch, bindings},
    reconstruct::{FitErrors, Held},
};

/// How often changes are measured, as long as that helps, if nothing else is asked for.
pub(crate) const ROUNDS: u64 = 8;
/// How far changes go that are measured, in shares of an item: to where much is known of it, and, where that no longer leads anywhere, close
/// by.
const DISTANCES: [f64; 2] = [1.0, 1.0 / 16.0];
/// A choice that lowers the error by less than this share is not held against other samples, which takes much longer.
const GAIN: f64 = 0.01;
/// By how much what is known of an item may change at once.
pub(crate) const CHANGE: f64 = 4.0;
/// Items are not followed to less than this share of them from where they are.
const NEAREST: f64 = 1.0 / 32.0;

/// What is said while the first measurements are made.
pub(crate) const ALONE: &str = "search, what each change does alone";

/// So many multiply-accumulates are worth it to measure around one choice, on average from the middle of the model on. Samples of large models
/// are worth more than those of small ones, as they have more numbers, and directions need not be known as well as what is judged by.
const WORK: u64 = 1 << 40;
/// But about so many samples are looked at, whatever the work.
const FEWEST: usize = 16;

/// What is searched: choices of one option for each item, by its index.
pub(crate) trait Landscape {
    /// What is known of a choice that was tried, besides its errors.
    type Known;

    /// Error of the outputs.
    fn probe(&self, chosen: &[usize]) -> Result<(f64, Self::Known), PassError>;

    /// The same on other samples, with all fits of which the best would be shipped. None if there are no others.
    fn confirm(&mut self, chosen: &[usize]) -> Result<Option<FitErrors>, PassError>;

    /// Measures what a change of each item does to a choice that was tried; no item moves by more than the share `far` of it.
    fn measure(&mut self, tried: &Tried<Self::Known>, far: f64) -> Result<(), PassError>;

    /// Where the measurements lead, with no item further than the share `reach` of it from a choice.
    fn next(&self, chosen: &[usize], reach: f64) -> Vec<usize>;
}

/// A choice that was tried.
#[derive(Debug)]
pub(crate) struct Tried<K> {
    pub(crate) chosen: Vec<usize>,
    pub(crate) error: f64,
    /// On other samples.
    pub(crate) confirmed: Option<FitErrors>,
    pub(crate) known: K,
}

/// Held samples on which to measure so many changes of a model: all, or about as many as the work is worth.
pub(crate) fn few(
    held: &Held,
    (model, facts): (&Model, &Inferred),
    calibration: &Calibration<'_>,
    changes: usize,
) -> Result<Held, PassError> {
    let sample = calibration.samples.get(0)?;
    let bindings = bindings(model, &sample);
    let each = cost_of(model, facts, &bindings).macs.saturating_mul(changes as u64) / 2;
    let worth = usize::try_from(WORK / each.max(1)).unwrap_or(usize::MAX);
    Ok(held.thinned(worth.max(FEWEST)))
}

/// Who is told how a search goes.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    /// Name of the pass, for the log.
    pub(crate) pass: &'a str,
    pub(crate) watch: &'a dyn Watch,
}

impl Told<'_> {
    /// Says what is done now.
    fn now(self, what: &str) {
        self.watch.says(what);
    }

    /// Says what was found.
    fn found(self, what: &str) {
        log::debug!("{}: {what}", self.pass);
    }
}

/// From the best of some choices to better ones, with so many rounds of measurements at most.
pub(crate) fn descend<L: Landscape>(
    told: Told<'_>,
    landscape: &mut L,
    starts: Vec<Vec<usize>>,
    rounds: u64,
) -> Result<Option<Tried<L::Known>>, PassError> {
    let mut best = None;
    for start in starts {
        best = better(told, landscape, best.as_ref(), &start)?.or(best);
    }
    let Some(mut best) = best else { return Ok(None) };
    let mut distances = DISTANCES.into_iter();
    let mut distance = distances.next();
    let mut furthest = 1.0;
    for round in 1..=rounds {
        let Some(far) = distance else { break };
        told.now(&format!("search, round {round} of at most {rounds}, error of the outputs {:.1e} so far", best.error));
        landscape.measure(&best, far)?;
        let mut last = None;
        let mut found = None;
        for reach in successors(Some(furthest), |r| Some(r / 2.0)).take_while(|&r| r >= NEAREST) {
            let next = landscape.next(&best.chosen, reach);
            if next == best.chosen {
                break;
            }
            // The same again would be measured the same.
            if last.as_ref() == Some(&next) {
                continue;
            }
            told.found(&format!("measured over {far}, followed over {reach}"));
            found = better(told, landscape, Some(&best), &next)?;
            if found.is_some() {
                furthest = (2.0 * reach).min(1.0);
                break;
            }
            last = Some(next);
        }
        match found {
            Some(found) => best = found,
            None => (distance, furthest) = (distances.next(), 1.0),
        }
    }
    told.now("fitting what was found");
    Ok(Some(best))
}

/// A choice if it is better than the best so far.
fn better<L: Landscape>(
    told: Told<'_>,
    landscape: &mut L,
    best: Option<&Tried<L::Known>>,
    chosen: &[usize],
) -> Result<Option<Tried<L::Known>>, PassError> {
    let (error, known) = landscape.probe(chosen)?;
    if best.is_some_and(|b| error >= b.error * (1.0 - GAIN)) {
        told.found(&format!("{error:.3e}"));
        return Ok(None);
    }
    let confirmed = landscape.confirm(chosen)?;
    let are_better = |new: FitErrors, old: FitErrors| new.least() < old.least();
    let is_better = best.is_none_or(|b| confirmed.zip(b.confirmed).is_none_or(|(new, old)| are_better(new, old)));
    let said = confirmed.map_or(String::new(), |c| format!(", {:.3e} on other samples", c.least()));
    told.found(&format!("{error:.3e}{said}{}", if is_better { ": the best so far" } else { "" }));
    Ok(is_better.then(|| Tried { chosen: chosen.to_vec(), error, confirmed, known }))
}

/// While one model is fitted and loaded, which takes one thread, another one runs. With more at a time there would only be more models in
/// memory.
const AT_ONCE: usize = 2;

/// Probes of which a few go on at the same time. The results are in order; behind one that fails there are no others.
pub(crate) fn overlapped<T: Sync, R: Send>(
    all: &[T],
    probe: impl Fn(&T) -> Result<R, PassError> + Sync,
) -> Result<Vec<R>, PassError> {
    let mut results = Vec::new();
    for chunk in all.chunks(AT_ONCE) {
        results.extend(chunk.par_iter().map(&probe).collect::<Result<Vec<R>, _>>()?);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        NoObserver, Tensors,
        reconstruct::Fold,
        testing::{Drawn, drawn, parse},
    };

    const TOLD: Told<'_> = Told { pass: "test", watch: &NoObserver };

    /// Two items of 64 parts, of which 64 go in all; the loss is a valley that turns, so that slopes mislead over long ways.
    struct Valley {
        slopes: [f64; 2],
        probes: Cell<usize>,
        /// Where the valley of other samples ends: behind it they lose more and more.
        end: usize,
    }

    impl Valley {
        fn new(end: usize) -> Valley {
            Valley { slopes: [0.0; 2], probes: Cell::new(0), end }
        }
    }

    fn loss(chosen: &[usize]) -> f64 {
        let [a, b] = [chosen[0] as f64 / 64.0, chosen[1] as f64 / 64.0];
        a.powi(4) + 0.3 * b.powi(2) + 0.5 * a * b
    }

    impl Landscape for Valley {
        type Known = ();

        fn probe(&self, chosen: &[usize]) -> Result<(f64, ()), PassError> {
            self.probes.set(self.probes.get() + 1);
            Ok((loss(chosen), ()))
        }

        fn confirm(&mut self, chosen: &[usize]) -> Result<Option<FitErrors>, PassError> {
            let at_once = loss(chosen) + chosen[0].saturating_sub(self.end) as f64;
            Ok(Some(FitErrors { at_once, in_turn: None }))
        }

        fn measure(&mut self, tried: &Tried<()>, far: f64) -> Result<(), PassError> {
            for i in 0..2 {
                let mut moved = tried.chosen.clone();
                let step = ((64.0 * far) as usize).min(moved[i] / 2).max(1);
                moved[i] = moved[i].saturating_sub(step);
                self.slopes[i] = (tried.error - loss(&moved)) / step as f64;
            }
            Ok(())
        }

        fn next(&self, chosen: &[usize], reach: f64) -> Vec<usize> {
            let far = (reach * 64.0) as usize;
            let [from, to] = if self.slopes[0] > self.slopes[1] { [0, 1] } else { [1, 0] };
            let step = far.min(chosen[from]).min(64 - chosen[to]);
            let mut next = chosen.to_vec();
            next[from] -= step;
            next[to] += step;
            next
        }
    }

    #[test]
    fn what_takes_much_work_is_measured_on_few_samples() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[1,1024] x) => (float[1,1024] y)
            <float[1024,1024] w> { y = MatMul (x, w) }"#;
        let model = parse(text);
        let samples = vec![Tensors::from([("x".to_owned(), drawn("x", &[1, 1024]))]); 128];
        let samples = samples.as_slice();
        let calibration =
            Calibration { engine: &Drawn, samples: &samples, memory: 1 << 30, watch: &NoObserver, store: None };
        let held = Held::new(Fold::First, &model, &calibration, 128).unwrap();
        let facts = planish_ir::infer::infer(&model, &Default::default());
        let few = |changes: usize| few(&held, (&model, &facts), &calibration, changes).unwrap().len();
        assert_eq!([few(1 << 10), few(1 << 16), few(1 << 18), few(usize::MAX)], [64, 32, 16, 16]);
    }

    #[test]
    fn a_step_that_goes_too_far_is_halved_until_it_helps() {
        let mut valley = Valley::new(64);
        let found = descend(TOLD, &mut valley, vec![vec![64, 0], vec![0, 64]], ROUNDS).unwrap().unwrap().chosen;
        let least = (0..=64).map(|a| loss(&[a, 64 - a])).fold(f64::INFINITY, f64::min);
        assert!(loss(&found) < 1.05 * least, "{found:?}: {} for {least}", loss(&found));
        assert!(loss(&found) < 0.9 * loss(&[0, 64]));
        assert_eq!(found[0] + found[1], 64);
    }

    #[test]
    fn what_is_worse_on_other_samples_is_not_taken() {
        let mut valley = Valley::new(8);
        let found = descend(TOLD, &mut valley, vec![vec![0, 64]], ROUNDS).unwrap().unwrap().chosen;
        assert!((1..=8).contains(&found[0]), "{found:?}");
        assert!(loss(&found) < loss(&[0, 64]));
    }

    #[test]
    fn the_start_stays_if_nothing_is_better() {
        let mut valley = Valley::new(64);
        let least = (0..=64).min_by(|&a, &b| loss(&[a, 64 - a]).total_cmp(&loss(&[b, 64 - b]))).unwrap();
        let found = descend(TOLD, &mut valley, vec![vec![least, 64 - least]], ROUNDS).unwrap().unwrap();
        assert_eq!(found.chosen, [least, 64 - least]);
        assert!(valley.probes.get() <= 1 + DISTANCES.len() * 6);
    }
}
