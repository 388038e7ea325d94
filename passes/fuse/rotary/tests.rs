//! One snapshot per form, one line per refusal.

use super::*;
use crate::testing::{check_for, refusals_for};

const SLICES: &str =
    "a = Slice (x, zero, two, last) b = Slice (x, two, far, last) n = Neg (b) t = Concat <axis = -1> (n, a)";
const SPLIT: &str = "a, b = Split <axis = -1> (x, twos) n = Neg (b) t = Concat <axis = 3> (n, a)";
const COMPUTED: &str = "f2 = Concat <axis = -1> (f, f) f4 = Unsqueeze (f2, one) c0 = Cos (f4) s0 = Sin (f4)
    c = Mul (c0, scale) s = Mul (scale, s0)";
const SUM: &str = "xc = Mul (x, c) ts = Mul (t, s) y = Add (xc, ts)";

/// Two heads of four elements, and the angles `f` that `tables` doubles.
fn model(opset: u32, angles: &str, weights: &str, nodes: &str) -> String {
    format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[N,2,S,4] x, {angles}) => (float[N,2,S,4] y)
        <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] last = {{-1}},
        int64[1] far = {{9223372036854775807}}, int64[2] twos = {{2, 2}}, float scale = {{0.5}} {weights}> {{ {nodes} }}"#
    )
}

fn after(target: Target, before: &str) -> String {
    check_for(RotaryHalves::default(), target, before)
}

fn reason(target: Target, before: &str) -> String {
    refusals_for(RotaryHalves::default(), target, before).join("; ")
}

#[test]
fn slices_and_computed_angles() {
    let before = |opset, angles| model(opset, angles, "", &format!("{COMPUTED} {SLICES} {SUM}"));
    insta::assert_snapshot!(after(Target::OnnxruntimeCpu, &before(17, "float[1,S,2] f")), @r#"
    <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2,S,4] x, float[1,S,2] f) => (float[N,2,S,4] y)
    <
      int64[1] one = {1},
      int64[2] twos = {2, 2},
      float scale = {0.5},
      int64[1] y_sizes = {0},
      int64[1] y_sizes_1 = {2},
      int64[1] y_sizes_2 = {-1},
      int64[2] y_sizes_3 = {0, 1},
      int64[1] y_sizes_4 = {0},
      int64[1] y_sizes_5 = {2},
      int64[1] y_sizes_6 = {-1},
      int64[2] y_sizes_7 = {0, 1},
      int64[1] y_sizes_8 = {0}
    >
    {
      f2 = Concat <axis = -1> (f, f)
      f4 = Unsqueeze (f2, one)
      c0 = Cos (f4)
      c = Mul (c0, scale)
      y_Slice = Slice (c, y_sizes, y_sizes_1, y_sizes_2)
      y_Squeeze = Squeeze (y_Slice, y_sizes_3)
      s0 = Sin (f4)
      s = Mul (scale, s0)
      y_Slice_1 = Slice (s, y_sizes_4, y_sizes_5, y_sizes_6)
      y_Squeeze_1 = Squeeze (y_Slice_1, y_sizes_7)
      y = com.microsoft.RotaryEmbedding (x, y_sizes_8, y_Squeeze, y_Squeeze_1)
    }
    "#);
    insta::assert_snapshot!(after(Target::Generic, &before(23, "float[1,S,2] f")), @r#"
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[N,2,S,4] x, float[1,S,2] f) => (float[N,2,S,4] y)
    <
      int64[1] one = {1},
      int64[2] twos = {2, 2},
      float scale = {0.5},
      int64[2] y_sizes = {1, 1},
      int64[1] y_sizes_1 = {0},
      int64[1] y_sizes_2 = {2},
      int64[1] y_sizes_3 = {-1},
      int64[1] y_sizes_4 = {1},
      int64[1] y_sizes_5 = {0},
      int64[1] y_sizes_6 = {2},
      int64[1] y_sizes_7 = {-1},
      int64[1] y_sizes_8 = {1}
    >
    {
      f2 = Concat <axis = -1> (f, f)
      f4 = Unsqueeze (f2, one)
      c0 = Cos (f4)
      c = Mul (c0, scale)
      y_Slice = Slice (c, y_sizes_1, y_sizes_2, y_sizes_3)
      y_Squeeze = Squeeze (y_Slice, y_sizes_4)
      y_Shape = Shape <end = 1, start = 0> (x)
      y_Concat = Concat <axis = 0> (y_Shape, y_sizes)
      y_Expand = Expand (y_Squeeze, y_Concat)
      s0 = Sin (f4)
      s = Mul (scale, s0)
      y_Slice_1 = Slice (s, y_sizes_5, y_sizes_6, y_sizes_7)
      y_Squeeze_1 = Squeeze (y_Slice_1, y_sizes_8)
      y_Expand_1 = Expand (y_Squeeze_1, y_Concat)
      y = RotaryEmbedding (x, y_Expand, y_Expand_1)
    }
    "#);
    insta::assert_snapshot!(after(Target::OnnxruntimeCpu, &before(23, "float[N,S,2] f")), @r#"
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[N,2,S,4] x, float[N,S,2] f) => (float[N,2,S,4] y)
    <
      int64[1] one = {1},
      int64[2] twos = {2, 2},
      float scale = {0.5},
      int64[1] y_sizes = {0},
      int64[1] y_sizes_1 = {2},
      int64[1] y_sizes_2 = {-1},
      int64[1] y_sizes_3 = {1},
      int64[1] y_sizes_4 = {0},
      int64[1] y_sizes_5 = {2},
      int64[1] y_sizes_6 = {-1},
      int64[1] y_sizes_7 = {1}
    >
    {
      f2 = Concat <axis = -1> (f, f)
      f4 = Unsqueeze (f2, one)
      c0 = Cos (f4)
      c = Mul (c0, scale)
      y_Slice = Slice (c, y_sizes, y_sizes_1, y_sizes_2)
      y_Squeeze = Squeeze (y_Slice, y_sizes_3)
      s0 = Sin (f4)
      s = Mul (scale, s0)
      y_Slice_1 = Slice (s, y_sizes_4, y_sizes_5, y_sizes_6)
      y_Squeeze_1 = Squeeze (y_Slice_1, y_sizes_7)
      y = RotaryEmbedding (x, y_Squeeze, y_Squeeze_1)
    }
    "#);
}

