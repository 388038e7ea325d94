//! The built-in rules for norms in parts, over several axes, and over channels and groups; and what they refuse.

use super::Fuse;
use crate::{
    Target::{self, Generic, OnnxruntimeCpu, Tensorrt},
    testing::{check_for, refusals_for},
};

const CONSTANTS: &str = "float one = {1.0}, float two = {2.0}, float eps = {1e-5}, float[4] s = {1.0, 2.0, 3.0, 4.0}, \
    float[4] b = {0.5, 0.5, 0.5, 0.5}, float[2,4] s2 = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}, float[2,4] b2 = {0.5}, \
    float[4,1,1] sc = {1.0, 2.0, 3.0, 4.0}, float[1,4,1,1] bc = {0.1, 0.2, 0.3, 0.4}, float[1,1,4] wide = {1.0, 2.0, 3.0, 4.0}, \
    float[2] ones = {1.0, 1.0}, float[2] zeros = {0.0, 0.0}, int64[3] groups = {0, 2, -1}, int64[4] back = {0, 4, 2, 4}, \
    int64[3] flat = {0, 4, -1}";

fn model(opset: u32, nodes: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,4,2,4] x, float[4] p) => (float[N,4,2,4] y) <{CONSTANTS}> {{ {nodes} }}"#
    )
}

/// The nodes that are left, and the constants that are new.
fn fused(target: Target, opset: u32, nodes: &str) -> String {
    let text = check_for(Fuse::default(), target, &model(opset, nodes));
    let new: Vec<&str> =
        text.lines().map(str::trim).filter(|l| l.starts_with("float[") && l.contains("_constant")).collect();
    let body = text.rsplit_once("{\n").map_or("", |(_, body)| body).trim().trim_end_matches('}');
    format!("{}\n{}", new.join("\n"), body.lines().map(str::trim).collect::<Vec<_>>().join("\n")).trim().to_owned()
}

fn refused(target: Target, opset: u32, nodes: &str) -> String {
    refusals_for(Fuse::default(), target, &model(opset, nodes)).join("; ")
}

/// What every norm with a mean begins with.
fn moments(axes: &str, end: &str) -> String {
    format!(
        "m = ReduceMean <axes = {axes}> (x) d = Sub (x, m) q = Mul (d, d) v = ReduceMean <axes = {axes}> (q) \
        w = Add (v, eps) r = Sqrt (w) {end}"
    )
}

