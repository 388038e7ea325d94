//! com.microsoft::MatMulNBits and com.microsoft::MatMulBnb4: products with weights of a few bits, quantized block by block.
//!
//! Opsets: 1.
//!
//! Shape rule: `[…,K]` gives `[…,N]`, with N and K from attributes.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome, shape::unify},
};

pub(super) static SPEC: OpSpec = OpSpec::new("MatMulNBits", &[sig(1, 3, 6)], Traits::ROUNDING, infer)
    .domain("com.microsoft")
    .macs(|c, o| super::matmul::macs(c.shape(0), o))
    .axes(axes);

/// Its weight is one vector of bytes, two elements in each, with a scale for each block of elements in row-major order.
pub(super) static BNB4: OpSpec = OpSpec::new("MatMulBnb4", &[sig(1, 3, 3)], Traits::ROUNDING, infer)
    .domain("com.microsoft")
    .macs(|c, o| super::matmul::macs(c.shape(0), o))
    .axes(axes_bnb4);

fn infer(call: &Call<'_>) -> Outcome {
    let attr = |name: &str| call.attrs().int(name).and_then(|n| u64::try_from(n).ok()).map_or(Dim::Unknown, Dim::Known);
    let Some(a) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let Some((inner, rows)) = a.split_last() else { return Err("a scalar is no factor of a matrix product".into()) };
    unify(inner, &attr("K"))?;
    Ok(vec![Fact::tensor(call.dtype(0), Some(rows.iter().cloned().chain([attr("N")]).collect()))])
}

/// `0[…,b*c!] 1[n,b,d!] 2[n*b] 3[n*b] 5[n] -> 0[…,n]`, with b blocks of c elements, packed into d bytes.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    const PACKED: Why = "its elements are packed into blocks";
    let (inner, outer, size) = (s.count("K", None)?, s.count("N", None)?, s.count("block_size", None)?);
    if !inner.is_multiple_of(size) {
        return Err("its blocks do not divide the axis");
    }
    if s.has(In(4)) {
        return Err("its groups are permuted");
    }
    let last = s.shape(In(0))?.len().checked_sub(1).ok_or("a scalar is no factor of a matrix product")?;
    same_axes(s, &[In(0), Out(0)], 0..last, Role::Free)?;
    let blocks = s.letter(Dim::Known(inner / size), Role::Summed);
    let element = s.letter(Dim::Known(size), Role::Whole(PACKED));
    let column = s.letter(Dim::Known(outer), Role::Free);
    s.spell(In(0), last, &[blocks, element]);
    s.spell(Out(0), last, &[column]);
    s.spell(In(1), 0, &[column]);
    s.spell(In(1), 1, &[blocks]);
    s.vector(In(5), &[column])?;
    for port in [In(2), In(3)].into_iter().filter(|&p| s.has(p)).collect::<Vec<_>>() {
        let full = Dim::Known(outer).mul(&Dim::Known(inner / size));
        match s.shape(port)? {
            [all] if all.same(&full) => s.spell(port, 0, &[column, blocks]),
            [_, all] if all.same(&Dim::Known(inner / size)) => {
                s.spell(port, 0, &[column]);
                s.spell(port, 1, &[blocks]);
            }
            [_, _] => {
                // Packed below a byte.
                s.spell(port, 0, &[column]);
                s.keep(blocks, PACKED);
            }
            _ => {
                s.keep(column, PACKED);
                s.keep(blocks, PACKED);
            }
        }
    }
    Ok(())
}

/// `0[…,k!] -> 0[…,n!]`.
fn axes_bnb4(s: &mut Spelling<'_>) -> Result<(), Why> {
    let last = s.shape(In(0))?.len().checked_sub(1).ok_or("a scalar is no factor of a matrix product")?;
    same_axes(s, &[In(0), Out(0)], 0..last, Role::Free)
}
