//! `planish inspect --prunable` and `--axes`: sets of coupled channels, what they carry, and what blocks the others.

use planish_ir::{
    GraphPath, Model,
    axes::{Class, Classes, classes},
    infer,
};
use planish_passes::{
    Driver, InMemory, NoObserver, StepConfig, Target,
    prune::{Unit, prunable, unshare},
};
use serde::Serialize;

use crate::{
    failure::{Failure, Kind, OrFail, Result},
    report::{count, table},
    sizes::Sizes,
};

/// What of a model could be pruned.
#[derive(Serialize)]
pub struct Prunable {
    /// Multiply-accumulates of the model.
    macs: u64,
    /// Share of them in nodes that have prunable channels.
    share: f64,
    prunable: Vec<Line>,
    blocked: Vec<Line>,
    sizes_assumed: Vec<String>,
}

/// One class of channels.
#[derive(Serialize)]
struct Line {
    /// Number of channels.
    size: Option<u64>,
    parameters: u64,
    macs: u64,
    /// Weights that have the channels, and along which axis.
    weights: Vec<String>,
    /// Nodes whose other results change when a channel goes.
    mixed: usize,
    /// Why it cannot be pruned.
    blocked_by: Vec<String>,
}

/// Finds them, for sizes of open dims as given or 1. Weights may be stored as nodes.
pub fn find(model: &Model, sizes: &Sizes) -> Result<Prunable> {
    let model = &with_initializers(model)?;
    let facts = infer::infer(model, &infer::Bindings::new());
    let classes = classes(model, &facts);
    let found = prunable(model, &facts, &classes, &sizes.bindings);
    let lines = |units: &[Unit]| units.iter().filter_map(|u| line(model, &classes, u)).collect();
    let share = found.free_macs as f64 / found.macs.max(1) as f64;
    Ok(Prunable {
        macs: found.macs,
        share,
        prunable: lines(&found.free),
        blocked: lines(&found.blocked),
        sizes_assumed: sizes.assumed.clone(),
    })
}

fn with_initializers(model: &Model) -> Result<Model> {
    let default = |name| StepConfig::default_of(name).map_err(|e| Failure::message(Kind::Internal, e));
    let steps = [default("freeze-initializers")?, default("constants-to-initializers")?];
    let driver = Driver {
        engine: None,
        calibration: None,
        stopwatch: None,
        weights: &InMemory,
        target: Target::Generic,
        stop_after: None,
        bindings: infer::Bindings::new(),
        observer: &NoObserver,
    };
    let mut model = model.clone();
    driver.run(&mut model, &steps).or_fail(Kind::Internal)?;
    // As the pass does.
    if let Some(patch) = unshare(&model) {
        model.apply(&GraphPath::main(), patch).or_fail(Kind::Internal)?;
    }
    Ok(model)
}

fn line(model: &Model, classes: &Classes, unit: &Unit) -> Option<Line> {
    let class: &Class = classes.all().get(unit.class)?;
    let weight = |m: &planish_ir::axes::Member| {
        let graph = model.graph_at(&m.graph)?;
        graph.constant(m.value).filter(|t| t.rank() > 1).map(|_| format!("{}@{}", graph.name_of(m.value), m.axis))
    };
    Some(Line {
        size: unit.size,
        parameters: unit.parameters,
        macs: unit.macs,
        weights: class.members.iter().filter_map(weight).collect(),
        mixed: class.mixed.len(),
        blocked_by: class.blocks.iter().map(|b| b.describe(model)).collect(),
    })
}

/// The tables.
pub fn render(p: &Prunable) -> String {
    let mut text = format!("{:.1} % of {} MACs are in nodes with prunable channels\n", 100.0 * p.share, count(p.macs));
    if !p.sizes_assumed.is_empty() {
        let list: Vec<String> = p.sizes_assumed.iter().map(|n| format!("{n} = 1")).collect();
        text += &format!("MACs are for {}; other sizes by --dim NAME=N\n", list.join(", "));
    }
    for (title, lines) in [("prunable", &p.prunable), ("blocked", &p.blocked)] {
        if lines.is_empty() {
            continue;
        }
        let is_blocked = title == "blocked";
        let mut t = table(&[title, "MACs", "parameters", "weights@axis", if is_blocked { "by" } else { "mixed by" }]);
        for l in lines {
            let last = match is_blocked {
                true => some_of(&l.blocked_by, 2),
                false if l.mixed == 0 => String::new(),
                false => format!("{} nodes", l.mixed),
            };
            let size = l.size.map_or_else(|| "?".to_owned(), |n| n.to_string());
            t.add_row([size, count(l.macs), count(l.parameters), some_of(&l.weights, 3), last]);
        }
        text += &format!("\n{t}\n");
    }
    text
}

/// The first ones, and how many more there are.
fn some_of(all: &[String], shown: usize) -> String {
    let first = all.iter().take(shown).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(shown) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Every class, in the notation of the operator table, one per line.
pub fn axes(model: &Model) -> String {
    let facts = infer::infer(model, &infer::Bindings::new());
    classes(model, &facts).show(model, |_| true, |_| true)
}
