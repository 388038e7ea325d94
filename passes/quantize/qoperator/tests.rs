//! Graphs before and after, by target.

use super::*;
use crate::testing::{check_for, refusals_for};

fn model(body: &str) -> String {
    format!(r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> {body}"#)
}

const CONSTANTS: &str = "float s = {0.5}, float t = {0.25}, uint8 z = {128}, uint8 low = {0}, int8 c = {0}";

#[test]
fn a_convolution_takes_its_relu_and_its_bias_along() {
    let body = format!(
        "g (uint8[N,1,4,4] x) => (uint8[N,2,4,4] y) <
            {CONSTANTS}, int8[2,1,1,1] w = {{1, -2}}, float[2] ws = {{0.5, 0.25}}, int32[2] b = {{4, -4}}, float[2] bs = {{0.25, 0.125}}
        > {{
            d = DequantizeLinear (x, s, z)
            e = DequantizeLinear <axis = 0> (w, ws)
            f = DequantizeLinear <axis = 0> (b, bs)
            v = Conv (d, e, f)
            r = Relu (v)
            y = QuantizeLinear (r, t, low)
        }}"
    );
    insta::assert_snapshot!(check_for(Qoperator {}, Target::Generic, &model(&body)), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[N,1,4,4] x) => (uint8[N,2,4,4] y)
    <
      float s = {0.5},
      float t = {0.25},
      uint8 z = {128},
      uint8 low = {0},
      int8 c = {0},
      int8[2,1,1,1] w = {1, -2},
      float[2] ws = {0.5, 0.25},
      int32[2] b = {4, -4},
      int8[2] w_zero_point = {0, 0}
    >
    {
      y = QLinearConv (x, s, z, w, ws, w_zero_point, t, low, b)
    }
    "#);
}

#[test]
fn a_bias_of_floats_is_rounded() {
    let body = format!(
        "g (uint8[N,2] x) => (float[N,2] y) <{CONSTANTS}, int8[2,2] w = {{1, 2, 3, 4}}, float[2] b = {{0.26, -1.0}}> {{
            d = DequantizeLinear (x, s, z)
            e = DequantizeLinear (w, t, c)
            v = Gemm <transB = 1, beta = 1.0> (d, e, b)
            q = QuantizeLinear (v, t, z)
            y = DequantizeLinear (q, t, z)
        }}"
    );
    insta::assert_snapshot!(check_for(Qoperator {}, Target::OnnxruntimeCpu, &model(&body)), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[N,2] x) => (float[N,2] y)
    <
      float s = {0.5},
      float t = {0.25},
      uint8 z = {128},
      uint8 low = {0},
      int8 c = {0},
      int8[2,2] w = {1, 2, 3, 4},
      int32[2] b_codes = {2, -8}
    >
    {
      q = com.microsoft.QGemm <transB = 1> (x, s, z, w, t, c, b_codes, t, z)
      y = DequantizeLinear (q, t, z)
    }
    "#);
}

#[test]
fn a_product_gives_codes_or_floats() {
    let body = format!(
        "g (uint8[N,2] x) => (float[N,2] y, uint8[N,2] r) <{CONSTANTS}, int8[2,2] w = {{1, 2, 3, 4}}, float[2] ws = {{0.5, 0.25}}> {{
            d = DequantizeLinear (x, s, z)
            e = DequantizeLinear <axis = 1> (w, ws)
            y = MatMul (d, e)
            v = MatMul (d, e)
            r = QuantizeLinear (v, t, z)
        }}"
    );
    insta::assert_snapshot!(check_for(Qoperator {}, Target::OnnxruntimeCpu, &model(&body)), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[N,2] x) => (float[N,2] y, uint8[N,2] r)
    <
      float s = {0.5},
      float t = {0.25},
      uint8 z = {128},
      uint8 low = {0},
      int8 c = {0},
      int8[2,2] w = {1, 2, 3, 4},
      float[2] ws = {0.5, 0.25},
      int8[2] w_zero_point = {0, 0},
      int8[2] w_zero_point_1 = {0, 0}
    >
    {
      y = com.microsoft.MatMulIntegerToFloat (x, w, s, ws, z, w_zero_point)
      r = QLinearMatMul (x, s, z, w, ws, w_zero_point_1, t, z)
    }
    "#);
    let reason = "ONNX has no MatMulIntegerToFloat; onnxruntime-cpu has";
    let product = body
        .replace("v = MatMul (d, e)\n", "")
        .replace("(v, t, z)", "(x, t, z)")
        .replace("uint8[N,2] x", "uint8[N,2] x, float[N,2] f")
        .replace("(x, t, z)", "(f, t, z)");
    assert_eq!(refusals_for(Qoperator {}, Target::Generic, &model(&product)), [reason]);
}

