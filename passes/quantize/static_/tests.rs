use super::*;
use crate::{
    Tensors,
    testing::{check_calibrated, drawn, refusals_calibrated},
};

const CPU: Target = Target::OnnxruntimeCpu;

fn samples(inputs: &[(&str, &[u64])]) -> Vec<Tensors> {
    vec![inputs.iter().map(|(name, dims)| ((*name).to_owned(), drawn(name, dims))).collect()]
}

fn image() -> Vec<Tensors> {
    samples(&[("x", &[1, 2, 4, 4])])
}

fn quantized(target: Target, samples: &[Tensors], text: &str) -> String {
    // The smallest and the largest number are easier to follow than what has the least error.
    let pass = Quantize { observer: Observer::MinMax, ..Quantize::default() };
    check_calibrated(pass, target, samples, text)
}

#[test]
fn a_convolution_takes_the_rectifier_and_gives_codes() {
    insta::assert_snapshot!(quantized(
        CPU,
        &image(),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w = {1.0, 0.5, -0.25, 2.0}, float[2] b = {0.5, -0.5}> {
            [conv] c = Conv (x, w, b)
            y = Relu (c)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <
      int8[2,2,1,1] w_quantized = {85, 42, -16, 127},
      float[2] w_dequantized_scale = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point = {0, 0},
      int32[2] b_quantized = {5538, -4154},
      float[2] b_scale = {9.027892e-5, 0.000120371886},
      float x_quantized_scale = {0.007643615},
      uint8 x_quantized_zero_point = {130},
      float y_quantized_scale = {0.0038800717},
      uint8 y_quantized_zero_point = {0}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 0> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      b_dequantized = DequantizeLinear <axis = 0> (b_quantized, b_scale)
      [conv] c = Conv (x_dequantized, w_dequantized, b_dequantized)
      y_1 = Relu (c)
      y_quantized = QuantizeLinear (y_1, y_quantized_scale, y_quantized_zero_point)
      y = DequantizeLinear (y_quantized, y_quantized_scale, y_quantized_zero_point)
    }
    "#);
}

#[test]
fn an_output_of_the_graph_is_not_rounded_behind_a_matrix_product() {
    insta::assert_snapshot!(quantized(
        CPU,
        &samples(&[("x", &[1, 2])]),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2] x) => (float[N,2] y)
        <float[2,2] w = {1.0, 0.5, -0.25, 2.0}, float[2] b = {0.5, -0.5}> {
            h = Gemm (x, w, b)
            r = Relu (h)
            y = MatMul (r, w)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,2] y)
    <
      int8[2,2] w_quantized = {127, 25, -32, 102},
      float[2] w_dequantized_scale = {0.007874016, 0.01968504},
      int8[2] w_dequantized_zero_point = {0, 0},
      int32[2] b_quantized = {16442, -6577},
      float[2] b_scale = {3.0410574e-5, 7.602644e-5},
      float x_quantized_scale = {0.003862143},
      uint8 x_quantized_zero_point = {169},
      float r_quantized_scale = {1.0},
      uint8 r_quantized_zero_point = {0},
      int8[2,2] w_quantized_1 = {127, 25, -32, 102},
      float[2] w_dequantized_scale_1 = {0.007874016, 0.01968504},
      int8[2] w_dequantized_zero_point_1 = {0, 0}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 1> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      b_dequantized = DequantizeLinear <axis = 0> (b_quantized, b_scale)
      h = Gemm (x_dequantized, w_dequantized, b_dequantized)
      r_1 = Relu (h)
      r_quantized = QuantizeLinear (r_1, r_quantized_scale, r_quantized_zero_point)
      r = DequantizeLinear (r_quantized, r_quantized_scale, r_quantized_zero_point)
      w_dequantized_1 = DequantizeLinear <axis = 1> (w_quantized_1, w_dequantized_scale_1, w_dequantized_zero_point_1)
      y = MatMul (r, w_dequantized_1)
    }
    "#);
}

