//! Turn `Constant` nodes into initializers.
//!
//! Before     w = Constant <value = t> ()
//! After      w is an initializer
//! When       the node has one of the dense value attributes
//! Refuses    sparse_value · an attribute that a function passes on
//! Numerics   Exact
//! Reference  ONNX Constant-13

use bytes::Bytes;
use planish_ir::{Attr, DType, Dims, Graph, Node, NodeId, Numerics, Patch, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConstantsToInitializers {}

impl Pass for ConstantsToInitializers {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for ConstantsToInitializers {
    fn roots(&self) -> &'static [&'static str] {
        &["Constant"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let name = cx.graph.name_of(output);
        let mut patch = Patch::new(Numerics::Exact, format!("constant {name:?}"));
        let constant = patch.constant(name, value_of(node)?);
        patch.replace(output, constant);
        Ok(patch)
    }
}

/// The tensor of an initializer that no caller can override, or of a `Constant` node.
pub(crate) fn constant_of(graph: &Graph, value: ValueId) -> Option<Tensor> {
    if let Some(tensor) = graph.constant(value) {
        return Some(tensor.clone());
    }
    let (_, node) = graph.producer(value).filter(|(_, n)| n.op.is("Constant"))?;
    value_of(node).ok()
}

/// The tensor that a `Constant` node makes.
pub(crate) fn value_of(node: &Node) -> Result<Tensor, Skip> {
    let mut attrs = node.attrs.iter();
    let (Some((name, attr)), None) = (attrs.next(), attrs.next()) else {
        return Err(Skip::because("it does not have exactly one attribute"));
    };
    let list = |n: usize| Dims::from_slice(&[n as u64]);
    let tensor = match attr {
        Attr::Tensor(t) => return Ok(t.clone()),
        Attr::Int(v) => Tensor::from_raw(DType::I64, Dims::new(), Bytes::copy_from_slice(&v.to_le_bytes())),
        Attr::Float(v) => Ok(Tensor::scalar_f32(*v)),
        Attr::String(s) => Tensor::from_strings(Dims::new(), vec![s.clone()]),
        Attr::Ints(v) => Ok(Tensor::ints(v)),
        Attr::Floats(v) => Tensor::from_f32(list(v.len()), v),
        Attr::Strings(v) => Tensor::from_strings(list(v.len()), v.clone()),
        _ => return Err(Skip::because(format!("the attribute {name:?} is no dense value"))),
    };
    tensor.map_err(|e| Skip::because(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn every_dense_form_becomes_an_initializer() {
        insta::assert_snapshot!(check::<ConstantsToInitializers>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y, int64[3] z) {
                a = Constant <value = float {2}> ()
                b = Constant <value_floats = [1.0, 2.0]> ()
                z = Constant <value_ints = [1, 2, 3]> ()
                m = Mul (x, a)
                y = Add (m, b)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, int64[3] z)
        <
          float a = {2.0},
          float[2] b = {1.0, 2.0},
          int64[3] z = {1, 2, 3}
        >
        {
          m = Mul (x, a)
          y = Add (m, b)
        }
        "#);
    }

    #[test]
    fn refuses_sparse() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g () => (float y) { a = Constant <value = float {2}, value_int = 3> ()
              y = Relu (a) }"#;
        assert_eq!(refusals::<ConstantsToInitializers>(text), ["it does not have exactly one attribute"]);
    }
}
