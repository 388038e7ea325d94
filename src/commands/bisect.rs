//! `planish bisect`: find the patch of a pipeline after which the result is wrong.

use std::path::{Path, PathBuf};

use planish_ir::Model;
use serde::Serialize;

use super::{engines, print, print_json, recipe};
use crate::{
    bisect::{Bisection, Found, bisect},
    cli::{self, ExternalData},
    equivalence::{Expected, Verdict},
    failure::{Failure, Kind, OrFail, Result},
    model_file::{self, ModelFile},
    pipeline::EngineChoice,
    progress::Progress,
    sizes::Sizes,
    trial::{Complaint, PatchLine, Trial},
};

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    /// `false` if the whole pipeline is all right.
    fails: bool,
    /// How many patches the search was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    patches: Option<u64>,
    /// The first patch after which something is wrong.
    patch: Option<&'a PatchLine>,
    /// More than one if a pass applies patches in one.
    patches_together: u64,
    complaint: Option<&'a Complaint>,
    before: Option<&'a Verdict>,
    after: Option<&'a Verdict>,
    /// Where neighbours disagree.
    doubts: &'a [String],
    kept: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &cli::Bisect) -> Result {
    args.recipe.run.start_threads()?;
    let pipeline = recipe::pipeline(&args.recipe)?;
    let progress = Progress::start();
    progress.say("reading the model");
    let file = ModelFile::open(&args.model)?;
    let sizes = Sizes::complete(&[&file.model], &args.recipe.run.dims)?;
    if pipeline.verify.engine == EngineChoice::Off {
        let message = "verification is off, so nothing can be found wrong; choose an engine with --verify";
        return Err(Failure::message(Kind::Config, message));
    }
    engines::check(pipeline.verify.engine, &args.recipe.run)?;
    if let Some(folder) = &args.keep {
        std::fs::create_dir_all(folder).or_fail_with(Kind::File, || format!("cannot make {}", folder.display()))?;
    }
    let mut samples = recipe::samples(&args.recipe, &pipeline, &file)?;
    let calibrator = recipe::Calibrator::new(&args.recipe, &pipeline, &file.model, &mut samples, &file)?;
    let (engine, note) = engines::for_samples(pipeline.verify.engine, &args.recipe.run, &file.model, &mut samples)?;
    note.iter().for_each(|n| log::warn!("{n}"));
    progress.say("running the original");
    let mut fitting = samples.clone();
    let expected = Expected::fitting(&*engine, &file.model, &mut fitting, pipeline.verify.samples)
        .or_fail_with(Kind::Gate, || format!("{} cannot run the model as it is", engine.name()))?;
    let trial = Trial {
        model: &file.model,
        steps: &pipeline.passes,
        weights: &file,
        calibration: calibrator.on(&samples, &progress),
        target: pipeline.target,
        bindings: sizes.bindings,
        expected,
        verify: &pipeline.verify,
    };
    let say = |what: String| {
        log::info!("{what}");
        progress.say(what);
    };
    let bisection = bisect(&trial, &say, &planish_passes::NoObserver);
    drop(progress);
    let mut answer = Answer {
        fails: false,
        patches: None,
        patch: None,
        patches_together: 0,
        complaint: None,
        before: None,
        after: None,
        doubts: &[],
        kept: Vec::new(),
    };
    match &bisection {
        Bisection::Fine(whole) => {
            answer = Answer { patches: Some(whole.patches), after: whole.verdict.as_ref(), ..answer };
            if args.json {
                return print_json(&answer);
            }
            let verdict = whole.verdict.as_ref().map_or_else(String::new, Verdict::render);
            print(&format!("{verdict}nothing fails: all {} patches are all right\n", whole.patches))
        }
        Bisection::WrongFromTheStart(complaint) => {
            let message = "the model differs from itself, before any patch: its outputs are not the same in every run";
            Err(Failure::message(Kind::Gate, format!("{message} ({})", complaint.message)))
        }
        Bisection::Found(found) => {
            let kept = args.keep.as_deref().map_or_else(|| Ok(Vec::new()), |folder| keep(found, &file, folder))?;
            let patch = found.patch();
            answer = Answer {
                fails: true,
                patch: patch.map(|(line, _)| line),
                patches_together: patch.map_or(0, |(_, count)| count),
                complaint: Some(&found.complaint),
                before: found.before.verdict.as_ref(),
                after: found.after.verdict.as_ref(),
                doubts: &found.doubts,
                kept,
                ..answer
            };
            if args.json { print_json(&answer) } else { print(&render(found, &answer.kept)) }
        }
    }
}

fn keep(found: &Found, file: &ModelFile, folder: &Path) -> Result<Vec<PathBuf>> {
    let save = |model: &Model, name: &str| {
        let path = folder.join(name);
        model_file::save(model, &file.sources, &path, ExternalData::Auto, false, None)?;
        Ok(path)
    };
    let (before, after) = found.models();
    let mut kept = vec![save(before, "before.onnx")?];
    // A pass that breaks the model leaves nothing behind that could be written.
    if let Some(after) = after.filter(|m| planish_ir::verify(m).is_ok()) {
        kept.push(save(after, "after.onnx")?);
    }
    Ok(kept)
}

fn render(found: &Found, kept: &[PathBuf]) -> String {
    let mut text = String::new();
    for (when, attempt) in [("before", &found.before), ("after", &found.after)] {
        if let Some(verdict) = &attempt.verdict {
            text += &format!("{when} it:\n{}\n", verdict.render());
        }
    }
    text += &match found.patch() {
        Some((p, 1)) => format!("the first wrong patch is {} of {}: {}\n", p.number, p.pass, p.note),
        Some((p, n)) => {
            let first = found.before.patches + 1;
            format!("the first wrong patches are the {n} from {first} to {} of {}, applied in one\n", p.number, p.pass)
        }
        None => format!("nothing is wrong after patch {}, but the next one is never applied\n", found.before.patches),
    };
    text += &format!("what is wrong: {}\n", found.complaint.message);
    for doubt in &found.doubts {
        text += &format!("note: not only this patch matters: {doubt}\n");
    }
    text += &format!("{} runs of the pipeline\n", found.runs);
    for path in kept {
        text += &format!("written: {}\n", path.display());
    }
    text
}
