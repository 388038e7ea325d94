//! ONNX Runtime, loaded at run time where it is installed.
//!
//! It serves as a second witness, for models that tract does not run, and to measure latency. As a witness it runs with
//! its graph optimizations off: the default ones change numerics (they turn dequantized weights before a `MatMul` into
//! integer kernels that round the activations).

mod crash;
mod library;
mod pool;
mod stopwatch;
mod value;

use std::{path::Path, sync::OnceLock};

use anyhow::{Context, anyhow};
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::DynValue,
};
use planish_ir::{Model, Tensor};
use planish_passes::{Engine, EngineError, Runnable, Tensors};
use planish_proto::{External, SaveOptions, Sources, onnx::ModelProto};
use prost::Message;
use tempfile::TempDir;

use super::program::{Program, failed};
pub use crash::say_if_it_crashes;
use pool::Pool;
pub use stopwatch::Stopwatch;

/// A larger message goes through a temporary file with its weights beside it: what is given in memory is copied twice,
/// and nothing above 2 GB can be given in memory at all.
const IN_MEMORY: usize = 256 << 20;
/// The model in its temporary folder.
const MODEL: &str = "model.onnx";

/// What ONNX Runtime may do to a graph before it runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optimization {
    /// Nothing, so that it computes what the model says.
    #[default]
    Off,
    /// What it does by default, as a deployed model is run.
    Default,
}

/// The engine. Its library is loaded once per process.
#[derive(Clone, Copy, Debug)]
pub struct OnnxRuntime {
    environment: &'static Environment,
    optimization: Optimization,
    threads: usize,
}

impl OnnxRuntime {
    /// Loads the library at `path`, or else where `ORT_DYLIB_PATH` says, or else the one in a Python installation.
    /// Fails if there is none or it is too old, and says what to do. Later calls use the library of the first one.
    pub fn open(path: Option<&Path>) -> anyhow::Result<OnnxRuntime> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let opened = ENVIRONMENT.get_or_init(|| environment(path).map_err(|e| format!("{e:#}")));
        let environment = opened.as_ref().map_err(|e| anyhow!("{e}"))?;
        Ok(OnnxRuntime { environment, optimization: Optimization::Off, threads: 1 })
    }

    /// The same engine with other graph optimizations.
    #[must_use]
    pub const fn with_optimization(mut self, optimization: Optimization) -> OnnxRuntime {
        self.optimization = optimization;
        self
    }

    /// The same engine with so many threads for one run.
    #[must_use]
    pub const fn with_threads(mut self, threads: usize) -> OnnxRuntime {
        self.threads = threads;
        self
    }

    fn builder(&self) -> ort::Result<SessionBuilder> {
        let level = match self.optimization {
            Optimization::Off => GraphOptimizationLevel::Disable,
            Optimization::Default => GraphOptimizationLevel::All,
        };
        // Weights that are constants are stored for other kernels, which round differently, and only then: a model in which a weight is
        // computed would not be one with the result in its place, bit for bit.
        let is_packed = self.optimization == Optimization::Default;
        let builder = Session::builder(self.environment)?.with_optimization_level(level)?.with_prepacking(is_packed)?;
        Ok(builder.with_intra_threads(self.threads)?.with_inter_threads(1)?.with_log_level(LogLevel::Fatal)?)
    }

    /// A folder with the model, if it is too large to be given in memory.
    fn folder(&self, message: &ModelProto) -> anyhow::Result<Option<TempDir>> {
        if message.encoded_len() <= IN_MEMORY {
            return Ok(None);
        }
        let folder = tempfile::tempdir().context("cannot make a temporary folder for the model")?;
        let options = SaveOptions { external: External::Always, ..SaveOptions::default() };
        let sources = Sources::in_folder(folder.path());
        planish_proto::save(message.clone(), &sources, folder.path().join(MODEL), &options)?;
        Ok(Some(folder))
    }

    fn session(&self, message: &ModelProto, folder: Option<&TempDir>) -> anyhow::Result<Session> {
        let mut builder = self.builder()?;
        Ok(match folder {
            Some(folder) => builder.commit_from_file(folder.path().join(MODEL))?,
            None => builder.commit_from_memory(&message.encode_to_vec())?,
        })
    }
}

fn environment(path: Option<&Path>) -> anyhow::Result<Environment> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => library::find()?,
    };
    let builder = ort::init_from(&path)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("{} cannot be used as ONNX Runtime's library", path.display()))?;
    let environment = builder.with_name("planish").with_telemetry(false).build().map_err(|e| anyhow!("{e}"))?;
    environment.set_log_level(LogLevel::Fatal);
    Ok(environment)
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &str {
        "onnxruntime"
    }

    fn version(&self) -> String {
        format!("{}, optimizations: {:?}", ort::info(), self.optimization)
    }

    fn holds(&self, weights: u64, _shapes: usize) -> u64 {
        // The message, and in each session the weights as they are and rearranged for its kernels.
        let sessions = Pool::most(weights) as u64;
        weights.saturating_mul(1 + 2 * sessions)
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        let program = Program::new(model, outputs)?;
        if program.computed.is_empty() {
            return Ok(Box::new(Loaded { engine: *self, program, sessions: None }));
        }
        let folder = self.folder(&program.message).map_err(|e| failed(format!("{e:#}")))?;
        let first = self.session(&program.message, folder.as_ref()).map_err(|e| failed(format!("{e:#}")))?;
        let pool = Pool::new(first, program.message.encoded_len() as u64);
        Ok(Box::new(Loaded { engine: *self, program, sessions: Some(Sessions { pool, folder }) }))
    }
}

struct Loaded {
    engine: OnnxRuntime,
    program: Program,
    /// `None` if nothing has to be computed.
    sessions: Option<Sessions>,
}

struct Sessions {
    pool: Pool,
    /// Weights stay mapped while sessions live.
    folder: Option<TempDir>,
}

impl Runnable for Loaded {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        self.program.check_inputs(inputs)?;
        let computed = match &self.sessions {
            Some(sessions) => self.compute(sessions, inputs).map_err(|e| failed(format!("{e:#}")))?,
            None => Vec::new(),
        };
        self.program.hand_out(inputs, &computed)
    }
}

impl Loaded {
    fn compute(&self, sessions: &Sessions, inputs: &Tensors) -> anyhow::Result<Vec<Tensor>> {
        let another = || self.engine.session(&self.program.message, sessions.folder.as_ref());
        sessions.pool.with(another, |session| self.compute_by(session, inputs))
    }

    fn compute_by(&self, session: &mut Session, inputs: &Tensors) -> anyhow::Result<Vec<Tensor>> {
        let given = given(session, inputs)?;
        let mut outputs = session.run(given)?;
        let mut output = |(name, _): &(String, _)| {
            value::from_ort(outputs.remove(name).with_context(|| format!("the engine did not give {name:?}"))?)
        };
        self.program.computed.iter().map(&mut output).collect()
    }
}

/// What a session wants, of what there is.
fn given(session: &Session, inputs: &Tensors) -> anyhow::Result<Vec<(String, DynValue)>> {
    let wanted = session.inputs().iter().filter_map(|input| Some((input.name(), inputs.get(input.name())?)));
    wanted.map(|(name, tensor)| Ok((name.to_owned(), value::to_ort(tensor)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where there is no ONNX Runtime, there is nothing to test.
    #[test]
    fn it_runs_what_is_asked_if_it_is_there() {
        let Ok(engine) = OnnxRuntime::open(None) else { return };
        crate::engine::tests::runs_and_hands_out_inner_values(&engine);
    }
}
