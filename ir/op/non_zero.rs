//! NonZero.
//!
//! Opsets: 9, 13.
//!
//! Shape rule: int64; one row per axis of the input, one column per element that is not zero, however many.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("NonZero", &[sig(9, 1, 1)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let rows = match call.shape(0) {
        // Runtimes differ on scalars.
        None | Some([]) => Dim::Unknown,
        Some(s) => Dim::Known(s.len() as u64),
    };
    Ok(vec![Fact::tensor(Some(DType::I64), Some(vec![rows, Dim::Unknown]))])
}
