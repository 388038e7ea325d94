//! Compute each number that shapes are made of once.
//!
//! Before     n = Gather (Shape (x), 0);  m = Gather (Shape (y), 0)      inference proves that both are the same size
//!            t = Where (c, a, b)      inference proves that it is what t' is already
//! After      readers of m read n · readers of t read t'
//! When       all elements of two small integer tensors are provably the same numbers, or expressions of the same sizes
//! Refuses    –
//! Numerics   Exact
//! Reference  value numbering: Cocke and Schwartz, Programming Languages and Their Compilers, 1970

use std::collections::BTreeMap;

use planish_ir::{
    Graph, Model, Numerics, Patch, ValueId,
    infer::{self, GraphFacts, Num},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::is_plain;
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShapeValues {}

impl Pass for ShapeValues {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for ShapeValues {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let inferred = infer::infer(model, &infer::Bindings::new());
        let mut changes = Changes::default();
        for path in model.graph_paths().into_iter().rev() {
            let (Some(graph), Some(facts)) = (model.graph_at(&path), inferred.graph().at(&path)) else { continue };
            changes.patches.extend(merge(graph, facts).map(|p| (path, p)));
        }
        Ok(changes)
    }
}

/// Longest tensor that is compared: shapes have as many elements as a tensor has axes.
const LONGEST: usize = 16;

fn merge(graph: &Graph, facts: &GraphFacts) -> Option<Patch> {
    let mut seen: BTreeMap<String, ValueId> = BTreeMap::new();
    let mut merged = Vec::new();
    // Producers first, so that what is read instead is there already. A verified graph has no cycle.
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id).filter(|n| is_plain(n)) else { continue };
        let [Some(output)] = *node.outputs() else { continue };
        if graph.is_output(output) || graph.users(output).len() == 0 {
            continue;
        }
        let Some(key) = key(facts, output) else { continue };
        match seen.get(&key) {
            Some(&first) => merged.push((output, first)),
            None => {
                seen.insert(key, output);
            }
        }
    }
    let (last, _) = merged.last()?;
    let note = format!("{} values, the last of which is {:?}", merged.len(), graph.name_of(*last));
    // One patch, because what one of them leaves unread may be what another one is to be replaced by.
    let mut patch = Patch::new(Numerics::Exact, note);
    for (value, first) in merged {
        patch.replace(value, first);
    }
    Some(patch)
}

/// The type and all elements of a small integer tensor, written so that only provably equal ones read the same.
fn key(facts: &GraphFacts, value: ValueId) -> Option<String> {
    let ty = facts.ty(value)?.as_tensor()?;
    let elements = facts.value(value).filter(|e| ty.dtype.is_integer() && !e.is_empty() && e.len() <= LONGEST)?;
    let mut key = ty.to_string();
    for n in elements {
        // The debug form quotes names, which may hold any character.
        match n {
            Num::Int(i) => key.push_str(&format!("|{i}")),
            Num::Symbolic(d) => key.push_str(&format!("|{d:?}")),
            Num::Float(_) | Num::Quotient(..) | Num::Unknown => return None,
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn equal_sizes_are_computed_once() {
        insta::assert_snapshot!(check::<ShapeValues>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,S] x) => (float[N,1,S] y, float[N,S] z, int64[2] w) <int64 zero = {0}, int64[1] a = {0}, int64[1] one = {1}> {
                r = Relu (x)
                s = Shape (x)
                n = Gather (s, zero)
                n1 = Unsqueeze (n, a)
                m1 = Gather (s, one)
                t = Concat <axis = 0> (n1, one, m1)
                y = Reshape (r, t)
                s2 = Shape (r)
                k = Gather (s2, zero)
                k1 = Unsqueeze (k, a)
                l1 = Gather (s2, one)
                u = Concat <axis = 0> (k1, l1)
                z = Expand (r, u)
                w = Shape (z)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,S] x) => (float[N,1,S] y, float[N,S] z, int64[2] w)
        <
          int64 zero = {0},
          int64[1] a = {0},
          int64[1] one = {1}
        >
        {
          r = Relu (x)
          s = Shape (x)
          n = Gather (s, zero)
          n1 = Unsqueeze (n, a)
          m1 = Gather (s, one)
          t = Concat <axis = 0> (n1, one, m1)
          y = Reshape (r, t)
          z = Expand (r, s)
          w = Shape (z)
        }
        "#);
    }

    #[test]
    fn keeps_what_is_known_only_in_part_and_other_types() {
        insta::assert_snapshot!(check::<ShapeValues>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N] x, float[?] v, int64[1] k) => (int32[2] a, int64[2] b, int64[2] c) {
                s = Shape (x)
                i = Cast <to = 6> (s)
                a = Concat <axis = 0> (i, i)
                p = Concat <axis = 0> (s, k)
                q = Concat <axis = 0> (s, k)
                b = Neg (p)
                c = Neg (q)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x, float["v.0"] v, int64[1] k) => (int32[2] a, int64[2] b, int64[2] c) {
          s = Shape (x)
          i = Cast <to = 6> (s)
          a = Concat <axis = 0> (i, i)
          p = Concat <axis = 0> (s, k)
          b = Neg (p)
          q = Concat <axis = 0> (s, k)
          c = Neg (q)
        }
        "#);
    }
}
