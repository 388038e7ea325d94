use super::*;
use crate::testing::{check_for, check_with, refusals_for};

fn small(bits: u32) -> QuantizeWeights {
    QuantizeWeights { bits, min_elements: 1, ..QuantizeWeights::default() }
}

const LINEAR: &str = r#"<ir_version: 10, opset_import: ["" : 21]>
    g (float[B,3,40] x) => (float[B,3,2] y) <float[40,2] w> { y = MatMul (x, w) }"#;

#[test]
fn blocks_lie_along_what_is_summed_over() {
    insta::assert_snapshot!(check_with(small(4), LINEAR), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[B,3,40] x) => (float[B,3,2] y)
    <
      uint4[40,2] w_uint4,  # 7f383ffbb1eb, 80 elements, 5 % zeros
      float[2,2] w_scale = {0.03381915, 0.03131598, 0.036257166, 0.03570929},
      uint4[2,2] w_zero_point = {136, 137}  # 8, 8, 9, 8
    >
    {
      w_dequantized = DequantizeLinear <axis = 0, block_size = 32> (w_uint4, w_scale, w_zero_point)
      y = MatMul (x, w_dequantized)
    }
    "#);
}

#[test]
fn onnxruntime_gets_a_product_of_its_own() {
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, LINEAR), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[B,3,40] x) => (float[B,3,2] y)
    <
      uint8[2,2,16] w_4bit,  # c68bc0358258, 64 elements, 37 % zeros
      float[2,2] w_scale = {0.03381915, 0.036257166, 0.03131598, 0.03570929},
      uint8[2,1] w_zero_point = {152, 136}
    >
    {
      y = com.microsoft.MatMulNBits <K = 40, N = 2, accuracy_level = 4, bits = 4, block_size = 32> (x, w_4bit, w_scale, w_zero_point)
    }
    "#);
    let pass = QuantizeWeights { symmetric: Some(true), block: Block::Size(16), ..small(2) };
    insta::assert_snapshot!(check_for(pass, Target::OnnxruntimeGpu, LINEAR), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[B,3,40] x) => (float[B,3,2] y)
    <
      uint8[2,3,4] w_2bit,  # dd821ee93ef9, 24 elements, 16 % zeros
      float[2,3] w_scale = {0.117227316, 0.12982902, 0.1209511, 0.1880911, 0.1343436, 0.18875721}
    >
    {
      y = com.microsoft.MatMulNBits <K = 40, N = 2, bits = 2, block_size = 16> (x, w_2bit, w_scale)
    }
    "#);
    insta::assert_snapshot!(check_for(small(8), Target::OnnxruntimeCpu, LINEAR), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[B,3,40] x) => (float[B,3,2] y)
    <
      uint8[2,1,64] w_8bit,  # 5b2bb3fb0484, 128 elements, 37 % zeros
      float[2,1] w_scale = {0.0021448797, 0.0021095981}
    >
    {
      y = com.microsoft.MatMulNBits <K = 40, N = 2, accuracy_level = 4, bits = 8, block_size = 64> (x, w_8bit, w_scale)
    }
    "#);
}

#[test]
fn a_bias_goes_along() {
    insta::assert_snapshot!(check_for(
        small(4),
        Target::OnnxruntimeCpu,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,16] x) => (float[3,2] y, float[3,2] z) <float[2,16] w, float[2] b, float one = {1.0}> {
            [first] y = Gemm <transB = 1> (x, w, b)
            z = Gemm <transB = 1> (x, w, one)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[3,16] x) => (float[3,2] y, float[3,2] z)
    <
      float[2] b = {0.5791523, -0.68649244},
      uint8[2,1,8] w_4bit = {239, 113, 157, 91, 148, 171, 133, 26, 66, 195, 135, 90, 245, 253, 157, 55},
      float[2,1] w_scale = {0.04976308, 0.057120707},
      uint8[2,1] w_zero_point = {7, 9},
      float[2] one = {1.0, 1.0}
    >
    {
      [first] y = com.microsoft.MatMulNBits <K = 16, N = 2, accuracy_level = 4, bits = 4, block_size = 16> (x, w_4bit, w_scale, w_zero_point, "", b)
      z = com.microsoft.MatMulNBits <K = 16, N = 2, accuracy_level = 4, bits = 4, block_size = 16> (x, w_4bit, w_scale, w_zero_point, "", one)
    }
    "#);
}

