//! Do once, before parts are picked, what is done with each of them.
//!
//! Before     a = Reshape (Gather (x, 0), s);  b = Reshape (Gather (x, 1), s)       nobody else reads x
//!            a = Transpose (Gather (t, 0), p);  b = Transpose (Gather (t, 1), q)   t = Transpose (x, r), only for these
//!            y = Reshape (f (ReduceSum <keepdims = 0> (x)), s)                     s puts the reduced axes back
//!            a, b = Split (x);  c = f (a);  d = f (b)                              f is the same for all parts
//! After      r = Reshape (x, [n] + s);  a = Gather (r, 0);  b = Gather (r, 1)
//!            t = Transpose (x, r∘p);  a = Gather (t, 0);  b = Transpose (Gather (t, 1), q')
//!            y = f (ReduceSum <keepdims = 1> (x))
//!            c, d = Split (f (x))
//! When       parts are picked along the first axis, one index each, or are all of a Split; f works on one element at a time, or, behind a
//!            Split, slices other axes; fewer nodes are left
//! Refuses    parts that others read as they are
//! Numerics   Exact
//! Reference  –

use planish_ir::{Dim, Node, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, Type, Use, ValueId, infer, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    cse::attrs_key,
    operands::{as_ints, dims, from_front, ints, is_plain, perm, producer, same_dims},
    reshape_chains::{Size, target},
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hoists {}

impl Pass for Hoists {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

/// Most parts of one value that are looked at, and the longest way from a reduction to its Reshape.
const MOST: usize = 16;

impl Rule for Hoists {
    fn roots(&self) -> &'static [&'static str] {
        &["Reshape", "Split", "Transpose", "Unsqueeze"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if !is_plain(node) {
            return Err(Skip::NoMatch);
        }
        let patch = match node.op.name.as_str() {
            "Split" => split(cx, id, node),
            "Transpose" => transposes(cx, node),
            _ => kept(cx, node).or_else(|| reshapes(cx, node)),
        };
        patch.ok_or(Skip::NoMatch)
    }
}

/// One of several parts of a value, and the node that alone reads it.
struct Part<'a> {
    gather: &'a Node,
    gather_id: NodeId,
    reader: &'a Node,
    output: ValueId,
}

/// All parts of the value of which `node` reads one, if nobody else reads it, and all their readers are such nodes.
fn parts<'a>(cx: &RuleContext<'a>, node: &Node) -> Option<(ValueId, Vec<Part<'a>>)> {
    let (_, first) = producer(cx, node.input(0)?, "Gather")?;
    let whole = first.input(0)?;
    let users = cx.graph.users(whole);
    if users.len() < 2 || users.len() > MOST {
        return None;
    }
    let mut parts = Vec::with_capacity(users.len());
    for user in users {
        let Use::Node(gather_id, Operand::Input(0)) = user else { return None };
        let gather = cx.graph.node(gather_id).filter(|n| n.op.is("Gather") && is_plain(n))?;
        let index = cx.graph.constant_input(gather, 1)?;
        let (_, reader, slot) = cx.graph.only_user(gather.output(0)?)?;
        let alike = reader.op == node.op && is_plain(reader) && slot == 0;
        if !alike || index.rank() != 0 || gather.attrs.int("axis").unwrap_or(0) != 0 {
            return None;
        }
        parts.push(Part { gather, gather_id, reader, output: reader.output(0)? });
    }
    Some((whole, parts))
}

/// The parts, picked from another value.
fn pick(patch: &mut Patch, part: &Part<'_>, whole: Ref, name: String, ty: Option<Type>) -> Ref {
    patch
        .node(OpName::onnx("Gather"), [Some(whole), part.gather.input(1).map(Ref::from)])
        .in_place_of(part.gather_id)
        .attrs(part.gather.attrs.clone())
        .output(name, ty)
}

