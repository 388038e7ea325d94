//! Which integers an input may hold: an index must stay inside the table that it looks up.

use std::collections::BTreeSet;

use planish_ir::{Graph, Model, Node, Operand, Use, ValueId};

/// The range of indices, upper end exclusive, if the input is used as one: directly, or behind operators that hand
/// their elements on. Several tables give the smallest range. `None` if it indexes nothing whose size is known.
pub(super) fn index_range(model: &Model, input: &str) -> Option<(i64, i64)> {
    let g = &model.graph;
    let mut seen = BTreeSet::new();
    let mut queue: Vec<ValueId> = g.value_named(input).into_iter().collect();
    let mut bound: Option<u64> = None;
    while let Some(value) = queue.pop() {
        if !seen.insert(value) {
            continue;
        }
        for user in g.users(value) {
            let Use::Node(id, Operand::Input(slot)) = user else { continue };
            let Some(node) = g.node(id) else { continue };
            if let Some(rows) = table_rows(g, node, slot) {
                bound = Some(bound.map_or(rows, |b| b.min(rows)));
            } else if hands_on(node, slot) {
                queue.extend(node.output(0));
            }
        }
    }
    let rows = bound.filter(|&n| n > 0)?;
    Some((0, i64::try_from(rows).unwrap_or(i64::MAX)))
}

/// The number of entries that a node looks up in with the indices at `slot`.
fn table_rows(g: &Graph, node: &Node, slot: u32) -> Option<u64> {
    if slot == 0 && node.op.is("OneHot") {
        return u64::try_from(g.constant_input(node, 1)?.single_i64()?).ok();
    }
    if slot != 1 || !(node.op.is("Gather") || node.op.is("GatherElements")) {
        return None;
    }
    let shape = g.ty(node.input(0)?)?.shape()?;
    let axis = node.attrs.int("axis").unwrap_or(0);
    let axis = if axis < 0 { axis.checked_add(i64::try_from(shape.len()).ok()?)? } else { axis };
    shape.get(usize::try_from(axis).ok()?)?.known()
}

/// True if the elements of the output are elements of the input at `slot`.
fn hands_on(node: &Node, slot: u32) -> bool {
    const MOVERS: &[&str] =
        &["Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"];
    (slot == 0 && node.op.domain.is_empty() && MOVERS.contains(&node.op.name.as_str())) || node.op.is("Concat")
}
