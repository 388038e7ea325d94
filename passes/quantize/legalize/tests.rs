//! Graphs before and after, by target.

use super::*;
use crate::testing::{check_for, refusals_for};

fn model(body: &str) -> String {
    format!(r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> {body}"#)
}

fn tensorrt(body: &str) -> String {
    check_for(Legalize {}, Target::Tensorrt, &model(body))
}

const PAIR: &str = "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)";

#[test]
fn a_grid_around_the_middle_keeps_its_numbers() {
    insta::assert_snapshot!(tensorrt(&format!("g (float[N,4] x) => (float[N,4] y) <float s = {{0.5}}, uint8 z = {{128}}> {{ {PAIR} }}")), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,4] x) => (float[N,4] y)
    <
      float s = {0.5},
      int8 z_symmetric = {0}
    >
    {
      q = QuantizeLinear (x, s, z_symmetric)
      y = DequantizeLinear (q, s, z_symmetric)
    }
    "#);
}

#[test]
fn another_grid_reaches_as_far_in_coarser_steps() {
    insta::assert_snapshot!(tensorrt(&format!("g (float[N,4] x) => (float[N,4] y) <float s = {{0.5}}, uint8 z = {{1}}> {{ {PAIR} }}")), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,4] x) => (float[N,4] y)
    <
      float s_symmetric = {1.0},
      int8 z_symmetric = {0}
    >
    {
      q = QuantizeLinear (x, s_symmetric, z_symmetric)
      y = DequantizeLinear (q, s_symmetric, z_symmetric)
    }
    "#);
}

#[test]
fn a_relu_that_the_grid_stood_for_comes_back() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,1,4,4] x) => (float[N,1,4,4] y, float[N,1,4,4] r, float[N,1,4,4] t) <float s = {1.27}, uint8 z = {0}, uint8 e = {255}> {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
            p = MaxPool <kernel_shape = [1, 1]> (y)
            a = QuantizeLinear (p, s, z)
            r = DequantizeLinear (a, s, z)
            b = QuantizeLinear (x, s, e)
            t = DequantizeLinear (b, s, e)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,1,4,4] x) => (float[N,1,4,4] y, float[N,1,4,4] r, float[N,1,4,4] t)
    <
      float s_symmetric = {2.55},
      int8 z_symmetric = {0},
      float s_symmetric_1 = {2.55},
      int8 z_symmetric_1 = {0},
      float s_symmetric_2 = {2.55},
      int8 e_symmetric = {0},
      float x_bound = {0.0}
    >
    {
      x_cut = Relu (x)
      q = QuantizeLinear (x_cut, s_symmetric, z_symmetric)
      y = DequantizeLinear (q, s_symmetric, z_symmetric)
      p = MaxPool <kernel_shape = [1, 1]> (y)
      a = QuantizeLinear (p, s_symmetric_1, z_symmetric_1)
      r = DequantizeLinear (a, s_symmetric_1, z_symmetric_1)
      x_cut_1 = Clip (x, "", x_bound)
      b = QuantizeLinear (x_cut_1, s_symmetric_2, e_symmetric)
      t = DequantizeLinear (b, s_symmetric_2, e_symmetric)
    }
    "#);
}

#[test]
fn weights_lose_their_zero_point() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,2] x) => (float[N,2] y, float[N,2] r)
        <uint8[2,2] w = {130, 2, 128, 255}, float[2] s = {0.5, 1.0}, uint8[2] z = {128, 128}, uint8[2,2] v = {255, 10, 0, 20}, uint8[2] u = {10, 10}> {
            a = DequantizeLinear (w, s, z)
            y = MatMul (x, a)
            b = DequantizeLinear (v, s, u)
            r = MatMul (x, b)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] y, float[N,2] r)
    <
      float[2] s = {0.5, 1.0},
      int8[2,2] w_int8 = {2, -126, 0, 127},
      int8[2] z_int8 = {0, 0},
      int8[2,2] v_int8 = {127, 0, -5, 10},
      float[2] s_symmetric = {0.96456695, 1.0},
      int8[2] u_int8 = {0, 0}
    >
    {
      a = DequantizeLinear (w_int8, s, z_int8)
      y = MatMul (x, a)
      b = DequantizeLinear (v_int8, s_symmetric, u_int8)
      r = MatMul (x, b)
    }
    "#);
}

