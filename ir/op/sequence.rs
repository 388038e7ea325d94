//! Sequences of tensors: ConcatFromSequence, SequenceAt, SequenceConstruct, SequenceEmpty, SequenceErase, SequenceInsert,
//! SequenceLength, SequenceMap, SplitToSequence.
//!
//! Opsets: 11; SequenceMap 17; SplitToSequence 11, 24.
//!
//! Shape rule: a sequence is known by what holds of all its elements. Putting tensors in keeps what old and new ones agree
//! on, taking one out gives that.

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::{
    DType, Dim, Type,
    infer::{Call, Fact, Outcome},
};

pub(super) static AT: OpSpec =
    OpSpec::new("SequenceAt", &[sig(11, 2, 2)], Traits::OPAQUE, |c| Ok(vec![element(c.fact(0))]));
pub(super) static CONCAT: OpSpec = OpSpec::new("ConcatFromSequence", &[sig(11, 1, 1)], Traits::OPAQUE, concat);
pub(super) static CONSTRUCT: OpSpec =
    OpSpec::new("SequenceConstruct", &[sig(11, 1, VARIADIC)], Traits::OPAQUE, construct);
pub(super) static EMPTY: OpSpec = OpSpec::new("SequenceEmpty", &[sig(11, 0, 0)], Traits::OPAQUE, |c| {
    Ok(vec![of(&Fact::tensor(c.dtype_attr("dtype").or(Some(DType::F32)), None))])
});
pub(super) static ERASE: OpSpec = OpSpec::new("SequenceErase", &[sig(11, 1, 2)], Traits::OPAQUE, super::unary::same);
pub(super) static INSERT: OpSpec = OpSpec::new("SequenceInsert", &[sig(11, 2, 3)], Traits::OPAQUE, |c| {
    Ok(vec![of(&element(c.fact(0)).join(c.fact(1)))])
});
pub(super) static LENGTH: OpSpec =
    OpSpec::new("SequenceLength", &[sig(11, 1, 1)], Traits::OPAQUE, |_| Ok(vec![Fact::scalar(DType::I64)]));
pub(super) static MAP: OpSpec =
    OpSpec::new("SequenceMap", &[sig(17, 1, VARIADIC).outputs(1, VARIADIC)], Traits::OPAQUE, map).bodies(body_inputs);
pub(super) static SPLIT: OpSpec = OpSpec::new("SplitToSequence", &[sig(11, 1, 2)], Traits::OPAQUE, split);

/// A sequence of tensors like this one.
fn of(element: &Fact) -> Fact {
    Fact::typed(element.ty.clone().map(|t| Type::Sequence(Box::new(t))))
}

/// What holds of each element of a sequence.
fn element(sequence: &Fact) -> Fact {
    match &sequence.ty {
        Some(Type::Sequence(t)) => Fact::of((**t).clone()),
        _ => Fact::UNKNOWN,
    }
}

fn construct(call: &Call<'_>) -> Outcome {
    let others = (1..call.node.inputs().len()).map(|i| call.fact(i));
    let all = others.fold(call.same(0), |all, next| all.join(next));
    Ok(vec![of(&Fact::typed(all.ty))])
}

fn concat(call: &Call<'_>) -> Outcome {
    let element = element(call.fact(0));
    let stacked = call.flag("new_axis", false);
    let shape = match element.shape() {
        Some(s) => {
            let rank = if stacked { s.len() + 1 } else { s.len() };
            let at = call.axis("axis", 0, rank)?;
            let mut shape = s.to_vec();
            match shape.get_mut(at).filter(|_| !stacked) {
                Some(d) => *d = Dim::Unknown,
                None => shape.insert(at, Dim::Unknown),
            }
            Some(shape)
        }
        None => None,
    };
    Ok(vec![Fact::tensor(element.dtype(), shape)])
}

fn split(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![of(&call.like(0, None))]) };
    let at = call.axis("axis", 0, input.len())?;
    let mut shape = input.to_vec();
    if call.has(1) {
        // Parts of different sizes, unless a scalar says one size and it divides.
        if let Some(d) = shape.get_mut(at) {
            *d = Dim::Unknown;
        }
    } else if call.flag("keepdims", true) {
        if let Some(d) = shape.get_mut(at) {
            *d = Dim::Known(1);
        }
    } else {
        shape.remove(at);
    }
    Ok(vec![of(&call.like(0, Some(shape)))])
}

/// The body sees one element of each sequence, and other inputs as they are.
fn body_inputs(call: &Call<'_>, _: usize) -> Vec<Fact> {
    let one = |i: usize| match call.ty(i) {
        Some(Type::Sequence(_)) => element(call.fact(i)),
        _ => call.fact(i).clone(),
    };
    (0..call.node.inputs().len()).map(one).collect()
}

fn map(call: &Call<'_>) -> Outcome {
    let [body] = call.bodies.as_slice() else { return Ok(Vec::new()) };
    Ok(body.iter().map(of).collect())
}
