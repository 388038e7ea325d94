use super::*;
use crate::testing::{check_for, check_with, refusals_for};

fn small(bits: u32) -> QuantizeWeights {
    QuantizeWeights { bits, min_elements: 1, ..QuantizeWeights::default() }
}

const LINEAR: &str = r#"<ir_version: 10, opset_import: ["" : 21]>
    g (float[B,3,40] x) => (float[B,3,2] y) <float[40,2] w> { y = MatMul (x, w) }"#;

#[test]
fn blocks_lie_along_what_is_summed_over() {
    insta::assert_snapshot!(check_with(small(4), LINEAR), @"");
}

#[test]
fn onnxruntime_gets_a_product_of_its_own() {
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, LINEAR), @"");
    let pass = QuantizeWeights { symmetric: Some(true), block: Block::Size(16), ..small(2) };
    insta::assert_snapshot!(check_for(pass, Target::OnnxruntimeGpu, LINEAR), @"");
    insta::assert_snapshot!(check_for(small(8), Target::OnnxruntimeCpu, LINEAR), @"");
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
    ), @"");
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
    ), @"");
}

#[test]
fn a_weight_may_be_transposed_on_its_way() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[3,16] x) => (float[3,2] y) <float[2,16] w> { t = Transpose (w)
            y = MatMul (x, t) }"#;
    insta::assert_snapshot!(check_with(small(4), text), @"");
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @"");
}

#[test]
fn tensorrt_has_no_zero_points_and_whole_blocks() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[3,64] x) => (float[3,2] y) <float[64,2] w> { y = MatMul (x, w) }"#;
    let pass = QuantizeWeights { block: Block::Size(64), ..small(4) };
    insta::assert_snapshot!(check_for(pass, Target::Tensorrt, text), @"");
}

#[test]
fn one_scale_per_channel() {
    let pass = QuantizeWeights { block: Block::Named(Named::None), ..small(4) };
    insta::assert_snapshot!(check_with(pass, LINEAR), @"");
}

const TABLE: &str = r#"<ir_version: 8, opset_import: ["" : 18]>
    g (int64[N,S] i) => (float[N,S,32] y) <float[4,32] t> { y = Gather (t, i) }"#;

#[test]
fn rows_of_a_table_are_widened_after_they_are_picked() {
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, TABLE), @"");
    insta::assert_snapshot!(check_with(small(4), TABLE), @"");
    let pass = QuantizeWeights { symmetric: Some(true), ..small(2) };
    insta::assert_snapshot!(check_with(pass, TABLE), @"");
    insta::assert_snapshot!(check_with(small(8), TABLE), @"");
}

#[test]
fn a_table_that_is_also_multiplied_with_is_stored_once() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (int64[N] i) => (float[N,4] y) <float[4,32] t> {
            r = Gather (t, i)
            c = Transpose (t)
            y = MatMul (r, c)
        }"#;
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @"");
    insta::assert_snapshot!(check_with(small(4), text), @"");
    insta::assert_snapshot!(check_with(small(8), text), @"");
}

#[test]
fn a_copy_of_a_table_is_not_stored() {
    let text = r#"<ir_version: 10, opset_import: ["" : 21]>
        g (int64[N] i) => (float[N,2] y) <float[2,16] t = {1.5}, float[16,2] u = {1.5}> {
            r = Gather (t, i)
            y = MatMul (r, u)
        }"#;
    insta::assert_snapshot!(check_for(small(4), Target::OnnxruntimeCpu, text), @"");
    insta::assert_snapshot!(check_with(small(4), text), @"");
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
    ), @"");
}

#[test]
fn zero_points_of_8_bits_if_they_are_wanted() {
    let pass = QuantizeWeights { symmetric: Some(false), algorithm: Algorithm::Rtn, ..small(8) };
    insta::assert_snapshot!(check_with(
        pass,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,2] x) => (float[3,2] y) <float[2,2] w = {0.0, -1.0, 2.55, 1.55}> { y = MatMul (x, w) }"#
    ), @"");
}

