//! Taking channels out of a model.
//!
//! What goes together is known ([`Classes`]); here it goes: rows of weights, sizes in the types of values, and what nodes state of
//! these sizes in attributes and small inputs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use planish_ir::{
    Attrs, Dim, Graph, GraphPath, Model, Node, NodeId, Numerics, Patch, Tensor, TensorError, TensorType, Type, ValueId,
    axes::{Axes, Classes, Fix, Port},
    infer::{GraphFacts, Inferred},
};

use crate::reconstruct::Masks;

/// Why channels cannot be taken out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct CutError {
    /// The class that is to blame, if it is one.
    pub class: Option<usize>,
    /// A node or a value.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// Weights that make up for what goes, in their shapes before the cut.
#[derive(Debug, Clone, Default)]
pub struct Refit {
    /// New values of constants of the main graph.
    pub constants: BTreeMap<ValueId, Tensor>,
    /// Biases that nodes of the main graph do not have yet: the input slot, one value per output channel, and the axis of the
    /// output that these are on.
    pub biases: BTreeMap<NodeId, (usize, Tensor, usize)>,
}

/// One patch per graph that takes channels out of classes, which are given by their index in [`Classes::all`].
pub fn cut(
    model: &Model,
    facts: &Inferred,
    classes: &Classes,
    removed: &BTreeMap<usize, BTreeSet<u64>>,
    refit: &Refit,
) -> Result<Vec<(GraphPath, Patch)>, CutError> {
    let nothing = Refit::default();
    let masks = masks(model, facts, classes, removed)?;
    let unknown = GraphFacts::default();
    let mut patches = Vec::new();
    // Inner graphs first, as patches are to be applied.
    for path in model.graph_paths().into_iter().rev() {
        let Some(graph) = model.graph_at(&path) else { continue };
        let count: usize = removed.values().map(BTreeSet::len).sum();
        let mut patch = Patch::new(Numerics::Lossy, format!("{count} channels taken out"));
        let refit = if path.is_main() { refit } else { &nothing };
        let none = BTreeMap::new();
        let masks = masks.get(&path).unwrap_or(&none);
        for (value, tensor) in refit.constants.iter().filter(|(v, _)| !masks.contains_key(v)) {
            patch.set_tensor(*value, tensor.clone());
        }
        for (value, axes) in masks {
            narrow(&mut patch, graph, *value, axes, refit).map_err(|e| CutError {
                class: None,
                place: format!("{:?}", graph.name_of(*value)),
                reason: e.to_string(),
            })?;
        }
        let facts = facts.graph().at(&path).unwrap_or(&unknown);
        for (&id, (slot, tensor, axis)) in &refit.biases {
            let output = graph.node(id).and_then(|n| n.output(0));
            let mask = output.and_then(|v| masks.get(&v)?.get(axis));
            let axes = mask.map(|m| (0, m.clone())).into_iter().collect();
            let place = output.map_or_else(|| id.to_string(), |v| graph.name_of(v));
            let tensor = select(tensor, &axes).map_err(|e| CutError {
                class: None,
                place: place.clone(),
                reason: e.to_string(),
            })?;
            let constant = patch.constant(format!("{place}_bias"), tensor);
            patch.set_input(id, *slot, Some(constant));
        }
        for (id, node) in graph.nodes() {
            let mask = |v: Option<ValueId>, axis: usize| masks.get(&v?)?.get(&axis).map(Vec::as_slice);
            let kept = |port: Port, axis: usize| match port {
                Port::In(slot) => mask(node.input(slot), axis),
                Port::Out(slot) => mask(node.output(slot), axis),
            };
            let touched = node.inputs().iter().chain(node.outputs()).flatten();
            if !touched.clone().any(|v| masks.contains_key(v)) {
                continue;
            }
            let fixes = restate(model, node, facts, &kept).map_err(|reason| {
                let along = |v: &ValueId, axes: &BTreeMap<usize, Vec<bool>>| {
                    let indices = axes.keys().flat_map(|&axis| classes.indices_along(&path, *v, axis));
                    indices.copied().find(|i| removed.contains_key(i))
                };
                let class = touched.clone().find_map(|v| along(v, masks.get(v)?));
                CutError { class, place: label(graph, node), reason }
            })?;
            let mut attrs: Option<Attrs> = None;
            for fix in fixes {
                match fix {
                    Fix::Attr(name, value) => {
                        attrs.get_or_insert_with(|| node.attrs.clone()).set(name, value);
                    }
                    Fix::Remove(name) => {
                        attrs.get_or_insert_with(|| node.attrs.clone()).remove(name);
                    }
                    Fix::Input(slot, tensor) => {
                        let name = node.input(slot).map_or_else(|| "sizes".to_owned(), |v| graph.name_of(v));
                        let constant = patch.constant(name, tensor);
                        patch.set_input(id, slot, Some(constant));
                    }
                }
            }
            if let Some(attrs) = attrs {
                patch.set_attrs(id, attrs);
            }
        }
        if !patch.is_empty() {
            patches.push((path, patch));
        }
    }
    Ok(patches)
}