#[test]
fn a_product_that_is_no_plain_one_is_dequantized() {
    // Scaled, the weight in front, the first factor transposed, a bias with rows of its own.
    insta::assert_snapshot!(check_for(
        small(4),
        Target::OnnxruntimeCpu,
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[16,16] x) => (float[16,2] a, float[2,16] b, float[16,2] c, float[16,2] d)
        <float[16,2] u, float[2,16] v, float[16,2] w, float[16,2] k, float[16,2] m> {
            a = Gemm <alpha = 2.0> (x, u)
            b = MatMul (v, x)
            c = Gemm <transA = 1> (x, w)
            d = Gemm (x, k, m)
        }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[16,16] x) => (float[16,2] a, float[2,16] b, float[16,2] c, float[16,2] d)
    <
      float[16,2] m,  # ba0af61757f8, 32 elements
      uint4[16,2] u_uint4,  # fb29983f7c51, 32 elements, 9 % zeros
      float[1,2] u_scale = {0.051364098, 0.051761925},
      uint4[1,2] u_zero_point = {120},  # 8, 7
      uint4[2,16] v_uint4,  # ecc834430931, 32 elements, 9 % zeros
      float[2,1] v_scale = {0.052388232, 0.050660033},
      uint4[2,1] v_zero_point = {136},  # 8, 8
      uint4[16,2] w_uint4,  # 2e2ecbe6a61d, 32 elements
      float[1,2] w_scale = {0.056444425, 0.04950716},
      uint4[1,2] w_zero_point = {136},  # 8, 8
      uint4[16,2] k_uint4,  # 1d910d5bed11, 32 elements, 9 % zeros
      float[1,2] k_scale = {0.048541773, 0.052564368},
      uint4[1,2] k_zero_point = {120}  # 8, 7
    >
    {
      u_dequantized = DequantizeLinear <axis = 0, block_size = 16> (u_uint4, u_scale, u_zero_point)
      a = Gemm <alpha = 2.0> (x, u_dequantized)
      v_dequantized = DequantizeLinear <axis = 1, block_size = 16> (v_uint4, v_scale, v_zero_point)
      b = MatMul (v_dequantized, x)
      w_dequantized = DequantizeLinear <axis = 0, block_size = 16> (w_uint4, w_scale, w_zero_point)
      c = Gemm <transA = 1> (x, w_dequantized)
      k_dequantized = DequantizeLinear <axis = 0, block_size = 16> (k_uint4, k_scale, k_zero_point)
      d = Gemm (x, k_dequantized, m)
    }
    "#);
}

#[test]
fn a_weight_may_be_transposed_on_its_way() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[3,16] x) => (float[3,2] y) <float[2,16] w> { t = Transpose (w)
            y = MatMul (x, t) }"#;
    insta::assert_snapshot!(check_with(small(4), text), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[3,16] x) => (float[3,2] y)
    <
      uint4[2,16] w_uint4,  # f44b369c6580, 32 elements
      float[2,1] w_scale = {0.04976308, 0.057120707},
      uint4[2,1] w_zero_point = {151}  # 7, 9
    >
    {
      w_dequantized = DequantizeLinear <axis = 1, block_size = 16> (w_uint4, w_scale, w_zero_point)
      t = Transpose (w_dequantized)
      y = MatMul (x, t)
    }
    "#);
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (float[3,16] x) => (float[3,2] y)
    <
      uint8[2,1,8] w_4bit = {239, 113, 157, 91, 148, 171, 133, 26, 66, 195, 135, 90, 245, 253, 157, 55},
      float[2,1] w_scale = {0.04976308, 0.057120707},
      uint8[2,1] w_zero_point = {7, 9}
    >
    {
      y = com.microsoft.MatMulNBits <K = 16, N = 2, accuracy_level = 4, bits = 4, block_size = 16> (x, w_4bit, w_scale, w_zero_point)
    }
    "#);
}

