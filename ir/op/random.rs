//! Random numbers: Bernoulli, Multinomial, RandomNormal, RandomNormalLike, RandomUniform, RandomUniformLike.
//!
//! Opsets: Bernoulli 15, 22; Multinomial 7, 22; the others 1, 22.
//!
//! Shape rule: the attribute `shape`, or that of the input; Multinomial draws `sample_size` classes for each row. The type
//! is `dtype`; by default float, the input's, or int32 for Multinomial.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static BERNOULLI: OpSpec = OpSpec::new("Bernoulli", &[sig(15, 1, 1)], Traits::IMPURE, like);
pub(super) static MULTINOMIAL: OpSpec = OpSpec::new("Multinomial", &[sig(7, 1, 1)], Traits::IMPURE, multinomial);
pub(super) static NORMAL: OpSpec = OpSpec::new("RandomNormal", &[sig(1, 0, 0)], Traits::IMPURE, listed);
pub(super) static NORMAL_LIKE: OpSpec = OpSpec::new("RandomNormalLike", &[sig(1, 1, 1)], Traits::IMPURE, like);
pub(super) static UNIFORM: OpSpec = OpSpec::new("RandomUniform", &[sig(1, 0, 0)], Traits::IMPURE, listed);
pub(super) static UNIFORM_LIKE: OpSpec = OpSpec::new("RandomUniformLike", &[sig(1, 1, 1)], Traits::IMPURE, like);

fn listed(call: &Call<'_>) -> Outcome {
    let shape = call.attrs().ints("shape").map(|s| s.iter().map(|&n| Num::Int(n).dim()).collect());
    Ok(vec![Fact::tensor(call.dtype_attr("dtype").or(Some(DType::F32)), shape)])
}

fn like(call: &Call<'_>) -> Outcome {
    let dtype = call.dtype_attr("dtype").or_else(|| call.dtype(0));
    Ok(vec![Fact::tensor(dtype, call.shape(0).map(<[_]>::to_vec))])
}

fn multinomial(call: &Call<'_>) -> Outcome {
    let rows = call.shape(0).and_then(|s| s.first()).cloned().unwrap_or(Dim::Unknown);
    let shape = vec![rows, Num::Int(call.int("sample_size", 1)).dim()];
    Ok(vec![Fact::tensor(call.dtype_attr("dtype").or(Some(DType::I32)), Some(shape))])
}
