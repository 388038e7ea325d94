//! Expansions, run and held against the definition worked out by hand. The official operator tests cover the rest.

use planish_ir::Tensor;
use planish_passes::EngineError;

use crate::engine::{
    tests::{floats, model, run},
    tract::Tract,
};

fn close(actual: &[f64], wanted: &[f64]) {
    assert_eq!(actual.len(), wanted.len(), "{actual:?}");
    for (a, w) in actual.iter().zip(wanted) {
        assert!((a - w).abs() <= 1e-5 * w.abs().max(1.0), "{actual:?} instead of {wanted:?}");
    }
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let m = model(
        17,
        "g (float[n] x) => (float[n] y) {
            a, unused = my.domain.scaled <factor: float = 3.0> (x)
            y, z = my.domain.scaled(a)
        }
        <domain: \"my.domain\", opset_import: [\"\" : 17]>
        scaled <factor: float = 2.0> (v) => (out, v) {
            factor = Constant <value_float: float = @factor> ()
            out = Mul(v, factor)
        }",
    );
    assert_eq!(run(&Tract, &m, &[("x", floats(&[2], &[1.0, -2.0]))]).unwrap(), [6.0, -12.0]);
}

#[test]
fn blocks_of_four_bits_are_dequantized() {
    let m = model(
        21,
        "g (float[1,4] x) => (float[1,2] y) <
            int4[4,2] w = {1, -8, 2, 7, 3, 0, -1, 4},
            float[2,2] s = {1.0, 2.0, 0.5, 10.0}
        > {
            f = DequantizeLinear <axis: int = 0, block_size: int = 2> (w, s)
            y = MatMul(x, f)
        }",
    );
    // Columns (1, 2, 1.5, -0.5) and (-16, 14, 0, 40).
    close(&run(&Tract, &m, &[("x", floats(&[1, 4], &[1.0, 1.0, 2.0, 2.0]))]).unwrap(), &[5.0, 78.0]);
}

#[test]
fn quantization_rounds_to_even_and_saturates() {
    let m = model(
        13,
        "g (float[6] x) => (float[6] y) <float s = {0.5}, int8 z = {10}> {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }",
    );
    let x = floats(&[6], &[0.25, 0.75, -0.25, 100.0, -100.0, 1.1]);
    close(&run(&Tract, &m, &[("x", x)]).unwrap(), &[0.0, 1.0, 0.0, 58.5, -69.0, 1.0]);
}

#[test]
fn packed_weights_of_mat_mul_n_bits_are_unpacked() {
    // One row of 16 elements, two per byte: 0 to 15, minus the zero point 8, times 0.5.
    let bytes: Vec<String> = (0..8).map(|i| (2 * i + 16 * (2 * i + 1)).to_string()).collect();
    let m = model(
        17,
        &format!(
            "g (float[1,16] x) => (float[1,1] y) <uint8[1,1,8] w = {{{}}}, float[1] s = {{0.5}}> {{
                y = com.microsoft.MatMulNBits <K: int = 16, N: int = 1, bits: int = 4, block_size: int = 16> (x, w, s)
            }}",
            bytes.join(", ")
        ),
    );
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let wanted: f64 = (0..16).map(|i| f64::from(i) * f64::from(i - 8) * 0.5).sum();
    close(&run(&Tract, &m, &[("x", floats(&[1, 16], &x))]).unwrap(), &[wanted]);
}

#[test]
fn fused_operators_are_taken_apart() {
    let m = model(
        17,
        "g (float[1,1,2] x) => (float[1,1,2] y) <float[1,1,1] w = {2.0}, float[1] b = {-1.0}> {
            y = com.microsoft.FusedConv <activation: string = \"Clip\", activation_params: floats = [0.0, 4.0]> (x, w, b)
        }",
    );
    close(&run(&Tract, &m, &[("x", floats(&[1, 1, 2], &[-3.0, 9.0]))]).unwrap(), &[0.0, 4.0]);
    let m = model(17, "g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu(x) }");
    close(&run(&Tract, &m, &[("x", floats(&[2], &[1.0, -1.0]))]).unwrap(), &[0.841_345, -0.158_655]);
}

