//! What the report says of the nodes that stay in float32, and of those whose inside is at risk.

use std::fmt::Write as _;

use planish_ir::{Graph, Node, NodeId, ValueId};

use super::{
    Settings,
    format::Format,
    literals::constant,
    measure::{Extent, Measured, of_constant},
    ranges::reach_of_sum,
    select::{Selection, is_f32},
    sums::{self, Terms},
};

/// Lines of the table; how many more there are follows.
const ROWS: usize = 12;
/// Longest node name that is printed whole.
const NAME: usize = 36;

/// One node in float32.
struct Row<'a> {
    node: &'a Node,
    label: String,
    reason: &'a str,
    /// Of what it reads, makes, and of its weights.
    input: Extent,
    output: Extent,
    weight: Extent,
}

impl Row<'_> {
    fn largest(&self) -> f32 {
        self.input.largest.max(self.output.largest).max(self.weight.largest)
    }

    fn all(&self) -> Extent {
        let mut all = self.input;
        all.merge(&self.output);
        all.merge(&self.weight);
        all
    }
}

/// The table, and sentences on what the ranges mean.
pub(super) fn notes(
    graph: &Graph,
    selection: &Selection<'_>,
    settings: &Settings<'_>,
    measured: &Measured,
) -> Vec<String> {
    let mut notes = Vec::new();
    if measured.samples == 0 && settings.format == Format::Float16 {
        notes.push(
            "activations were not measured: operators that can leave the range stay in float32 whether they do or not; \
             `calibration` in the pipeline lets samples decide"
                .to_owned(),
        );
    }
    notes.extend(table(graph, selection, settings.format, measured));
    notes.extend(sums_in_float32(graph, selection, settings, measured));
    notes
}

fn table(graph: &Graph, selection: &Selection<'_>, format: Format, measured: &Measured) -> Option<String> {
    let mut rows: Vec<Row<'_>> = selection
        .stays_full()
        .filter_map(|(id, reason)| Some(row(graph, graph.node(id)?, id, reason, format, measured)))
        .collect();
    // Numbers that overflow first, then those that come near it.
    let key = |r: &Row<'_>| (r.all().overflow, r.largest());
    rows.sort_by(|a, b| {
        let ((a_over, a_largest), (b_over, b_largest)) = (key(a), key(b));
        b_over.cmp(&a_over).then(b_largest.total_cmp(&a_largest)).then_with(|| a.label.cmp(&b.label))
    });
    let hidden = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    let wide = rows.iter().map(|r| r.label.chars().count()).max()?.max(4);
    let operator = rows.iter().map(|r| r.node.op.to_string().chars().count()).max()?.max(8);
    let mut text = format!(
        "in float32, largest magnitudes first ({} runs; share of numbers that {} holds with fewer bits, and as 0):",
        measured.samples,
        format.name()
    );
    let head = ["input", "output", "weight", "overflow", "fewer", "zero"].map(|h| format!("{h:>9}")).concat();
    write!(text, "\n  {:wide$}  {:operator$}{head}  why", "node", "operator").ok()?;
    for r in &rows {
        let all = r.all();
        let cells = [
            magnitude(&r.input),
            magnitude(&r.output),
            magnitude(&r.weight),
            if all.numbers == 0 { "-".into() } else { all.overflow.to_string() },
            share(all.subnormal, all.numbers),
            share(all.flushed, all.numbers),
        ];
        let cells = cells.map(|c| format!("{c:>9}")).concat();
        write!(text, "\n  {:wide$}  {:operator$}{cells}  {}", r.label, r.node.op.to_string(), r.reason).ok()?;
    }
    if hidden > 0 {
        write!(text, "\n  and {hidden} more").ok()?;
    }
    Some(text)
}

fn row<'a>(graph: &Graph, node: &'a Node, id: NodeId, reason: &'a str, format: Format, measured: &Measured) -> Row<'a> {
    let merged = |values: &mut dyn Iterator<Item = ValueId>, of: &dyn Fn(ValueId) -> Option<Extent>| {
        let mut sum = Extent::default();
        values.filter(|v| is_f32(graph, *v)).filter_map(of).for_each(|e| sum.merge(&e));
        sum
    };
    let activation = |v: ValueId| measured.extent(v).copied();
    let name = match (node.name.as_str(), node.output(0)) {
        ("", Some(made)) => graph.name_of(made),
        ("", None) => id.to_string(),
        (name, _) => name.to_owned(),
    };
    Row {
        node,
        label: shortened(name),
        reason,
        input: merged(&mut node.operands().filter(|v| constant(graph, *v).is_none()), &activation),
        output: merged(&mut node.outputs().iter().copied().flatten(), &activation),
        weight: merged(&mut node.operands(), &|v| of_constant(graph, v, format)),
    }
}

/// Names of layers differ at their ends.
fn shortened(name: String) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name;
    }
    let end: String = name.chars().skip(length - NAME + 1).collect();
    format!("…{end}")
}

fn magnitude(extent: &Extent) -> String {
    match extent.numbers {
        0 => "-".into(),
        _ => format!("{:.1e}", extent.largest),
    }
}

fn share(part: u64, all: u64) -> String {
    match (part, 100.0 * part as f64 / all.max(1) as f64) {
        _ if all == 0 => "-".into(),
        (0, _) => "0".into(),
        (_, percent) if percent < 0.1 => "<0.1%".into(),
        (_, percent) => format!("{percent:.1}%"),
    }
}

/// Normalizations in 16 bits of which the statistics would leave the range, had ONNX not them computed in float32.
fn sums_in_float32(
    graph: &Graph,
    selection: &Selection<'_>,
    settings: &Settings<'_>,
    measured: &Measured,
) -> Option<String> {
    let reach = |id: &NodeId, sum: &f32| {
        let (terms, in_float32) = sums::terms(graph.node(*id)?)?;
        let is_half = selection.becomes_half(*id) && terms == Terms::Squares && in_float32;
        is_half.then(|| reach_of_sum(terms, *sum, settings.headroom))
    };
    let reaches: Vec<f32> = measured.sums.iter().filter_map(|(id, sum)| reach(id, sum)).collect();
    let beyond = reaches.iter().filter(|r| **r > settings.format.max()).count();
    let most = reaches.iter().copied().fold(0.0, f32::max);
    if reaches.is_empty() || settings.format == Format::Bfloat16 {
        return None;
    }
    Some(format!(
        "{} normalizations in float16 add up squares in float32 by definition (stash_type); {beyond} of them have to: the \
         sums reach {most:.1e}",
        reaches.len()
    ))
}
