//! Elementwise functions of one input.
//!
//! | operator | opsets |
//! |---|---|
//! | Abs Ceil Elu Exp Floor Log Neg Reciprocal Relu Selu Sigmoid Sqrt Tanh HardSigmoid LeakyRelu | 1, 6 dropped `consumed_inputs`, later more types |
//! | Softplus Softsign | 1, 22 |
//! | Acos Asin Atan Cos Sin Tan | 7, 22 |
//! | Acosh Asinh Atanh Cosh Sinh Erf Sign Shrink | 9, 13 or 22 |
//! | ThresholdedRelu | 10, 22 |
//! | Round | 11, 22 |
//! | Celu | 12, 28 |
//! | HardSwish | 14, 22 |
//! | BitwiseNot, Mish | 18, 22 |
//! | Gelu | 20 (and com.microsoft 1, with BiasGelu, FastGelu and QuickGelu) |
//! | Swish | 24 |
//! | Not | 1 |
//! | IsInf IsNaN | 9 or 10, 13, 20 |
//!
//! Shape rule: the output has the shape of the input, and its type; `IsInf`, `IsNaN` and `Not` give booleans.

use super::{OpSpec, Signature, Traits, sig};
use crate::{
    DType,
    infer::{Call, Fact, Num, Outcome},
};

const FROM_1: &[Signature] = &[sig(1, 1, 1)];
const FROM_7: &[Signature] = &[sig(7, 1, 1)];
const FROM_9: &[Signature] = &[sig(9, 1, 1)];

/// Rounded correctly by IEEE 754, or no arithmetic at all.
const EXACT: Traits = Traits::ELEMENTWISE;
const ROUNDING: Traits = Traits::ELEMENTWISE_ROUNDING;

pub(super) static ABS: OpSpec = OpSpec::new("Abs", FROM_1, EXACT, |c| map(c, Num::abs));
pub(super) static ACOS: OpSpec = OpSpec::new("Acos", FROM_7, ROUNDING, same);
pub(super) static ACOSH: OpSpec = OpSpec::new("Acosh", FROM_9, ROUNDING, same);
pub(super) static ASIN: OpSpec = OpSpec::new("Asin", FROM_7, ROUNDING, same);
pub(super) static ASINH: OpSpec = OpSpec::new("Asinh", FROM_9, ROUNDING, same);
pub(super) static ATAN: OpSpec = OpSpec::new("Atan", FROM_7, ROUNDING, same);
pub(super) static ATANH: OpSpec = OpSpec::new("Atanh", FROM_9, ROUNDING, same);
pub(super) static BITWISE_NOT: OpSpec = OpSpec::new("BitwiseNot", &[sig(18, 1, 1)], EXACT, same);
pub(super) static CEIL: OpSpec = OpSpec::new("Ceil", FROM_1, EXACT, |c| map(c, |n| n.round(true)));
pub(super) static CELU: OpSpec = OpSpec::new("Celu", &[sig(12, 1, 1)], ROUNDING, same);
pub(super) static COS: OpSpec = OpSpec::new("Cos", FROM_7, ROUNDING, same);
pub(super) static COSH: OpSpec = OpSpec::new("Cosh", FROM_9, ROUNDING, same);
pub(super) static ELU: OpSpec = OpSpec::new("Elu", FROM_1, ROUNDING, same);
pub(super) static ERF: OpSpec = OpSpec::new("Erf", FROM_9, ROUNDING, same);
pub(super) static EXP: OpSpec = OpSpec::new("Exp", FROM_1, ROUNDING, same);
pub(super) static FLOOR: OpSpec = OpSpec::new("Floor", FROM_1, EXACT, |c| map(c, |n| n.round(false)));
pub(super) static GELU: OpSpec = OpSpec::new("Gelu", &[sig(20, 1, 1)], ROUNDING, same);
pub(super) static HARD_SIGMOID: OpSpec = OpSpec::new("HardSigmoid", FROM_1, ROUNDING, same);
pub(super) static HARD_SWISH: OpSpec = OpSpec::new("HardSwish", &[sig(14, 1, 1)], ROUNDING, same);
pub(super) static IS_INF: OpSpec = OpSpec::new("IsInf", &[sig(10, 1, 1)], EXACT, predicate);
pub(super) static IS_NAN: OpSpec = OpSpec::new("IsNaN", FROM_9, EXACT, predicate);
pub(super) static LEAKY_RELU: OpSpec = OpSpec::new("LeakyRelu", FROM_1, EXACT, same);
pub(super) static LOG: OpSpec = OpSpec::new("Log", FROM_1, ROUNDING, same);
pub(super) static MISH: OpSpec = OpSpec::new("Mish", &[sig(18, 1, 1)], ROUNDING, same);
pub(super) static NEG: OpSpec = OpSpec::new("Neg", FROM_1, EXACT, |c| map(c, Num::neg));
pub(super) static NOT: OpSpec = OpSpec::new("Not", FROM_1, EXACT, not);
pub(super) static RECIPROCAL: OpSpec = OpSpec::new("Reciprocal", FROM_1, ROUNDING, same);
pub(super) static RELU: OpSpec = OpSpec::new("Relu", FROM_1, EXACT, |c| map(c, relu));
pub(super) static ROUND: OpSpec = OpSpec::new("Round", &[sig(11, 1, 1)], EXACT, |c| map(c, nearest));
pub(super) static SELU: OpSpec = OpSpec::new("Selu", FROM_1, ROUNDING, same);
pub(super) static SHRINK: OpSpec = OpSpec::new("Shrink", FROM_9, EXACT, same);
pub(super) static SIGMOID: OpSpec = OpSpec::new("Sigmoid", FROM_1, ROUNDING, same);
pub(super) static SIGN: OpSpec = OpSpec::new("Sign", FROM_9, EXACT, same);
pub(super) static SIN: OpSpec = OpSpec::new("Sin", FROM_7, ROUNDING, same);
pub(super) static SINH: OpSpec = OpSpec::new("Sinh", FROM_9, ROUNDING, same);
pub(super) static SOFTPLUS: OpSpec = OpSpec::new("Softplus", FROM_1, ROUNDING, same);
pub(super) static SOFTSIGN: OpSpec = OpSpec::new("Softsign", FROM_1, ROUNDING, same);
pub(super) static SQRT: OpSpec = OpSpec::new("Sqrt", FROM_1, EXACT, same);
pub(super) static SWISH: OpSpec = OpSpec::new("Swish", &[sig(24, 1, 1)], ROUNDING, same);
pub(super) static TAN: OpSpec = OpSpec::new("Tan", FROM_7, ROUNDING, same);
pub(super) static TANH: OpSpec = OpSpec::new("Tanh", FROM_1, ROUNDING, same);
pub(super) static THRESHOLDED_RELU: OpSpec = OpSpec::new("ThresholdedRelu", &[sig(10, 1, 1)], EXACT, same);
pub(super) static MS_FAST_GELU: OpSpec =
    OpSpec::new("FastGelu", &[sig(1, 1, 2)], ROUNDING, same).domain("com.microsoft");
