//! Replace sequences of tensors whose elements are known by the tensors themselves.
//!
//! Before     s = SplitToSequence (x, 2); a = SequenceAt (s, 1)  ·  ConcatFromSequence (SequenceConstruct (a, b))  ·
//!            SequenceAt (SequenceConstruct (a, b), 0)  ·  SequenceLength (SequenceConstruct (a, b))  ·
//!            OptionalGetElement (Optional (x)) or of a tensor  ·  OptionalHasElement of either
//! After      _, a = Split (x, ...)  ·  Concat (a, b)  ·  a  ·  2  ·  x  ·  true
//! When       indices are constants; for a split: the size of the axis is known and from opset 13 on
//! Refuses    an index that is out of range · a split whose sizes are not known, or that is read as a whole · a join along a new axis before opset 13
//! Numerics   Exact
//! Reference  the operators' definitions

use planish_ir::{Attrs, DType, Dims, Node, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, Type, Use, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Most pieces that a split may have: each is an output of the node.
const MAX_PIECES: usize = 1024;

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sequences {}

impl Pass for Sequences {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Sequences {
    fn roots(&self) -> &'static [&'static str] {
        &[
            "ConcatFromSequence",
            "OptionalGetElement",
            "OptionalHasElement",
            "SequenceAt",
            "SequenceLength",
            "SplitToSequence",
        ]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
        let output = node.output(0).filter(|_| !node.is_local()).ok_or(Skip::NoMatch)?;
        if node.op.is("SplitToSequence") {
            return split(cx, node);
        }
        let name = cx.graph.name_of(output);
        let mut patch = Patch::new(Numerics::Exact, format!("{} {name:?}", node.op));
        let result = match node.op.name.as_str() {
            "SequenceAt" => at(cx, node)?,
            "SequenceLength" => patch.constant(name, length(constructed(cx, node)?.len())?),
            "ConcatFromSequence" => join(cx, node, output, &mut patch)?,
            "OptionalGetElement" => content(cx, node)?.into(),
            _ => {
                content(cx, node)?;
                let yes = Tensor::from_raw(DType::Bool, Dims::new(), [1].as_slice().into());
                patch.constant(name, yes.map_err(|e| Skip::because(e.to_string()))?)
            }
        };
        patch.replace(output, result);
        Ok(patch)
    }
}

/// The node of this operator that makes the first input.
fn maker<'a>(cx: &RuleContext<'a>, node: &Node, op: &str) -> Option<(NodeId, &'a Node)> {
    cx.graph.producer(node.input(0)?).filter(|(_, n)| n.op.is(op) && !n.is_local())
}

/// The elements of the sequence that the node reads.
fn constructed(cx: &RuleContext<'_>, node: &Node) -> Result<Vec<ValueId>, Skip> {
    let (_, maker) = maker(cx, node, "SequenceConstruct").ok_or(Skip::NoMatch)?;
    maker.inputs().iter().copied().collect::<Option<Vec<_>>>().ok_or(Skip::NoMatch)
}

/// What an optional that is never empty holds; a tensor or a sequence stands for itself.
fn content(cx: &RuleContext<'_>, node: &Node) -> Result<ValueId, Skip> {
    let input = node.input(0).ok_or(Skip::NoMatch)?;
    if let Some((_, maker)) = maker(cx, node, "Optional") {
        return maker.input(0).ok_or(Skip::NoMatch);
    }
    match cx.facts.ty(input) {
        Some(Type::Tensor(_) | Type::Sequence(_)) => Ok(input),
        _ => Err(Skip::because("its input is an optional that may be empty")),
    }
}

fn at(cx: &RuleContext<'_>, node: &Node) -> Result<Ref, Skip> {
    let elements = constructed(cx, node)?;
    elements.get(place(cx, node, elements.len())?).copied().map(Ref::Value).ok_or(Skip::NoMatch)
}

/// Which of so many elements a SequenceAt takes.
fn place(cx: &RuleContext<'_>, node: &Node, count: usize) -> Result<usize, Skip> {
    let index = node.input(1).and_then(|v| cx.graph.constant(v)).and_then(Tensor::single_i64);
    let index = index.ok_or_else(|| Skip::because("the index of an element is no constant"))?;
    let signed = i64::try_from(count).ok();
    let from_front = if index < 0 { signed.and_then(|n| index.checked_add(n)) } else { Some(index) };
    let place = from_front.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < count);
    place.ok_or_else(|| Skip::because("the index of an element is out of range"))
}

