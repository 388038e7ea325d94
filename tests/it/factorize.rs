//! Factorization, with models that are run: budgets are kept, and layers that are fitted after those in front of them lose less.

use planish::{
    data::{Options, Samples, Source},
    engine::tract::Tract,
    equivalence::compare,
    pipeline::Verify,
};
use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor};
use planish_passes::{Engine, Outcome, Target};
use serde_json::{Value, json};

use crate::support::{compress, onnxruntime};

/// Convolutions with a skip, and matrices behind them.
const NET: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,16,12,12] x) => (float[N,24] y)
    <float[32,16,3,3] w0, float[32] b0, float[32,32,3,3] w1, float[32] b1, float[64,32,3,3] w2, float[64,64] w3, float[64] b3,
     float[64,24] w4> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)
        s = Add (c, r)
        d = Conv <strides = [2, 2]> (s, w2)
        e = Relu (d)
        p = GlobalAveragePool (e)
        f = Flatten (p)
        g = Gemm (f, w3, b3)
        h = Relu (g)
        y = MatMul (h, w4)
    }"#;

fn samples(model: &Model, seed: u64) -> Samples {
    Source::Random { seed }.load(model, &Options { samples: Some(24), ..Options::default() }).unwrap()
}

/// The model after `decompose`, and what was said.
fn decomposed(config: Value) -> (Model, Outcome) {
    let mut model = planish_ir::text::parse(NET).unwrap();
    let samples = samples(&model, 1);
    let outcome = compress(&mut model, "decompose", config, Target::default(), &samples);
    (model, outcome)
}

/// Signal to error in dB, on samples that the fit has not seen.
fn sqnr(model: &Model) -> f64 {
    let original = planish_ir::text::parse(NET).unwrap();
    let samples = samples(&original, 2);
    let verdict =
        compare(&Tract, &original, model, samples.first(u64::MAX), Numerics::Lossy, &Verify::default()).unwrap();
    verdict.outputs[0].sqnr_db.unwrap_or(f64::INFINITY)
}

#[test]
fn the_budget_is_kept_and_a_fit_in_turn_loses_less() {
    let config = |refit: bool| json!({"macs": 0.6, "round_to": 4, "refit": refit});
    let (plain, outcome) = decomposed(config(false));
    let kept = outcome.after.macs as f64 / outcome.before.macs as f64;
    assert!((0.4..=0.62).contains(&kept), "{kept}: {:?}", outcome.passes[0].notes);
    let (fitted, outcome) = decomposed(config(true));
    let (plain, fitted) = (sqnr(&plain), sqnr(&fitted));
    assert!(fitted > plain + 1.0, "{fitted} dB and {plain} dB: {:?}", outcome.passes[0].notes);
}

#[test]
fn all_of_the_budget_changes_little() {
    // What can be had for nothing is taken: a convolution has fewer outputs than it could.
    let (model, outcome) = decomposed(json!({"macs": 0.98, "round_to": 1}));
    assert!(outcome.after.macs < outcome.before.macs);
    let found = sqnr(&model);
    assert!(found > 25.0, "{found} dB: {:?}", outcome.passes[0].notes);
}

#[test]
fn threads_do_not_matter() {
    let decomposed_by = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (model, _) = pool.install(|| decomposed(json!({"macs": 0.6, "round_to": 4})));
        // With digests of the weights.
        planish_ir::text::print(&model)
    };
    assert_eq!(decomposed_by(1), decomposed_by(4));
}

/// Maps that read the same few directions, one without a bias.
const BESIDE: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,12,64] x) => (float[N,12,256] y)
    <float[64,256] e, float[256,256] wq, float[256] bq, float[256,256] wk, float[256,256] wv, float[256] bv> {
        h = MatMul (x, e)
        p = MatMul (h, wq) q = Add (p, bq)
        k = MatMul (h, wk)
        r = MatMul (h, wv) v = Add (r, bv)
        g = Relu (q)
        s = Add (g, k)
        y = Add (s, v)
    }"#;

/// Of 64 directions a factor in common has room for all, and factors of their own have not.
#[test]
fn a_factor_in_common_is_taken_where_it_loses_less() {
    let original = planish_ir::text::parse(BESIDE).unwrap();
    let (seen, others) = (samples(&original, 1), samples(&original, 2));
    for refit in [false, true] {
        let mut model = original.clone();
        let config = json!({"params": 0.4, "refit": refit, "protect": ["e"]});
        let outcome = compress(&mut model, "low-rank", config, Target::default(), &seen);
        let notes = &outcome.passes[0].notes;
        assert!(notes.iter().any(|n| n.starts_with("wq + wk + wv") && n.contains("in common")), "{notes:?}");
        assert_eq!(model.graph.nodes().filter(|(_, n)| n.op.is("MatMul")).count(), 5);
        let runs = others.first(u64::MAX);
        let verdict = compare(&Tract, &original, &model, runs, Numerics::Lossy, &Verify::default()).unwrap();
        let sqnr = verdict.outputs[0].sqnr_db.unwrap_or(f64::INFINITY);
        assert!(sqnr > 60.0, "{sqnr} dB, refit {refit}: {notes:?}");
    }
}