#[test]
fn layer_norm_in_parts() {
    insta::assert_snapshot!(fused(Generic, 17, &moments("[-1]", "y = Div (d, r)")), @"
    float[4] y_constant = {1.0, 1.0, 1.0, 1.0}
    y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, y_constant)
    ");
    insta::assert_snapshot!(fused(Generic, 17, &moments("[3]", "i = Reciprocal (r) n = Mul (d, i) y = Mul (n, p)")), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, p)");
    insta::assert_snapshot!(fused(Tensorrt, 17, &moments("[-1]", "n = Div (d, r) y = Add (n, b)")), @"
    float[4] n_constant = {1.0, 1.0, 1.0, 1.0}
    y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, n_constant, b)
    ");
    insta::assert_snapshot!(fused(Generic, 17, &moments("[-1]", "n = Div (d, r) k = Mul (n, s) y = Add (k, b)")), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, s, b)");
    // A modulation by what the model computes stays.
    insta::assert_snapshot!(fused(Generic, 17, &moments("[-1]", "n = Div (d, r) k = Mul (n, two) y = Add (k, x)")), @"
    float[4] n_constant = {1.0, 1.0, 1.0, 1.0}
    n = LayerNormalization <axis = -1, epsilon = 1e-5> (x, n_constant)
    k = Mul (n, two)
    y = Add (k, x)
    ");
    insta::assert_snapshot!(refused(Generic, 16, &moments("[-1]", "y = Div (d, r)")), @r#"instance-norm: the axes [-1] are not those behind the channels; layer-norm-plain: LayerNormalization exists from opset 17 on; raise-opset raises it; rms-norm-plain: "d" is a difference, so that this may be a part of LayerNormalization"#);
    insta::assert_snapshot!(refused(Generic, 17, &moments("[1]", "y = Div (d, r)")), @r#"instance-norm: the axes [-3] are not those behind the channels; layer-norm-plain: the axes [-3] are not the last one; rms-norm-plain: "d" is a difference, so that this may be a part of LayerNormalization"#);
    insta::assert_snapshot!(refused(Generic, 17, &moments("[-1]", "k = Div (d, r) y = Mul (k, r)")), @r#"instance-norm: "r" is also read by Mul making "y"; layer-norm-plain: "r" is also read by Mul making "y"; rms-norm-plain: "r" is also read by Mul making "y"; rms-norm: "d" is a difference, so that this may be a part of LayerNormalization"#);
}

#[test]
fn layer_norm_over_several_axes() {
    let three = |nodes: &str| model(17, nodes).replace("float[N,4,2,4]", "float[N,2,4]");
    let end = "n = Div (d, r) k = Mul (n, s2) y = Add (k, b2)";
    let text = check_for(Fuse::default(), Generic, &three(&moments("[1, 2]", end)));
    assert!(text.contains("y = LayerNormalization <axis = -2, epsilon = 1e-5> (x, s2, b2)"), "{text}");
    let reasons =
        |axes: &str, end: &str| refusals_for(Fuse::default(), Generic, &three(&moments(axes, end))).join("; ");
    insta::assert_snapshot!(reasons("[0, 2]", end), @r#"instance-norm: the axes [-3, -1] are not those behind the channels; layer-norm-plain: the axes [-3, -1] are not the last one; rms-norm-plain: "d" is a difference, so that this may be a part of LayerNormalization; rms-norm: "d" is a difference, so that this may be a part of LayerNormalization; layer-norm: the axes [-3, -1] are not the last one; layer-norm-axes: the axes [-3, -1] are not the last ones, or only one"#);
    insta::assert_snapshot!(reasons("[1, 2]", "n = Div (d, r) k = Mul (n, s) y = Add (k, b)"), @r#"instance-norm: the axes [-2, -1] are not those behind the channels; layer-norm-plain: the axes [-2, -1] are not the last one; rms-norm-plain: "d" is a difference, so that this may be a part of LayerNormalization; rms-norm: "d" is a difference, so that this may be a part of LayerNormalization; layer-norm: the axes [-2, -1] are not the last one; layer-norm-axes: the scale has the shape [4]"#);
}

#[test]
fn norms_of_float16_with_statistics_in_float() {
    let half = |opset: u32, nodes: &str| {
        format!(
            r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float16[N,4] x) => (float16[N,4] y)
            <float16[4] s = {{1.0, 2.0, 3.0, 4.0}}, float16[4] b = {{0.5, 0.5, 0.5, 0.5}}, float eps = {{1e-5}}, float two = {{2.0}}, int64[1] last = {{-1}}> {{ {nodes} }}"#
        )
    };
    let after = |target, text: &str| {
        let text = check_for(Fuse::default(), target, text);
        text.rsplit_once("{\n").map_or("", |(_, b)| b).trim().trim_end_matches('}').trim().to_owned()
    };
    let layer = "f = Cast <to = 1> (x) m = ReduceMean <axes = [-1]> (f) d = Sub (f, m) q = Pow (d, two) v = ReduceMean <axes = [-1]> (q) \
        w = Add (v, eps) r = Sqrt (w) n = Div (d, r) c = Cast <to = 10> (n) k = Mul (c, s) y = Add (k, b)";
    insta::assert_snapshot!(after(Generic, &half(17, layer)), @"y = LayerNormalization <axis = -1, epsilon = 1e-5> (x, s, b)");
    let llama = "f = Cast <to = 1> (x) q = Pow (f, two) v = ReduceMean <axes = [-1]> (q) w = Add (v, eps) r = Sqrt (w) i = Reciprocal (r) \
        n = Mul (f, i) c = Cast <to = 10> (n) y = Mul (s, c)";
    insta::assert_snapshot!(after(OnnxruntimeCpu, &half(17, llama)), @"y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (x, s)");
    let new = llama.replace("<axes = [-1]> (q)", "(q, last)");
    insta::assert_snapshot!(after(Generic, &half(23, &new)), @"y = RMSNormalization <axis = -1, epsilon = 1e-5> (x, s)");
    let other =
        half(17, &llama.replace("y = Mul (s, c)", "z = Cast <to = 16> (n) c2 = Cast <to = 10> (z) y = Mul (s, c2)"));
    let other = other.replace("c = Cast <to = 10> (n) ", "");
    insta::assert_snapshot!(after(OnnxruntimeCpu, &other), @"
    f = Cast <to = 1> (x)
      n = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (f, n_constant)
      z = Cast <to = 16> (n)
      c2 = Cast <to = 10> (z)
      y = Mul (s, c2)
    ");
}

#[test]
fn rms_norm_in_parts() {
    let root = "q = Mul (x, x) v = ReduceMean <axes = [-1]> (q) w = Add (v, eps) r = Sqrt (w) i = Div (one, r)";
    insta::assert_snapshot!(fused(OnnxruntimeCpu, 17, &format!("{root} y = Mul (x, i)")), @"
    float[4] y_constant = {1.0, 1.0, 1.0, 1.0}
    y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (x, y_constant)
    ");
    insta::assert_snapshot!(fused(OnnxruntimeCpu, 17, &format!("{root} n = Mul (x, i) y = Mul (n, s)")), @"y = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (x, s)");
    insta::assert_snapshot!(refused(Generic, 17, &format!("{root} y = Mul (x, i)")), @"rms-norm-plain: RMSNormalization exists from opset 23 on; raise-opset raises it");
}

#[test]
fn instance_norm() {
    let affine = "n = Div (d, r) k = Mul (n, sc) y = Add (k, bc)";
    insta::assert_snapshot!(fused(Generic, 11, &moments("[2, 3]", affine)), @"
    float[4] k_constant = {1.0, 2.0, 3.0, 4.0},
    float[4] y_constant = {0.1, 0.2, 0.3, 0.4}
    y = InstanceNormalization <epsilon = 1e-5> (x, k_constant, y_constant)
    ");
    insta::assert_snapshot!(fused(OnnxruntimeCpu, 11, &moments("[-2, -1]", "y = Div (d, r)")), @"
    float[4] y_constant = {1.0, 1.0, 1.0, 1.0},
    float[4] y_constant_1 = {0.0, 0.0, 0.0, 0.0}
    y = InstanceNormalization <epsilon = 1e-5> (x, y_constant, y_constant_1)
    ");
    insta::assert_snapshot!(refused(Generic, 11, &moments("[1, 2]", affine)), @r#"instance-norm: the axes [-3, -2] are not those behind the channels; layer-norm-plain: the axes [-3, -2] are not the last one; rms-norm-plain: "d" is a difference, so that this may be a part of LayerNormalization; rms-norm: "d" is a difference, so that this may be a part of LayerNormalization; layer-norm: the axes [-3, -2] are not the last one; layer-norm-axes: the axes [-3, -2] are not the last ones, or only one"#);
    let wide = "n = InstanceNormalization (x, s, b) y = Mul (n, wide)";
    insta::assert_snapshot!(refused(Generic, 11, wide), @"instance-norm-scale: the factor has the shape [1, 1, 4], not one number per channel");
    let given = "n = InstanceNormalization (x, p, b) y = Mul (n, sc)";
    assert_eq!(refused(Generic, 11, given), "");
    let read = "n = InstanceNormalization (x, s, b) k = Mul (n, sc) y = Add (k, n)";
    insta::assert_snapshot!(refused(Generic, 11, read), @r#"instance-norm-scale: "n" is also read by Add making "y""#);
}

#[test]
fn group_norm() {
    let torch = |scale: &str| {
        format!(
            "g = Reshape (x, groups) i = InstanceNormalization (g, ones, zeros) n = Reshape (i, back) k = Mul (n, {scale}) y = Add (k, bc)"
        )
    };
    insta::assert_snapshot!(fused(Generic, 21, &torch("sc")), @"
    float[4] y_constant = {1.0, 2.0, 3.0, 4.0},
    float[4] y_constant_1 = {0.1, 0.2, 0.3, 0.4}
    y = GroupNormalization <epsilon = 1e-5, num_groups = 2> (x, y_constant, y_constant_1)
    ");
    insta::assert_snapshot!(fused(Tensorrt, 21, &torch("sc")), @"
    float[4] y_constant = {1.0, 2.0, 3.0, 4.0},
    float[4] y_constant_1 = {0.1, 0.2, 0.3, 0.4}
    y = GroupNormalization <epsilon = 1e-5, num_groups = 2> (x, y_constant, y_constant_1)
    ");
    insta::assert_snapshot!(refused(OnnxruntimeCpu, 21, &torch("sc")), @"group-norm: it has no form for target onnxruntime-cpu");
    insta::assert_snapshot!(refused(Generic, 18, &torch("sc")), @"group-norm: GroupNormalization with a factor per channel exists from opset 21 on; raise-opset raises it");
    insta::assert_snapshot!(refused(Generic, 21, &torch("s")), @"group-norm: not known whether elements(scale) == dim(x, 1) and dim(scale, 1 - rank(x)) == dim(x, 1): there is no axis -3 of 1");
    let scaled = torch("sc").replace("zeros", "ones");
    insta::assert_snapshot!(refused(Generic, 21, &scaled), @r#"group-norm: "ones" is not zero"#);
}
