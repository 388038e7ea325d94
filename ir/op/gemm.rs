//! Gemm: `alpha * A' * B' + beta * C`, with transposed factors on demand.
//!
//! Opsets: 1, 6, 7 C broadcasts, 9, 11 C is optional, 13.
//!
//! Shape rule: `[m,k]` times `[k,n]` is `[m,n]`.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome, shape::unify},
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("Gemm", &[sig(1, 3, 3), sig(11, 2, 3)], Traits::ROUNDING, infer).macs(macs).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    call.expect_rank(0, 2)?;
    call.expect_rank(1, 2)?;
    let (rows, inner) = factor(call, 0, "transA");
    let (other, columns) = factor(call, 1, "transB");
    unify(&inner, &other).map_err(|e| format!("inner axis: {e}"))?;
    Ok(vec![call.like(0, Some(vec![rows, columns]))])
}

/// Rows and columns of a factor as it enters the product.
fn factor(call: &Call<'_>, slot: usize, transpose: &str) -> (Dim, Dim) {
    match (call.shape(slot), call.flag(transpose, false)) {
        (Some([a, b]), false) => (a.clone(), b.clone()),
        (Some([a, b]), true) => (b.clone(), a.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    }
}

fn macs(call: &Call<'_>, outputs: &[Fact]) -> Option<u64> {
    let inner = factor(call, 0, "transA").1.known().or_else(|| factor(call, 1, "transB").0.known())?;
    outputs.first()?.count()?.checked_mul(inner)
}

/// `a[m,k+] b[k+,n] -> y[m,n]`, and the summand is stretched to `[m,n]`.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (a, b) = (usize::from(s.call.flag("transA", false)), usize::from(s.call.flag("transB", false)));
    s.tie(&[(In(0), 1 - a), (In(1), b)], Role::Summed)?;
    let rows = s.tie(&[(In(0), a), (Out(0), 0)], Role::Free)?;
    let columns = s.tie(&[(In(1), 1 - b), (Out(0), 1)], Role::Free)?;
    if s.has(In(2)) {
        let rank = s.shape(In(2))?.len();
        for (axis, letter) in (0..rank).rev().zip([columns, rows]) {
            s.stretch(In(2), axis, letter)?;
        }
    }
    Ok(())
}
