//! Quantization that is held to a bound, with models that are run by the embedded engine.

use planish::{
    data::{Samples, Tensors},
    engine::tract::Tract,
    equivalence::{OutputFigures, compare},
    pipeline::Verify,
};
use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor};
use planish_passes::{Outcome, Target};
use serde_json::{Value, json};

use crate::support::compress;

/// A depthwise convolution on an image, and what makes a map of probabilities of it.
const NET: &str = r#"<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,8,8] x) => (float[N,2,6,6] y)
    <float[4,1,3,3] edges, float[4] b0, float[2,4,1,1] w, float[2] b1> {
        [edge] a = Conv <group = 4> (x, edges, b0)
        [last] c = Conv (a, w, b1)
        y = Sigmoid (c)
    }"#;

/// The windows of the first convolution add up to nearly nothing, so what is left of a bright image is small.
fn model() -> Model {
    let mut model = planish_ir::text::parse(NET).unwrap();
    let value = model.graph.value_named("edges").unwrap();
    let tensor = model.graph.constant(value).unwrap();
    let mut taps: Vec<f32> = tensor.iter_f32().unwrap().collect();
    for window in taps.chunks_mut(9) {
        window[4] -= window.iter().sum::<f32>();
    }
    let tensor = Tensor::from_f32(tensor.dims(), &taps).unwrap();
    let mut patch = Patch::new(Numerics::Lossy, "edges");
    patch.set_tensor(value, tensor);
    model.apply(&GraphPath::main(), patch).unwrap();
    model
}

/// Bright images with little in them.
fn samples() -> Samples {
    let image = |seed: u32| -> Tensors {
        let noise = |i: u32| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) % 1009) as f32 / 1009.0;
        let pixels: Vec<f32> = (0..256).map(|i| 10.0 + noise(i)).collect();
        Tensors::from([("x".to_owned(), Tensor::from_f32([1, 4, 8, 8].as_slice(), &pixels).unwrap())])
    };
    Samples::held((0..12).map(image).collect())
}

fn quantize(model: &mut Model, config: Value) -> Outcome {
    let samples = samples();
    compress(model, "quantize", config, Target::OnnxruntimeCpu, &samples)
}

fn figures(original: &Model, model: &Model) -> OutputFigures {
    let verdict =
        compare(&Tract, original, model, samples().first(u64::MAX), Numerics::Lossy, &Verify::default()).unwrap();
    verdict.outputs[0].clone()
}

/// Signal to error in dB, before the Sigmoid.
fn before(config: Value) -> (f64, Outcome) {
    let mut quantized = model();
    let outcome = quantize(&mut quantized, config);
    (figures(&model(), &quantized).sqnr_before_db.unwrap(), outcome)
}

/// Tolerance: rounding for what is multiplied is to take out three quarters of the error's power or more; on this model the weights make
/// most of it.
#[test]
fn weights_make_up_for_the_errors_of_their_neighbours() {
    let (nearest, _) = before(json!({"rounding": "nearest"}));
    let (gptq, _) = before(json!({"rounding": "gptq"}));
    assert!(gptq > nearest + 6.0, "{nearest} {gptq}");
}

/// What the pass measured is what comes out: within 0.1 dB, for float32 sums in another order.
#[test]
fn the_measured_error_has_the_last_rounding_in_it() {
    let (found, outcome) = before(json!({"sensitivity": "auto", "min_sqnr_db": -50.0, "samples": 12}));
    let note = &outcome.passes[0].notes[0];
    let measured: f64 = note.split("SQNR ").nth(1).unwrap().split(" dB").next().unwrap().parse().unwrap();
    assert!((measured - found).abs() < 0.1, "{note} {found}");
}

#[test]
fn a_bound_is_held_with_as_much_in_codes_as_it_allows() {
    let (plain, _) = before(json!({"rounding": "nearest"}));
    let bound = plain + 12.0;
    let (found, outcome) = before(json!({
        "sensitivity": "auto", "rounding": "nearest", "min_sqnr_db": bound, "samples": 12,
    }));
    assert!(found >= bound - 0.1, "{plain} {found}");
    let in_floats: Vec<_> = outcome.passes[0].layers.iter().filter(|l| l.precision == "float32").collect();
    assert_eq!(in_floats.iter().map(|l| l.node.as_str()).collect::<Vec<_>>(), ["edge"]);
}
