//! Second moments of what a layer reads: seen on samples, or guessed from the weights that make it.

use faer::Mat;

use crate::reconstruct::Halves;

/// Which samples weights are fitted to.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fit {
    /// The first half.
    First,
    /// All.
    All,
}

/// Second moments of the rows that a layer reads.
pub(super) enum Moments {
    /// On samples.
    Seen(Box<Halves>),
    /// By how alike the weights are that make the channels.
    Guessed(Mat<f64>),
}

impl Moments {
    /// Mean of `x xᵀ`, or covariance.
    pub(super) fn matrix(&self, fit: Fit, centred: bool) -> Mat<f64> {
        match self {
            Moments::Seen(halves) => halves.matrix(fit == Fit::All, centred),
            Moments::Guessed(matrix) => matrix.clone(),
        }
    }

    /// The matrix of the second half of the samples. None if none were seen.
    pub(super) fn second(&self, centred: bool) -> Option<Mat<f64>> {
        match self {
            Moments::Seen(halves) => Some(halves.second(centred)),
            Moments::Guessed(_) => None,
        }
    }

    /// Mean of a row. Nothing if it is not known.
    pub(super) fn mean(&self, fit: Fit) -> Vec<f64> {
        match self {
            Moments::Seen(halves) => halves.mean(fit == Fit::All),
            Moments::Guessed(_) => Vec::new(),
        }
    }
}