fn table(elements: &str, shape: &str) -> String {
    let nodes = format!("{SPLIT} xc = Mul (c, x) ts = Mul (s, t) y = Add (ts, xc)");
    let weights = format!(", float[{shape}] c = {{{elements}}}, float[{shape}] s = {{{elements}}}");
    model(23, "float unused", &weights, &nodes).replace("[N,2,S,4]", "[N,2,2,4]")
}

#[test]
fn split_and_constant_angles() {
    let doubled = "0.1, 0.2, 0.1, 0.2, 0.3, 0.4, 0.3, 0.4";
    insta::assert_snapshot!(after(Target::OnnxruntimeCpu, &table(doubled, "2,4")), @r#"
    <ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
    g (float[N,2,2,4] x, float unused) => (float[N,2,2,4] y)
    <
      int64[1] zero = {0},
      int64[1] one = {1},
      int64[1] two = {2},
      int64[1] last = {-1},
      int64[1] far = {9223372036854775807},
      float scale = {0.5},
      float[2,2] c_half = {0.1, 0.2, 0.3, 0.4},
      float[2,2] s_half = {0.1, 0.2, 0.3, 0.4},
      int64[1] y_sizes = {0}
    >
    {
      y = com.microsoft.RotaryEmbedding (x, y_sizes, c_half, s_half)
    }
    "#);
    insta::assert_snapshot!(after(Target::Generic, &table(doubled, "1,1,2,4")), @r#"
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[N,2,2,4] x, float unused) => (float[N,2,2,4] y)
    <
      int64[1] zero = {0},
      int64[1] one = {1},
      int64[1] two = {2},
      int64[1] last = {-1},
      int64[1] far = {9223372036854775807},
      float scale = {0.5},
      int64[2] y_sizes = {1, 1},
      float[1,2,2] c_half = {0.1, 0.2, 0.3, 0.4},
      float[1,2,2] s_half = {0.1, 0.2, 0.3, 0.4}
    >
    {
      y_Shape = Shape <end = 1, start = 0> (x)
      y_Concat = Concat <axis = 0> (y_Shape, y_sizes)
      y_Expand = Expand (c_half, y_Concat)
      y_Expand_1 = Expand (s_half, y_Concat)
      y = RotaryEmbedding (x, y_Expand, y_Expand_1)
    }
    "#);
    let single = table(doubled, "1,2,4").replace("[N,2,2,4]", "[1,2,2,4]");
    insta::assert_snapshot!(after(Target::Generic, &single), @r#"
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[1,2,2,4] x, float unused) => (float[1,2,2,4] y)
    <
      int64[1] zero = {0},
      int64[1] one = {1},
      int64[1] two = {2},
      int64[1] last = {-1},
      int64[1] far = {9223372036854775807},
      float scale = {0.5},
      float[1,2,2] c_half = {0.1, 0.2, 0.3, 0.4},
      float[1,2,2] s_half = {0.1, 0.2, 0.3, 0.4}
    >
    {
      y = RotaryEmbedding (x, c_half, s_half)
    }
    "#);
}

#[test]
fn refuses() {
    let whole =
        |tables: &str, halves: &str, sum: &str| model(23, "float[1,S,2] f", "", &format!("{tables} {halves} {sum}"));
    let cpu = |before: &str| reason(Target::OnnxruntimeCpu, before);
    let good = whole(COMPUTED, SLICES, SUM);
    insta::assert_snapshot!(reason(Target::Tensorrt, &good), @"TensorRT fuses the products and the sum itself");
    let old = model(17, "float[1,S,2] f", "", &format!("{COMPUTED} {SLICES} {SUM}"));
    insta::assert_snapshot!(reason(Target::Generic, &old), @"RotaryEmbedding with these angles exists from opset 23 on, and the model has 17; raise-opset raises it");
    insta::assert_snapshot!(cpu(&old.replace("[1,S,2]", "[N,S,2]")), @"RotaryEmbedding with these angles exists from opset 23 on, and the model has 17; raise-opset raises it");
    insta::assert_snapshot!(cpu(&table("0.1, 0.2, 0.1, 0.5, 0.3, 0.4, 0.3, 0.4", "2,4")), @r#"the halves of the angles "c" are not known to be equal"#);
    insta::assert_snapshot!(cpu(&whole(&COMPUTED.replace("(f, f)", "(f, g)"), SLICES, SUM).replace("float[1,S,2] f", "float[1,S,2] f, float[1,S,2] g")), @r#"the halves of the angles "c" are not known to be equal"#);
    insta::assert_snapshot!(cpu(&whole(&COMPUTED.replace("c = Mul (c0, scale)", "c = Mul (c0, w)"), SLICES, SUM).replace("float scale", "float[4] w = {1.0, 1.0, 1.0, 2.0}, float scale")), @r#"the halves of the angles "c" are not known to be equal"#);
    insta::assert_snapshot!(cpu(&good.replace("[1,S,2] f", "[1,P,2] f")), @r#"the angles "c" are not known to be one for each element"#);
    insta::assert_snapshot!(cpu(&good.replace("=> (float[N,2,S,4] y)", "=> (float[N,2,S,4] y, float[N,2,S,4] t)")), @r#""t" has other readers or is a graph output"#);
    insta::assert_snapshot!(cpu(&good.replace("float[", "double[").replace("float scale", "double scale")), @"the operator does not take double there");
    let open = table("0.1, 0.2, 0.1, 0.2, 0.3, 0.4, 0.3, 0.4", "2,4").replace("float unused", "float[2,4] c");
    insta::assert_snapshot!(cpu(&open), @r#"the halves of the angles "c" are not known to be equal"#);
    insta::assert_snapshot!(cpu(&good.replace("[N,2,S,4]", "[N,2,S,D]")), @"");
    insta::assert_snapshot!(cpu(&good.replace("[N,2,S,4]", "[N,2,S,0]")), @"");
    let captured = good.replace("y = Add (xc, ts)", "y = Add (xc, ts) z = If (truth) <then_branch = g () => (float[N,2,S,4] r) { r = Neg (ts) }, else_branch = h () => (float[N,2,S,4] r) { r = Relu (x) }>");
    let captured = captured
        .replace("[1,S,2] f)", "[1,S,2] f, bool truth)")
        .replace("=> (float[N,2,S,4] y)", "=> (float[N,2,S,4] y, float[N,2,S,4] z)");
    insta::assert_snapshot!(cpu(&captured), @r#""ts" has other readers or is a graph output"#);
    // Not the halves, or in another order.
    for other in [
        SLICES.replace("(n, a)", "(a, n)"),
        SLICES.replace("Slice (x, two, far, last)", "Slice (x, one, far, last, two)"),
        SLICES.replace("n = Neg (b)", "n = Relu (b)"),
        SLICES.replace("(x, zero, two, last)", "(x, one, three, last)"),
    ] {
        let before = whole(COMPUTED, &other, SUM).replace("float scale", "int64[1] three = {3}, float scale");
        assert_eq!(cpu(&before), "", "{before}");
    }
}
