//! Losses: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss.
//!
//! Opsets: 12, 13; NegativeLogLikelihoodLoss also 22.
//!
//! Shape rule: a scalar, or with reduction `none` the shape of the targets. The second output of SoftmaxCrossEntropyLoss
//! has the shape of the scores.

use super::{OpSpec, Traits, sig};
use crate::infer::{Call, Outcome};

pub(super) static NEGATIVE_LOG_LIKELIHOOD: OpSpec =
    OpSpec::new("NegativeLogLikelihoodLoss", &[sig(12, 2, 3)], Traits::ROUNDING, infer);
pub(super) static SOFTMAX_CROSS_ENTROPY: OpSpec =
    OpSpec::new("SoftmaxCrossEntropyLoss", &[sig(12, 2, 3).outputs(1, 2)], Traits::ROUNDING, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let shape = match call.attrs().str("reduction") {
        Some("none") => call.shape(1).map(<[_]>::to_vec),
        _ => Some(Vec::new()),
    };
    Ok(vec![call.like(0, shape), call.same(0)])
}
