//! Folding by running: the foldable nodes are cut out of the graph and run once, all together.

use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor, ValueId};

use super::Foldable;
use crate::{Changes, Engine, EngineError, Skip, Tensors};

pub(super) fn fold(engine: &dyn Engine, model: &Model, path: &GraphPath, foldable: &Foldable, changes: &mut Changes) {
    let values: Vec<ValueId> = foldable.frontier.iter().map(|(v, _)| *v).collect();
    match run(engine, model, path, &values) {
        Ok(results) => {
            for (&(value, class), result) in foldable.frontier.iter().zip(results) {
                replace(model, path, value, class, result, changes);
            }
        }
        // One node that the engine cannot run must not keep all the others.
        Err(_) => {
            for &(value, class) in &foldable.frontier {
                match run(engine, model, path, &[value]).map(|r| r.into_iter().next()) {
                    Ok(Some(result)) => replace(model, path, value, class, result, changes),
                    Ok(None) => {}
                    Err(e) => refuse(model, path, value, &e, changes),
                }
            }
        }
    }
}

fn run(engine: &dyn Engine, model: &Model, path: &GraphPath, values: &[ValueId]) -> Result<Vec<Tensor>, EngineError> {
    let gone = || EngineError::Failed { message: "the values are gone".into() };
    let piece = model.extract(path, values).ok_or_else(gone)?;
    let names: Vec<String> = piece.graph.outputs().iter().map(|&v| piece.graph.name_of(v)).collect();
    engine.load(&piece, &names)?.run(&Tensors::new())
}

fn replace(model: &Model, path: &GraphPath, value: ValueId, class: Numerics, result: Tensor, changes: &mut Changes) {
    let name = model.graph_at(path).map(|g| g.name_of(value)).unwrap_or_default();
    let mut patch = Patch::new(class, format!("{name:?} depends on constants alone"));
    let constant = patch.constant(name, result);
    patch.replace(value, constant);
    changes.patches.push((path.clone(), patch));
}

fn refuse(model: &Model, path: &GraphPath, value: ValueId, error: &EngineError, changes: &mut Changes) {
    if let Some((id, _)) = model.graph_at(path).and_then(|g| g.producer(value)) {
        changes.skipped.push((path.clone(), id, Skip::because(error.to_string())));
    }
}
