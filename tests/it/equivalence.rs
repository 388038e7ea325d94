//! Compiled models compute what the originals compute.
//!
//! Tolerances, by the class that the passes declare: `Exact` is bit equality; `Reassociated` allows an element to differ by
//! 1e-4 of itself plus 1e-5 of the largest one plus 2.4e-7; `Lossy` is held to a cosine. The engines run without optimizations of
//! their own where they can, so that a difference is the compiler's.

use std::path::Path;

use planish::{
    cli::Preset,
    data::{Options, Samples, Source, Tensors},
    engine::{ort::Optimization, tract::Tract},
    equivalence::{Verdict, compare},
    model_file::ModelFile,
    pipeline::{Pipeline, Verify},
};
use planish_ir::{GraphPath, Model, Node, Numerics, Patch, Tensor, ValueId};
use planish_passes::{
    Calibration, Driver, DriverError, Engine, InMemory, NoObserver, Outcome, PASSES, StepConfig, Target,
    lint::{Effect, lint},
};

use crate::support::{fixture, graphs, models, onnxruntime};

/// Random samples that fit a fixture; two sizes of the batch, where it is open.
fn samples(model: &Model, path: &Path) -> Vec<Tensors> {
    let sizes: &[(&str, u64)] = match path.file_stem().unwrap().to_str().unwrap() {
        "ppocr_cls" => &[("x.2", 48), ("x.3", 192)],
        _ => &[],
    };
    let mut all = Vec::new();
    for (seed, batch) in [(1, 1), (2, 3)] {
        let mut options = Options { samples: Some(2 * batch), batch: Some(batch), ..Default::default() };
        options.dims = sizes.iter().map(|&(n, s)| (n.to_owned(), s)).collect();
        if path.ends_with("magika.onnx") {
            options.ranges.insert("bytes".into(), (0, 257));
        }
        for dim in planish::sizes::dynamic_dims(model) {
            options.dims.entry(dim).or_insert(batch);
        }
        all.extend(Source::Random { seed }.load(model, &options).unwrap().all().unwrap());
    }
    assert_eq!(all.len(), 4);
    all
}

/// All of them, for a comparison; how many samples a run holds does not matter here.
fn all(batches: &[Tensors]) -> Samples {
    Samples::held(batches.to_vec())
}

fn run(model: &mut Model, steps: &[StepConfig], samples: &[Tensors]) -> Outcome {
    try_run(model, steps, samples).unwrap()
}

fn try_run(model: &mut Model, steps: &[StepConfig], samples: &[Tensors]) -> Result<Outcome, DriverError> {
    run_for(Target::Generic, model, steps, samples)
}

fn run_for(
    target: Target,
    model: &mut Model,
    steps: &[StepConfig],
    samples: &[Tensors],
) -> Result<Outcome, DriverError> {
    let calibration =
        Calibration { engine: &Tract, samples: &samples, memory: 1 << 30, watch: &NoObserver, store: None };
    let driver = Driver {
        engine: Some(&Tract),
        calibration: Some(calibration).filter(|_| !samples.is_empty()),
        stopwatch: None,
        weights: &InMemory,
        target,
        stop_after: None,
        bindings: Default::default(),
        observer: &NoObserver,
    };
    driver.run(model, steps)
}

fn engines() -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Tract)];
    engines.extend(onnxruntime().map(|ort| Box::new(ort) as Box<dyn Engine>));
    engines
}

fn assert_close(verdict: &Verdict, what: &str) {
    assert!(verdict.runs > 0 && verdict.failures.is_empty(), "{what}: {}", verdict.render());
}

/// Passes that need a newer operator set than some models have, another target, or a budget, and say so.
const DEMANDING: &[&str] = &[
    "bfloat16",
    "cp",
    "decompose",
    "drop-layers",
    "low-float-weights",
    "low-rank",
    "low-rank-attention",
    "prune",
    "quantize",
    "quantize-dynamic",
    "spatial-svd",
    "sparsify",
    "tensor-train",
    "tucker",
];

#[test]
fn every_pass_keeps_its_promise_on_every_fixture() {
    let engines = engines();
    for path in models() {
        let original = ModelFile::open(&path).unwrap().model;
        let samples = samples(&original, &path);
        for entry in PASSES {
            // Compression needs a gate of its own; see the presets.
            let mut model = original.clone();
            let step = entry.default_step().unwrap();
            let outcome = match try_run(&mut model, &[step], &samples) {
                Err(DriverError::Pass { .. }) if DEMANDING.contains(&entry.name) => continue,
                outcome => outcome.unwrap(),
            };
            if outcome.patches == 0 || outcome.numerics() == Numerics::Lossy {
                continue;
            }
            for engine in &engines {
                let verdict = compare(
                    &**engine,
                    &original,
                    &model,
                    all(&samples).first(u64::MAX),
                    outcome.numerics(),
                    &Verify::default(),
                )
                .unwrap();
                assert_close(&verdict, &format!("{} on {} by {}", entry.name, path.display(), engine.name()));
            }
        }
    }
}

