//! Merge factors and offsets that follow each other into one.
//!
//! Before     y = (x * a) / b  ·  y = (x + a) - b  ·  y = c - (x + a)  ·  y = -(x + a)  ·  y = (x * a + b) * c
//! After      y = x * (a / b)  ·  y = x + (a - b)  ·  y = (c - a) - x   ·  y = -a - x    ·  y = x * (a * c) + b * c
//! When       a, b and c are floating constants of one number for all or one per index of one axis; operators that keep
//!            axes may stand between the two, for factors above zero also Relu, LeakyRelu and MaxPool
//! Refuses    what is between has other readers or is a graph output · constants along different axes, or that make the result larger · a result that takes
//!            more than one operator · constants that are not finite in their type afterwards
//! Numerics   Reassociated; the constants are computed in 64 bits and rounded once
//! Reference  associativity of sums and products

use planish_ir::{DType, Node, NodeId, OpName, Patch, Ref, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    affine::{Affine, Composite},
    fold_affine::{self, Target},
    linear::rounded,
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssociateConstants {}

impl Pass for AssociateConstants {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for AssociateConstants {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "Div", "Mul", "Neg", "Sub"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let affine = Affine::of(cx, node).ok().filter(|a| a.keeps_shape(cx)).ok_or(Skip::NoMatch)?;
        fold_affine::into_producer(cx, id, node, &affine, &Elementwise)
    }
}

/// A factor or an offset takes up another one.
struct Elementwise;

impl Target for Elementwise {
    // Constants of values that others read as well are met everywhere; that is not worth a word.
    fn is_one(&self, _: &RuleContext<'_>, _: NodeId, _: &Node) -> bool {
        false
    }

    fn take(
        &self,
        cx: &RuleContext<'_>,
        id: NodeId,
        node: &Node,
        outer: &Affine,
        patch: &mut Patch,
    ) -> Result<(), Skip> {
        if node.op.is("BatchNormalization") {
            return Err(Skip::NoMatch);
        }
        let inner = Affine::of(cx, node).map_err(|_| Skip::NoMatch)?;
        let constant = node.inputs().iter().flatten().find_map(|&v| Some((v, cx.graph.constant(v)?)));
        let Composite { scale, shift, dims } = inner.then(outer, cx).ok_or(Skip::NoMatch)?;
        let is_one = |list: &[f64], wanted: f64| list.iter().all(|&v| v == wanted);
        let x: Option<Ref> = Some(inner.x.into());
        let (op, values, first) = if is_one(&shift, 0.0) {
            ("Mul", scale, false)
        } else if is_one(&scale, 1.0) {
            ("Add", shift, false)
        } else if is_one(&scale, -1.0) {
            ("Sub", shift, true)
        } else {
            return Err(Skip::NoMatch);
        };
        // A Neg has no constant of its own, and what it takes up decides the type.
        let dtype = match constant {
            Some((_, t)) => t.dtype(),
            None => outer_dtype(cx, outer).ok_or(Skip::NoMatch)?,
        };
        let name = constant
            .map_or_else(|| format!("{}_constant", cx.graph.name_of(inner.output)), |(v, _)| cx.graph.name_of(v));
        let constant = Some(patch.constant(name, combined(dtype, &dims, &values)?));
        patch.set_op(id, OpName::onnx(op));
        patch.set_input(id, 0, if first { constant } else { x });
        patch.set_input(id, 1, if first { x } else { constant });
        Ok(())
    }
}

fn outer_dtype(cx: &RuleContext<'_>, outer: &Affine) -> Option<DType> {
    cx.facts.fact(outer.output).dtype()
}

fn combined(dtype: DType, dims: &[u64], values: &[f64]) -> Result<Tensor, Skip> {
    let count: u64 = dims.iter().product();
    match values {
        [one] => rounded(dtype, dims, &vec![*one; usize::try_from(count).map_err(|_| Skip::NoMatch)?]),
        _ => rounded(dtype, dims, values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(constants: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,2] x) => (float[N,3,2] y) <{constants}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn factors() {
        insta::assert_snapshot!(check::<AssociateConstants>(&model(
            "float a = {6.0}, float[2] b = {2.0, 4.0}, float[1,1,1] c = {3.0}",
            "r = Mul (a, x)\n s = Div (r, b)\n y = Mul (s, c)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,2] x) => (float[N,3,2] y)
        <
          float[1,1,2] a = {9.0, 4.5}
        >
        {
          y = Mul (x, a)
        }
        "#);
    }

    #[test]
    fn offsets_and_signs() {
        insta::assert_snapshot!(check::<AssociateConstants>(&model(
            "float a = {6.0}, float[2] b = {2.0, 4.0}, float[3,1] c = {1, 2, 3}",
            "r = Add (a, x)\n s = Sub (r, b)\n n = Neg (s)\n m = Relu (n)\n t = Sub (c, m)\n u = Neg (t)\n y = Relu (u)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,2] x) => (float[N,3,2] y)
        <
          float[2] a = {-4.0, -2.0},
          float[3,1] c = {-1.0, -2.0, -3.0}
        >
        {
          r = Sub (a, x)
          m = Relu (r)
          t = Add (m, c)
          y = Relu (t)
        }
        "#);
    }

    #[test]
    fn a_factor_moves_over_an_offset() {
        insta::assert_snapshot!(check::<AssociateConstants>(&model(
            "float[2] a = {6.0, 7.0}, float b = {2.0}, float c = {0.5}",
            "r = Mul (x, a)\n s = Add (r, b)\n m = Relu (s)\n y = Mul (m, c)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,2] x) => (float[N,3,2] y)
        <
          float[2] a = {3.0, 3.5},
          float b = {1.0}
        >
        {
          r = Mul (x, a)
          s = Add (r, b)
          y = Relu (s)
        }
        "#);
    }

    #[test]
    fn leaves_what_takes_two_operators() {
        let constants = "float a = {6.0}, float[2] b = {2.0, 4.0}, float[3,1] c = {1, 2, 3}, float huge = {3e38}";
        for nodes in [
            "r = Mul (x, a)\n y = Add (r, b)",
            "r = Mul (x, b)\n y = Mul (r, c)",
            "m = ReduceMax <axes = [2]> (x)\n r = Mul (m, a)\n y = Mul (r, b)",
            "r = Mul (x, a)\n s = Relu (r)\n t = Add (r, s)\n y = Mul (r, a)",
        ] {
            assert!(refusals::<AssociateConstants>(&model(constants, nodes)).is_empty());
        }
        assert_eq!(
            refusals::<AssociateConstants>(&model(constants, "r = Mul (x, a)\n y = Mul (r, huge)")),
            ["a folded weight or offset is not finite in float"]
        );
    }

    #[test]
    fn integers_are_left_alone() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (int64[N] x) => (int64[N] y)
            <int64 a = {7}, int64 b = {2}> { r = Mul (x, a)  y = Div (r, b) }"#;
        assert!(refusals::<AssociateConstants>(text).is_empty());
    }

    #[test]
    fn factors_that_vanish_together_stay_apart() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) <float a = {1e-25}> {
            p = Mul (x, a)
            y = Mul (p, a)
        }"#;
        assert_eq!(refusals::<AssociateConstants>(text).len(), 1);
    }
}
