//! MatMul, MatMulInteger, QLinearMatMul, and of com.microsoft DynamicQuantizeMatMul, FusedMatMul and MatMulIntegerToFloat: matrix
//! products with broadcast batch axes.
//!
//! Opsets: MatMul 1, 9, 13; MatMulInteger 10; QLinearMatMul 10, 21; those of com.microsoft 1.
//!
//! Shape rule: as NumPy's `matmul`: `[…,m,k]` times `[…,k,n]` is `[…,m,n]`; a vector on the left is a row, on the right a
//! column, and its axis vanishes from the result.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Letter,
    Port::{In, Out},
    Role, Spelling, Why, aligned,
};
use crate::{
    DType, Dim, Shape,
    infer::{
        Call, Fact,
        shape::{broadcast, show, unify},
    },
};

pub(super) static MATMUL: OpSpec = OpSpec::new("MatMul", &[sig(1, 2, 2)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(0), product(c.shape(0), c.shape(1))?)])
})
.macs(|c, o| macs(c.shape(0), o))
.axes(|s| axes(s, 1, PLAIN).map(|_| ()));

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

pub(super) static DYNAMIC: OpSpec = OpSpec::new("DynamicQuantizeMatMul", &[sig(1, 3, 5)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(0), product(c.shape(0), c.shape(1))?)])
})
.domain("com.microsoft")
.macs(|c, o| macs(c.shape(0), o))
.axes(axes_dynamic);

pub(super) static FUSED: OpSpec = OpSpec::new("FusedMatMul", &[sig(1, 2, 2)], Traits::ROUNDING, |c| {
    let factors = (fused_factor(c, 0, "A"), fused_factor(c, 1, "B"));
    Ok(vec![Fact::tensor(c.dtype(0), product(factors.0.as_deref(), factors.1.as_deref())?)])
})
.domain("com.microsoft")
.macs(|c, o| macs(fused_factor(c, 0, "A").as_deref(), o))
.axes(axes_fused);

pub(super) static INTEGER_TO_FLOAT: OpSpec =
    OpSpec::new("MatMulIntegerToFloat", &[sig(1, 4, 7)], Traits::ROUNDING, |c| {
        Ok(vec![Fact::tensor(c.dtype(2), product(c.shape(0), c.shape(1))?)])
    })
    .domain("com.microsoft")
    .macs(|c, o| macs(c.shape(0), o))
    .axes(axes_to_float);

/// A factor of FusedMatMul as it enters the product. `transBatch` puts its first axis behind the other batch axes, `trans` then
/// exchanges the last two; vectors stay.
fn fused_factor(call: &Call<'_>, slot: usize, side: &str) -> Option<Shape> {
    let mut shape = call.shape(slot)?.to_vec();
    let rank = shape.len();
    if let Some(batch) = shape.get_mut(..rank.saturating_sub(1))
        && call.flag(&format!("transBatch{side}"), false)
        && !batch.is_empty()
    {
        batch.rotate_left(1);
    }
    if call.flag(&format!("trans{side}"), false) && rank >= 2 {
        shape.swap(rank - 2, rank - 1);
    }
    Some(shape)
}

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

/// Roles of what is summed over, and of the other axes of the left factor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roles {
    inner: Role,
    left: Role,
}

/// A product of two matrices as they are.
pub(super) const PLAIN: Roles = Roles { inner: Role::Summed, left: Role::Free };

