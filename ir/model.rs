//! A model: the graph, its local functions, and what the file says about itself.

use std::collections::BTreeMap;

use planish_proto::onnx;

use crate::{Attrs, Graph, Metadata, OpName};

/// Version of each operator set in use; the key of ai.onnx is the empty string.
pub type Opsets = BTreeMap<String, i64>;

/// Everything that one ONNX file holds.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// IR version of the file format.
    pub ir_version: i64,
    /// Operator sets that the graph uses.
    pub opsets: Opsets,
    /// Tool that made the model.
    pub producer_name: String,
    /// Its version.
    pub producer_version: String,
    /// Reverse-DNS namespace of the model.
    pub domain: String,
    /// Version of the model.
    pub model_version: Option<i64>,
    /// Documentation string.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Metadata,
    /// The main graph.
    pub graph: Graph,
    /// Local functions.
    pub functions: Vec<Function>,
    /// Training methods, carried through.
    pub(crate) training: Vec<onnx::TrainingInfoProto>,
    /// Multi-device configurations, carried through.
    pub(crate) devices: Vec<onnx::DeviceConfigurationProto>,
}

/// An operator that the model itself defines.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// How nodes call it.
    pub op: OpName,
    /// Documentation string.
    pub doc: String,
    /// `metadata_props`.
    pub metadata: Metadata,
    /// Operator sets that the body uses.
    pub opsets: Opsets,
    /// Attributes that a call must give.
    pub attributes: Vec<String>,
    /// Attributes that a call may give, with what they are otherwise.
    pub defaults: Attrs,
    /// What it does. Attributes of its nodes may be [`Attr::Ref`](crate::Attr::Ref).
    pub body: Graph,
}

impl Model {
    /// Version of the ai.onnx operator set; 1 if the file names none.
    pub fn opset(&self) -> i64 {
        self.opsets.get("").copied().unwrap_or(1)
    }

    /// The function that a node of this operator calls.
    pub fn function(&self, op: &OpName) -> Option<&Function> {
        self.functions.iter().find(|f| f.op == *op)
    }
}
