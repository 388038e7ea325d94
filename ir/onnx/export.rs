//! A verified [`Model`] becomes a file's messages.
//!
//! Nodes are written in canonical order and weights as raw data, sharing their bytes. Only the main graph's inputs and
//! outputs have names that the outside relies on; a name inside a subgraph that would hide one around it is changed.

use planish_proto::onnx::{self, AttributeProto, attribute_proto::AttributeType as Kind};

use super::{metadata_out, tensor, text_out, types};
use crate::{
    Attr, Attrs, Def, Function, Graph, Node, OpName, Opsets, Tensor, Value, ValueId, names::Scopes, verify::Verified,
};

/// Converts a model. The weights share their bytes with it.
pub fn export(model: &Verified<'_>) -> onnx::ModelProto {
    export_model(model, false)
}

/// Like [`export`], with the types of inner values that planish has inferred; for tools that do not infer any themselves.
pub fn export_with_types(model: &Verified<'_>) -> onnx::ModelProto {
    export_model(model, true)
}

fn export_model(model: &Verified<'_>, all_types: bool) -> onnx::ModelProto {
    let m = model.model();
    onnx::ModelProto {
        ir_version: Some(m.ir_version),
        opset_import: opsets_out(&m.opsets),
        producer_name: text_out(&m.producer_name),
        producer_version: text_out(&m.producer_version),
        domain: text_out(&m.domain),
        model_version: m.model_version,
        doc_string: text_out(&m.doc),
        graph: Some(Scope { names: Scopes::default(), all_types }.graph(&m.graph, &[])),
        metadata_props: metadata_out(&m.metadata),
        training_info: m.training.clone(),
        functions: m.functions.iter().map(|f| function_out(f, all_types)).collect(),
        configuration: m.devices.clone(),
    }
}

/// Converts one tensor, for tools that write tensors of their own.
pub fn export_tensor(name: &str, tensor: &Tensor) -> onnx::TensorProto {
    tensor::tensor_out(Some(name.to_owned()), tensor)
}

fn opsets_out(opsets: &Opsets) -> Vec<onnx::OperatorSetIdProto> {
    let entry = |(domain, &version): (&String, &i64)| onnx::OperatorSetIdProto {
        domain: Some(domain.clone()),
        version: Some(version),
    };
    opsets.iter().map(entry).collect()
}

struct Scope {
    /// Keeps the names of nested graphs apart.
    names: Scopes,
    /// Write inferred types too.
    all_types: bool,
}

impl Scope {
    fn graph(&mut self, g: &Graph, captured: &[String]) -> onnx::GraphProto {
        let names = self.names.enter(g, Some(captured));
        let name = |id: ValueId| names.get(id.index()).cloned().unwrap_or_default();
        let mut message = onnx::GraphProto {
            name: Some(g.name.clone()),
            doc_string: text_out(&g.doc),
            metadata_props: metadata_out(&g.metadata),
            quantization_annotation: g.quantization.clone(),
            ..Default::default()
        };
        for &id in g.inputs() {
            let Some(v) = g.value(id) else { continue };
            message.input.push(value_info(name(id), v));
            if let Def::Input { default: Some(t) } = &v.def {
                message.initializer.push(tensor::tensor_out(Some(name(id)), t));
            }
        }
        for (id, v) in g.values() {
            match &v.def {
                Def::Constant(t) => message.initializer.push(onnx::TensorProto {
                    doc_string: text_out(&v.doc),
                    metadata_props: metadata_out(&v.metadata),
                    ..tensor::tensor_out(Some(name(id)), t)
                }),
                Def::SparseConstant(t) => message.sparse_initializer.push(tensor::sparse_out(Some(name(id)), t)),
                Def::Node { .. } if !v.is_output() && self.has_info(v) => {
                    message.value_info.push(value_info(name(id), v))
                }
                Def::Node { .. } | Def::Input { .. } | Def::Captured(_) => {}
            }
        }
        for &id in g.outputs() {
            if let Some(v) = g.value(id) {
                message.output.push(value_info(name(id), v));
            }
        }
        // `value_info` follows the numbering of the values, which patches change: sort it.
        message.value_info.sort_by(|a, b| a.name.cmp(&b.name));
        message.node = self.nodes(g, &name);
        self.names.leave();
        message
    }

    /// An entry in `value_info` is worth its bytes only if it says something.
    fn has_info(&self, v: &Value) -> bool {
        (v.ty.is_some() && (self.all_types || !v.inferred)) || !v.doc.is_empty() || !v.metadata.is_empty()
    }

