//! com.microsoft::MatMulNBits: a product with weights of a few bits, quantized block by block.
//!
//! Opsets: 1.
//!
//! Shape rule: `[…,K]` gives `[…,N]`, with N and K from attributes.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome, shape::unify},
};

pub(super) static SPEC: OpSpec = OpSpec::new("MatMulNBits", &[sig(1, 3, 6)], Traits::ROUNDING, infer)
    .domain("com.microsoft")
    .macs(|c, o| super::matmul::macs(c.shape(0), o));

fn infer(call: &Call<'_>) -> Outcome {
    let attr = |name: &str| call.attrs().int(name).and_then(|n| u64::try_from(n).ok()).map_or(Dim::Unknown, Dim::Known);
    let Some(a) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let Some((inner, rows)) = a.split_last() else { return Err("a scalar is no factor of a matrix product".into()) };
    unify(inner, &attr("K"))?;
    Ok(vec![Fact::tensor(call.dtype(0), Some(rows.iter().cloned().chain([attr("N")]).collect()))])
}
