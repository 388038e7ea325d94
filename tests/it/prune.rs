//! Pruning, with models that are run: channels that others can stand for go without a change of the outputs.

use planish::{
    data::{Options, Samples, Source},
    engine::tract::Tract,
    equivalence::compare,
    pipeline::Verify,
};
use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor};
use planish_passes::{Calibration, Driver, InMemory, NoObserver, Outcome, find};
use serde_json::{Value, json};

/// Convolutions with a skip, and a classifier behind them.
const NET: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[16,8,3,3] w2, float[16] b2, float[16,5] w3> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w1)
        s = Add (c, r)
        d = Conv (s, w2, b2)
        e = Relu (d)
        p = GlobalAveragePool (e)
        f = Flatten (p)
        y = MatMul (f, w3)
    }"#;

/// The second half of the rows of a constant repeats the first, times a factor.
fn repeat(model: &mut Model, name: &str, factor: f32) {
    let value = model.graph.value_named(name).unwrap();
    let tensor = model.graph.constant(value).unwrap();
    let mut rows: Vec<f32> = tensor.iter_f32().unwrap().collect();
    let half = rows.len() / 2;
    (0..half).for_each(|i| rows[half + i] = factor * rows[i]);
    let tensor = Tensor::from_f32(tensor.dims(), &rows).unwrap();
    let mut patch = Patch::new(Numerics::Lossy, "repeated");
    patch.set_tensor(value, tensor);
    model.apply(&GraphPath::main(), patch).unwrap();
}

fn samples(model: &Model, seed: u64) -> Samples {
    Source::Random { seed }.load(model, &Options { samples: Some(24), ..Options::default() }).unwrap()
}

fn prune(model: &mut Model, config: Value) -> Outcome {
    let samples = samples(model, 1);
    let calibration =
        Calibration { engine: &Tract, samples: &samples, memory: 1 << 28, watch: &NoObserver, store: None };
    let driver = Driver {
        engine: None,
        calibration: Some(calibration),
        weights: &InMemory,
        target: Default::default(),
        stop_after: None,
        bindings: [("N".to_owned(), 1)].into(),
        observer: &NoObserver,
    };
    driver.run(model, &[find("prune").unwrap().configured(config).unwrap()]).unwrap()
}

/// Signal to error in dB, on samples that the fit has not seen; infinite if there is no difference.
fn sqnr(original: &Model, model: &Model) -> f64 {
    let samples = samples(original, 2);
    let verdict =
        compare(&Tract, original, model, samples.first(u64::MAX), Numerics::Lossy, &Verify::default()).unwrap();
    verdict.outputs[0].sqnr_db.unwrap_or(f64::INFINITY)
}

/// Tolerance: 60 dB, which is rounding in float32 and a ridge of a millionth.
#[test]
fn repeated_channels_go_without_a_change() {
    let mut model = planish_ir::text::parse(NET).unwrap();
    // Relu lets positive factors through.
    [("w2", 1.5), ("b2", 1.5)].into_iter().for_each(|(name, by)| repeat(&mut model, name, by));
    let original = model.clone();
    // Of 16 channels, 8 are enough; the other class has to stay.
    let outcome = prune(&mut model, json!({"params": 0.7, "round_to": 1, "protect": ["w0"]}));
    assert!(outcome.after.parameters < outcome.before.parameters * 70 / 100, "{outcome:?}");
    let kept = model.graph.constant(model.graph.value_named("w2").unwrap()).unwrap().dims()[0];
    assert_eq!(kept, 8);
    let found = sqnr(&original, &model);
    assert!(found > 60.0, "{found} dB, {:?}", outcome.passes[0].notes);
}

/// The test above can fail: the same share of channels that nothing stands for costs the outputs.
#[test]
fn channels_of_their_own_do_not_go_for_nothing() {
    let original = planish_ir::text::parse(NET).unwrap();
    let mut model = original.clone();
    prune(&mut model, json!({"params": 0.7, "round_to": 1, "protect": ["w0"]}));
    let found = sqnr(&original, &model);
    assert!(found < 50.0, "{found} dB");
}

#[test]
fn the_budget_is_kept_to() {
    let mut model = planish_ir::text::parse(NET).unwrap();
    let outcome = prune(&mut model, json!({"macs": 0.5, "round_to": 1}));
    let kept = outcome.after.macs as f64 / outcome.before.macs as f64;
    assert!((0.3..=0.5).contains(&kept), "{kept}: {:?}", outcome.passes[0].notes);
}
