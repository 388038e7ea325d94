//! NonMaxSuppression.
//!
//! Opsets: 10, 11.
//!
//! Shape rule: int64, one row of three indices for each box that is kept, however many.

use super::{OpSpec, Traits, sig};
use crate::{DType, Dim, infer::Fact};

pub(super) static SPEC: OpSpec = OpSpec::new("NonMaxSuppression", &[sig(10, 2, 5)], Traits::ROUNDING, |_| {
    Ok(vec![Fact::tensor(Some(DType::I64), Some(vec![Dim::Unknown, Dim::Known(3)]))])
});
