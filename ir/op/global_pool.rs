//! GlobalAveragePool, GlobalLpPool, GlobalMaxPool.
//!
//! Opsets: 1, 22 (GlobalLpPool also 2).
//!
//! Shape rule: every spatial axis becomes 1.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Outcome},
};

pub(super) static AVERAGE: OpSpec = OpSpec::new("GlobalAveragePool", &[sig(1, 1, 1)], Traits::ROUNDING, infer);
pub(super) static LP: OpSpec = OpSpec::new("GlobalLpPool", &[sig(1, 1, 1)], Traits::ROUNDING, infer);
pub(super) static MAX: OpSpec = OpSpec::new("GlobalMaxPool", &[sig(1, 1, 1)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let shape = call
        .shape(0)
        .map(|x| x.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Dim::Known(1) }).collect());
    Ok(vec![call.like(0, shape)])
}
