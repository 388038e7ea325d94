//! The built-in rules, each in the dialects that it is for, and what it refuses.

use super::Fuse;
use crate::{
    Target::{self, Generic, OnnxruntimeCpu, Tensorrt},
    testing::{check_for, explained, refusals_for},
};

const CONSTANTS: &str = "float root2 = {1.4142135}, float inverse = {0.70710677}, float one = {1.0}, float half = {0.5}, \
    float two = {2.0}, float three = {3.0}, float six = {6.0}, float sixth = {0.16666667}, float zero = {0.0}, \
    float cubic = {0.044715}, float pi = {0.7978846}, float[1] eps = {1e-5}, int64[1] last = {-1}, \
    float[4] s = {1.0, 2.0, 3.0, 4.0}, float[4] b = {0.5, 0.5, 0.5, 0.5}";

fn model(opset: u32, nodes: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,4] x) => (float[N,4] y) <{CONSTANTS}> {{ {nodes} }}"#
    )
}

/// The nodes that are left.
fn fused(target: Target, opset: u32, nodes: &str) -> String {
    let text = check_for(Fuse::default(), target, &model(opset, nodes));
    let body = text.split_once('{').and_then(|(_, t)| if t.contains('{') { t.rsplit_once('{') } else { Some(("", t)) });
    body.map_or("", |(_, b)| b).trim().trim_end_matches('}').trim().to_owned()
}

fn refused(target: Target, opset: u32, nodes: &str) -> Vec<String> {
    refusals_for(Fuse::default(), target, &model(opset, nodes))
}

#[test]
fn gelu_with_erf_in_every_order() {
    for nodes in [
        "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)",
        "a = Mul (inverse, x) e = Erf (a) f = Add (one, e) g = Mul (f, half) y = Mul (x, g)",
        "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (half, x) y = Mul (f, g)",
        "a = Div (x, root2) e = Erf (a) f = Mul (e, half) g = Add (f, half) y = Mul (g, x)",
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 17, nodes), "y = com.microsoft.Gelu (x)", "{nodes}");
        assert_eq!(fused(Generic, 20, nodes), "y = Gelu (x)", "{nodes}");
    }
}

#[test]
fn the_whole_model_imports_what_it_needs() {
    let nodes = "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (x, f) [last] y = Mul (g, half)";
    insta::assert_snapshot!(check_for(Fuse::default(), OnnxruntimeCpu, &model(17, nodes)), @r#"
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,4] x) => (float[N,4] y)
    <
      float inverse = {0.70710677},
      float two = {2.0},
      float three = {3.0},
      float six = {6.0},
      float sixth = {0.16666667},
      float zero = {0.0},
      float cubic = {0.044715},
      float pi = {0.7978846},
      float[1] eps = {1e-5},
      int64[1] last = {-1},
      float[4] s = {1.0, 2.0, 3.0, 4.0},
      float[4] b = {0.5, 0.5, 0.5, 0.5}
    >
    {
      [last] y = com.microsoft.Gelu (x)
    }
    "#);
}