/// Parts that are all given the same shape.
fn reshapes(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let (whole, parts) = parts(cx, node).filter(|_| node.op.is("Reshape"))?;
    let from = dims(cx, whole)?;
    let shape = dims(cx, node.output(0)?)?;
    if !parts.iter().all(|p| dims(cx, p.output).is_some_and(|d| same_dims(d, shape))) {
        return None;
    }
    let sizes: Vec<Size> = from.iter().take(1).chain(shape).cloned().map(Size::Is).collect();
    let target = target(&sizes, from).ok()?;
    let name = cx.graph.name_of(whole);
    let mut patch = Patch::new(Numerics::Exact, format!("Reshape {name:?} before its parts"));
    let target = patch.constant(format!("{name}_shape"), Tensor::ints(&target));
    let reshaped = patch
        .node(OpName::onnx("Reshape"), [Some(Ref::from(whole)), Some(target)])
        .output(format!("{name}_reshaped"), None);
    for part in &parts {
        let picked = pick(&mut patch, part, reshaped, cx.graph.name_of(part.output), cx.graph.ty(part.output).cloned());
        patch.replace(part.output, picked);
    }
    Some(patch)
}

/// Parts of a transposed value that are all transposed again.
fn transposes(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let (whole, parts) = parts(cx, node)?;
    let (_, above) = producer(cx, whole, "Transpose")?;
    let source = above.input(0)?;
    let rank = dims(cx, source)?.len();
    let own: Vec<Vec<usize>> = parts.iter().map(|p| perm(p.reader, rank.checked_sub(1)?)).collect::<Option<_>>()?;
    let common = own.first()?;
    let place = |a: usize| common.iter().position(|&c| c == a);
    // What is left to do for each part behind the common order.
    let rest: Vec<Vec<usize>> =
        own.iter().map(|p| p.iter().map(|&a| place(a)).collect::<Option<_>>()).collect::<Option<_>>()?;
    let done = |p: &[usize]| p.iter().enumerate().all(|(i, &a)| i == a);
    let first = perm(above, rank)?;
    let order: Vec<usize> = std::iter::once(first.first().copied())
        .chain(common.iter().map(|&a| first.get(a + 1).copied()))
        .collect::<Option<_>>()?;
    let name = cx.graph.name_of(whole);
    let mut patch = Patch::new(Numerics::Exact, format!("Transpose {name:?} before its parts"));
    let moved = patch
        .node(OpName::onnx("Transpose"), [Some(Ref::from(source))])
        .attr("perm", as_ints(&order))
        .output(format!("{name}_moved"), None);
    for (part, rest) in parts.iter().zip(&rest) {
        let (name, ty) = (cx.graph.name_of(part.output), cx.graph.ty(part.output).cloned());
        let made = if done(rest) {
            pick(&mut patch, part, moved, name, ty)
        } else {
            let picked = pick(&mut patch, part, moved, format!("{name}_picked"), None);
            patch.node(OpName::onnx("Transpose"), [Some(picked)]).attr("perm", as_ints(rest)).output(name, ty)
        };
        patch.replace(part.output, made);
    }
    Some(patch)
}

