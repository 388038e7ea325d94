//! The built-in rules for transformers beside attention, and what they refuse.

use super::Fuse;
use crate::{
    Target::{self, Generic, OnnxruntimeCpu, OnnxruntimeGpu},
    testing::{check_for, refusals_for},
};

fn after(target: Target, before: &str) -> String {
    check_for(Fuse::default(), target, before)
}

fn reasons(target: Target, before: &str) -> String {
    refusals_for(Fuse::default(), target, before).join("; ")
}

const VECTORS: &str = "float[4,4] w = {1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0}, \
    float[4] b = {1.0, 2.0, 3.0, 4.0}, float one = {1.0}";

fn block(nodes: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,S,4] x, float[N,1,4] r)
        => (float[N,S,4] y) <{VECTORS}> {{ {nodes} }}"#
    )
}

#[test]
fn biases_go_into_gelu() {
    for (op, fused) in [("Gelu", "BiasGelu (x, b)"), ("FastGelu", "FastGelu (x, b)")] {
        let biased = block(&format!("a = Add (b, x) y = com.microsoft.{op} (a)"));
        let text = after(OnnxruntimeCpu, &biased);
        assert!(text.contains(&format!("y = com.microsoft.{fused}")) && !text.contains("Add"), "{text}");
        let number = block(&format!("a = Add (one, x) y = com.microsoft.{op} (a)"));
        assert!(reasons(OnnxruntimeGpu, &number).ends_with("the bias has the shape [], the last axis 4 elements"));
    }
    let shared = block("a = Add (x, b) g = com.microsoft.Gelu (a) y = Mul (g, a)");
    insta::assert_snapshot!(reasons(OnnxruntimeCpu, &shared), @r#"bias-gelu: "a" is also read by Mul making "y""#);
}

#[test]
fn bias_and_skip_in_one_sum() {
    let skip = block("m = MatMul (x, w) a = Add (m, b) y = Add (x, a)");
    insta::assert_snapshot!(after(OnnxruntimeCpu, &skip), @r#"
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] x, float[N,1,4] r) => (float[N,S,4] y)
    <
      float[4,4] w = {1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0},
      float[4] b = {1.0, 2.0, 3.0, 4.0},
      float one = {1.0}
    >
    {
      m = MatMul (x, w)
      y = Sum (m, b, x)
    }
    "#);
    insta::assert_snapshot!(reasons(Generic, &skip), @"bias-and-skip: it has no form for target generic");
    let narrow = block("m = MatMul (x, w) a = Add (m, b) y = Add (r, a)");
    insta::assert_snapshot!(reasons(OnnxruntimeCpu, &narrow), @"bias-and-skip: not known whether same_shape(m, x)");
    let no_product = block("m = Relu (x) a = Add (m, b) y = Add (x, a)");
    insta::assert_snapshot!(reasons(OnnxruntimeCpu, &no_product), @r#"bias-and-skip: "m" is no product"#);
}

fn rotary(opset: u32, step: i64, more: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,2,S,4] x, float[S,2] c, float[S,2] s)
        => (float[N,2,S,4] y) <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] far = {{9223372036854775807}},
        int64[1] three = {{3}}, int64[1] two = {{{step}}}, int64[1] last = {{-1}}, int64[4] whole = {{0, 0, -1, 4}}> {{
        even = Slice (x, zero, far, three, two) odd = Slice (x, one, far, three, two)
        ec = Mul (even, c) os = Mul (odd, s) re = Sub (ec, os) es = Mul (even, s) oc = Mul (odd, c) im = Add (es, oc)
        re1 = Unsqueeze (re, last) im1 = Unsqueeze (im, last) z = Concat <axis = -1> (re1, im1) {more} }}"#
    )
}

#[test]
fn rotary_embedding_of_neighbours() {
    let before = |opset| rotary(opset, 2, "y = Reshape (z, whole)");
    insta::assert_snapshot!(after(OnnxruntimeCpu, &before(17)), @r#"
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2,S,4] x, float[S,2] c, float[S,2] s) => (float[N,2,S,4] y)
    <
      int64[1] y_constant = {0}
    >
    {
      y = com.microsoft.RotaryEmbedding <interleaved = 1> (x, y_constant, c, s)
    }
    "#);
    insta::assert_snapshot!(after(Generic, &before(23)), @r#"
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[N,2,S,4] x, float[S,2] c, float[S,2] s) => (float[N,2,S,4] y)
    <
      int64[2] y_constant = {1, 1}
    >
    {
      y_batch = Shape <end = 1, start = 0> (x)
      y_whole = Concat <axis = 0> (y_batch, y_constant)
      y_c3 = Expand (c, y_whole)
      y_s3 = Expand (s, y_whole)
      y = RotaryEmbedding <interleaved = 1> (x, y_c3, y_s3)
    }
    "#);
    insta::assert_snapshot!(reasons(Generic, &before(17)), @"rotary-interleaved: RotaryEmbedding exists from opset 23 on; raise-opset raises it");
    let computed =
        "z1 = Shape (z) z2 = Slice (z1, zero, minus_two, zero) t = Concat <axis = 0> (z2, last) y = Reshape (z, t)";
    let computed = rotary(17, 2, computed).replace("int64[4] whole = {0, 0, -1, 4}", "int64[1] minus_two = {-2}");
    insta::assert_snapshot!(after(OnnxruntimeCpu, &computed), @r#"
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2,S,4] x, float[S,2] c, float[S,2] s) => (float[N,2,S,4] y)
    <
      int64[1] y_constant = {0}
    >
    {
      y = com.microsoft.RotaryEmbedding <interleaved = 1> (x, y_constant, c, s)
    }
    "#);
    let swapped = rotary(17, 2, "y = Reshape (z, whole)").replace("(re1, im1)", "(im1, re1)");
    insta::assert_snapshot!(reasons(OnnxruntimeCpu, &swapped), @"");
    let by_position = rotary(17, 2, "y = Reshape (z, whole)").replace("float[S,2] c", "float[1,2] c");
    insta::assert_snapshot!(reasons(OnnxruntimeCpu, &by_position), @"rotary-interleaved: not known whether shape(c) == [dim(x, 2), dim(even, 3)] and same_shape(c, s)");
}
