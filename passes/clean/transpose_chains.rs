//! Merge transposes, also across what can work on either side of them.
//!
//! Before     y = Transpose (Transpose (x, p), q)
//!            y = Transpose (f (Transpose (x, p)), q)       f of one element each, a product with a constant matrix, a bias
//!                                                          per column, or a Reshape that takes the last axis apart or
//!                                                          puts it together
//!            y = Squeeze (Transpose (Unsqueeze (x, a), p), b)
//!            y = Reshape (Transpose (Reshape (x, s), p), t)      t takes apart what s put together
//!            y = Transpose (x, p)       p moves axes of size 1 only
//! After      y = Transpose (x, p∘q), or x if that keeps the order
//!            y = Transpose (f (x), p∘q), or y = f (Transpose (x, p∘q))
//!            y = Transpose (Squeeze (Unsqueeze (x, a), p[b]), p')
//!            y = Transpose (Reshape (x, s'), p')
//!            y = Reshape (x, s)
//! When       shapes prove it, and a node less is left
//! Refuses    what somebody else reads half-way
//! Numerics   Exact for moved elements; Reassociated if a product or a transcendental function gets its rows in another
//!            order, since kernels treat the last rows differently
//! Reference  –

mod across;
mod apart;
mod upward;

use planish_ir::{Attrs, Def, Dim, Node, NodeId, Numerics, OpName, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    operands::{as_ints, dims, from_front, ints, is_plain, perm, producer},
    reshape_chains::{self, Size},
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransposeChains {}

impl Pass for TransposeChains {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for TransposeChains {
    fn roots(&self) -> &'static [&'static str] {
        &["Reshape", "Squeeze", "Transpose"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if !is_plain(node) {
            return Err(Skip::NoMatch);
        }
        let patch = match node.op.name.as_str() {
            "Transpose" => merged(cx, id, node)
                .or_else(|| across::patch(cx, id, node))
                .or_else(|| upward::patch(cx, node))
                .or_else(|| ones(cx, id, node)),
            "Squeeze" => squeezed(cx, id, node),
            _ => apart::patch(cx, id, node),
        };
        patch.ok_or(Skip::NoMatch)
    }
}

/// `Transpose (x, first)` and then `second`, as one.
fn compose(first: &[usize], second: &[usize]) -> Option<Vec<usize>> {
    second.iter().map(|&i| first.get(i).copied()).collect()
}

fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, &a)| i == a)
}

/// True if the readers of a value can read the other one instead, whatever the interface asks for.
fn replaceable(cx: &RuleContext<'_>, old: ValueId, new: ValueId) -> bool {
    let value = cx.graph.value(new);
    !cx.graph.is_output(old) || value.is_some_and(|v| matches!(v.def(), Def::Node { .. }) && !v.is_output())
}

/// A transpose of a transpose.
fn merged(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (middle, output) = (node.input(0)?, node.output(0)?);
    let (_, first) = producer(cx, middle, "Transpose")?;
    let source = first.input(0)?;
    let rank = first.attrs.ints("perm").or(node.attrs.ints("perm")).map(<[i64]>::len);
    let rank = rank.or_else(|| dims(cx, source).map(<[Dim]>::len))?;
    let perm = compose(&perm(first, rank)?, &perm(node, rank)?)?;
    let mut patch = Patch::new(Numerics::Exact, format!("Transpose {:?}", cx.graph.name_of(output)));
    if is_identity(&perm) && replaceable(cx, output, source) {
        patch.replace(output, source);
    } else {
        patch.set_input(id, 0, Some(source.into()));
        patch.set_attrs(id, Attrs::new().with("perm", as_ints(&perm)));
    }
    Some(patch)
}

/// A transpose that moves axes of size 1 only keeps the order of elements.
fn ones(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (source, output) = (node.input(0)?, node.output(0)?);
    let shape = dims(cx, source)?;
    let perm = perm(node, shape.len())?;
    let moved: Vec<usize> = perm.iter().copied().filter(|&a| shape.get(a) != Some(&Dim::Known(1))).collect();
    if !moved.is_sorted() || is_identity(&perm) || cx.opset() < 5 {
        return None;
    }
    let sizes: Vec<Size> = perm.iter().filter_map(|&a| shape.get(a)).cloned().map(Size::Is).collect();
    let target = reshape_chains::target(&sizes, shape).ok()?;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Transpose {name:?} moves nothing"));
    let target = patch.constant(format!("{name}_shape"), Tensor::ints(&target));
    patch.set_input(id, 1, Some(target));
    patch.set_attrs(id, Attrs::new());
    patch.set_op(id, OpName::onnx("Reshape"));
    Some(patch)
}

/// Squeezes before a transpose instead of behind it, if there it meets what put the axis in.
fn squeezed(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (middle, output) = (node.input(0)?, node.output(0)?);
    let (transpose_id, transpose) = producer(cx, middle, "Transpose")?;
    cx.graph.only_user(middle)?;
    let source = transpose.input(0)?;
    let (_, before) = cx.graph.producer(source)?;
    cx.graph.only_user(source)?;
    if !is_plain(before) || !["Reshape", "Unsqueeze"].iter().any(|name| before.op.is(name)) {
        return None;
    }
    let rank = dims(cx, source)?.len();
    let perm = perm(transpose, rank)?;
    let listed = ints(cx, node, 1, "axes").ok()??;
    let axes = from_front(&listed, rank)?;
    let mut gone: Vec<usize> = axes.iter().filter_map(|&a| perm.get(a)).copied().collect();
    gone.sort_unstable();
    let rest: Vec<usize> = perm.iter().copied().filter(|a| !gone.contains(a)).collect();
    let order = rest.iter().map(|&a| a - gone.iter().filter(|&&g| g < a).count()).collect::<Vec<_>>();
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Squeeze {name:?} before Transpose"));
    let inputs = match cx.opset() < 13 {
        true => vec![Some(source.into())],
        false => vec![Some(source.into()), Some(patch.constant(format!("{name}_axes"), Tensor::ints(&as_ints(&gone))))],
    };
    let attrs = if cx.opset() < 13 { Attrs::new().with("axes", as_ints(&gone)) } else { Attrs::new() };
    let squeezed = patch
        .node(OpName::onnx("Squeeze"), inputs)
        .in_place_of(id)
        .attrs(attrs)
        .output(format!("{name}_squeezed"), None);
    let moved = patch
        .node(OpName::onnx("Transpose"), [Some(squeezed)])
        .in_place_of(transpose_id)
        .attr("perm", as_ints(&order))
        .output(name, cx.graph.ty(output).cloned());
    patch.replace(output, moved);
    Some(patch)
}

#[cfg(test)]
mod tests;
