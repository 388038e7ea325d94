//! A model made ready to be handed to an engine: the values that are wanted are its outputs, and nothing else is in it.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Def, Model, Tensor, Type, onnx::export, verify};
use planish_passes::{EngineError, Tensors};
use planish_proto::onnx;

/// A message for an engine, and how its outputs answer what was asked.
#[derive(Debug)]
pub(super) struct Program {
    /// The model, with the computed ones among the wanted values as its outputs, without types. Weights share their
    /// bytes with the model.
    pub(super) message: onnx::ModelProto,
    /// The inputs of the model by name, also those that the wanted values do not need.
    pub(super) inputs: BTreeMap<String, Input>,
    /// Name and declared type of each output of the message.
    pub(super) computed: Vec<(String, Option<Type>)>,
    picks: Vec<Pick>,
}

/// What the model says about one of its inputs.
#[derive(Debug)]
pub(super) struct Input {
    ty: Option<Type>,
    /// It has a default.
    optional: bool,
}

/// Where a wanted value comes from.
#[derive(Debug)]
enum Pick {
    Input(String),
    Constant(Tensor),
    /// Output of the message.
    Computed(usize),
}

impl Program {
    /// Prepares a model such that the values named by `outputs` can be had.
    pub(super) fn new(model: &Model, outputs: &[String]) -> Result<Program, EngineError> {
        let verified = verify(model).map_err(|e| failed(e.to_string()))?;
        let g = &model.graph;
        let mut inputs = BTreeMap::new();
        for value in g.inputs().iter().filter_map(|&id| g.value(id)) {
            let optional = value.has_default();
            inputs.insert(value.name().to_owned(), Input { ty: value.ty().cloned(), optional });
        }
        let mut computed: Vec<(String, Option<Type>)> = Vec::new();
        let mut picks = Vec::new();
        for name in outputs {
            let value = g.value_named(name).and_then(|id| g.value(id));
            let value =
                value.ok_or_else(|| failed(format!("the model has no value {name:?} that could be handed out")))?;
            picks.push(match value.def() {
                Def::Input { default: None } => Pick::Input(name.clone()),
                Def::Input { default: Some(_) } | Def::SparseConstant(_) | Def::Captured(_) => {
                    return Err(failed(format!("the value {name:?} cannot be handed out: nothing computes it")));
                }
                Def::Constant(t) => Pick::Constant(t.clone()),
                Def::Node { .. } => Pick::Computed(computed.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
                    computed.push((name.clone(), value.ty().cloned()));
                    computed.len() - 1
                })),
            });
        }
        let mut message = export(&verified);
        if let Some(graph) = &mut message.graph {
            let output =
                |(name, _): &(String, _)| onnx::ValueInfoProto { name: Some(name.clone()), ..Default::default() };
            graph.output = computed.iter().map(output).collect();
            prune(graph);
        }
        Ok(Program { message, inputs, computed, picks })
    }

    /// Fails unless every input is there that must be, and each has the declared type.
    pub(super) fn check_inputs(&self, given: &Tensors) -> Result<(), EngineError> {
        if let Some(name) = given.keys().find(|n| !self.inputs.contains_key(*n)) {
            return Err(failed(format!("the model has no input {name:?}")));
        }
        for (name, input) in &self.inputs {
            match given.get(name) {
                None if input.optional => {}
                None => return Err(failed(format!("the input {name:?} of the model was not given"))),
                Some(t) => {
                    let actual = type_of(t);
                    if let Some(ty) = input.ty.as_ref().filter(|ty| !ty.compatible(&actual)) {
                        return Err(failed(format!("the input {name:?} is {ty}, but was given as {actual}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// The wanted values in the order asked for, from those that were computed. Fails if the engine made another element type
    /// than the model declares. Declared ranks and sizes are not held against it: exporters get them wrong too often.
    pub(super) fn hand_out(&self, given: &Tensors, computed: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        for ((name, ty), tensor) in self.computed.iter().zip(computed) {
            if let Some(ty) = ty.as_ref().filter(|ty| ty.dtype() != Some(tensor.dtype())) {
                let actual = type_of(tensor);
                return Err(failed(format!(
                    "the engine made {name:?} as {actual}, but the model says that it is {ty}"
                )));
            }
        }
        let pick = |p: &Pick| match p {
            Pick::Input(name) => given.get(name).cloned(),
            Pick::Constant(t) => Some(t.clone()),
            Pick::Computed(i) => computed.get(*i).cloned(),
        };
        let values: Option<Vec<Tensor>> = self.picks.iter().map(pick).collect();
        values.ok_or_else(|| failed("the engine gave fewer values than were asked for".to_owned()))
    }
}

pub(super) fn failed(message: String) -> EngineError {
    EngineError::Failed { message }
}

fn type_of(t: &Tensor) -> Type {
    Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into()))
}

/// Removes what the outputs of a graph do not need. Its nodes are in topological order.
pub(super) fn prune(graph: &mut onnx::GraphProto) {
    let mut needed: BTreeSet<String> = graph.output.iter().filter_map(|o| o.name.clone()).collect();
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|o| needed.contains(o)) {
            names_read(&node, &mut needed);
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    let is_needed = |name: &Option<String>| name.as_ref().is_some_and(|n| needed.contains(n));
    graph.initializer.retain(|t| is_needed(&t.name));
    graph.sparse_initializer.retain(|t| t.values.as_ref().is_some_and(|v| is_needed(&v.name)));
    graph.input.retain(|i| is_needed(&i.name));
    graph.value_info.retain(|i| is_needed(&i.name));
}

/// Every name that a node and its subgraphs read. Names that the subgraphs define themselves are among them, which
/// keeps at worst too much.
fn names_read(node: &onnx::NodeProto, names: &mut BTreeSet<String>) {
    names.extend(node.input.iter().filter(|n| !n.is_empty()).cloned());
    for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        names.extend(graph.output.iter().filter_map(|o| o.name.clone()));
        graph.node.iter().for_each(|n| names_read(n, names));
    }
}
