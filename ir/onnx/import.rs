//! A file's messages become a [`Model`].
//!
//! Nodes are numbered in the canonical order of [`Graph::topological_order`], computed here on the messages, so that the
//! order in which a file lists them has no influence on anything. Initializers keep the order of the file.

mod attr;
mod scope;

use std::collections::{BTreeSet, HashMap};

use planish_proto::onnx;

use super::{External, WireError, metadata_in, tensor, types};
use crate::{
    Def, Function, Graph, Model, Node, NodeId, OpName, Opsets, Tensor, Type, ValueId,
    graph::{Cycle, post_order},
    node::canonical_domain,
};
use scope::Scopes;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}{problem}")]
pub struct ImportError {
    /// Enclosing graphs and nodes, outermost first, ending in a colon and a space; or empty.
    pub place: String,
    /// What is wrong there.
    pub problem: Box<Problem>,
}

/// What can be wrong with the structure of a model.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("the file has no graph; it may be an empty or a training-only model")]
    NoGraph,
    #[error("the name {0:?} is defined twice; every value must have one definition")]
    Duplicate(String),
    #[error("it reads {0:?}, which no input, initializer or node defines")]
    Dangling(String),
    #[error("a graph input, output or initializer has no name")]
    Unnamed,
    #[error(transparent)]
    Cycle(#[from] Cycle),
    #[error("the tensor {name:?} is not usable: {source}")]
    Tensor { name: String, source: WireError },
    #[error("the value {name:?} is not usable: {source}")]
    Type { name: String, source: WireError },
    #[error(transparent)]
    Attribute(WireError),
    #[error("the attribute {0:?} is given twice")]
    DuplicateAttribute(String),
    #[error("the function {0} is defined twice")]
    DuplicateFunction(OpName),
    #[error("graphs are nested more than {MAX_DEPTH} deep")]
    Depth,
}

/// Subgraphs nested deeper than this are refused, because the functions that walk them recurse.
pub const MAX_DEPTH: usize = 32;

type Result<T> = std::result::Result<T, ImportError>;

impl From<Problem> for ImportError {
    fn from(problem: Problem) -> ImportError {
        ImportError { place: String::new(), problem: Box::new(problem) }
    }
}

impl ImportError {
    fn inside(mut self, what: impl FnOnce() -> String) -> ImportError {
        self.place = format!("in {}: {}", what(), self.place);
        self
    }
}

/// Converts a decoded file. `external` fetches tensors that are stored beside it.
///
/// Initializers of files before IR version 4 are constants although they are listed as inputs, because such files had
/// to list them; the model then becomes version 4.
pub fn import(message: onnx::ModelProto, external: &External<'_>) -> Result<Model> {
    let graph = message.graph.ok_or(Problem::NoGraph)?;
    let ir_version = message.ir_version.unwrap_or(0);
    let local = message.functions.iter().map(function_name).collect();
    let mut importer = Importer { external, overridable: ir_version >= 4, scopes: Scopes::default(), local };
    let name = graph.name.clone().unwrap_or_default();
    let (graph, _) = importer.graph(graph, Vec::new()).map_err(|e| e.inside(|| format!("graph {name:?}")))?;
    let mut functions: Vec<Function> = Vec::with_capacity(message.functions.len());
    for f in message.functions {
        let f = importer.function(f)?;
        if functions.iter().any(|g| g.op == f.op) {
            return Err(Problem::DuplicateFunction(f.op).into());
        }
        functions.push(f);
    }
    Ok(Model {
        ir_version: ir_version.max(4),
        opsets: opsets_in(message.opset_import),
        producer_name: message.producer_name.unwrap_or_default(),
        producer_version: message.producer_version.unwrap_or_default(),
        domain: message.domain.unwrap_or_default(),
        model_version: message.model_version,
        doc: message.doc_string.unwrap_or_default(),
        metadata: metadata_in(message.metadata_props),
        graph,
        functions,
        training: message.training_info,
        devices: message.configuration,
    })
}

fn function_name(message: &onnx::FunctionProto) -> OpName {
    OpName {
        domain: canonical_domain(message.domain.as_deref().unwrap_or("")).to_owned(),
        name: message.name.clone().unwrap_or_default(),
        overload: message.overload.clone().unwrap_or_default(),
    }
}

