//! One snapshot per dialect and operator, one line per refusal.

use super::*;
use crate::testing::{check_for, refusals_for};

/// A model of two heads of two elements. `head` declares inputs.
fn model(opset: i64, inputs: &str, outputs: &str, weights: &str, nodes: &str) -> String {
    format!(r#"<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}"#)
}

const CONSTANTS: &str = "int64[4] split = {0, 0, 2, 2}, int64[3] merge = {0, 0, 4}, float root = {1.4142135}";

/// From `q`, `k` and `v` of three axes to `y`; `mask` follows the scaled scores `s`, and makes `m`.
fn attention(mask: &str, scores: &str) -> String {
    format!(
        "q1 = Reshape (q, split)\n q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
         k1 = Reshape (k, split)\n k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
         v1 = Reshape (v, split)\n v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
         p = MatMul (q2, k2)\n s = Div (p, root)\n {mask}
         w = Softmax <axis = -1> ({scores})\n o = MatMul (w, v2)
         o1 = Transpose <perm = [0, 2, 1, 3]> (o)\n y = Reshape (o1, merge)"
    )
}

const CROSS: &str = "float[N,S,4] q, float[N,T,4] k, float[N,T,4] v";

fn cross(opset: i64, mask: &str, scores: &str, more: &str) -> String {
    let inputs = format!("{CROSS}{more}");
    model(opset, &inputs, "float[N,S,4] y", CONSTANTS, &attention(mask, scores))
}

#[test]
fn cross_attention() {
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &cross(17, "", "s", "")), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v) => (float[N,S,4] y) {
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)
    }
    "#);
    insta::assert_snapshot!(check_for(Attention::default(), Target::Generic, &cross(23, "", "s", "")), @r#"
    <ir_version: 8, opset_import: ["" : 23]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v) => (float[N,S,4] y) {
      y = Attention <kv_num_heads = 2, q_num_heads = 2> (q, k, v)
    }
    "#);
}

#[test]
fn a_mask_gets_a_row_for_every_query() {
    let padded = cross(17, "m = Add (s, mask)", "m", ", float[N,1,1,T] mask");
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &padded), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v, float[N,1,1,T] mask) => (float[N,S,4] y)
    <
      int64[2] o_sizes = {1, 1},
      int64[1] o_sizes_1 = {1}
    >
    {
      o_Shape = Shape <end = 2, start = 1> (q)
      o_Concat = Concat <axis = 0> (o_sizes, o_Shape, o_sizes_1)
      o_Expand = Expand (mask, o_Concat)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, "", "", o_Expand)
    }
    "#);
    let square = cross(17, "m = Add (mask, s)", "m", ", float[S,T] mask");
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &square), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v, float[S,T] mask) => (float[N,S,4] y)
    <
      int64[2] o_sizes = {0, 1}
    >
    {
      o_Unsqueeze = Unsqueeze (mask, o_sizes)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, "", "", o_Unsqueeze)
    }
    "#);
    let old = cross(12, "m = Add (mask, s)", "m", ", float[T] bias, float[1,T] mask");
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &old), @r#"
    <ir_version: 8, opset_import: ["" : 12, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v, float[T] bias, float[1,T] mask) => (float[N,S,4] y)
    <
      int64[1] o_sizes = {1},
      int64[2] o_sizes_1 = {1, 1},
      int64[1] o_sizes_2 = {1}
    >
    {
      o_Shape = Shape (q)
      o_Gather = Gather <axis = 0> (o_Shape, o_sizes)
      o_Concat = Concat <axis = 0> (o_sizes_1, o_Gather, o_sizes_2)
      o_Expand = Expand (mask, o_Concat)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, "", "", o_Expand)
    }
    "#);
}