#[test]
fn gelu_refuses() {
    let young = "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)";
    insta::assert_debug_snapshot!(refused(Generic, 17, young), @r#"
    [
        "gelu-erf: Gelu exists from opset 20 on; raise-opset raises it",
    ]
    "#);
    let other = "h = Add (half, one) a = Div (x, h) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)";
    insta::assert_debug_snapshot!(refused(Generic, 20, other), @"[]");
    let inexact = "a = Div (x, two) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)";
    insta::assert_debug_snapshot!(explained(Fuse::default(), Generic, &model(20, inexact)), @r#"
    [
        "gelu-erf: matched Mul and Add, but \"e\" is made by Erf, not by Mul; gelu-tanh: matched Mul and Add, but \"e\" is made by Erf, not by Mul",
        "gelu-erf: matched Mul, Mul, Add, Erf and Div, but the constant is 2, not 1.41421356; gelu-tanh: matched Mul, Mul and Add, but \"e\" is made by Erf, not by Tanh; hard-swish: matched Mul and Mul, but \"f\" is made by Add, not by Clip; rms-norm: matched Mul and Mul, but \"f\" is made by Add, not by Reciprocal",
    ]
    "#);
}

#[test]
fn gelu_with_tanh_in_every_order() {
    for nodes in [
        "c = Pow (x, three) d = Mul (c, cubic) i = Add (x, d) j = Mul (i, pi) t = Tanh (j) u = Add (t, one) \
            h = Mul (x, half) y = Mul (h, u)",
        "p = Mul (x, x) c = Mul (x, p) d = Mul (cubic, c) i = Add (x, d) j = Mul (pi, i) t = Tanh (j) u = Add (one, t) \
            h = Mul (u, half) y = Mul (x, h)",
        "p = Mul (x, cubic) q = Mul (p, x) k = Add (q, one) r = Mul (x, pi) j = Mul (r, k) t = Tanh (j) u = Add (one, t) \
            h = Mul (x, half) y = Mul (u, h)",
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 17, nodes), "y = com.microsoft.FastGelu (x)", "{nodes}");
        assert_eq!(fused(Generic, 20, nodes), r#"y = Gelu <approximate = "tanh"> (x)"#, "{nodes}");
    }
}

#[test]
fn hard_swish() {
    for nodes in [
        "a = Add (x, three) c = Clip (a, zero, six) m = Mul (x, c) y = Div (m, six)",
        "a = Add (x, three) c = Clip (a, zero, six) m = Mul (c, sixth) y = Mul (x, m)",
        "c = HardSigmoid <alpha = 0.16666667> (x) y = Mul (c, x)",
    ] {
        assert_eq!(fused(Generic, 17, nodes), "y = HardSwish (x)", "{nodes}");
        assert_eq!(
            refused(Generic, 13, nodes),
            ["hard-swish: HardSwish exists from opset 14 on; raise-opset raises it"]
        );
    }
    // Without the upper bound; and with another slope, which is the default.
    for nodes in
        ["a = Add (x, three) c = Clip (a, zero) m = Mul (x, c) y = Div (m, six)", "c = HardSigmoid (x) y = Mul (c, x)"]
    {
        assert!(refused(Generic, 17, nodes).is_empty());
    }
}

#[test]
fn silu_for_each_target() {
    let silu = "a = Sigmoid (x) y = Mul (a, x)";
    assert_eq!(fused(Generic, 24, silu), "y = Swish (x)");
    assert_eq!(fused(OnnxruntimeCpu, 17, silu), "y = com.microsoft.QuickGelu <alpha = 1.0> (x)");
    insta::assert_debug_snapshot!(refused(Generic, 17, silu), @r#"
    [
        "silu: Swish exists from opset 24 on; raise-opset raises it",
    ]
    "#);
    insta::assert_debug_snapshot!(refused(Tensorrt, 24, silu), @r#"
    [
        "silu: it has no form for target tensorrt",
    ]
    "#);
    let spelled = "n = Neg (x) e = Exp (n) d = Add (one, e) y = Div (x, d)";
    assert_eq!(fused(Generic, 24, spelled), "y = Swish (x)");
    let scaled = "f = Mul (x, two) a = Sigmoid (f) y = Mul (a, x)";
    assert_eq!(fused(Generic, 24, scaled), "y = Swish <alpha = 2.0> (x)");
}

#[test]
fn layer_norm_in_every_dialect_and_opset() {
    let torch = |mean: &str, more: &str| {
        format!(
            "m = ReduceMean {mean} d = Sub (x, m) q = Pow (d, two) v = ReduceMean {more} w = Add (v, eps) r = Sqrt (w) \
            n = Div (d, r) k = Mul (n, s) y = Add (k, b)"
        )
    };
    let old = torch("<axes = [-1]> (x)", "<axes = [-1]> (q)");
    let positive = torch("<axes = [1], keepdims = 1> (x)", "<axes = [-1]> (q)");
    for nodes in [old.as_str(), positive.as_str()] {
        insta::allow_duplicates! { insta::assert_snapshot!(fused(Generic, 17, nodes), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, s, b)"); }
    }
    let new = torch("(x, last)", "(q, last)");
    insta::assert_snapshot!(fused(Generic, 18, &new), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, s, b)");
    let tensorflow = "m = ReduceMean (x, last) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) w = Add (v, eps) \
        r = Sqrt (w) i = Reciprocal (r) f = Mul (i, s) e = Mul (x, f) g = Mul (m, f) h = Sub (b, g) y = Add (e, h)";
    insta::assert_snapshot!(fused(Generic, 18, tensorflow), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, s, b)");
}

#[test]
fn layer_norm_refuses() {
    let with = |axes: &str, keep: &str, scale: &str| {
        format!(
            "m = ReduceMean <axes = {axes}{keep}> (x) d = Sub (x, m) q = Pow (d, two) v = ReduceMean <axes = {axes}> (q) \
            w = Add (v, eps) r = Sqrt (w) n = Div (d, r) k = Mul (n, {scale}) y = Add (k, b)"
        )
    };
    insta::assert_debug_snapshot!(refused(Generic, 17, &with("[0]", "", "s")), @r#"
    [
        "instance-norm: the axes [-2] are not those behind the channels; layer-norm-plain: the axes [-2] are not the last one; rms-norm-plain: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "rms-norm: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "layer-norm: the axes [-2] are not the last one; layer-norm-axes: the axes [-2] are not the last ones, or only one",
    ]
    "#);
    insta::assert_debug_snapshot!(refused(Generic, 16, &with("[-1]", "", "half")), @r#"
    [
        "instance-norm: the axes [-1] are not those behind the channels; layer-norm-plain: LayerNormalization exists from opset 17 on; raise-opset raises it; rms-norm-plain: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "rms-norm: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "layer-norm: the scale has the shape [], the last axis 4 elements; layer-norm-axes: the axes [-1] are not the last ones, or only one",
    ]
    "#);
    insta::assert_debug_snapshot!(refused(Generic, 16, &with("[-1]", "", "s")), @r#"
    [
        "instance-norm: the axes [-1] are not those behind the channels; layer-norm-plain: LayerNormalization exists from opset 17 on; raise-opset raises it; rms-norm-plain: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "rms-norm: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "layer-norm: LayerNormalization exists from opset 17 on; raise-opset raises it; layer-norm-axes: the axes [-1] are not the last ones, or only one",
    ]
    "#);
    let read = with("[-1]", "", "s").replace("n = Div", "[reader] z = Abs (d) n = Div");
    let text = model(17, &read).replace("(float[N,4] y)", "(float[N,4] y, float[N,4] z)");
    insta::assert_debug_snapshot!(refusals_for(Fuse::default(), Generic, &text), @r#"
    [
        "instance-norm: \"d\" is also read by Abs \"reader\"; layer-norm-plain: \"d\" is also read by Abs \"reader\"; rms-norm-plain: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "rms-norm: \"d\" is a difference, so that this may be a part of LayerNormalization",
        "layer-norm: \"d\" is also read by Abs \"reader\"; layer-norm-axes: \"d\" is also read by Abs \"reader\"",
    ]
    "#);
}

#[test]
fn rms_norm_for_each_target() {
    let nodes = "q = Pow (x, two) v = ReduceMean <axes = [-1]> (q) w = Add (v, eps) r = Sqrt (w) i = Div (one, r) \
        n = Mul (x, i) y = Mul (s, n)";
    insta::assert_snapshot!(fused(OnnxruntimeCpu, 17, nodes), @"y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (x, s)");
    insta::assert_debug_snapshot!(refused(Generic, 17, nodes), @r#"
    [
        "rms-norm-plain: RMSNormalization exists from opset 23 on; raise-opset raises it",
        "rms-norm: RMSNormalization exists from opset 23 on; raise-opset raises it",
    ]
    "#);
    let new = nodes.replace("<axes = [-1]> (q)", "(q, last)");
    insta::assert_snapshot!(fused(Tensorrt, 23, &new), @"y = RMSNormalization <axis = -1, epsilon = 1e-5> (x, s)");
}

#[test]
fn float16_and_integers() {
    let half = r#"<ir_version: 10, opset_import: ["" : 20]> g (float16[N] x) => (float16[N] y)
        <float16 a = {1.4140625}, float16 one = {1.0}, float16 half = {0.5}> {
        d = Div (x, a) e = Erf (d) f = Add (e, one) g = Mul (x, f) y = Mul (g, half) }"#;
    insta::assert_snapshot!(check_for(Fuse::default(), Generic, half), @r#"
    <ir_version: 10, opset_import: ["" : 20]>
    g (float16[N] x) => (float16[N] y) {
      y = Gelu (x)
    }
    "#);
    // Nearly one is not one.
    let off = half.replace("one = {1.0}", "one = {1.0009766}");
    assert!(refusals_for(Fuse::default(), Generic, &off).is_empty());
}

#[test]
fn constants_that_can_be_overridden_or_stretch_the_shape() {
    let gelu = "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)";
    let input =
        model(20, gelu).replace("(float[N,4] x)", "(float[N,4] x, float half)").replace("float half = {0.5},", "");
    assert!(refusals_for(Fuse::default(), Generic, &input).is_empty());
    let stretched = model(20, gelu)
        .replace("float half = {0.5}", "float[2,1,1] half = {0.5, 0.5}")
        .replace("(float[N,4] y)", "(float[2,N,4] y)");
    insta::assert_debug_snapshot!(refusals_for(Fuse::default(), Generic, &stretched), @r#"
    [
        "gelu-erf: \"y\" is float[2,N,4], but would become float[N,4]",
    ]
    "#);
}

#[test]
fn functions_of_the_model_are_no_operators() {
    let gelu = "a = Div (x, root2) e = Erf (a) f = Add (e, one) g = Mul (x, f) y = Mul (g, half)";
    let shadowed = format!(
        r#"{} <domain: "com.microsoft", opset_import: ["" : 17]> Gelu (x) => (y) {{ y = Relu (x) }}"#,
        model(17, gelu).replace(r#"["" : 17]"#, r#"["" : 17, "com.microsoft" : 1]"#)
    );
    insta::assert_debug_snapshot!(refusals_for(Fuse::default(), OnnxruntimeCpu, &shadowed), @r#"
    [
        "the model defines com.microsoft::Gelu itself, so that the operator of this name cannot be called",
    ]
    "#);
}

#[test]
fn rules_are_selected_by_name() {
    let build = |config: serde_json::Value| crate::find("fuse").unwrap().configured(config);
    assert!(build(serde_json::json!({"only": ["silu"], "except": ["gelu-erf"]})).is_ok());
    insta::assert_snapshot!(build(serde_json::json!({"only": ["gelu-erv"]})).unwrap_err(), @"unknown rule `gelu-erv`; did you mean `gelu-erf`?");
}
