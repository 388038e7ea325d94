//! `planish lint`: a model against the rules of a target.

use planish_passes::lint::{Effect, Finding, LINTS, lint};
use serde_json::json;

use super::{print, print_json};
use crate::{
    cli::Lint,
    failure::{Failure, Kind, Result},
    model_file::ModelFile,
};

/// Runs the command.
pub fn run(args: &Lint) -> Result {
    let Some(path) = args.model.as_deref().filter(|_| !args.rules) else { return rules(args) };
    let file = ModelFile::open(path)?;
    let mut findings = lint(&file.model, args.target);
    findings.retain(|f| !args.allow.contains(&f.rule));
    if args.json {
        print_json(&findings)?;
    } else {
        print(&findings.iter().map(render).collect::<String>())?;
    }
    let refused = findings.iter().filter(|f| f.effect == Effect::Refused).count();
    match findings.len() {
        0 => Ok(()),
        all => {
            let target = args.target;
            let message = format!(
                "{target} refuses {refused} places of the model, and runs {} slower than it could",
                all - refused
            );
            Err(Failure::message(Kind::Gate, message))
        }
    }
}

fn render(f: &Finding) -> String {
    let effect = effect(f.effect);
    let place = match (f.node.as_str(), f.op.as_str()) {
        ("", _) => "the model".to_owned(),
        (node, op) => format!("{node:?} ({op})"),
    };
    let tensor = f.tensor.as_ref().map(|t| format!(", tensor {t:?}")).unwrap_or_default();
    format!("{effect}: {place}{tensor}: {} [{}]\n  to do: {}\n", f.problem, f.rule, f.advice)
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Refused => "refused",
        Effect::Slow => "slow",
    }
}

/// What the rules of a target are.
fn rules(args: &Lint) -> Result {
    let own = LINTS.iter().filter(|e| e.targets.contains(&args.target));
    if args.json {
        let list: Vec<_> = own.map(|e| json!({"name": e.name, "effect": e.effect, "doc": e.doc()})).collect();
        return print_json(&list);
    }
    print(&own.map(|e| format!("{} ({})\n{}\n\n", e.name, effect(e.effect), e.doc())).collect::<String>())
}