/// On the grid of step 1/2 around 128, 130 stands for 1 and 124 for -2.
#[test]
fn quantized_operands_are_computed_as_numbers() {
    let given = |node: &str| {
        let m = model(
            17,
            &format!(
                "g (uint8[1,2,2] x) => (uint8[n] r) <
                    float s = {{0.5}}, uint8 z = {{128}}, float unit = {{0.00390625}}, uint8 low = {{0}}, int64[1] whole = {{-1}},
                    uint8[1,2,1] c = {{130, 120}}, bool[2] k = {{1, 0}}
                > {{ y = {node} r = Reshape (y, whole) }}"
            ),
        );
        let x = Tensor::from_raw(planish_ir::DType::U8, [1, 2, 2].as_slice(), vec![130, 124, 255, 128].into()).unwrap();
        run(&Tract, &m, &[("x", x)]).unwrap()
    };
    // The numbers are 1, -2, 63.5, 0; those of the other operand 1, -4.
    let two = "(x, s, z, c, s, z, s, z)";
    assert_eq!(given(&format!("com.microsoft.QLinearAdd {two}")), [132.0, 126.0, 247.0, 120.0]);
    assert_eq!(given(&format!("com.microsoft.QLinearMul {two}")), [130.0, 124.0, 0.0, 128.0]);
    assert_eq!(given("com.microsoft.QLinearSigmoid (x, s, z, unit, low)"), [187.0, 31.0, 255.0, 128.0]);
    assert_eq!(given("com.microsoft.QLinearLeakyRelu <alpha = 0.25> (x, s, z, s, z)"), [130.0, 127.0, 255.0, 128.0]);
    assert_eq!(given("com.microsoft.QLinearSoftmax <opset = 13> (x, s, z, unit, low)"), [244.0, 12.0, 255.0, 0.0]);
    assert_eq!(given("com.microsoft.QLinearWhere (k, x, s, z, c, s, z, s, z)"), [130.0, 130.0, 255.0, 120.0]);
    assert_eq!(
        given("com.microsoft.QLinearConcat <axis = 2> (s, z, x, s, z, c, s, z)"),
        [130.0, 124.0, 130.0, 255.0, 128.0, 120.0]
    );
    assert_eq!(given("com.microsoft.QLinearAveragePool <kernel_shape = [2]> (x, s, z, s, z)"), [127.0, 192.0]);
    assert_eq!(given("com.microsoft.QLinearGlobalAveragePool (x, s, z, s, z)"), [127.0, 192.0]);
    // The means of 1 and 63.5, and of -2 and 0.
    assert_eq!(given("com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (x, s, z, s, z)"), [192.0, 126.0]);
}

#[test]
fn products_of_integers_come_out_as_floats() {
    let given = |node: &str| {
        let m = model(
            17,
            &format!(
                "g (uint8[1,2] x, float[1,2] f) => (float[1,2] y) <
                    int8[2,2] w = {{1, 2, 3, -4}}, int8[2] wz = {{1, 0}}, float s = {{0.5}}, uint8 z = {{128}}, float[2] ws = {{2.0, 10.0}}, float[2] b = {{0.5, -0.5}}, int32[2] c = {{1, -1}}
                > {{ {node} }}"
            ),
        );
        let x = Tensor::from_raw(planish_ir::DType::U8, [1, 2].as_slice(), vec![130, 131].into()).unwrap();
        run(&Tract, &m, &[("x", x), ("f", floats(&[1, 2], &[0.0, 255.0]))]).unwrap()
    };
    // (2, 3) times the columns (0, 2) and (2, -4).
    let product = "y = com.microsoft.MatMulIntegerToFloat (x, w, s, ws, z, wz, b) nothing = Identity (f)";
    close(&given(product), &[6.5, -40.5]);
    // The step is 1, the zero point 0.
    let dynamic = "y = com.microsoft.DynamicQuantizeMatMul (f, w, ws, wz, b) nothing = Identity (x)";
    close(&given(dynamic), &[1020.5, -10200.5]);
    let gemm = "y = com.microsoft.QGemm <alpha = 0.5> (x, s, z, w, ws, wz, c) nothing = Identity (f)";
    close(&given(gemm), &[3.5, -22.5]);
}

