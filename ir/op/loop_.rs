//! Loop.
//!
//! Opsets: 1 (both limits are required), 11, 13 sequences, 16 optionals, 19 to 25 more types.
//!
//! The body takes the iteration number, the condition and the carried values; it returns the condition, the carried values
//! and one element of each scan output.
//!
//! Shape rule: a carried value has the type that it starts with; its shape may change from one iteration to the next, so
//! only that of the body's declaration holds. A scan output stacks what the body returns along a new first axis.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::{
    DType, Dim, Type,
    infer::{Call, Fact, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new(
    "Loop",
    &[sig(1, 3, VARIADIC).outputs(1, VARIADIC), sig(11, 2, VARIADIC).outputs(1, VARIADIC)],
    Traits::OPAQUE,
    infer,
)
.bodies(|call, _| {
    let carried = (2..call.node.inputs().len()).map(|i| open(call.fact(i)));
    [Fact::scalar(DType::I64), Fact::scalar(DType::Bool)].into_iter().chain(carried).collect()
});

fn infer(call: &Call<'_>) -> Outcome {
    let [body] = call.bodies.as_slice() else { return Ok(Vec::new()) };
    let carried = call.node.inputs().len().saturating_sub(2);
    let trips = call.elements(0).filter(|_| !call.has(1)).and_then(|e| e.first());
    let trips = trips.map_or(Dim::Unknown, |n| n.dim());
    Ok(body
        .iter()
        .skip(1)
        .enumerate()
        .map(|(i, fact)| if i < carried { after(call.fact(i + 2), fact) } else { stacked(fact, &trips) })
        .collect())
}

/// A carried value behind the loop, which may not have run at all: what its start and its end agree on.
fn after(start: &Fact, end: &Fact) -> Fact {
    let joined = start.join(end);
    Fact::typed(joined.ty)
}

fn stacked(element: &Fact, trips: &Dim) -> Fact {
    let shape = element.shape().map(|s| [trips.clone()].iter().chain(s).cloned().collect());
    Fact::tensor(element.dtype(), shape)
}

/// A value of the same type and of any shape.
fn open(fact: &Fact) -> Fact {
    match &fact.ty {
        Some(Type::Tensor(t)) => Fact::tensor(Some(t.dtype), None),
        Some(Type::Sequence(t)) => match t.as_tensor() {
            Some(t) => {
                Fact::of(Type::Sequence(Box::new(Type::Tensor(crate::TensorType { dtype: t.dtype, shape: None }))))
            }
            None => Fact::UNKNOWN,
        },
        _ => Fact::UNKNOWN,
    }
}
