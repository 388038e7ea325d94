//! Remove nodes, constants, captures and local functions that no output needs.
//!
//! Before     d = Exp (x);  y = Relu (x)
//! After      y = Relu (x)
//! When       the operator is known to have no effect besides its outputs
//! Refuses    an unread node of an unknown operator or function: it may have an effect
//! Numerics   Exact
//! Reference  –

use std::collections::BTreeSet;

use planish_ir::{Def, Graph, GraphPath, Model, NodeId, Numerics, Patch, Use, ValueId, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadCode {}

impl Pass for DeadCode {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for DeadCode {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes { remove_uncalled_functions: true, ..Changes::default() };
        // Inner graphs first: what they no longer capture may be what keeps an outer node alive.
        for path in model.graph_paths().into_iter().rev() {
            if let Some(graph) = model.graph_at(&path) {
                sweep(graph, &path, &mut changes);
                captures(graph, &path, &mut changes);
            }
        }
        Ok(changes)
    }
}

fn sweep(graph: &Graph, path: &GraphPath, changes: &mut Changes) {
    let live = live(graph);
    for (id, node) in graph.nodes() {
        let unread = node.outputs().iter().flatten().all(|&v| graph.users(v).len() == 0);
        if unread && live.contains(&id) {
            changes.skipped.push((path.clone(), id, Skip::because("nobody reads it, but it may have an effect")));
        } else if unread {
            // What only this node reads goes with it.
            let mut patch = Patch::new(Numerics::Exact, format!("unread {} {:?}", node.op, node.name));
            patch.remove_node(id);
            changes.patches.push((path.clone(), patch));
        }
    }
    let mut unread = Patch::new(Numerics::Exact, "unread constants");
    for (id, v) in graph.values() {
        if matches!(v.def(), Def::Constant(_) | Def::SparseConstant(_)) && v.users().is_empty() {
            unread.remove_value(id);
        }
    }
    if !unread.is_empty() {
        changes.patches.push((path.clone(), unread));
    }
}

/// The nodes that an output needs, or that may have an effect.
fn live(graph: &Graph) -> BTreeSet<NodeId> {
    let mut live: BTreeSet<NodeId> = BTreeSet::new();
    // A verified graph has no cycle.
    for id in graph.topological_order().unwrap_or_default().into_iter().rev() {
        let Some(node) = graph.node(id) else { continue };
        if !op::has_no_effect(node) || node.outputs().iter().flatten().any(|&v| is_read(graph, v, &live)) {
            live.insert(id);
        }
    }
    live
}

fn is_read(graph: &Graph, value: ValueId, live: &BTreeSet<NodeId>) -> bool {
    graph.users(value).any(|u| match u {
        Use::Output(_) => true,
        Use::Node(n, _) => live.contains(&n),
    })
}

/// Captures that no subgraph reads any more.
fn captures(graph: &Graph, path: &GraphPath, changes: &mut Changes) {
    let alive = live(graph);
    for (id, node) in graph.nodes().filter(|(id, _)| alive.contains(id)) {
        let mut used: BTreeSet<u32> = BTreeSet::new();
        for (index, inner) in node.attrs.graphs().enumerate() {
            let live = live(inner);
            let mut unread = Patch::new(Numerics::Exact, "unread captures");
            for (value, v) in inner.values() {
                if let Def::Captured(k) = v.def() {
                    if v.users().is_empty() {
                        unread.remove_value(value);
                    } else if is_read(inner, value, &live) {
                        used.insert(*k);
                    }
                }
            }
            if !unread.is_empty() {
                changes.patches.push((path.inner(id, index), unread));
            }
        }
        if used.len() < node.captures().len() {
            let mut patch = Patch::new(Numerics::Exact, format!("unread captures of {:?}", node.name));
            patch.keep_captures(id, used.into_iter().collect());
            changes.patches.push((path.clone(), patch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn unread_chains_and_constants_go() {
        insta::assert_snapshot!(check::<DeadCode>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y) <float w = {2.0}, float v = {3.0}> {
                a = Exp (x)
                b = Mul (a, w)
                y = Relu (x)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn what_a_subgraph_no_longer_reads_goes() {
        insta::assert_snapshot!(check::<DeadCode>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[2] x) => (float[2] y) {
                a = Exp (x)
                b = Neg (x)
                y = If (c) <
                    then_branch = t () => (float[2] p) { dead = Relu (a)
                        p = Abs (b) },
                    else_branch = e () => (float[2] q) { q = Identity (b) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) {
          b = Neg (x)
          y = If (c) <
            else_branch = e () => (float[2] q) {
              q = Identity (b)
            },
            then_branch = t () => (float[2] p) {
              p = Abs (b)
            }
          >
        }
        "#);
    }

    #[test]
    fn an_unread_condition_goes_with_what_it_captures() {
        insta::assert_snapshot!(check::<DeadCode>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x, bool c) => (float[2] y) {
                y = Relu (x)
                z = Exp (x)
                d = If (c) <
                    then_branch = t () => (float[2] p) { dd = Exp (z)
                        p = Neg (x) },
                    else_branch = e () => (float[2] q) { q = Neg (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, bool c) => (float[2] y) {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn refuses_unknown_operators_in_subgraphs() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
            g (float[2] x, bool c) => (float[2] y) {
                y = Relu (x)
                d = If (c) <
                    then_branch = t () => (float[2] p) { p = my.ops.Print (x) },
                    else_branch = e () => (float[2] q) { q = Neg (x) }
                >
            }"#;
        assert!(refusals::<DeadCode>(text).contains(&"nobody reads it, but it may have an effect".to_owned()));
    }

    #[test]
    fn refuses_unknown_operators() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
            g (float[2] x) => (float[2] y) {
                a = my.ops.Print (x)
                y = Relu (x)
            }"#;
        assert_eq!(refusals::<DeadCode>(text), ["nobody reads it, but it may have an effect"]);
    }
}
