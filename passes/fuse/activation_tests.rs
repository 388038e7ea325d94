//! The built-in rules for activations, and what they refuse.

use super::Fuse;
use crate::{
    Target::{self, Generic, OnnxruntimeCpu, OnnxruntimeGpu, Tensorrt},
    testing::{check_for, refusals_for},
};

const CONSTANTS: &str = "float one = {1.0}, float zero = {0.0}, float half = {0.5}, float three = {3.0}, float six = {6.0}, \
    float sixth = {0.16666667}, float tenth = {0.1}, float minus = {-1.0}, float[3,1,1] w = {0.1, 0.2, 0.3}, \
    float[2,1,1,1] tall = {0.1, 0.1}, int64[1] last = {-1}, int64[1] channels = {1}";

fn model(opset: u32, nodes: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,3,H,W] x) => (float[N,3,H,W] y) <{CONSTANTS}> {{ {nodes} }}"#
    )
}

/// The nodes that are left.
fn fused(target: Target, opset: u32, nodes: &str) -> String {
    let text = check_for(Fuse::default(), target, &model(opset, nodes));
    let body = text.rsplit_once("{\n").map_or("", |(_, body)| body).trim().trim_end_matches('}');
    body.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn refused(target: Target, opset: u32, nodes: &str) -> String {
    refusals_for(Fuse::default(), target, &model(opset, nodes)).join("; ")
}

#[test]
fn mish() {
    for nodes in [
        "s = Softplus (x) t = Tanh (s) y = Mul (t, x)",
        "e = Exp (x) a = Add (one, e) l = Log (a) t = Tanh (l) y = Mul (x, t)",
    ] {
        assert_eq!(fused(Generic, 18, nodes), "y = Mish (x)");
        assert_eq!(fused(Tensorrt, 18, nodes), "y = Mish (x)");
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(Generic, 17, nodes), @"mish: Mish exists from opset 18 on; raise-opset raises it");
            insta::assert_snapshot!(refused(OnnxruntimeCpu, 18, nodes), @"mish: it has no form for target onnxruntime-cpu");
        }
    }
    insta::assert_snapshot!(refused(Generic, 18, "s = Softplus (x) t = Tanh (s) z = Abs (s) u = Mul (t, z) y = Mul (x, t)"), @r#"mish: "s" is also read by Abs making "z""#);
}

#[test]
fn sigmoid() {
    for nodes in [
        "n = Neg (x) e = Exp (n) a = Add (e, one) y = Div (one, a)",
        "n = Neg (x) e = Exp (n) a = Add (one, e) y = Reciprocal (a)",
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 13, nodes), "y = Sigmoid (x)");
    }
    assert_eq!(refused(Generic, 13, "n = Neg (x) e = Exp (n) a = Add (e, one) y = Div (three, a)"), "");
    insta::assert_snapshot!(refused(Generic, 13, "n = Neg (x) e = Exp (n) a = Add (e, one) d = Div (one, a) y = Mul (d, e)"), @r#"sigmoid: "e" is also read by Mul making "y""#);
}