#[test]
fn tables_in_blocks_are_unpacked() {
    let bytes: Vec<String> = (0..32).map(|i| (i % 16 * 16 + i / 2).to_string()).collect();
    let m = model(
        21,
        &format!(
            "g (int64[2] i) => (float[2,32] y) <
                uint8[2,16] t = {{{}}}, float[2,2] s = {{1.0, 0.5, 2.0, 4.0}}, uint8[2,1] z = {{33, 16}}
            > {{ y = com.microsoft.GatherBlockQuantized <block_size = 16> (t, i, s, z) }}",
            bytes.join(", ")
        ),
    );
    let i = Tensor::ints(&[1, 0]);
    let y = run(&Tract, &m, &[("i", i)]).unwrap();
    // Row 1: byte 16 is 0x08, byte 31 is 0xFF; zero points 0 and 1. Row 0: byte 0 is 0x00; zero points 1 and 2.
    assert_eq!((y[0], y[1], y[31]), (16.0, 0.0, 56.0));
    assert_eq!((y[32], y[33]), (-1.0, -1.0));
}

#[test]
fn integers_do_not_saturate_in_between() {
    // 255 * 127 * 2 leaves 16 bits, in which some processors add such products.
    let m = model(17, "g (uint8[1,2] x) => (int32[1,1] y) <int8[2,1] w = {127, 127}> { y = MatMulInteger(x, w) }");
    let x = Tensor::from_raw(planish_ir::DType::U8, [1, 2].as_slice(), vec![255, 255].into()).unwrap();
    assert_eq!(run(&Tract, &m, &[("x", x)]).unwrap(), [64770.0]);
}

#[test]
fn bfloat16_is_computed_and_handed_out() {
    let m = model(17, "g (bfloat16[2] x) => (bfloat16[2] y) <bfloat16 c = {1.5}> { y = Mul(x, c) }");
    let x = Tensor::from_f64_as(planish_ir::DType::BF16, [2].as_slice(), &[2.0, -4.0]).unwrap();
    assert_eq!(run(&Tract, &m, &[("x", x)]).unwrap(), [3.0, -6.0]);
}

#[test]
fn eight_bit_floats_are_quantized_picked_and_dequantized() {
    let m = model(
        21,
        "g (float[4] x, int64[2] i) => (float[6] y) <float s = {0.5}, float8e4m3fn z = {0}, float8e4m3fn[3] t = {126, 56, 1}> {
            q = QuantizeLinear (x, s, z)
            r = Reshape (q, n)
            a = DequantizeLinear (r, s)
            p = Gather (t, i)
            b = DequantizeLinear (p, s)
            y = Concat <axis: int = 0> (a, b)
        }"
        .replace("float s =", "int64[1] n = {-1}, float s =")
        .as_str(),
    );
    let x = floats(&[4], &[0.53, 1000.0, -1e-4, 0.0]);
    // 1.06 lies between 1 and 1.125; 2000 saturates at 448; 2e-4 is less than half of 2^-9.
    let wanted = [0.5, 224.0, 0.0, 0.0, 2f64.powi(-10), 224.0];
    close(&run(&Tract, &m, &[("x", x), ("i", Tensor::ints(&[2, 0]))]).unwrap(), &wanted);
}

#[test]
fn casts_to_small_floats_saturate_if_they_are_to() {
    let m = model(
        23,
        "g (float[3] x) => (float[12] y) {
            a = Cast <to: int = 17> (x)
            b = Cast <to: int = 17, saturate: int = 0> (x)
            c = Cast <to: int = 19, saturate: int = 0> (x)
            d = Cast <to: int = 23> (x)
            fa = Cast <to: int = 1> (a)
            fb = Cast <to: int = 1> (b)
            fc = Cast <to: int = 1> (c)
            fd = Cast <to: int = 1> (d)
            y = Concat <axis: int = 0> (fa, fb, fc, fd)
        }",
    );
    let y = run(&Tract, &m, &[("x", floats(&[3], &[2.6, 1e3, 1e6]))]).unwrap();
    assert_eq!(y[..4], [2.5, 448.0, 448.0, 2.5]);
    assert!(y[4].is_nan() && y[5].is_nan());
    assert_eq!(y[6..], [2.5, 1024.0, f64::INFINITY, 3.0, 6.0, 6.0]);
}

