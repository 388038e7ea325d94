//! `planish compile`: run a pipeline on a model, verify the result, write it.

use std::path::Path;

use planish_ir::{Model, Value, ValueId};
use planish_passes::{Driver, DriverError, Engine, Observer, Outcome, PassError};

use super::{check_target, engines, print, print_json, recipe, write_file};
use crate::{
    blame,
    cli::Compile,
    data::Samples,
    engine::{ort::Stopwatch, tract::Tract},
    equivalence,
    explain::{Explainer, Explanation},
    failure::{Failure, Kind, OrFail, Result},
    model_file::ModelFile,
    pipeline::Pipeline,
    progress::Progress,
    provenance::{self, Destination, Hashes},
    report::Report,
    sizes::Sizes,
};

/// Runs the command.
pub fn run(args: &Compile) -> Result {
    args.recipe.run.start_threads()?;
    let pipeline = recipe::pipeline(&args.recipe)?;
    let progress = Progress::start();
    progress.say("reading the model");
    let file = ModelFile::open(&args.model)?;
    check_paths(args, &pipeline, &file)?;
    let sizes = Sizes::complete(&[&file.model], &args.recipe.run.dims)?;
    engines::check(pipeline.verify.engine, &args.recipe.run)?;

    // Hashing takes as long as everything else, and needs nothing of it.
    let files = file.files();
    let report = std::thread::scope(|scope| {
        let hashes = Hashes::start(scope, files);
        let compiled = compile(args, &pipeline, &file, &sizes, &progress)?;
        let mut report = judge(args, &pipeline, &file, &compiled, &progress)?;
        if !report.failed() || args.keep_failed {
            progress.say("writing");
            let to = Destination { path: &args.output, external: args.external_data, sync: args.sync };
            let mut model = compiled.model;
            let written = provenance::write(&mut model, &file, &hashes, &pipeline, &compiled.samples, to)?;
            report.output = Some(args.output.clone());
            report.file_bytes.1 = Some(written.bytes);
        }
        report.input_blake3 = hashes.wait().to_vec();
        Ok(report)
    })?;
    drop(progress);
    publish(args, &pipeline, &report)?;
    match report.failed() {
        false => Ok(()),
        true => Err(gate_failure(&report, args.keep_failed)),
    }
}

/// Fails now rather than after all the work if a file cannot be written, or if the report would replace another file of
/// the same run.
fn check_paths(args: &Compile, pipeline: &Pipeline, file: &ModelFile) -> Result {
    let output = check_target(&args.output)?;
    for report in reports(args, pipeline) {
        let target = check_target(report)?;
        let is_read = |p: &Path| p.canonicalize().is_ok_and(|p| p == target);
        let is_input =
            file.files().iter().any(|f| is_read(f.path())) || args.recipe.pipeline.as_deref().is_some_and(is_read);
        let what = match (target == output, is_input) {
            (true, _) => "the result",
            (false, true) => "a file that is read",
            (false, false) => continue,
        };
        let message = format!("the report would replace {what}, {}; give it a name of its own", report.display());
        return Err(Failure::message(Kind::Config, message));
    }
    Ok(())
}

/// Where reports are to be written.
fn reports<'a>(args: &'a Compile, pipeline: &'a Pipeline) -> impl Iterator<Item = &'a Path> {
    args.report.as_deref().into_iter().chain(pipeline.report.as_ref().map(|r| r.json.as_path()))
}

/// Verifies a compiled model and puts together what is known of it.
fn judge(
    args: &Compile,
    pipeline: &Pipeline,
    file: &ModelFile,
    compiled: &Compiled,
    progress: &Progress,
) -> Result<Report> {
    let Compiled { model, outcome, samples, notes, explained } = compiled;
    let mut samples = samples.clone();
    let mut report = Report {
        planish: env!("CARGO_PKG_VERSION").to_owned(),
        input: args.model.clone(),
        input_blake3: Vec::new(),
        output: None,
        file_bytes: (file_bytes(file), None),
        size: (outcome.before.into(), outcome.after.into()),
        passes: Report::passes(outcome),
        verification: None,
        not_verified: None,
        blame: Vec::new(),
        explained: explained.clone(),
        notes: notes.clone(),
    };
    progress.say("verifying");
    let compare = |engine: &dyn Engine| {
        equivalence::compare_drawn(engine, &file.model, model, &mut samples, outcome.numerics(), &pipeline.verify)
    };
    if let Some(answer) = engines::ask(pipeline.verify.engine, &args.recipe.run, compare)? {
        let engine = &*answer.engine;
        match answer.value {
            Ok(verdict) => report.verification = Some(verdict),
            Err(e) => report.not_verified = Some(format!("{} cannot run the models: {e}", engine.name())),
        }
        report.notes.extend(answer.note);
        if let (true, Some(_), Ok(sample)) = (report.failed(), &report.verification, samples.inputs(0)) {
            progress.say("looking for the layer to blame");
            // The figures stand without it; an engine that cannot hand out inner values is no second failure.
            report.blame = blame::suspects(engine, &file.model, model, &sample, 3).unwrap_or_default();
        }
    }
    report.notes.extend(samples.notes);
    Ok(report)
}