#[test]
fn elements_and_windows() {
    let body = format!(
        "g (uint8[N,2,4,4] x, uint8[N,2,4,4] p, bool[N,2,4,4] k) => (uint8[N,4,4,4] y, uint8[N,4,1,1] m, uint8[N,2,4,4] n) <{CONSTANTS}> {{
            d = DequantizeLinear (x, s, z)
            e = DequantizeLinear (p, t, z)
            a = Add (d, e)
            qa = QuantizeLinear (a, t, z)
            da = DequantizeLinear (qa, t, z)
            l = Softmax (da)
            ql = QuantizeLinear (l, t, low)
            dl = DequantizeLinear (ql, t, low)
            w = Where (k, dl, da)
            n = QuantizeLinear (w, t, z)
            o = Concat <axis = 1> (da, dl)
            y = QuantizeLinear (o, t, z)
            dy = DequantizeLinear (y, t, z)
            g = GlobalAveragePool (dy)
            m = QuantizeLinear (g, t, z)
        }}"
    );
    insta::assert_snapshot!(check_for(Qoperator {}, Target::OnnxruntimeCpu, &model(&body)), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[N,2,4,4] x, uint8[N,2,4,4] p, bool[N,2,4,4] k) => (uint8[N,4,4,4] y, uint8[N,4,1,1] m, uint8[N,2,4,4] n)
    <
      float s = {0.5},
      float t = {0.25},
      uint8 z = {128},
      uint8 low = {0},
      int8 c = {0}
    >
    {
      qa = com.microsoft.QLinearAdd (x, s, z, p, t, z, t, z)
      ql = com.microsoft.QLinearSoftmax <axis = -1, opset = 21> (qa, t, z, t, low)
      y = com.microsoft.QLinearConcat <axis = 1> (t, z, qa, t, z, ql, t, low)
      m = com.microsoft.QLinearGlobalAveragePool (y, t, z, t, z)
      n = com.microsoft.QLinearWhere (k, ql, t, low, qa, t, z, t, z)
    }
    "#);
}

#[test]
fn what_moves_elements_moves_codes() {
    let body = format!(
        "g (uint8[2,4] x) => (uint8[4,2] y, uint8[1,4] a, uint8[1,4] b) <{CONSTANTS}> {{
            d = DequantizeLinear (x, s, z)
            m = Transpose <perm = [1, 0]> (d)
            y = QuantizeLinear (m, s, z)
            u, v = Split <axis = 0, num_outputs = 2> (d)
            a = QuantizeLinear (u, s, z)
            b = QuantizeLinear (v, s, z)
        }}"
    );
    insta::assert_snapshot!(check_for(Qoperator {}, Target::Generic, &model(&body)), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[2,4] x) => (uint8[4,2] y, uint8[1,4] a, uint8[1,4] b)
    <
      float t = {0.25},
      uint8 low = {0},
      int8 c = {0}
    >
    {
      y = Transpose <perm = [1, 0]> (x)
      a, b = Split <axis = 0, num_outputs = 2> (x)
    }
    "#);
}

/// The reasons for which a product stays, by what differs from one that does not.
fn reasons(target: Target, from: &str, to: &str) -> Vec<String> {
    let body = format!(
        "g (uint8[N,2] x, float[2] computed) => (uint8[N,2] y) <
            {CONSTANTS}, int8 sz = {{0}}, int8[2,2] w = {{1, 2, 3, 4}}, uint8[2,2] u = {{1, 2, 3, 4}}, float[2] ws = {{0.5, 0.25}},
            float[2] b = {{0.5, -1.0}}, float[2] large = {{1e9, 0.0}}, int32[2] i = {{1, 2}}, float[2] one = {{1.0, 1.0}}, int32[2] iz = {{0, 1}}
        > {{
            d = DequantizeLinear (x, s, z)
            e = DequantizeLinear <axis = 1> (w, ws)
            f = DequantizeLinear <axis = 0> (i, one, iz)
            v = Gemm (d, e, b)
            y = QuantizeLinear (v, t, z)
        }}"
    );
    assert!(body.contains(from), "{from}");
    refusals_for(Qoperator {}, target, &model(&body.replace(from, to)))
}

#[test]
fn refuses_what_kernels_do_not_take() {
    let cpu = |from: &str, to: &str| reasons(Target::OnnxruntimeCpu, from, to).join("; ");
    assert_eq!(cpu("(v, t, z)", "(v, t, sz)"), "its result has codes of another type than what it reads");
    assert_eq!(cpu("axis = 1", "axis = 0"), "the scales of \"e\" are not along the axis of its channels");
    assert_eq!(cpu("e, b)", "e, computed)"), "its bias \"computed\" is computed");
    assert_eq!(
        cpu("e, b)", "e, large)"),
        "its bias \"large\" has numbers that int32 does not hold in units of both scales"
    );
    assert_eq!(cpu("e, b)", "e, f)"), "its bias \"f\" has a zero point that is not 0");
    assert_eq!(cpu("Gemm (d", "Gemm <alpha = 2.0> (d"), "alpha would multiply its bias too");
    assert_eq!(cpu("Gemm (d", "Gemm <beta = 2.0> (d"), "beta is not 1");
    assert_eq!(
        reasons(Target::Tensorrt, "(v, t", "(v, t"),
        ["tensorrt computes with codes where pairs stand, and alone there"]
    );
    assert_eq!(reasons(Target::Generic, "(v, t", "(v, t"), ["ONNX has no QGemm; onnxruntime-cpu has"]);
}