#[test]
fn softmax() {
    let whole = |max: &str, sum: &str, end: &str| format!("{max} e = Exp (d) s = {sum} {end}");
    let last = "m = ReduceMax <axes = [-1]> (x) d = Sub (x, m)";
    let div = "y = Div (e, s)";
    for nodes in [
        whole(last, "ReduceSum (e, last)", div),
        whole(last, "ReduceSum (e, last)", "r = Reciprocal (s) y = Mul (r, e)"),
        "e = Exp (x) s = ReduceSum (e, last) y = Div (e, s)".to_owned(),
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 13, &nodes), "y = Softmax <axis = -1> (x)");
    }
    let old = whole(last, "ReduceSum <axes = [3]> (e)", div);
    assert_eq!(fused(Generic, 11, &old), "y = Softmax <axis = -1> (x)");
    insta::assert_snapshot!(refused(Generic, 10, &old.replace("[-1]", "[3]")), @"softmax: the axis [-1] is not the last one, or the opset below 11; Softmax along one axis alone exists from opset 13 on");
    let inner = whole("m = ReduceMax <axes = [1]> (x) d = Sub (x, m)", "ReduceSum (e, channels)", div);
    assert_eq!(fused(Generic, 13, &inner), "y = Softmax <axis = -3> (x)");
    insta::assert_snapshot!(refused(OnnxruntimeCpu, 13, &inner), @"softmax: the axis [-3] is not the last one, or the opset below 11");
    // The maximum along another axis does not cancel, so that the difference stays; two axes, or a dropped one, are something else.
    let crossed = whole("m = ReduceMax <axes = [1]> (x) d = Sub (x, m)", "ReduceSum (e, last)", div);
    insta::assert_snapshot!(fused(Generic, 13, &crossed), @"m = ReduceMax <axes = [1]> (x) d = Sub (x, m) y = Softmax <axis = -1> (d)");
    insta::assert_snapshot!(refused(Generic, 11, &whole(last, "ReduceSum <axes = [2, 3]> (e)", div)), @"softmax: the sum goes over the axes [-2, -1]");
    assert_eq!(refused(Generic, 11, "e = Exp (x) s = ReduceSum <axes = [1], keepdims = 0> (e) y = Div (e, s)"), "");
    // Others read the exponentials, or the difference, which stays.
    let read = whole(last, "ReduceSum (e, last)", "q = Div (e, s) y = Mul (q, e)");
    insta::assert_snapshot!(refused(Generic, 13, &read), @r#"softmax: "e" is also read by Mul making "y""#);
    let difference = whole(last, "ReduceSum (e, last)", "q = Div (e, s) y = Mul (q, d)");
    insta::assert_snapshot!(fused(Generic, 13, &difference), @"m = ReduceMax <axes = [-1]> (x) d = Sub (x, m) q = Softmax <axis = -1> (d) y = Mul (q, d)");
}

#[test]
fn log_softmax() {
    assert_eq!(fused(OnnxruntimeCpu, 11, "s = Softmax <axis = 3> (x) y = Log (s)"), "y = LogSoftmax <axis = -1> (x)");
    assert_eq!(fused(Generic, 13, "s = Softmax <axis = 1> (x) y = Log (s)"), "y = LogSoftmax <axis = -3> (x)");
    insta::assert_snapshot!(refused(Generic, 10, "s = Softmax <axis = 3> (x) y = Log (s)"), @"log-softmax: axes do not count from the end before opset 11");
    insta::assert_snapshot!(refused(Generic, 13, "s = Softmax <axis = 3> (x) l = Log (s) y = Mul (s, l)"), @r#"log-softmax: "s" is also read by Mul making "y""#);
    for nodes in [
        "m = ReduceMax <axes = [-1]> (x) d = Sub (x, m) e = Exp (d) s = ReduceSum (e, last) l = Log (s) y = Sub (d, l)",
        "e = Exp (x) s = ReduceSum (e, last) l = Log (s) y = Sub (x, l)",
        "l = ReduceLogSumExp <axes = [-1]> (x) y = Sub (x, l)",
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 17, nodes), "y = LogSoftmax <axis = -1> (x)");
    }
    let inner = "l = ReduceLogSumExp <axes = [1]> (x) y = Sub (x, l)";
    assert_eq!(fused(OnnxruntimeGpu, 17, inner), "y = LogSoftmax <axis = -3> (x)");
    insta::assert_snapshot!(refused(OnnxruntimeCpu, 17, inner), @"log-softmax-spelled: the axis [-3] is not the last one, or the opset below 11");
}