/// A split of which only elements at known places, and their number, are read.
fn split(cx: &RuleContext<'_>, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let sequence = node.output(0).ok_or(Skip::NoMatch)?;
    let mut readers = Vec::new();
    for user in g.users(sequence) {
        let reader = match user {
            Use::Node(id, Operand::Input(0)) => g.node(id).filter(|n| !n.is_local()),
            _ => None,
        };
        let reader = reader.filter(|n| n.op.is("SequenceAt") || n.op.is("SequenceLength"));
        readers.push(reader.ok_or_else(|| Skip::because("the sequence is read as a whole"))?);
    }
    let input = node.input(0).ok_or(Skip::NoMatch)?;
    let pieces = pieces(cx, node)?;
    let stem = g.name_of(sequence);
    let mut patch = Patch::new(Numerics::Exact, format!("SplitToSequence {stem:?}"));
    let sizes = patch.constant(format!("{stem}_sizes"), Tensor::ints(&pieces.sizes));
    let outputs = (0..pieces.sizes.len()).map(|i| (format!("{stem}_{i}"), None)).collect();
    let attrs = Attrs::new().with("axis", pieces.axis);
    let parts = patch.node(OpName::onnx("Split"), [Some(input.into()), Some(sizes)]).attrs(attrs).outputs(outputs);
    let axes = pieces.squeezes.then(|| patch.constant(format!("{stem}_axis"), Tensor::ints(&[pieces.axis])));
    for reader in readers {
        let Some(output) = reader.output(0) else { continue };
        let mut result = match reader.op.is("SequenceLength") {
            true => patch.constant(g.name_of(output), length(parts.len())?),
            false => *parts.get(place(cx, reader, parts.len())?).ok_or(Skip::NoMatch)?,
        };
        if let Some(axes) = axes.filter(|_| reader.op.is("SequenceAt")) {
            let ty = g.ty(output).cloned();
            result = patch.node(OpName::onnx("Squeeze"), [Some(result), Some(axes)]).output(g.name_of(output), ty);
        }
        patch.replace(output, result);
    }
    Ok(patch)
}

fn length(count: usize) -> Result<Tensor, Skip> {
    let count = i64::try_from(count).map_err(|_| Skip::NoMatch)?;
    Tensor::from_i64(Dims::new(), &[count]).map_err(|e| Skip::because(e.to_string()))
}

struct Pieces {
    axis: i64,
    /// The pieces have one element along the axis, and lose it.
    squeezes: bool,
    sizes: Vec<i64>,
}

fn pieces(cx: &RuleContext<'_>, split: &Node) -> Result<Pieces, Skip> {
    if cx.opset() < 13 {
        return Err(Skip::because("Split takes its sizes as an input from opset 13 on; raise the opset"));
    }
    let unknown = || Skip::because("the sizes of the split are not known");
    let axis = split.attrs.int("axis").unwrap_or(0);
    let shape = split.input(0).and_then(|v| cx.facts.fact(v).shape()).ok_or_else(unknown)?;
    let place = planish_ir::infer::axis(axis, shape.len()).map_err(|_| unknown())?;
    let total = shape.get(place).and_then(planish_ir::Dim::known).and_then(|n| i64::try_from(n).ok());
    let total = total.ok_or_else(unknown)?;
    let piece = match split.input(1) {
        None => 1,
        Some(v) => {
            let sizes = cx.graph.constant(v).filter(|t| t.elements() <= MAX_PIECES as u64).ok_or_else(unknown)?;
            if sizes.rank() > 0 {
                let sizes = sizes.to_i64().map_err(|_| unknown())?;
                let fits = !sizes.is_empty()
                    && sizes.iter().all(|&n| n >= 0)
                    && sizes.iter().try_fold(0i64, |sum, &n| sum.checked_add(n)) == Some(total);
                return if fits { Ok(Pieces { axis, squeezes: false, sizes }) } else { Err(unknown()) };
            }
            sizes.single_i64().filter(|&n| n > 0).ok_or_else(unknown)?
        }
    };
    // The last piece is what is left.
    let count = total / piece + i64::from(total % piece > 0);
    let count = usize::try_from(count).map_err(|_| unknown())?;
    if count == 0 || count > MAX_PIECES {
        return Err(Skip::because("the split has no pieces or too many"));
    }
    let mut sizes = vec![piece; count];
    if let (Some(last), rest) = (sizes.last_mut(), total % piece)
        && rest > 0
    {
        *last = rest;
    }
    let squeezes = split.input(1).is_none() && split.attrs.int("keepdims") == Some(0);
    Ok(Pieces { axis, squeezes, sizes })
}

