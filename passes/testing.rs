//! For the tests of passes: textual graphs in, textual graphs out.

use std::cell::RefCell;

use planish_ir::{Model, Tensor, infer, text};

use crate::{
    Calibration, Driver, Engine, EngineError, NoObserver, Observer, Pass, PassReport, Refusal, Runnable, StepConfig,
    Target, Tensors, calibration::bindings,
};

/// Runs a pass with its default configuration and prints the result.
pub(crate) fn check<P: Pass + Default + 'static>(before: &str) -> String {
    check_with(P::default(), before)
}

/// Runs a configured pass and prints the result.
pub(crate) fn check_with(pass: impl Pass + 'static, before: &str) -> String {
    check_model(pass, parse(before))
}

/// Runs a configured pass and prints the result. A second run must change nothing.
pub(crate) fn check_model(pass: impl Pass + 'static, model: Model) -> String {
    check_model_for(pass, Target::Generic, model)
}

/// Runs a configured pass for a target and prints the result.
pub(crate) fn check_for(pass: impl Pass + 'static, target: Target, before: &str) -> String {
    check_model_for(pass, target, parse(before))
}

/// Runs a configured pass for a target, with samples, and prints the result. Inner values are not computed, but drawn: from
/// the uniform distribution over -1 to 1, in the shape that inference finds.
pub(crate) fn check_calibrated(pass: impl Pass + 'static, target: Target, samples: &[Tensors], before: &str) -> String {
    check_run_by(&Drawn, pass, target, samples, before)
}

/// The same, with another engine.
pub(crate) fn check_run_by(
    engine: &dyn Engine,
    pass: impl Pass + 'static,
    target: Target,
    samples: &[Tensors],
    before: &str,
) -> String {
    let mut model = parse(before);
    let calibration = Calibration { engine, samples: &samples, memory: 1 << 30, watch: &NoObserver, store: None };
    run_calibrated(&mut model, &[step(pass)], target, Some(calibration), &NoObserver);
    text::print(&model)
}

/// Runs a configured pass, which must change nothing, for a target, with samples, and returns its reasons.
pub(crate) fn refusals_calibrated(
    pass: impl Pass + 'static,
    target: Target,
    samples: &[Tensors],
    before: &str,
) -> Vec<String> {
    let calibration =
        Calibration { engine: &Drawn, samples: &samples, memory: 1 << 30, watch: &NoObserver, store: None };
    reasons_with(pass, target, before, false, Some(calibration))
}

/// Hands out random numbers.
pub(crate) struct Drawn;

struct DrawnModel(Model, Vec<String>);

impl Engine for Drawn {
    fn name(&self) -> &str {
        "drawn"
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        Ok(Box::new(DrawnModel(model.clone(), outputs.to_vec())))
    }
}

impl Runnable for DrawnModel {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        let facts = infer::infer(&self.0, &bindings(&self.0, inputs));
        let value = |name: &String| {
            if let Some(given) = inputs.get(name) {
                return given.clone();
            }
            let shape = facts.shape(self.0.graph.value_named(name).unwrap()).unwrap();
            let dims: Vec<u64> = shape.iter().map(|d| d.known().unwrap()).collect();
            drawn(name, &dims)
        };
        Ok(self.1.iter().map(value).collect())
    }
}

/// Numbers from -1 to 1, from a generator seeded by a name.
pub(crate) fn drawn(name: &str, dims: &[u64]) -> Tensor {
    let mut state = name.bytes().fold(1u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_f32(dims, &values).unwrap()
}

fn check_model_for(pass: impl Pass + 'static, target: Target, mut model: Model) -> String {
    let steps = [step(pass)];
    run(&mut model, &steps, target, &NoObserver);
    let after = text::print(&model);
    let again = run(&mut model, &steps, target, &NoObserver);
    assert_eq!(again.iter().map(|r| r.patches).sum::<u64>(), 0, "the pass changes its own result:\n{after}");
    after
}

/// Runs a pass that must change nothing, and returns its reasons.
pub(crate) fn refusals<P: Pass + Default + 'static>(before: &str) -> Vec<String> {
    reasons(P::default(), Target::Generic, before, false)
}

/// Runs a configured pass, which must change nothing, for a target, and returns its reasons.
pub(crate) fn refusals_for(pass: impl Pass + 'static, target: Target, before: &str) -> Vec<String> {
    reasons(pass, target, before, false)
}

/// The same with near misses.
pub(crate) fn explained(pass: impl Pass + 'static, target: Target, before: &str) -> Vec<String> {
    reasons(pass, target, before, true)
}

fn reasons(pass: impl Pass + 'static, target: Target, before: &str, explains: bool) -> Vec<String> {
    reasons_with(pass, target, before, explains, None)
}

fn reasons_with(
    pass: impl Pass + 'static,
    target: Target,
    before: &str,
    explains: bool,
    calibration: Option<Calibration<'_>>,
) -> Vec<String> {
    struct Reasons(RefCell<Vec<String>>, bool);
    impl Observer for Reasons {
        fn refusal(&self, r: &Refusal) {
            self.0.borrow_mut().push(r.reason.clone());
        }

        fn explains(&self) -> bool {
            self.1
        }
    }
    let reasons = Reasons(RefCell::default(), explains);
    let mut model = parse(before);
    let expected = text::print(&model);
    run_calibrated(&mut model, &[step(pass)], target, calibration, &reasons);
    assert_eq!(text::print(&model), expected, "the pass changed the graph");
    reasons.0.into_inner()
}

fn step(pass: impl Pass + 'static) -> StepConfig {
    StepConfig { name: "test", config: Default::default(), pass: Box::new(pass) }
}

pub(crate) fn parse(text: &str) -> Model {
    text::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn run(model: &mut Model, steps: &[StepConfig], target: Target, observer: &dyn Observer) -> Vec<PassReport> {
    run_calibrated(model, steps, target, None, observer)
}

fn run_calibrated(
    model: &mut Model,
    steps: &[StepConfig],
    target: Target,
    calibration: Option<Calibration<'_>>,
    observer: &dyn Observer,
) -> Vec<PassReport> {
    let driver = Driver {
        engine: None,
        calibration,
        stopwatch: None,
        weights: &crate::InMemory,
        target,
        stop_after: None,
        bindings: Default::default(),
        observer,
    };
    driver.run(model, steps).unwrap_or_else(|e| panic!("{e}")).passes
}
