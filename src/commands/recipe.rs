//! What the arguments of a command that runs a pipeline come to.

use planish_ir::Model;
use planish_passes::calibration::Watch;

use crate::{
    cli::Recipe,
    data::{Options, Samples, Source},
    engine::tract::Tract,
    failure::{Failure, Kind, OrFail, Result},
    pipeline::{Calibration, EngineChoice, Pipeline},
};

/// Bytes that statistics and the activations they are made of may take at a time.
const CALIBRATION_MEMORY: u64 = 2 << 30;

/// The pipeline, with what other arguments override.
pub(super) fn pipeline(recipe: &Recipe) -> Result<Pipeline> {
    let mut pipeline = match (recipe.preset, &recipe.pipeline) {
        (Some(preset), _) => Pipeline::preset(preset)?,
        (None, Some(path)) => Pipeline::read(path)?,
        (None, None) => return Err(Failure::message(Kind::Config, "give --preset or --pipeline")),
    };
    if let Some(path) = &recipe.calib {
        let old = pipeline.calibration.take().unwrap_or_default();
        let (npz, npy) = match Source::of_path(path) {
            Source::Folder(path) => (None, Some(path)),
            _ => (Some(path.clone()), None),
        };
        pipeline.calibration = Some(Calibration { npz, npy, random: None, samples: old.samples, batch: old.batch });
    }
    pipeline.target = recipe.target.unwrap_or(pipeline.target);
    pipeline.verify.engine = recipe.verify.unwrap_or(pipeline.verify.engine);
    pipeline.verify.samples = recipe.samples.unwrap_or(pipeline.verify.samples);
    Ok(pipeline)
}

/// Where the samples come from: the calibration, or else random ones for verification.
pub(super) fn source(recipe: &Recipe, pipeline: &Pipeline) -> Result<(Source, Options)> {
    let mut options = Options { sizes: pipeline.verify.dims.clone(), ..recipe.run.data_options() };
    let source = match &pipeline.calibration {
        Some(c) => {
            (options.samples, options.batch) = (c.samples, c.batch);
            match (&c.npz, &c.npy) {
                (Some(path), _) => Source::Npz(path.clone()),
                (None, Some(path)) => Source::Folder(path.clone()),
                (None, None) => Source::Random { seed: c.random.unwrap_or(0) },
            }
        }
        None => {
            options.samples = Some(pipeline.verify.samples);
            Source::Random { seed: 0 }
        }
    };
    match (&source, options.sizes.is_empty()) {
        (Source::Random { .. }, _) | (_, true) => Ok((source, options)),
        (Source::Npz(_) | Source::Folder(_), false) => {
            let message = "verify.dims is for random samples; those of a file have the sizes that they have";
            Err(Failure::message(Kind::Config, message))
        }
    }
}

/// The samples for a model; none if nobody needs them.
pub(super) fn samples(recipe: &Recipe, pipeline: &Pipeline, model: &Model) -> Result<Samples> {
    if pipeline.calibration.is_none() && pipeline.verify.engine == EngineChoice::Off {
        return Ok(Samples::default());
    }
    let (source, options) = source(recipe, pipeline)?;
    source.load(model, &options).or_fail_with(Kind::Config, || "cannot make samples for the model")
}

/// What passes learn of activations from, if the pipeline has samples for them.
pub(super) fn calibration<'a>(
    pipeline: &Pipeline,
    samples: &'a Samples,
    watch: &'a dyn Watch,
) -> Option<planish_passes::Calibration<'a>> {
    pipeline.calibration.as_ref()?;
    // The built-in engine, whoever verifies: the result must not depend on that choice.
    Some(planish_passes::Calibration { engine: &Tract, samples, memory: CALIBRATION_MEMORY, watch })
}
