//! What a rule can ask about a node and the values around it.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use planish_ir::{DType, Tensor, onnx::import_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto,
};

/// Constants and types by name, for the graph at hand and those around it.
pub(super) struct Scope {
    opset: i64,
    levels: Vec<Level>,
    /// Every name in the model, so that new ones are new.
    names: RefCell<HashSet<String>>,
}

#[derive(Default)]
struct Level {
    constants: HashMap<String, Tensor>,
    types: HashMap<String, TensorType>,
}

/// Element type and, if the rank is known, sizes of the axes as far as they are fixed.
#[derive(Clone, Debug)]
struct TensorType {
    dtype: DType,
    shape: Option<Vec<Option<u64>>>,
}

impl Scope {
    /// For a model with this version of the default operator set.
    pub(super) fn new(opset: i64, message: &ModelProto) -> Scope {
        let mut names = HashSet::new();
        message.graph.iter().for_each(|g| collect_names(g, &mut names));
        Scope { opset, levels: Vec::new(), names: RefCell::new(names) }
    }

    pub(super) fn opset(&self) -> i64 {
        self.opset
    }

    /// A name that the model does not have yet.
    pub(super) fn fresh(&self, hint: &str) -> String {
        let mut names = self.names.borrow_mut();
        let mut name = hint.to_owned();
        let mut n = 0u64;
        while !names.insert(name.clone()) {
            n += 1;
            name = format!("{hint}_{n}");
        }
        name
    }

    pub(super) fn enter(&mut self, graph: &GraphProto) {
        let mut level = Level::default();
        for t in &graph.initializer {
            // Overridable by the caller, so no constant.
            if graph.input.iter().any(|i| i.name == t.name) {
                continue;
            }
            if let (Some(name), Ok(tensor)) = (&t.name, import_tensor(t.clone(), &|_| Err("external".into()))) {
                level.constants.insert(name.clone(), tensor);
            }
        }
        for info in graph.input.iter().chain(&graph.value_info).chain(&graph.output) {
            if let (Some(name), Some(ty)) = (&info.name, tensor_type(info)) {
                level.types.insert(name.clone(), ty);
            }
        }
        self.levels.push(level);
    }

    pub(super) fn leave(&mut self) {
        self.levels.pop();
    }

    /// Makes a constant of the graph at hand known.
    pub(super) fn add_constant(&mut self, name: &str, tensor: Tensor) {
        if let Some(level) = self.levels.last_mut() {
            level.constants.insert(name.to_owned(), tensor);
        }
    }

    /// Element type of a value, if it is known.
    pub(super) fn dtype(&self, name: &str) -> Option<DType> {
        self.ty(name).map(|t| t.dtype)
    }

    fn constant(&self, name: &str) -> Option<&Tensor> {
        self.levels.iter().rev().find_map(|l| l.constants.get(name))
    }

    fn ty(&self, name: &str) -> Option<TensorType> {
        if let Some(t) = self.constant(name) {
            return Some(TensorType { dtype: t.dtype(), shape: Some(t.dims().iter().map(|&d| Some(d)).collect()) });
        }
        self.levels.iter().rev().find_map(|l| l.types.get(name)).cloned()
    }
}

fn tensor_type(info: &ValueInfoProto) -> Option<TensorType> {
    let Some(type_proto::Value::TensorType(t)) = &info.r#type.as_ref()?.value else { return None };
    let dim = |d: &dimension::Value| match d {
        dimension::Value::DimValue(n) => u64::try_from(*n).ok(),
        dimension::Value::DimParam(_) => None,
    };
    let shape = t.shape.as_ref().map(|s| s.dim.iter().map(|d| d.value.as_ref().and_then(dim)).collect());
    Some(TensorType { dtype: DType::from_code(t.elem_type?)?, shape })
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    let infos = graph.input.iter().chain(&graph.output);
    names.extend(infos.filter_map(|i| i.name.clone()));
    names.extend(graph.initializer.iter().filter_map(|t| t.name.clone()));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| collect_names(g, names));
    }
}

/// A node, as rules see it.
pub(super) struct Op<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) scope: &'a Scope,
}

impl<'a> Op<'a> {
    pub(super) fn new(node: &'a NodeProto, scope: &'a Scope) -> Op<'a> {
        Op { node, scope }
    }

    /// Its operator, without the domain.
    pub(super) fn name(&self) -> &'a str {
        self.node.op_type.as_deref().unwrap_or("")
    }

    /// Its domain; empty for the default one, however it is spelled.
    pub(super) fn domain(&self) -> &'a str {
        match self.node.domain.as_deref().unwrap_or("") {
            "ai.onnx" => "",
            other => other,
        }
    }

    /// True for this operator of the default domain.
    pub(super) fn is(&self, name: &str) -> bool {
        self.domain().is_empty() && self.name() == name
    }

    /// Name of the value at an input slot, unless it is left out.
    pub(super) fn input(&self, slot: usize) -> Option<&'a str> {
        self.node.input.get(slot).map(String::as_str).filter(|n| !n.is_empty())
    }

    /// Name of the value at an output slot, unless it is left out.
    pub(super) fn output(&self, slot: usize) -> Option<&'a str> {
        self.node.output.get(slot).map(String::as_str).filter(|n| !n.is_empty())
    }

    /// The value at an input slot that must be there.
    pub(super) fn required(&self, slot: usize) -> Result<&'a str, EngineError> {
        self.input(slot).ok_or_else(|| self.unsupported(format!("its input {slot} is left out")))
    }

    /// The constant at an input slot.
    pub(super) fn constant(&self, slot: usize) -> Option<&'a Tensor> {
        self.scope.constant(self.input(slot)?)
    }

    /// The constant at an input slot that must be one.
    pub(super) fn required_constant(&self, slot: usize) -> Result<&'a Tensor, EngineError> {
        self.constant(slot).ok_or_else(|| self.unsupported(format!("its input {slot} is no constant")))
    }

    /// Element type of the value at an input slot, if it is known.
    pub(super) fn dtype(&self, slot: usize) -> Option<DType> {
        self.scope.dtype(self.input(slot)?)
    }

    /// Sizes of the value at an input slot, as far as they are known.
    pub(super) fn shape(&self, slot: usize) -> Option<Vec<Option<u64>>> {
        self.scope.ty(self.input(slot)?)?.shape
    }

    /// Rank of the value at an input slot, if it is known.
    pub(super) fn rank(&self, slot: usize) -> Option<usize> {
        self.shape(slot).map(|s| s.len())
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i.unwrap_or(0))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f.unwrap_or(0.0))
    }

    pub(super) fn str(&self, name: &str) -> Option<&'a str> {
        self.attribute(name).and_then(|a| std::str::from_utf8(a.s.as_deref()?).ok())
    }

    /// It cannot be run.
    pub(super) fn unsupported(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Unsupported { node: label(self.node), op: self.title(), reason: reason.into() }
    }

    /// It could be run, but the result would be wrong.
    pub(super) fn refused(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Refused { node: label(self.node), op: self.title(), reason: reason.into() }
    }

    fn title(&self) -> String {
        match self.domain() {
            "" => self.name().to_owned(),
            domain => format!("{domain}::{}", self.name()),
        }
    }
}

/// Name of a node, or of its first output.
pub(super) fn label(node: &NodeProto) -> String {
    let name = node.name.as_deref().filter(|n| !n.is_empty());
    name.or_else(|| node.output.first().map(String::as_str)).unwrap_or("").to_owned()
}
