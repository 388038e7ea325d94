//! Remove nodes that hand their input on unchanged.
//!
//! Before     y = Identity (x) · Dropout outside of training · Cast to the type that x has · Transpose that keeps the
//!            order · Reshape, Expand, Flatten, Tile or Slice to the shape that x has · Pad by nothing · Concat, Sum,
//!            Mean, Max or Min of one input · x * 1, x / 1, x - 0, x ^ 1, x + 0 · Neg (Neg (x)), Relu (Relu (x)) and the
//!            like · x and true, x or false · Where with a constant condition or equal branches · Max (x, -inf) · a
//!            reduction or pool over single elements · Resize by 1
//! After      readers of y read x
//! When       shapes and constants prove it
//! Refuses    training_mode that is not provably false · an input that is also an output of the graph, or an input or
//!            constant that would have to be one: the interface needs both names
//! Numerics   Exact for what hands its input on; Reassociated where an operation that real arithmetic calls neutral may
//!            change the sign of a zero or a NaN: -0 + 0 is +0
//! Reference  the operators' definitions

mod neutral;

use planish_ir::{DType, Node, NodeId, Numerics, Patch, Tensor, Type, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NoOps {}

impl Pass for NoOps {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for NoOps {
    fn roots(&self) -> &'static [&'static str] {
        &[
            "Abs",
            "Add",
            "And",
            "AveragePool",
            "Cast",
            "CastLike",
            "Ceil",
            "Concat",
            "DepthToSpace",
            "Div",
            "Dropout",
            "Expand",
            "Flatten",
            "Floor",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "Identity",
            "Max",
            "MaxPool",
            "Mean",
            "Min",
            "Mul",
            "Neg",
            "Not",
            "Or",
            "Pad",
            "Pow",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "Relu",
            "Reshape",
            "Resize",
            "Round",
            "Sign",
            "Slice",
            "SpaceToDepth",
            "Squeeze",
            "Sub",
            "Sum",
            "Tile",
            "Transpose",
            "Upsample",
            "Where",
            "Xor",
        ]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let (input, numerics) = match unchanged_input(cx, node, output) {
            Err(Skip::NoMatch) => neutral::input(cx, node, output).ok_or(Skip::NoMatch)?,
            found => (found?, Numerics::Exact),
        };
        if node.outputs().iter().skip(1).flatten().any(|&v| cx.graph.users(v).len() > 0) {
            return Err(Skip::because("its other outputs are read"));
        }
        let mut patch = Patch::new(numerics, format!("{} {:?}", node.op, cx.graph.name_of(output)));
        patch.replace(output, input);
        Ok(patch)
    }
}

/// The input that the first output of the node always equals.
fn unchanged_input(cx: &RuleContext<'_>, node: &Node, output: ValueId) -> Result<ValueId, Skip> {
    let g = cx.graph;
    let x = node.input(0).ok_or(Skip::NoMatch)?;
    let known = |unchanged: bool| if unchanged { Ok(x) } else { Err(Skip::NoMatch) };
    match node.op.name.as_str() {
        "Identity" => Ok(x),
        // Before version 7 dropping was the default.
        "Dropout" if cx.opset() < 7 && node.attrs.int("is_test").unwrap_or(0) == 0 => {
            Err(Skip::because("is_test is not set, so it drops"))
        }
        "Dropout" => match node.input(2) {
            None => Ok(x),
            Some(mode) => match g.constant(mode).and_then(Tensor::single_i64) {
                Some(0) => Ok(x),
                _ => Err(Skip::because("training_mode is not provably false")),
            },
        },
        "Cast" => {
            known(g.value(x).and_then(|v| v.dtype()).is_some_and(|d| node.attrs.int("to") == Some(d.code().into())))
        }
        "Transpose" => {
            let perm = node.attrs.ints("perm");
            let rank = g.ty(x).and_then(Type::shape).map(<[_]>::len);
            known(match perm {
                Some(p) => p.iter().enumerate().all(|(i, &a)| a == i as i64),
                None => rank.is_some_and(|r| r <= 1),
            })
        }
        "Concat" | "Sum" | "Mean" | "Max" | "Min" => known(node.inputs().len() == 1),
        "Reshape" | "Expand" | "Flatten" | "Squeeze" | "Tile" | "Slice" => {
            known(same_shape(cx, x, output) && !reverses(cx, node))
        }
        "Pad" => {
            let pads = match node.input(1) {
                Some(p) => g.constant(p).and_then(|t| t.to_i64().ok()),
                None => node.attrs.ints("pads").map(<[i64]>::to_vec),
            };
            known(pads.is_some_and(|p| p.iter().all(|&n| n == 0)))
        }
        "Mul" if is_all(cx, x, 1.0) => {
            let y = node.input(1).ok_or(Skip::NoMatch)?;
            if same_shape(cx, y, output) { Ok(y) } else { Err(Skip::NoMatch) }
        }
        "Mul" | "Div" | "Pow" => known(is_all_at(cx, node, 1.0) && same_shape(cx, x, output)),
        "Sub" => known(is_all_at(cx, node, 0.0) && same_shape(cx, x, output)),
        _ => Err(Skip::NoMatch),
    }
}

fn is_all_at(cx: &RuleContext<'_>, node: &Node, wanted: f64) -> bool {
    node.input(1).is_some_and(|c| is_all(cx, c, wanted))
}

/// True for a constant all of whose elements are `wanted`, by sign too. Large ones are not looked at: an exporter's
/// neutral constants are scalars or one per channel.
fn is_all(cx: &RuleContext<'_>, value: ValueId, wanted: f64) -> bool {
    const LARGE: u64 = 1 << 16;
    let Some(t) = cx.graph.constant(value).filter(|t| t.elements() > 0 && t.elements() <= LARGE) else { return false };
    match t.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            t.to_f64().is_ok_and(|v| v.iter().all(|x| x.to_bits() == wanted.to_bits()))
        }
        d if d.is_integer() => t.to_i64().is_ok_and(|v| v.iter().all(|&x| x as f64 == wanted)),
        _ => false,
    }
}

