//! What the nodes that move data are told to do: axes, permutations and shapes, wherever the opset version keeps them.

use planish_ir::{Attr, Attrs, Dim, Node, NodeId, Patch, Ref, Tensor, Type, ValueId, infer::axis, op};

use crate::RuleContext;

/// True for an operator of the table, of which every attribute is known.
pub(crate) fn is_plain(node: &Node) -> bool {
    op::of(node).is_some() && !node.attrs.iter().any(|(_, a)| matches!(a, Attr::Ref { .. }))
}

/// The node that makes a value, if it is the ai.onnx operator of that name.
pub(crate) fn producer<'a>(cx: &RuleContext<'a>, value: ValueId, name: &str) -> Option<(NodeId, &'a Node)> {
    cx.graph.producer(value).filter(|(_, n)| n.op.is(name) && is_plain(n))
}

/// The proven shape of a value.
pub(crate) fn dims<'a>(cx: &RuleContext<'a>, value: ValueId) -> Option<&'a [Dim]> {
    cx.facts.ty(value).and_then(Type::shape)
}

/// True if both are provably the same shape.
pub(crate) fn same_dims(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.same(y))
}

/// Integers that a node is told by an input slot, or by an attribute if the slot came with a later opset version.
/// `Ok(None)` if they are left out, `Err` if they are not known before the model runs.
pub(crate) fn ints(cx: &RuleContext<'_>, node: &Node, slot: usize, attr: &str) -> Result<Option<Vec<i64>>, Unknown> {
    match (node.input(slot), node.attrs.ints(attr)) {
        (Some(v), _) => cx.graph.constant(v).and_then(|t| t.to_i64().ok()).map(Some).ok_or(Unknown),
        (None, listed) => Ok(listed.map(<[i64]>::to_vec)),
    }
}

/// Not known before the model runs.
pub(crate) struct Unknown;

/// Axes as indices from the front, sorted; `None` if one does not exist or is named twice.
pub(crate) fn from_front(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let mut axes: Vec<usize> = axes.iter().map(|&a| axis(a, rank).ok()).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.windows(2).all(|w| w[0] != w[1]).then_some(axes)
}

/// Indices as ONNX writes them.
pub(crate) fn as_ints(indices: &[usize]) -> Vec<i64> {
    indices.iter().filter_map(|&i| i64::try_from(i).ok()).collect()
}

/// The order of axes of a Transpose whose input has that many.
pub(crate) fn perm(node: &Node, rank: usize) -> Option<Vec<usize>> {
    let perm = match node.attrs.ints("perm") {
        Some(p) => p.iter().map(|&a| usize::try_from(a).ok()).collect::<Option<Vec<_>>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..rank).then_some(perm)
}

/// Tells a node integers, as an input from opset `since` on and as an attribute before.
pub(crate) fn set_ints(
    patch: &mut Patch,
    cx: &RuleContext<'_>,
    id: NodeId,
    (slot, attr, since): (usize, &str, i64),
    name: String,
    values: &[i64],
) -> Attrs {
    if cx.opset() < since {
        return Attrs::new().with(attr, values.to_vec());
    }
    let constant: Ref = patch.constant(name, Tensor::ints(values));
    patch.set_input(id, slot, Some(constant));
    Attrs::new()
}
