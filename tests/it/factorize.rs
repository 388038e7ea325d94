//! Factorization, with models that are run: budgets are kept, and layers that are fitted after those in front of them lose less.

use planish::{
    data::{Options, Samples, Source},
    engine::tract::Tract,
    equivalence::compare,
    pipeline::Verify,
};
use planish_ir::{Model, Numerics};
use planish_passes::{Outcome, Target};
use serde_json::{Value, json};

use crate::support::compress;

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