    fn nodes(&mut self, g: &Graph, name: &dyn Fn(ValueId) -> String) -> Vec<onnx::NodeProto> {
        // A verified graph has no cycle.
        let order = g.topological_order().unwrap_or_default();
        let mut messages = Vec::with_capacity(order.len());
        for node in order.into_iter().filter_map(|id| g.node(id)) {
            messages.push(self.node(node, name));
        }
        messages
    }

    fn node(&mut self, n: &Node, name: &dyn Fn(ValueId) -> String) -> onnx::NodeProto {
        let slot = |v: &Option<ValueId>| v.map(name).unwrap_or_default();
        let captured: Vec<String> = n.captures.iter().map(|&v| name(v)).collect();
        onnx::NodeProto {
            input: n.inputs.iter().map(slot).collect(),
            output: n.outputs.iter().map(slot).collect(),
            name: text_out(&n.name),
            op_type: Some(n.op.name.clone()),
            domain: text_out(&n.op.domain),
            overload: text_out(&n.op.overload),
            attribute: self.attributes(&n.attrs, &captured),
            doc_string: text_out(&n.doc),
            metadata_props: metadata_out(&n.metadata),
            device_configurations: n.devices.clone(),
        }
    }

    fn attributes(&mut self, attrs: &Attrs, captured: &[String]) -> Vec<AttributeProto> {
        attrs.iter().map(|(name, a)| self.attribute(name, a, captured)).collect()
    }

    fn attribute(&mut self, name: &str, attr: &Attr, captured: &[String]) -> AttributeProto {
        let mut m = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
        let sparse = |t| tensor::sparse_out(None, t);
        let kind = match attr {
            Attr::Int(v) => {
                m.i = Some(*v);
                Kind::Int
            }
            Attr::Float(v) => {
                m.f = Some(*v);
                Kind::Float
            }
            Attr::String(v) => {
                m.s = Some(v.clone());
                Kind::String
            }
            Attr::Tensor(t) => {
                m.t = Some(tensor::tensor_out(None, t));
                Kind::Tensor
            }
            Attr::Graph(g) => {
                m.g = Some(self.graph(g, captured));
                Kind::Graph
            }
            Attr::SparseTensor(t) => {
                m.sparse_tensor = Some(sparse(t));
                Kind::SparseTensor
            }
            Attr::Type(t) => {
                m.tp = Some(types::type_out(t));
                Kind::TypeProto
            }
            Attr::Ints(v) => {
                m.ints = v.clone();
                Kind::Ints
            }
            Attr::Floats(v) => {
                m.floats = v.clone();
                Kind::Floats
            }
            Attr::Strings(v) => {
                m.strings = v.clone();
                Kind::Strings
            }
            Attr::Tensors(v) => {
                m.tensors = v.iter().map(|t| tensor::tensor_out(None, t)).collect();
                Kind::Tensors
            }
            Attr::Graphs(v) => {
                m.graphs = v.iter().map(|g| self.graph(g, captured)).collect();
                Kind::Graphs
            }
            Attr::SparseTensors(v) => {
                m.sparse_tensors = v.iter().map(sparse).collect();
                Kind::SparseTensors
            }
            Attr::Types(v) => {
                m.type_protos = v.iter().map(types::type_out).collect();
                Kind::TypeProtos
            }
            Attr::Ref { name, kind } => {
                m.ref_attr_name = Some(name.clone());
                m.r#type = Some(*kind);
                return m;
            }
        };
        m.r#type = Some(kind.into());
        m
    }
}

fn value_info(name: String, v: &Value) -> onnx::ValueInfoProto {
    onnx::ValueInfoProto {
        name: Some(name),
        r#type: v.ty.as_ref().map(types::type_out),
        doc_string: text_out(&v.doc),
        metadata_props: metadata_out(&v.metadata),
    }
}

fn function_out(f: &Function, all_types: bool) -> onnx::FunctionProto {
    let mut scope = Scope { names: Scopes::default(), all_types };
    let body = scope.graph(&f.body, &[]);
    // A function's inputs and outputs are bare names; what is known of their types stands among the others.
    let typed = body.input.iter().chain(&body.output).filter(|i| i.r#type.is_some());
    let value_info = body.value_info.iter().chain(typed).cloned().collect();
    let names = |infos: Vec<onnx::ValueInfoProto>| infos.into_iter().map(|i| i.name.unwrap_or_default()).collect();
    let OpName { domain, name, overload } = &f.op;
    onnx::FunctionProto {
        name: Some(name.clone()),
        input: names(body.input),
        output: names(body.output),
        attribute: f.attributes.clone(),
        attribute_proto: scope.attributes(&f.defaults, &[]),
        node: body.node,
        doc_string: text_out(&f.doc),
        opset_import: opsets_out(&f.opsets),
        domain: Some(domain.clone()),
        overload: text_out(overload),
        value_info,
        metadata_props: metadata_out(&f.metadata),
    }
}
