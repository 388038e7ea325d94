//! Scales and zero points of one element in one shape.

use planish_ir::{Node, NodeId, Numerics, Patch};

use crate::{RuleContext, Skip};

/// A vector of one element becomes a scalar, which means the same whatever the axis.
pub(super) fn scalar(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    if node.attrs.int("block_size").unwrap_or(0) != 0 {
        return Err(Skip::NoMatch);
    }
    let g = cx.graph;
    let mut patch = Patch::new(Numerics::Exact, "one scale as a scalar");
    for slot in [1, 2] {
        let Some(value) = node.input(slot) else { continue };
        // Without its scale the axis would mean something.
        let t = g.constant(value).filter(|t| t.elements() == 1).ok_or(Skip::NoMatch)?;
        if t.rank() > 0 {
            let scalar = t.with_dims([].as_slice()).map_err(|e| Skip::because(e.to_string()))?;
            let scalar = patch.constant(g.name_of(value), scalar);
            patch.set_input(id, slot, Some(scalar));
        }
    }
    if patch.is_empty() { Err(Skip::NoMatch) } else { Ok(patch) }
}
