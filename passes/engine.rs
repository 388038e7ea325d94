//! What passes need from outside to run a model. The program brings the implementations.

use std::collections::BTreeMap;

use planish_ir::{Model, Tensor};

/// Tensors by the name of the model input or value.
pub type Tensors = BTreeMap<String, Tensor>;

/// Loads models and makes them runnable.
pub trait Engine: Sync {
    /// Name for reports.
    fn name(&self) -> &str;

    /// Changes when results may.
    fn version(&self) -> String {
        String::new()
    }

    /// Bytes that a loaded model with so many bytes of weights holds at most, besides activations, once it has run samples of so
    /// many different shapes.
    fn holds(&self, weights: u64, _shapes: usize) -> u64 {
        weights
    }

    /// Prepares a model. `outputs` names the values of the main graph to hand out, be they outputs or not.
    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError>;
}

/// A prepared model.
pub trait Runnable: Send + Sync {
    /// Runs it once. The tensors come in the order of `outputs` of [`Engine::load`].
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError>;

    /// Runs it on several samples, in parallel where the engine can. Results come in the order of the samples.
    fn run_many(&self, samples: &[Tensors]) -> Vec<Result<Vec<Tensor>, EngineError>> {
        use rayon::prelude::*;
        samples.par_iter().map(|s| self.run(s)).collect()
    }
}

/// Tells how long models take as they are deployed.
pub trait Stopwatch: Sync {
    /// With what it measures, for reports; fails if that is not there.
    fn tool(&self) -> Result<String, EngineError>;

    /// Gets ready to time models beside this one, on a sample.
    fn beside(&self, original: &Model, sample: &Tensors) -> Result<Box<dyn Timing>, EngineError>;
}

/// A model that others are timed beside.
pub trait Timing {
    /// The time that one run of a model takes, as a share of what the original takes; both are run in turns. It is not the same each time.
    fn share(&mut self, model: &Model) -> Result<f64, EngineError>;
}

/// Why an engine does not run a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It lacks an operator, or a form of it.
    #[error("node {node:?} ({op}) is not supported: {reason}")]
    Unsupported {
        /// Name of the node, or of its first output.
        node: String,
        /// Its operator.
        op: String,
        /// What is missing.
        reason: String,
    },
    /// It would run an operator and give a wrong result.
    #[error("node {node:?} ({op}) is refused, because the engine is known to compute it wrongly: {reason}")]
    Refused {
        /// Name of the node, or of its first output.
        node: String,
        /// Its operator.
        op: String,
        /// In which case.
        reason: String,
    },
    /// It tried and failed.
    #[error("{message}")]
    Failed {
        /// What it said.
        message: String,
    },
}
