//! `planish passes`: the registry, for people.

use planish_passes::{Entry, PASSES, StepConfig, fuse::Fuse};
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
    let rules = if step.name == "fuse" { built_in_rules() } else { String::new() };
    print(&format!("{}\n\n{doc}\n\n{rules}With its defaults:\n{config}", step.name))
}

/// What `fuse` consists of.
fn built_in_rules() -> String {
    let width = Fuse::summaries().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: String = Fuse::summaries().map(|(name, what)| format!("  {name:width$}  {what}\n")).collect();
    format!("Rules, in the order in which they are tried:\n{lines}\n")
}

/// The table in README.md.
pub fn markdown() -> String {
    let rows: String = PASSES.iter().map(|e| format!("| `{}` | {} |\n", e.name, e.summary())).collect();
    format!("| pass | what it does |\n|---|---|\n{rows}")
}
