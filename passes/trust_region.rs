//! A search over how much each of many items gives, by models that are measured: a trust region (Conn, Gould, Toint: Trust-Region Methods,
//! SIAM 2000, chapter 6).
//!
//! What a change of one item does is measured around a choice, and says where to go from there. That holds near the choice: errors do not
//! add up. So where it leads is tried, and if it is no better, a place on the way there, at half the distance, and so on.

use std::iter::successors;

use rayon::prelude::*;

use crate::PassError;

/// How often changes are measured, as long as that helps, if nothing else is asked for.
pub(crate) const ROUNDS: u64 = 8;
/// How far changes go that are measured, in shares of an item: to where much is known of it, and, where that no longer leads anywhere, close
/// by.
const DISTANCES: [f64; 2] = [1.0, 1.0 / 16.0];
/// Close by, less than this share of the error is not worth another round.
const GAIN: f64 = 0.01;
/// By how much what is known of an item may change at once.
pub(crate) const CHANGE: f64 = 4.0;
/// Items are not followed to less than this share of them from where they are.
const NEAREST: f64 = 1.0 / 32.0;

/// What is searched: choices of one option for each item, by its index.
pub(crate) trait Landscape {
    /// What is known of a choice that was tried, besides its error.
    type Known;

    /// Error of the outputs.
    fn probe(&self, chosen: &[usize]) -> Result<(f64, Self::Known), PassError>;

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
    pub(crate) known: K,
}

/// From a choice to better ones, with so many rounds of measurements at most. `pass` is for the log.
pub(crate) fn descend<L: Landscape>(
    pass: &str,
    landscape: &mut L,
    start: Vec<usize>,
    rounds: u64,
) -> Result<Vec<usize>, PassError> {
    let try_it = |landscape: &L, chosen: Vec<usize>| {
        let (error, known) = landscape.probe(&chosen)?;
        Ok::<_, PassError>(Tried { chosen, error, known })
    };
    let mut best = try_it(landscape, start)?;
    let mut distances = DISTANCES.into_iter();
    let mut distance = distances.next();
    for _ in 0..rounds {
        let Some(far) = distance else { break };
        landscape.measure(&best, far)?;
        let before = best.error;
        let mut last = None;
        for reach in successors(Some(1.0), |r| Some(r / 2.0)).take_while(|&r| r >= NEAREST) {
            let next = landscape.next(&best.chosen, reach);
            if next == best.chosen {
                break;
            }
            // The same again would be measured the same.
            if last.as_ref() == Some(&next) {
                continue;
            }
            let tried = try_it(landscape, next)?;
            let error = tried.error;
            log::debug!("{pass}: measured over {far}, followed over {reach}: {error:.3e} after {before:.3e}");
            if error < before {
                best = tried;
                break;
            }
            last = Some(tried.chosen);
        }
        let enough = if far < 1.0 { before * (1.0 - GAIN) } else { before };
        if best.error >= enough {
            distance = distances.next();
        }
    }
    Ok(best.chosen)
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

    /// Two items of 64 parts, of which 64 go in all; the loss is a valley that turns, so that slopes mislead over long ways.
    struct Valley {
        slopes: [f64; 2],
        probes: Cell<usize>,
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
    fn a_step_that_goes_too_far_is_halved_until_it_helps() {
        let mut valley = Valley { slopes: [0.0; 2], probes: Cell::new(0) };
        let found = descend("test", &mut valley, vec![0, 64], ROUNDS).unwrap();
        let least = (0..=64).map(|a| loss(&[a, 64 - a])).fold(f64::INFINITY, f64::min);
        assert!(loss(&found) < 1.05 * least, "{found:?}: {} for {least}", loss(&found));
        assert!(loss(&found) < 0.9 * loss(&[0, 64]));
        assert_eq!(found[0] + found[1], 64);
    }

    #[test]
    fn the_start_stays_if_nothing_is_better() {
        let mut valley = Valley { slopes: [0.0; 2], probes: Cell::new(0) };
        let least = (0..=64).min_by(|&a, &b| loss(&[a, 64 - a]).total_cmp(&loss(&[b, 64 - b]))).unwrap();
        assert_eq!(descend("test", &mut valley, vec![least, 64 - least], ROUNDS).unwrap(), [least, 64 - least]);
        assert!(valley.probes.get() <= 1 + DISTANCES.len() * 6);
    }
}