fn opsets_in(imports: Vec<onnx::OperatorSetIdProto>) -> Opsets {
    let entry = |i: onnx::OperatorSetIdProto| {
        (canonical_domain(&i.domain.unwrap_or_default()).to_owned(), i.version.unwrap_or(1))
    };
    imports.into_iter().map(entry).collect()
}

struct Importer<'a> {
    external: &'a External<'a>,
    /// Initializers that are also inputs may be overridden by the caller.
    overridable: bool,
    scopes: Scopes,
    /// What the model's own functions are called.
    local: BTreeSet<OpName>,
}

impl Importer<'_> {
    /// `captures` are those that sibling subgraphs of the same node have made; they come back with this one's added.
    fn graph(&mut self, message: onnx::GraphProto, captures: Vec<ValueId>) -> Result<(Graph, Vec<ValueId>)> {
        if self.scopes.depth() >= MAX_DEPTH {
            return Err(Problem::Depth.into());
        }
        let mut graph = Graph::default();
        graph.name = message.name.unwrap_or_default();
        graph.doc = message.doc_string.unwrap_or_default();
        graph.metadata = metadata_in(message.metadata_props);
        graph.quantization = message.quantization_annotation;
        self.scopes.enter(graph, captures);

        let mut defaults: HashMap<String, Tensor> = HashMap::new();
        let mut constants = Vec::new();
        let listed: BTreeSet<String> = message.input.iter().filter_map(|i| i.name.clone()).collect();
        for t in message.initializer {
            let name = t.name.clone().unwrap_or_default();
            let doc = t.doc_string.clone().unwrap_or_default();
            let metadata = metadata_in(t.metadata_props.clone());
            let tensor = tensor::import_tensor(t, self.external)
                .map_err(|source| Problem::Tensor { name: name.clone(), source })?;
            if self.overridable && listed.contains(&name) {
                if defaults.insert(name.clone(), tensor).is_some() {
                    return Err(Problem::Duplicate(name).into());
                }
            } else {
                constants.push((name, tensor, doc, metadata));
            }
        }
        let constant_names: BTreeSet<&str> = constants.iter().map(|(n, ..)| n.as_str()).collect();
        for input in message.input {
            if input.name.as_deref().is_some_and(|n| constant_names.contains(n)) {
                continue;
            }
            let (name, ty) = value_info(&input)?;
            let default = defaults.remove(&name);
            self.define(&name)?;
            let id = self.scopes.graph().add_input(name, ty, default);
            self.annotate(id, input.doc_string, input.metadata_props);
        }
        for (name, tensor, doc, metadata) in constants {
            self.define(&name)?;
            let id = self.scopes.graph().add_constant(name, tensor);
            if let Some(v) = self.scopes.graph().value_mut(id) {
                (v.doc, v.metadata) = (doc, metadata);
            }
        }
        for t in message.sparse_initializer {
            let name = t.values.as_ref().and_then(|v| v.name.clone()).unwrap_or_default();
            self.define(&name)?;
            let sparse = tensor::import_sparse(t, self.external)
                .map_err(|source| Problem::Tensor { name: name.clone(), source })?;
            self.scopes.graph().add_value(name, None, Def::SparseConstant(Box::new(sparse)));
        }

        let mut infos = HashMap::new();
        for info in message.value_info.into_iter().chain(message.output.iter().cloned()) {
            infos.insert(info.name.clone().unwrap_or_default(), info);
        }
        let outputs: Vec<String> = message.output.into_iter().map(|o| o.name.unwrap_or_default()).collect();
        self.scopes.declare(declared_types(&infos)?);
        self.nodes(message.node, &outputs)?;
        self.finish(outputs, infos)
    }

    fn function(&mut self, message: onnx::FunctionProto) -> Result<Function> {
        let op = function_name(&message);
        let place = |e: ImportError| e.inside(|| format!("function {op}"));
        let mut defaults = crate::Attrs::new();
        for a in message.attribute_proto {
            let (name, attr) = self.attribute(a, &mut Vec::new()).map_err(place)?;
            defaults.set(name, attr);
        }
        let mut graph = Graph::default();
        graph.name.clone_from(&op.name);
        self.scopes.enter(graph, Vec::new());
        let body = || -> Result<(Graph, Vec<ValueId>)> {
            for name in message.input {
                self.define(&name)?;
                self.scopes.graph().add_input(name, None, None);
            }
            let infos = message.value_info.into_iter().map(|i| (i.name.clone().unwrap_or_default(), i)).collect();
            self.scopes.declare(declared_types(&infos)?);
            self.nodes(message.node, &message.output)?;
            self.finish(message.output, infos)
        };
        let (body, _) = body().map_err(place)?;
        Ok(Function {
            doc: message.doc_string.unwrap_or_default(),
            metadata: metadata_in(message.metadata_props),
            opsets: opsets_in(message.opset_import),
            attributes: message.attribute,
            defaults,
            body,
            op,
        })
    }

    /// Leaves the innermost scope with its outputs and types entered.
    fn finish(
        &mut self,
        outputs: Vec<String>,
        mut infos: HashMap<String, onnx::ValueInfoProto>,
    ) -> Result<(Graph, Vec<ValueId>)> {
        for name in outputs {
            let id = self.scopes.resolve(&name).ok_or_else(|| Problem::Dangling(name.clone()))?;
            self.scopes.graph().add_output(id);
        }
        let named: Vec<(ValueId, String)> = self.scopes.graph().values().map(|(i, v)| (i, v.name.clone())).collect();
        for (id, name) in named {
            let Some(info) = infos.remove(&name) else { continue };
            let (_, ty) = value_info(&info)?;
            let graph = self.scopes.graph();
            if let (Some(ty), Some(v)) = (ty, graph.value_mut(id)) {
                v.ty.get_or_insert(ty);
            }
            self.annotate(id, info.doc_string, info.metadata_props);
        }
        Ok(self.scopes.leave())
    }

    /// Adds the nodes of the innermost scope in canonical order.
    fn nodes(&mut self, messages: Vec<onnx::NodeProto>, outputs: &[String]) -> Result<()> {
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (i, n) in messages.iter().enumerate() {
            for output in n.output.iter().filter(|o| !o.is_empty()) {
                if makers.insert(output, i).is_some() || self.scopes.defined(output) {
                    return Err(ImportError::from(Problem::Duplicate(output.clone())).inside(|| describe(n)));
                }
            }
        }
        let free: Vec<BTreeSet<&str>> = messages.iter().map(scope::names_read_inside).collect();
        let order = {
            let mut rest: Vec<(&str, usize)> =
                messages.iter().enumerate().map(|(i, n)| (first_output(n).unwrap_or(""), i)).collect();
            rest.sort_unstable();
            let roots = outputs.iter().filter_map(|o| makers.get(o.as_str()).copied());
            let roots = roots.chain(rest.into_iter().map(|(_, i)| i));
            let successors = |i: usize, out: &mut Vec<usize>| {
                let inputs = messages[i].input.iter().map(String::as_str);
                out.extend(inputs.chain(free[i].iter().copied()).filter_map(|name| makers.get(name).copied()));
            };
            post_order(messages.len(), roots, successors).map_err(|i| cycle(&messages, &makers, &free, i))?
        };
        drop(free);
        drop(makers);
        let mut messages: Vec<Option<onnx::NodeProto>> = messages.into_iter().map(Some).collect();
        for i in order {
            if let Some(message) = messages.get_mut(i).and_then(Option::take) {
                let place = describe(&message);
                self.node(message).map_err(|e| e.inside(|| place))?;
            }
        }
        Ok(())
    }

    fn node(&mut self, message: onnx::NodeProto) -> Result<NodeId> {
        let mut inputs = smallvec::SmallVec::new();
        for name in message.input {
            inputs.push(match name.is_empty() {
                true => None,
                false => Some(self.scopes.resolve(&name).ok_or(Problem::Dangling(name))?),
            });
        }
        let mut captures = Vec::new();
        let mut attrs = crate::Attrs::new();
        // Subgraphs number what they capture, so their order must not be that of the file.
        let mut attributes = message.attribute;
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        for a in attributes {
            let (name, attr) = self.attribute(a, &mut captures)?;
            if attrs.set(name.clone(), attr).is_some() {
                return Err(Problem::DuplicateAttribute(name).into());
            }
        }
        let mut outputs = smallvec::SmallVec::new();
        for name in message.output {
            // A subgraph that captures the value takes its type over, so it is entered now.
            let ty = self.scopes.declared(&name);
            // The producer is entered by `add_node`.
            let placeholder = Def::Captured(u32::MAX);
            outputs.push((!name.is_empty()).then(|| self.scopes.graph().add_value(name, ty, placeholder)));
        }
        let graph = self.scopes.graph();
        let op = OpName {
            domain: canonical_domain(&message.domain.unwrap_or_default()).to_owned(),
            name: message.op_type.unwrap_or_default(),
            overload: message.overload.unwrap_or_default(),
        };
        Ok(graph.add_node(Node {
            is_local: self.local.contains(&op),
            name: message.name.unwrap_or_default(),
            op,
            attrs,
            doc: message.doc_string.unwrap_or_default(),
            metadata: metadata_in(message.metadata_props),
            inputs,
            outputs,
            captures,
            devices: message.device_configurations,
        }))
    }

    fn define(&mut self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Problem::Unnamed.into());
        }
        if self.scopes.defined(name) {
            return Err(Problem::Duplicate(name.to_owned()).into());
        }
        Ok(())
    }

    fn annotate(&mut self, id: ValueId, doc: Option<String>, metadata: Vec<onnx::StringStringEntryProto>) {
        if let Some(v) = self.scopes.graph().value_mut(id) {
            v.doc = doc.unwrap_or_default();
            v.metadata = metadata_in(metadata);
        }
    }
}

