//! `planish operators`: the operator table, for people and for tests.

use planish_ir::op::{Folding, OpSpec, Signature, TABLE, VARIADIC};
use serde_json::json;

use super::{print, print_json};
use crate::{cli::Operators, failure::Result, report::table};

/// Runs the command.
pub fn run(args: &Operators) -> Result {
    if args.json {
        return print_json(&TABLE.iter().map(|s| describe(s)).collect::<Vec<_>>());
    }
    let mut t = table(&["operator", "from opset", "inputs", "outputs", "axes", "MACs"]);
    for s in TABLE {
        let Some(last) = s.signatures.last() else { continue };
        let since = s.signatures.first().map_or(0, |s| s.since);
        let mark = |known: bool| if known { "yes" } else { "" }.to_owned();
        let name = if s.domain.is_empty() { s.name.to_owned() } else { format!("{}::{}", s.domain, s.name) };
        t.add_row([
            name,
            since.to_string(),
            range(last.inputs),
            range(last.outputs),
            mark(s.axes.is_some()),
            mark(s.macs.is_some()),
        ]);
    }
    print(&format!("{t}\n{} operators\n", TABLE.len()))
}

fn describe(s: &OpSpec) -> serde_json::Value {
    let signatures: Vec<_> = s.signatures.iter().map(signature).collect();
    let folding = match s.traits.folding {
        Folding::Exact => "exact",
        Folding::Rounding => "rounding",
        Folding::Never => "never",
    };
    json!({
        "domain": s.domain,
        "name": s.name,
        "signatures": signatures,
        "pure": s.traits.pure,
        "commutative": s.traits.commutative,
        "elementwise": s.traits.elementwise,
        "folding": folding,
        "axes": s.axes.is_some(),
        "macs": s.macs.is_some(),
    })
}

/// No upper bound is null.
fn signature(s: &Signature) -> serde_json::Value {
    let most = |n: usize| (n != VARIADIC).then_some(n);
    json!({
        "since": s.since,
        "inputs": [Some(s.inputs.0), most(s.inputs.1)],
        "outputs": [Some(s.outputs.0), most(s.outputs.1)],
    })
}

fn range((least, most): (usize, usize)) -> String {
    match most {
        VARIADIC => format!("{least} or more"),
        _ if least == most => least.to_string(),
        _ => format!("{least} to {most}"),
    }
}
