//! One run of a pipeline, or of its first patches, and what is wrong with the result.

use std::cell::RefCell;

use planish_ir::{Model, infer::Bindings};
use planish_passes::{Calibration, Driver, DriverError, Observer, Patched, StepConfig, Target, Weights};
use serde::Serialize;

use crate::{
    engine::tract::Tract,
    equivalence::{Expected, Verdict},
    pipeline::Verify,
};

/// What is run.
pub struct Trial<'a> {
    /// The model.
    pub model: &'a Model,
    /// The pipeline.
    pub steps: &'a [StepConfig],
    /// Reads the model's weights.
    pub weights: &'a dyn Weights,
    /// For passes that look at activations.
    pub calibration: Option<Calibration<'a>>,
    /// What the result is made for.
    pub target: Target,
    /// Sizes of symbolic dims.
    pub bindings: Bindings,
    /// What the model computes.
    pub expected: Expected<'a>,
    /// What the result is held to.
    pub verify: &'a Verify,
}

/// What came of it.
#[derive(Debug)]
pub struct Attempt {
    /// The model as the last patch left it.
    pub model: Model,
    /// How many patches were applied.
    pub patches: u64,
    /// The last of them.
    pub last: Option<PatchLine>,
    /// The comparison; absent if it did not come to that.
    pub verdict: Option<Verdict>,
    /// What is wrong, if anything is.
    pub complaint: Option<Complaint>,
}

/// One patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchLine {
    /// Its number, from 1 on.
    pub number: u64,
    /// The pass that made it.
    pub pass: &'static str,
    /// What it did.
    pub note: String,
}

/// What is wrong with an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// Of which kind it is.
    pub trouble: Trouble,
    /// The whole sentence.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// A pass cannot run on the model.
    GivesUp(&'static str),
    /// A pass made an illegal patch, or an invalid model, or has no end.
    Breaks(&'static str),
    /// The engine does not run the result.
    CannotRun,
    /// The outputs are not as close as they have to be.
    Differs,
}

impl Trial<'_> {
    /// Runs the pipeline to its end, or until the patch with the number `stop_after`, and compares.
    pub fn run(&self, stop_after: Option<u64>, observer: &dyn Observer) -> Attempt {
        let last = Last { inner: observer, patch: RefCell::new(None) };
        let driver = Driver {
            // As for compilation: constants are folded by the built-in engine, whoever verifies.
            engine: Some(&Tract),
            calibration: self.calibration,
            // What is tried again and again has to give the same each time.
            stopwatch: None,
            weights: self.weights,
            target: self.target,
            stop_after,
            bindings: self.bindings.clone(),
            observer: &last,
        };
        let mut model = self.model.clone();
        let outcome = driver.run(&mut model, self.steps);
        let last = last.patch.into_inner();
        let patches = last.as_ref().map_or(0, |p| p.number);
        let (verdict, complaint) = match outcome {
            Err(e) => {
                let trouble = match &e {
                    DriverError::Pass { pass, .. } => Trouble::GivesUp(pass),
                    DriverError::Broken { pass, .. }
                    | DriverError::Illegal { pass, .. }
                    | DriverError::Endless { pass, .. } => Trouble::Breaks(pass),
                };
                (None, Some(Complaint { trouble, message: e.to_string() }))
            }
            Ok(outcome) => match self.expected.compare(&model, outcome.numerics(), self.verify) {
                Err(e) => (None, Some(Complaint { trouble: Trouble::CannotRun, message: e.to_string() })),
                Ok(verdict) => {
                    let wrong = (!verdict.failures.is_empty())
                        .then(|| Complaint { trouble: Trouble::Differs, message: verdict.failures.join("; ") });
                    (Some(verdict), wrong)
                }
            },
        };
        Attempt { model, patches, last, verdict, complaint }
    }
}

/// Remembers the last patch.
struct Last<'a> {
    inner: &'a dyn Observer,
    patch: RefCell<Option<PatchLine>>,
}

impl Observer for Last<'_> {
    fn pass_begins(&self, name: &str) {
        self.inner.pass_begins(name);
    }

    fn patch(&self, p: &Patched<'_>) {
        self.inner.patch(p);
        *self.patch.borrow_mut() = Some(PatchLine { number: p.number, pass: p.pass, note: p.note.to_owned() });
    }
}
