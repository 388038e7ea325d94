//! Elementwise operators of two inputs that broadcast.
//!
//! | operator | opsets |
//! |---|---|
//! | Add Div Mul Sub | 1, 6 dropped `consumed_inputs`, 7 broadcasts as NumPy does, 13 and 14 more types |
//! | Pow | 1, 7 broadcasts, 12 other types for the exponent, 13, 15 |
//! | PRelu | 1, 6, 7 slope broadcasts one way, 9, 16 |
//! | And Or Xor | 1, 7 broadcasts |
//! | Equal Greater Less | 1, 7 broadcasts, 9 to 19 more types |
//! | GreaterOrEqual LessOrEqual | 12, 16 |
//! | Mod | 10, 13, 28 |
//! | BitShift | 11, 28 |
//! | BitwiseAnd BitwiseOr BitwiseXor | 18 |
//! | SwiGLU | 28 |
//!
//! Shape rule: both shapes broadcast. Before opset 7 the output has the shape of the first input, and the attributes
//! `broadcast` and `axis` say how the second one is stretched to it. Arithmetic has the type of the first input,
//! comparisons give booleans.

use std::cmp::Ordering;

use super::{Folding, OpSpec, Signature, Traits, sig};
use crate::{
    DType,
    infer::{Call, Fact, Num, Outcome, shape},
};

const FROM_1: &[Signature] = &[sig(1, 2, 2)];
const FROM_12: &[Signature] = &[sig(12, 2, 2)];
const FROM_18: &[Signature] = &[sig(18, 2, 2)];

const COMMUTATIVE: Traits = Traits::COMMUTATIVE;
const ORDERED: Traits = Traits::ELEMENTWISE;

pub(super) static ADD: OpSpec = OpSpec::new("Add", FROM_1, COMMUTATIVE, |c| arithmetic(c, Num::add));
pub(super) static AND: OpSpec =
    OpSpec::new("And", FROM_1, COMMUTATIVE, |c| predicate(c, |a, b| logic(a, b, |a, b| a && b)));
pub(super) static BIAS_GELU: OpSpec =
    OpSpec::new("BiasGelu", &[sig(1, 2, 2)], Traits::ELEMENTWISE_ROUNDING, |c| arithmetic(c, opaque))
        .domain("com.microsoft");
pub(super) static BITWISE_AND: OpSpec = OpSpec::new("BitwiseAnd", FROM_18, COMMUTATIVE, |c| arithmetic(c, opaque));
pub(super) static BITWISE_OR: OpSpec = OpSpec::new("BitwiseOr", FROM_18, COMMUTATIVE, |c| arithmetic(c, opaque));
pub(super) static BITWISE_XOR: OpSpec = OpSpec::new("BitwiseXor", FROM_18, COMMUTATIVE, |c| arithmetic(c, opaque));
pub(super) static BIT_SHIFT: OpSpec = OpSpec::new("BitShift", &[sig(11, 2, 2)], ORDERED, |c| arithmetic(c, opaque));
// IEEE 754 rounds a quotient correctly, but engines divide by a constant by multiplying with its reciprocal.
pub(super) static DIV: OpSpec =
    OpSpec::new("Div", FROM_1, Traits { folding: Folding::Rounding, ..ORDERED }, |c| arithmetic(c, Num::div));
pub(super) static EQUAL: OpSpec =
    OpSpec::new("Equal", FROM_1, COMMUTATIVE, |c| comparison(c, |o| o == Ordering::Equal));
pub(super) static GREATER: OpSpec =
    OpSpec::new("Greater", FROM_1, ORDERED, |c| comparison(c, |o| o == Ordering::Greater));
pub(super) static GREATER_OR_EQUAL: OpSpec =
    OpSpec::new("GreaterOrEqual", FROM_12, ORDERED, |c| comparison(c, |o| o != Ordering::Less));
pub(super) static LESS: OpSpec = OpSpec::new("Less", FROM_1, ORDERED, |c| comparison(c, |o| o == Ordering::Less));
pub(super) static LESS_OR_EQUAL: OpSpec =
    OpSpec::new("LessOrEqual", FROM_12, ORDERED, |c| comparison(c, |o| o != Ordering::Greater));
pub(super) static MOD: OpSpec = OpSpec::new("Mod", &[sig(10, 2, 2)], ORDERED, modulo);
pub(super) static MUL: OpSpec = OpSpec::new("Mul", FROM_1, COMMUTATIVE, |c| arithmetic(c, Num::mul));
pub(super) static OR: OpSpec =
    OpSpec::new("Or", FROM_1, COMMUTATIVE, |c| predicate(c, |a, b| logic(a, b, |a, b| a || b)));
pub(super) static POW: OpSpec =
    OpSpec::new("Pow", FROM_1, Traits { folding: Folding::Rounding, ..ORDERED }, |c| arithmetic(c, opaque));
pub(super) static PRELU: OpSpec = OpSpec::new("PRelu", FROM_1, ORDERED, super::unary::same);
pub(super) static SUB: OpSpec = OpSpec::new("Sub", FROM_1, ORDERED, |c| arithmetic(c, Num::sub));
pub(super) static SWI_GLU: OpSpec =
    OpSpec::new("SwiGLU", &[sig(28, 2, 2)], Traits::ELEMENTWISE_ROUNDING, |c| arithmetic(c, opaque));
pub(super) static XOR: OpSpec =
    OpSpec::new("Xor", FROM_1, COMMUTATIVE, |c| predicate(c, |a, b| logic(a, b, |a, b| a != b)));

fn arithmetic(call: &Call<'_>, f: fn(&Num, &Num) -> Num) -> Outcome {
    let Some(dtype) = call.dtype(0) else { return Ok(Vec::new()) };
    Ok(vec![combine(call, dtype, f)?])
}

fn predicate(call: &Call<'_>, f: impl Fn(&Num, &Num) -> Num) -> Outcome {
    Ok(vec![combine(call, DType::Bool, f)?])
}

fn comparison(call: &Call<'_>, accept: fn(Ordering) -> bool) -> Outcome {
    predicate(call, |a, b| a.compare(b).map_or(Num::Unknown, |o| Num::from_bool(accept(o))))
}

fn modulo(call: &Call<'_>) -> Outcome {
    // With `fmod`, the sign is the dividend's.
    arithmetic(call, if call.flag("fmod", false) { opaque } else { Num::modulo })
}

fn combine(call: &Call<'_>, dtype: DType, f: impl Fn(&Num, &Num) -> Num) -> Result<Fact, String> {
    let shape = match (call.shape(0), call.shape(1)) {
        (Some(a), _) if call.opset < 7 => Some(a.to_vec()),
        (Some(a), Some(b)) => Some(shape::broadcast(a, b)?),
        _ => None,
    };
    let elements = shape::zip_elements(call.fact(0), call.fact(1), |a, b| f(a, b).fit(dtype));
    Ok(Fact::tensor(Some(dtype), shape).with(elements))
}

fn logic(a: &Num, b: &Num, f: fn(bool, bool) -> bool) -> Num {
    match (a.int(), b.int()) {
        (Some(a), Some(b)) => Num::from_bool(f(a != 0, b != 0)),
        _ => Num::Unknown,
    }
}

/// Elements that are not followed.
fn opaque(_: &Num, _: &Num) -> Num {
    Num::Unknown
}
