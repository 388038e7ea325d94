//! If.
//!
//! Opsets: 1, 11, 13 sequences, 16 optionals, 19 to 25 more types.
//!
//! Shape rule: what the branch makes that is taken, or what both agree on if the condition is not known.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::infer::{Call, Num, Outcome};

pub(super) static SPEC: OpSpec = OpSpec::new("If", &[sig(1, 1, 1).outputs(1, VARIADIC)], Traits::OPAQUE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    // By name of the attribute: else_branch, then_branch.
    let [otherwise, then] = call.bodies.as_slice() else { return Ok(Vec::new()) };
    match call.elements(0) {
        Some([Num::Int(0)]) => Ok(otherwise.clone()),
        Some([Num::Int(_)]) => Ok(then.clone()),
        _ => Ok(otherwise.iter().zip(then).map(|(a, b)| a.join(b)).collect()),
    }
}