#[test]
fn clip() {
    for nodes in [
        "a = Max (x, zero) y = Min (a, six)",
        "a = Min (six, x) y = Max (zero, a)",
        "a = Relu (x) y = Min (a, six)",
        "a = Min (x, six) y = Relu (a)",
    ] {
        let text = fused(OnnxruntimeCpu, 13, nodes);
        assert!(text.starts_with("y = Clip (x, "), "{nodes}: {text}");
        assert_eq!(fused(Generic, 10, nodes), "y = Clip <max = 6.0, min = 0.0> (x)");
    }
    insta::assert_snapshot!(check_for(Fuse::default(), Generic, r#"<ir_version: 10, opset_import: ["" : 13]>
        g (double[N] x) => (double[N] y) <double low = {-0.1}, double high = {0.3}> { a = Max (x, low) y = Min (a, high) }"#), @r#"
    <ir_version: 10, opset_import: ["" : 13]>
    g (double[N] x) => (double[N] y)
    <
      double y_min = {-0.1},
      double y_max = {0.3}
    >
    {
      y = Clip (x, y_min, y_max)
    }
    "#);
    assert_eq!(
        fused(Generic, 10, "a = Relu (x) y = Clip <min = -1.0, max = 6.0> (a)"),
        "y = Clip <max = 6.0, min = 0.0> (x)"
    );
    assert_eq!(
        fused(Generic, 10, "a = Relu (x) y = Clip <min = 1.0, max = 6.0> (a)"),
        "y = Clip <max = 6.0, min = 1.0> (x)"
    );
    insta::assert_snapshot!(refused(Generic, 10, "a = Relu (x) y = Clip <min = -2.0, max = -1.0> (a)"), @"clip-after-relu: the bounds -2 and -1 leave nothing of what Relu makes");
    insta::assert_snapshot!(refused(Generic, 13, "a = Max (x, six) y = Min (a, zero)"), @"clip-min-max: the lower bound 6 is above the upper one 0");
    insta::assert_snapshot!(refused(Generic, 13, "a = Relu (x) y = Min (a, minus)"), @"clip-relu-min: the upper bound -1 is negative");
    insta::assert_snapshot!(refused(Generic, 13, "a = Max (x, w) y = Min (a, six)"), @r#"clip-min-max: "w" is no single number"#);
    insta::assert_snapshot!(refused(Generic, 13, "a = Relu (x) m = Min (a, six) y = Mul (m, a)"), @r#"clip-relu-min: "a" is also read by Mul making "y""#);
    assert_eq!(refused(Generic, 13, "a = Max (x, zero, one) y = Min (a, six)"), "");
    // With one more step it is HardSwish, however it is written.
    let swish = "a = Add (x, three) r = Relu (a) c = Min (r, six) s = Mul (x, sixth) y = Mul (s, c)";
    assert_eq!(fused(Generic, 14, swish), "y = HardSwish (x)");
    let divided = "a = Add (x, three) r = Max (zero, a) c = Min (r, six) s = Div (x, six) y = Mul (c, s)";
    assert_eq!(fused(Tensorrt, 14, divided), "y = HardSwish (x)");
}

#[test]
fn leaky_relu() {
    for nodes in [
        "s = Mul (x, tenth) y = Max (x, s)",
        "c = Greater (x, zero) s = Mul (tenth, x) y = Where (c, x, s)",
        "c = GreaterOrEqual (x, zero) s = Mul (tenth, x) y = Where (c, x, s)",
        "c = Less (x, zero) s = Mul (x, tenth) y = Where (c, s, x)",
        "p = Relu (x) n = Neg (x) r = Relu (n) s = Mul (r, tenth) y = Sub (p, s)",
        "p = Relu (x) m = Min (x, zero) s = Mul (m, tenth) y = Add (p, s)",
        "p = Relu (x) a = Abs (x) d = Sub (x, a) e = Mul (tenth, d) s = Mul (e, half) y = Add (s, p)",
    ] {
        assert_eq!(fused(OnnxruntimeCpu, 17, nodes), "y = LeakyRelu <alpha = 0.1> (x)", "{nodes}");
    }
    let negated = "p = Relu (x) n = Neg (x) r = Relu (n) s = Mul (r, minus) y = Add (p, s)";
    assert_eq!(fused(OnnxruntimeCpu, 17, negated), "y = LeakyRelu <alpha = 1.0> (x)");
    insta::assert_snapshot!(refused(Generic, 17, "s = Mul (x, three) y = Max (x, s)"), @"leaky-relu-max: the slope 3 is above 1, so that Max takes the other branch");
    assert_eq!(refused(Generic, 17, "c = Greater (x, one) s = Mul (x, tenth) y = Where (c, x, s)"), "");
    assert_eq!(refused(Generic, 17, "c = Greater (x, zero) s = Mul (x, tenth) y = Where (c, s, x)"), "");
    insta::assert_snapshot!(refused(Generic, 17, "s = Mul (x, tenth) m = Max (x, s) y = Mul (m, s)"), @r#"leaky-relu-max: "s" is also read by Mul making "y""#);
    let double = r#"<ir_version: 10, opset_import: ["" : 17]> g (double[N] x) => (double[N] y) <double a = {0.1}> {
        s = Mul (x, a) y = Max (x, s) }"#;
    insta::assert_snapshot!(refusals_for(Fuse::default(), Generic, double).join("; "), @r#"leaky-relu-max: "x" is of type double"#);
}

#[test]
fn prelu() {
    let halves = "p = Relu (x) n = Neg (x) r = Relu (n) s = Mul (r, w) y = Sub (p, s)";
    assert_eq!(fused(Generic, 17, halves), "y = PRelu (x, w)");
    insta::assert_snapshot!(refused(OnnxruntimeCpu, 17, halves), @"prelu-relu: the slope is no single number");
    let negated = check_for(Fuse::default(), Tensorrt, &model(17, &halves.replace("Sub (p, s)", "Add (p, s)")));
    assert!(negated.contains("{-0.1, -0.2, -0.3}") && negated.contains("y = PRelu (x, "), "{negated}");
    let which = "c = Greater (x, zero) s = Mul (x, w) y = Where (c, x, s)";
    assert_eq!(fused(OnnxruntimeCpu, 17, which), "y = PRelu (x, w)");
    let tall = model(17, &which.replace('w', "tall"))
        .replace("[N,3,H,W] x", "[1,3,H,W] x")
        .replace("[N,3,H,W] y", "[2,3,H,W] y");
    insta::assert_snapshot!(refusals_for(Fuse::default(), Generic, &tall).join("; "), @r#"leaky-relu-where: "tall" is no single number; prelu-where: the slope has the shape [2, 1, 1, 1]"#);
}

#[test]
fn depth_to_space() {
    let shuffle = |opset: u32, ty: &str, to: &str, perm: &str, out: &str, shape: &str| {
        format!(
            r#"<ir_version: 10, opset_import: ["" : {opset}]> g ({ty}[N,8,4,6] x) => ({ty}[{shape}] y)
            <int64[6] split = {to}, int64[4] join = {out}> {{
                r = Reshape (x, split) t = Transpose <perm = {perm}> (r) y = Reshape (t, join) }}"#
        )
    };
    let after = |text: &str| {
        let text = check_for(Fuse::default(), OnnxruntimeCpu, text);
        text.rsplit_once("{\n").map_or("", |(_, b)| b).trim().trim_end_matches('}').trim().to_owned()
    };
    let reasons = |text: &str| refusals_for(Fuse::default(), OnnxruntimeCpu, text).join("; ");
    let up = |opset, to, perm, out| shuffle(opset, "float", to, perm, out, "N,2,8,12");
    let (dcr, crd, join) = ("[0, 3, 4, 1, 5, 2]", "[0, 1, 4, 2, 5, 3]", "{0, 2, 8, 12}");
    insta::assert_snapshot!(after(&up(9, "{0, 2, 2, 2, 4, 6}", dcr, join)), @"y = DepthToSpace <blocksize = 2> (x)");
    insta::assert_snapshot!(after(&up(11, "{-1, 2, 2, 2, 4, 6}", crd, "{-1, 2, 8, 12}")), @r#"y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)"#);
    insta::assert_snapshot!(reasons(&up(10, "{0, 2, 2, 2, 4, 6}", crd, join)), @"depth-to-space-crd: DepthToSpace has this mode from opset 11 on; raise-opset raises it");
    insta::assert_snapshot!(reasons(&up(13, "{0, 1, 4, 2, 4, 6}", dcr, "{0, 2, 4, 24}").replace("N,2,8,12", "N,2,4,24")), @"depth-to-space-dcr: the blocks are 1 by 4");
    insta::assert_snapshot!(reasons(&shuffle(13, "int32", "{0, 2, 2, 2, 4, 6}", dcr, join, "N,2,8,12")), @r#"depth-to-space-dcr: "x" is of type int32"#);
    // A shuffle of channels is no block.
    assert_eq!(reasons(&up(13, "{0, 2, 2, 2, 4, 6}", "[0, 2, 1, 3, 4, 5]", join)), "");
    let down = |perm| shuffle(13, "float", "{0, 8, 2, 2, 3, 2}", perm, "{0, 32, 2, 3}", "N,32,2,3");
    insta::assert_snapshot!(after(&down("[0, 3, 5, 1, 2, 4]")), @"y = SpaceToDepth <blocksize = 2> (x)");
    assert_eq!(reasons(&down("[0, 1, 3, 5, 2, 4]")), "");
    let uneven = shuffle(13, "float", "{0, 8, 1, 4, 3, 2}", "[0, 3, 5, 1, 2, 4]", "{0, 64, 1, 3}", "N,64,1,3");
    insta::assert_snapshot!(reasons(&uneven), @"space-to-depth: the blocks are 4 by 2");
}