/// The layer in front loses something too, for which those that are split together make up in their turn.
#[test]
fn a_factor_in_common_is_fitted_in_turn() {
    let original = planish_ir::text::parse(BESIDE).unwrap();
    let (seen, others) = (samples(&original, 1), samples(&original, 2));
    let found = [false, true].map(|refit| {
        let mut model = original.clone();
        let outcome =
            compress(&mut model, "low-rank", json!({"params": 0.2, "refit": refit}), Target::default(), &seen);
        let notes = &outcome.passes[0].notes;
        assert!(notes.iter().any(|n| n.contains("in common")), "{notes:?}");
        assert_eq!(notes.iter().any(|n| n.contains("the latter is taken")), refit, "{notes:?}");
        let runs = others.first(u64::MAX);
        let verdict = compare(&Tract, &original, &model, runs, Numerics::Lossy, &Verify::default()).unwrap();
        verdict.outputs[0].sqnr_db.unwrap_or(f64::INFINITY)
    });
    assert!(found[1] > found[0], "{found:?} dB");
}

/// A table and two matrices that are products of two cores of rank 1, with these sizes.
const TRAINS: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
    g (float[2,3] x, float[2,24,128] r, float[24,128] q) => (float[2,3,96] y, float[2,24,192] z, float[24,192] p)
    <float scale = {300.0}, float low = {-225.0}, float high = {224.0}, float[225,96] t, float[128,192] w, float[192] b,
     float[192,128] u, float[192] c> {
        scaled = Mul (x, scale)
        clipped = Clip (scaled, low, high)
        ids = Cast <to = 7> (clipped)
        y = Gather (t, ids)
        m = MatMul (r, w)
        z = Add (m, b)
        p = Gemm <transB = 1> (q, u, c)
    }"#;

/// A matrix whose element is a product of a number of the first digits of its row and column, and one of the second ones; row-major.
fn product([rows, row_digit]: [usize; 2], [columns, column_digit]: [usize; 2]) -> Vec<f64> {
    let number = |a: usize, b: usize| ((7 * a + 5 * b) % 11) as f64 / 11.0 - 0.45;
    let element =
        |r: usize, c: usize| number(r / row_digit, c / column_digit) * number(c % column_digit, r % row_digit);
    (0..rows).flat_map(|r| (0..columns).map(move |c| element(r, c))).collect()
}

/// Tolerance: that of `Reassociated`. Ids count from both ends of the table.
#[test]
fn trains_compute_what_their_matrices_do() {
    let mut original = planish_ir::text::parse(TRAINS).unwrap();
    let mut patch = Patch::new(Numerics::Exact, "products");
    for (name, dims, values) in [
        ("t", [225, 96], product([225, 15], [96, 8])),
        ("w", [128, 192], product([128, 16], [192, 12])),
        ("u", [192, 128], product([192, 12], [128, 16])),
    ] {
        let (id, value) = original.graph.values().find(|(_, v)| v.name() == name).unwrap();
        let tensor = Tensor::from_f64_as(value.constant().unwrap().dtype(), dims.as_slice(), &values).unwrap();
        patch.set_tensor(id, tensor);
    }
    original.apply(&GraphPath::main(), patch).unwrap();
    for config in [json!({"rank": 1, "round_to": 1}), json!({"energy": 0.999_999, "whiten": false})] {
        let mut model = original.clone();
        let samples = samples(&original, 1);
        compress(&mut model, "tensor-train", config.clone(), Target::default(), &samples);
        let operators: Vec<&str> = model.graph.nodes().map(|(_, n)| n.op.name.as_str()).collect();
        assert_eq!(operators.iter().filter(|o| **o == "Gather").count(), 2, "{config}: {operators:?}");
        assert!(!operators.contains(&"Gemm") && operators.contains(&"Reshape"), "{config}: {operators:?}");
        let engines: [Option<Box<dyn Engine>>; 2] =
            [Some(Box::new(Tract)), onnxruntime().map(|ort| Box::new(ort) as Box<dyn Engine>)];
        for engine in engines.iter().flatten() {
            let runs = samples.first(u64::MAX);
            let verdict =
                compare(&**engine, &original, &model, runs, Numerics::Reassociated, &Verify::default()).unwrap();
            assert!(verdict.failures.is_empty(), "{config} by {}: {}", engine.name(), verdict.render());
        }
    }
}
