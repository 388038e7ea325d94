//! Compute at compile time what depends on constants alone.
//!
//! Before     s = Shape (x);  r = Add (a, b)                x of fixed shape, a and b constants
//! After      s and r are constants
//! When       the operator table allows folding; for results that are known from shapes no operator has to be run,
//!            everything else is run by the engine
//! Refuses    a result above `max_bytes` unless the constants that it makes unnecessary are as large · nodes with
//!            subgraphs, of unknown operators, or whose result type is not known · what the engine cannot run
//! Numerics   Exact for integers, moved and compared elements, and operations that IEEE 754 rounds correctly;
//!            Reassociated for the others
//! Reference  –

mod engine;

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    DType, Graph, GraphPath, Model, Node, NodeId, Numerics, Patch, Tensor, Type, Use, ValueId,
    infer::{GraphFacts, Num},
    op::{self, Folding},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dedup::TRANSPOSED_MIN_BYTES;
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};

/// Bytes of a result that are stored by default. `tables` leaves alone what would then be computed again and again.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FoldConstants {
    /// Largest result in bytes that may be stored instead of being computed.
    pub max_bytes: u64,
}

impl Default for FoldConstants {
    fn default() -> FoldConstants {
        FoldConstants { max_bytes: MAX_BYTES }
    }
}

impl Pass for FoldConstants {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for FoldConstants {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for path in model.graph_paths().into_iter().rev() {
            let (Some(graph), Some(facts)) = (model.graph_at(&path), cx.facts.graph().at(&path)) else { continue };
            let known = known_from_shapes(graph, facts, &path, &mut changes);
            let foldable = self.foldable(graph, facts, &known, &path, &mut changes);
            if foldable.too_large > 0 {
                let (n, cap) = (foldable.too_large, self.max_bytes);
                changes.notes.push(format!("{n} results above max_bytes = {cap} are left to be computed"));
            }
            match (cx.engine, foldable.frontier.is_empty()) {
                (_, true) => {}
                (Some(e), false) => engine::fold(e, model, &path, &foldable, &mut changes),
                (None, false) => {
                    changes.notes.push(format!("{} nodes need an engine to be folded", foldable.nodes.len()))
                }
            }
        }
        Ok(changes)
    }
}

/// Replaces small integers that shape inference knows, and returns the values that have become constants.
fn known_from_shapes(graph: &Graph, facts: &GraphFacts, path: &GraphPath, changes: &mut Changes) -> BTreeSet<ValueId> {
    let mut known = BTreeSet::new();
    // Producers first: replacing a reader may remove what only it read. A verified graph has no cycle.
    let order = graph.topological_order().unwrap_or_default();
    for id in order.into_iter().filter_map(|n| graph.node(n)).flat_map(|n| n.outputs().iter().flatten().copied()) {
        let Some(v) = graph.value(id).filter(|v| !v.users().is_empty()) else { continue };
        let Some(tensor) = integers(facts, id) else { continue };
        known.insert(id);
        let mut patch = Patch::new(Numerics::Exact, format!("{:?} is known from shapes", v.name()));
        let constant = patch.constant(v.name(), tensor);
        patch.replace(id, constant);
        changes.patches.push((path.clone(), patch));
    }
    known
}

fn integers(facts: &GraphFacts, id: ValueId) -> Option<Tensor> {
    let ty = facts.ty(id)?.as_tensor()?;
    let elements: Option<Vec<i64>> = facts.value(id)?.iter().map(Num::int).collect();
    let elements = elements?;
    let dims: Option<planish_ir::Dims> = ty.shape.as_ref()?.iter().map(planish_ir::Dim::known).collect();
    let bytes: Vec<u8> = match ty.dtype {
        DType::I64 => elements.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => elements
            .iter()
            .map(|&v| i32::try_from(v).map(i32::to_le_bytes))
            .collect::<Result<Vec<_>, _>>()
            .ok()?
            .concat(),
        DType::Bool => elements.iter().map(|&v| u8::from(v != 0)).collect(),
        _ => return None,
    };
    Tensor::from_raw(ty.dtype, dims?, bytes.into()).ok()
}

/// What depends on constants alone.
struct Foldable {
    /// The nodes, in topological order.
    nodes: Vec<NodeId>,
    /// How many more nodes could be folded if their results were smaller.
    too_large: usize,
    /// The values that others read, with the class that folding them has.
    frontier: Vec<(ValueId, Numerics)>,
}

/// Why a result is not stored.
enum TooLarge {
    Unknown,
    Bytes(u64),
}

