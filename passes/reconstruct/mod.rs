//! Making up for what a compression took away: weights in closed form, fitted to what the original model computes on calibration data.
//!
//! Samples come in two halves ([`Halves`], [`Held`]): what is fitted to one is judged by the other. [`Sequence`] fits layer after layer,
//! each from what it reads in the compressed model.

mod checkpoints;
mod cross;
mod errors;
mod factor;
mod halves;
mod joint;
mod piece;
mod second;
mod sequential;
mod shift;
pub(crate) mod stages;
mod unshare;

use std::collections::BTreeMap;

use faer::Mat;
use planish_ir::{GraphPath, ValueId};

pub(crate) use errors::FitErrors;
pub(crate) use factor::{Factor, dot, toward};
pub(crate) use halves::{Fold, Halves, Held, KEPT, computed_outputs};
pub(crate) use second::{CHUNK, Change, Second, Settings, TILE};
pub(crate) use sequential::{Fitted, Pair, Replace, Sequence};
pub(crate) use shift::{Shift, products};
pub use unshare::unshare;
pub(crate) use unshare::with_own_vectors;

/// What of each axis of a value a compressed model still has.
pub(crate) type Masks = BTreeMap<GraphPath, BTreeMap<ValueId, BTreeMap<usize, Vec<bool>>>>;

/// Ridge as a share of the mean of the diagonal.
pub(crate) fn ridge(moments: &Mat<f64>, share: f64) -> f64 {
    let n = moments.nrows().max(1);
    let mean = (0..n.min(moments.nrows())).map(|i| moments[(i, i)]).sum::<f64>() / n as f64;
    // A layer that sees nothing but zeros can have any weights.
    if mean > 0.0 { share * mean } else { 1.0 }
}

/// Ridges that are tried, as a share of the mean of the diagonal.
const RIDGES: [f64; 7] = [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0];
/// Where the search begins.
const FIRST_RIDGE: usize = 3;

/// A ridge is found from so many outputs of a layer at most.
const TOLD_BY: usize = 256;

/// How far the outputs are apart that a ridge is found from. All have it in common, and of those of a large layer a part, from all over it, says
/// as much.
pub(crate) fn told_by(outputs: usize) -> usize {
    outputs.div_ceil(TOLD_BY).max(1)
}

/// The ridge with which least is lost: from the middle of those that are tried, downhill. What is not finite is the worst.
pub(crate) fn best_ridge(lost: impl Fn(f64) -> f64) -> f64 {
    let lost = |at: usize| RIDGES.get(at).map_or(f64::INFINITY, |&r| lost(r)).min(f64::INFINITY);
    let (mut at, mut least) = (FIRST_RIDGE, lost(FIRST_RIDGE));
    for direction in [-1isize, 1] {
        let start = at;
        while let Some(next) = at.checked_add_signed(direction).filter(|&n| n < RIDGES.len()) {
            let found = lost(next);
            let is_better = if direction < 0 { found <= least && found.is_finite() } else { found < least };
            if !is_better {
                break;
            }
            (at, least) = (next, found);
        }
        if at != start {
            break;
        }
    }
    RIDGES.get(at).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ridge_is_found_downhill() {
        let around = |best: f64| best_ridge(|r| (r.ln() - best.ln()).abs());
        assert_eq!(RIDGES.map(around), RIDGES);
        assert_eq!(best_ridge(|_| 0.0), RIDGES[0]);
        assert_eq!(best_ridge(|r| if r < 0.05 { f64::NAN } else { 1.0 }), 0.1);
    }
}