/// A choice becomes a sum, so that a query without keys sees all of them equally as before.
#[test]
fn masks_by_where() {
    let before = |opset, choice: &str, inputs: &str, low: &str| {
        cross(opset, choice, "m", inputs).replace("float root", &format!("float low = {{{low}}}, float root"))
    };
    let seen = before(17, "m = Where (mask, s, low)", ", bool[S,T] mask", "-3.4028235e38");
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &seen), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v, bool[S,T] mask) => (float[N,S,4] y)
    <
      float low = {-3.4028235e38},
      float o_seen = {0.0},
      int64[2] o_sizes = {0, 1}
    >
    {
      o_Where = Where (mask, o_seen, low)
      o_Unsqueeze = Unsqueeze (o_Where, o_sizes)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, "", "", o_Unsqueeze)
    }
    "#);
    let hidden = before(23, "m = Where (mask, low, s)", ", bool[N,1,1,T] mask", "-inf");
    insta::assert_snapshot!(check_for(Attention::default(), Target::Generic, &hidden), @r#"
    <ir_version: 8, opset_import: ["" : 23]>
    g (float[N,S,4] q, float[N,T,4] k, float[N,T,4] v, bool[N,1,1,T] mask) => (float[N,S,4] y)
    <
      float low = {-inf},
      float o_seen = {0.0},
      int64[2] o_sizes = {1, 1},
      int64[1] o_sizes_1 = {1}
    >
    {
      o_Where = Where (mask, low, o_seen)
      o_Shape = Shape <end = 2, start = 1> (q)
      o_Concat = Concat <axis = 0> (o_sizes, o_Shape, o_sizes_1)
      o_Expand = Expand (o_Where, o_Concat)
      y = Attention <kv_num_heads = 2, q_num_heads = 2> (q, k, v, o_Expand)
    }
    "#);
}

fn projected(queries: &str) -> String {
    let weights = format!(
        "{CONSTANTS}, float[1,4] wq = {{1.0, 2.0, 3.0, 4.0}}, float[1,4] wk = {{5.0, 6.0, 7.0, 8.0}},
         float[1,4] wv = {{9.0, 10.0, 11.0, 12.0}}, float[4] b = {{1.0, 2.0, 3.0, 4.0}}"
    );
    let projections = format!(
        "q0 = MatMul ({queries}, wq)\n q = Add (b, q0)\n k0 = MatMul (x, wk)\n k = Add (k0, b)
         v0 = MatMul (x, wv)\n v = Add (v0, b)"
    );
    let nodes = format!("{projections}\n {}", attention("m = Add (s, mask)", "m"));
    model(17, "float[N,S,1] x, float[N,S,1] z, float[N,1,1,S] mask", "float[N,S,4] y", &weights, &nodes)
}

#[test]
fn self_attention_takes_its_projections() {
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &projected("x")), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,1] x, float[N,S,1] z, float[N,1,1,S] mask) => (float[N,S,4] y)
    <
      float[1,12] wq_qkv = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0},
      float[12] b_qkv = {1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0},
      int64[2] o_sizes = {1, 1},
      int64[1] o_sizes_1 = {1}
    >
    {
      o_Shape = Shape <end = 4, start = 3> (mask)
      o_Concat = Concat <axis = 0> (o_sizes, o_Shape, o_sizes_1)
      o_Expand = Expand (mask, o_Concat)
      y = com.microsoft.Attention <num_heads = 2> (x, wq_qkv, b_qkv, "", "", o_Expand)
    }
    "#);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &projected("z")), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,1] x, float[N,S,1] z, float[N,1,1,S] mask) => (float[N,S,4] y)
    <
      float[1,4] wq = {1.0, 2.0, 3.0, 4.0},
      float[1,4] wk = {5.0, 6.0, 7.0, 8.0},
      float[1,4] wv = {9.0, 10.0, 11.0, 12.0},
      float[4] b = {1.0, 2.0, 3.0, 4.0},
      int64[2] o_sizes = {1, 1},
      int64[1] o_sizes_1 = {1}
    >
    {
      q0 = MatMul (z, wq)
      q = Add (b, q0)
      k0 = MatMul (x, wk)
      k = Add (k0, b)
      v0 = MatMul (x, wv)
      v = Add (v0, b)
      o_Shape = Shape <end = 4, start = 3> (mask)
      o_Concat = Concat <axis = 0> (o_sizes, o_Shape, o_sizes_1)
      o_Expand = Expand (mask, o_Concat)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, "", "", o_Expand)
    }
    "#);
}