#[test]
fn a_bias_becomes_a_float_and_a_vector_of_one_scale_a_scalar() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,2] x) => (float[N,2] y)
        <int8[2,2] w = {1, 2, 3, 4}, float[1] s = {0.5}, int32[2] b = {10, -3}, float[2] t = {0.25, 2.0}, int32[2] z = {0, 0}, int8[1] u = {0}> {
            a = DequantizeLinear (w, s, u)
            c = DequantizeLinear <axis = 0> (b, t, z)
            y = Gemm (x, a, c)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] y)
    <
      int8[2,2] w = {1, 2, 3, 4},
      float s = {0.5},
      int8 u = {0},
      float[2] c = {2.5, -6.0}
    >
    {
      a = DequantizeLinear (w, s, u)
      y = Gemm (x, a, c)
    }
    "#);
}

#[test]
fn operators_on_quantized_operands_become_pairs() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,2,4,4] x) => (float[N,2,1,1] y)
        <float s = {0.5}, int8 z = {0}, int8[2,2,1,1] w = {1, 2, 3, 4}, float[2] t = {0.5, 1.0}, int8[2] u = {0, 0}, int32[2] b = {10, -3}> {
            q = QuantizeLinear (x, s, z)
            c = QLinearConv (q, s, z, w, t, u, s, z, b)
            a = com.microsoft.QLinearAdd (c, s, z, q, s, z, s, z)
            m = com.microsoft.QLinearGlobalAveragePool (a, s, z, s, z)
            y = DequantizeLinear (m, s, z)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2,4,4] x) => (float[N,2,1,1] y)
    <
      float s = {0.5},
      int8 z = {0},
      int8[2,2,1,1] w = {1, 2, 3, 4},
      float[2] t = {0.5, 1.0},
      int8[2] u = {0, 0},
      float[2] b_dequantized = {2.5, -1.5}
    >
    {
      q = QuantizeLinear (x, s, z)
      q_dequantized = DequantizeLinear (q, s, z)
      w_dequantized = DequantizeLinear <axis = 0> (w, t, u)
      c_real = Conv (q_dequantized, w_dequantized, b_dequantized)
      c = QuantizeLinear (c_real, s, z)
      c_dequantized = DequantizeLinear (c, s, z)
      q_dequantized_1 = DequantizeLinear (q, s, z)
      a_real = Add (c_dequantized, q_dequantized_1)
      a = QuantizeLinear (a_real, s, z)
      a_dequantized = DequantizeLinear (a, s, z)
      m_real = GlobalAveragePool (a_dequantized)
      m = QuantizeLinear (m_real, s, z)
      y = DequantizeLinear (m, s, z)
    }
    "#);
}

#[test]
fn what_reads_an_asymmetric_grid_may_be_written_out_first() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float s = {0.5}, uint8 z = {128}, int8[2,2,1,1] w = {1, 2, 3, 4}, float[2] t = {0.5, 1.0}, int8[2] u = {0, 0}> {
            q = QuantizeLinear (x, s, z)
            c = QLinearConv (q, s, z, w, t, u, s, z)
            a = com.microsoft.QLinearAdd (c, s, z, q, s, z, s, z)
            y = DequantizeLinear (a, s, z)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <
      float s = {0.5},
      int8[2,2,1,1] w = {1, 2, 3, 4},
      float[2] t = {0.5, 1.0},
      int8[2] u = {0, 0},
      int8 z_symmetric = {0},
      int8 z_symmetric_1 = {0},
      int8 z_symmetric_2 = {0}
    >
    {
      q = QuantizeLinear (x, s, z_symmetric_1)
      q_dequantized = DequantizeLinear (q, s, z_symmetric_1)
      w_dequantized = DequantizeLinear <axis = 0> (w, t, u)
      c_real = Conv (q_dequantized, w_dequantized)
      c = QuantizeLinear (c_real, s, z_symmetric_2)
      c_dequantized = DequantizeLinear (c, s, z_symmetric_2)
      q_dequantized_1 = DequantizeLinear (q, s, z_symmetric_1)
      a_real = Add (c_dequantized, q_dequantized_1)
      a = QuantizeLinear (a_real, s, z_symmetric)
      y = DequantizeLinear (a, s, z_symmetric)
    }
    "#);
}