#[test]
fn tensorrt_has_no_zero_points_and_whole_blocks() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[3,64] x) => (float[3,2] y) <float[64,2] w> { y = MatMul (x, w) }"#;
    let pass = QuantizeWeights { block: Block::Size(64), ..small(4) };
    insta::assert_snapshot!(check_for(pass, Target::Tensorrt, text), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[3,64] x) => (float[3,2] y)
    <
      int4[64,2] w_int4,  # df0dd819d24d, 128 elements, 6 % zeros
      float[1,2] w_scale = {0.02590547, 0.02507022}
    >
    {
      w_dequantized = DequantizeLinear <axis = 0, block_size = 64> (w_int4, w_scale)
      y = MatMul (x, w_dequantized)
    }
    "#);
}

#[test]
fn one_scale_per_channel() {
    let pass = QuantizeWeights { block: Block::Named(Named::None), ..small(4) };
    insta::assert_snapshot!(check_with(pass, LINEAR), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[B,3,40] x) => (float[B,3,2] y)
    <
      uint4[40,2] w_uint4,  # 5871d37dc54b, 80 elements, 7 % zeros
      float[2] w_scale = {0.033994246, 0.0315304},
      uint4[2] w_zero_point = {136}  # 8, 8
    >
    {
      w_dequantized = DequantizeLinear <axis = 1> (w_uint4, w_scale, w_zero_point)
      y = MatMul (x, w_dequantized)
    }
    "#);
}

const TABLE: &str = r#"<ir_version: 8, opset_import: ["" : 18]>
    g (int64[N,S] i) => (float[N,S,32] y) <float[4,32] t> { y = Gather (t, i) }"#;

