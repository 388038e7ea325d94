//! Dropout.
//!
//! Opsets: 1 (`is_test`), 6, 7 (never trains), 10 the mask is boolean, 12 (`ratio` and `training_mode` are inputs), 13, 22.
//!
//! Shape rule: output and mask have the shape of the input.

use super::{OpSpec, Traits, sig};
use crate::{
    DType,
    infer::{Call, Fact, Outcome},
};

/// Random when it trains.
pub(super) static SPEC: OpSpec = OpSpec::new(
    "Dropout",
    &[sig(1, 1, 1).outputs(1, 2), sig(12, 1, 3).outputs(1, 2)],
    Traits { elementwise: true, ..Traits::IMPURE },
    infer,
);

fn infer(call: &Call<'_>) -> Outcome {
    let mask = if call.opset < 10 { call.dtype(0) } else { Some(DType::Bool) };
    let same = call.same(0);
    Ok(vec![same, Fact::tensor(mask, call.shape(0).map(<[_]>::to_vec))])
}