#[test]
fn scales_of_blocks_may_have_scales() {
    // Two blocks of two codes, 1 and 6, with the scales 2 * 0.5 and 4 * 0.5; and powers of two.
    let m = model(
        24,
        "g (float[1] x) => (float[8] y) <
            float4e2m1[4] w = {2, 7, 2, 7}, float8e4m3fn[2] c = {64, 72}, float h = {0.5}, float8e8m0[2] e = {127, 126}
        > {
            s = DequantizeLinear (c, h)
            a = DequantizeLinear <axis: int = 0, block_size: int = 2> (w, s)
            b = DequantizeLinear <axis: int = 0, block_size: int = 2, output_dtype: int = 1> (w, e)
            j = Concat <axis: int = 0> (a, b)
            y = Add (j, x)
        }",
    );
    let y = run(&Tract, &m, &[("x", floats(&[1], &[0.0]))]).unwrap();
    assert_eq!(y, [1.0, 6.0, 2.0, 12.0, 1.0, 6.0, 0.5, 3.0]);
}

#[test]
fn bfloat16_is_rounded_wherever_it_is_made() {
    let bf16 = |v: f32| f64::from(half::bf16::from_f32(v).to_f32());
    // 1 + 2^-9 is 1 in bfloat16, so the sum of four such steps stays at 1.
    let m = model(
        17,
        "g (float[2] x, bool c) => (float[2] y) <bfloat16 step = {0.001953125}> {
            h = Cast <to: int = 16> (x)
            a = Add (h, step)
            b = Add (a, step)
            i = If (c) <then_branch = t () => (bfloat16[2] p) { p = Add (b, step) },
                        else_branch = e () => (bfloat16[2] q) { q = Identity (b) }>
            d = Relu (i)
            y = Cast <to: int = 1> (d)
        }",
    );
    let yes = Tensor::from_raw(planish_ir::DType::Bool, planish_ir::Dims::new(), vec![1].into()).unwrap();
    let inputs = [("x", floats(&[2], &[1.0, 0.1])), ("c", yes)];
    let small = (0..3).fold(bf16(0.1), |v, _| bf16(v as f32 + 0.001_953_125));
    assert_eq!(run(&Tract, &m, &inputs).unwrap(), [1.0, small]);
}

#[test]
fn bfloat16_products_are_added_up_in_single_precision() {
    let m = model(
        17,
        "g (float[1,4] x) => (float[1,1] y) <bfloat16[4,1] w = {1.0, 0.00390625, 0.00390625, 1.0}> {
            h = Cast <to: int = 16> (x)
            p = MatMul (h, w)
            y = Cast <to: int = 1> (p)
        }",
    );
    // 2.0078125 has nine bits; to even it is 2.
    assert_eq!(run(&Tract, &m, &[("x", floats(&[1, 4], &[1.0; 4]))]).unwrap(), [2.0]);
    assert_eq!(run(&Tract, &m, &[("x", floats(&[1, 4], &[1.0, 2.0, 1.0, 1.0]))]).unwrap(), [2.015_625]);
}

#[test]
fn sparse_constants_are_made_dense() {
    let m = model(
        17,
        "g (float[2,2] x) => (float[2,2] y) <
            sparse_tensor(float[2,2]) s = {float[2] {1.0, 2.0}, int64[2] {0, 3}},
            sparse_tensor(float[2,2]) t = {float[1] {5.0}, int64[1,2] {1, 0}}
        > {
            a = Add(x, s)
            y = Add(a, t)
        }",
    );
    assert_eq!(
        run(&Tract, &m, &[("x", floats(&[2, 2], &[10.0, 20.0, 30.0, 40.0]))]).unwrap(),
        [11.0, 20.0, 35.0, 42.0]
    );
}

#[test]
fn attention_with_a_mask_and_a_past_is_taken_apart() {
    let m = model(
        24,
        "g (float[1,1,2,1] q) => (float[1,1,2,1] y) <
            float[1,1,1,1] k = {0.0}, float[1,1,1,1] v = {4.0}, float[1,1,1,1] pk = {0.0}, float[1,1,1,1] pv = {2.0},
            bool[2,2] mask = {1, 1, 0, 0}
        > {
            y, present_k, present_v = Attention(q, k, v, mask, pk, pv)
        }",
    );
    // Equal scores give the mean of both values; the second query sees nothing.
    close(&run(&Tract, &m, &[("q", floats(&[1, 1, 2, 1], &[1.0, 1.0]))]).unwrap(), &[3.0, 0.0]);
}