#[test]
fn rows_of_a_table_are_widened_after_they_are_picked() {
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, TABLE), @r#"
    <ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>
    g (int64[N,S] i) => (float[N,S,32] y)
    <
      uint8[4,16] t_4bit,  # b21b826eed5a, 64 elements
      float[4,1] t_scale = {0.035897996, 0.03669396, 0.039794657, 0.039058406},
      uint8[4,1] t_zero_point = {8, 8, 8, 8}
    >
    {
      y = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 32, gather_axis = 0, quantize_axis = 1> (t_4bit, i, t_scale, t_zero_point)
    }
    "#);
    insta::assert_snapshot!(check_with(small(4), TABLE), @r#"
    <ir_version: 8, opset_import: ["" : 18]>
    g (int64[N,S] i) => (float[N,S,32] y)
    <
      uint8[4,1,16] t_4bit,  # 5be636d22f1a, 64 elements
      uint8 mask = {15},
      uint8 shift = {4},
      uint8[4,1,1] t_zero_point = {8, 8, 8, 8},
      float[4,1,1] t_scale = {0.035897996, 0.03669396, 0.039794657, 0.039058406},
      int64[3] shape = {0, 0, 32}
    >
    {
      y_bytes = Gather <axis = 0> (t_4bit, i)
      y_share = BitwiseAnd (y_bytes, mask)
      y_shifted = BitShift <direction = "RIGHT"> (y_bytes, shift)
      y_codes = Concat <axis = -1> (y_share, y_shifted)
      y_cast = Cast <to = 1> (y_codes)
      y_zero_points = Gather <axis = 0> (t_zero_point, i)
      y_cast_1 = Cast <to = 1> (y_zero_points)
      y_steps = Sub (y_cast, y_cast_1)
      y_scales = Gather <axis = 0> (t_scale, i)
      y_blocks = Mul (y_steps, y_scales)
      y = Reshape (y_blocks, shape)
    }
    "#);
    let pass = QuantizeWeights { symmetric: Some(true), ..small(2) };
    insta::assert_snapshot!(check_with(pass, TABLE), @r#"
    <ir_version: 8, opset_import: ["" : 18]>
    g (int64[N,S] i) => (float[N,S,32] y)
    <
      uint8[4,1,8] t_2bit,  # b34ce71a7891, 32 elements
      uint8 mask = {3},
      uint8 shift = {2},
      uint8 shift_1 = {4},
      uint8 shift_2 = {6},
      float middle = {2.0},
      float[4,1,1] t_scale = {0.12443508, 0.15213087, 0.15028386, 0.1764443},
      int64[3] shape = {0, 0, 32}
    >
    {
      y_bytes = Gather <axis = 0> (t_2bit, i)
      y_share = BitwiseAnd (y_bytes, mask)
      y_shifted = BitShift <direction = "RIGHT"> (y_bytes, shift)
      y_share_1 = BitwiseAnd (y_shifted, mask)
      y_shifted_1 = BitShift <direction = "RIGHT"> (y_bytes, shift_1)
      y_share_2 = BitwiseAnd (y_shifted_1, mask)
      y_shifted_2 = BitShift <direction = "RIGHT"> (y_bytes, shift_2)
      y_codes = Concat <axis = -1> (y_share, y_share_1, y_share_2, y_shifted_2)
      y_cast = Cast <to = 1> (y_codes)
      y_steps = Sub (y_cast, middle)
      y_scales = Gather <axis = 0> (t_scale, i)
      y_blocks = Mul (y_steps, y_scales)
      y = Reshape (y_blocks, shape)
    }
    "#);
    insta::assert_snapshot!(check_with(small(8), TABLE), @r#"
    <ir_version: 8, opset_import: ["" : 18]>
    g (int64[N,S] i) => (float[N,S,32] y)
    <
      float[32] t_scale,  # 3257eed80da1, 32 elements
      int8[4,32] t_int8  # a9fcfd2cc4ed, 128 elements
    >
    {
      y_1 = Gather (t_int8, i)
      y = DequantizeLinear <axis = -1> (y_1, t_scale)
    }
    "#);
}

#[test]
fn a_table_that_is_also_multiplied_with_is_stored_once() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (int64[N] i) => (float[N,4] y) <float[4,32] t> {
            r = Gather (t, i)
            c = Transpose (t)
            y = MatMul (r, c)
        }"#;
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (int64[N] i) => (float[N,4] y)
    <
      uint8[4,1,16] t_4bit,  # cbeb1b49857a, 64 elements
      int64[2] t_rows = {4, -1},
      float[4,1] t_scale = {0.035897996, 0.03669396, 0.039794657, 0.039058406},
      uint8[4,1] t_zero_point = {8, 8, 8, 8}
    >
    {
      t_table = Reshape (t_4bit, t_rows)
      r = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 32, gather_axis = 0, quantize_axis = 1> (t_table, i, t_scale, t_zero_point)
      y = com.microsoft.MatMulNBits <K = 32, N = 4, accuracy_level = 4, bits = 4, block_size = 32> (r, t_4bit, t_scale, t_zero_point)
    }
    "#);
    insta::assert_snapshot!(check_with(small(4), text), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (int64[N] i) => (float[N,4] y)
    <
      uint4[4,32] t_uint4,  # 64c28ac828fd, 128 elements, 3 % zeros
      float[4,1] t_scale = {0.035897996, 0.03669396, 0.039794657, 0.039058406},
      uint4[4,1] t_zero_point = {136, 136}  # 8, 8, 8, 8
    >
    {
      t_dequantized = DequantizeLinear <axis = 1, block_size = 32> (t_uint4, t_scale, t_zero_point)
      r = Gather (t_dequantized, i)
      c = Transpose (t_dequantized)
      y = MatMul (r, c)
    }
    "#);
    insta::assert_snapshot!(check_with(small(8), text), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (int64[N] i) => (float[N,4] y)
    <
      float[32] t_scale,  # 3257eed80da1, 32 elements
      int8[4,32] t_int8  # a9fcfd2cc4ed, 128 elements
    >
    {
      r_1 = Gather (t_int8, i)
      r = DequantizeLinear <axis = -1> (r_1, t_scale)
      t_dequantized = DequantizeLinear <axis = 1> (t_int8, t_scale)
      c = Transpose (t_dequantized)
      y = MatMul (r, c)
    }
    "#);
}

#[test]
fn a_copy_of_a_table_is_not_stored() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (int64[N] i) => (float[N,2] y) <float[2,16] t = {1.5}, float[16,2] u = {1.5}> {
            r = Gather (t, i)
            y = MatMul (r, u)
        }"#;
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @r#"
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (int64[N] i) => (float[N,2] y)
    <
      uint8[2,1,8] t_4bit = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255},
      int64[2] t_rows = {2, -1},
      float[2,1] t_scale = {0.1, 0.1},
      uint8[2,1] t_zero_point = {0, 0}
    >
    {
      t_table = Reshape (t_4bit, t_rows)
      r = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1> (t_table, i, t_scale, t_zero_point)
      y = com.microsoft.MatMulNBits <K = 16, N = 2, accuracy_level = 4, bits = 4, block_size = 16> (r, t_4bit, t_scale, t_zero_point)
    }
    "#);
    insta::assert_snapshot!(check_with(small(4), text), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (int64[N] i) => (float[N,2] y)
    <
      uint4[2,16] t_uint4,  # 7b2656c5250c, 32 elements
      float[2,1] t_scale = {0.1, 0.1},
      uint4[2,1] t_zero_point = {0}  # 0, 0
    >
    {
      t_dequantized = DequantizeLinear <axis = 1, block_size = 16> (t_uint4, t_scale, t_zero_point)
      r = Gather (t_dequantized, i)
      t_transposed = Transpose <perm = [1, 0]> (t_dequantized)
      y = MatMul (r, t_transposed)
    }
    "#);
}

#[test]
fn convolutions_have_8_bits_per_channel() {
    insta::assert_snapshot!(check_with(
        small(4),
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,8,8] x) => (float[1,4,8,8] y, float[1,3,8,8] z) <float[4,2,1,1] w, float[4] b, float[4,3,1,1] u> {
            y = Conv (x, w, b)
            z = ConvTranspose (y, u)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,8,8] x) => (float[1,4,8,8] y, float[1,3,8,8] z)
    <
      float[4] b = {0.5791523, -0.68649244, -0.99834424, 0.38279986},
      int8[4,2,1,1] w_int8 = {127, 112, -127, -7, 127, 45, 127, -56},
      float[4] w_scale = {0.008770793, 0.0067359125, 0.007106511, 0.004615769},
      int8[4,3,1,1] u_int8 = {103, 102, -85, -80, -52, -37, 48, 127, -127, 127, -29, 27},
      float[3] u_scale = {0.007629854, 0.0073838267, 0.005861069}
    >
    {
      w_dequantized = DequantizeLinear <axis = 0> (w_int8, w_scale)
      y = Conv (x, w_dequantized, b)
      u_dequantized = DequantizeLinear <axis = 1> (u_int8, u_scale)
      z = ConvTranspose (y, u_dequantized)
    }
    "#);
}

#[test]
fn zero_points_of_8_bits_if_they_are_wanted() {
    let pass = QuantizeWeights { symmetric: Some(false), algorithm: Algorithm::Rtn, ..small(8) };
    insta::assert_snapshot!(check_with(
        pass,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,2] x) => (float[3,2] y) <float[2,2] w = {0.0, -1.0, 2.55, 1.55}> { y = MatMul (x, w) }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[3,2] x) => (float[3,2] y)
    <
      int8[2,2] w_int8 = {-128, -128, 127, 127},
      float[2] w_scale = {0.01, 0.01},
      int8[2] w_zero_point = {-128, -28}
    >
    {
      w_dequantized = DequantizeLinear <axis = 1> (w_int8, w_scale, w_zero_point)
      y = MatMul (x, w_dequantized)
    }
    "#);
}

