//! Merge nodes that compute the same thing.
//!
//! Before     a = Exp (x);  b = Exp (x);  y = Add (a, b)
//! After      a = Exp (x);  y = Add (a, a)
//! When       operator, attributes and inputs are the same, after merging those before them; inputs of commutative
//!            operators in any order
//! Refuses    operators that are not pure or not known · nodes with subgraphs · two graph outputs, which need both names
//! Numerics   Exact
//! Reference  value numbering: Cocke and Schwartz, Programming Languages and Their Compilers, 1970

use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use planish_ir::{Attr, Attrs, Def, Graph, Model, Node, NodeId, Numerics, Patch, ValueId, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cse {}

impl Pass for Cse {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Cse {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for path in model.graph_paths().into_iter().rev() {
            let Some(graph) = model.graph_at(&path) else { continue };
            changes.patches.extend(merge(graph).into_iter().map(|p| (path.clone(), p)));
        }
        Ok(changes)
    }
}

/// What makes two nodes the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    op: (&'a str, &'a str),
    inputs: Vec<Option<ValueId>>,
    attrs: Vec<u8>,
    /// Outputs that are left out, because leaving one out can change the others (`Dropout`, `BatchNormalization`).
    outputs: Vec<bool>,
}

fn merge(graph: &Graph) -> Vec<Patch> {
    let mut patches = Vec::new();
    // Only for look-ups: the value that stands for a merged one.
    let mut stands_for: HashMap<ValueId, ValueId> = HashMap::new();
    let mut seen: BTreeMap<Key<'_>, NodeId> = BTreeMap::new();
    // A verified graph has no cycle.
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        let Some(key) = key(node, &stands_for) else { continue };
        match seen.entry(key) {
            Entry::Vacant(e) => {
                e.insert(id);
            }
            Entry::Occupied(mut e) => {
                let Some(first) = graph.node(*e.get()) else { continue };
                match pairs(graph, first, node) {
                    Some(pairs) => {
                        let mut patch =
                            Patch::new(Numerics::Exact, format!("{} {:?}", node.op, graph.name_of(pairs[0].0)));
                        for &(old, new) in &pairs {
                            patch.replace(old, new);
                        }
                        stands_for.extend(pairs);
                        patches.push(patch);
                    }
                    None => {
                        // One of the two has to stay; later nodes may still merge with this one.
                        e.insert(id);
                    }
                }
            }
        }
    }
    patches
}

fn key<'a>(node: &'a Node, stands_for: &HashMap<ValueId, ValueId>) -> Option<Key<'a>> {
    let spec = op::of(node)?;
    if !spec.traits.pure || node.inputs().is_empty() {
        return None;
    }
    let mut inputs: Vec<_> =
        node.inputs().iter().map(|v| v.map(|v| stands_for.get(&v).copied().unwrap_or(v))).collect();
    if spec.traits.commutative && inputs.len() >= 2 {
        inputs[..2].sort_unstable();
    }
    let outputs = node.outputs().iter().map(Option::is_some).collect();
    Some(Key { op: (&node.op.domain, &node.op.name), inputs, attrs: attrs_key(&node.attrs)?, outputs })
}

/// Which output of `second` becomes which of `first`; `None` if the interface needs both.
fn pairs(graph: &Graph, first: &Node, second: &Node) -> Option<Vec<(ValueId, ValueId)>> {
    let both = second.outputs().iter().zip(first.outputs());
    let pairs: Vec<_> = both.filter_map(|(&old, &new)| Some((old?, new?))).collect();
    let movable = |&(old, new): &(ValueId, ValueId)| {
        !graph.is_output(old)
            || (!graph.is_output(new) && graph.value(new).is_some_and(|v| matches!(v.def(), Def::Node { .. })))
    };
    (!pairs.is_empty() && pairs.iter().all(movable)).then_some(pairs)
}

/// Attributes as bytes that are equal exactly if they are; `None` if there are subgraphs or references.
pub(crate) fn attrs_key(attrs: &Attrs) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    let mut put = |bytes: &[u8]| {
        key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        key.extend_from_slice(bytes);
    };
    for (name, attr) in attrs.iter() {
        put(name.as_bytes());
        // Attributes of different types may have the same bytes.
        put(&[match attr {
            Attr::Int(_) => 0,
            Attr::Float(_) => 1,
            Attr::String(_) => 2,
            Attr::Tensor(_) => 3,
            Attr::Ints(_) => 4,
            Attr::Floats(_) => 5,
            _ => 6,
        }]);
        match attr {
            Attr::Int(v) => put(&v.to_le_bytes()),
            Attr::Float(v) => put(&v.to_le_bytes()),
            Attr::String(s) => put(s),
            Attr::Tensor(t) => put(t.digest().as_bytes()),
            Attr::Ints(v) => put(&v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()),
            Attr::Floats(v) => put(&v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()),
            Attr::Strings(v) => {
                put(&(v.len() as u64).to_le_bytes());
                v.iter().for_each(|s| put(s));
            }
            Attr::Graph(_)
            | Attr::Graphs(_)
            | Attr::SparseTensor(_)
            | Attr::SparseTensors(_)
            | Attr::Tensors(_)
            | Attr::Type(_)
            | Attr::Types(_)
            | Attr::Ref { .. } => return None,
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn equal_chains_merge_and_commutative_inputs_may_be_swapped() {
        insta::assert_snapshot!(check::<Cse>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x, float[2] w) => (float[2] y) {
                a = Exp (x)
                b = Exp (x)
                c = Mul (a, w)
                d = Mul (w, b)
                e = LeakyRelu <alpha = 0.1> (c)
                f = LeakyRelu <alpha = 0.2> (d)
                y = Add (e, f)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[2] w) => (float[2] y) {
          a = Exp (x)
          c = Mul (a, w)
          e = LeakyRelu <alpha = 0.1> (c)
          f = LeakyRelu <alpha = 0.2> (c)
          y = Add (e, f)
        }
        "#);
    }

    #[test]
    fn an_output_merges_with_an_inner_value_but_not_with_another_output() {
        insta::assert_snapshot!(check::<Cse>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y, float[2] z, float[2] w) {
                a = Exp (x)
                w = Relu (a)
                y = Exp (x)
                z = Exp (x)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[2] z, float[2] w) {
          y = Exp (x)
          z = Exp (x)
          w = Relu (z)
        }
        "#);
    }

    #[test]
    fn keeps_calls_of_local_functions_and_swapped_maxima() {
        // The function makes noise under the name of a pure operator; and of 0 and -0 the first wins.
        let text = r#"<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
            g (float[2] x, float[2] z) => (float[2] y) {
                a = com.microsoft.Gelu (x)
                b = com.microsoft.Gelu (x)
                c = Max (x, z)
                d = Max (z, x)
                e = Sub (a, b)
                f = Sub (c, d)
                y = Add (e, f)
            }
            <domain: "com.microsoft", opset_import: ["" : 17]>
            Gelu (v) => (w) { w = RandomNormalLike (v) }"#;
        assert!(refusals::<Cse>(text).is_empty());
    }

    #[test]
    fn keeps_random_and_unknown_operators() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
            g (float[2] x) => (float[2] y, float[2] z) {
                a = RandomNormalLike (x)
                b = RandomNormalLike (x)
                y = Add (a, b)
                c = my.ops.Noise (x)
                d = my.ops.Noise (x)
                z = Add (c, d)
            }"#;
        assert!(refusals::<Cse>(text).is_empty());
    }
}
