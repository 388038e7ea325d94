//! Helpers of the integration tests.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use planish::{
    data::Samples,
    engine::{ort::OnnxRuntime, tract::Tract},
};
use planish_ir::Model;
use planish_passes::{Calibration, Driver, DriverError, InMemory, NoObserver, Outcome, Stopwatch, Target, find};
use serde_json::Value;

/// The models in `fixtures/models`, by name.
pub(crate) fn models() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(fixture("models")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 4, "the fixtures are missing");
    paths
}

/// The textual graphs in `fixtures/graphs`, by name.
pub(crate) fn graphs() -> Vec<(String, planish_ir::Model)> {
    let mut graphs = Vec::new();
    for entry in std::fs::read_dir(fixture("graphs")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let model = planish_ir::text::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        planish_ir::verify(&model).unwrap();
        graphs.push((path.file_stem().unwrap().to_string_lossy().into_owned(), model));
    }
    graphs.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(graphs.len() >= 4);
    graphs
}

/// A path in `fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    root().join("fixtures").join(name)
}

/// The folder of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program.
pub(crate) fn planish() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
    command.env_remove("RUST_LOG");
    command
}

/// What the program prints when it succeeds.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// What the program prints to standard error when it fails with this code.
pub(crate) fn failure(command: &mut Command, code: i32) -> String {
    let output = command.assert().failure().code(code).get_output().stderr.clone();
    String::from_utf8(output).unwrap()
}

/// A small sensible size for each dynamic dim of the fixtures.
pub(crate) fn dims(model: &Path) -> Vec<String> {
    let name = model.file_stem().unwrap().to_string_lossy().into_owned();
    match name.as_str() {
        // Paddle leaves all sizes of the image open.
        "ppocr_cls" => vec!["--dim=x.0=2".into(), "--dim=x.2=48".into(), "--dim=x.3=192".into()],
        _ => Vec::new(),
    }
}

/// Without it there is one witness less; `tests/run.sh` insists on it.
pub(crate) fn onnxruntime() -> Option<OnnxRuntime> {
    match OnnxRuntime::open(None) {
        Ok(ort) => Some(ort),
        Err(e) if std::env::var_os("PLANISH_REQUIRE_ONNXRUNTIME").is_some() => panic!("{e:#}"),
        Err(e) => {
            eprintln!("onnxruntime is not asked: {e:#}");
            None
        }
    }
}

/// The model after a pass that looks at samples, run by the embedded engine, and what was said.
pub(crate) fn compress(model: &mut Model, pass: &str, config: Value, target: Target, samples: &Samples) -> Outcome {
    compress_by(None, model, pass, config, target, samples).unwrap()
}

/// The same with something that times models.
pub(crate) fn compress_by(
    stopwatch: Option<&dyn Stopwatch>,
    model: &mut Model,
    pass: &str,
    config: Value,
    target: Target,
    samples: &Samples,
) -> Result<Outcome, DriverError> {
    let calibration = Calibration { engine: &Tract, samples, memory: 1 << 28, watch: &NoObserver, store: None };
    let driver = Driver {
        engine: None,
        calibration: Some(calibration),
        stopwatch,
        weights: &InMemory,
        target,
        stop_after: None,
        bindings: [("N".to_owned(), 1)].into(),
        observer: &NoObserver,
    };
    driver.run(model, &[find(pass).unwrap().configured(config).unwrap()])
}
