//! tract, the built-in engine.
//!
//! tract plans a model for inputs of fixed shapes, so the plan is made when a sample of new shapes comes, and kept. Where it
//! cannot plan because the shape of something depends on the *content* of an input (the target of a `Reshape`, say), the
//! small inputs become constants of the plan, which is then kept for this content.

mod plan;
mod quiet;
mod tensor;
mod weights;

#[cfg(test)]
mod official;

use planish_ir::{Model, Tensor};
use planish_passes::{Engine, EngineError, Runnable, Tensors};

use super::{lower, program::Program};
use plan::Plans;

/// The built-in engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Engine for Tract {
    fn name(&self) -> &str {
        "tract"
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        let mut program = Program::new(model, outputs)?;
        let mut message = std::mem::take(&mut program.message);
        lower::for_tract(&mut message)?;
        let plans = Plans::new(message);
        Ok(Box::new(Loaded { program, plans }))
    }
}

struct Loaded {
    program: Program,
    plans: Plans,
}

impl Runnable for Loaded {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        self.program.check_inputs(inputs)?;
        let computed = self.plans.run(inputs)?;
        self.program.hand_out(inputs, &computed)
    }
}
