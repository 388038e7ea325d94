//! MatMul, MatMulInteger, QLinearMatMul: matrix products with broadcast batch axes.
//!
//! Opsets: MatMul 1, 9, 13; MatMulInteger 10; QLinearMatMul 10, 21.
//!
//! Shape rule: as NumPy's `matmul`: `[…,m,k]` times `[…,k,n]` is `[…,m,n]`; a vector on the left is a row, on the right a
//! column, and its axis vanishes from the result.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim, Shape,
    infer::{
        Fact,
        shape::{broadcast, show, unify},
    },
};

pub(super) static MATMUL: OpSpec = OpSpec::new("MatMul", &[sig(1, 2, 2)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(0), product(c.shape(0), c.shape(1))?)])
})
.macs(|c, o| macs(c.shape(0), o));

pub(super) static MATMUL_INTEGER: OpSpec = OpSpec::new("MatMulInteger", &[sig(10, 2, 4)], Traits::PURE, |c| {
    Ok(vec![Fact::tensor(Some(DType::I32), product(c.shape(0), c.shape(1))?)])
})
.macs(|c, o| macs(c.shape(0), o));

pub(super) static QLINEAR_MATMUL: OpSpec = OpSpec::new("QLinearMatMul", &[sig(10, 8, 8)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(7), product(c.shape(0), c.shape(3))?)])
})
.macs(|c, o| macs(c.shape(0), o));

/// Shape of a matrix product; `Ok(None)` if a rank is not known.
pub(super) fn product(a: Option<&[Dim]>, b: Option<&[Dim]>) -> Result<Option<Shape>, String> {
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let (Some((a_last, a_rest)), Some((b_last, b_rest))) = (a.split_last(), b.split_last()) else {
        return Err("a scalar is no factor of a matrix product".into());
    };
    let fits =
        |x: &Dim, y: &Dim| unify(x, y).map_err(|_| format!("the inner sizes of {} and {} differ", show(a), show(b)));
    let (rows, left) = match a_rest.split_last() {
        Some((rows, left)) => (Some(rows), left),
        None => (None, &[][..]),
    };
    let (columns, right) = match b_rest.split_last() {
        Some((inner, right)) => {
            fits(a_last, inner)?;
            (Some(b_last), right)
        }
        None => {
            fits(a_last, b_last)?;
            (None, &[][..])
        }
    };
    let mut shape = broadcast(left, right)?;
    shape.extend(rows.into_iter().chain(columns).cloned());
    Ok(Some(shape))
}

/// One per output element and element of the inner axis.
pub(super) fn macs(a: Option<&[Dim]>, outputs: &[Fact]) -> Option<u64> {
    let inner = a?.last()?.known()?;
    outputs.first()?.count()?.checked_mul(inner)
}
