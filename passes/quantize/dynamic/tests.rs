//! Graphs before and after.

use super::*;
use crate::testing::{check_for, check_with, refusals_for};

fn small() -> QuantizeDynamic {
    QuantizeDynamic { min_elements: 1, ..QuantizeDynamic::default() }
}

fn model(body: &str) -> String {
    format!(r#"<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {body}"#)
}

const TWO: &str = "g (float[N,S,2] x) => (float[N,S,2] y, float[N,S,2] z)
    <float[2,2] w = {1.0, 0.5, -1.0, 1.0}, float[2,2] v = {0.25, 4.0, 0.25, -4.0}, float[2] b = {1.0, 2.0}> {
        [first] m = MatMul (x, w)
        y = Add (b, m)
        [second] z = MatMul (x, v)
    }";

#[test]
fn products_share_the_quantized_activation_and_take_their_bias() {
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(TWO)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,2] x) => (float[N,S,2] y, float[N,S,2] z)
    <
      float[2] b = {1.0, 2.0},
      int8[2,2] w_int8 = {127, 42, -127, 85},
      float[2] w_scale = {0.007874016, 0.011811024},
      int8[2,2] v_int8 = {64, 127, 64, -127},
      float[2] v_scale = {0.003937008, 0.031496063}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      [first] y = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point, "", b)
      [second] z = com.microsoft.MatMulIntegerToFloat (x_quantized, v_int8, x_scale, v_scale, x_zero_point)
    }
    "#);
}

#[test]
fn any_runtime_gets_standard_operators() {
    insta::assert_snapshot!(check_with(small(), &model(TWO)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,2] x) => (float[N,S,2] y, float[N,S,2] z)
    <
      float[2] b = {1.0, 2.0},
      int8[2,2] w_int8 = {127, 42, -127, 85},
      float[2] w_scale = {0.007874016, 0.011811024},
      int8[2,2] v_int8 = {64, 127, 64, -127},
      float[2] v_scale = {0.003937008, 0.031496063}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      m_integer = MatMulInteger (x_quantized, w_int8, x_zero_point)
      m_sum = Cast <to = 1> (m_integer)
      m_unit = Mul (x_scale, w_scale)
      [first] m = Mul (m_sum, m_unit)
      y = Add (b, m)
      z_integer = MatMulInteger (x_quantized, v_int8, x_zero_point)
      z_sum = Cast <to = 1> (z_integer)
      z_unit = Mul (x_scale, v_scale)
      [second] z = Mul (z_sum, z_unit)
    }
    "#);
}

#[test]
fn gemm_with_factors() {
    let gemm = "g (float[N,2] x) => (float[N,3] y)
        <float[3,2] w = {1.0, 0.5, -1.0, 1.0, 0.0, 0.0}, float[1,3] b = {1.0, 2.0, 3.0}> {
            y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)
        }";
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(gemm)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,3] y)
    <
      int8[2,3] w_int8 = {85, -127, 0, 42, 127, 0},
      float[3] w_scale = {0.005905512, 0.003937008, 0.5},
      float[3] w_bias = {2.0, 4.0, 6.0}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point, "", w_bias)
    }
    "#);
    insta::assert_snapshot!(check_with(QuantizeDynamic { vnni: true, ..small() }, &model(gemm)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,3] y)
    <
      int8[2,3] w_int8 = {127, -127, 0, 64, 127, 0},
      float[3] w_scale = {0.003937008, 0.003937008, 0.5},
      float[3] w_bias = {2.0, 4.0, 6.0}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y_integer = MatMulInteger (x_quantized, w_int8, x_zero_point)
      y_sum = Cast <to = 1> (y_integer)
      y_unit = Mul (x_scale, w_scale)
      y_scaled = Mul (y_sum, y_unit)
      y = Add (y_scaled, w_bias)
    }
    "#);
}

#[test]
fn attention_is_taken_apart() {
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(
        "g (float[N,S,2] x, float[N,1,S,S] mask) => (float[N,S,2] y)
        <float[2,6] w = {1.0, 0.5, -1.0, 1.0, 0.0, 0.0, 1.0, 0.5, -1.0, 1.0, 0.0, 0.0}, float[6] b = {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}> {
            y = com.microsoft.Attention <num_heads = 2, scale = 0.5> (x, w, b, , , mask)
        }"
    )), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,S,2] x, float[N,1,S,S] mask) => (float[N,S,2] y)
    <
      float[6] b = {0.0, 1.0, 2.0, 3.0, 4.0, 5.0},
      int8[2,6] w_int8 = {64, 64, -64, 64, 0, 0, 64, 64, -64, 64, 0, 0},
      float[6] w_scale = {0.015748031, 0.007874016, 0.015748031, 0.015748031, 1.0, 1.0},
      int64[3] y_sizes = {2, 2, 2}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y_projected = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point, "", b)
      y_queries, y_keys, y_values = Split <axis = -1> (y_projected, y_sizes)
      y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.5> (y_queries, y_keys, y_values, "", "", mask)
    }
    "#);
}

