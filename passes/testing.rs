//! For the tests of passes: textual graphs in, textual graphs out.

use std::cell::RefCell;

use planish_ir::{Model, text};

use crate::{Driver, NoObserver, Observer, Pass, PassReport, Refusal, StepConfig, Target};

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
    run(&mut model, &[step(pass)], target, &reasons);
    assert_eq!(text::print(&model), expected, "the pass changed the graph");
    reasons.0.into_inner()
}

fn step(pass: impl Pass + 'static) -> StepConfig {
    StepConfig { name: "test", config: Default::default(), pass: Box::new(pass) }
}

fn parse(text: &str) -> Model {
    text::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn run(model: &mut Model, steps: &[StepConfig], target: Target, observer: &dyn Observer) -> Vec<PassReport> {
    let driver = Driver {
        engine: None,
        samples: &[],
        weights: &crate::InMemory,
        target,
        stop_after: None,
        bindings: Default::default(),
        observer,
    };
    driver.run(model, steps).unwrap_or_else(|e| panic!("{e}")).passes
}
