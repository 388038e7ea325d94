//! MatMul, MatMulInteger, QLinearMatMul: matrix products with broadcast batch axes.
//!
//! Opsets: MatMul 1, 9, 13; MatMulInteger 10; QLinearMatMul 10, 21.
//!
//! Shape rule: as NumPy's `matmul`: `[…,m,k]` times `[…,k,n]` is `[…,m,n]`; a vector on the left is a row, on the right a
//! column, and its axis vanishes from the result.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Letter,
    Port::{In, Out},
    Role, Spelling, Why,
};
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
.macs(|c, o| macs(c.shape(0), o))
.axes(|s| axes(s, 1).map(|_| ()));

pub(super) static MATMUL_INTEGER: OpSpec = OpSpec::new("MatMulInteger", &[sig(10, 2, 4)], Traits::PURE, |c| {
    Ok(vec![Fact::tensor(Some(DType::I32), product(c.shape(0), c.shape(1))?)])
})
.macs(|c, o| macs(c.shape(0), o))
.axes(axes_integer);

pub(super) static QLINEAR_MATMUL: OpSpec = OpSpec::new("QLinearMatMul", &[sig(10, 8, 8)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(7), product(c.shape(0), c.shape(3))?)])
})
.macs(|c, o| macs(c.shape(0), o))
.axes(axes_quantized);

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

/// `a[…,m,k+] b[…,k+,n] -> y[…,m,n]`, batch axes broadcast. Returns the letters of m and n; a factor that is a vector has none.
pub(super) fn axes(s: &mut Spelling<'_>, b: usize) -> Result<(Option<Letter>, Option<Letter>), Why> {
    let (left, right, rank) = (s.shape(In(0))?.len(), s.shape(In(b))?.len(), s.shape(Out(0))?.len());
    let (Some(inner_left), Some(inner_right)) = (left.checked_sub(1), right.checked_sub(2).or(right.checked_sub(1)))
    else {
        return Err("a scalar is no factor of a matrix product");
    };
    s.tie(&[(In(0), inner_left), (In(b), inner_right)], Role::Summed)?;
    let columns = match right {
        1 => None,
        _ => Some(s.tie(&[(In(b), right - 1), (Out(0), rank.saturating_sub(1))], Role::Free)?),
    };
    let matrix = usize::from(left > 1) + usize::from(right > 1);
    let rows = match left {
        1 => None,
        _ => Some(s.tie(&[(In(0), left - 2), (Out(0), rank.saturating_sub(matrix))], Role::Free)?),
    };
    for back in 0..rank.saturating_sub(matrix) {
        let batch = [(In(0), left), (In(b), right)].into_iter();
        let batch: Vec<_> = batch.filter_map(|(p, n)| Some((p, n.checked_sub(3 + back)?))).collect();
        s.broadcast(&batch, &[(Out(0), rank - matrix - 1 - back)], Role::Free)?;
    }
    Ok((rows, columns))
}

/// Zero points are scalars, or one for each row of the left and each column of the right factor.
fn axes_integer(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (rows, columns) = axes(s, 1)?;
    rows.into_iter().try_for_each(|l| s.vector(In(2), &[l]))?;
    columns.into_iter().try_for_each(|l| s.vector(In(3), &[l]))
}

/// The same of scales and zero points.
fn axes_quantized(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (rows, columns) = axes(s, 3)?;
    for slot in [1, 2] {
        rows.into_iter().try_for_each(|l| s.vector(In(slot), &[l]))?;
    }
    for slot in [4, 5] {
        columns.into_iter().try_for_each(|l| s.vector(In(slot), &[l]))?;
    }
    Ok(())
}