#[test]
fn sums_pools_and_views_between_convolutions_stay_in_codes() {
    insta::assert_snapshot!(quantized(
        CPU,
        &image(),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2,4,4] x) => (float[N,2] y)
        <float[2,2,1,1] w = {1.0, 0.5, -0.25, 2.0}, float[2,2] v = {1.0, 0.5, -0.25, 2.0}> {
            a = Conv (x, w)
            b = Conv (a, w)
            s = Add (a, b)
            m = MaxPool <kernel_shape = [2, 2]> (s)
            p = GlobalAveragePool (m)
            f = Flatten (p)
            y = Gemm (f, v)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2,4,4] x) => (float[N,2] y)
    <
      int8[2,2,1,1] w_quantized = {85, 42, -16, 127},
      float[2] w_dequantized_scale = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point = {0, 0},
      float x_quantized_scale = {0.007643615},
      uint8 x_quantized_zero_point = {130},
      float a_quantized_scale = {0.006936604},
      uint8 a_quantized_zero_point = {143},
      int8[2,2,1,1] w_quantized_1 = {85, 42, -16, 127},
      float[2] w_dequantized_scale_1 = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point_1 = {0, 0},
      float b_quantized_scale = {0.007202017},
      uint8 b_quantized_zero_point = {129},
      float s_quantized_scale = {0.007491421},
      uint8 s_quantized_zero_point = {124},
      float p_quantized_scale = {0.0007526248},
      uint8 p_quantized_zero_point = {255},
      int8[2,2] v_quantized = {127, 25, -32, 102},
      float[2] v_dequantized_scale = {0.007874016, 0.01968504},
      int8[2] v_dequantized_zero_point = {0, 0}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 0> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      a_1 = Conv (x_dequantized, w_dequantized)
      a_quantized = QuantizeLinear (a_1, a_quantized_scale, a_quantized_zero_point)
      a = DequantizeLinear (a_quantized, a_quantized_scale, a_quantized_zero_point)
      w_dequantized_1 = DequantizeLinear <axis = 0> (w_quantized_1, w_dequantized_scale_1, w_dequantized_zero_point_1)
      b_1 = Conv (a, w_dequantized_1)
      b_quantized = QuantizeLinear (b_1, b_quantized_scale, b_quantized_zero_point)
      b = DequantizeLinear (b_quantized, b_quantized_scale, b_quantized_zero_point)
      s_1 = Add (a, b)
      s_quantized = QuantizeLinear (s_1, s_quantized_scale, s_quantized_zero_point)
      s = DequantizeLinear (s_quantized, s_quantized_scale, s_quantized_zero_point)
      m_1 = MaxPool <kernel_shape = [2, 2]> (s)
      m_quantized = QuantizeLinear (m_1, s_quantized_scale, s_quantized_zero_point)
      m = DequantizeLinear (m_quantized, s_quantized_scale, s_quantized_zero_point)
      p_1 = GlobalAveragePool (m)
      p_quantized = QuantizeLinear (p_1, p_quantized_scale, p_quantized_zero_point)
      p = DequantizeLinear (p_quantized, p_quantized_scale, p_quantized_zero_point)
      f_1 = Flatten (p)
      f_quantized = QuantizeLinear (f_1, p_quantized_scale, p_quantized_zero_point)
      f = DequantizeLinear (f_quantized, p_quantized_scale, p_quantized_zero_point)
      v_dequantized = DequantizeLinear <axis = 1> (v_quantized, v_dequantized_scale, v_dequantized_zero_point)
      y = Gemm (f, v_dequantized)
    }
    "#);
}