impl FoldConstants {
    fn foldable(
        &self,
        graph: &Graph,
        facts: &GraphFacts,
        known: &BTreeSet<ValueId>,
        path: &GraphPath,
        changes: &mut Changes,
    ) -> Foldable {
        let mut classes: BTreeMap<ValueId, Numerics> = BTreeMap::new();
        let mut nodes = Vec::new();
        let mut too_large = 0;
        // A verified graph has no cycle.
        for id in graph.topological_order().unwrap_or_default() {
            let Some(node) = graph.node(id) else { continue };
            let Some(class) = class_of(graph, node, &classes, known) else { continue };
            match self.fits(graph, facts, node) {
                Ok(()) => {
                    nodes.push(id);
                    classes.extend(node.outputs().iter().flatten().map(|&v| (v, class)));
                }
                Err(TooLarge::Unknown) => {
                    let skip = Skip::because("the size of its result is not known before it runs");
                    changes.skipped.push((path.clone(), id, skip));
                }
                Err(TooLarge::Bytes(bytes)) => {
                    too_large += 1;
                    let cap = self.max_bytes;
                    let skip = Skip::because(format!("its result has {bytes} bytes, above max_bytes = {cap}"));
                    changes.skipped.push((path.clone(), id, skip));
                }
            }
        }
        let folded: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let outside = |u: Use| !matches!(u, Use::Node(n, planish_ir::Operand::Input(_)) if folded.contains(&n));
        let frontier = classes.into_iter().filter(|(v, _)| !known.contains(v) && graph.users(*v).any(outside));
        Foldable { nodes, too_large, frontier: frontier.collect() }
    }

    /// Whether the result is small enough to be stored.
    fn fits(&self, graph: &Graph, facts: &GraphFacts, node: &Node) -> Result<(), TooLarge> {
        let mut result: u64 = 0;
        for &output in node.outputs().iter().flatten() {
            let size = facts.ty(output).and_then(Type::as_tensor).and_then(|t| t.dtype.byte_len(t.elements()?));
            result = result.saturating_add(size.ok_or(TooLarge::Unknown)?);
        }
        if result <= self.max_bytes && !stores_twice(graph, node, result) {
            return Ok(());
        }
        // What only this node reads is gone afterwards.
        let freed: u64 = node
            .inputs()
            .iter()
            .flatten()
            .filter(|&&v| graph.users(v).len() == 1)
            .filter_map(|&v| graph.constant(v).map(Tensor::byte_len))
            .fold(0, u64::saturating_add);
        match result <= freed {
            true => Ok(()),
            false => Err(TooLarge::Bytes(result)),
        }
    }
}

/// True if folding would bring back a transposed duplicate that `dedup-initializers` takes out.
fn stores_twice(graph: &Graph, node: &Node, result: u64) -> bool {
    let is_shared = |v: ValueId| graph.constant(v).is_some() && graph.users(v).len() > 1;
    node.op.is("Transpose") && result > TRANSPOSED_MIN_BYTES && node.input(0).is_some_and(is_shared)
}

/// The class of folding a node, if all it reads is constant.
fn class_of(
    graph: &Graph,
    node: &Node,
    classes: &BTreeMap<ValueId, Numerics>,
    known: &BTreeSet<ValueId>,
) -> Option<Numerics> {
    let spec = op::of(node)?;
    if !spec.traits.pure || node.attrs.has_graphs() || !node.op.domain.is_empty() || node.op.is("Constant") {
        return None;
    }
    let own = match spec.traits.folding {
        Folding::Exact => Numerics::Exact,
        Folding::Rounding => Numerics::Reassociated,
        Folding::Never => return None,
    };
    node.inputs().iter().flatten().try_fold(own, |worst, v| match classes.get(v) {
        Some(&class) => Some(worst.max(class)),
        None => (graph.constant(*v).is_some() || known.contains(v)).then_some(worst),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn shapes_that_are_fixed_become_constants() {
        insta::assert_snapshot!(check::<FoldConstants>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2,3,4] x) => (float[2,12] y) <int64[1] i = {0}, int64[1] rest = {-1}> {
                s = Shape (x)
                b = Gather (s, i)
                t = Concat <axis = 0> (b, rest)
                y = Reshape (x, t)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3,4] x) => (float[2,12] y)
        <
          int64[2] t = {2, -1}
        >
        {
          y = Reshape (x, t)
        }
        "#);
    }

    #[test]
    fn a_node_whose_branches_are_known_goes_with_them() {
        insta::assert_snapshot!(check::<FoldConstants>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3] x, bool c) => (int64 y, int64 z) <int64 i = {1}> {
                s = Shape (x)
                k = If (c) <
                    then_branch = t () => (int64 p) { p = Gather <axis = 0> (s, i) },
                    else_branch = e () => (int64 q) { q = Gather <axis = 0> (s, i) }
                >
                y = Neg (k)
                z = Abs (k)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x, bool c) => (int64 y, int64 z)
        <
          int64 y = {-3},
          int64 z = {3}
        >
        {
        }
        "#);
    }

    #[test]
    fn sizes_may_be_too_small_for_a_slice() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3] x) => (int64 y)
            <int64[1] two = {2}, int64[1] end = {9223372036854775807}, int64[1] axis = {0}, int64 zero = {0}, int64 more = {2}> {
                s = Shape (x)
                n = Gather (s, zero)
                part = Slice (x, two, end, axis)
                t = Shape (part)
                m = Gather (t, zero)
                back = Add (m, more)
                y = Sub (back, n)
            }"#;
        assert!(check::<FoldConstants>(text).contains("Sub"));
    }
}