#[test]
fn float16_scales_are_float16() {
    insta::assert_snapshot!(check_with(
        small(8),
        r#"<ir_version: 10, opset_import: ["" : 19]>
        g (float16[3,2] x) => (float16[3,2] y) <float16[2,2] w = {0.5, -1.0, 2.0, 1.5}> { y = MatMul (x, w) }"#
    ), @r#"
    <ir_version: 10, opset_import: ["" : 19]>
    g (float16[3,2] x) => (float16[3,2] y)
    <
      int8[2,2] w_int8 = {32, -85, 127, 127},
      float16[2] w_scale = {9224, 8714}  # 0.01574707, 0.011795044
    >
    {
      w_dequantized = DequantizeLinear <axis = 1> (w_int8, w_scale)
      y = MatMul (x, w_dequantized)
    }
    "#);
}

/// Runs the pass on a graph that it must leave alone; `w` has 1024 elements.
fn refusal(target: Target, opset: i64, inputs: &str, output: &str, weight: &str, nodes: &str) -> String {
    let graph = format!("g ({inputs}) => ({output} y) <{weight}> {{ {nodes} }}");
    let text = format!(r#"<ir_version: 8, opset_import: ["" : {opset}]> {graph}"#);
    refusals_for(QuantizeWeights::default(), target, &text).join("\n")
}

#[test]
fn refuses() {
    let generic = |inputs, output, weight, nodes| refusal(Target::Generic, 21, inputs, output, weight, nodes);
    let tensorrt = |inputs, output, weight, nodes| refusal(Target::Tensorrt, 21, inputs, output, weight, nodes);
    let (x, matrix, product) = ("float[32,32] x", "float[32,32] w", "y = MatMul (x, w)");
    insta::assert_snapshot!(generic(x, "float[32,8]", "float[32,8] w", product), @r#""w" has 256 elements, and `min_elements` is 1024"#);
    insta::assert_snapshot!(generic(x, "float[32,32]", "float[32,32] w = {inf}", product), @r#""w": it holds inf, for which there is no scale"#);
    insta::assert_snapshot!(generic(x, "float[32,32]", matrix, "a = MatMul (x, w)\n r = Relu (w)\n y = Add (a, r)"), @r#""w" is also read where it has to be float: input 0 of the Relu that makes "r""#);
    insta::assert_snapshot!(generic("int64[2] x", "float[32,2]", matrix, "[pick] y = Gather <axis = 1> (w, x)"), @r#""pick" picks along the last axis"#);
    insta::assert_snapshot!(generic(
        "float[1,32,4,4] x",
        "float[1,64,4,4]",
        "float[32,32,1,1] w",
        "[up] y = ConvTranspose <group = 2> (x, w)"
    ), @r#""up" has 2 groups, of which axis 1 holds only one"#);
    insta::assert_snapshot!(generic(x, "float[32,32]", matrix, "y = MatMul (w, w)"), @r#"
    "w": both factors are weights
    "w": both factors are weights
    "#);
    insta::assert_snapshot!(refusal(Target::Generic, 17, x, "float[32,32]", matrix, product), @r#""w": the model has opset 17, and 4 bits in blocks need 21; run `raise-opset` first"#);
    insta::assert_snapshot!(refusal(
        Target::Generic,
        12,
        "float[1,32,4,4] x",
        "float[1,32,4,4]",
        "float[32,32,1,1] w",
        "y = Conv (x, w)"
    ), @r#""w": the model has opset 12, and scales per channel need 13; run `raise-opset` first"#);
    insta::assert_snapshot!(refusal(
        Target::Generic,
        17,
        "float16[1,32,4,4] x",
        "float16[1,32,4,4]",
        "float16[32,32,1,1] w",
        "y = Conv (x, w)"
    ), @r#""w" is float16, which DequantizeLinear makes from opset 19 on"#);
    insta::assert_snapshot!(refusals_for(QuantizeWeights { bits: 2, ..QuantizeWeights::default() }, Target::Generic,
        r#"<ir_version: 13, opset_import: ["" : 25]> g (float[2,512] x) => (float[2,33] y) <float[512,33] w> { y = MatMul (x, w) }"#
    ).join("\n"), @r#""w" has rows of 33, and onnxruntime misreads 2 bits in rows that begin within a byte"#);
    insta::assert_snapshot!(tensorrt(x, "float[32,32]", matrix, product), @r#""w" has 32 columns in rows of 32, and TensorRT takes whole blocks of 64 in rows of even length"#);
    insta::assert_snapshot!(tensorrt("float[2,128] x", "float[2,9]", "float[128,9] w", product), @r#""w" has 128 columns in rows of 9, and TensorRT takes whole blocks of 128 in rows of even length"#);
    insta::assert_snapshot!(tensorrt("int64[2] x", "float[2,32]", matrix, "y = Gather (w, x)"), @"TensorRT dequantizes constants only, and would widen the whole table for a few rows");
}

#[test]
fn an_overridable_input_is_no_weight() {
    let text = r#"<ir_version: 8, opset_import: ["" : 21]>
        g (float[2,32] x, float[32,32] w) => (float[2,32] y) <float[32,32] w = {0.5}> { y = MatMul (x, w) }"#;
    assert!(refusals_for(QuantizeWeights::default(), Target::Generic, text).is_empty());
}

#[test]
fn settings_that_no_target_takes() {
    let error = |pass: QuantizeWeights, target| pass.check(target).unwrap_err().to_string();
    insta::assert_snapshot!(error(small(3), Target::Generic), @"`bits` is 3, and there are types of 2, 4 and 8 bits only");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(24), ..small(4) }, Target::Generic), @"`block` is 24, and it has to be a power of two from 16 on, or `none`");
    insta::assert_snapshot!(error(QuantizeWeights { accuracy_level: 7, ..small(4) }, Target::Generic), @"`accuracy_level` is 7, and there are 0 to 4");
    insta::assert_snapshot!(error(small(2), Target::Tensorrt), @"TensorRT has no weights of 2 bits");
    insta::assert_snapshot!(error(QuantizeWeights { symmetric: Some(false), ..small(4) }, Target::Tensorrt), @"TensorRT takes no zero points; leave `symmetric` out");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(32), ..small(4) }, Target::Tensorrt), @"TensorRT takes weights of 4 bits in blocks of 64 or 128");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(64), ..small(8) }, Target::Tensorrt), @"TensorRT takes weights of 8 bits with one scale per channel; leave `block` out");
}

#[test]
fn gptq_asks_for_calibration_data() {
    let model = planish_ir::text::parse(LINEAR).unwrap();
    let pass = QuantizeWeights { algorithm: Algorithm::Gptq, ..small(4) };
    insta::assert_snapshot!(pass.transform(&model, &Context::bare()).unwrap_err(), @"it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, or give --calibration FILE");
}

#[test]
fn blocks_are_numbers_or_names() {
    let block = |yaml: serde_json::Value| serde_json::from_value::<QuantizeWeights>(yaml).map(|q| q.block);
    assert_eq!(block(serde_json::json!({"block": 64})).unwrap(), Block::Size(64));
    assert_eq!(block(serde_json::json!({"block": "none"})).unwrap(), Block::Named(Named::None));
    assert!(block(serde_json::json!({"block": "some"})).is_err());
}
