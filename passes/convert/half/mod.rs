//! What the passes `float16` and `bfloat16` have in common.

mod cancel;
mod cut;
mod evidence;
mod format;
mod literals;
mod measure;
mod ranges;
mod rewrite;
mod select;
mod sums;
mod support;

use planish_ir::{Dim, Graph, GraphPath, Model, Node};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, PassError, Skip};
use measure::Measured;
use select::Selection;

pub(super) use format::Format;

/// Types of the model's inputs and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceTypes {
    /// They stay as they are.
    #[default]
    Keep,
    /// Those in float32 become 16 bits wide, where what reads or makes them is, and samples do not show that they do not
    /// fit. Callers have to follow; passes behind this one that need calibration find that the samples do not fit the
    /// model any more.
    Convert,
}

/// What is asked for.
pub(super) struct Settings<'a> {
    /// The type in which most is to be computed.
    pub(super) format: Format,
    /// Nodes or operators that stay in float32, by name.
    pub(super) keep: &'a [String],
    /// Types of inputs and outputs.
    pub(super) interface: InterfaceTypes,
    /// How many times larger than on the samples activations may get.
    pub(super) headroom: f32,
}

/// Converts a model, as far as it goes.
pub(super) fn convert(model: &Model, cx: &Context<'_>, settings: &Settings<'_>) -> Result<Changes, PassError> {
    let graph = &model.graph;
    let format = settings.format;
    if !(settings.headroom >= 1.0 && settings.headroom.is_finite()) {
        let message = format!("`headroom` is {}, and has to be a number from 1 on", settings.headroom);
        return Err(PassError::Precondition(message));
    }
    let mut changes = Changes::default();
    let literals = literals::literals(graph, cx.weights, format);
    let measured = measure::measure(model, cx, format, &literals.masked).unwrap_or_else(|e| {
        changes.notes.push(format!("the ranges of activations are not known, only those of constants: {e}"));
        Measured::default()
    });
    let selection = Selection::new(model, settings, &literals, &measured, &|node| softmax_size(node, model, cx));
    for (id, reason) in selection.stays_full() {
        changes.skipped.push((GraphPath::main(), id, Skip::because(reason.to_owned())));
    }
    let converted = graph.nodes().filter(|(id, _)| selection.becomes_half(*id)).count();
    if converted == 0 {
        return Ok(changes);
    }
    changes.patches.push((GraphPath::main(), rewrite::rewrite(graph, &selection, &literals, format, cx.weights)?));
    changes.changes_interface = settings.interface == InterfaceTypes::Convert;
    let name = format.name();
    changes.notes.push(format!(
        "{converted} nodes in {name}, {} in float32 ({} islands); {} casts",
        changes.skipped.len(),
        selection.islands(),
        selection.casts()
    ));
    changes.notes.extend(evidence::notes(graph, &selection, settings, &measured));
    changes.notes.extend(without_match(graph, settings.keep));
    Ok(changes)
}

/// A note for each entry of `keep` that the model does not have: most likely a misspelling.
fn without_match(graph: &Graph, keep: &[String]) -> Vec<String> {
    let matches = |k: &str| graph.nodes().any(|(_, n)| n.name == k || n.op.to_string() == k);
    let unmatched = keep.iter().filter(|k| !matches(k));
    unmatched.map(|k| format!("`keep` lists {k:?}, which is neither a node nor an operator of the model")).collect()
}

/// Numbers that a `Softmax` adds up at a time, if that is known.
fn softmax_size(node: &Node, model: &Model, cx: &Context<'_>) -> Option<u64> {
    let dims = cx.facts.graph().fact(node.input(0)?).shape()?;
    let flattens = model.opset() < 13;
    let axis = node.attrs.int("axis").unwrap_or(if flattens { 1 } else { -1 });
    let axis = if axis < 0 { axis.checked_add_unsigned(dims.len() as u64)? } else { axis };
    let axis = usize::try_from(axis).ok()?;
    let summed = if flattens { dims.get(axis..)? } else { dims.get(axis..=axis)? };
    summed.iter().try_fold(1u64, |n, d| match d {
        Dim::Known(d) => n.checked_mul(*d),
        Dim::Symbolic(_) | Dim::Unknown => None,
    })
}
