//! Fold factors and offsets per channel into the linear operator before or behind them.
//!
//! Before     c = Conv (x, w, b?);  y = Mul, Div, Add or Sub (c, k) or Neg (c)  ·  m = Mul (x, k);  y = Conv (m, w, b?)
//! After      y = Conv (x, w', b')        w' = w·k per output or input channel, b' = b·k or b + k
//! When       Conv, ConvTranspose, Gemm, MatMul, or a normalization with scale and offset per channel; k is a scalar or one
//!            number per channel; operators that keep channels may stand between the two, for k > 0 also Relu, LeakyRelu
//!            and MaxPool, and for factors an addition of constants, which are multiplied too
//! Refuses    what is between has other readers or is a graph output · an operand that is no constant · a weight that is
//!            to be multiplied and has other readers · a bias that is not one per channel · an offset before a convolution
//!            that pads, or at a MatMul, which has no bias · factors at the end of a normalization or Gelu that is spelled out ·
//!            results that are not finite or lose precision in the weight's type
//! Numerics   Reassociated; computed in 64 bits and rounded once
//! Reference  linearity; a max(0, x) = max(0, a x) for a > 0

use planish_ir::{Node, NodeId, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fold_affine;
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScaleIntoLinear {}

/// What is folded.
const SCALES: &[&str] = &["Add", "Div", "Mul", "Neg", "Sub"];

impl Pass for ScaleIntoLinear {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for ScaleIntoLinear {
    fn roots(&self) -> &'static [&'static str] {
        &["Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "Neg", "Sub"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        match SCALES.contains(&node.op.name.as_str()) {
            true => fold_affine::into_linear(cx, id, node),
            false => fold_affine::into_reader(cx, id, node, SCALES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(inputs: &str, outputs: &str, constants: &str, nodes: &str) -> String {
        format!(r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }}"#)
    }

    #[test]
    fn conv_takes_what_follows() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,1,4,4] x", "float[N,2,4,4] y",
            "float[2,1,1,1] w = {1.0, 10.0}, float[2,1,1] k = {2.0, 4.0}, float t = {0.5}, float[1,2,1,1] d = {2.0, 4.0}",
            "[conv] c = Conv (x, w)\n m = Mul (k, c)\n a = Sub (t, m)\n n = Neg (a)\n y = Div (n, d)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2,4,4] y)
        <
          float[2,1,1,1] w = {1.0, 10.0},
          float[2] w_bias = {-0.25, -0.125}
        >
        {
          [conv] y = Conv (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn conv_takes_what_precedes() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,2,4,4] x", "float[N,2,2,2] y",
            "float[2,1,3,3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2}, float[2,1,1] k = {2.0, 4.0}, float[1] t = {0.5}",
            "m = Mul (x, k)\n a = Add (m, t)\n y = Conv <group = 2> (a, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2,4,4] x) => (float[N,2,2,2] y)
        <
          float[2] w_bias = {4.5, 9.0},
          float[2,1,3,3] w  # 69c4e9af48a6, 18 elements
        >
        {
          y = Conv <group = 2> (x, w, w_bias)
        }
        "#);
    }

    #[test]
    fn gemm_with_alpha_and_beta() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,2] x", "float[N,2] y",
            "float[2,2] w = {1.0, 2.0, 3.0, 4.0}, float[1,2] b = {1.0, 2.0}, float[2] k = {2.0, 4.0}, float[2] t = {0.5, 0.25}",
            "a = Add (x, t)\n c = Gemm <alpha = 2.0, beta = 3.0, transB = 1> (a, w, b)\n y = Mul (c, k)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2,2] w = {4.0, 8.0, 24.0, 32.0},
          float[2] b = {10.0, 44.0}
        >
        {
          y = Gemm <transB = 1> (x, w, b)
        }
        "#);
    }

    #[test]
    fn over_a_bias_a_reshape_and_a_transpose() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[B,S,4] x", "float[B,2,S,2] y",
            "float[4,4] w = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}, float k = {0.5}, int64[4] s = {0, 0, 2, 2}",
            "c = MatMul (x, w)\n a = Add (b, c)\n r = Reshape (a, s)\n t = Transpose <perm = [0, 2, 1, 3]> (r)\n y = Mul (t, k)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[B,S,4] x) => (float[B,2,S,2] y)
        <
          int64[4] s = {0, 0, 2, 2},
          float[4,4] w = {0.5, 1.0, 1.5, 2.0, 0.5, 1.0, 1.5, 2.0, 0.5, 1.0, 1.5, 2.0, 0.5, 1.0, 1.5, 2.0},
          float[4] b = {0.5, 1.0, 1.5, 2.0}
        >
        {
          c = MatMul (x, w)
          a = Add (b, c)
          r = Reshape (a, s)
          y = Transpose <perm = [0, 2, 1, 3]> (r)
        }
        "#);
    }

    #[test]
    fn channels_are_followed_over_relu_pool_and_flatten() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,1,4,4] x", "float[N,2] y",
            "float[2,1,1,1] w = {1.0, 10.0}, float[2] k = {2.0, 4.0}",
            "c = Conv (x, w)\n r = Relu (c)\n p = GlobalMaxPool (r)\n f = Flatten (p)\n y = Mul (f, k)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2] y)
        <
          float[2,1,1,1] w = {2.0, 40.0}
        >
        {
          c = Conv (x, w)
          r = Relu (c)
          p = GlobalMaxPool (r)
          y = Flatten (p)
        }
        "#);
        // The sign of a factor turns what Relu cuts off, and so does an offset.
        for k in ["-2.0, 4.0", "0.0, 4.0"] {
            let text = model(
                "float[N,1,4,4] x",
                "float[N,2,4,4] y",
                &format!("float[2,1,1,1] w = {{1.0, 10.0}}, float[2,1,1] k = {{{k}}}"),
                "c = Conv (x, w)\n r = Relu (c)\n y = Mul (r, k)",
            );
            assert!(refusals::<ScaleIntoLinear>(&text).is_empty());
        }
    }

    #[test]
    fn normalizations_take_scale_and_offset() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,3,2] x", "float[N,3,2] y",
            "float[2] g = {1.0, 10.0}, float[2] k = {2.0, 4.0}, float[2] t = {1.0, 1.0}",
            "c = LayerNormalization (x, g)\n m = Mul (c, k)\n y = Add (m, t)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,2] x) => (float[N,3,2] y)
        <
          float[2] g = {2.0, 40.0},
          float[2] g_bias = {1.0, 1.0}
        >
        {
          y = LayerNormalization (x, g, g_bias)
        }
        "#);
    }

    #[test]
    fn an_offset_leaves_a_shared_weight_alone() {
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&model(
            "float[N,1,4,4] x", "float[N,2,4,4] y, float[N,2,4,4] z",
            "float[2,1,1,1] w = {1.0, 10.0}, float[2,1,1] k = {2.0, 4.0}",
            "c = Conv (x, w)\n y = Add (c, k)\n z = Conv (x, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z)
        <
          float[2,1,1,1] w = {1.0, 10.0},
          float[2] w_bias = {2.0, 4.0}
        >
        {
          y = Conv (x, w, w_bias)
          z = Conv (x, w)
        }
        "#);
    }

    fn conv(constants: &str, nodes: &str) -> Vec<String> {
        refusals::<ScaleIntoLinear>(&model(
            "float[N,1,4,4] x",
            "float[N,2,4,4] y, float[N,2,4,4] z",
            &format!("float[2,1,1,1] w = {{1.0, 10.0}}, {constants}"),
            nodes,
        ))
    }

    #[test]
    fn refuses_what_would_change_something_else() {
        let k = "float[2,1,1] k = {2.0, 4.0}";
        assert_eq!(
            conv(k, "c = Conv (x, w)\n y = Mul (c, k)\n z = Conv (x, w)"),
            [r#"the weight "w" has other readers, which would need a copy"#]
        );
        assert_eq!(conv(k, "z = Conv (x, w)\n y = Mul (z, k)"), [r#""z" has other readers or is a graph output"#]);
    }

    #[test]
    fn refuses_constants_that_are_not_per_channel() {
        let y = "c = Conv (x, w)\n y = Mul (c, k)\n z = Identity (y)";
        assert_eq!(
            conv("float[4] k = {1, 2, 3, 4}", y),
            ["its constant varies along another axis than that of the channels"]
        );
        assert!(conv("float[2,1,4] k = {1, 2, 3, 4, 5, 6, 7, 8}", y).is_empty());
        assert_eq!(conv("float[1,1,1,1,1] k = {2}", y), ["its constant has more axes than the operand provably has"]);
        assert_eq!(conv("float[3,1,1] k = {1, 2, 3}", y), ["3 constants do not fit 2 channels"]);
        assert_eq!(conv("float k = {3e38}", y), ["a folded weight or offset is not finite in float"]);
    }

    #[test]
    fn refuses_division_by_zero() {
        assert_eq!(
            conv("float k = {0.0}", "c = Conv (x, w)\n y = Div (c, k)\n z = Identity (y)"),
            ["a factor or offset is not finite in some channel"]
        );
    }

    #[test]
    fn refuses_an_offset_under_padding() {
        assert_eq!(
            conv("float t = {1.0}", "a = Add (x, t)\n y = Conv <pads = [1, 1, 1, 1]> (a, w)\n z = Identity (y)"),
            ["the convolution pads with zeros, which the offset does not reach"]
        );
    }

    #[test]
    fn refuses_the_end_of_a_normalization() {
        let text = model(
            "float[N,4] x, float[N,1] v",
            "float[N,2] y",
            "float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] g = {1, 2, 3, 4}",
            "s = Sqrt (v)\n d = Div (x, s)\n m = Mul (d, g)\n y = MatMul (m, w)",
        );
        assert_eq!(
            refusals::<ScaleIntoLinear>(&text),
            ["it is the end of a normalization, which is worth more in one piece"]
        );
    }

    #[test]
    fn leaves_constants_that_broadcast_and_groups_that_do_not_divide() {
        let wide = model(
            "float[N,1,4,4] x",
            "float[N,1,4,4] y",
            "float[1,3,1,1] w = {1, 2, 3}, float[3,1,1] k = {2.0, 4.0, 6.0}",
            "m = Mul (x, k)\n y = Conv (m, w)",
        );
        assert!(refusals::<ScaleIntoLinear>(&wide).is_empty());
        let deep = model(
            "float[1,4,4] x",
            "float[1,1,4,4] y",
            "float[1,1,1,1] w = {1}, float[1,1,1,1] k = {2.0}",
            "m = Mul (x, k)\n y = Conv (m, w)",
        );
        assert!(refusals::<ScaleIntoLinear>(&deep).is_empty());
        let hostile = model(
            "float[N,1,4,4] x",
            "float[N,C,4,4] y",
            "float[1,2,1,1] w = {1, 2}, float k = {2.0}",
            "m = ConvTranspose <group = 1099511627776> (x, w)\n y = Add (m, k)",
        );
        assert!(refusals::<ScaleIntoLinear>(&hostile).is_empty());
    }

    #[test]
    fn refuses_the_end_of_a_gelu() {
        let text = model(
            "float[N,4] x",
            "float[N,2] y",
            "float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float one = {1.0}, float half = {0.5}, float k = {0.7}",
            "r = Mul (x, k)\n e = Erf (r)\n a = Add (e, one)\n p = Mul (x, a)\n m = Mul (p, half)\n y = MatMul (m, w)",
        );
        assert_eq!(refusals::<ScaleIntoLinear>(&text), ["it is the end of a Gelu, which is worth more in one piece"]);
    }

    #[test]
    fn leaves_functions_of_the_model_and_integers_alone() {
        let local = r#"<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N,2] x) => (float[N,2] y)
            <float[2,2] w = {1, 2, 3, 4}, float k = {0.5}> { c = local.MatMul (x, w)  y = Mul (c, k) }
            <opset_import: ["" : 17], domain: "local"> MatMul (a, b) => (c) { c = MatMul (b, a) }"#;
        assert!(refusals::<ScaleIntoLinear>(local).is_empty());
        let integers = model(
            "int32[N,2] x",
            "int32[N,2] y",
            "int32[2,2] w = {1, 2, 3, 4}, int32 k = {3}",
            "c = MatMul (x, w)\n y = Mul (c, k)",
        );
        assert!(refusals::<ScaleIntoLinear>(&integers).is_empty());
    }

    #[test]
    fn half_precision_keeps_its_precision() {
        let text = |k: &str| {
            model(
                "float16[N,2] x",
                "float16[N,2] y",
                &format!("float16[2,2] w = {{15360, 16384, 16896, 17408}}, float16 k = {{{k}}}"),
                "c = MatMul (x, w)\n y = Mul (c, k)",
            )
        };
        // Written as bits: 1, 2, 3, 4 times a half; then 0.0001 and 60000.
        insta::assert_snapshot!(check::<ScaleIntoLinear>(&text("14336")), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float16[N,2] x) => (float16[N,2] y)
        <
          float16[2,2] w = {14336, 15360, 15872, 16384}  # 0.5, 1.0, 1.5, 2.0
        >
        {
          y = MatMul (x, w)
        }
        "#);
        assert_eq!(
            refusals::<ScaleIntoLinear>(&text("1678")),
            ["folded weights would be so small that float16 rounds them coarsely"]
        );
        assert_eq!(refusals::<ScaleIntoLinear>(&text("31571")), ["a folded weight or offset is not finite in float16"]);
    }
}