#[test]
fn a_weight_of_several_products_is_stored_once() {
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(
        "g (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1.0, 0.5, -1.0, 1.0}> {
            y = MatMul (x, w)
            z = MatMul (y, w)
        }"
    )), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] z)
    <
      int8[2,2] w_int8 = {127, 42, -127, 85},
      float[2] w_scale = {0.007874016, 0.011811024}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point)
      y_quantized, y_scale, y_zero_point = DynamicQuantizeLinear (y)
      z = com.microsoft.MatMulIntegerToFloat (y_quantized, w_int8, y_scale, w_scale, y_zero_point)
    }
    "#);
}

#[test]
fn a_convolution_over_one_axis_becomes_a_product() {
    let conv = |attributes: &str| {
        model(&format!(
            "g (float[N,128,L,1] x) => (float[N,64,M,1] y) <float[64,128,3,1] w, float[64] b> {{
                y = Conv <{attributes}> (x, w, b)
            }}"
        ))
    };
    let attributes = "strides = [2, 1], dilations = [2, 1], pads = [1, 0, 2, 0]";
    let after = check_for(small(), Target::OnnxruntimeCpu, &conv(attributes));
    let (_, nodes) = after.split_once('{').unwrap();
    insta::assert_snapshot!(nodes[nodes.rfind('{').unwrap()..].to_owned(), @r#"
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y_channels_last = Transpose <perm = [0, 2, 3, 1]> (x_quantized)
      y_padded = Pad (y_channels_last, y_pads, x_zero_point)
      y_tap_0 = Slice (y_padded, y_from_0, y_to_0, y_axis, y_stride)
      y_tap_1 = Slice (y_padded, y_from_1, y_to_1, y_axis, y_stride)
      y_tap_2 = Slice (y_padded, y_from_2, y_to_2, y_axis, y_stride)
      y_windows = Concat <axis = 3> (y_tap_0, y_tap_1, y_tap_2)
      y_product = com.microsoft.MatMulIntegerToFloat (y_windows, w_int8, x_scale, w_scale, x_zero_point, "", b)
      y = Transpose <perm = [0, 3, 1, 2]> (y_product)
    }
    "#);
    let stays = |attributes: &str| refusals_for(small(), Target::OnnxruntimeCpu, &conv(attributes));
    assert!(stays("pads = [0, 1, 0, 1]")[0].contains("several axes"));
    assert!(stays("auto_pad = \"SAME_UPPER\"")[0].contains("several axes"));
}

#[test]
fn rows_of_a_table_are_widened_after_they_are_picked() {
    let table =
        "g (int64[N,S] i) => (float[N,S,2] y, float[N,S,2] z) <float[3,2] t = {1.0, 0.5, -1.27, 1.0, 0.0, 2.54}> {
        y = Gather (t, i)
        z = Gather <axis = 0> (t, i)
    }";
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(table)), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (int64[N,S] i) => (float[N,S,2] y, float[N,S,2] z)
    <
      int8[3,2] t_int8 = {100, 25, -127, 50, 0, 127},
      float[2] t_scale = {0.01, 0.02}
    >
    {
      y_int8 = Gather (t_int8, i)
      y = DequantizeLinear <axis = -1> (y_int8, t_scale)
      z_int8 = Gather <axis = 0> (t_int8, i)
      z = DequantizeLinear <axis = -1> (z_int8, t_scale)
    }
    "#);
    let without = QuantizeDynamic { tables: false, ..small() };
    assert!(refusals_for(without, Target::OnnxruntimeCpu, &model(table)).is_empty());
}

#[test]
fn products_of_products_read_the_new_ones() {
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(
        "g (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1.0, 0.5, -1.0, 1.0}, float[2,2] v = {0.5, 0.5, 1.0, 1.0}, float[2] b = {1.0, 2.0}> {
            m = MatMul (x, w)
            y = Add (m, b)
            z = MatMul (y, v)
        }"
    )), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2] x) => (float[N,2] z)
    <
      float[2] b = {1.0, 2.0},
      int8[2,2] w_int8 = {127, 42, -127, 85},
      float[2] w_scale = {0.007874016, 0.011811024},
      int8[2,2] v_int8 = {42, 42, 85, 85},
      float[2] v_scale = {0.011811024, 0.011811024}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      y = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point, "", b)
      y_quantized, y_scale, y_zero_point = DynamicQuantizeLinear (y)
      z = com.microsoft.MatMulIntegerToFloat (y_quantized, v_int8, y_scale, v_scale, y_zero_point)
    }
    "#);
}

