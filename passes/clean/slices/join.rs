//! Concat of what was one tensor, or is concatenated already.

use planish_ir::{Node, NodeId, Numerics, OpName, Patch, Ref, ValueId};

use super::{
    super::operands::{dims, producer, same_dims},
    cut::{self, Cut, axis_of},
};
use crate::RuleContext;

/// Most inputs of a Concat that is made. Long chains of hostile files would be copied again and again.
const MOST: usize = 1024;

/// A Concat among the inputs of a Concat along the same axis, if nobody else reads it.
pub(super) fn flattened(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let output = node.output(0)?;
    let axis = axis_of(cx, node)?;
    let inner = |v: ValueId| {
        let (_, concat) = producer(cx, v, "Concat")?;
        cx.graph.only_user(v)?;
        (axis_of(cx, concat)? == axis).then_some(concat)
    };
    let mut inputs: Vec<Option<Ref>> = Vec::with_capacity(node.inputs().len());
    let mut found = false;
    for v in node.inputs() {
        match (*v).and_then(inner) {
            Some(concat) => {
                found = true;
                inputs.extend(concat.inputs().iter().map(|v| v.map(Ref::from)));
            }
            None => inputs.push(v.map(Ref::from)),
        }
    }
    if !found || inputs.len() > MOST {
        return None;
    }
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Concat {name:?}"));
    let made = patch
        .node(OpName::onnx("Concat"), inputs)
        .in_place_of(id)
        .attrs(node.attrs.clone())
        .output(name, cx.graph.ty(output).cloned());
    patch.replace(output, made);
    Some(patch)
}

/// All parts of a Split, or slices that follow each other, put together again.
pub(super) fn adjacent(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let output = node.output(0)?;
    let parts: Vec<ValueId> = node.inputs().iter().copied().collect::<Option<_>>()?;
    let axis = axis_of(cx, node)?;
    let mut patch = Patch::new(Numerics::Exact, format!("Concat {:?}", cx.graph.name_of(output)));
    let first = *parts.first()?;
    if let Some((_, split)) = producer(cx, first, "Split") {
        let all = split.outputs().iter().copied().eq(parts.iter().map(|&v| Some(v)));
        let source = split.input(0)?;
        if !all || axis_of(cx, split)? != axis || !same_dims(dims(cx, source)?, dims(cx, output)?) {
            return None;
        }
        patch.replace(output, source);
        return Some(patch);
    }
    let mut whole: Option<Cut> = None;
    for &part in &parts {
        let (_, slice) = producer(cx, part, "Slice")?;
        cx.graph.only_user(part)?;
        // Bounds from the front, which run over the end together if at all.
        let cut = Cut::of(cx, slice).filter(|c| c.axis == axis && 0 <= c.start && c.start <= c.end)?;
        whole = Some(match whole {
            None => cut,
            Some(w) if w.source == cut.source && w.end == cut.start => Cut { end: cut.end, ..w },
            Some(_) => return None,
        });
    }
    let whole = whole.filter(|_| parts.len() > 1)?;
    if dims(cx, whole.source).zip(dims(cx, output)).is_some_and(|(a, b)| same_dims(a, b)) {
        patch.replace(output, whole.source);
    } else {
        cut::slice(cx, &mut patch, &whole, id, output);
    }
    Some(patch)
}