/// Queries of two heads, the second one indifferent; keys that give the first one weights of 3/4 and 1/4.
#[test]
fn heads_of_onnxruntime_are_taken_apart() {
    let attention = |op: &str, keys: &str, values: &str, more: &str| {
        let m = model(
            17,
            &format!(
                "g (float[1,1,2] q, float[{keys}] k, float[{values}] v) => (float[1,1,2] y) <
                    float[1,1,1,2] mask = {{0.0, -1e9}}
                > {{ y = com.microsoft.{op} <num_heads = 2, scale = 1.0> (q, k, v{more}) }}"
            ),
        );
        let dims = |text: &str| text.split(',').map(|d| d.parse().unwrap()).collect::<Vec<u64>>();
        let (k, v): ([f32; 4], [f32; 4]) = match dims(keys).len() {
            3 => ([3f32.ln(), 5.0, 0.0, 7.0], [4.0, 10.0, 8.0, 20.0]),
            _ => ([3f32.ln(), 0.0, 5.0, 7.0], [4.0, 8.0, 10.0, 20.0]),
        };
        let inputs =
            [("q", floats(&[1, 1, 2], &[1.0, 0.0])), ("k", floats(&dims(keys), &k)), ("v", floats(&dims(values), &v))];
        run(&Tract, &m, &inputs).unwrap()
    };
    close(&attention("MultiHeadAttention", "1,2,2", "1,2,2", ""), &[5.0, 15.0]);
    close(&attention("MultiHeadAttention", "1,2,2,1", "1,2,2,1", ""), &[5.0, 15.0]);
    close(&attention("MultiHeadAttention", "1,2,2", "1,2,2", r#", "", "", mask"#), &[4.0, 10.0]);
}

/// The first of two positions has the query 1 and the value 8, the second one the query 0 and the value 4.
#[test]
fn projections_of_onnxruntime_are_taken_apart() {
    let attention = |attributes: &str| {
        let m = model(
            17,
            &format!(
                "g (float[1,2,1] x) => (float[1,2,1] y) <
                    float[1,3] w = {{1.0, 1.0986123, 4.0}}, float[3] b = {{0.0, 0.0, 4.0}}
                > {{ y = com.microsoft.Attention <{attributes}> (x, w, b) }}"
            ),
        );
        run(&Tract, &m, &[("x", floats(&[1, 2, 1], &[1.0, 0.0]))]).unwrap()
    };
    close(&attention("num_heads = 1"), &[7.0, 6.0]);
    close(&attention("num_heads = 1, unidirectional = 1"), &[8.0, 6.0]);
}

/// The first position is not turned; of the second one, the first pair is turned by a right angle.
#[test]
fn rotary_embeddings_turn_pairs_of_halves_or_neighbours() {
    let rotary = |dims: &str, op: &str| {
        let m = model(
            23,
            &format!(
                "g (float[{dims}] x) => (float[{dims}] y) <
                    float[2,2] c = {{1.0, 1.0, 0.0, 1.0}}, float[2,2] s = {{0.0, 0.0, 1.0, 0.0}}, int64[1] first = {{0}},
                    float[1,2,2] c3 = {{1.0, 1.0, 0.0, 1.0}}, float[1,2,2] s3 = {{0.0, 0.0, 1.0, 0.0}}
                > {{ y = {op} }}"
            ),
        );
        let dims: Vec<u64> = dims.split(',').map(|d| d.parse().unwrap()).collect();
        run(&Tract, &m, &[("x", floats(&dims, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))]).unwrap()
    };
    let (halves, neighbours) = ([1.0, 2.0, 3.0, 4.0, -7.0, 6.0, 5.0, 8.0], [1.0, 2.0, 3.0, 4.0, -6.0, 5.0, 7.0, 8.0]);
    close(&rotary("1,1,2,4", "com.microsoft.RotaryEmbedding (x, first, c, s)"), &halves);
    close(&rotary("1,1,2,4", "com.microsoft.RotaryEmbedding <interleaved = 1> (x, first, c, s)"), &neighbours);
    close(&rotary("1,2,4", "com.microsoft.RotaryEmbedding <num_heads = 1> (x, first, c, s)"), &halves);
    close(&rotary("1,1,2,4", "RotaryEmbedding (x, c3, s3)"), &halves);
    close(&rotary("1,2,4", "RotaryEmbedding <num_heads = 1, interleaved = 1> (x, c3, s3)"), &neighbours);
}

#[test]
fn what_tract_gets_wrong_is_refused() {
    let m = model(
        13,
        "g (float[2] x) => (float[2] y) <float[1,1,2,2] unused> {
            y = GlobalLpPool <p: int = 3> (x)
        }",
    );
    let error = run(&Tract, &m, &[("x", floats(&[2], &[1.0, 2.0]))]).unwrap_err();
    assert!(matches!(&error, EngineError::Refused { op, .. } if op == "GlobalLpPool"), "{error}");
    let m = model(17, "g (float[2] x) => (float[2] y) { y = my.domain.Relu(x) }");
    let error = run(&Tract, &m, &[("x", floats(&[2], &[1.0, 2.0]))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node \"y\" (my.domain::Relu) is not supported: the engine does not have this operator"
    );
}

#[test]
fn rows_of_packed_tables_are_picked_and_unpacked() {
    // Two rows of 16 elements: 0 to 15, and the same backwards, minus a zero point, times a scale.
    let bytes: Vec<i32> =
        (0..8).map(|i| 2 * i + 16 * (2 * i + 1)).chain((0..8).map(|i| 15 - 2 * i + 16 * (14 - 2 * i))).collect();
    let list = bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let text = |zeros: &str, input: &str| {
        format!(
            "g (int64[1] i) => (float[1,16] y) <uint8[2,1,8] w = {{{list}}}, int64[2] rows = {{2, -1}}, float[2,1] s = {{1.0, 0.5}}{zeros}> {{
                t = Reshape (w, rows)
                y = com.microsoft.GatherBlockQuantized <bits: int = 4, block_size: int = 16, gather_axis: int = 0, quantize_axis: int = 1> (t, i, s{input})
            }}"
        )
    };
    let picked = |text: String, row: i64| run(&Tract, &model(17, &text), &[("i", Tensor::ints(&[row]))]).unwrap();
    let row = |zero: i32| (0..16).map(|i| f64::from(15 - i - zero) * 0.5).collect::<Vec<f64>>();
    close(&picked(text("", ""), 1), &row(8));
    close(&picked(text(", uint8[2,1] z = {3, 5}", ", z"), 1), &row(5));
}

