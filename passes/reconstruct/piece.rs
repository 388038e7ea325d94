//! A part of a model that is run on its own.

use std::collections::BTreeSet;

use planish_ir::{GraphPath, Model, Tensor, ValueId};

use crate::{Calibration, PassError, Runnable, Samples, Tensors};

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

    /// Runs it on the sample of this number, of which values in between may be known. The sample is made only if its inputs are needed:
    /// images have to be decoded.
    pub(super) fn run(
        &self,
        samples: &dyn Samples,
        sample: usize,
        known: Option<&Tensors>,
    ) -> Result<Vec<Tensor>, PassError> {
        let known = |n: &String| known.and_then(|k| k.get(n));
        let given = match self.inputs.iter().all(|n| known(n).is_some()) {
            true => None,
            false => Some(samples.get(sample)?),
        };
        let input = |n: &String| Some((n.clone(), known(n).or_else(|| given.as_ref()?.get(n))?.clone()));
        Ok(self.runnable.run(&self.inputs.iter().filter_map(input).collect())?)
    }
}
