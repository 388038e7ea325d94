//! For the tests of passes: textual graphs in, textual graphs out.

use std::cell::RefCell;

use planish_ir::{Model, text};

use crate::{Driver, NoObserver, Observer, Pass, PassReport, Refusal, StepConfig};

/// Runs a pass with its default configuration and prints the result.
pub(crate) fn check<P: Pass + Default + 'static>(before: &str) -> String {
    check_with(P::default(), before)
}

/// Runs a configured pass and prints the result.
pub(crate) fn check_with(pass: impl Pass + 'static, before: &str) -> String {
    check_model(pass, parse(before))
}

/// Runs a configured pass and prints the result. A second run must change nothing.
pub(crate) fn check_model(pass: impl Pass + 'static, mut model: Model) -> String {
    let steps = [StepConfig { name: "test", config: Default::default(), pass: Box::new(pass) }];
    run(&mut model, &steps, &NoObserver);
    let after = text::print(&model);
    let again = run(&mut model, &steps, &NoObserver);
    assert_eq!(again.iter().map(|r| r.patches).sum::<u64>(), 0, "the pass changes its own result:\n{after}");
    after
}

/// Runs a pass that must change nothing, and returns its reasons.
pub(crate) fn refusals<P: Pass + Default + 'static>(before: &str) -> Vec<String> {
    struct Reasons(RefCell<Vec<String>>);
    impl Observer for Reasons {
        fn refusal(&self, r: &Refusal) {
            self.0.borrow_mut().push(r.reason.clone());
        }
    }
    let reasons = Reasons(RefCell::default());
    let mut model = parse(before);
    let expected = text::print(&model);
    run(&mut model, &[StepConfig { name: "test", config: Default::default(), pass: Box::new(P::default()) }], &reasons);
    assert_eq!(text::print(&model), expected, "the pass changed the graph");
    reasons.0.into_inner()
}

fn parse(text: &str) -> Model {
    text::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

fn run(model: &mut Model, steps: &[StepConfig], observer: &dyn Observer) -> Vec<PassReport> {
    let driver = Driver {
        engine: None,
        samples: &[],
        weights: &crate::InMemory,
        target: Default::default(),
        stop_after: None,
        bindings: Default::default(),
        observer,
    };
    driver.run(model, steps).unwrap_or_else(|e| panic!("{e}")).passes
}