#[test]
fn every_pass_keeps_its_promise_on_every_graph() {
    let engines = engines();
    // tract runs no Loop and no sequences, and nobody runs an operator that only its author knows.
    let runs = |engine: &dyn Engine, graph: &str| match graph {
        "structure" | "subgraphs" => engine.name() != "tract",
        "unknown" => false,
        _ => true,
    };
    for (name, original) in graphs() {
        let samples = samples(&original, Path::new(&name));
        for entry in PASSES {
            let mut model = original.clone();
            let outcome = match try_run(&mut model, &[entry.default_step().unwrap()], &samples) {
                // raise-opset wants local functions to be inlined first.
                Err(DriverError::Pass { .. }) if name == "structure" || name == "unknown" => continue,
                Err(DriverError::Pass { .. }) if DEMANDING.contains(&entry.name) => continue,
                outcome => outcome.unwrap(),
            };
            if outcome.patches == 0 || outcome.numerics() == Numerics::Lossy {
                continue;
            }
            for engine in engines.iter().filter(|e| runs(&***e, &name)) {
                let verdict = compare(
                    &**engine,
                    &original,
                    &model,
                    all(&samples).first(u64::MAX),
                    outcome.numerics(),
                    &Verify::default(),
                )
                .unwrap();
                assert_close(&verdict, &format!("{} on {name} by {}", entry.name, engine.name()));
            }
        }
    }
}

#[test]
fn simplified_graphs() {
    for (name, mut model) in graphs() {
        run(&mut model, &[StepConfig::default_of("simplify").unwrap()], &[]);
        insta::assert_snapshot!(name, planish_ir::text::print(&model));
    }
}

/// How presets look for what has to stay in floats.
const SEARCH: &str = "quantize: {sensitivity: auto, min_sqnr_db: 19}";

/// Tolerance: what the preset promises, on samples that it has not calibrated on.
#[test]
fn real_digits_keep_to_the_bounds_of_presets() {
    let original = ModelFile::open(&fixture("models/mnist_cnn.onnx")).unwrap().model;
    let options = Options { samples: Some(16), ..Options::default() };
    let data = Source::of_path(&fixture("data/mnist_calib.npz")).load(&original, &options).unwrap().all().unwrap();
    let (calibration, others) = data.split_at(8);
    for preset in [Preset::OrtCpuInt8, Preset::TensorrtInt8] {
        let pipeline = Pipeline::preset(preset).unwrap();
        assert!(preset.text().contains(SEARCH));
        let mut model = original.clone();
        let outcome = run_for(pipeline.target, &mut model, &pipeline.passes, calibration).unwrap();
        for engine in engines() {
            let runs = all(others);
            let verdict =
                compare(&*engine, &original, &model, runs.first(u64::MAX), outcome.numerics(), &pipeline.verify)
                    .unwrap();
            assert_close(&verdict, &format!("{preset:?} by {}", engine.name()));
        }
    }
}

#[test]
fn presets_keep_the_outputs_of_every_fixture() {
    let engines = engines();
    for path in models() {
        let original = ModelFile::open(&path).unwrap().model;
        let samples = samples(&original, &path);
        for (preset, min_cosine) in [
            ("simplify", None),
            ("fp16", Some(0.999)),
            ("int4-weights", Some(0.95)),
            ("int8-weights", Some(0.995)),
            ("ort-cpu-int8", Some(0.98)),
            ("ort-cpu-int8-dynamic", Some(0.97)),
            ("tensorrt-fp16", Some(0.999)),
            ("tensorrt-int8", Some(0.98)),
        ] {
            let preset = <Preset as clap::ValueEnum>::from_str(preset, true).unwrap();
            // On noise it takes many runs to find what has to stay in floats; `real_digits_keep_to_the_bounds_of_presets` looks.
            let pipeline = Pipeline::parse(&preset.text().replace(SEARCH, "quantize")).unwrap();
            let mut model = original.clone();
            let outcome = run_for(pipeline.target, &mut model, &pipeline.passes, &samples).unwrap();
            if pipeline.target == Target::Tensorrt {
                let mut found = lint(&model, pipeline.target);
                found.retain(|f| f.effect == Effect::Refused);
                assert!(found.is_empty(), "{preset:?} on {}: {found:#?}", path.display());
            }
            let bounds = Verify { min_cosine, ..Verify::default() };
            for engine in &engines {
                let verdict =
                    compare(&**engine, &original, &model, all(&samples).first(u64::MAX), outcome.numerics(), &bounds)
                        .unwrap();
                assert_close(&verdict, &format!("{preset:?} on {} by {}", path.display(), engine.name()));
            }
        }
    }
}

