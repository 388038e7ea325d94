//! Where.
//!
//! Opsets: 9, 16.
//!
//! Shape rule: the three shapes broadcast; the type is that of the second input.

use super::{OpSpec, Traits, sig};
use crate::infer::{Call, Fact, Num, Outcome, shape};

pub(super) static SPEC: OpSpec = OpSpec::new("Where", &[sig(9, 3, 3)], Traits::ELEMENTWISE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let shape = match (call.shape(0), call.shape(1), call.shape(2)) {
        (Some(c), Some(x), Some(y)) => Some(shape::broadcast(&shape::broadcast(c, x)?, y)?),
        _ => None,
    };
    let fact = Fact::tensor(call.dtype(1).or_else(|| call.dtype(2)), shape);
    let elements = elements(call, fact.small_count());
    Ok(vec![fact.with(elements)])
}

fn elements(call: &Call<'_>, count: Option<usize>) -> Option<Vec<Num>> {
    let count = count?;
    let (c, x, y) = (call.elements(0)?, call.elements(1)?, call.elements(2)?);
    let at = |e: &[Num], i: usize| if e.len() == 1 { e.first().cloned() } else { e.get(i).cloned() };
    if [c, x, y].iter().any(|e| e.len() != 1 && e.len() != count) {
        return None;
    }
    (0..count)
        .map(|i| {
            let (x, y) = (at(x, i)?, at(y, i)?);
            Some(match at(c, i)?.int() {
                Some(0) => y,
                Some(_) => x,
                None if x.same(&y) => x,
                None => Num::Unknown,
            })
        })
        .collect()
}
