//! Tables whose rows hold the same elements twice.

use planish_ir::{Dim, Dims, Node, Tensor, ValueId, op};

use crate::RuleContext;

/// Nodes that are followed from one value.
const MAX_DEPTH: usize = 12;

/// True if both halves of each row are proven equal, bit for bit.
pub(super) fn are_equal(cx: &RuleContext<'_>, value: ValueId) -> bool {
    let mut left = MAX_DEPTH;
    width(cx, value).is_some_and(|width| width > 1 && repeats(cx, value, width, &mut left))
}

/// Size of the last axis.
fn width(cx: &RuleContext<'_>, value: ValueId) -> Option<u64> {
    cx.facts.fact(value).shape()?.last()?.known()
}

fn repeats(cx: &RuleContext<'_>, value: ValueId, of: u64, left: &mut usize) -> bool {
    let Some(rest) = left.checked_sub(1) else { return false };
    *left = rest;
    if width(cx, value) != Some(of) {
        return false;
    }
    if let Some(t) = cx.graph.constant(value) {
        return rows_repeat(t);
    }
    let Some((_, node)) = cx.graph.producer(value) else { return false };
    let Some(spec) = op::of(node) else { return false };
    let mut inner = |slot: usize| node.input(slot).is_some_and(|v| repeats(cx, v, of, left));
    let rank = |v: Option<ValueId>| v.and_then(|v| cx.facts.fact(v).shape()).map(<[Dim]>::len);
    match node.op.name.as_str() {
        "Concat" => joins_one_with_itself(cx, node, value),
        // Rows stay rows if they stay as long as they are.
        "Expand" | "Reshape" | "Slice" | "Squeeze" | "Unsqueeze" => inner(0),
        "Gather" => {
            let (axis, Some(rank)) = (node.attrs.int("axis").unwrap_or(0), rank(node.input(0))) else { return false };
            let last = i64::try_from(rank).map_or(0, |r| r.saturating_sub(1));
            axis != -1 && axis != last && inner(0)
        }
        "Transpose" => {
            let last = rank(Some(value)).and_then(|r| i64::try_from(r).ok()).and_then(|r| r.checked_sub(1));
            node.attrs.ints("perm").is_some_and(|p| p.last().copied() == last) && inner(0)
        }
        _ if spec.traits.elementwise && spec.traits.pure && node.outputs().len() == 1 => {
            // Every operand has the same element all along a row, or repeats; operands without axes are the former.
            (0..node.inputs().len()).all(|slot| {
                let Some(v) = node.input(slot) else { return true };
                let shape = cx.facts.fact(v).shape();
                shape.is_some_and(|s| s.last().is_none_or(|d| *d == Dim::Known(1))) || inner(slot)
            })
        }
        _ => false,
    }
}

fn joins_one_with_itself(cx: &RuleContext<'_>, concat: &Node, made: ValueId) -> bool {
    let [Some(a), Some(b)] = *concat.inputs() else { return false };
    let Some(rank) = cx.facts.fact(made).shape().map(<[Dim]>::len) else { return false };
    let axis = concat.attrs.int("axis").unwrap_or(0);
    a == b && (axis == -1 || i64::try_from(rank).is_ok_and(|r| axis.checked_add(1) == Some(r)))
}

/// Bytes of a row, unless it has an odd number of elements or they share bytes.
fn row_bytes(t: &Tensor) -> Option<usize> {
    let columns = t.dims().last().copied().filter(|n| *n > 0 && n.checked_rem(2) == Some(0) && t.dtype().is_float())?;
    let row = t.dtype().byte_len(columns).and_then(|n| usize::try_from(n).ok())?;
    (row.checked_rem(2) == Some(0) && row > 0).then_some(row)
}

fn rows_repeat(t: &Tensor) -> bool {
    let (Some(row), Some(bytes)) = (row_bytes(t), t.raw()) else { return false };
    bytes.chunks_exact(row).all(|r| r.split_at_checked(row / 2).is_some_and(|(a, b)| a == b))
}

/// The first half of each row, without the axes of size 1 that are listed.
pub(super) fn first(t: &Tensor, squeezed: &[i64]) -> Option<Tensor> {
    let row = row_bytes(t)?;
    let kept: Vec<u8> =
        t.raw()?.chunks_exact(row).filter_map(|r| r.get(..row / 2)).flat_map(|h| h.iter().copied()).collect();
    let (columns, outer) = t.dims().split_last()?;
    let mut dims: Vec<u64> = outer
        .iter()
        .enumerate()
        .filter(|(i, _)| !squeezed.iter().any(|a| i64::try_from(*i) == Ok(*a)))
        .map(|(_, d)| *d)
        .collect();
    dims.push(columns.checked_div(2)?);
    Tensor::from_raw(t.dtype(), Dims::from(dims), kept.into()).ok()
}
