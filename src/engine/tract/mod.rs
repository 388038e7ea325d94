//! tract, the built-in engine.
//!
//! tract plans a model for inputs of fixed shapes, so the plan is made when a sample of new shapes comes, and kept.
//! Where it cannot plan because the shape of something depends on the *content* of an input (the target of a `Reshape`,
//! say), the small inputs become constants of the plan, which is then kept for this content.
//!
//! So whether tract can run a model is known when it is run. `lower` prepares it for that.

mod plan;
mod quiet;
mod rounding;
mod tensor;
mod weights;

#[cfg(test)]
mod official;

use planish_ir::{Model, Tensor};
use planish_passes::{Engine, EngineError, Runnable, Tensors};

use super::program::{Program, failed};
use plan::Plans;
use tensor::narrowed;

/// The release that is linked.
const VERSION: &str = "0.23.9";

/// The built-in engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Engine for Tract {
    fn name(&self) -> &str {
        "tract"
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn holds(&self, weights: u64, shapes: usize) -> u64 {
        plan::held(weights, shapes)
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        let mut program = Program::new(model, outputs)?;
        let plans = Plans::new(std::mem::take(&mut program.message));
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
        let computed = self.plans.run(inputs)?.into_iter().zip(&self.program.computed);
        let narrowed = computed.map(|(t, (_, ty))| narrowed(t, ty.as_ref())).collect::<Result<Vec<_>, _>>();
        let computed = narrowed.map_err(|e| failed(e.to_string()))?;
        self.program.hand_out(inputs, &computed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{floats, model, run, runs_and_hands_out_inner_values};

    #[test]
    fn its_version_is_the_one_that_is_linked() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("tract-onnx = {{ version = \"={VERSION}\"")));
    }

    #[test]
    fn it_runs_what_is_asked() {
        runs_and_hands_out_inner_values(&Tract);
    }

    #[test]
    fn what_depends_on_the_content_of_an_input_is_planned_for_it() {
        // The repeats come as data; tract wants to know the shape of the result before it runs.
        let m = model(17, "g (float[2] x, int64[1] n) => (float[m] y) { y = Tile(x, n) }");
        let repeats = |n| run(&Tract, &m, &[("x", floats(&[2], &[1.0, 2.0])), ("n", Tensor::ints(&[n]))]).unwrap();
        assert_eq!(repeats(2), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!(repeats(1), [1.0, 2.0]);
    }
}
