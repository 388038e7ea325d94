//! Two models on the same inputs: are the outputs as close as they have to be?

use std::time::Instant;

use planish_ir::{Model, Numerics};
use planish_passes::{Engine, EngineError, Tensors};
use serde::Serialize;

use crate::{
    metrics::{Comparison, Tolerance},
    pipeline::Verify,
};

/// The figures of one output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputFigures {
    /// Name of the output.
    pub output: String,
    /// Same bits everywhere.
    pub identical: bool,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest difference as a share of the largest magnitude.
    pub max_relative: f64,
    /// Over all samples.
    pub cosine: f64,
    /// Signal to quantization noise ratio in dB; absent if there is no difference.
    pub sqnr_db: Option<f64>,
    /// Share of rows with the same largest element, where there are rows.
    pub top1_agreement: Option<f64>,
}

/// The verdict on a model.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Who ran the models.
    pub engine: String,
    /// How many runs were compared.
    pub runs: usize,
    /// What was asked for.
    pub asked: String,
    /// Per output.
    pub outputs: Vec<OutputFigures>,
    /// What is not as asked, a sentence each.
    pub failures: Vec<String>,
    /// Seconds that it took.
    #[serde(skip)]
    pub seconds: f64,
}

/// Runs both models on all samples and compares each output with what `verify` and the passes' class ask for.
pub fn compare(
    engine: &dyn Engine,
    reference: &Model,
    model: &Model,
    samples: &[Tensors],
    class: Numerics,
    verify: &Verify,
) -> Result<Verdict, EngineError> {
    let start = Instant::now();
    let names: Vec<String> = reference.graph.outputs().iter().map(|&v| reference.graph.name_of(v)).collect();
    // One after the other, so that only one is in memory at a time.
    let expected = run(engine, reference, &names, samples)?;
    let actual = run(engine, model, &names, samples)?;
    let mut comparisons: Vec<Comparison> = names.iter().map(|_| Comparison::new()).collect();
    let mut failures = Vec::new();
    for (run, (e, a)) in expected.iter().zip(&actual).enumerate() {
        for ((name, c), (e, a)) in names.iter().zip(&mut comparisons).zip(e.iter().zip(a)) {
            if let Err(mismatch) = c.add(e, a) {
                failures.push(format!("output {name:?}, run {run}: {mismatch}"));
            }
        }
    }
    for (name, c) in names.iter().zip(&comparisons) {
        failures.extend(judge(c, class, verify).into_iter().map(|f| format!("output {name:?}: {f}")));
    }
    let outputs = names.iter().zip(&comparisons).map(|(n, c)| figures(n, c)).collect();
    let seconds = start.elapsed().as_secs_f64();
    Ok(Verdict { engine: engine.name().to_owned(), runs: samples.len(), asked: asked(class, verify), outputs, failures, seconds })
}

fn run(
    engine: &dyn Engine,
    model: &Model,
    outputs: &[String],
    samples: &[Tensors],
) -> Result<Vec<Vec<planish_ir::Tensor>>, EngineError> {
    engine.load(model, outputs)?.run_many(samples).into_iter().collect()
}

/// True if the pipeline itself says how close is close enough.
fn has_bounds(v: &Verify) -> bool {
    v.min_cosine.is_some() || v.min_sqnr_db.is_some() || v.top1_agreement.is_some() || v.max_abs.is_some()
}

fn asked(class: Numerics, v: &Verify) -> String {
    let bounds = [
        v.min_cosine.map(|x| format!("cosine >= {x}")),
        v.min_sqnr_db.map(|x| format!("SQNR >= {x} dB")),
        v.top1_agreement.map(|x| format!("top-1 agreement >= {x}")),
        v.max_abs.map(|x| format!("difference <= {x}")),
    ];
    match (class, has_bounds(v)) {
        (_, true) => bounds.into_iter().flatten().collect::<Vec<_>>().join(", "),
        (Numerics::Exact, false) => "bit equality".into(),
        (Numerics::Reassociated, false) => "equality within float rounding".into(),
        (Numerics::Lossy, false) => "no bound; figures only".into(),
    }
}

fn judge(c: &Comparison, class: Numerics, v: &Verify) -> Vec<String> {
    if !has_bounds(v) {
        let lossy = Tolerance::Lossy { min_cosine: f64::NEG_INFINITY, min_top1: None };
        return Tolerance::of(class, lossy).check(c).err().into_iter().collect();
    }
    let mut failures = Vec::new();
    let lossy = Tolerance::Lossy { min_cosine: v.min_cosine.unwrap_or(f64::NEG_INFINITY), min_top1: v.top1_agreement };
    failures.extend(lossy.check(c).err());
    if let Some(bound) = v.min_sqnr_db.filter(|&b| c.sqnr_db() < b) {
        failures.push(format!("the SQNR is {:.2} dB, below {bound}", c.sqnr_db()));
    }
    if let Some(bound) = v.max_abs.filter(|&b| c.max_abs() > b) {
        failures.push(format!("the largest difference is {:.3e}, above {bound}", c.max_abs()));
    }
    failures
}

fn figures(name: &str, c: &Comparison) -> OutputFigures {
    OutputFigures {
        output: name.to_owned(),
        identical: c.identical(),
        max_abs: c.max_abs(),
        max_relative: c.max_relative(),
        cosine: c.cosine(),
        sqnr_db: Some(c.sqnr_db()).filter(|x| x.is_finite()),
        top1_agreement: c.top1_agreement(),
    }
}
