//! Clip.
//!
//! Opsets: 1 (bounds are attributes), 6, 11 (optional inputs), 12, 13.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig};
use crate::infer::{Call, Num, Outcome};

pub(super) static SPEC: OpSpec = OpSpec::new("Clip", &[sig(1, 1, 1), sig(11, 1, 3)], Traits::ELEMENTWISE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let fact = call.same(0);
    if call.opset < 11 {
        return Ok(vec![fact]);
    }
    let bound = |slot: usize| match (call.has(slot), call.elements(slot)) {
        (false, _) => None,
        (true, Some([n])) => Some(n.clone()),
        (true, _) => Some(Num::Unknown),
    };
    let (least, most) = (bound(1), bound(2));
    let clip = |n: &Num| {
        let raised = least.as_ref().map_or_else(|| n.clone(), |l| n.max(l));
        most.as_ref().map_or_else(|| raised.clone(), |m| raised.min(m))
    };
    let elements = call.elements(0).map(|e| e.iter().map(clip).collect::<Vec<_>>());
    Ok(vec![fact.with(elements)])
}
