//! A part of a model that is run on its own.

use std::collections::BTreeSet;

use planish_ir::{GraphPath, Model, Tensor, ValueId};

use crate::{Calibration, PassError, Runnable, Tensors};

/// A loaded part of a main graph: what is between some values, inputs, and outputs.
pub(super) struct Piece {
    runnable: Box<dyn Runnable>,
    inputs: Vec<String>,
    /// Names of what it computes.
    pub(super) outputs: Vec<String>,
}

impl Piece {
    /// Loads what computes `outputs` from the values in `cut` and the inputs of a model that has types.
    pub(super) fn between(
        model: &Model,
        cut: &BTreeSet<ValueId>,
        outputs: &[ValueId],
        calibration: &Calibration<'_>,
    ) -> Result<Piece, PassError> {
        let piece = model.extract_between(&GraphPath::main(), cut, outputs);
        let piece = piece.ok_or_else(|| PassError::Precondition("a value of the model is gone".to_owned()))?;
        let outputs: Vec<String> = outputs.iter().map(|&v| model.graph.name_of(v)).collect();
        let inputs = piece.graph.inputs().iter().map(|&v| piece.graph.name_of(v)).collect();
        Ok(Piece { runnable: calibration.engine.load(&piece, &outputs)?, inputs, outputs })
    }

    /// Runs it on a sample of which values in between may be known.
    pub(super) fn run(&self, given: &Tensors, known: Option<&Tensors>) -> Result<Vec<Tensor>, PassError> {
        let input = |n: &String| Some((n.clone(), known.and_then(|k| k.get(n)).or_else(|| given.get(n))?.clone()));
        Ok(self.runnable.run(&self.inputs.iter().filter_map(input).collect())?)
    }
}
