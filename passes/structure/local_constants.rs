//! Give subgraphs small constants of their own instead of those that they capture.
//!
//! Before     w = {1};  y = If (c) <then_branch = { p = Slice (x, w, w, w) }, …>
//! After      y = If (c) <then_branch = { w' = {1}; p = Slice (x, w', w', w') }, …>
//! When       what a subgraph captures is a constant around it of at most 1 KiB: shapes, axes, bounds, scalars
//! Refuses    larger ones, which would be stored as often as they are captured
//! Numerics   Exact
//! Reference  –
//!
//! Passes look at one graph at a time, and what comes from around it is no constant to them.

use std::collections::BTreeMap;

use planish_ir::{Def, GraphPath, Model, Numerics, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConstants {}

impl Pass for LocalConstants {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

/// Constants of so many bytes are copied.
const SMALL: u64 = 1 << 10;

impl Transform for LocalConstants {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        // What stands for a constant once the patches are applied: subgraphs of subgraphs get theirs in the same run.
        let mut local: BTreeMap<(GraphPath, ValueId), Tensor> = BTreeMap::new();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            for (id, node) in graph.nodes() {
                for (index, inner) in node.attrs.graphs().enumerate() {
                    let inside = path.inner(id, index);
                    let mut patch = Patch::new(Numerics::Exact, format!("constants of a subgraph of {:?}", node.name));
                    for (value, v) in inner.values() {
                        let Def::Captured(k) = v.def() else { continue };
                        let around = usize::try_from(*k).ok().and_then(|k| node.captures().get(k)).copied();
                        let Some(around) = around.filter(|_| !v.users().is_empty()) else { continue };
                        let known = graph.constant(around).or_else(|| local.get(&(path.clone(), around)));
                        let Some(tensor) = known.filter(|t| t.byte_len() <= SMALL).cloned() else { continue };
                        let own = patch.constant(v.name(), tensor.clone());
                        patch.replace(value, own);
                        local.insert((inside.clone(), value), tensor);
                    }
                    if !patch.is_empty() {
                        changes.patches.push((inside, patch));
                    }
                }
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn small_ones_are_copied_also_two_levels_down() {
        insta::assert_snapshot!(check::<LocalConstants>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[4,600] x) => (float[2,600] y) <int64[1] zero = {0}, int64[1] two = {2}, float[600] w> {
                y = If (c) <
                    then_branch = t () => (float[2,600] p) { a = Slice (x, zero, two, zero) p = Mul (a, w) },
                    else_branch = e () => (float[2,600] q) {
                        q = If (c) <
                            then_branch = t2 () => (float[2,600] r) { r = Slice (x, zero, two, zero) },
                            else_branch = e2 () => (float[2,600] s) { b = Slice (x, zero, two, zero) s = Neg (b) }
                        >
                    }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[4,600] x) => (float[2,600] y)
        <
          int64[1] zero = {0},
          int64[1] two = {2},
          float[600] w  # a89f864d95fc, 600 elements
        >
        {
          y = If (c) <
            else_branch = e () => (float[2,600] q)
            <
              int64[1] zero_1 = {0},
              int64[1] two_1 = {2}
            >
            {
              q = If (c) <
                else_branch = e2 () => (float[2,600] s)
                <
                  int64[1] zero_2 = {0},
                  int64[1] two_2 = {2}
                >
                {
                  b = Slice (x, zero_2, two_2, zero_2)
                  s = Neg (b)
                },
                then_branch = t2 () => (float[2,600] r)
                <
                  int64[1] zero_2 = {0},
                  int64[1] two_2 = {2}
                >
                {
                  r = Slice (x, zero_2, two_2, zero_2)
                }
              >
            },
            then_branch = t () => (float[2,600] p)
            <
              int64[1] zero_1 = {0},
              int64[1] two_1 = {2}
            >
            {
              a = Slice (x, zero_1, two_1, zero_1)
              p = Mul (a, w)
            }
          >
        }
        "#);
    }
}
