//! Expand.
//!
//! Opsets: 8, 13.
//!
//! Shape rule: the input's shape and the target broadcast in both directions.

use super::{OpSpec, Traits, sig};
use crate::infer::{Call, Num, Outcome, shape::broadcast};

pub(super) static SPEC: OpSpec = OpSpec::new("Expand", &[sig(8, 2, 2)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let target = call.per_axis(1).map(|t| t.iter().map(Num::dim).collect::<Vec<_>>());
    let (Some(input), Some(target)) = (call.shape(0), target) else { return Ok(vec![call.like(0, None)]) };
    let fact = call.like(0, Some(broadcast(input, &target)?));
    // One element fills the result.
    let elements = match (call.elements(0), fact.small_count()) {
        (Some([one]), Some(n)) => Some(vec![one.clone(); n]),
        _ => None,
    };
    Ok(vec![fact.with(elements)])
}
