//! Making up for what a compression took away: weights in closed form, fitted to what the original model computes on calibration data.
//!
//! Samples come in two halves ([`Halves`], [`Held`]): what is fitted to one is judged by the other. [`Sequence`] fits layer after layer,
//! each from what it reads in the compressed model.

mod halves;
mod joint;
mod second;
mod sequential;
mod shift;
mod stages;

use std::collections::BTreeMap;

use faer::Mat;
use planish_ir::{GraphPath, ValueId};

pub(crate) use halves::{Halves, Held, computed_outputs};
pub(crate) use second::{CHUNK, Change, Second, Settings, TILE};
pub(crate) use sequential::{Fitted, Replace, Sequence};
pub(crate) use shift::{Shift, products};

/// What of each axis of a value a compressed model still has.
pub(crate) type Masks = BTreeMap<GraphPath, BTreeMap<ValueId, BTreeMap<usize, Vec<bool>>>>;

/// Ridge as a share of the mean of the diagonal.
pub(crate) fn ridge(moments: &Mat<f64>, share: f64) -> f64 {
    let n = moments.nrows().max(1);
    let mean = (0..n.min(moments.nrows())).map(|i| moments[(i, i)]).sum::<f64>() / n as f64;
    // A layer that sees nothing but zeros can have any weights.
    if mean > 0.0 { share * mean } else { 1.0 }
}
