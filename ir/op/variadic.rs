//! Elementwise operators of any number of inputs: Max, Mean, Min, Sum.
//!
//! Opsets: 1; 6 dropped `consumed_inputs`; 8 broadcasts; 12 and 13 more types.
//!
//! Shape rule: all shapes broadcast; the type is that of the first input.

use super::{Folding, OpSpec, Signature, Traits, VARIADIC, sig};
use crate::infer::{Call, Fact, Num, Outcome, shape};

const FROM_1: &[Signature] = &[sig(1, 1, VARIADIC)];
// Max and Min are not commutative to the bit: of 0 and -0 the first may win.
/// The order of additions is free.
const SUMMING: Traits = Traits { folding: Folding::Rounding, ..Traits::COMMUTATIVE };

pub(super) static MAX: OpSpec = OpSpec::new("Max", FROM_1, Traits::ELEMENTWISE, |c| infer(c, Num::max));
pub(super) static MEAN: OpSpec = OpSpec::new("Mean", FROM_1, SUMMING, |c| infer(c, |_, _| Num::Unknown));
pub(super) static MIN: OpSpec = OpSpec::new("Min", FROM_1, Traits::ELEMENTWISE, |c| infer(c, Num::min));
pub(super) static SUM: OpSpec = OpSpec::new("Sum", FROM_1, SUMMING, |c| infer(c, Num::add));

fn infer(call: &Call<'_>, f: fn(&Num, &Num) -> Num) -> Outcome {
    let Some(dtype) = call.dtype(0) else { return Ok(Vec::new()) };
    let mut all = call.fact(0).clone();
    for slot in 1..call.node.inputs().len() {
        let fact = call.fact(slot);
        let shape = match (all.shape(), fact.shape()) {
            (Some(a), Some(b)) => Some(shape::broadcast(a, b)?),
            _ => None,
        };
        let elements = shape::zip_elements(&all, fact, |a, b| f(a, b).fit(dtype));
        all = Fact::tensor(Some(dtype), shape).with(elements);
    }
    Ok(vec![all])
}
