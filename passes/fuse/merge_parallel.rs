//! Compute several matrix products of one value in one.
//!
//! It is no member of `simplify`: onnxruntime's CPU kernels gain nothing from a wider product and pay for the Split, and the
//! packed weights are held in memory until the model is written.
//!
//! Before     q = MatMul (x, wq) + bq;  k = MatMul (x, wk) + bk;  v = MatMul (x, wv) + bv
//! After      q, k, v = Split (MatMul (x, [wq wk wv]) + [bq bk bv])
//! When       the weights are constant matrices of one type and height; all products or none have a constant per column added;
//!            fewer nodes are left: three products, or two with additions
//! Refuses    weights with other readers · products that have other readers than their addition, or are graph outputs while
//!            others are not · operands that are the same weight · opset < 11, where Split counts axes from the front
//! Numerics   Reassociated: a runtime may block a wider product differently
//! Reference  the layout of packed attention weights, Vaswani et al., Attention Is All You Need, NeurIPS 2017, §3.2

use planish_ir::{Attr, Attrs, Node, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, Type, Use, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MergeParallel {}

impl Pass for MergeParallel {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

/// Readers of one value that are looked at: a hostile file may have a million.
const MAX_BRANCHES: usize = 64;

/// One product, and its addition.
struct Branch<'a> {
    id: NodeId,
    node: &'a Node,
    weight_id: ValueId,
    weight: &'a Tensor,
    added: Option<(ValueId, &'a Tensor)>,
    output: ValueId,
}

impl Rule for MergeParallel {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let g = cx.graph;
        let x = node.input(0).ok_or(Skip::NoMatch)?;
        let first = Branch::of(cx, id, node)?;
        let readers = g.users(x).take(MAX_BRANCHES).filter_map(|u| match u {
            Use::Node(n, Operand::Input(0)) => Some((n, g.node(n)?)),
            _ => None,
        });
        let branches: Vec<Branch<'_>> = readers
            .filter_map(|(id, n)| Branch::of(cx, id, n).ok())
            .filter(|b| b.weight.dims().first() == first.weight.dims().first())
            .filter(|b| b.weight.dtype() == first.weight.dtype() && b.added.is_some() == first.added.is_some())
            .collect();
        // Each group is looked at once, from its first member.
        if branches.first().map(|b| b.id) != Some(id) {
            return Err(Skip::NoMatch);
        }
        let (count, additions) = (branches.len(), first.added.is_some());
        if count < 2 || (count < 3 && !additions) {
            return Err(Skip::NoMatch);
        }
        if cx.opset() < 11 {
            return Err(Skip::because("Split counts axes from the front before opset 11"));
        }
        if let Some(b) = branches.iter().find(|b| g.users(b.weight_id).len() > 1) {
            return Err(Skip::because(format!("the weight {:?} has other readers", g.name_of(b.weight_id))));
        }
        merged(cx, x, &branches)
    }
}

impl<'a> Branch<'a> {
    fn of(cx: &RuleContext<'a>, id: NodeId, node: &'a Node) -> Result<Branch<'a>, Skip> {
        let g = cx.graph;
        if !node.op.is("MatMul") || node.is_local() {
            return Err(Skip::NoMatch);
        }
        let weight_id = node.input(1).ok_or(Skip::NoMatch)?;
        let weight = g.constant(weight_id).filter(|t| t.rank() == 2 && t.elements() > 0).ok_or(Skip::NoMatch)?;
        if !weight.dtype().is_float() || !weight.dtype().bits().is_multiple_of(8) {
            return Err(Skip::NoMatch);
        }
        let product = node.output(0).ok_or(Skip::NoMatch)?;
        let columns = weight.dims().last().copied();
        let addition =
            g.only_user(product).filter(|(_, n, _)| n.op.is("Add") && !n.is_local()).and_then(|(_, n, slot)| {
                let id = n.input(1 - slot.min(1))?;
                let t = g.constant(id).filter(|t| t.rank() == 1 && t.dims().first().copied() == columns)?;
                Some((n.output(0)?, id, t))
            });
        let (output, added) = addition.map_or((product, None), |(v, id, t)| (v, Some((id, t))));
        Ok(Branch { id, node, weight_id, weight, added, output })
    }
}