pub(super) static MS_QUICK_GELU: OpSpec = OpSpec::new("QuickGelu", FROM_1, ROUNDING, same).domain("com.microsoft");
pub(super) static MS_GELU: OpSpec = OpSpec::new("Gelu", FROM_1, ROUNDING, same).domain("com.microsoft");

/// The first output has the type of the first input.
pub(super) fn same(call: &Call<'_>) -> Outcome {
    Ok(vec![call.same(0)])
}

/// As [`same`], with each known element mapped.
fn map(call: &Call<'_>, f: impl Fn(&Num) -> Num) -> Outcome {
    let fact = call.same(0);
    let Some(dtype) = call.dtype(0) else { return Ok(vec![fact]) };
    let elements = call.elements(0).map(|e| e.iter().map(|n| f(n).fit(dtype)).collect::<Vec<_>>());
    Ok(vec![fact.with(elements)])
}

fn predicate(call: &Call<'_>) -> Outcome {
    let shape = call.shape(0).map(<[_]>::to_vec);
    Ok(vec![Fact::tensor(Some(DType::Bool), shape)])
}

fn not(call: &Call<'_>) -> Outcome {
    map(call, |n| n.int().map_or(Num::Unknown, |i| Num::from_bool(i == 0)))
}

/// Halves go to the even neighbour.
fn nearest(n: &Num) -> Num {
    match n {
        Num::Float(x) => Num::Float(x.round_ties_even()),
        Num::Quotient(_, 1) => n.clone(),
        _ => Num::Unknown,
    }
}

/// Zero for what is negative.
fn relu(n: &Num) -> Num {
    match n {
        Num::Float(x) if *x > 0.0 => n.clone(),
        Num::Float(x) if *x <= 0.0 => Num::Float(0.0),
        Num::Int(_) | Num::Symbolic(_) => n.max(&Num::Int(0)),
        Num::Quotient(..) => n.max(&Num::Float(0.0)),
        Num::Float(_) | Num::Unknown => Num::Unknown,
    }
}