/// Tolerance: none by onnxruntime, which makes the same kernels of pairs when it loads a model. The embedded engine computes pairs as the
/// floats that they stand for, and a number in the middle between two codes then becomes another one: a cosine of 0.999.
#[test]
fn operators_on_codes_are_those_that_onnxruntime_makes_of_pairs() {
    let deployed = onnxruntime().map(|ort| ort.with_optimization(Optimization::Default));
    for name in ["magika", "mnist_cnn", "mnist_vit", "ppocr_cls"] {
        let path = fixture(&format!("models/{name}.onnx"));
        let original = ModelFile::open(&path).unwrap().model;
        let samples = samples(&original, &path);
        let pipeline = Pipeline::parse(&Preset::OrtCpuInt8.text().replace(SEARCH, "quantize")).unwrap();
        let mut pairs = original.clone();
        run_for(pipeline.target, &mut pairs, &pipeline.passes, &samples).unwrap();
        let mut codes = pairs.clone();
        let steps = [StepConfig::default_of("qoperator").unwrap()];
        let outcome = run_for(pipeline.target, &mut codes, &steps, &[]).unwrap();
        let products = ["Conv", "MatMul", "Gemm"];
        let left = codes.graph.nodes().filter(|(_, n)| products.iter().any(|p| n.op.is(p))).count();
        let reads_codes = |n: &Node| n.inputs().iter().flatten().any(|&v| is_dequantized(&pairs, v));
        let before =
            pairs.graph.nodes().filter(|(_, n)| products.iter().any(|p| n.op.is(p)) && !reads_codes(n)).count();
        assert_eq!(left, before, "products that stayed, in {name}");
        let exact = Verify { max_abs: Some(0.0), ..Verify::default() };
        let close = Verify { min_cosine: Some(0.999), ..Verify::default() };
        let deployed = deployed.as_ref().map(|ort| (ort as &dyn Engine, &exact));
        for (engine, bounds) in [(&Tract as &dyn Engine, &close)].into_iter().chain(deployed) {
            let runs = all(&samples);
            let verdict = compare(engine, &pairs, &codes, runs.first(u64::MAX), outcome.numerics(), bounds).unwrap();
            assert_close(&verdict, &format!("{name} by {}", engine.name()));
        }
    }
}

fn is_dequantized(model: &Model, value: ValueId) -> bool {
    model.graph.producer(value).is_some_and(|(_, n)| n.op.is("DequantizeLinear"))
}

#[test]
fn simplifying_twice_changes_nothing_the_second_time() {
    for path in models() {
        let mut model = ModelFile::open(&path).unwrap().model;
        let steps = [StepConfig::default_of("simplify").unwrap()];
        run(&mut model, &steps, &[]);
        assert_eq!(run(&mut model, &steps, &[]).patches, 0, "{}", path.display());
    }
}

#[test]
fn the_checker_rejects_a_weight_scaled_by_one_percent() {
    let path = fixture("models/mnist_cnn.onnx");
    let original = ModelFile::open(&path).unwrap().model;
    let samples = samples(&original, &path);
    let weights: Vec<_> = original
        .graph
        .values()
        .filter(|(_, v)| v.constant().is_some_and(|t| t.rank() == 4) && !v.users().is_empty())
        .map(|(id, _)| id)
        .collect();
    assert!(weights.len() > 10);
    // BatchNormalization behind a layer does not hide it, since its statistics are fixed.
    for &weight in weights.iter().step_by(4) {
        let t = original.graph.constant(weight).unwrap();
        let scaled: Vec<f32> = t.iter_f32().unwrap().map(|w| w * 1.01).collect();
        let mut patch = Patch::new(Numerics::Lossy, "scaled by 1.01");
        let constant = patch.constant("scaled", Tensor::from_f32(t.dims(), &scaled).unwrap());
        patch.replace(weight, constant);
        let mut model = original.clone();
        model.apply(&GraphPath::main(), patch).unwrap();
        for class in [Numerics::Exact, Numerics::Reassociated] {
            let verdict =
                compare(&Tract, &original, &model, all(&samples).first(u64::MAX), class, &Verify::default()).unwrap();
            assert!(!verdict.failures.is_empty(), "{} passed as {class:?}", original.graph.name_of(weight));
        }
    }
}