#[test]
fn one_projection_split_in_three() {
    let nodes = attention("", "s");
    let split = format!("a = MatMul (x, w3)\n b = Add (a, b3)\n q, k, v = Split <axis = 2> (b, thirds)\n {nodes}");
    let weights = format!(
        "{CONSTANTS}, float[1,12] w3 = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0}},
         float[12] b3 = {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0}}, int64[3] thirds = {{4, 4, 4}}"
    );
    let before = model(17, "float[N,S,1] x", "float[N,S,4] y", &weights, &split);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &before), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,1] x) => (float[N,S,4] y)
    <
      float[1,12] w3 = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0},
      float[12] b3 = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0}
    >
    {
      y = com.microsoft.Attention <num_heads = 2> (x, w3, b3)
    }
    "#);
}

/// As timm has it: one value, whose pieces are an axis that is moved to the front.
#[test]
fn pieces_on_an_axis_of_their_own() {
    let nodes = "r = Reshape (x, five)\n t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
         q = Gather <axis = 0> (t, zero)\n k1 = Gather <axis = 0> (t, one)\n v = Gather <axis = 0> (t, two)
         k = Transpose <perm = [0, 1, 3, 2]> (k1)\n p = MatMul (q, k)\n s = Mul (p, root)\n w = Softmax <axis = -1> (s)
         o = MatMul (w, v)\n o1 = Transpose <perm = [0, 2, 1, 3]> (o)\n y = Reshape (o1, merge)";
    let weights = "int64[5] five = {0, 0, 3, 2, 2}, int64 zero = {0}, int64 one = {1}, int64 two = {-1},
         float root = {0.5}, int64[3] merge = {0, 0, 4}";
    let before = model(17, "float[N,S,12] x", "float[N,S,4] y", weights, nodes);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &before), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,12] x) => (float[N,S,4] y)
    <
      int64[3] o_sizes = {4, 4, 4}
    >
    {
      o_piece0, o_piece1, o_piece2 = Split <axis = 2> (x, o_sizes)
      y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.5> (o_piece0, o_piece1, o_piece2)
    }
    "#);
}

/// As torch's MultiheadAttention has it: the sequence first, heads counted with the batch, half of the scale on either
/// side.
#[test]
fn the_sequence_first() {
    let nodes = "q1 = Reshape (q, joint)\n q2 = Transpose <perm = [1, 0, 2]> (q1)\n q3 = Reshape (q2, apart)
         k1 = Reshape (k, joint)\n k2 = Transpose <perm = [1, 0, 2]> (k1)\n k3 = Reshape (k2, apart)
         v1 = Reshape (v, joint)\n v2 = Transpose <perm = [1, 0, 2]> (v1)\n v3 = Reshape (v2, apart)
         q4 = Mul (q3, half)\n k4 = Transpose <perm = [0, 1, 3, 2]> (k3)\n k5 = Mul (k4, half)\n p = MatMul (q4, k5)
         w = Softmax <axis = -1> (p)\n o = MatMul (w, v3)\n o1 = Transpose <perm = [2, 0, 1, 3]> (o)
         y = Reshape (o1, rows)";
    let weights = "int64[3] joint = {5, -1, 2}, int64[4] apart = {-1, 2, 5, 2}, float[1] half = {0.84089642},
         int64[2] rows = {-1, 4}";
    let before = model(17, "float[5,N,4] q, float[5,N,4] k, float[5,N,4] v", "float[M,4] y", weights, nodes);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &before), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[5,N,4] q, float[5,N,4] k, float[5,N,4] v) => (float[M,4] y)
    <
      int64[2] o_sizes = {-1, 4}
    >
    {
      o_Transpose = Transpose <perm = [1, 0, 2]> (q)
      o_Transpose_1 = Transpose <perm = [1, 0, 2]> (k)
      o_Transpose_2 = Transpose <perm = [1, 0, 2]> (v)
      o_1 = com.microsoft.MultiHeadAttention <num_heads = 2> (o_Transpose, o_Transpose_1, o_Transpose_2)
      o_Transpose_3 = Transpose <perm = [1, 0, 2]> (o_1)
      y = Reshape (o_Transpose_3, o_sizes)
    }
    "#);
}