#[test]
fn gates_are_sums_and_products_whose_codes_saturate() {
    insta::assert_snapshot!(quantized(
        CPU,
        &image(),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w = {1.0, 0.5, -0.25, 2.0}, float three = {3.0}> {
            a = Conv (x, w)
            [swish] h = HardSwish (a)
            s = Mul (h, three)
            y = Conv (s, w)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <
      int8[2,2,1,1] w_quantized = {85, 42, -16, 127},
      float[2] w_dequantized_scale = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point = {0, 0},
      float x_quantized_scale = {0.007643615},
      uint8 x_quantized_zero_point = {130},
      float a_quantized_scale = {0.006936604},
      uint8 a_quantized_zero_point = {143},
      float swish_gate_scaled_scale = {0.0011561008},
      uint8 swish_gate_scaled_zero_point = {143},
      uint8 swish_gate_one = {1},
      float swish_gate_shift_scale = {0.5},
      uint8 swish_gate_shift_zero_point = {0},
      float swish_gate_quantized_scale = {0.003921569},
      uint8 swish_gate_quantized_zero_point = {0},
      float swish_quantized_scale = {0.0069276085},
      uint8 swish_quantized_zero_point = {117},
      float s_dequantized_scale = {0.020782825},
      uint8 s_dequantized_zero_point = {117},
      int8[2,2,1,1] w_quantized_1 = {85, 42, -16, 127},
      float[2] w_dequantized_scale_1 = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point_1 = {0, 0},
      float y_quantized_scale = {0.0075454786},
      uint8 y_quantized_zero_point = {124}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 0> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      a = Conv (x_dequantized, w_dequantized)
      a_quantized = QuantizeLinear (a, a_quantized_scale, a_quantized_zero_point)
      a_dequantized = DequantizeLinear (a_quantized, a_quantized_scale, a_quantized_zero_point)
      swish_gate_scaled = DequantizeLinear (a_quantized, swish_gate_scaled_scale, swish_gate_scaled_zero_point)
      swish_gate_shift = DequantizeLinear (swish_gate_one, swish_gate_shift_scale, swish_gate_shift_zero_point)
      [swish_gate] swish_gate_sum = Add (swish_gate_scaled, swish_gate_shift)
      swish_gate_quantized = QuantizeLinear (swish_gate_sum, swish_gate_quantized_scale, swish_gate_quantized_zero_point)
      swish_gate_dequantized = DequantizeLinear (swish_gate_quantized, swish_gate_quantized_scale, swish_gate_quantized_zero_point)
      [swish] swish_product = Mul (a_dequantized, swish_gate_dequantized)
      swish_quantized = QuantizeLinear (swish_product, swish_quantized_scale, swish_quantized_zero_point)
      s = DequantizeLinear (swish_quantized, s_dequantized_scale, s_dequantized_zero_point)
      w_dequantized_1 = DequantizeLinear <axis = 0> (w_quantized_1, w_dequantized_scale_1, w_dequantized_zero_point_1)
      y_1 = Conv (s, w_dequantized_1)
      y_quantized = QuantizeLinear (y_1, y_quantized_scale, y_quantized_zero_point)
      y = DequantizeLinear (y_quantized, y_quantized_scale, y_quantized_zero_point)
    }
    "#);
}

#[test]
fn attention_and_norms_keep_floats_between_matrix_products() {
    insta::assert_snapshot!(quantized(
        CPU,
        &samples(&[("x", &[1, 3, 2])]),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,T,2] x) => (float[N,T,2] y)
        <float[2,2] q = {1.0, 0.5, -0.25, 2.0}, float[2,2] k = {1.0, 0.5, -0.25, 2.0}, float[2] s = {1.0, 1.0}> {
            n = LayerNormalization (x, s)
            a = MatMul (n, q)
            b = MatMul (n, k)
            c = Softmax (b)
            y = Mul (a, c)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,T,2] x) => (float[N,T,2] y)
    <
      float[2] s = {1.0, 1.0},
      int8[2,2] q_quantized = {127, 25, -32, 102},
      float[2] q_dequantized_scale = {0.007874016, 0.01968504},
      int8[2] q_dequantized_zero_point = {0, 0},
      float n_quantized_scale = {0.005974332},
      uint8 n_quantized_zero_point = {150},
      int8[2,2] k_quantized = {127, 25, -32, 102},
      float[2] k_dequantized_scale = {0.007874016, 0.01968504},
      int8[2] k_dequantized_zero_point = {0, 0}
    >
    {
      n = LayerNormalization (x, s)
      n_quantized = QuantizeLinear (n, n_quantized_scale, n_quantized_zero_point)
      n_dequantized = DequantizeLinear (n_quantized, n_quantized_scale, n_quantized_zero_point)
      q_dequantized = DequantizeLinear <axis = 1> (q_quantized, q_dequantized_scale, q_dequantized_zero_point)
      a = MatMul (n_dequantized, q_dequantized)
      k_dequantized = DequantizeLinear <axis = 1> (k_quantized, k_dequantized_scale, k_dequantized_zero_point)
      b = MatMul (n_dequantized, k_dequantized)
      c = Softmax (b)
      y = Mul (a, c)
    }
    "#);
}

#[test]
fn tensorrt_wants_codes_at_inputs_and_on_the_residual_branch() {
    insta::assert_snapshot!(quantized(
        Target::Tensorrt,
        &image(),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w = {1.0, 0.5, -0.25, 2.0}, float[2] b = {0.5, -0.5}> {
            a = Conv (x, w, b)
            r = Relu (a)
            c = Conv (r, w)
            s = Add (c, r)
            y = Relu (s)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <
      float[2] b = {0.5, -0.5},
      int8[2,2,1,1] w_quantized = {127, 64, -16, 127},
      float[2] w_dequantized_scale = {0.007874016, 0.015748031},
      int8[2] w_dequantized_zero_point = {0, 0},
      float x_quantized_scale = {0.007822956},
      int8 x_quantized_zero_point = {0},
      int8[2,2,1,1] w_quantized_1 = {127, 64, -16, 127},
      float[2] w_dequantized_scale_1 = {0.007874016, 0.015748031},
      int8[2] w_dequantized_zero_point_1 = {0, 0},
      float r_quantized_scale = {0.0076651084},
      int8 r_quantized_zero_point = {0}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 0> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      a = Conv (x_dequantized, w_dequantized, b)
      r = Relu (a)
      r_quantized = QuantizeLinear (r, r_quantized_scale, r_quantized_zero_point)
      r_dequantized = DequantizeLinear (r_quantized, r_quantized_scale, r_quantized_zero_point)
      w_dequantized_1 = DequantizeLinear <axis = 0> (w_quantized_1, w_dequantized_scale_1, w_dequantized_zero_point_1)
      c = Conv (r_dequantized, w_dequantized_1)
      s = Add (c, r_dequantized)
      y = Relu (s)
    }
    "#);
}

#[test]
fn float8_has_codes_of_floats() {
    let pass = Quantize { scheme: Scheme::Fp8, ..Quantize::default() };
    insta::assert_snapshot!(check_calibrated(
        pass,
        Target::Tensorrt,
        &samples(&[("x", &[1, 2])]),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, 0.5, -0.25, 2.0}> { y = MatMul (x, w) }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,2] y)
    <
      float8e4m3fn[2,2] w_quantized = {126, 110, 238, 126},
      float[2] w_dequantized_scale = {0.002232143, 0.004464286},
      float8e4m3fn[2] w_dequantized_zero_point = {0, 0},
      float x_quantized_scale = {0.0014585422},
      float8e4m3fn x_quantized_zero_point = {0}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 1> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      y = MatMul (x_dequantized, w_dequantized)
    }
    "#);
}

#[test]
fn sixteen_bits_for_activations_only() {
    let pass = Quantize { scheme: Scheme::Int16, per_channel: false, ..Quantize::default() };
    insta::assert_snapshot!(check_calibrated(
        pass,
        Target::Generic,
        &samples(&[("x", &[1, 2])]),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1.0, 0.5, -0.25, 2.0}> { y = MatMul (x, w) }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,2] y)
    <
      int8[2,2] w_quantized = {64, 32, -16, 127},
      float w_dequantized_scale = {0.015748031},
      int8 w_dequantized_zero_point = {0},
      float x_quantized_scale = {1.5027794e-5},
      uint16 x_quantized_zero_point = {43481}
    >
    {
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      y = MatMul (x_dequantized, w_dequantized)
    }
    "#);
}