#[test]
fn float16_scales_are_float16() {
    insta::assert_snapshot!(check_with(
        small(8),
        r#"<ir_version: 10, opset_import: ["" : 19]>
        g (float16[3,2] x) => (float16[3,2] y) <float16[2,2] w = {0.5, -1.0, 2.0, 1.5}> { y = MatMul (x, w) }"#
    ), @"");
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
    insta::assert_snapshot!(generic(x, "float[32,8]", "float[32,8] w", product), @"");
    insta::assert_snapshot!(generic(x, "float[32,32]", "float[32,32] w = {inf}", product), @"");
    insta::assert_snapshot!(generic(x, "float[32,32]", matrix, "a = MatMul (x, w)\n r = Relu (w)\n y = Add (a, r)"), @"");
    insta::assert_snapshot!(generic("int64[2] x", "float[32,2]", matrix, "[pick] y = Gather <axis = 1> (w, x)"), @"");
    insta::assert_snapshot!(generic(
        "float[1,32,4,4] x",
        "float[1,64,4,4]",
        "float[32,32,1,1] w",
        "[up] y = ConvTranspose <group = 2> (x, w)"
    ), @"");
    insta::assert_snapshot!(generic(x, "float[32,32]", matrix, "y = MatMul (w, w)"), @"");
    insta::assert_snapshot!(refusal(Target::Generic, 17, x, "float[32,32]", matrix, product), @"");
    insta::assert_snapshot!(refusal(
        Target::Generic,
        12,
        "float[1,32,4,4] x",
        "float[1,32,4,4]",
        "float[32,32,1,1] w",
        "y = Conv (x, w)"
    ), @"");
    insta::assert_snapshot!(refusal(
        Target::Generic,
        17,
        "float16[1,32,4,4] x",
        "float16[1,32,4,4]",
        "float16[32,32,1,1] w",
        "y = Conv (x, w)"
    ), @"");
    insta::assert_snapshot!(refusals_for(QuantizeWeights { bits: 2, ..QuantizeWeights::default() }, Target::Generic,
        r#"<ir_version: 13, opset_import: ["" : 25]> g (float[2,512] x) => (float[2,33] y) <float[512,33] w> { y = MatMul (x, w) }"#
    ).join("\n"), @"");
    insta::assert_snapshot!(tensorrt(x, "float[32,32]", matrix, product), @"");
    insta::assert_snapshot!(tensorrt("float[2,128] x", "float[2,9]", "float[128,9] w", product), @"");
    insta::assert_snapshot!(tensorrt("int64[2] x", "float[2,32]", matrix, "y = Gather (w, x)"), @"");
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
    insta::assert_snapshot!(error(small(3), Target::Generic), @"");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(24), ..small(4) }, Target::Generic), @"");
    insta::assert_snapshot!(error(QuantizeWeights { accuracy_level: 7, ..small(4) }, Target::Generic), @"");
    insta::assert_snapshot!(error(small(2), Target::Tensorrt), @"");
    insta::assert_snapshot!(error(QuantizeWeights { symmetric: Some(false), ..small(4) }, Target::Tensorrt), @"");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(32), ..small(4) }, Target::Tensorrt), @"");
    insta::assert_snapshot!(error(QuantizeWeights { block: Block::Size(64), ..small(8) }, Target::Tensorrt), @"");
}

#[test]
fn gptq_asks_for_calibration_data() {
    let model = planish_ir::text::parse(LINEAR).unwrap();
    let pass = QuantizeWeights { algorithm: Algorithm::Gptq, ..small(4) };
    insta::assert_snapshot!(pass.transform(&model, &Context::bare()).unwrap_err(), @"");
}

#[test]
fn blocks_are_numbers_or_names() {
    let block = |yaml: serde_json::Value| serde_json::from_value::<QuantizeWeights>(yaml).map(|q| q.block);
    assert_eq!(block(serde_json::json!({"block": 64})).unwrap(), Block::Size(64));
    assert_eq!(block(serde_json::json!({"block": "none"})).unwrap(), Block::Named(Named::None));
    assert!(block(serde_json::json!({"block": "some"})).is_err());
}