fn grouped(opset: i64) -> String {
    let nodes = "k1 = Unsqueeze (k, two)\n k2 = Expand (k1, repeat)\n k3 = Reshape (k2, heads)
         v1 = Unsqueeze (v, two)\n v2 = Expand (v1, repeat)\n v3 = Reshape (v2, heads)
         k4 = Transpose <perm = [0, 1, 3, 2]> (k3)\n p = MatMul (q, k4)\n s = Div (p, root)\n m = Add (s, mask)
         w = Softmax <axis = -1> (m)\n o = MatMul (w, v3)\n o1 = Transpose <perm = [0, 2, 1, 3]> (o)
         y = Reshape (o1, merge)";
    let weights = "int64[3] merge = {0, 0, 12}, int64[1] two = {2}, int64[5] repeat = {1, 1, 3, 1, 1}, int64[4] heads = {0, 6, -1, 2},
         float root = {1.4142135}";
    let inputs = "float[1,6,S,2] q, float[1,2,7,2] k, float[1,2,7,2] v, float[S,7] mask";
    model(opset, inputs, "float[1,S,12] y", weights, nodes)
}

#[test]
fn grouped_queries() {
    insta::assert_snapshot!(check_for(Attention::default(), Target::Generic, &grouped(23)), @r#"
    <ir_version: 8, opset_import: ["" : 23]>
    g (float[1,6,S,2] q, float[1,2,7,2] k, float[1,2,7,2] v, float[S,7] mask) => (float[1,S,12] y)
    <
      int64[3] merge = {0, 0, 12}
    >
    {
      o = Attention (q, k, v, mask)
      o1 = Transpose <perm = [0, 2, 1, 3]> (o)
      y = Reshape (o1, merge)
    }
    "#);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &grouped(17)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[1,6,S,2] q, float[1,2,7,2] k, float[1,2,7,2] v, float[S,7] mask) => (float[1,S,12] y)
    <
      int64[1] two = {2},
      int64[5] repeat = {1, 1, 3, 1, 1},
      int64[4] heads = {0, 6, -1, 2},
      int64[3] o_sizes = {0, 0, 12},
      int64[2] o_sizes_1 = {0, 1}
    >
    {
      o_Transpose = Transpose <perm = [0, 2, 1, 3]> (q)
      o_Reshape = Reshape (o_Transpose, o_sizes)
      k1 = Unsqueeze (k, two)
      k2 = Expand (k1, repeat)
      k3 = Reshape (k2, heads)
      v1 = Unsqueeze (v, two)
      v2 = Expand (v1, repeat)
      v3 = Reshape (v2, heads)
      o_Unsqueeze = Unsqueeze (mask, o_sizes_1)
      y = com.microsoft.MultiHeadAttention <num_heads = 6> (o_Reshape, k3, v3, "", "", o_Unsqueeze)
    }
    "#);
}

/// Keys and values are repeated where they have three axes.
#[test]
fn grouped_queries_of_three_axes() {
    let nodes = "q1 = Reshape (q, six)\n q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
         k1 = Reshape (k, two)\n k2 = Transpose <perm = [0, 2, 1, 3]> (k1)\n k3 = Unsqueeze (k2, at)
         k4 = Expand (k3, repeat)\n k5 = Reshape (k4, heads)\n k6 = Transpose <perm = [0, 1, 3, 2]> (k5)
         v1 = Reshape (v, two)\n v2 = Transpose <perm = [0, 2, 1, 3]> (v1)\n v3 = Unsqueeze (v2, at)
         v4 = Expand (v3, repeat)\n v5 = Reshape (v4, heads)
         p = MatMul (q2, k6)\n s = Div (p, root)\n w = Softmax <axis = -1> (s)\n o = MatMul (w, v5)
         o1 = Transpose <perm = [0, 2, 1, 3]> (o)\n y = Reshape (o1, merge)";
    let weights =
        "int64[3] merge = {0, 0, 12}, int64[4] six = {0, 0, 6, 2}, int64[4] two = {0, 0, 2, 2}, int64[1] at = {2},
         int64[5] repeat = {1, 1, 3, 1, 1}, int64[4] heads = {-1, 6, 7, 2}, float root = {1.4142135}";
    let before =
        |opset| model(opset, "float[N,S,12] q, float[N,7,4] k, float[N,7,4] v", "float[N,S,12] y", weights, nodes);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &before(17)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,12] q, float[N,7,4] k, float[N,7,4] v) => (float[N,S,12] y)
    <
      int64[2] o_sizes = {2, 2},
      int64[2] o_sizes_1 = {2, 2}
    >
    {
      o_piece0, o_piece1 = Split <axis = 2> (k, o_sizes)
      o_Concat = Concat <axis = 2> (o_piece0, o_piece0, o_piece0, o_piece1, o_piece1, o_piece1)
      o_piece0_1, o_piece1_1 = Split <axis = 2> (v, o_sizes_1)
      o_Concat_1 = Concat <axis = 2> (o_piece0_1, o_piece0_1, o_piece0_1, o_piece1_1, o_piece1_1, o_piece1_1)
      y = com.microsoft.MultiHeadAttention <num_heads = 6> (q, o_Concat, o_Concat_1)
    }
    "#);
    let single = before(17)
        .replace("{0, 0, 2, 2}", "{0, 0, 1, 4}")
        .replace("{0, 0, 6, 2}", "{0, 0, 3, 4}")
        .replace("{-1, 6, 7, 2}", "{-1, 3, 7, 4}");
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &single), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,12] q, float[N,7,4] k, float[N,7,4] v) => (float[N,S,12] y) {
      o_Concat = Concat <axis = 2> (k, k, k)
      o_Concat_1 = Concat <axis = 2> (v, v, v)
      y = com.microsoft.MultiHeadAttention <num_heads = 3, scale = 0.70710677> (q, o_Concat, o_Concat_1)
    }
    "#);
    insta::assert_snapshot!(check_for(Attention::default(), Target::Generic, &before(23)), @r#"
    <ir_version: 8, opset_import: ["" : 23]>
    g (float[N,S,12] q, float[N,7,4] k, float[N,7,4] v) => (float[N,S,12] y) {
      y = Attention <kv_num_heads = 2, q_num_heads = 6> (q, k, v)
    }
    "#);
}