/// A model after all passes.
struct Compiled {
    model: Model,
    outcome: Outcome,
    samples: Samples,
    notes: Vec<String>,
    explained: Option<Vec<Explanation>>,
}

fn compile(
    args: &Compile,
    pipeline: &Pipeline,
    file: &ModelFile,
    sizes: &Sizes,
    progress: &Progress,
) -> Result<Compiled> {
    let mut samples = recipe::samples(&args.recipe, pipeline, file)?;
    let calibrator = recipe::Calibrator::new(&args.recipe, pipeline, &file.model, &mut samples, file)?;
    let explainer = args.explain.as_deref().map(|pattern| Explainer::new(pattern, &file.model, progress));
    let stopwatch = Stopwatch::new(args.recipe.run.onnxruntime_lib.clone());
    let driver = Driver {
        // Constants are folded by the built-in engine, whoever verifies: the result must not depend on that choice.
        engine: Some(&Tract),
        calibration: calibrator.on(&samples, progress),
        stopwatch: Some(&stopwatch),
        weights: file,
        target: pipeline.target,
        stop_after: args.stop_after,
        bindings: sizes.bindings.clone(),
        observer: explainer.as_ref().map_or(progress as &dyn Observer, |e| e),
    };
    let mut model = file.model.clone();
    let outcome = driver.run(&mut model, &pipeline.passes).map_err(|e| {
        let kind = match e {
            DriverError::Pass { .. } => Kind::Config,
            DriverError::Broken { .. } | DriverError::Illegal { .. } | DriverError::Endless { .. } => Kind::Internal,
        };
        match (&e, calibrator.engine()) {
            (DriverError::Pass { source: PassError::Engine(_), .. }, "tract") => Failure::message(
                kind,
                format!("{e}. onnxruntime may run the model: calibration: {{engine: onnxruntime}}"),
            ),
            _ => Failure::new(kind, e),
        }
    })?;
    let mut notes: Vec<String> = sizes.note().into_iter().chain(calibrator.notes()).collect();
    notes.extend(overridable(&model));
    if outcome.stopped {
        notes.push(format!("stopped after patch {}, as asked", outcome.patches));
    }
    let explained = explainer.map(|e| e.finish(&model)).transpose().map_err(|e| Failure::message(Kind::Config, e))?;
    Ok(Compiled { model, outcome, samples, notes, explained })
}

/// A note on inputs from whose defaults nothing could be computed.
fn overridable(model: &Model) -> Option<String> {
    let graph = &model.graph;
    let has_default = |&v: &ValueId| graph.value(v).is_some_and(Value::has_default);
    let mut listed = graph.inputs().iter().copied().filter(has_default);
    let example = graph.name_of(listed.next()?);
    let count = 1 + listed.count();
    Some(format!(
        "{count} inputs have defaults that callers may override, {example:?} for one, so passes leave them alone; \
         `freeze-initializers: {{all: true}}` makes constants of them"
    ))
}

/// Bytes of the files of a model, whole even where it uses only a part of one.
fn file_bytes(file: &ModelFile) -> u64 {
    file.files().iter().map(|f| f.size()).sum()
}

fn publish(args: &Compile, pipeline: &Pipeline, report: &Report) -> Result {
    let json = serde_json::to_string_pretty(report).or_fail(Kind::Internal)? + "\n";
    reports(args, pipeline).try_for_each(|path| write_file(path, &json))?;
    if args.json { print_json(report) } else { print(&report.render()) }
}

fn gate_failure(report: &Report, kept: bool) -> Failure {
    let what = match (&report.verification, &report.not_verified) {
        (Some(v), _) => {
            let layer = report.blame.first().map(|s| format!("; most of the error arises in {:?} ({})", s.node, s.op));
            let failures = v.failures.join("; ");
            format!("the result is not as close to the original as asked: {failures}{}", layer.unwrap_or_default())
        }
        (None, Some(why)) => {
            format!(
                "the result could not be verified: {why}; choose another engine with --verify, other sizes of open axes with --dim, or --verify off"
            )
        }
        (None, None) => "the gate failed".to_owned(),
    };
    let fate = if kept { "written all the same, as asked" } else { "nothing was written" };
    Failure::message(Kind::Gate, format!("{what} ({fate})"))
}
