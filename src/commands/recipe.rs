//! What the arguments of a command that runs a pipeline come to.

use std::path::Path;

use planish_ir::Model;
use planish_passes::{
    Engine, Weights,
    calibration::{Store, Watch},
};

use super::engines;
use crate::{
    cli::Recipe,
    data::{Options, Samples, Source},
    engine::tract::Tract,
    failure::{Failure, Kind, OrFail, Result},
    kept::Kept,
    memory,
    model_file::ModelFile,
    pipeline::{CalibrationEngine, EngineChoice, Pipeline},
};

/// Said where a pipeline calibrates on random numbers.
const RANDOM: &str = "calibration is on random numbers: ranges measured on them say little about real inputs, and what is \
                      quantized by them may be useless; give real samples";

/// The pipeline, with what other arguments override.
pub(super) fn pipeline(recipe: &Recipe) -> Result<Pipeline> {
    let mut pipeline = match (recipe.preset, &recipe.pipeline) {
        (Some(preset), _) => Pipeline::preset(preset)?,
        (None, Some(path)) => Pipeline::read(path)?,
        (None, None) => return Err(Failure::message(Kind::Config, "give --preset or --pipeline")),
    };
    if let Some(path) = &recipe.calib {
        let mut calibration = pipeline.calibration.take().unwrap_or_default();
        calibration.set_source(Source::of_path(path));
        pipeline.calibration = Some(calibration);
    }
    let calibration = pipeline.calibration.as_mut();
    let (images, text) = calibration.map_or((None, None), |c| (c.images.as_mut(), c.text.as_mut()));
    recipe.prepare.apply(images, text)?;
    pipeline.target = recipe.target.unwrap_or(pipeline.target);
    pipeline.verify.engine = recipe.verify.unwrap_or(pipeline.verify.engine);
    pipeline.verify.samples = recipe.samples.unwrap_or(pipeline.verify.samples);
    Ok(pipeline)
}

/// Where the samples for a model at this place come from: the calibration, or else random ones for verification.
pub(super) fn source(recipe: &Recipe, pipeline: &Pipeline, model: &Path) -> Result<(Source, Options)> {
    let mut options = Options { sizes: pipeline.verify.dims.clone(), ..recipe.run.data_options() };
    let source = match &pipeline.calibration {
        Some(c) => {
            (options.samples, options.batch) = (c.samples, c.batch);
            let mut source = c.source();
            source.look_beside(model);
            source
        }
        None => {
            options.samples = Some(pipeline.verify.samples);
            Source::Random { seed: 0 }
        }
    };
    match (&source, options.sizes.is_empty()) {
        (Source::Random { .. }, _) | (_, true) => Ok((source, options)),
        (_, false) => {
            let message = "verify.dims is for random samples; those of a file have the sizes that they have";
            Err(Failure::message(Kind::Config, message))
        }
    }
}

/// The samples for a model; none if nobody needs them.
pub(super) fn samples(recipe: &Recipe, pipeline: &Pipeline, file: &ModelFile) -> Result<Samples> {
    if pipeline.calibration.is_none() && pipeline.verify.engine == EngineChoice::Off {
        return Ok(Samples::default());
    }
    let (source, options) = source(recipe, pipeline, &file.path)?;
    let mut samples =
        source.load(&file.model, &options).or_fail_with(Kind::Config, || "cannot make samples for the model")?;
    if samples.random && pipeline.calibration.is_some() {
        samples.notes.insert(0, RANDOM.to_owned());
    }
    Ok(samples)
}

/// What passes learn of activations with.
pub(super) struct Calibrator<'a> {
    engine: Box<dyn Engine>,
    /// Why it is not the usual one.
    chosen: Option<String>,
    /// `None` without calibration.
    memory: Option<u64>,
    store: Option<Kept<'a>>,
}

impl<'a> Calibrator<'a> {
    /// What a pipeline asks for. If it names no engine, the built-in one runs a model that it can run, whoever verifies and whatever
    /// is installed. The samples become those that the model runs on.
    pub(super) fn new(
        recipe: &Recipe,
        pipeline: &Pipeline,
        model: &Model,
        samples: &mut Samples,
        weights: &'a dyn Weights,
    ) -> Result<Calibrator<'a>> {
        let Some(calibration) = &pipeline.calibration else {
            return Ok(Calibrator { engine: Box::new(Tract), chosen: None, memory: None, store: None });
        };
        let choice = match calibration.engine {
            CalibrationEngine::Auto => EngineChoice::Auto,
            CalibrationEngine::Tract => EngineChoice::Tract,
            CalibrationEngine::Onnxruntime => EngineChoice::Onnxruntime,
        };
        let (engine, chosen) = engines::for_samples(choice, &recipe.run, model, samples)?;
        let cache = calibration.cache.as_deref();
        Ok(Calibrator {
            engine,
            chosen: chosen.map(|n| format!("calibration: {n}")),
            memory: Some(calibration.memory.unwrap_or_else(memory::usual).0),
            store: cache.map(|folder| Kept::in_folder(folder, weights)).transpose()?,
        })
    }

    /// The calibration on some samples, if the pipeline has one.
    pub(super) fn on<'c>(
        &'c self,
        samples: &'c Samples,
        watch: &'c dyn Watch,
    ) -> Option<planish_passes::Calibration<'c>> {
        let store = self.store.as_ref().map(|s| s as &dyn Store);
        Some(planish_passes::Calibration { engine: &*self.engine, samples, memory: self.memory?, watch, store })
    }

    /// Who runs the model.
    pub(super) fn engine(&self) -> &str {
        self.engine.name()
    }

    /// What the user should know of it, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        self.chosen.iter().cloned().chain(self.store.iter().flat_map(Kept::notes)).collect()
    }
}
