//! How long models take in ONNX Runtime.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use ort::{
    session::{Session, SessionInputValue},
    value::DynValue,
};
use planish_ir::Model;
use planish_passes::{EngineError, Tensors, Timing};
use tempfile::TempDir;

use super::{OnnxRuntime, Optimization, failed, given};
use crate::engine::program::Program;

/// Runs of each model before any counts: the first ones allocate.
const WARM_UP: usize = 3;
/// Pairs of runs, at least and at most; between them as many as take [`LONG_ENOUGH`].
const PAIRS: std::ops::RangeInclusive<usize> = 11..=301;
const LONG_ENOUGH: Duration = Duration::from_millis(600);

/// Measures with ONNX Runtime as models are deployed in it: with its default optimizations, and one thread. Its library is opened when it
/// is needed.
#[derive(Debug, Clone)]
pub struct Stopwatch {
    library: Option<PathBuf>,
}

impl Stopwatch {
    /// With the library at a path, or where [`OnnxRuntime::open`] looks for one.
    pub const fn new(library: Option<PathBuf>) -> Stopwatch {
        Stopwatch { library }
    }

    fn engine(&self) -> Result<OnnxRuntime, EngineError> {
        let engine = OnnxRuntime::open(self.library.as_deref()).map_err(|e| failed(format!("{e:#}")))?;
        Ok(engine.with_optimization(Optimization::Default).with_threads(1))
    }
}

impl planish_passes::Stopwatch for Stopwatch {
    fn tool(&self) -> Result<String, EngineError> {
        self.engine().map(|_| "onnxruntime with its default optimizations and one thread".to_owned())
    }

    fn beside(&self, original: &Model, sample: &Tensors) -> Result<Box<dyn Timing>, EngineError> {
        let engine = self.engine()?;
        Ok(Box::new(Beside { original: Timed::new(&engine, original, sample)?, engine, sample: sample.clone() }))
    }
}

struct Beside {
    engine: OnnxRuntime,
    original: Timed,
    sample: Tensors,
}

impl Timing for Beside {
    fn share(&mut self, model: &Model) -> Result<f64, EngineError> {
        let mut timed = Timed::new(&self.engine, model, &self.sample)?;
        self.pairs(&mut timed).map(median).map_err(|e| failed(format!("{e:#}")))
    }
}

impl Beside {
    /// What each run takes, as a share of the one beside it: whatever else the machine does then slows both.
    fn pairs(&mut self, timed: &mut Timed) -> Result<Vec<f64>> {
        for _ in 0..WARM_UP {
            self.original.run()?;
            timed.run()?;
        }
        let (mut shares, start) = (Vec::new(), Instant::now());
        while shares.len() < *PAIRS.start() || (shares.len() < *PAIRS.end() && start.elapsed() < LONG_ENOUGH) {
            let of_original = self.original.run()?;
            shares.push(timed.run()?.as_secs_f64() / of_original.as_secs_f64().max(f64::MIN_POSITIVE));
        }
        Ok(shares)
    }
}

fn median(mut shares: Vec<f64>) -> f64 {
    shares.sort_by(f64::total_cmp);
    shares.get(shares.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A model with what it is run on.
struct Timed {
    session: Session,
    inputs: Vec<(String, DynValue)>,
    /// Weights stay mapped while the session lives.
    _folder: Option<TempDir>,
}

impl Timed {
    fn new(engine: &OnnxRuntime, model: &Model, sample: &Tensors) -> Result<Timed, EngineError> {
        let graph = &model.graph;
        let outputs: Vec<String> = graph.outputs().iter().map(|&v| graph.name_of(v)).collect();
        let program = Program::new(model, &outputs)?;
        program.check_inputs(sample)?;
        Timed::load(engine, &program, sample).map_err(|e| failed(format!("{e:#}")))
    }

    fn load(engine: &OnnxRuntime, program: &Program, sample: &Tensors) -> Result<Timed> {
        let folder = engine.folder(&program.message)?;
        let session = engine.session(&program.message, folder.as_ref())?;
        let inputs = given(&session, sample)?;
        Ok(Timed { session, inputs, _folder: folder })
    }

    fn run(&mut self) -> Result<Duration> {
        let inputs: Vec<(&str, SessionInputValue<'_>)> =
            self.inputs.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
        let start = Instant::now();
        let outputs = self.session.run(inputs)?;
        let taken = start.elapsed();
        drop(outputs);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use planish_ir::{Tensor, text};
    use planish_passes::Stopwatch as _;

    use super::*;

    /// How much is not for a test to say. Where there is no ONNX Runtime, there is nothing to test.
    #[test]
    fn models_are_timed_if_it_is_there() {
        let stopwatch = Stopwatch::new(None);
        if stopwatch.tool().is_err() {
            return;
        }
        let model = text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[4,4] unused) => (float[N,4] y)
            <float[4,4] w> { y = MatMul (x, w) }"#,
        )
        .unwrap();
        let tensor = |rows: u64| Tensor::from_f32([rows, 4].as_slice(), &vec![0.5; rows as usize * 4]).unwrap();
        let sample = Tensors::from([("x".to_owned(), tensor(3)), ("unused".to_owned(), tensor(4))]);
        let share = stopwatch.beside(&model, &sample).unwrap().share(&model).unwrap();
        assert!(share.is_finite() && share > 0.0);
        let Err(missing) = stopwatch.beside(&model, &Tensors::new()) else { panic!("it needs an input") };
        assert!(missing.to_string().contains("was not given"), "{missing}");
    }

    #[test]
    fn the_median_leaves_out_what_was_disturbed() {
        assert_eq!(median(vec![0.5, 9.0, 0.4]), 0.5);
    }
}
