//! The first rows of a table, as position embeddings are read.

use planish_ir::{
    Attrs, DType, Dims, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor,
    infer::{self, Num},
};

use super::{
    super::operands::{as_ints, dims, from_front, ints, producer},
    cut::axis_of,
};
use crate::RuleContext;

/// Rows that are picked by a Range are a Slice. Only where the limit was made a scalar for the Range, which then goes as well.
pub(super) fn rows(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (table, indices) = (node.input(0)?, node.input(1)?);
    let (_, range) = producer(cx, indices, "Range")?;
    cx.graph.only_user(indices)?;
    let bound = |slot| cx.graph.constant_input(range, slot).and_then(Tensor::single_i64);
    let (start, limit) = (bound(0).filter(|&s| s >= 0)?, range.input(1)?);
    let wide = cx.facts.fact(limit).dtype() == Some(DType::I64);
    let was_vector = ["Gather", "Squeeze"].iter().any(|op| producer(cx, limit, op).is_some());
    if bound(2) != Some(1) || !wide || !was_vector || cx.opset() < 10 {
        return None;
    }
    // A negative limit gives no rows, and as an end would count from the back.
    let counts = cx.facts.value(limit).is_some_and(|v| matches!(v, [n] if n.at_least(&Num::Int(0))));
    let axis = axis_of(cx, node)?;
    if !counts {
        return None;
    }
    let output = node.output(0)?;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Gather {name:?} of a Range"));
    let (inputs, attrs) = match cx.opset() < 13 {
        true => (vec![Some(Ref::from(limit))], Attrs::new().with("axes", vec![0])),
        false => {
            let axes = patch.constant(format!("{name}_axes"), Tensor::ints(&[0]));
            (vec![Some(Ref::from(limit)), Some(axes)], Attrs::new())
        }
    };
    let end = patch.node(OpName::onnx("Unsqueeze"), inputs).attrs(attrs).output(format!("{name}_end"), None);
    let start = patch.constant(format!("{name}_start"), Tensor::ints(&[start]));
    let axis = patch.constant(format!("{name}_axis"), Tensor::ints(&as_ints(&[axis])));
    let made = patch
        .node(OpName::onnx("Slice"), [Some(table.into()), Some(start), Some(end), Some(axis)])
        .in_place_of(id)
        .output(name, cx.graph.ty(output).cloned());
    patch.replace(output, made);
    Some(patch)
}

/// An axis of size 1 that is put into a part of a constant is put into the constant.
pub(super) fn unsqueezed(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let (part, output) = (node.input(0)?, node.output(0)?);
    let (_, slice) = producer(cx, part, "Slice")?;
    cx.graph.only_user(part)?;
    let table = slice.input(0)?;
    cx.graph.only_user(table)?;
    let tensor = cx.graph.constant(table)?;
    let axes = cx.graph.constant_input(slice, 3)?.to_i64().ok()?;
    let rank = dims(cx, table)?.len();
    let listed = ints(cx, node, 1, "axes").ok()??;
    let added = from_front(&listed, rank.checked_add(listed.len())?)?;
    let mut sizes = Dims::from_slice(tensor.dims());
    // Which axis of the table each one of the new table is.
    let mut origin: Vec<Option<usize>> = (0..rank).map(Some).collect();
    for a in added {
        if a > sizes.len() {
            return None;
        }
        sizes.insert(a, 1);
        origin.insert(a, None);
    }
    let moved: Vec<usize> = axes
        .iter()
        .map(|&a| {
            let axis = infer::axis(a, rank).ok()?;
            origin.iter().position(|&o| o == Some(axis))
        })
        .collect::<Option<_>>()?;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("Unsqueeze {name:?} of a constant"));
    let table = patch.constant(cx.graph.name_of(table), tensor.with_dims(sizes).ok()?);
    let axes = patch.constant(format!("{name}_axes"), Tensor::ints(&as_ints(&moved)));
    let mut inputs: Vec<Option<Ref>> = slice.inputs().iter().map(|v| v.map(Ref::from)).collect();
    *inputs.get_mut(0)? = Some(table);
    *inputs.get_mut(3)? = Some(axes);
    let made = patch.node(OpName::onnx("Slice"), inputs).in_place_of(id).output(name, cx.graph.ty(output).cloned());
    patch.replace(output, made);
    Some(patch)
}
