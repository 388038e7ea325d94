//! Splitting layers one after the other, each to compute what it did in the original from what it reads once those in front are split.
//!
//! The weights that come nearest to that without being split are found first, by least squares with a ridge toward the old ones. Of a
//! projection of those onto fewer ranks the error adds to theirs (`E|y - Bx|² = E|y - Wx|² + E|(W - B)x|²` for the best `W`), so that what
//! is split is the new weights, by the moments of what the layer reads now: all of its factors are fitted, and make up for the errors of
//! those in front and of what is added to their result.

use faer::Mat;
use planish_ir::{Numerics, Patch, ValueId};

use super::method::{Known, Layer, Moments, Place, Refitted};
use crate::{
    Bias, PassError,
    reconstruct::{Fitted, Replace, ridge},
};

/// A layer that is to be split.
pub(super) struct Turn<'a> {
    /// Several if they are split together.
    pub(super) weights: &'a [ValueId],
    pub(super) layer: &'a dyn Layer,
    pub(super) places: &'a [Place],
    pub(super) ranks: &'a [usize],
    /// Of the patch.
    pub(super) title: String,
}

/// Layers that are to be split.
pub(super) struct InTurn<'a> {
    pub(super) turns: Vec<Turn<'a>>,
    /// Ridge of second moments, as a share of the mean of their diagonal.
    pub(super) damping: f64,
}

impl Replace for InTurn<'_> {
    fn together(&self, weight: ValueId) -> Option<&[ValueId]> {
        self.turns.iter().map(|t| t.weights).find(|w| w.contains(&weight))
    }

    fn patch(&self, fitted: &[Fitted<'_>]) -> Result<Patch, PassError> {
        let missing = || PassError::Precondition("a layer is split that was not chosen".to_owned());
        let weights: Vec<ValueId> = fitted.iter().map(|f| f.linear.weight).collect();
        let turn = self.turns.iter().find(|t| t.weights == weights).ok_or_else(missing)?;
        let reads = turn.layer.reads();
        // Moments are about the mean where there is a bias; if not all have one, those of a layer without are asked for.
        let is_centred = reads.as_ref().is_some_and(|r| r.centred);
        let of = fitted.iter().find(|f| is_centred || f.linear.bias == Bias::None);
        let moments = match (of, of.map(|f| f.moments.as_slice())) {
            (Some(of), Some([matrix])) if reads.is_some() => Some(Moments {
                matrix: damped(matrix.clone(), self.damping),
                mean: is_centred.then(|| of.mean.clone()),
            }),
            _ => None,
        };
        let parts: Vec<Mat<f64>> = fitted.iter().flat_map(|f| f.weights.iter().cloned()).collect();
        let shift: Vec<f64> = fitted.iter().flat_map(|f| f.shift.iter().copied()).collect();
        let refitted = Refitted { weights: &parts, shift: &shift };
        let known = Known {
            places: turn.places,
            moments: moments.as_ref(),
            ranks: Some(turn.ranks),
            refitted: Some(&refitted),
        };
        let mut patch = Patch::new(Numerics::Lossy, turn.title.clone());
        let decomposed = turn.layer.decompose(&known);
        let emitted = decomposed.and_then(|d| d.emit(turn.ranks, &mut patch));
        emitted.map_err(|why| PassError::Precondition(format!("{}: {why}", turn.title)))?;
        Ok(patch)
    }
}

/// A matrix with a ridge.
pub(super) fn damped(mut matrix: Mat<f64>, share: f64) -> Mat<f64> {
    let lambda = ridge(&matrix, share);
    for i in 0..matrix.nrows().min(matrix.ncols()) {
        matrix[(i, i)] += lambda;
    }
    matrix
}
