//! `planish rules`: for those who write rewrite rules.

use std::path::Path;

use planish_passes::rules::RuleSet;

use super::print;
use crate::{
    cli::{Rules, RulesAction},
    failure::{Failure, Kind, OrFail, Result},
};

/// Runs the command.
pub fn run(args: &Rules) -> Result {
    match &args.action {
        RulesAction::Check { file } => check(file),
    }
}

fn check(file: &Path) -> Result {
    let shown = file.display();
    let text = std::fs::read_to_string(file).or_fail_with(Kind::Config, || format!("cannot read {shown}"))?;
    match RuleSet::parse(&text) {
        Ok(rules) => {
            let width = rules.names().map(str::len).max().unwrap_or(0);
            print(&rules.summaries().map(|(name, what)| format!("{name:width$}  {what}\n")).collect::<String>())
        }
        Err(errors) => {
            let lines: Vec<String> = errors.iter().map(|e| format!("{shown}:{e}")).collect();
            Err(Failure::message(Kind::Config, lines.join("\n")))
        }
    }
}
