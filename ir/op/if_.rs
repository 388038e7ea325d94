//! If.
//!
//! Opsets: 1, 11, 13 sequences, 16 optionals, 19 to 25 more types.
//!
//! Shape rule: what both branches agree on.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::infer::{Call, Outcome};

pub(super) static SPEC: OpSpec = OpSpec::new("If", &[sig(1, 1, 1).outputs(1, VARIADIC)], Traits::OPAQUE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let [a, b] = call.bodies.as_slice() else { return Ok(Vec::new()) };
    Ok(a.iter().zip(b).map(|(a, b)| a.join(b)).collect())
}