/// Parts of a Split with each of which the same is done.
fn split(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Option<Patch> {
    let whole = node.input(0)?;
    let axis = infer::axis(node.attrs.int("axis").unwrap_or(0), dims(cx, whole)?.len()).ok()?;
    let mut readers: Vec<(ValueId, &Node, usize)> = Vec::new();
    for part in node.outputs() {
        let (_, reader, slot) =
            cx.graph.only_user((*part)?).filter(|(_, n, _)| is_plain(n) && n.op.domain.is_empty())?;
        readers.push((reader.output(0)?, reader, slot));
    }
    let (&(_, first, slot), others) = readers.split_first()?;
    let rest = |n: &Node| -> Vec<Option<ValueId>> {
        n.inputs().iter().enumerate().map(|(i, v)| v.filter(|_| i != slot)).collect()
    };
    let attrs = attrs_key(&first.attrs)?;
    let is_alike = |(_, n, at): &(ValueId, &Node, usize)| {
        n.op == first.op && *at == slot && rest(n) == rest(first) && attrs_key(&n.attrs).as_ref() == Some(&attrs)
    };
    let is_apart = match first.op.name.as_str() {
        "Slice" => slot == 0 && sliced_axes(cx, first)?.iter().all(|&a| a != axis),
        _ => lonely(cx, first)? == slot,
    };
    if others.is_empty() || !others.iter().all(is_alike) || !is_apart {
        return None;
    }
    let name = cx.graph.name_of(whole);
    let mut patch = Patch::new(Numerics::Exact, format!("{} {name:?} before its parts", first.op));
    let mut inputs: Vec<Option<Ref>> = first.inputs().iter().map(|v| v.map(Ref::from)).collect();
    *inputs.get_mut(slot)? = Some(Ref::from(whole));
    let made = patch.node(first.op.clone(), inputs).attrs(first.attrs.clone());
    let made = made.output(format!("{name}_{}", first.op.name.to_lowercase()), None);
    let sizes = node.inputs().iter().skip(1).map(|v| v.map(Ref::from));
    let outputs = readers.iter().map(|&(v, ..)| (cx.graph.name_of(v), cx.graph.ty(v).cloned())).collect();
    let parts = patch
        .node(node.op.clone(), std::iter::once(Some(made)).chain(sizes).collect::<Vec<_>>())
        .in_place_of(id)
        .attrs(node.attrs.clone())
        .outputs(outputs);
    for ((old, ..), new) in readers.into_iter().zip(parts) {
        patch.replace(old, new);
    }
    Some(patch)
}

/// The axes that a Slice cuts, from the front, if they are known.
fn sliced_axes(cx: &RuleContext<'_>, slice: &Node) -> Option<Vec<usize>> {
    let rank = dims(cx, slice.input(0)?)?.len();
    let starts = ints(cx, slice, 1, "starts").ok()??;
    match ints(cx, slice, 3, "axes").ok()? {
        Some(axes) => from_front(&axes, rank),
        None => Some((0..starts.len()).collect()),
    }
}

/// A reduction whose axes are put back later.
fn kept(cx: &RuleContext<'_>, node: &Node) -> Option<Patch> {
    let output = node.output(0)?;
    let mut way: Vec<(NodeId, &Node, usize)> = Vec::new();
    let mut value = node.input(0)?;
    let (reduce_id, reduce) = loop {
        cx.graph.only_user(value)?;
        let (id, before) = cx.graph.producer(value).filter(|(_, n)| is_plain(n) && n.op.domain.is_empty())?;
        if before.op.name.starts_with("Reduce") {
            break (id, before);
        }
        let slot = lonely(cx, before).filter(|_| way.len() < MOST)?;
        way.push((id, before, slot));
        value = before.input(slot)?;
    };
    let (from, reduced, to) = (dims(cx, reduce.input(0)?)?, dims(cx, reduce.output(0)?)?, dims(cx, output)?);
    if reduce.attrs.int("keepdims").unwrap_or(1) != 0 || from.len() != to.len() || reduced.len() >= from.len() {
        return None;
    }
    let axes = reduced_axes(cx, reduce, from.len())?;
    let one = Dim::Known(1);
    let back = from.iter().zip(to).enumerate().all(|(i, (a, b))| b.same(if axes.contains(&i) { &one } else { a }));
    if !back {
        return None;
    }
    let mut patch = Patch::new(Numerics::Exact, format!("{} {:?} keeps its axes", reduce.op, cx.graph.name_of(output)));
    let typed = |v: ValueId| cx.graph.ty(v).and_then(Type::dtype).map(|d| Type::tensor(d, to.iter().cloned()));
    let name = |v: ValueId| format!("{}_kept", cx.graph.name_of(v));
    let result = reduce.output(0)?;
    let mut last = patch
        .node(reduce.op.clone(), reduce.inputs().iter().map(|v| v.map(Ref::from)).collect::<Vec<_>>())
        .in_place_of(reduce_id)
        .attrs(reduce.attrs.clone().with("keepdims", 1))
        .output(name(result), typed(result));
    for &(id, f, slot) in way.iter().rev() {
        let mut inputs: Vec<Option<Ref>> = f.inputs().iter().map(|v| v.map(Ref::from)).collect();
        *inputs.get_mut(slot)? = Some(last);
        let made = f.output(0)?;
        last = patch.node(f.op.clone(), inputs).in_place_of(id).attrs(f.attrs.clone()).output(name(made), typed(made));
    }
    patch.replace(output, last);
    Some(patch)
}

/// The only input that is no constant of one element, of an operator that works on one element at a time.
fn lonely(cx: &RuleContext<'_>, node: &Node) -> Option<usize> {
    if !op::of(node)?.traits.elementwise || node.outputs().len() != 1 {
        return None;
    }
    let single = |v: ValueId| cx.graph.constant(v).is_some_and(|t| t.elements() == 1 && t.rank() <= 1);
    let mut others = (0..node.inputs().len()).filter(|&i| node.input(i).is_some_and(|v| !single(v)));
    let slot = others.next()?;
    // A vector of one would make a scalar a vector.
    let rank = dims(cx, node.input(slot)?)?.len();
    (others.next().is_none() && rank > 0).then_some(slot)
}

/// The axes that a reduction takes out.
fn reduced_axes(cx: &RuleContext<'_>, reduce: &Node, rank: usize) -> Option<Vec<usize>> {
    let listed = ints(cx, reduce, 1, "axes").ok()?;
    match listed {
        Some(listed) if !listed.is_empty() => from_front(&listed, rank),
        _ if reduce.attrs.int("noop_with_empty_axes").unwrap_or(0) != 0 => None,
        _ => Some((0..rank).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    const NUMBERS: &str = "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] last = {-1}, float h = {0.5}";

    fn model(signature: &str, constants: &str, nodes: &str) -> String {
        format!(r#"<ir_version: 8, opset_import: ["" : 17]> g {signature} <{NUMBERS}{constants}> {{ {nodes} }}"#)
    }

    #[test]
    fn parts_are_reshaped_together() {
        insta::assert_snapshot!(check::<Hoists>(&model(
            "(float[2,N,8] x) => (float[N,2,4] y, float[N,2,4] z)", ", int64[3] s = {0, 2, 4}",
            "a = Gather <axis = 0> (x, zero)
             b = Gather <axis = 0> (x, one)
             c = Reshape (a, s)
             d = Reshape (b, s)
             y = Relu (c)
             z = Neg (d)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2,N,8] x) => (float[N,2,4] y, float[N,2,4] z)
        <
          int64 zero = {0},
          int64 one = {1},
          int64 two = {2},
          int64[1] last = {-1},
          float h = {0.5},
          int64[4] x_shape = {2, 0, 2, 4}
        >
        {
          x_reshaped = Reshape (x, x_shape)
          c = Gather <axis = 0> (x_reshaped, zero)
          y = Relu (c)
          d = Gather <axis = 0> (x_reshaped, one)
          z = Neg (d)
        }
        "#);
    }

    #[test]
    fn parts_are_transposed_together() {
        insta::assert_snapshot!(check::<Hoists>(&model(
            "(float[A,B,3,C] x) => (float[B,A,C] q, float[B,C,A] k, float[B,A,C] v)", "",
            "t = Transpose <perm = [2, 0, 1, 3]> (x)
             a = Gather <axis = 0> (t, zero)
             b = Gather <axis = 0> (t, one)
             c = Gather <axis = 0> (t, two)
             q = Transpose <perm = [1, 0, 2]> (a)
             k = Transpose <perm = [1, 2, 0]> (b)
             v = Transpose <perm = [1, 0, 2]> (c)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[A,B,3,C] x) => (float[B,A,C] q, float[B,C,A] k, float[B,A,C] v)
        <
          int64 zero = {0},
          int64 one = {1},
          int64 two = {2},
          int64[1] last = {-1},
          float h = {0.5}
        >
        {
          t_moved = Transpose <perm = [2, 1, 0, 3]> (x)
          q = Gather <axis = 0> (t_moved, zero)
          k_picked = Gather <axis = 0> (t_moved, one)
          k = Transpose <perm = [0, 2, 1]> (k_picked)
          v = Gather <axis = 0> (t_moved, two)
        }
        "#);
    }

    #[test]
    fn what_is_done_with_all_parts_of_a_split_is_done_before() {
        insta::assert_snapshot!(check::<Hoists>(&model(
            "(float[N,6,8] x) => (float[N,3,7] y, float[N,3,7] z)", ", int64[2] sizes = {3, 3}, int64[1] from = {1}, int64[1] to = {100}, int64[1] two_ = {2}",
            "a, b = Split <axis = 1> (x, sizes)
             c = Slice (a, from, to, two_)
             d = Slice (b, from, to, two_)
             y = Pow (c, h)
             z = Pow (d, h)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,6,8] x) => (float[N,3,7] y, float[N,3,7] z)
        <
          int64 zero = {0},
          int64 one = {1},
          int64 two = {2},
          int64[1] last = {-1},
          float h = {0.5},
          int64[2] sizes = {3, 3},
          int64[1] from = {1},
          int64[1] to = {100},
          int64[1] two_ = {2}
        >
        {
          x_slice = Slice (x, from, to, two_)
          x_slice_pow = Pow (x_slice, h)
          y, z = Split <axis = 1> (x_slice_pow, sizes)
        }
        "#);
    }

    #[test]
    fn keeps_parts_of_a_split_with_which_different_things_are_done() {
        for readers in [
            "y = Pow (a, h) z = Pow (b, two_)",
            "y = Relu (a) z = Neg (b)",
            "y = Relu (a) p = Relu (b) z = Add (p, b)",
            "y = Slice (a, from, to, from) z = Slice (b, from, to, from)",
            "y = Pow (a, h) z = Pow (h, b)",
        ] {
            let text = model(
                "(float[N,6] x) => (float[N,3] y, float[N,3] z)",
                ", int64[2] sizes = {3, 3}, int64[1] from = {1}, int64[1] to = {100}, float two_ = {2.0}",
                &format!("a, b = Split <axis = 1> (x, sizes) {readers}"),
            );
            assert_eq!(refusals::<Hoists>(&text), [""; 0], "{readers}");
        }
    }

    #[test]
    fn keeps_parts_of_a_split_that_say_where_a_slice_ends() {
        let text = model(
            "(float[N,6] x, int64[2] e) => (float[N,K] y, float[N,L] z)",
            ", int64[2] sizes = {1, 1}, int64[1] from = {0}, int64[1] axis = {1}",
            "a, b = Split (e, sizes) y = Slice (x, from, a, axis) z = Slice (x, from, b, axis)",
        );
        assert_eq!(refusals::<Hoists>(&text), [""; 0]);
    }

    #[test]
    fn keeps_parts_that_others_read() {
        let text = model(
            "(float[2,N,8] x) => (float[N,2,4] y, float[N,2,4] z, float[N,8] b)",
            ", int64[3] s = {0, 2, 4}",
            "a = Gather <axis = 0> (x, zero)
             b = Gather <axis = 0> (x, one)
             y = Reshape (a, s)
             z = Reshape (b, s)",
        );
        insta::assert_debug_snapshot!(refusals::<Hoists>(&text), @"[]");
    }

    #[test]
    fn a_reduction_keeps_its_axes() {
        insta::assert_snapshot!(check::<Hoists>(&model(
            "(float[N,4,8] x) => (float[N,4,1] y, float[N,1,8] z)", ", int64[3] s = {0, 1, 8}, int64[1] axis = {1}",
            "a = ReduceMax <axes = [-1], keepdims = 0> (x)
             b = Mul (a, h)
             y = Unsqueeze (b, last)
             c = ReduceSum <keepdims = 0> (x, axis)
             d = Mul (h, c)
             e = Sqrt (d)
             z = Reshape (e, s)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4,8] x) => (float[N,4,1] y, float[N,1,8] z)
        <
          int64 zero = {0},
          int64 one = {1},
          int64 two = {2},
          float h = {0.5},
          int64[1] axis = {1}
        >
        {
          a_kept = ReduceMax <axes = [-1], keepdims = 1> (x)
          y = Mul (a_kept, h)
          c_kept = ReduceSum <keepdims = 1> (x, axis)
          d_kept = Mul (h, c_kept)
          z = Sqrt (d_kept)
        }
        "#);
    }

    #[test]
    fn keeps_reductions_whose_axes_come_back_elsewhere() {
        let text = model(
            "(float[N,4,4] x, float[N,4] w) => (float[N,1,4] y, float[N,4,1] z)",
            ", int64[1] axis = {1}",
            "a = ReduceMax <axes = [2], keepdims = 0> (x)
             y = Unsqueeze (a, axis)
             c = ReduceSum <keepdims = 0> (x, last)
             d = Mul (c, w)
             z = Unsqueeze (d, last)",
        );
        insta::assert_debug_snapshot!(refusals::<Hoists>(&text), @"[]");
    }
}