/// Provably the same type and shape.
fn same_shape(cx: &RuleContext<'_>, a: ValueId, b: ValueId) -> bool {
    let (Some(Type::Tensor(a)), Some(Type::Tensor(b))) = (cx.facts.ty(a), cx.facts.ty(b)) else { return false };
    let (Some(s), Some(t)) = (&a.shape, &b.shape) else { return false };
    a.dtype == b.dtype && s.len() == t.len() && s.iter().zip(t).all(|(x, y)| x.same(y))
}

/// A slice may keep the shape and still change the order.
fn reverses(cx: &RuleContext<'_>, node: &Node) -> bool {
    if !node.op.is("Slice") {
        return false;
    }
    match node.input(4) {
        None => false,
        Some(steps) => {
            !cx.graph.constant(steps).and_then(|t| t.to_i64().ok()).is_some_and(|s| s.iter().all(|&step| step > 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn chains_of_no_ops_disappear() {
        insta::assert_snapshot!(check::<NoOps>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y) <float one = {1.0}, int64[4] none = {0, 0, 0, 0}> {
                a = Identity (x)
                b = Transpose <perm = [0, 1]> (a)
                c = Mul (one, b)
                d = Pad (c, none)
                e = Cast <to = 1> (d)
                f = Concat <axis = 0> (e)
                y = Relu (f)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn what_is_done_twice_is_done_once() {
        insta::assert_snapshot!(check::<NoOps>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,1] x, bool[N] b) => (float[N,1] y, float[N,1] z, bool[N] c, float[N,1] w) {
                a = Neg (x)
                d = Neg (a)
                y = Exp (d)
                e = Relu (x)
                f = Relu (e)
                h = Abs (f)
                z = Exp (h)
                i = Not (b)
                j = Not (i)
                c = And (j, b)
                k = Floor (x)
                w = Ceil (k)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1] x, bool[N] b) => (float[N,1] y, float[N,1] z, bool[N] c, float[N,1] w) {
          y = Exp (x)
          e = Relu (x)
          z = Exp (e)
          c = And (b, b)
          k = Floor (x)
          w = Ceil (k)
        }
        "#);
    }

    #[test]
    fn neutral_operands_and_single_elements() {
        insta::assert_snapshot!(check::<NoOps>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3,4,4] x, int64[N] i, bool[N] b) => (float[N,3,4,4] y, int64[N] j, bool[N] c, float[N,3,1,1] p)
            <float zero = {0.0}, int64 none = {0}, bool[1] yes = {1}, bool no = {0}, float[4] ones = {1.0, 1.0, 1.0, 1.0}> {
                a = Add (zero, x)
                d = Resize (a, , ones)
                e = MaxPool <kernel_shape = [1, 1]> (d)
                f = Where (yes, e, zero)
                y = Relu (f)
                k = Add (i, none)
                l = Max (k, k)
                j = Neg (l)
                m = And (b, yes)
                n = Or (no, m)
                c = Not (n)
                g1 = GlobalAveragePool (x)
                g2 = GlobalMaxPool (g1)
                g3 = ReduceMean <axes = [2, 3]> (g2)
                p = Relu (g3)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4,4] x, int64[N] i, bool[N] b) => (float[N,3,4,4] y, int64[N] j, bool[N] c, float[N,3,1,1] p) {
          y = Relu (x)
          j = Neg (i)
          c = Not (b)
          g1 = GlobalAveragePool (x)
          p = Relu (g1)
        }
        "#);
    }

    #[test]
    fn keeps_what_is_not_neutral() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x, float[1,4] w, bool[N,4] b) => (float[N,4] y, float[N,4] z, float[N,4] v, float[M,1] u)
            <float[2,1] zeros = {0.0, 0.0}, float one = {1.0}, bool[4] some = {1, 0, 1, 1}> {
                a = Add (w, zeros)
                y = Relu (a)
                c = Where (some, x, one)
                z = Relu (c)
                d = Neg (x)
                v = Abs (d)
                e = ReduceMean <axes = [1]> (x)
                u = Relu (e)
            }"#;
        assert!(refusals::<NoOps>(text).is_empty());
    }

    #[test]
    fn keeps_an_identity_between_input_and_output() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y) { y = Identity (x) }"#;
        assert_eq!(
            refusals::<NoOps>(text),
            [r#""y" is a graph output and cannot be replaced by "x", whose name is needed as well"#]
        );
    }

    #[test]
    fn keeps_what_only_a_declaration_calls_equal() {
        // The file says that slicing leaves the number of columns as it is.
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[batch,seq] x) => (float[batch,seq] y)
            <int64[1] a = {1}, int64[1] b = {9223372036854775807}, int64[1] ax = {1}> {
                r = Relu (x)
                y = Slice (r, a, b, ax)
            }"#;
        assert!(refusals::<NoOps>(text).is_empty());
    }

    #[test]
    fn a_stale_declaration_does_not_reach_the_interface() {
        insta::assert_snapshot!(check::<NoOps>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[N,4] y) <float[1,4] a> {
                a = Identity (x)
                y = Relu (a)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn keeps_what_broadcasts_or_reverses() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[4] x) => (float[2,4] y, float[4] z)
            <float[2,1] one = {1.0, 1.0}, int64[1] s = {-1}, int64[1] e = {-9223372036854775807}, int64[1] a = {0}> {
                m = Mul (x, one)
                y = Relu (m)
                r = Slice (x, s, e, a, s)
                z = Relu (r)
            }"#;
        assert!(refusals::<NoOps>(text).is_empty());
    }
}