/// `a[…,m,k+] b[…,k+,n] -> y[…,m,n]`, batch axes broadcast. Returns the letters of m and n; a factor that is a vector has none.
pub(super) fn axes(s: &mut Spelling<'_>, b: usize, roles: Roles) -> Result<(Option<Letter>, Option<Letter>), Why> {
    let (left, right, rank) = (s.shape(In(0))?.len(), s.shape(In(b))?.len(), s.shape(Out(0))?.len());
    let (Some(inner_left), Some(inner_right)) = (left.checked_sub(1), right.checked_sub(2).or(right.checked_sub(1)))
    else {
        return Err("a scalar is no factor of a matrix product");
    };
    s.tie(&[(In(0), inner_left), (In(b), inner_right)], roles.inner)?;
    let columns = match right {
        1 => None,
        _ => Some(s.tie(&[(In(b), right - 1), (Out(0), rank.saturating_sub(1))], Role::Free)?),
    };
    let matrix = usize::from(left > 1) + usize::from(right > 1);
    let rows = match left {
        1 => None,
        _ => Some(s.tie(&[(In(0), left - 2), (Out(0), rank.saturating_sub(matrix))], roles.left)?),
    };
    for back in 0..rank.saturating_sub(matrix) {
        let batch = [(In(0), left), (In(b), right)].into_iter();
        let batch: Vec<_> = batch.filter_map(|(p, n)| Some((p, n.checked_sub(3 + back)?))).collect();
        s.broadcast(&batch, &[(Out(0), rank - matrix - 1 - back)], roles.left)?;
    }
    Ok((rows, columns))
}

/// Zero points are scalars, or one for each row of the left and each column of the right factor.
fn axes_integer(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (rows, columns) = axes(s, 1, PLAIN)?;
    rows.into_iter().try_for_each(|l| s.vector(In(2), &[l]))?;
    columns.into_iter().try_for_each(|l| s.vector(In(3), &[l]))
}

/// The same of scales and zero points.
fn axes_quantized(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (rows, columns) = axes(s, 3, PLAIN)?;
    for slot in [1, 2] {
        rows.into_iter().try_for_each(|l| s.vector(In(slot), &[l]))?;
    }
    for slot in [4, 5] {
        columns.into_iter().try_for_each(|l| s.vector(In(slot), &[l]))?;
    }
    Ok(())
}

/// One scale for the whole left factor, which depends on all of its elements.
fn axes_dynamic(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (_, columns) = axes(s, 1, Roles { inner: Role::Mixed, left: Role::Mixed })?;
    [2, 3, 4].into_iter().try_for_each(|slot| columns.map_or(Ok(()), |l| s.vector(In(slot), &[l])))
}

/// Scales and zero points of both factors, and a bias for each column.
fn axes_to_float(s: &mut Spelling<'_>) -> Result<(), Why> {
    let (rows, columns) = axes(s, 1, PLAIN)?;
    [2, 4].into_iter().try_for_each(|slot| rows.map_or(Ok(()), |l| s.vector(In(slot), &[l])))?;
    [3, 5, 6].into_iter().try_for_each(|slot| columns.map_or(Ok(()), |l| s.vector(In(slot), &[l])))
}

/// `0[…,m,k+] 1[…,k+,n] -> 0[…,m,n]`, where the last two axes of either factor may be exchanged.
fn axes_fused(s: &mut Spelling<'_>) -> Result<(), Why> {
    if s.call.flag("transBatchA", false) || s.call.flag("transBatchB", false) {
        return Err("its batch axes are exchanged");
    }
    let (left, right, rank) = (s.shape(In(0))?.len(), s.shape(In(1))?.len(), s.shape(Out(0))?.len());
    if left < 2 || right < 2 {
        return Err("a factor is a vector");
    }
    let (a, b) = (usize::from(s.call.flag("transA", false)), usize::from(s.call.flag("transB", false)));
    s.tie(&[(In(0), left - 1 - a), (In(1), right - 2 + b)], Role::Summed)?;
    s.tie(&[(In(0), left - 2 + a), (Out(0), rank.saturating_sub(2))], Role::Free)?;
    s.tie(&[(In(1), right - 1 - b), (Out(0), rank.saturating_sub(1))], Role::Free)?;
    aligned(s, &[In(0), In(1)], &[Out(0)], 2..rank, Role::Free)
}