fn merged(cx: &RuleContext<'_>, x: ValueId, branches: &[Branch<'_>]) -> Result<Patch, Skip> {
    let g = cx.graph;
    let first = branches.first().ok_or(Skip::NoMatch)?;
    let sizes: Vec<i64> = branches
        .iter()
        .map(|b| b.weight.dims().last().and_then(|&n| i64::try_from(n).ok()).ok_or(Skip::NoMatch))
        .collect::<Result<_, _>>()?;
    let weights: Vec<&Tensor> = branches.iter().map(|b| b.weight).collect();
    let width = |t: Option<&Type>| match t {
        Some(Type::Tensor(t)) => t.shape.clone().map(|mut s| {
            if let Some(last) = s.last_mut() {
                *last = sizes.iter().map(|&n| n.unsigned_abs()).sum::<u64>().into();
            }
            Type::tensor(t.dtype, s)
        }),
        _ => None,
    };
    let ty = width(first.node.output(0).and_then(|v| g.ty(v)));
    let note = format!("{} products of {:?} are one", branches.len(), g.name_of(x));
    let mut patch = Patch::new(Numerics::Reassociated, note);
    let weight = patch.constant(format!("{}_packed", g.name_of(first.weight_id)), beside(&weights)?);
    let product = first.node.output(0).map_or_else(String::new, |v| format!("{}_packed", g.name_of(v)));
    let mut packed = patch
        .node(OpName::onnx("MatMul"), [Some(Ref::from(x)), Some(weight)])
        .in_place_of(first.id)
        .output(product, ty.clone());
    let added: Vec<&Tensor> = branches.iter().filter_map(|b| b.added.map(|(_, t)| t)).collect();
    if let Some((id, _)) = first.added {
        let bias = patch.constant(format!("{}_packed", g.name_of(id)), beside(&added)?);
        let name = format!("{}_packed", g.name_of(first.output));
        packed = patch.node(OpName::onnx("Add"), [Some(packed), Some(bias)]).output(name, ty);
    }
    let mut attrs = Attrs::new().with("axis", -1i64);
    let mut inputs = vec![Some(packed)];
    if cx.opset() < 13 {
        attrs.set("split", Attr::Ints(sizes));
    } else {
        inputs.push(Some(patch.constant(format!("{}_sizes", g.name_of(first.output)), Tensor::ints(&sizes))));
    }
    let outputs = branches.iter().map(|b| (g.name_of(b.output), g.ty(b.output).cloned())).collect();
    let parts = patch.node(OpName::onnx("Split"), inputs).attrs(attrs).outputs(outputs);
    for (branch, part) in branches.iter().zip(parts) {
        patch.replace(branch.output, part);
    }
    Ok(patch)
}

