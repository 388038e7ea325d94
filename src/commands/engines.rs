//! Who runs models for a command.

use planish_ir::Model;
use planish_passes::{Engine, EngineError};

use crate::{
    cli::RunArgs,
    data::Samples,
    engine::{ort::OnnxRuntime, tract::Tract},
    equivalence::Expected,
    failure::{Kind, OrFail, Result},
    pipeline::EngineChoice,
};

/// What an engine answered.
pub(super) struct Answer<T> {
    /// The answer, or why there is none.
    pub(super) value: std::result::Result<T, EngineError>,
    /// Who gave it.
    pub(super) engine: Box<dyn Engine>,
    /// What the user should know of the choice.
    pub(super) note: Option<String>,
}

/// Has the chosen engine do something; `None` for `off`. With `auto` ONNX Runtime does all of what tract cannot do, so that nothing
/// is compared across engines, whose last digits differ.
///
/// # Errors
/// If the engine that was asked for by name is not there.
pub(super) fn ask<T>(
    choice: EngineChoice,
    run: &RunArgs,
    mut work: impl FnMut(&dyn Engine) -> std::result::Result<T, EngineError>,
) -> Result<Option<Answer<T>>> {
    let tract = |value| Answer { value, engine: Box::new(Tract), note: None };
    let library = run.onnxruntime_lib.as_deref();
    Ok(match choice {
        EngineChoice::Off => None,
        EngineChoice::Tract => Some(tract(work(&Tract))),
        EngineChoice::Onnxruntime => {
            let engine = OnnxRuntime::open(library).or_fail(Kind::Config)?;
            Some(Answer { value: work(&engine), engine: Box::new(engine), note: None })
        }
        EngineChoice::Auto => {
            let why = match work(&Tract) {
                Ok(value) => return Ok(Some(tract(Ok(value)))),
                Err(why) => why,
            };
            let failed = |message| Err(EngineError::Failed { message });
            Some(match OnnxRuntime::open(library) {
                Err(missing) => tract(failed(format!("{why}. Another engine may: {missing:#}"))),
                Ok(engine) => match work(&engine) {
                    Err(e) => tract(failed(format!("{why}; nor can {}: {e}", engine.name()))),
                    Ok(value) => {
                        let note = format!("tract cannot run this ({why}), so {} did", engine.name());
                        Answer { value: Ok(value), engine: Box::new(engine), note: Some(note) }
                    }
                },
            })
        }
    })
}

/// Fails now rather than after all the work if the engine that was asked for by name is not there.
pub(super) fn check(choice: EngineChoice, run: &RunArgs) -> Result {
    ask(choice, run, |_| Ok(())).map(drop)
}

/// The engine that can run a model on some samples, seen by one of each size that was drawn, and what to say of it. Drawn samples with
/// whose sizes the model does not run give way to larger ones. If there is no engine, it is tract, which will say what is wrong.
///
/// # Errors
/// If the engine that was asked for by name is not there.
pub(super) fn for_samples(
    choice: EngineChoice,
    run: &RunArgs,
    model: &Model,
    samples: &mut Samples,
) -> Result<(Box<dyn Engine>, Option<String>)> {
    let answer = ask(choice, run, |engine| fit(engine, model, samples))?;
    Ok(answer.map_or_else(|| (Box::new(Tract) as Box<dyn Engine>, None), |a| (a.engine, a.note)))
}

/// Takes samples that an engine can run a model on, if there are such.
pub(super) fn fit(engine: &dyn Engine, model: &Model, samples: &mut Samples) -> std::result::Result<(), EngineError> {
    let mut fitting = samples.clone();
    Expected::fitting(engine, model, &mut fitting, 1)?;
    *samples = fitting;
    Ok(())
}
