//! `planish inspect`: what is in a model.

use planish_ir::{Model, Type, cost, text};
use serde::Serialize;

use super::{print, print_json, prunable, types};
use crate::{
    cli::Inspect,
    failure::Result,
    model_file::ModelFile,
    report::{bytes, count, macs, table, thousands},
    sizes::{Sizes, dynamic_dims},
};

#[derive(Serialize)]
struct Inspection {
    ir_version: i64,
    opsets: planish_ir::Opsets,
    producer: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    dynamic_dims: Vec<String>,
    /// Dynamic dims that were taken as 1 for the MACs.
    sizes_assumed: Vec<String>,
    nodes: u64,
    functions: usize,
    parameters: u64,
    weight_bytes: u64,
    macs: u64,
    unknown_macs: u64,
    operators: Vec<Operator>,
    weights: Vec<Weight>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    r#type: Option<String>,
}

#[derive(Serialize)]
struct Operator {
    name: String,
    count: u64,
    macs: u64,
}

#[derive(Serialize)]
struct Weight {
    name: String,
    r#type: String,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &Inspect) -> Result {
    let file = ModelFile::open(&args.model)?;
    let sizes = Sizes::complete(&[&file.model], &args.dims)?;
    if args.text {
        return print(&text::print(&file.model));
    }
    if args.types {
        // Sizes that are not given stay open.
        let types = types::types(&file.model, &args.dims.iter().cloned().collect());
        return if args.json { print_json(&types) } else { print(&types::render(&types)) };
    }
    if args.prunable {
        let found = prunable::find(&file.model, &sizes)?;
        return if args.json { print_json(&found) } else { print(&prunable::render(&found)) };
    }
    if args.axes {
        return print(&prunable::axes(&file.model));
    }
    let inspection = inspect(&file.model, args, sizes);
    if args.json { print_json(&inspection) } else { print(&render(&inspection)) }
}

fn inspect(model: &Model, args: &Inspect, sizes: Sizes) -> Inspection {
    let c = cost::cost(model, &sizes.bindings);
    let g = &model.graph;
    let ports = |ids: &[planish_ir::ValueId]| {
        ids.iter().map(|&v| Port { name: g.name_of(v), r#type: g.ty(v).map(ToString::to_string) }).collect()
    };
    let mut weights: Vec<Weight> = g
        .values()
        .filter_map(|(_, v)| {
            let t = v.constant()?;
            let ty = Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into()));
            Some(Weight { name: v.name().to_owned(), r#type: ty.to_string(), bytes: t.byte_len() })
        })
        .collect();
    weights.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    weights.truncate(args.weights);
    let mut operators: Vec<Operator> =
        c.operators.iter().map(|(name, o)| Operator { name: name.to_string(), count: o.nodes, macs: o.macs }).collect();
    operators.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    Inspection {
        ir_version: model.ir_version,
        opsets: model.opsets.clone(),
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        inputs: ports(g.inputs()),
        outputs: ports(g.outputs()),
        dynamic_dims: dynamic_dims(model),
        sizes_assumed: sizes.assumed,
        nodes: c.nodes,
        functions: model.functions.len(),
        parameters: c.parameters,
        weight_bytes: c.weight_bytes,
        macs: c.macs,
        unknown_macs: c.unknown.len() as u64,
        operators,
        weights,
    }
}

fn render(i: &Inspection) -> String {
    let opsets = i.opsets.iter().map(|(d, v)| format!("{} {v}", if d.is_empty() { "ai.onnx" } else { d }));
    let mut text = format!("IR version {}, {}\n", i.ir_version, opsets.collect::<Vec<_>>().join(", "));
    if !i.producer.is_empty() {
        text += &format!("made by {}\n", i.producer);
    }
    for (kind, ports) in [("input", &i.inputs), ("output", &i.outputs)] {
        for p in ports {
            text += &format!("{kind:6} {}: {}\n", p.name, p.r#type.as_deref().unwrap_or("type not declared"));
        }
    }
    if !i.dynamic_dims.is_empty() {
        text += &format!("dynamic dims: {}\n", i.dynamic_dims.join(", "));
    }
    text += &format!(
        "\n{} nodes, {} parameters, {} of constants, {} MACs\n",
        thousands(i.nodes),
        count(i.parameters),
        bytes(i.weight_bytes),
        macs(i.macs, i.unknown_macs)
    );
    if !i.sizes_assumed.is_empty() {
        let list: Vec<String> = i.sizes_assumed.iter().map(|n| format!("{n} = 1")).collect();
        text += &format!("MACs are for {}; other sizes by --dim NAME=N\n", list.join(", "));
    }
    if i.unknown_macs > 0 {
        text += &format!("{} nodes have a size that cannot be inferred and are not in the MACs\n", i.unknown_macs);
    }
    let mut t = table(&["operator", "nodes", "MACs"]);
    for o in &i.operators {
        t.add_row([o.name.clone(), o.count.to_string(), if o.macs > 0 { count(o.macs) } else { String::new() }]);
    }
    text += &format!("\n{t}\n");
    if !i.weights.is_empty() {
        let mut t = table(&["biggest constants", "bytes", "type"]);
        for w in &i.weights {
            t.add_row([w.name.clone(), bytes(w.bytes), w.r#type.clone()]);
        }
        text += &format!("\n{t}\n");
    }
    text
}
