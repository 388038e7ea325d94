//! A Reshape that takes apart, behind a transpose, what a Reshape before it put together.

use planish_ir::{Attrs, Dim, Node, NodeId, Numerics, OpName, Patch, Tensor};

use super::{
    super::{
        operands::{as_ints, dims, perm, producer},
        reshape_chains::{Size, target},
    },
    is_plain,
};
use crate::RuleContext;

/// The sizes of the last Reshape are those of the first one, taken apart further: then the first can make them at once,
/// and the transpose puts them in their order.
pub(super) fn patch(cx: &RuleContext<'_>, id: NodeId, last: &Node) -> Option<Patch> {
    let (moved, output) = (last.input(0)?, last.output(0)?);
    let (_, transpose) = producer(cx, moved, "Transpose")?;
    cx.graph.only_user(moved)?;
    let joined = transpose.input(0)?;
    let (_, first) = cx.graph.producer(joined)?;
    cx.graph.only_user(joined)?;
    if !is_plain(first) || !["Flatten", "Reshape", "Squeeze", "Unsqueeze"].iter().any(|name| first.op.is(name)) {
        return None;
    }
    let source = first.input(0)?;
    let (from, whole, parts) = (dims(cx, source)?, dims(cx, joined)?, dims(cx, output)?);
    let perm = perm(transpose, whole.len())?;
    // For each axis in the transpose's order, how many axes of the result it becomes.
    let groups = groups(&perm.iter().filter_map(|&a| whole.get(a)).collect::<Vec<_>>(), parts)?;
    // Where each axis of the first Reshape begins among the axes of the result.
    let mut begin = vec![(0, 0); whole.len()];
    let mut at = 0;
    for (&axis, &count) in perm.iter().zip(&groups) {
        *begin.get_mut(axis)? = (at, count);
        at += count;
    }
    let order: Vec<usize> = begin.iter().flat_map(|&(at, count)| at..at + count).collect();
    let sizes: Vec<Size> = order.iter().filter_map(|&i| parts.get(i)).cloned().map(Size::Is).collect();
    let target = target(&sizes, from).ok()?;
    let mut back = vec![0; order.len()];
    for (i, &part) in order.iter().enumerate() {
        *back.get_mut(part)? = i;
    }
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Reshape {name:?} before Transpose"));
    let target = patch.constant(format!("{name}_shape"), Tensor::ints(&target));
    let apart =
        patch.node(OpName::onnx("Reshape"), [Some(source.into()), Some(target)]).output(format!("{name}_apart"), None);
    patch.set_input(id, 0, Some(apart));
    patch.set_input(id, 1, None);
    patch.set_attrs(id, Attrs::new().with("perm", as_ints(&back)));
    patch.set_op(id, OpName::onnx("Transpose"));
    Some(patch)
}

/// How many parts in a row each whole is the product of.
fn groups(wholes: &[&Dim], parts: &[Dim]) -> Option<Vec<usize>> {
    let mut groups = Vec::with_capacity(wholes.len());
    let mut rest = parts;
    for whole in wholes {
        let mut product = Dim::Known(1);
        let mut count = 0;
        while count == 0 || !product.same(whole) {
            product = product.mul(rest.get(count)?);
            count += 1;
        }
        groups.push(count);
        rest = rest.get(count..)?;
    }
    if rest.is_empty() {
        return Some(groups);
    }
    // Ones at the end belong to the last.
    let last = groups.last_mut().filter(|_| rest.iter().all(|d| *d == Dim::Known(1)))?;
    *last += rest.len();
    Some(groups)
}