#[test]
fn a_sum_keeps_what_is_no_bias() {
    insta::assert_snapshot!(check_for(small(), Target::OnnxruntimeCpu, &model(
        "g (float[N,2] x, float[N,2] r) => (float[N,2] y, float[N,2] z)
        <float[2,2] w = {1.0, 0.5, -1.0, 1.0}, float[2,2] v = {1.0, 0.5, -1.0, 1.0}, float[2] b = {1.0, 2.0}> {
            m = MatMul (x, w)
            y = Sum (r, m, b)
            n = MatMul (y, v)
            z = Sum (n, r, b, x)
        }"
    )), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,2] x, float[N,2] r) => (float[N,2] y, float[N,2] z)
    <
      float[2] b = {1.0, 2.0},
      int8[2,2] w_int8 = {127, 42, -127, 85},
      float[2] w_scale = {0.007874016, 0.011811024},
      int8[2,2] v_int8 = {127, 42, -127, 85},
      float[2] v_scale = {0.007874016, 0.011811024}
    >
    {
      x_quantized, x_scale, x_zero_point = DynamicQuantizeLinear (x)
      m_1 = com.microsoft.MatMulIntegerToFloat (x_quantized, w_int8, x_scale, w_scale, x_zero_point, "", b)
      y = Add (m_1, r)
      y_quantized, y_scale, y_zero_point = DynamicQuantizeLinear (y)
      n_1 = com.microsoft.MatMulIntegerToFloat (y_quantized, v_int8, y_scale, v_scale, y_zero_point, "", b)
      z = Sum (n_1, r, x)
    }
    "#);
}

#[test]
fn refusals() {
    let of = |target, body: &str| refusals_for(small(), target, &model(body));
    let cpu = Target::OnnxruntimeCpu;
    insta::assert_debug_snapshot!(of(cpu, "g (float[N,2] x, int64[N] i) => (float[N,2] y, float[N,2] r) <float[2,2] w> { y = MatMul (x, w) r = Gather (w, i) }"), @r#"
    [
        "the weight \"w\" is read elsewhere too, so that both forms would be stored",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[N,2] x, float[N,2] c) => (float[N,2] y) <float[2,2] w> { y = Gemm (x, w, c) }"), @r#"
    [
        "its summand is no constant with one float for each column",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[2,N] x) => (float[N,2] y) <float[2,2] w> { y = Gemm <transA = 1> (x, w) }"), @r#"
    [
        "its left factor is transposed; `fuse` brings it into order where it can",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float16[N,2] x) => (float16[N,2] y) <float16[2,2] w> { y = MatMul (x, w) }"), @r#"
    [
        "its factors are not known to be float32, which alone is quantized dynamically",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[2] x) => (float[2] y) <float[2,2] w> { y = MatMul (x, w) }"), @r#"
    [
        "the rank of its left factor is not known, or below 2",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, nan, 1.0, 1.0}> { y = MatMul (x, w) }"), @r#"
    [
        "\"w\": it holds NaN, for which there is no scale",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[N,2,8,8] x) => (float[N,2,6,6] y) <float[2,2,3,3] w> { y = Conv (x, w) }"), @r#"
    [
        "it slides over several axes, or is small, where integers take longer than Conv; quantize it statically",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[T,N,2] x) => (float[T,1,N,2] y) <float[1,8,2] w, float[1,8,2] r> { y = LSTM <hidden_size = 2> (x, w, r) }"), @r#"
    [
        "a recurrent layer would quantize its state anew at every step, and its error would add up",
    ]
    "#);
    insta::assert_debug_snapshot!(of(cpu, "g (float[N,S,2] x, int32[N] mask) => (float[N,S,2] y) <float[2,6] w, float[6] b> { y = com.microsoft.Attention <num_heads = 1> (x, w, b, mask) }"), @r#"
    [
        "its mask, past or attributes have no counterpart in MultiHeadAttention",
    ]
    "#);
    // Products of activations, small weights, and weights that can be overridden are none of its concern.
    assert!(
        of(cpu, "g (float[N,2] x, float[2,2] w) => (float[N,2] y) <float[2,2] unused> { y = MatMul (x, w) }")
            .is_empty()
    );
}

#[test]
fn targets_without_it_are_told() {
    let model = planish_ir::text::parse(&model(TWO)).unwrap();
    for (target, part) in [(Target::Tensorrt, "constant scales"), (Target::OnnxruntimeGpu, "float16")] {
        let error = small().check(&model, target).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