/// Matrices of one height, or vectors, beside each other.
fn beside(parts: &[&Tensor]) -> Result<Tensor, Skip> {
    let misfit = || Skip::because("the weights cannot be joined");
    let first = parts.first().ok_or_else(misfit)?;
    let rows = if first.rank() == 2 { first.dims().first().copied().unwrap_or(1) } else { 1 };
    let rows = usize::try_from(rows).map_err(|_| misfit())?;
    let raws: Vec<&[u8]> =
        parts.iter().map(|t| t.raw().map(|b| &b[..]).ok_or_else(misfit)).collect::<Result<_, _>>()?;
    let strides: Vec<usize> =
        raws.iter().map(|r| r.len().checked_div(rows).ok_or_else(misfit)).collect::<Result<_, _>>()?;
    let mut bytes = Vec::with_capacity(raws.iter().map(|r| r.len()).sum());
    for row in 0..rows {
        for (raw, stride) in raws.iter().zip(&strides) {
            let start = row.checked_mul(*stride).ok_or_else(misfit)?;
            let end = start.checked_add(*stride).ok_or_else(misfit)?;
            bytes.extend_from_slice(raw.get(start..end).ok_or_else(misfit)?);
        }
    }
    let columns: u64 = parts.iter().filter_map(|t| t.dims().last()).sum();
    let mut dims = first.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    Tensor::from_raw(first.dtype(), dims, bytes.into()).map_err(|e| Skip::because(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    const W: &str = "float[2,1] q = {1, 2}, float[2,2] k = {3, 4, 5, 6}, float[2,1] v = {7, 8}, float[1] a = {1}, float[2] b = {2, 3}, float[1] c = {4}";

    fn model(opset: i64, outputs: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : {opset}]> g (float[B,N,2] x) => ({outputs}) <{W}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn products_with_additions() {
        let nodes = "[q] m = MatMul (x, q)\n o = MatMul (x, k)\n p = Add (a, m)\n r = Add (o, b)\n s = MatMul (x, v)\n t = Add (s, c)\n y = Concat <axis = 2> (p, r, t)";
        insta::assert_snapshot!(check::<MergeParallel>(&model(17, "float[B,N,4] y", nodes)), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[B,N,2] x) => (float[B,N,4] y)
        <
          float[2,4] q_packed = {1.0, 3.0, 4.0, 7.0, 2.0, 5.0, 6.0, 8.0},
          float[4] a_packed = {1.0, 2.0, 3.0, 4.0},
          int64[3] p_sizes = {1, 2, 1}
        >
        {
          [q] m_packed = MatMul (x, q_packed)
          p_packed = Add (m_packed, a_packed)
          p, r, t = Split <axis = -1> (p_packed, p_sizes)
          y = Concat <axis = 2> (p, r, t)
        }
        "#);
        insta::assert_snapshot!(check::<MergeParallel>(&model(12, "float[B,N,4] y", nodes)), @r#"
        <ir_version: 8, opset_import: ["" : 12]>
        g (float[B,N,2] x) => (float[B,N,4] y)
        <
          float[2,4] q_packed = {1.0, 3.0, 4.0, 7.0, 2.0, 5.0, 6.0, 8.0},
          float[4] a_packed = {1.0, 2.0, 3.0, 4.0}
        >
        {
          [q] m_packed = MatMul (x, q_packed)
          p_packed = Add (m_packed, a_packed)
          p, r, t = Split <axis = -1, split = [1, 2, 1]> (p_packed)
          y = Concat <axis = 2> (p, r, t)
        }
        "#);
    }

    #[test]
    fn products_alone() {
        insta::assert_snapshot!(check::<MergeParallel>(&model(
            17, "float[B,N,1] r, float[B,N,2] s, float[B,N,1] t",
            "r = MatMul (x, q)\n s = MatMul (x, k)\n t = MatMul (x, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[B,N,2] x) => (float[B,N,1] r, float[B,N,2] s, float[B,N,1] t)
        <
          float[1] a = {1.0},
          float[2] b = {2.0, 3.0},
          float[1] c = {4.0},
          float[2,4] q_packed = {1.0, 3.0, 4.0, 7.0, 2.0, 5.0, 6.0, 8.0},
          int64[3] r_sizes = {1, 2, 1}
        >
        {
          r_packed = MatMul (x, q_packed)
          r, s, t = Split <axis = -1> (r_packed, r_sizes)
        }
        "#);
    }

    #[test]
    fn leaves_what_gains_nothing_and_refuses_shared_weights() {
        let two = model(17, "float[B,N,1] r, float[B,N,2] s", "r = MatMul (x, q)\n s = MatMul (x, k)");
        assert!(refusals::<MergeParallel>(&two).is_empty());
        let mixed =
            model(17, "float[B,N,1] r, float[B,N,2] s", "m = MatMul (x, q)\n r = Add (m, a)\n s = MatMul (x, k)");
        assert!(refusals::<MergeParallel>(&mixed).is_empty());
        let tied = model(
            17,
            "float[B,N,1] r, float[B,N,2] s, float[B,N,1] t",
            "r = MatMul (x, q)\n s = MatMul (x, k)\n t = MatMul (x, q)",
        );
        assert_eq!(refusals::<MergeParallel>(&tied), [r#"the weight "q" has other readers"#]);
        let old = model(
            10,
            "float[B,N,1] r, float[B,N,2] s, float[B,N,1] t",
            "r = MatMul (x, q)\n s = MatMul (x, k)\n t = MatMul (x, v)",
        );
        assert_eq!(refusals::<MergeParallel>(&old), ["Split counts axes from the front before opset 11"]);
    }
}
