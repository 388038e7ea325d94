//! Making the nodes that replace a node.

use planish_ir::{DType, Tensor, onnx::export_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};

use super::scope::{Op, Scope, label};
use crate::engine::program::failed;

/// Collects nodes and constants.
pub(super) struct Builder<'a> {
    scope: &'a Scope,
    /// What the new nodes are called after.
    origin: String,
    built: Built,
}

/// What was collected.
#[derive(Default)]
pub(super) struct Built {
    pub(super) nodes: Vec<Made>,
    pub(super) constants: Vec<(String, Tensor)>,
}

/// A new node.
pub(super) struct Made {
    pub(super) node: NodeProto,
    /// It is what the rule wants in the end, and not to be offered to the rules again.
    pub(super) settled: bool,
}

impl<'a> Builder<'a> {
    /// For the replacement of a node.
    pub(super) fn new(op: &Op<'a>) -> Builder<'a> {
        Builder { scope: op.scope, origin: label(op.node), built: Built::default() }
    }

    pub(super) fn finish(self) -> Built {
        self.built
    }

    /// Adds a constant and returns its name.
    pub(super) fn constant(&mut self, tensor: Tensor) -> String {
        let name = self.scope.fresh(&format!("{}/constant", self.origin));
        self.built.constants.push((name.clone(), tensor));
        name
    }

    /// Adds a constant under a name that the model already uses.
    pub(super) fn constant_named(&mut self, name: &str, tensor: Tensor) {
        self.built.constants.push((name.to_owned(), tensor));
    }

    /// A scalar in a floating type.
    pub(super) fn float(&mut self, dtype: DType, value: f64) -> Result<String, EngineError> {
        let tensor = Tensor::from_f64_as(dtype, planish_ir::Dims::new(), &[value]);
        Ok(self.constant(tensor.map_err(|e| failed(e.to_string()))?))
    }

    /// A list of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(Tensor::ints(values))
    }

    /// Adds a node of the default domain and returns the name of its output. An empty input is left out.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.scope.fresh(&format!("{}/{op}", self.origin));
        self.op_into(op, inputs, attributes, &[&output]);
        output
    }

    /// Adds a node of the default domain that makes the given values.
    pub(super) fn op_into(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, outputs: &[&str]) {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let node = NodeProto {
            name: Some(self.origin.clone()),
            op_type: Some(op.to_owned()),
            input: own(inputs),
            output: own(outputs),
            attribute: attributes,
            ..Default::default()
        };
        self.node(node);
    }

    /// Adds a node as it is.
    pub(super) fn node(&mut self, node: NodeProto) {
        self.built.nodes.push(Made { node, settled: false });
    }

    /// The same node with other inputs, left out of further rewriting; returns the name of its first output.
    pub(super) fn settled(&mut self, node: &NodeProto, inputs: Vec<String>) -> String {
        let output = self.fresh(node.op_type.as_deref().unwrap_or(""));
        let node = NodeProto { input: inputs, output: vec![output.clone()], ..node.clone() };
        self.built.nodes.push(Made { node, settled: true });
        output
    }

    /// `Cast`.
    pub(super) fn cast(&mut self, value: &str, to: DType) -> String {
        self.op("Cast", &[value], vec![int("to", i64::from(to.code()))])
    }

    /// A name for a value that is made later.
    pub(super) fn fresh(&self, hint: &str) -> String {
        self.scope.fresh(&format!("{}/{hint}", self.origin))
    }
}

/// A constant as an initializer.
pub(super) fn initializer(name: &str, tensor: &Tensor) -> TensorProto {
    export_tensor(name, tensor)
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind.into()), ..Default::default() }
}

pub(in crate::engine) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(in crate::engine) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(in crate::engine) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(in crate::engine) fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.to_owned().into()), ..attribute(name, AttributeType::String) }
}
