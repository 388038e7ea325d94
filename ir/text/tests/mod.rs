//! What the text form is held to; each file is one question.

mod errors;
mod generated;
mod meaning;
mod print;
mod regressions;
mod roundtrip;

use super::{PrintOptions, parse, print_with};
use crate::Model;

/// The full form of a text's model.
fn reprint(text: &str) -> String {
    print_with(&model(text), PrintOptions::full())
}

fn model(text: &str) -> Model {
    match parse(text) {
        Ok(model) => model,
        Err(e) => panic!("{e}"),
    }
}

/// A model whose graph has this text, from inputs to nodes.
fn graph(text: &str) -> Model {
    model(&format!("<ir_version: 10, opset_import: [\"\" : 21]> g {text}"))
}

/// Parsing the full form gives the same model, as far as its full form tells.
fn assert_round_trip(model: &Model) {
    let text = print_with(model, PrintOptions::full());
    assert_eq!(reprint(&text), text);
}

/// The full form is valid, and no longer changes after the first round. That round may still move a type to where the
/// value is made, and the change of a name that hides another one may change the order of nodes that no output needs.
fn assert_settles(model: &Model) {
    let once = reprint(&print_with(model, PrintOptions::full()));
    assert_eq!(reprint(&once), once);
}