#[test]
fn a_gemm_without_quantized_result_and_a_concatenation() {
    insta::assert_snapshot!(check_for(Legalize {}, Target::Generic, &model(
        "g (uint8[N,2] q) => (float[N,3] y, uint8[N,4] r)
        <float s = {0.5}, uint8 z = {128}, int8[3,2] w = {1, 2, 3, 4, 5, 6}, float[3] t = {0.5, 1.0, 2.0}, int8[3] u = {0, 0, 0}> {
            y = com.microsoft.QGemm <transB = 1, alpha = 0.5> (q, s, z, w, t, u)
            r = com.microsoft.QLinearConcat <axis = 1> (s, z, q, s, z, q, s, z)
        }"
    )), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (uint8[N,2] q) => (float[N,3] y, uint8[N,4] r)
    <
      float s = {0.5},
      uint8 z = {128},
      int8[3,2] w = {1, 2, 3, 4, 5, 6},
      float[3] t = {0.5, 1.0, 2.0},
      int8[3] u = {0, 0, 0}
    >
    {
      q_dequantized = DequantizeLinear (q, s, z)
      w_dequantized = DequantizeLinear <axis = 0> (w, t, u)
      y = Gemm <alpha = 0.5, transB = 1> (q_dequantized, w_dequantized)
      q_dequantized_1 = DequantizeLinear (q, s, z)
      q_dequantized_2 = DequantizeLinear (q, s, z)
      r_real = Concat <axis = 1> (q_dequantized_1, q_dequantized_2)
      r = QuantizeLinear (r_real, s, z)
    }
    "#);
}

#[test]
fn signed_activations_get_signed_weights_on_the_cpu() {
    insta::assert_snapshot!(check_for(Legalize {}, Target::OnnxruntimeCpu, &model(
        "g (float[N,2] x) => (float[N,2] y)
        <float s = {0.5}, int8 z = {3}, uint8[2,2] w = {130, 2, 128, 255}, float[2] t = {0.5, 1.0}, uint8[2] u = {128, 7}> {
            q = QuantizeLinear (x, s, z)
            a = DequantizeLinear (q, s, z)
            b = DequantizeLinear (w, t, u)
            y = MatMul (a, b)
        }"
    )), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] y)
    <
      float s = {0.5},
      int8 z = {3},
      float[2] t = {0.5, 1.0},
      int8[2,2] w_int8 = {2, -126, 0, 127},
      int8[2] u_int8 = {0, -121}
    >
    {
      q = QuantizeLinear (x, s, z)
      a = DequantizeLinear (q, s, z)
      b = DequantizeLinear (w_int8, t, u_int8)
      y = MatMul (a, b)
    }
    "#);
}

#[test]
fn operators_of_onnxruntime_that_onnx_has_now() {
    insta::assert_snapshot!(tensorrt(
        "g (float[N,2] x) => (float[N,2] y) <float s = {0.5}, int8 z = {0}> {
            q = com.microsoft.QuantizeLinear (x, s, z)
            y = com.microsoft.DequantizeLinear (q, s, z)
        }"
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] y)
    <
      float s = {0.5},
      int8 z = {0}
    >
    {
      q = QuantizeLinear (x, s, z)
      y = DequantizeLinear (q, s, z)
    }
    "#);
}

#[test]
fn refusals() {
    let of = |body: &str| refusals_for(Legalize {}, Target::Tensorrt, &model(body));
    let grid = "float s = {0.5}, uint8 z = {128}";
    insta::assert_debug_snapshot!(of(&format!("g (float[N,4] x) => (uint8[N,4] q) <{grid}> {{ q = QuantizeLinear (x, s, z) }}")), @r#"
    [
        "its codes are an output of the model, whose type has to stay",
    ]
    "#);
    insta::assert_debug_snapshot!(of(&format!("g (uint8[N,4] q) => (float[N,4] y) <{grid}> {{ y = DequantizeLinear (q, s, z) }}")), @r#"
    [
        "its codes are an input of the model, or come from an operator on integers, so their type has to stay",
    ]
    "#);
    insta::assert_debug_snapshot!(of(&format!("g (float[N,4] x) => (float[N,4] y) <{grid}, float t = {{0.25}}> {{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, t, z) }}")), @r#"
    [
        "its codes are read by something else than a DequantizeLinear of the same grid",
    ]
    "#);
    insta::assert_debug_snapshot!(of("g (float[N,4] x, float s) => (float[N,4] y) <uint8 z = {128}> { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"), @r#"
    [
        "its scale is computed",
    ]
    "#);
    insta::assert_debug_snapshot!(of("g (float[N,4] x) => (float[N,4] y) <float s = {0.5}, uint16 z = {128}> { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"), @r#"
    [
        "only grids of uint8 and int8 are made symmetric",
    ]
    "#);
    insta::assert_debug_snapshot!(of("g (int8[N,4,4,2] q) => (int8[N,1,1,2] y) <float s = {0.5}, int8 z = {0}> { y = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (q, s, z, s, z) }"), @r#"
    [
        "its channels lie behind the spatial axes; export the model without that layout",
    ]
    "#);
}
