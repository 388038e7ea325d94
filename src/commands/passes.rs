//! `planish passes`: the registry, for people.

use planish_passes::{Entry, PASSES, StepConfig};
use serde_json::json;

use super::{print, print_json};
use crate::{
    cli::{Passes, PassesAction},
    failure::{Failure, Kind, OrFail, Result},
};

/// Runs the command.
pub fn run(args: &Passes) -> Result {
    match &args.action {
        None | Some(PassesAction::List { json: false }) => print(&list()),
        Some(PassesAction::List { json: true }) => {
            let all: Vec<_> =
                PASSES.iter().map(|e| json!({"name": e.name, "summary": e.summary(), "doc": e.doc()})).collect();
            print_json(&all)
        }
        Some(PassesAction::Explain { name }) => explain(name),
    }
}

fn list() -> String {
    let width = PASSES.iter().map(|e| e.name.len()).max().unwrap_or(0);
    PASSES.iter().map(|e| format!("{:width$}  {}\n", e.name, e.summary())).collect()
}

fn explain(name: &str) -> Result {
    // The step has the message with a suggestion.
    let step = StepConfig::default_of(name).map_err(|e| Failure::message(Kind::Config, e))?;
    let doc = planish_passes::find(step.name).map(Entry::doc).unwrap_or_default();
    let config = serde_yaml::to_string(&vec![&step]).or_fail(Kind::Internal)?;
    print(&format!("{}\n\n{doc}\n\nWith its defaults:\n{config}", step.name))
}

/// The table in README.md.
pub fn markdown() -> String {
    let rows: String = PASSES.iter().map(|e| format!("| `{}` | {} |\n", e.name, e.summary())).collect();
    format!("| pass | what it does |\n|---|---|\n{rows}")
}
