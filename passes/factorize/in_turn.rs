//! Splitting layers one after the other, each to compute what it did in the original from what it reads once those in front are split.
//!
//! The weights that come nearest to that without being split are found first, by least squares with a ridge toward the old ones. Of a
//! projection of those onto fewer ranks the error adds to theirs (`E|y - Bx|² = E|y - Wx|² + E|(W - B)x|²` for the best `W`), so that what
//! is split is the new weights, by the moments of what the layer reads now: all of its factors are fitted, and make up for the errors of
//! those in front and of what is added to their result.

use std::collections::BTreeMap;

use faer::Mat;
use planish_ir::{Numerics, Patch, ValueId};

use super::method::{Known, Layer, Moments, Place, Refitted};
use crate::{
    PassError,
    reconstruct::{Fitted, Replace, ridge},
};

/// A layer that is to be split.
pub(super) struct Turn<'a> {
    pub(super) layer: &'a dyn Layer,
    pub(super) places: &'a [Place],
    pub(super) ranks: &'a [usize],
    /// Of the patch.
    pub(super) title: String,
}

/// Layers that are to be split, by their weights.
pub(super) struct InTurn<'a> {
    pub(super) layers: BTreeMap<ValueId, Turn<'a>>,
    /// Ridge of second moments, as a share of the mean of their diagonal.
    pub(super) damping: f64,
}

impl Replace for InTurn<'_> {
    fn replaces(&self, weight: ValueId) -> bool {
        self.layers.contains_key(&weight)
    }

    fn patch(&self, fitted: &Fitted<'_>) -> Result<Patch, PassError> {
        let missing = || PassError::Precondition("a layer is split that was not chosen".to_owned());
        let turn = self.layers.get(&fitted.linear.weight).ok_or_else(missing)?;
        let moments = match (turn.layer.reads(), fitted.moments.as_slice()) {
            (Some(reads), [matrix]) => Some(Moments {
                matrix: damped(matrix.clone(), self.damping),
                mean: reads.centred.then(|| fitted.mean.clone()),
            }),
            _ => None,
        };
        let refitted = Refitted { weights: &fitted.weights, shift: &fitted.shift };
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