fn join(cx: &RuleContext<'_>, node: &Node, output: ValueId, patch: &mut Patch) -> Result<Ref, Skip> {
    let elements = constructed(cx, node)?;
    let axis = node.attrs.int("axis").ok_or(Skip::NoMatch)?;
    let (name, ty) = (cx.graph.name_of(output), cx.graph.ty(output).cloned());
    let stacks = node.attrs.int("new_axis").unwrap_or(0) != 0;
    if stacks && cx.opset() < 13 {
        return Err(Skip::because("Unsqueeze takes its axes as an input from opset 13 on; raise the opset"));
    }
    let mut parts: Vec<Ref> = elements.iter().map(|&v| v.into()).collect();
    if stacks {
        // A negative axis counts in the result, as that of Unsqueeze does.
        let axes = patch.constant(format!("{name}_axis"), Tensor::ints(&[axis]));
        for part in &mut parts {
            *part =
                patch.node(OpName::onnx("Unsqueeze"), [Some(*part), Some(axes)]).output(format!("{name}_part"), None);
        }
    }
    let attrs = Attrs::new().with("axis", axis);
    Ok(patch.node(OpName::onnx("Concat"), parts.into_iter().map(Some)).attrs(attrs).output(name, ty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn pieces_of_a_split() {
        insta::assert_snapshot!(check::<Sequences>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[5,N] x) => (float[2,N] y, float[1,N] z) <int64 two = {2}, int64 one = {1}, int64 last = {-1}> {
                s = SplitToSequence <axis = 0> (x, two)
                a = SequenceAt (s, one)
                y = Relu (a)
                z = SequenceAt (s, last)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[5,N] x) => (float[2,N] y, float[1,N] z)
        <
          int64[3] s_sizes = {2, 2, 1}
        >
        {
          s_0, a, z = Split <axis = 0> (x, s_sizes)
          y = Relu (a)
        }
        "#);
    }

    #[test]
    fn pieces_of_one_without_their_axis() {
        insta::assert_snapshot!(check::<Sequences>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3] x) => (float[N] y, int64 n) <int64 one = {1}> {
                s = SplitToSequence <axis = -1, keepdims = 0> (x)
                y = SequenceAt (s, one)
                n = SequenceLength (s)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N] y, int64 n)
        <
          int64[3] s_sizes = {1, 1, 1},
          int64[1] s_axis = {-1},
          int64 n = {3}
        >
        {
          s_0, s_1, s_2 = Split <axis = -1> (x, s_sizes)
          y = Squeeze (s_1, s_axis)
        }
        "#);
    }

    #[test]
    fn sequences_that_are_put_together() {
        insta::assert_snapshot!(check::<Sequences>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x, float[3] w) => (float[5] y, float[2,2] z, float[3] v, int64 n) <int64 one = {1}> {
                s = SequenceConstruct (x, w)
                y = ConcatFromSequence <axis = 0> (s)
                t = SequenceConstruct (x, x)
                z = ConcatFromSequence <axis = -1, new_axis = 1> (t)
                a = SequenceAt (s, one)
                v = Relu (a)
                n = SequenceLength (s)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[3] w) => (float[5] y, float[2,2] z, float[3] v, int64 n)
        <
          int64[1] z_axis = {-1},
          int64 n = {2}
        >
        {
          y = Concat <axis = 0> (x, w)
          z_part = Unsqueeze (x, z_axis)
          z_part_1 = Unsqueeze (x, z_axis)
          z = Concat <axis = -1> (z_part, z_part_1)
          v = Relu (w)
        }
        "#);
    }

    #[test]
    fn optionals_that_hold_something() {
        insta::assert_snapshot!(check::<Sequences>(
            r#"<ir_version: 8, opset_import: ["" : 18]>
            g (float[2] x) => (float[2] y, bool b, bool c) {
                o = Optional (x)
                e = OptionalGetElement (o)
                y = Relu (e)
                b = OptionalHasElement (o)
                c = OptionalHasElement (x)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 18]>
        g (float[2] x) => (float[2] y, bool b, bool c)
        <
          bool b = {1},
          bool c = {1}
        >
        {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn refuses_what_is_not_known() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N] x, int64 i, optional(float[2]) o) => (float[?] y, float[?] z, float[N] w, float[2] v)
            <int64 two = {2}, int64 five = {5}> {
                s = SplitToSequence <axis = 0> (x, two)
                y = SequenceAt (s, two)
                z = SequenceAt (s, i)
                t = SequenceConstruct (x, x)
                w = SequenceAt (t, five)
                v = OptionalGetElement (o)
            }"#;
        assert_eq!(
            refusals::<Sequences>(text),
            [
                "the sizes of the split are not known",
                "the index of an element is out of range",
                "its input is an optional that may be empty"
            ]
        );
    }
}
