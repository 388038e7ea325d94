//! Gemm, com.microsoft::FusedGemm and com.microsoft::QGemm: `alpha * A' * B' + beta * C`, with transposed factors on demand.
//!
//! Opsets: Gemm 1, 6, 7 C broadcasts, 9, 11 C is optional, 13; FusedGemm 1 (a Gemm with an activation behind it); QGemm 1 (on quantized
//! operands, whose scales and zero points follow them; the result is a float, or has the type of its zero point).
//!
//! Shape rule: `[m,k]` times `[k,n]` is `[m,n]`.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Letter,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    DType, Dim, Shape,
    infer::{Call, Fact, shape::unify},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Gemm", &[sig(1, 3, 3), sig(11, 2, 3)], Traits::ROUNDING, |c| {
    Ok(vec![c.like(0, Some(product(c, 1)?))])
})
.macs(|c, o| macs(c, 1, o))
.axes(|s| axes(s, 1, 2).map(|_| ()));

pub(super) static FUSED: OpSpec =
    OpSpec::new("FusedGemm", &[sig(1, 2, 3)], Traits::ROUNDING, |c| Ok(vec![c.like(0, Some(product(c, 1)?))]))
        .domain("com.microsoft")
        .macs(|c, o| macs(c, 1, o))
        .axes(|s| axes(s, 1, 2).map(|_| ()));

pub(super) static QUANTIZED: OpSpec = OpSpec::new("QGemm", &[sig(1, 6, 9)], Traits::ROUNDING, |c| {
    let dtype = if c.has(8) { c.dtype(8) } else { Some(DType::F32) };
    Ok(vec![Fact::tensor(dtype, Some(product(c, 3)?))])
})
.domain("com.microsoft")
.macs(|c, o| macs(c, 3, o))
.axes(axes_quantized);

/// Shape of the product with the right factor at a slot.
fn product(call: &Call<'_>, right: usize) -> Result<Shape, String> {
    call.expect_rank(0, 2)?;
    call.expect_rank(right, 2)?;
    let (rows, inner) = factor(call, 0, "transA");
    let (other, columns) = factor(call, right, "transB");
    unify(&inner, &other).map_err(|e| format!("inner axis: {e}"))?;
    Ok(vec![rows, columns])
}

/// Rows and columns of a factor as it enters the product.
fn factor(call: &Call<'_>, slot: usize, transpose: &str) -> (Dim, Dim) {
    match (call.shape(slot), call.flag(transpose, false)) {
        (Some([a, b]), false) => (a.clone(), b.clone()),
        (Some([a, b]), true) => (b.clone(), a.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    }
}

fn macs(call: &Call<'_>, right: usize, outputs: &[Fact]) -> Option<u64> {
    let inner = factor(call, 0, "transA").1.known().or_else(|| factor(call, right, "transB").0.known())?;
    outputs.first()?.count()?.checked_mul(inner)
}

/// `a[m,k+] b[k+,n] -> y[m,n]`, and the summand is stretched to `[m,n]`. Returns the letter of n.
fn axes(s: &mut Spelling<'_>, right: usize, summand: usize) -> Result<Letter, Why> {
    let (a, b) = (usize::from(s.call.flag("transA", false)), usize::from(s.call.flag("transB", false)));
    s.tie(&[(In(0), 1 - a), (In(right), b)], Role::Summed)?;
    let rows = s.tie(&[(In(0), a), (Out(0), 0)], Role::Free)?;
    let columns = s.tie(&[(In(right), 1 - b), (Out(0), 1)], Role::Free)?;
    if s.has(In(summand)) {
        let rank = s.shape(In(summand))?.len();
        for (axis, letter) in (0..rank).rev().zip([columns, rows]) {
            s.stretch(In(summand), axis, letter)?;
        }
    }
    Ok(columns)
}

/// The same; scales and zero points of the right factor may be one for each column.
fn axes_quantized(s: &mut Spelling<'_>) -> Result<(), Why> {
    let columns = axes(s, 3, 6)?;
    [4, 5].into_iter().try_for_each(|slot| s.vector(In(slot), &[columns]))
}
