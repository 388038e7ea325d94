//! Make one Gemm of a matrix product and the addition behind it.
//!
//! Before     c = MatMul (a, b);  y = Add (c, k)  ·  y = Gemm (a, b, 0)
//! After      y = Gemm (a, b, k)  ·  y = Gemm (a, b)
//! When       a and b provably have rank 2, k is a constant of one number for all or one per column
//! Refuses    c has other readers or is a graph output · ranks that are not proven · k that varies over rows or would make
//!            the result larger · types other than float16, float and double · opset < 7; < 11 for a Gemm without addend
//! Numerics   Reassociated: a runtime may add before it rounds
//! Reference  ONNX Gemm-11

use planish_ir::{DType, Dim, Node, NodeId, Numerics, OpName, Patch, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    affine::{Axis, channel_axis},
    linear::floats,
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MatMulAdd {}

impl Pass for MatMulAdd {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for MatMulAdd {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "Gemm"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if node.is_local() || cx.opset() < 7 {
            return Err(Skip::NoMatch);
        }
        match node.op.is("Gemm") {
            true => without_zeros(cx, id, node),
            false => with_addend(cx, node),
        }
    }
}

fn without_zeros(cx: &RuleContext<'_>, id: NodeId, gemm: &Node) -> Result<Patch, Skip> {
    const LARGE: u64 = 1 << 20;
    let addend = gemm.input(2).and_then(|c| cx.graph.constant(c)).filter(|t| t.elements() <= LARGE);
    let addend = addend.filter(|_| cx.opset() >= 11).ok_or(Skip::NoMatch)?;
    if !floats(addend).map_err(|_| Skip::NoMatch)?.iter().all(|&v| v == 0.0) {
        return Err(Skip::NoMatch);
    }
    let mut patch = Patch::new(Numerics::Reassociated, format!("Gemm {:?} adds zeros", gemm.name));
    patch.set_input(id, 2, None);
    Ok(patch)
}

fn with_addend(cx: &RuleContext<'_>, add: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let output = add.output(0).ok_or(Skip::NoMatch)?;
    let (product_slot, product, matmul_id, matmul) = [0, 1]
        .into_iter()
        .find_map(|slot| {
            let v = add.input(slot)?;
            let (id, n) = g.producer(v).filter(|(_, n)| n.op.is("MatMul") && !n.is_local())?;
            Some((slot, v, id, n))
        })
        .ok_or(Skip::NoMatch)?;
    let addend_id = add.input(1 - product_slot).ok_or(Skip::NoMatch)?;
    let addend = g.constant(addend_id).ok_or(Skip::NoMatch)?;
    if !matches!(addend.dtype(), DType::F16 | DType::F32 | DType::F64) {
        return Err(Skip::NoMatch);
    }
    let shape = |v: ValueId| cx.facts.fact(v).shape();
    let (a, b) = (matmul.input(0).ok_or(Skip::NoMatch)?, matmul.input(1).ok_or(Skip::NoMatch)?);
    let ranks = (shape(a).map(<[_]>::len), shape(b).map(<[_]>::len));
    match ranks {
        (Some(2), Some(2)) => {}
        (Some(_), Some(_)) => return Err(Skip::NoMatch),
        _ => return Err(Skip::because("the ranks of the product's operands are not known")),
    }
    if g.only_user(product).is_none() {
        return Err(Skip::because(format!("{:?} has other readers or is a graph output", g.name_of(product))));
    }
    let columns = shape(b).and_then(|s| s.get(1)).and_then(Dim::known);
    let fits = match channel_axis(addend)? {
        _ if addend.rank() > 2 => false,
        (Axis::Any, _) => true,
        (Axis::Last(0), _) => columns.is_some() && columns == addend.dims().last().copied(),
        _ => false,
    };
    if !fits {
        return Err(Skip::because("what is added is not one number per column"));
    }
    let mut patch = Patch::new(Numerics::Reassociated, format!("MatMul {:?} takes Add {:?}", matmul.name, add.name));
    let gemm = patch
        .node(OpName::onnx("Gemm"), [a, b, addend_id].map(|v| Some(v.into())))
        .in_place_of(matmul_id)
        .output(g.name_of(output), g.ty(output).cloned());
    patch.replace(output, gemm);
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(inputs: &str, outputs: &str, constants: &str, nodes: &str) -> String {
        format!(r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }}"#)
    }

    const W: &str = "float[2,3] w = {1, 2, 3, 4, 5, 6}";

    #[test]
    fn a_product_takes_its_addend() {
        insta::assert_snapshot!(check::<MatMulAdd>(&model(
            "float[N,2] x", "float[N,3] y", &format!("{W}, float[3] b = {{1, 2, 3}}"),
            "[fc] c = MatMul (x, w)\n y = Add (b, c)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,3] y)
        <
          float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0},
          float[3] b = {1.0, 2.0, 3.0}
        >
        {
          [fc] y = Gemm (x, w, b)
        }
        "#);
    }

    #[test]
    fn zeros_are_not_added() {
        insta::assert_snapshot!(check::<MatMulAdd>(&model(
            "float[N,2] x", "float[N,3] y", &format!("{W}, float[3] b = {{0, -0.0, 0}}"),
            "y = Gemm (x, w, b)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,3] y)
        <
          float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
        >
        {
          y = Gemm (x, w)
        }
        "#);
    }

    #[test]
    fn refuses_ranks_readers_and_rows() {
        let b = format!("{W}, float[3] b = {{1, 2, 3}}, float[2,1] rows = {{1, 2}}, float[1,1,1] cube = {{1}}");
        let refused =
            |inputs: &str, outputs: &str, nodes: &str| refusals::<MatMulAdd>(&model(inputs, outputs, &b, nodes));
        let y = "c = MatMul (x, w)\n y = Add (c, b)";
        assert!(refused("float[B,N,2] x", "float[B,N,3] y", y).is_empty());
        assert_eq!(
            refused("float[] s, float[N,2] x", "float[N,3] y, float[N,3] c", y),
            [r#""c" has other readers or is a graph output"#]
        );
        let rows = "what is added is not one number per column";
        assert_eq!(refused("float[2,2] x", "float[2,3] y", "c = MatMul (x, w)\n y = Add (c, rows)"), [rows]);
        assert_eq!(refused("float[2,2] x", "float[1,2,3] y", "c = MatMul (x, w)\n y = Add (c, cube)"), [rows]);
        // A column that broadcasts would make the result larger.
        let thin = model("float[N,1] x", "float[N,3] y", "float[1,1] w = {1}, float[3] b = {1, 2, 3}", y);
        assert_eq!(refusals::<MatMulAdd>(&thin), [rows]);
    }
}
