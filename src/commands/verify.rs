//! `planish verify`: run two models on the same inputs and compare their outputs.

use planish_ir::Numerics;
use planish_passes::Engine;

use super::{engines, print, print_json};
use crate::{
    cli::Verify,
    data::{self, Source},
    equivalence,
    failure::{Failure, Kind, OrFail, Result},
    model_file::ModelFile,
    pipeline,
    progress::Progress,
};

/// Runs the command.
pub fn run(args: &Verify) -> Result {
    args.run.start_threads()?;
    let progress = Progress::start();
    progress.say("reading the models");
    let (reference, other) = (ModelFile::open(&args.reference)?, ModelFile::open(&args.model)?);
    engines::check(args.engine, &args.run)?;
    planish_ir::Interface::shared(&reference.model, &other.model).check(&other.model).map_err(|e| {
        let list: String = e.violations.iter().map(|v| format!("\n  {v}")).collect();
        Failure::message(Kind::Gate, format!("the models have different interfaces and cannot be compared:{list}"))
    })?;
    let options = data::Options { samples: Some(args.samples), ..args.run.data_options() };
    let mut source = args.data.as_deref().map_or(Source::Random { seed: 0 }, Source::of_path);
    match &mut source {
        Source::Images(images) => args.prepare.apply(Some(images), None)?,
        Source::Text(text) => args.prepare.apply(None, Some(text))?,
        Source::Npz(_) | Source::Folder(_) | Source::Random { .. } => args.prepare.apply(None, None)?,
    }
    source.look_beside(&args.reference);
    let mut samples =
        source.load(&reference.model, &options).or_fail_with(Kind::Config, || "cannot make samples for the models")?;
    progress.say("running both");
    let bounds = pipeline::Verify {
        engine: args.engine,
        samples: args.samples,
        dims: Default::default(),
        min_cosine: args.min_cosine,
        top1_agreement: args.top1_agreement,
        max_abs: args.max_abs,
        min_sqnr_db: None,
    };
    // Nothing is known of how the two are related: without a bound they must agree up to rounding.
    let class = if bounds.has_bounds() { Numerics::Lossy } else { Numerics::Reassociated };
    let compare = |engine: &dyn Engine| {
        equivalence::compare_drawn(engine, &reference.model, &other.model, &mut samples, class, &bounds)
    };
    let Some(answer) = engines::ask(args.engine, &args.run, compare)? else {
        return Err(Failure::message(Kind::Config, "--engine off compares nothing; choose auto, tract or onnxruntime"));
    };
    let verdict =
        answer.value.or_fail_with(Kind::Gate, || format!("{} cannot run the models", answer.engine.name()))?;
    samples.notes.extend(answer.note);
    drop(progress);
    if args.json {
        print_json(&verdict)?;
    } else {
        samples.notes.iter().try_for_each(|n| print(&format!("note: {n}\n")))?;
        print(&verdict.render())?;
    }
    match verdict.failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::message(Kind::Gate, "the models differ by more than asked")),
    }
}