#[test]
fn a_clip_is_taken_in_where_its_bounds_are_beyond_the_codes() {
    let text = |low: &str| {
        format!(
            r#"<ir_version: 10, opset_import: ["" : 21]> g (float[N,2,4,4] x) => (float[N,2,4,4] y)
            <float[2,2,1,1] w = {{1.0, 0.5, -0.25, 2.0}}, float low = {{{low}}}, float high = {{0.75}}> {{
                a = Conv (x, w)
                c = Clip (a, low, high)
                y = Conv (c, w)
            }}"#
        )
    };
    let scale_of = |text: &str| {
        let after = quantized(CPU, &image(), text);
        after
            .lines()
            .filter(|l| l.contains("c_quantized_") || l.contains(" Clip "))
            .map(|l| l.trim().to_owned())
            .collect::<Vec<_>>()
    };
    insta::assert_debug_snapshot!(scale_of(&text("0")), @r#"
    [
        "float c_quantized_scale = {0.0029411765},",
        "uint8 c_quantized_zero_point = {0},",
        "c_1 = Clip (a, low, high)",
        "c_quantized = QuantizeLinear (c_1, c_quantized_scale, c_quantized_zero_point)",
        "c = DequantizeLinear (c_quantized, c_quantized_scale, c_quantized_zero_point)",
    ]
    "#);
    insta::assert_debug_snapshot!(scale_of(&text("0.1")), @r#"
    [
        "float c_quantized_scale = {0.007668494},",
        "uint8 c_quantized_zero_point = {128},",
        "c = Clip (a, low, high)",
        "c_quantized = QuantizeLinear (c, c_quantized_scale, c_quantized_zero_point)",
        "c_dequantized = DequantizeLinear (c_quantized, c_quantized_scale, c_quantized_zero_point)",
    ]
    "#);
}

#[test]
fn a_constant_summand_is_rounded_too() {
    insta::assert_snapshot!(quantized(
        CPU,
        &image(),
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] w = {1.0, 0.5, -0.25, 2.0}, float[1,2,1,1] shift = {-1.0, 0.5}> {
            a = Conv (x, w)
            s = Add (shift, a)
            y = Conv (s, w)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2,4,4] x) => (float[N,2,4,4] y)
    <
      int8[2,2,1,1] w_quantized = {85, 42, -16, 127},
      float[2] w_dequantized_scale = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point = {0, 0},
      float x_quantized_scale = {0.007643615},
      uint8 x_quantized_zero_point = {130},
      float a_quantized_scale = {0.006936604},
      uint8 a_quantized_zero_point = {143},
      uint8[1,2,1,1] shift_quantized = {0, 255},
      float shift_dequantized_scale = {0.0058823535},
      uint8 shift_dequantized_zero_point = {170},
      float s_quantized_scale = {0.007491421},
      uint8 s_quantized_zero_point = {124},
      int8[2,2,1,1] w_quantized_1 = {85, 42, -16, 127},
      float[2] w_dequantized_scale_1 = {0.011811024, 0.015748031},
      int8[2] w_dequantized_zero_point_1 = {0, 0},
      float y_quantized_scale = {0.0075454786},
      uint8 y_quantized_zero_point = {124}
    >
    {
      shift_dequantized = DequantizeLinear (shift_quantized, shift_dequantized_scale, shift_dequantized_zero_point)
      x_quantized = QuantizeLinear (x, x_quantized_scale, x_quantized_zero_point)
      x_dequantized = DequantizeLinear (x_quantized, x_quantized_scale, x_quantized_zero_point)
      w_dequantized = DequantizeLinear <axis = 0> (w_quantized, w_dequantized_scale, w_dequantized_zero_point)
      a_1 = Conv (x_dequantized, w_dequantized)
      a_quantized = QuantizeLinear (a_1, a_quantized_scale, a_quantized_zero_point)
      a = DequantizeLinear (a_quantized, a_quantized_scale, a_quantized_zero_point)
      s_1 = Add (shift_dequantized, a)
      s_quantized = QuantizeLinear (s_1, s_quantized_scale, s_quantized_zero_point)
      s = DequantizeLinear (s_quantized, s_quantized_scale, s_quantized_zero_point)
      w_dequantized_1 = DequantizeLinear <axis = 0> (w_quantized_1, w_dequantized_scale_1, w_dequantized_zero_point_1)
      y_1 = Conv (s, w_dequantized_1)
      y_quantized = QuantizeLinear (y_1, y_quantized_scale, y_quantized_zero_point)
      y = DequantizeLinear (y_quantized, y_quantized_scale, y_quantized_zero_point)
    }
    "#);
}

/// Runs the pass for a target on a graph that it must leave alone.
fn refusal(target: Target, inputs: &str, weights: &str, nodes: &str) -> String {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g ({inputs}) => (float y) <{weights}> {{ {nodes} }}"#
    );
    refusals_calibrated(Quantize::default(), target, &[Tensors::new()], &text).join("\n")
}

#[test]
fn refuses() {
    let x = "float[1,2,4,4] x";
    let w = "float[2,2,1,1] w";
    insta::assert_snapshot!(refusal(CPU, "float[1,2,4,4] x, float[2,2,1,1] v", w, "y = Conv (x, v)"), @"its weight is no constant");
    insta::assert_snapshot!(refusal(CPU, x, "float[2,2,1,1] w, float[2,2,1,1] v", "[up] y = ConvTranspose (x, w)"), @"onnxruntime has no kernel for transposed convolutions of codes");
    insta::assert_snapshot!(refusal(Target::Generic, x, "float[2,1,1,1] w", "y = ConvTranspose <group = 2> (x, w)"), @"it is a transposed convolution in groups, of which axis 1 holds only one");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x, float[2,2] v", "float u", "y = MatMul (x, v)"), @"it multiplies two activations, which gains little and costs precision");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x", "float[2,2] w", "y = MatMul (w, x)"), @"the weight is its left factor, which has no kernel for codes");
    insta::assert_snapshot!(refusal(CPU, "float[2,2,2] x", "float[2,2,2] w", "y = MatMul (x, w)"), @"its weight is no matrix");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x", "float[2,2] w", "y = Gemm <alpha = 0.5> (x, w)"), @"it transposes its input, or has alpha or beta other than 1");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x", "float[2,2] w, float b", "y = Gemm (x, w, b)"), @"its bias is not one number for each output channel");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x, float[2] b", "float[2,2] w", "y = Gemm (x, w, b)"), @"its bias is no constant");
    insta::assert_snapshot!(refusal(CPU, "float16[2,2] x", "float16[2,2] w", "z = MatMul (x, w) y = Cast <to = 1> (z)"), @"it does not compute in float32");
    insta::assert_snapshot!(refusal(CPU, x, w, r#"y = com.microsoft.FusedConv <activation = "Relu"> (x, w)"#), @"a convolution that is fused with its activation has no kernel for codes");
    insta::assert_snapshot!(refusal(CPU, "int8[2,2] q", "float[2,2] w, float s", "d = DequantizeLinear (q, s) y = MatMul (d, w)"), @"it is quantized already");
    insta::assert_snapshot!(refusal(CPU, "float[2,2] x", "int8[2,2] w, float s", "d = DequantizeLinear (w, s) y = MatMul (x, d)"), @"its weight is quantized already");
}

#[test]
fn an_overridable_weight_is_no_constant() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]> g (float[1,2,4,4] x, float[2,2,1,1] w) => (float[1,2,4,4] y)
        <float[2,2,1,1] w> { y = Conv (x, w) }"#;
    assert_eq!(refusals_calibrated(Quantize::default(), CPU, &[Tensors::new()], text), ["its weight is no constant"]);
}

