//! `planish reduce`: shrink a failing model to a small textual one.

use std::{
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use planish_ir::Model;
use planish_passes::{Engine, InMemory, NoObserver};

use super::{check_target, engines, print, recipe, write_file};
use crate::{
    cli::{self, ExternalData},
    data::{Options, Source},
    equivalence::Expected,
    failure::{Failure, Kind, OrFail, Result},
    model_file::{self, ModelFile},
    pipeline::{EngineChoice, Pipeline},
    progress::Progress,
    reduce::{ReduceError, Reduced, reduce},
    trial::{Complaint, Trial},
};

/// Runs the command.
pub fn run(args: &cli::Reduce) -> Result {
    args.recipe.run.start_threads()?;
    check_target(&args.output)?;
    let progress = Progress::start();
    progress.say("reading the model");
    let file = ModelFile::open(&args.model)?;
    let (reduced, what) = match &args.test {
        Some(command) => by_command(command, &file, &progress)?,
        None => by_pipeline(args, &file, &progress)?,
    };
    write_file(&args.output, &reduced.text)?;
    drop(progress);
    let before = file.model.graph.node_count();
    let kept = match reduced.kept {
        0 => "no weight needs its values".to_owned(),
        n => format!("{n} weights need their values"),
    };
    let Reduced { nodes, tests, .. } = reduced;
    print(&format!(
        "it still fails: {what}\n{}: {nodes} of {before} nodes, {kept}; {tests} models were tried\n",
        args.output.display()
    ))
}

fn say(progress: &Progress) -> impl Fn(String) + '_ {
    |what: String| {
        log::debug!("{what}");
        progress.say(what);
    }
}

/// A model fails if the pipeline does to it what it does to the given one.
fn by_pipeline(args: &cli::Reduce, file: &ModelFile, progress: &Progress) -> Result<(Reduced, String)> {
    let mut pipeline = recipe::pipeline(&args.recipe)?;
    // Every candidate is another model, whose statistics nobody asks for again.
    pipeline.calibration.iter_mut().for_each(|c| c.cache = None);
    let (source, options) = recipe::source(&args.recipe, &pipeline, &file.path)?;
    if pipeline.verify.engine == EngineChoice::Off {
        let message = "verification is off, so no result is wrong; choose an engine with --verify";
        return Err(Failure::message(Kind::Config, message));
    }
    engines::check(pipeline.verify.engine, &args.recipe.run)?;
    let mut samples = source.load(&file.model, &options).or_fail(Kind::Config)?;
    let calibrator = recipe::Calibrator::new(&args.recipe, &pipeline, &file.model, &mut samples, &InMemory)?;
    let (engine, note) = engines::for_samples(pipeline.verify.engine, &args.recipe.run, &file.model, &mut samples)?;
    note.iter().for_each(|n| log::warn!("{n}"));
    let judge =
        Judge { pipeline: &pipeline, source: &source, options: &options, engine: &*engine, calibrator: &calibrator };
    progress.say("running the pipeline");
    let complaint = judge.complaint(&file.model).or_fail(Kind::Config)?;
    let Some(complaint) = complaint else {
        return Err(Failure::message(Kind::Config, "nothing fails on this model, so there is nothing to reduce"));
    };
    let mut last = complaint.message.clone();
    let mut fails = |model: &Model| match judge.complaint(model) {
        Ok(Some(now)) if now.trouble == complaint.trouble => {
            last = now.message;
            true
        }
        _ => false,
    };
    let reduced = reduce(&file.model, &mut fails, &say(progress)).map_err(refused)?;
    // What was tried last need not be what was kept.
    let model = planish_ir::text::parse(&reduced.text).or_fail(Kind::Internal)?;
    let what = judge.complaint(&model).ok().flatten().map_or(last, |c| c.message);
    Ok((reduced, what))
}

/// Tells whether the pipeline fails on a model.
struct Judge<'a> {
    pipeline: &'a Pipeline,
    source: &'a Source,
    options: &'a Options,
    engine: &'a dyn Engine,
    calibrator: &'a recipe::Calibrator<'a>,
}

impl Judge<'_> {
    /// Fails itself if there is nothing to compare with.
    fn complaint(&self, model: &Model) -> anyhow::Result<Option<Complaint>> {
        let mut samples = self.source.load(model, &self.options.fitting(model))?;
        engines::fit(self.engine, model, &mut samples)?;
        let mut fitting = samples.clone();
        let expected = Expected::fitting(self.engine, model, &mut fitting, self.pipeline.verify.samples)?;
        let trial = Trial {
            model,
            steps: &self.pipeline.passes,
            weights: &InMemory,
            calibration: self.calibrator.on(&samples, &NoObserver),
            target: self.pipeline.target,
            bindings: Default::default(),
            expected,
            verify: &self.pipeline.verify,
        };
        Ok(trial.run(None, &NoObserver).complaint)
    }
}

/// A model fails if the command ends on it as it ends on the given one.
fn by_command(command: &str, file: &ModelFile, progress: &Progress) -> Result<(Reduced, String)> {
    let folder = tempfile::tempdir().or_fail_with(Kind::File, || "cannot make a temporary folder")?;
    let path = folder.path().join("candidate.onnx");
    let run = |model: &Model| -> Result<ExitStatus> {
        model_file::save(model, &file.sources, &path, ExternalData::Auto, false, None)?;
        shell(command, &path)
    };
    progress.say("running the command");
    let expected = run(&file.model)?;
    if expected.success() {
        let message = "the command succeeds on this model, so there is nothing to reduce";
        return Err(Failure::message(Kind::Config, message));
    }
    // A candidate that cannot be written is none.
    let mut fails = |model: &Model| run(model).is_ok_and(|status| status == expected);
    let reduced = reduce(&file.model, &mut fails, &say(progress)).map_err(refused)?;
    Ok((reduced, format!("the command ends with {expected}")))
}

fn shell(command: &str, path: &Path) -> Result<ExitStatus> {
    let mut shell = Command::new("sh");
    // The path is an argument, so that no character of it means anything to the shell.
    shell.arg("-c").arg(format!("{command} \"$1\"")).arg("sh").arg(path);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().or_fail_with(Kind::Config, || "cannot start the shell for --test")
}

fn refused(e: ReduceError) -> Failure {
    Failure::new(Kind::Config, e)
}
