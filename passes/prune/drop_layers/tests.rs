use std::collections::BTreeMap;

use planish_ir::infer;

use super::{blocks::blocks, *};
use crate::{
    Engine, EngineError, Runnable, Target, Tensors,
    testing::{Drawn, check_calibrated, check_run_by, drawn, parse},
};

/// The blocks of a graph, in words.
fn found(graph: &str) -> String {
    let model = parse(&format!(r#"<ir_version: 8, opset_import: ["" : 17]> {graph}"#));
    let facts = infer::infer(&model, &infer::Bindings::new());
    let (blocks, open) = blocks(&model.graph, facts.graph());
    let line = |b: &blocks::Block| {
        let ends: Vec<String> = b.ends.iter().map(|&v| model.graph.name_of(v)).collect();
        format!("{} for {}", model.graph.name_of(b.stays), ends.join(" or "))
    };
    let mut lines: Vec<String> = blocks.iter().map(line).collect();
    if open > 0 {
        lines.push(format!("{open} open"));
    }
    lines.join("; ")
}

#[test]
fn blocks_of_transformers_and_residual_networks() {
    // Normalization in front of each block.
    insta::assert_snapshot!(found(
        "g (float[N,S,8] x) => (float[N,S,8] z) <float[8] s, float[8,16] u, float[16,8] d, float[8,8] o> {
            n = LayerNormalization (x, s)
            a = MatMul (n, o)
            y = Add (x, a)
            m = LayerNormalization (y, s)
            h = MatMul (m, u)
            r = Relu (h)
            f = MatMul (r, d)
            z = Add (f, y)
        }"
    ), @"x for y; y for z");
    // Behind each block.
    insta::assert_snapshot!(found(
        "g (float[N,S,8] x) => (float[N,S,8] z) <float[8] s, float[8,8] o> {
            a = MatMul (x, o)
            y = Add (a, x)
            z = LayerNormalization (y, s)
        }"
    ), @"x for y or z");
    // Only the second block has the shape of its input.
    insta::assert_snapshot!(found(
        "g (float[N,4,8,8] x) => (float[N,8,8,8] z) <float[8,4,1,1] p, float[8,4,3,3] a, float[8,8,3,3] b> {
            s = Conv (x, p)
            c = Conv <pads = [1, 1, 1, 1]> (x, a)
            t = Add (c, s)
            y = Relu (t)
            d = Conv <pads = [1, 1, 1, 1]> (y, b)
            u = Add (d, y)
            z = Relu (u)
        }"
    ), @"y for u or z");
}

#[test]
fn sums_that_are_no_blocks() {
    // Neither is computed from the other; one is broadcast; a constant; a value with itself.
    insta::assert_snapshot!(found(
        "g (float[N,8] x, float[N,8] y, float[N,1] b) => (float[N,8] o, float[N,8] p, float[N,8] q, float[N,8] r) <float[8,8] w, float[8,1] v, float[8] c> {
            a = MatMul (x, w)
            o = Add (a, y)
            d = MatMul (x, v)
            p = Add (d, x)
            q = Add (x, c)
            r = Add (x, x)
        }"
    ), @"x for p");
    // Broadcasts from the smaller value: the result has another shape.
    insta::assert_snapshot!(found(
        "g (float[N,1] x) => (float[N,8] y) <float[1,8] w> {
            a = MatMul (x, w)
            y = Add (x, a)
        }"
    ), @"");
    insta::assert_snapshot!(found(
        "g (float[N,8] x, int64[2] s) => (float[A,B] y) <float[8,8] w> {
            a = MatMul (x, w)
            b = Reshape (a, s)
            y = Add (x, b)
        }"
    ), @"1 open");
}

const TWO: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] out) <float[8,8] v, float[8,8] w, float[8,4] c> {
        i = Relu (x)
        a = MatMul (i, v)
        y = Add (i, a)
        b = MatMul (y, w)
        z = Add (y, b)
        out = MatMul (z, c)
    }"#;

fn samples() -> Vec<Tensors> {
    (0..4).map(|i| BTreeMap::from([("x".to_owned(), drawn(&format!("sample {i}"), &[3, 8]))])).collect()
}

/// The engine of these tests draws values by name, so that nothing costs anything, and the first block goes.
#[test]
fn a_block_goes_with_all_that_only_it_needs() {
    let pass = DropLayers { count: Some(1), ..DropLayers::default() };
    insta::assert_snapshot!(check_calibrated(pass, Target::Generic, &samples(), TWO), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] out)
    <
      float[8,8] w,  # 63ff82cf1457, 64 elements
      float[8,4] c  # c398a430054f, 32 elements
    >
    {
      i = Relu (x)
      b = MatMul (i, w)
      z = Add (i, b)
      out = MatMul (z, c)
    }
    "#);
    let pass = DropLayers { macs: Some(0.4), protect: vec!["y".into()], ..DropLayers::default() };
    insta::assert_snapshot!(check_calibrated(pass, Target::Generic, &samples(), TWO), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] out)
    <
      float[8,8] v,  # b6f66eda938c, 64 elements
      float[8,4] c  # c398a430054f, 32 elements
    >
    {
      i = Relu (x)
      a = MatMul (i, v)
      y = Add (i, a)
      out = MatMul (y, c)
    }
    "#);
}

/// Runs no model without the value `y`.
struct Choosy;

impl Engine for Choosy {
    fn name(&self) -> &str {
        "choosy"
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        match model.graph.value_named("y") {
            Some(_) => Drawn.load(model, outputs),
            None => Err(EngineError::Failed { message: "y is missing".to_owned() }),
        }
    }
}

#[test]
fn a_block_without_which_the_model_cannot_be_run_stays() {
    let pass = DropLayers { count: Some(1), ..DropLayers::default() };
    let text = check_run_by(&Choosy, pass, Target::Generic, &samples(), TWO);
    assert!(text.contains("y = Add (i, a)") && !text.contains("z = Add"), "{text}");
}

#[test]
fn a_block_between_input_and_output_stays() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y) <float[8,8] w> { a = MatMul (x, w)  y = Add (x, a) }"#;
    let pass = DropLayers { count: Some(1), ..DropLayers::default() };
    assert!(check_calibrated(pass, Target::Generic, &samples(), text).contains("Add"));
}

#[test]
fn settings_that_contradict_each_other() {
    let error = |pass: DropLayers| pass.transform(&parse(TWO), &Context::bare()).unwrap_err().to_string();
    insta::assert_snapshot!(error(DropLayers::default()), @"give one budget: the share that is kept, `- drop-layers: {macs: 0.8}` or `{params: 0.8}`, or the number of blocks that go, `{count: 1}`");
    insta::assert_snapshot!(error(DropLayers { macs: Some(0.5), count: Some(1), ..DropLayers::default() }), @"give one budget: the share that is kept, `- drop-layers: {macs: 0.8}` or `{params: 0.8}`, or the number of blocks that go, `{count: 1}`");
    insta::assert_snapshot!(error(DropLayers { macs: Some(0.0), ..DropLayers::default() }), @"0 is no share to keep, from above 0 to 1");
    insta::assert_snapshot!(error(DropLayers { count: Some(1), ..DropLayers::default() }), @"it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, or give --calibration FILE");
}
