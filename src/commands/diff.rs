//! `planish diff`: how two models differ in operators, constants and costs.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Model, OpName, Tensor, Type, cost};
use planish_passes::Weights;
use serde::Serialize;

use super::{print, print_json};
use crate::{
    cli::Diff,
    failure::Result,
    model_file::ModelFile,
    report::{bytes, count, macs, table},
    sizes::Sizes,
};

#[derive(Serialize)]
struct Difference {
    /// Dynamic dims that were taken as 1 for the MACs.
    sizes_assumed: Vec<String>,
    before: Totals,
    after: Totals,
    operators: Vec<OperatorDelta>,
    constants: Constants,
}

#[derive(Serialize)]
struct Totals {
    nodes: u64,
    parameters: u64,
    weight_bytes: u64,
    macs: u64,
    unknown_macs: u64,
}

#[derive(Serialize)]
struct OperatorDelta {
    operator: String,
    before: u64,
    after: u64,
    macs_before: u64,
    macs_after: u64,
}

/// Constants by name. Those that are equal in both are only counted.
#[derive(Serialize)]
struct Constants {
    same: u64,
    changed: Vec<ConstantDelta>,
    removed: Vec<ConstantDelta>,
    added: Vec<ConstantDelta>,
}

#[derive(Serialize)]
struct ConstantDelta {
    name: String,
    before: Option<String>,
    after: Option<String>,
    bytes: i64,
}

/// Runs the command.
pub fn run(args: &Diff) -> Result {
    let (before, after) = (ModelFile::open(&args.before)?, ModelFile::open(&args.after)?);
    let sizes = Sizes::complete(&[&before.model, &after.model], &args.dims)?;
    let difference = diff(&before, &after, &sizes);
    if args.json { print_json(&difference) } else { print(&render(&difference)) }
}

fn diff(before: &ModelFile, after: &ModelFile, sizes: &Sizes) -> Difference {
    let (a, b) = (cost::cost(&before.model, &sizes.bindings), cost::cost(&after.model, &sizes.bindings));
    let totals = |c: &cost::ModelCost| Totals {
        nodes: c.nodes,
        parameters: c.parameters,
        weight_bytes: c.weight_bytes,
        macs: c.macs,
        unknown_macs: c.unknown.len() as u64,
    };
    let names: BTreeSet<&OpName> = a.operators.keys().chain(b.operators.keys()).collect();
    let operators = names.into_iter().filter_map(|name| {
        let [x, y] = [&a, &b].map(|c| c.operators.get(name).map_or((0, 0), |o| (o.nodes, o.macs)));
        let delta =
            OperatorDelta { operator: name.to_string(), before: x.0, after: y.0, macs_before: x.1, macs_after: y.1 };
        (x != y).then_some(delta)
    });
    let sizes_assumed = sizes.assumed.clone();
    Difference {
        sizes_assumed,
        before: totals(&a),
        after: totals(&b),
        operators: operators.collect(),
        constants: constants(before, after),
    }
}

fn constants(before: &ModelFile, after: &ModelFile) -> Constants {
    let (old, new) = (by_name(&before.model), by_name(&after.model));
    let mut result = Constants { same: 0, changed: Vec::new(), removed: Vec::new(), added: Vec::new() };
    let delta = |name: &str, x: Option<&Tensor>, y: Option<&Tensor>| ConstantDelta {
        name: name.to_owned(),
        before: x.map(describe),
        after: y.map(describe),
        bytes: y.map_or(0, signed_len) - x.map_or(0, signed_len),
    };
    for (&name, &x) in &old {
        match new.get(name) {
            None => result.removed.push(delta(name, Some(x), None)),
            Some(&y) => {
                match x == y {
                    true => result.same += 1,
                    false => result.changed.push(delta(name, Some(x), Some(y))),
                }
                x.raw().into_iter().for_each(|raw| before.release(raw));
                y.raw().into_iter().for_each(|raw| after.release(raw));
            }
        }
    }
    for (&name, &y) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        result.added.push(delta(name, None, Some(y)));
    }
    result
}

fn by_name(model: &Model) -> BTreeMap<&str, &Tensor> {
    model.graph.values().filter_map(|(_, v)| Some((v.name(), v.constant()?))).collect()
}

fn describe(t: &Tensor) -> String {
    Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into())).to_string()
}

fn signed_len(t: &Tensor) -> i64 {
    i64::try_from(t.byte_len()).unwrap_or(i64::MAX)
}

fn render(d: &Difference) -> String {
    let mut t = table(&["", "before", "after"]);
    t.add_row(["nodes".to_owned(), d.before.nodes.to_string(), d.after.nodes.to_string()]);
    t.add_row(["parameters".to_owned(), count(d.before.parameters), count(d.after.parameters)]);
    t.add_row(["constants".to_owned(), bytes(d.before.weight_bytes), bytes(d.after.weight_bytes)]);
    let (x, y) = (&d.before, &d.after);
    t.add_row(["MACs".to_owned(), macs(x.macs, x.unknown_macs), macs(y.macs, y.unknown_macs)]);
    let mut text = format!("{t}\n");
    if !d.sizes_assumed.is_empty() {
        text += &format!("MACs are for {} = 1; other sizes by --dim NAME=N\n", d.sizes_assumed.join(" = 1, "));
    }
    if !d.operators.is_empty() {
        let mut t = table(&["operator", "before", "after", "MACs before", "MACs after"]);
        for o in &d.operators {
            t.add_row([
                o.operator.clone(),
                o.before.to_string(),
                o.after.to_string(),
                count(o.macs_before),
                count(o.macs_after),
            ]);
        }
        text += &format!("\n{t}\n");
    }
    text += &format!("\nconstants: {} equal\n", d.constants.same);
    for (what, list) in
        [("changed", &d.constants.changed), ("removed", &d.constants.removed), ("added", &d.constants.added)]
    {
        for c in list {
            let types = match (&c.before, &c.after) {
                (Some(x), Some(y)) if x != y => format!("{x} -> {y}"),
                (Some(x), _) | (None, Some(x)) => x.clone(),
                (None, None) => String::new(),
            };
            text += &format!("{what:8} {} {types}\n", c.name);
        }
    }
    text
}
