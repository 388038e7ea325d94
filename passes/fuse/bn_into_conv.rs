//! Fold BatchNormalization into a linear operator before or behind it.
//!
//! Before     c = Conv (x, w, b?);  y = BatchNormalization (c, γ, β, μ, σ²)  ·  n = BatchNormalization (x, …);  y = Conv (n, w, b?)
//! After      y = Conv (x, w', b')        before: w' = w·γ/√(σ²+ε)   b' = (b-μ)·γ/√(σ²+ε) + β, per output channel
//! When       Conv, ConvTranspose, Gemm, MatMul, or another normalization with scale and offset per channel; all that is folded
//!            is constant; operators that keep channels (transposes, reshapes, pools) may stand between the two
//! Refuses    training mode · what is between has other readers or is a graph output · an operand is no constant · a weight
//!            with other readers · a bias that is not one per channel · an offset before a convolution that pads, or behind
//!            a MatMul, which has no bias
//! Numerics   Reassociated; computed in 64 bits and rounded once
//! Reference  Jacob et al., Quantization and Training of Neural Networks, CVPR 2018, §3.2; ONNX BatchNormalization-15

use planish_ir::{Node, NodeId, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fold_affine;
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BnIntoConv {}

impl Pass for BnIntoConv {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for BnIntoConv {
    fn roots(&self) -> &'static [&'static str] {
        &["BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        match node.op.is("BatchNormalization") {
            true => fold_affine::into_linear(cx, id, node),
            false => fold_affine::into_reader(cx, id, node, &["BatchNormalization"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    const BN: &str =
        "float[2] s = {2.0, 6.0}, float[2] o = {0.5, -0.5}, float[2] m = {1.0, 2.0}, float[2] v = {3.0, 8.0}";

    fn model(inputs: &str, outputs: &str, weights: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{weights}, {BN}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn conv_takes_scale_and_offset() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,1,4,4] x", "float[N,2,4,4] y", "float[2,1,1,1] w = {1.0, 10.0}",
            "[conv] c = Conv (x, w)\n [bn] y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,1,1,1] w = {1.0, 20.0},
          float[2] w_bias = {-0.5, -4.5}
        >
        {
          [conv] y = Conv (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn transposed_convolution_with_groups() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2,4,4] x", "float[N,2,4,4] y", "float[2,1,1,1] w = {1.0, 10.0}, float[2] b = {1.0, 1.0}",
            "c = ConvTranspose <group = 2> (x, w, b)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,1,1,1] w = {1.0, 20.0},
          float[2] b = {0.5, -2.5}
        >
        {
          y = ConvTranspose <group = 2> (x, w, b)
        }
        "#);
    }

    #[test]
    fn gemm_scales_columns() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2] x", "float[N,2] y", "float[2,2] w = {1.0, 2.0, 3.0, 4.0}",
            "c = Gemm (x, w)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2,2] w = {1.0, 4.0, 3.0, 8.0},
          float[2] w_bias = {-0.5, -4.5}
        >
        {
          y = Gemm (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn a_following_operator_takes_it_where_the_one_before_cannot() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2,4,4] x", "float[N,2,4,4] y", "float[2,2,1,1] w = {1.0, 10.0, 100.0, 1000.0}",
            "r = Relu (x)\n n = BatchNormalization <epsilon = 1.0> (r, s, o, m, v)\n y = Conv (n, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,2,1,1] w = {1.0, 20.0, 100.0, 2000.0},
          float[2] w_bias = {-45.5, -4550.0}
        >
        {
          r = Relu (x)
          y = Conv (r, w, w_bias)
        }
        "#);
    }

    #[test]
    fn consecutive_normalizations_become_one() {
        insta::assert_snapshot!(check::<BnIntoConv>(&model(
            "float[N,2,4,4] x", "float[N,2,4,4] y", "float[2] s2 = {2.0, 6.0}",
            "r = Relu (x)\n n = BatchNormalization <epsilon = 1.0> (r, s2, o, m, v)\n y = BatchNormalization <epsilon = 1.0> (n, s, o, m, v)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <
          float[2] m = {1.0, 2.0},
          float[2] v = {3.0, 8.0},
          float[2] s2 = {2.0, 12.0},
          float[2] o = {0.0, -5.5}
        >
        {
          r = Relu (x)
          y = BatchNormalization <epsilon = 1.0> (r, s2, o, m, v)
        }
        "#);
    }

    #[test]
    fn a_product_takes_it_where_it_leaves_no_offset() {
        let text = |offset: &str| {
            format!(
                r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <float[2,2] w = {{1.0, 2.0, 3.0, 4.0}}, float[2] s = {{2.0, 6.0}}, float[2] o = {{{offset}}}, float[2] m = {{0, 0}}, float[2] v = {{3.0, 8.0}}>
            {{ c = MatMul (x, w) y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v) }}"#
            )
        };
        insta::assert_snapshot!(check::<BnIntoConv>(&text("0.0, 0.0")), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2,2] w = {1.0, 4.0, 3.0, 8.0}
        >
        {
          y = MatMul (x, w)
        }
        "#);
        assert!(refusals::<BnIntoConv>(&text("0.0, 1.0")).is_empty());
    }

    #[test]
    fn refuses_weights_that_leave_the_range() {
        let large = model(
            "float[N,1,4,4] x",
            "float[N,2,4,4] y",
            "float[2,1,1,1] w = {1.0, 2e38}",
            "c = Conv (x, w)\n y = BatchNormalization <epsilon = 1.0> (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&large), ["a folded weight or offset is not finite in float"]);
    }

    #[test]
    fn refuses_other_readers_and_weights_that_can_be_overridden() {
        let shared = model(
            "float[N,1,4,4] x",
            "float[N,2,4,4] y, float[N,2,4,4] c",
            "float[2,1,1,1] w = {1.0, 10.0}",
            "c = Conv (x, w)\n y = BatchNormalization (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&shared), [r#""c" has other readers or is a graph output"#]);
        let overridable = model(
            "float[N,1,4,4] x, float[2,1,1,1] w",
            "float[N,2,4,4] y",
            "float[2] unused = {1.0, 10.0}",
            "c = Conv (x, w)\n y = BatchNormalization (c, s, o, m, v)",
        );
        assert_eq!(refusals::<BnIntoConv>(&overridable), [r#"the weight "w" is no constant"#]);
    }
}
