//! Slices along one axis, without steps.

use std::collections::BTreeMap;

use planish_ir::{Attrs, Node, Numerics, OpName, Operand, Patch, Ref, Tensor, Use, ValueId, infer};

use super::super::operands::{as_ints, dims, ints, is_plain, producer};
use crate::RuleContext;

/// Readers of one value that are looked at for slices that together are all of it.
const READERS: usize = 64;

/// A slice along one axis from `start` up to `end`, as the node says it.
pub(super) struct Cut {
    pub(super) source: ValueId,
    pub(super) axis: usize,
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Cut {
    /// What a Slice cuts, if it is one axis with constant bounds and step 1.
    pub(super) fn of(cx: &RuleContext<'_>, slice: &Node) -> Option<Cut> {
        let one = |slot, attr| match ints(cx, slice, slot, attr) {
            Ok(Some(v)) if v.len() == 1 => v.first().copied(),
            _ => None,
        };
        let source = slice.input(0)?;
        let rank = dims(cx, source)?.len();
        let (start, end) = (one(1, "starts")?, one(2, "ends")?);
        let has_axes = slice.input(3).is_some() || slice.attrs.get("axes").is_some();
        let axis = infer::axis(if has_axes { one(3, "axes")? } else { 0 }, rank).ok()?;
        let step = if slice.input(4).is_some() { one(4, "steps")? } else { 1 };
        (step == 1).then_some(Cut { source, axis, start, end })
    }

    /// First index and the one behind the last on an axis of that size.
    pub(super) fn on(&self, size: u64) -> Option<(u64, u64)> {
        let size = i64::try_from(size).ok()?;
        let at = |i: i64| if i < 0 { i.saturating_add(size) } else { i }.clamp(0, size);
        let (start, end) = (at(self.start), at(self.end));
        Some((u64::try_from(start).ok()?, u64::try_from(end.max(start)).ok()?))
    }
}

/// The axis that a node names, from the front.
pub(super) fn axis_of(cx: &RuleContext<'_>, node: &Node) -> Option<usize> {
    let rank = dims(cx, node.input(0)?)?.len();
    infer::axis(node.attrs.int("axis").unwrap_or(0), rank).ok()
}

/// A node Slice in a patch.
pub(super) fn slice(cx: &RuleContext<'_>, patch: &mut Patch, cut: &Cut, node: planish_ir::NodeId, output: ValueId) {
    let name = cx.graph.name_of(output);
    let axis = as_ints(&[cut.axis]);
    let (inputs, attrs) = if cx.opset() < 10 {
        let attrs = Attrs::new().with("starts", vec![cut.start]).with("ends", vec![cut.end]).with("axes", axis);
        (vec![Some(Ref::from(cut.source))], attrs)
    } else {
        let mut list =
            |what: &str, values: &[i64]| Some(patch.constant(format!("{name}_{what}"), Tensor::ints(values)));
        let bounds = [list("start", &[cut.start]), list("end", &[cut.end]), list("axis", &axis)];
        ([Some(Ref::from(cut.source))].into_iter().chain(bounds).collect(), Attrs::new())
    };
    let made = patch
        .node(OpName::onnx("Slice"), inputs)
        .in_place_of(node)
        .attrs(attrs)
        .output(name, cx.graph.ty(output).cloned());
    patch.replace(output, made);
}

/// A slice of a slice along the same axis.
pub(super) fn merged(cx: &RuleContext<'_>, id: planish_ir::NodeId, node: &Node) -> Option<Patch> {
    let outer = Cut::of(cx, node)?;
    let (_, before) = producer(cx, outer.source, "Slice")?;
    cx.graph.only_user(outer.source)?;
    let inner = Cut::of(cx, before)?;
    // From the front, both: what counts from the back depends on how much the first slice leaves.
    if inner.axis != outer.axis || inner.start < 0 || outer.start < 0 || outer.end < 0 {
        return None;
    }
    let start = inner.start.checked_add(outer.start)?;
    let end = match (inner.end, inner.start.saturating_add(outer.end)) {
        (end, to) if end >= 0 => end.min(to),
        // The end of the first counts from the back; the second goes that far only if it goes on for ever.
        (end, to) if to >= i64::from(i32::MAX) => end,
        _ => return None,
    };
    let output = node.output(0)?;
    let mut patch = Patch::new(Numerics::Exact, format!("Slice {:?}", cx.graph.name_of(output)));
    slice(cx, &mut patch, &Cut { source: inner.source, axis: inner.axis, start, end }, id, output);
    Some(patch)
}

/// A slice that picks one whole input of a Concat.
pub(super) fn of_concat(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let cut = Cut::of(cx, node)?;
    let (_, concat) = producer(cx, cut.source, "Concat")?;
    let output = node.output(0)?;
    if axis_of(cx, concat)? != cut.axis || cut.start < 0 {
        return None;
    }
    let mut start = 0u64;
    for (i, part) in concat.inputs().iter().enumerate() {
        let part = (*part)?;
        let size = dims(cx, part)?.get(cut.axis)?;
        if u64::try_from(cut.start) == Ok(start) {
            let is_last = i + 1 == concat.inputs().len() && cut.end >= i64::from(i32::MAX);
            let ends_here =
                size.known().and_then(|n| start.checked_add(n)).is_some_and(|e| u64::try_from(cut.end) == Ok(e));
            if is_last || ends_here {
                let mut patch = Patch::new(Numerics::Exact, format!("Slice {:?}", cx.graph.name_of(output)));
                patch.replace(output, part);
                return Some(patch);
            }
        }
        start = start.checked_add(size.known()?)?;
    }
    None
}

/// Slices that together are all of an axis, from the one that begins it.
pub(super) fn tiles(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let first = Cut::of(cx, node)?;
    let size = dims(cx, first.source)?.get(first.axis)?.known()?;
    let users = cx.graph.users(first.source);
    if first.on(size)?.0 != 0 || users.len() < 2 || users.len() > READERS {
        return None;
    }
    let mut parts: BTreeMap<u64, (u64, ValueId)> = BTreeMap::new();
    let mut one_each = true;
    for user in users {
        let Use::Node(reader, Operand::Input(0)) = user else { continue };
        let Some(slice) = cx.graph.node(reader).filter(|n| n.op.is("Slice") && is_plain(n)) else { continue };
        let Some(cut) = Cut::of(cx, slice).filter(|c| c.axis == first.axis) else { continue };
        let ((start, end), output) = (cut.on(size)?, slice.output(0)?);
        // Two of one part are for common subexpressions to merge.
        if start == end || parts.insert(start, (end, output)).is_some() {
            return None;
        }
        let squeezed = cx.graph.only_user(output).is_some_and(|(_, n, _)| n.op.is("Squeeze"));
        one_each &= squeezed && end == start + 1;
    }
    let mut at = 0;
    let mut sizes = Vec::new();
    for (&start, &(end, _)) in &parts {
        if start != at {
            return None;
        }
        sizes.push(i64::try_from(end - start).ok()?);
        at = end;
    }
    // Parts of one that are squeezed are picked instead.
    if at != size || parts.len() < 2 || one_each {
        return None;
    }
    let name = cx.graph.name_of(first.source);
    let mut patch = Patch::new(Numerics::Exact, format!("{} slices of {name:?}", parts.len()));
    let axis = i64::try_from(first.axis).ok()?;
    let mut inputs = vec![Some(Ref::from(first.source))];
    let mut attrs = Attrs::new().with("axis", axis);
    if cx.opset() < 13 {
        attrs = attrs.with("split", sizes);
    } else {
        inputs.push(Some(patch.constant(format!("{name}_split"), Tensor::ints(&sizes))));
    }
    let outputs = parts.values().map(|&(_, v)| (cx.graph.name_of(v), cx.graph.ty(v).cloned())).collect();
    let made = patch.node(OpName::onnx("Split"), inputs).attrs(attrs).outputs(outputs);
    for (&(_, old), new) in parts.values().zip(made) {
        patch.replace(old, new);
    }
    Some(patch)
}