#[test]
fn negative_padding_cuts_off_before_the_rest_is_added() {
    let m = model(
        18,
        "g (float[1,4] x) => (float[1,4] y) <int64[2] p = {-1, 1}, float v = {9.0}, int64[1] a = {-1}> {
            y = Pad(x, p, v, a)
        }",
    );
    assert_eq!(run(&Tract, &m, &[("x", floats(&[1, 4], &[1.0, 2.0, 3.0, 4.0]))]).unwrap(), [2.0, 3.0, 4.0, 9.0]);
}

#[test]
fn more_than_there_is_cannot_be_cut_off_first() {
    let m = model(18, "g (float[2] x) => (float[n] y) <int64[2] p = {-3, 5}> { y = Pad(x, p) }");
    let error = run(&Tract, &m, &[("x", floats(&[2], &[1.0, 2.0]))]).unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
}

#[test]
fn values_to_pad_with_may_be_computed() {
    let m = model(
        13,
        "g (float[3] x, float[1] s) => (float[5] y) <int64[2] p = {1, 1}, float[1] h = {0.5}, int64[0] scalar = {}> {
            w = Mul(s, h)
            v = Reshape(w, scalar)
            y = Pad(x, p, v)
        }",
    );
    let inputs = [("x", floats(&[3], &[1.0, f32::NAN, -1.0])), ("s", floats(&[1], &[7.0]))];
    let y = run(&Tract, &m, &inputs).unwrap();
    assert!(y[2].is_nan());
    assert_eq!([y[0], y[1], y[3], y[4]], [3.5, 1.0, -1.0, 3.5]);
}

#[test]
fn a_real_signal_may_come_without_an_axis_for_its_parts() {
    let m = model(
        17,
        "g (float[1,4] x) => (float[1,3,2,2] y) <int64 step = {1}, int64 length = {2}> {
            y = STFT(x, step, , length)
        }",
    );
    let y = run(&Tract, &m, &[("x", floats(&[1, 4], &[1.0, 2.0, 4.0, 0.0]))]).unwrap();
    // Of each pair the sum and the difference, both real.
    close(&y, &[3.0, 0.0, -1.0, 0.0, 6.0, 0.0, -2.0, 0.0, 4.0, 0.0, 4.0, 0.0]);
}