#[test]
fn refusals() {
    let on = |target, text: &str| refusals_for(Attention::default(), target, text).join("; ");
    let cpu = |text: &str| on(Target::OnnxruntimeCpu, text);
    insta::assert_snapshot!(on(Target::Generic, &cross(17, "", "s", "")), @"Attention exists from opset 23 on, and the model has 17; raise-opset raises it");
    insta::assert_snapshot!(on(Target::Tensorrt, &cross(23, "", "s", "")), @"TensorRT fuses the products and the Softmax itself");
    insta::assert_snapshot!(cpu(&cross(17, "m = Add (s, mask)\n n = Mul (m, root)", "n", ", float[S,T] mask")), @"the masked scores are scaled");
    insta::assert_snapshot!(cpu(&cross(17, "m = Add (s, mask)\n n = Add (m, mask)", "n", ", float[S,T] mask")), @"more than one mask is laid on the scores");
    let chosen = |by: &str| cross(17, by, "m", ", bool[S,T] mask, float low");
    insta::assert_snapshot!(cpu(&chosen("m = Where (mask, s, root)")), @"Where puts 1.4142135381698608 for scores, which does not hide them if added");
    insta::assert_snapshot!(cpu(&chosen("m = Where (mask, s, low)")), @r#"Where puts "low" for scores, which is no constant number"#);
    insta::assert_snapshot!(cpu(&chosen("n = Where (mask, s, root) m = Add (n, low)").replace("{1.4142135}", "{-1e10}")), @"");
    insta::assert_snapshot!(cpu(&chosen("n = Where (mask, s, minus) m = Where (mask, n, minus)").replace("float root", "float minus = {-1e10}, float root")), @"");
    insta::assert_snapshot!(cpu(&chosen("n = Where (mask, s, minus) m = Mul (n, root)").replace("float root", "float minus = {-1e10}, float root")), @"the masked scores are scaled");
    insta::assert_snapshot!(cpu(&chosen("m = Where (mask, s, minus)").replace("bool[S,T]", "bool[S,1]").replace("float root", "float minus = {-1e10}, float root")), @r#"not known whether the mask "mask" has a column for every key, and a row for every query or one"#);
    insta::assert_snapshot!(cpu(&cross(17, "m = Add (s, mask)", "m", ", float[S,1] mask")), @r#"not known whether the mask "mask" has a column for every key, and a row for every query or one"#);
    insta::assert_snapshot!(cpu(&cross(17, "m = Neg (root)\n n = Mul (s, minus)", "n", ", float minus")), @"");
    let broadcast = cross(17, "", "s", "").replace("float[N,T,4] v", "float[1,T,4] v");
    insta::assert_snapshot!(cpu(&broadcast), @"not known whether the batch sizes of queries and values are equal: N and 1");
    let negative = cross(17, "", "s", "").replace("float root = {1.4142135}", "float root = {-1.4142135}");
    insta::assert_snapshot!(cpu(&negative), @"its scale -0.7071067932881648 is not positive");
    let doubles = cross(17, "", "s", "").replace("float", "double");
    insta::assert_snapshot!(cpu(&doubles), @"the operator does not take double there");
    let outputs = |name: &str| {
        cross(17, "", "s", "").replace("float[N,S,4] y)", &format!("float[N,S,4] y, float[N,2,S,T] {name})"))
    };
    insta::assert_snapshot!(cpu(&outputs("w")), @r#"the weights "w" have other readers or are a graph output"#);
    insta::assert_snapshot!(cpu(&outputs("s")), @r#"the scores "s" have other readers or are a graph output"#);
    let bare = "k2 = Transpose <perm = [0, 1, 3, 2]> (k)\n p = MatMul (q, k2)\n w = Softmax <axis = -1> (p)\n y = MatMul (w, v)";
    let inputs = "float[N,2,S,2] q, float[N,2,S,2] k, float[N,2,S,2] v";
    insta::assert_snapshot!(cpu(&model(17, inputs, "float[N,2,S,2] y", CONSTANTS, bare)), @"splitting and merging heads for MultiHeadAttention takes more nodes than it saves");
    // A softmax over another axis, or of something else, is none of its concern.
    insta::assert_snapshot!(cpu(&cross(17, "", "s", "").replace("axis = -1", "axis = 2")), @"");
    insta::assert_snapshot!(cpu(&cross(17, "m = Relu (q2)", "m", "")), @"");
}

/// What turns heads takes them merged as well.
#[test]
fn through_rotary_embedding() {
    let nodes = attention("", "s")
        .replace("p = MatMul (q2, k2)", "q3 = com.microsoft.RotaryEmbedding (q2, zero, c, d)\n k3 = com.microsoft.RotaryEmbedding (k2, zero, c, d)\n k4 = Transpose <perm = [0, 1, 3, 2]> (k3)\n p = MatMul (q3, k4)")
        .replace("k2 = Transpose <perm = [0, 2, 3, 1]> (k1)", "k2 = Transpose <perm = [0, 2, 1, 3]> (k1)");
    let inputs = "float[N,S,4] q, float[N,S,4] k, float[N,S,4] v, float[S,1] c, float[S,1] d";
    let before = model(17, inputs, "float[N,S,4] y", &format!("{CONSTANTS}, int64[1] zero = {{0}}"), &nodes)
        .replace(r#"["" : 17]"#, r#"["" : 17, "com.microsoft" : 1]"#);
    insta::assert_snapshot!(check_for(Attention::default(), Target::OnnxruntimeCpu, &before), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,4] q, float[N,S,4] k, float[N,S,4] v, float[S,1] c, float[S,1] d) => (float[N,S,4] y)
    <
      int64[1] zero = {0}
    >
    {
      o_RotaryEmbedding = com.microsoft.RotaryEmbedding <num_heads = 2> (q, zero, c, d)
      o_RotaryEmbedding_1 = com.microsoft.RotaryEmbedding <num_heads = 2> (k, zero, c, d)
      y = com.microsoft.MultiHeadAttention <num_heads = 2> (o_RotaryEmbedding, o_RotaryEmbedding_1, v)
    }
    "#);
}