/// The types in `value_info` and in the list of outputs; only for look-ups.
fn declared_types(infos: &HashMap<String, onnx::ValueInfoProto>) -> Result<HashMap<String, Type>> {
    let mut names: Vec<&String> = infos.keys().collect();
    // Which of several mistakes is reported must not change from run to run.
    names.sort_unstable();
    let mut types = HashMap::new();
    for name in names {
        if let Some(ty) = infos.get(name).map(value_info).transpose()?.and_then(|(_, ty)| ty) {
            types.insert(name.clone(), ty);
        }
    }
    Ok(types)
}

fn value_info(message: &onnx::ValueInfoProto) -> Result<(String, Option<Type>)> {
    let name = message.name.clone().unwrap_or_default();
    let ty = match &message.r#type {
        Some(t) => types::type_in(t).map_err(|source| Problem::Type { name: name.clone(), source })?,
        None => None,
    };
    Ok((name, ty))
}

fn first_output(n: &onnx::NodeProto) -> Option<&str> {
    n.output.iter().map(String::as_str).find(|o| !o.is_empty())
}

fn describe(n: &onnx::NodeProto) -> String {
    let op = n.op_type.as_deref().unwrap_or("?");
    match (n.name.as_deref().unwrap_or(""), first_output(n)) {
        ("", Some(output)) => format!("the node that makes {output:?} ({op})"),
        ("", None) => format!("a node without name ({op})"),
        (name, _) => format!("node {name:?} ({op})"),
    }
}

/// Names a cycle through node `start` by following producers; for the message only.
fn cycle(
    messages: &[onnx::NodeProto],
    makers: &HashMap<&str, usize>,
    free: &[BTreeSet<&str>],
    start: usize,
) -> ImportError {
    let producers = |i: usize| -> Vec<usize> {
        let inputs = messages[i].input.iter().map(String::as_str);
        inputs.chain(free[i].iter().copied()).filter_map(|n| makers.get(n).copied()).collect()
    };
    let mut reached_from: HashMap<usize, usize> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(i) = queue.pop_front() {
        for p in producers(i) {
            if reached_from.contains_key(&p) {
                continue;
            }
            reached_from.insert(p, i);
            queue.push_back(p);
        }
    }
    let mut names = Vec::new();
    let mut at = start;
    loop {
        let n = &messages[at];
        let name = n.name.clone().filter(|s| !s.is_empty()).or_else(|| n.output.first().cloned());
        names.push(name.unwrap_or_default());
        match reached_from.get(&at) {
            Some(&next) if next != start && names.len() < 8 => at = next,
            _ => break,
        }
    }
    Problem::Cycle(Cycle { names }).into()
}
