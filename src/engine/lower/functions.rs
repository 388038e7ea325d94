//! Local functions, inlined.

use std::collections::BTreeMap;

use planish_passes::EngineError;
use planish_proto::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use super::scope::{Op, Scope, label};
use crate::engine::program::failed;

/// Functions that call each other deeper than this are recursive, which ONNX does not allow.
const MAX_DEPTH: usize = 32;
/// A few functions that call each other twice each grow without measure.
const MAX_NODES: usize = 1_000_000;

type Functions = BTreeMap<(String, String, String), FunctionProto>;

/// Replaces every call by the body of the function, in subgraphs as well.
pub(super) fn inline(message: &mut ModelProto) -> Result<(), EngineError> {
    if message.functions.is_empty() {
        return Ok(());
    }
    let key = |f: &FunctionProto| {
        (canonical(&f.domain), f.name.clone().unwrap_or_default(), f.overload.clone().unwrap_or_default())
    };
    let functions: Functions = std::mem::take(&mut message.functions).into_iter().map(|f| (key(&f), f)).collect();
    let opset = |imports: &[planish_proto::onnx::OperatorSetIdProto]| {
        imports.iter().find(|o| canonical(&o.domain).is_empty()).and_then(|o| o.version)
    };
    let model_opset = opset(&message.opset_import);
    let scope = Scope::new(0, message);
    let differs = |f: &FunctionProto| opset(&f.opset_import).is_some_and(|v| model_opset.is_some_and(|m| m != v));
    let mut inliner = Inliner { functions: &functions, scope: &scope, differs: &differs, made: 0 };
    if let Some(graph) = &mut message.graph {
        inliner.graph(graph, 0)?;
    }
    Ok(())
}

fn canonical(domain: &Option<String>) -> String {
    domain.clone().filter(|d| d != "ai.onnx").unwrap_or_default()
}

struct Inliner<'a> {
    functions: &'a Functions,
    scope: &'a Scope,
    /// True if a function was written for another version of the default operators than the model.
    differs: &'a dyn Fn(&FunctionProto) -> bool,
    made: usize,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), EngineError> {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            self.node(node, &mut nodes, depth)?;
        }
        graph.node = nodes;
        Ok(())
    }

    fn node(&mut self, mut node: NodeProto, out: &mut Vec<NodeProto>, depth: usize) -> Result<(), EngineError> {
        let key = (
            canonical(&node.domain),
            node.op_type.clone().unwrap_or_default(),
            node.overload.clone().unwrap_or_default(),
        );
        if let Some(function) = self.functions.get(&key) {
            let op = Op::new(&node, self.scope);
            if depth >= MAX_DEPTH {
                return Err(op.unsupported(format!("functions call each other more than {MAX_DEPTH} deep")));
            }
            if (self.differs)(function) {
                return Err(op.unsupported("this function is written for another operator set version than the model"));
            }
            for inner in self.body(&node, function) {
                self.node(inner, out, depth + 1)?;
            }
            return Ok(());
        }
        for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            self.graph(inner, depth)?;
        }
        self.made += 1;
        if self.made > MAX_NODES {
            return Err(failed(format!("inlining the functions makes more than {MAX_NODES} nodes")));
        }
        out.push(node);
        Ok(())
    }

    /// The nodes of a call, with names of their own.
    fn body(&self, call: &NodeProto, function: &FunctionProto) -> Vec<NodeProto> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            names.insert(formal.clone(), call.input.get(i).cloned().unwrap_or_default());
        }
        let mut passed_on = Vec::new();
        for (formal, actual) in function.output.iter().zip(&call.output).filter(|(_, a)| !a.is_empty()) {
            match names.get(formal) {
                // An input that is an output as well, or an output listed twice.
                Some(source) => passed_on.push((source.clone(), actual.clone())),
                None => {
                    names.insert(formal.clone(), actual.clone());
                }
            }
        }
        let mut renamer = Renamer { names, scope: self.scope, prefix: label(call), call, function };
        let mut nodes: Vec<NodeProto> = function.node.iter().map(|n| renamer.node(n)).collect();
        nodes.extend(passed_on.into_iter().map(|(from, to)| NodeProto {
            op_type: Some("Identity".to_owned()),
            input: vec![from],
            output: vec![to],
            ..Default::default()
        }));
        nodes
    }
}

struct Renamer<'a> {
    /// Names in the function's body by those outside.
    names: BTreeMap<String, String>,
    scope: &'a Scope,
    prefix: String,
    call: &'a NodeProto,
    function: &'a FunctionProto,
}

impl Renamer<'_> {
    fn name(&mut self, inner: &str) -> String {
        if inner.is_empty() {
            return String::new();
        }
        if let Some(name) = self.names.get(inner) {
            return name.clone();
        }
        let name = self.scope.fresh(&format!("{}/{inner}", self.prefix));
        self.names.insert(inner.to_owned(), name.clone());
        name
    }

    fn node(&mut self, node: &NodeProto) -> NodeProto {
        let mut copy = node.clone();
        copy.input = node.input.iter().map(|n| self.name(n)).collect();
        copy.output = node.output.iter().map(|n| self.name(n)).collect();
        copy.name = Some(format!("{}/{}", self.prefix, label(node)));
        copy.attribute = node.attribute.iter().filter_map(|a| self.attribute(a)).collect();
        copy
    }

    /// An attribute that refers to one of the call becomes that one, or its default, or is left out.
    fn attribute(&mut self, a: &AttributeProto) -> Option<AttributeProto> {
        if let Some(of) = a.ref_attr_name.as_ref().filter(|r| !r.is_empty()) {
            let given = self.call.attribute.iter().chain(&self.function.attribute_proto);
            let mut found = given.into_iter().find(|g| g.name.as_ref() == Some(of))?.clone();
            found.name.clone_from(&a.name);
            return Some(found);
        }
        let mut copy = a.clone();
        copy.g = a.g.as_ref().map(|g| self.graph(g));
        copy.graphs = a.graphs.iter().map(|g| self.graph(g)).collect();
        Some(copy)
    }

    /// Names of a subgraph are made unique, too; those that it takes from the function's body follow it.
    fn graph(&mut self, graph: &GraphProto) -> GraphProto {
        let mut copy = graph.clone();
        for info in copy.input.iter_mut().chain(&mut copy.output) {
            info.name = info.name.as_deref().map(|n| self.name(n));
        }
        for tensor in &mut copy.initializer {
            tensor.name = tensor.name.as_deref().map(|n| self.name(n));
        }
        copy.value_info.clear();
        copy.node = graph.node.iter().map(|n| self.node(n)).collect();
        copy
    }
}
