//! Pick parts of a tensor with as few nodes as it takes.
//!
//! Before     y = Slice (Slice (x, a), b) · y = Squeeze (Slice (x, i, i + 1)) · u = Unsqueeze (Gather (x, 3), 0)
//!            a = Slice (x, 0, 4);  b = Slice (x, 4, 8)       x has 8 elements along the axis
//!            y = Concat (a, Concat (b, c)) · y = Concat (Split (x)) · y = Concat (Slice (x, 0, 2), Slice (x, 2, 5))
//!            y = Slice (Concat (a, b), 0, n)       a has n elements along the axis
//!            n = Gather (Shape (x), [1]) · y = Unsqueeze (Gather (w, Range (0, n, 1)), 0)      w constant
//! After      y = Slice (x, a∘b) · y = Gather (x, i) · u = Gather (x, [3])
//!            a, b = Split (x, 4, 4)
//!            y = Concat (a, b, c) · readers of y read x · y = Slice (x, 0, 5)
//!            readers of y read a · n = Shape <start = 1, end = 2> (x) ·
//!            y = Slice (w', 0, n)      w' is w with an axis more
//! When       bounds are constant, and shapes prove that indices exist and parts meet; of a Range that picks rows, that it
//!            counts from the front in ones: where it goes beyond the table, Gather fails and Slice is shorter
//! Refuses    a slice in steps · what does not leave fewer nodes
//! Numerics   Exact
//! Reference  ONNX Slice-13, Split-18, Concat-13, Gather-13

mod cut;
mod join;
mod table;

use planish_ir::{Attrs, Node, NodeId, Numerics, OpName, Patch, Tensor, infer::axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{dims, from_front, ints, is_plain, producer};
use crate::{Pass, Rule, RuleContext, Shape, Skip};
use cut::Cut;

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Slices {}

impl Pass for Slices {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Slices {
    fn roots(&self) -> &'static [&'static str] {
        &["Concat", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if !is_plain(node) {
            return Err(Skip::NoMatch);
        }
        let patch = match node.op.name.as_str() {
            "Concat" => join::flattened(cx, id, node).or_else(|| join::adjacent(cx, id, node)),
            "Slice" => cut::merged(cx, id, node).or_else(|| cut::of_concat(cx, node)).or_else(|| cut::tiles(cx, node)),
            "Split" => whole(cx, node),
            "Gather" => size(cx, id, node).or_else(|| table::rows(cx, id, node)),
            "Squeeze" => picked(cx, id, node),
            _ => picked_as_vector(cx, id, node).or_else(|| table::unsqueezed(cx, id, node)),
        };
        patch.ok_or(Skip::NoMatch)
    }
}

/// A split into one part.
fn whole(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let [Some(output)] = *node.outputs() else { return None };
    let source = node.input(0)?;
    let (a, b) = (dims(cx, source)?, dims(cx, output)?);
    if !super::operands::same_dims(a, b) {
        return None;
    }
    let mut patch = Patch::new(Numerics::Exact, format!("Split {:?}", cx.graph.name_of(output)));
    patch.replace(output, source);
    Some(patch)
}

/// One size out of a shape that is read for nothing else.
fn size(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let all = node.input(0)?;
    let (_, shape) = producer(cx, all, "Shape")?;
    cx.graph.only_user(all)?;
    let source = shape.input(0)?;
    let index = cx.graph.constant_input(node, 1).filter(|t| t.dims() == [1])?.single_i64()?;
    let rank = dims(cx, source)?.len();
    if cx.opset() < 15 || !shape.attrs.is_empty() {
        return None;
    }
    let at = i64::try_from(axis(index, rank).ok()?).ok()?;
    let mut patch = Patch::new(Numerics::Exact, format!("Gather {:?}", cx.graph.name_of(node.output(0)?)));
    patch.set_input(id, 0, Some(source.into()));
    patch.set_input(id, 1, None);
    patch.set_attrs(id, Attrs::new().with("start", at).with("end", at.checked_add(1)?));
    patch.set_op(id, OpName::onnx("Shape"));
    Some(patch)
}

/// One element along an axis, and then the axis taken out.
fn picked(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (part, output) = (node.input(0)?, node.output(0)?);
    cx.graph.only_user(part)?;
    let listed = ints(cx, node, 1, "axes").ok()??;
    let rank = dims(cx, part)?.len();
    let axis = match from_front(&listed, rank)?.as_slice() {
        [axis] => *axis,
        _ => return None,
    };
    let (source, index) = match producer(cx, part, "Slice") {
        Some((_, slice)) => {
            let cut = Cut::of(cx, slice)?;
            let size = dims(cx, cut.source)?.get(axis)?.known()?;
            let (start, end) = cut.on(size)?;
            (cut.axis == axis && end == start + 1).then_some((cut.source, start))?
        }
        None => {
            let (_, split) = producer(cx, part, "Split")?;
            // With a part that is read as it is, the split stays and nothing is gained.
            let all_squeezed = split.outputs().iter().flatten().all(|&v| {
                let read = cx.graph.only_user(v);
                cx.graph.users(v).len() == 0 || read.is_some_and(|(_, n, _)| n.op.is("Squeeze"))
            });
            let at = cut::axis_of(cx, split)?;
            let slot = split.outputs().iter().position(|v| *v == Some(part))?;
            let mut start = 0;
            for v in split.outputs().get(..slot)? {
                start += dims(cx, (*v)?)?.get(axis)?.known()?;
            }
            let one = dims(cx, part)?.get(axis)?.known() == Some(1);
            (all_squeezed && at == axis && one).then_some((split.input(0)?, start))?
        }
    };
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Squeeze {name:?}"));
    let index = Tensor::from_i64([].as_slice(), &[i64::try_from(index).ok()?]).ok()?;
    let index = patch.constant(format!("{name}_index"), index);
    patch.set_input(id, 0, Some(source.into()));
    patch.set_input(id, 1, Some(index));
    patch.set_attrs(id, Attrs::new().with("axis", i64::try_from(axis).ok()?));
    patch.set_op(id, OpName::onnx("Gather"));
    Some(patch)
}

/// One element along an axis without the axis, and then the axis put in.
fn picked_as_vector(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (part, output) = (node.input(0)?, node.output(0)?);
    let (_, gather) = producer(cx, part, "Gather")?;
    cx.graph.only_user(part)?;
    let (source, index) = (gather.input(0)?, cx.graph.constant_input(gather, 1)?);
    let rank = dims(cx, source)?.len();
    let listed = ints(cx, node, 1, "axes").ok()??;
    let axis = cut::axis_of(cx, gather)?;
    if index.rank() != 0 || from_front(&listed, rank)? != [axis] {
        return None;
    }
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Unsqueeze {name:?}"));
    let index = patch.constant(format!("{name}_index"), index.with_dims([1].as_slice()).ok()?);
    patch.set_input(id, 0, Some(source.into()));
    patch.set_input(id, 1, Some(index));
    patch.set_attrs(id, gather.attrs.clone());
    patch.set_op(id, OpName::onnx("Gather"));
    Some(patch)
}

#[cfg(test)]
mod tests;