/// Marks what stays of the axes that the classes are on.
pub(crate) fn masks(
    model: &Model,
    facts: &Inferred,
    classes: &Classes,
    removed: &BTreeMap<usize, BTreeSet<u64>>,
) -> Result<Masks, CutError> {
    let mut masks = Masks::new();
    for (&index, channels) in removed.iter().filter(|(_, c)| !c.is_empty()) {
        let Some(class) = classes.all().get(index) else { continue };
        for member in &class.members {
            let name = || model.graph_at(&member.graph).map_or_else(String::new, |g| g.name_of(member.value));
            let error = |reason: &str| CutError {
                class: Some(index),
                place: format!("{:?}", name()),
                reason: reason.to_owned(),
            };
            let shape = facts.graph().at(&member.graph).and_then(|f| f.fact(member.value).shape());
            let size = shape.and_then(|s| s.get(member.axis)).and_then(Dim::known);
            let size =
                size.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| error("the size of an axis is not known"))?;
            let axes = masks.entry(member.graph.clone()).or_default().entry(member.value).or_default();
            let mask = axes.entry(member.axis).or_insert_with(|| vec![true; size]);
            for &channel in channels {
                let places = member.places(channel).ok_or_else(|| error("the size of a block is not known"))?;
                for place in places {
                    let kept = usize::try_from(place).ok().and_then(|p| mask.get_mut(p));
                    *kept.ok_or_else(|| error("a channel is not on its axis"))? = false;
                }
            }
        }
    }
    Ok(masks)
}

/// The value has only what stays along its axes.
fn narrow(
    patch: &mut Patch,
    graph: &Graph,
    value: ValueId,
    axes: &BTreeMap<usize, Vec<bool>>,
    refit: &Refit,
) -> Result<(), TensorError> {
    if let Some(tensor) = refit.constants.get(&value).or_else(|| graph.constant(value)) {
        patch.set_tensor(value, select(tensor, axes)?);
        return Ok(());
    }
    let Some(Type::Tensor(TensorType { dtype, shape: Some(shape) })) = graph.ty(value) else { return Ok(()) };
    let size = |(axis, dim): (usize, &Dim)| match axes.get(&axis) {
        Some(mask) => Dim::from(mask.iter().filter(|k| **k).count() as u64),
        None => dim.clone(),
    };
    let shape = shape.iter().enumerate().map(size).collect();
    patch.set_type(value, Type::Tensor(TensorType { dtype: *dtype, shape: Some(shape) }));
    Ok(())
}

/// The elements of a tensor at the indices that are kept along each axis.
fn select(tensor: &Tensor, axes: &BTreeMap<usize, Vec<bool>>) -> Result<Tensor, TensorError> {
    let mut tensor = tensor.clone();
    for (&axis, mask) in axes {
        let dims: Vec<u64> = tensor.dims().to_vec();
        let whole_bytes = tensor.raw().filter(|_| tensor.dtype().bits().is_multiple_of(8));
        let Some(raw) = whole_bytes else {
            return Err(TensorError::Type { actual: tensor.dtype(), wanted: "a type whose elements are whole bytes" });
        };
        let element = tensor.dtype().bits() / 8;
        let inner: u64 = dims.iter().skip(axis + 1).product::<u64>().saturating_mul(element);
        let row = usize::try_from(inner).unwrap_or(usize::MAX);
        let picked: Bytes = match row {
            0 => Bytes::new(),
            _ => {
                let kept = mask.iter().filter(|k| **k).count();
                let mut bytes = BytesMut::with_capacity(raw.len() / mask.len().max(1) * kept);
                let stays = mask.iter().cycle();
                raw.chunks(row).zip(stays).filter(|(_, stays)| **stays).for_each(|(r, _)| bytes.extend_from_slice(r));
                bytes.freeze()
            }
        };
        let size = |(at, &d): (usize, &u64)| if at == axis { mask.iter().filter(|k| **k).count() as u64 } else { d };
        let dims: planish_ir::Dims = dims.iter().enumerate().map(size).collect();
        tensor = Tensor::from_raw(tensor.dtype(), dims, picked)?;
    }
    Ok(tensor)
}

/// What a node has to state differently.
fn restate(
    model: &Model,
    node: &Node,
    facts: &GraphFacts,
    kept: planish_ir::axes::Kept<'_>,
) -> Result<Vec<Fix>, String> {
    let Some(call) = facts.call(node, &model.opsets) else { return Ok(Vec::new()) };
    let outputs: Vec<_> =
        node.outputs().iter().map(|v| v.map_or_else(Default::default, |v| facts.fact(v).clone())).collect();
    Axes::of(&call, &outputs).cut(&call, kept)
}

fn label(graph: &Graph, node: &Node) -> String {
    match node.output(0) {
        Some(v) if node.name.is_empty() => format!("{:?} ({})", graph.name_of(v), node.op),
        _ => format!("{:?} ({})", node.name, node.op),
    }
}