#[test]
fn what_the_user_does_not_want_stays() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]> g (float[1,2] x) => (float[1,2] y)
        <float[2,2] first, float[2,2] second> { [head_1] h = MatMul (x, first) [tail] y = MatMul (h, second) }"#;
    let reasons = |pass: Quantize| refusals_calibrated(pass, CPU, &[Tensors::new()], text);
    let exclude = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let listed = "it is listed in `exclude`";
    assert_eq!(reasons(Quantize { exclude: exclude(&["head*", "second"]), ..Quantize::default() }), [listed; 2]);
    assert_eq!(reasons(Quantize { exclude: exclude(&["*"]), ..Quantize::default() }), [listed; 2]);
    let operators = Quantize { operators: vec!["Conv".to_owned()], ..Quantize::default() };
    assert_eq!(reasons(operators), ["its operator is not listed in `operators`"; 2]);
}

#[test]
fn patterns() {
    for (pattern, name, is_match) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("*b", "abc", false),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abde", false),
        ("*", "", true),
    ] {
        assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
    }
}

#[test]
fn schemes_need_their_operator_set_and_their_target() {
    let error = |scheme: Scheme, target: Target, opset: i64| {
        let text = format!(r#"<ir_version: 7, opset_import: ["" : {opset}]> g (float x) => (float x) {{}}"#);
        let model = planish_ir::text::parse(&text).unwrap();
        let cx = Context { target, ..Context::bare() };
        Quantize { scheme, ..Quantize::default() }.transform(&model, &cx).unwrap_err().to_string()
    };
    insta::assert_snapshot!(error(Scheme::Int8, CPU, 12), @"the model has opset 12, and this scheme needs 13 or later; run `raise-opset` first");
    insta::assert_snapshot!(error(Scheme::Int16, CPU, 21), @"onnxruntime has no kernels for 16-bit activations on CPUs; choose another scheme or target");
    insta::assert_snapshot!(error(Scheme::Fp8, CPU, 21), @"onnxruntime has no kernels for float8 on CPUs; choose another scheme or target");
    insta::assert_snapshot!(error(Scheme::Int16, Target::Tensorrt, 21), @"TensorRT has no 16-bit integers; choose another scheme or target");
    insta::assert_snapshot!(error(Scheme::Fp8, Target::Tensorrt, 18), @"the model has opset 18, and this scheme needs 19 or later; run `raise-opset` first");
    insta::assert_snapshot!(error(Scheme::Int8, CPU, 13), @"it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, or give --calibration FILE");
}
