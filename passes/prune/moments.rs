//! Second moments of what a layer reads: seen on samples, or guessed from the weights that make it.

use faer::Mat;

use crate::reconstruct::{Fold, Halves};

/// Second moments of the rows that a layer reads.
pub(super) enum Moments {
    /// On samples.
    Seen(Box<Halves>),
    /// By how alike the weights are that make the channels.
    Guessed(Mat<f64>),
}

impl Moments {
    /// Mean of `x xᵀ`, or covariance.
    pub(super) fn matrix(&self, fold: Fold, centred: bool) -> Mat<f64> {
        match self {
            Moments::Seen(halves) => halves.matrix(fold, centred),
            Moments::Guessed(matrix) => matrix.clone(),
        }
    }

    /// True if there are samples.
    pub(super) const fn are_seen(&self) -> bool {
        matches!(self, Moments::Seen(_))
    }

    /// Mean of a row. Nothing if it is not known.
    pub(super) fn mean(&self, fold: Fold) -> Vec<f64> {
        match self {
            Moments::Seen(halves) => halves.mean(fold),
            Moments::Guessed(_) => Vec::new(),
        }
    }
}
