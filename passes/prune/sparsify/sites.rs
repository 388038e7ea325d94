//! The weights that can become sparse.

use std::collections::BTreeMap;

use planish_ir::{Graph, GraphPath, Model, NodeId, Operand, Tensor, Use, ValueId};

use super::{
    Sparsify,
    pattern::{Columns, Goal},
};
use crate::{Bias, Linear, Skip};

/// A weight and the layers that read it.
pub(super) struct Site<'a> {
    pub(super) path: GraphPath,
    pub(super) graph: &'a Graph,
    pub(super) name: String,
    pub(super) tensor: &'a Tensor,
    /// Several if layers share the weight.
    pub(super) linears: Vec<Linear>,
    pub(super) width: usize,
    /// The columns of its matrices, as they are decided on.
    pub(super) columns: Columns,
}

impl Site<'_> {
    pub(super) fn weight(&self) -> Option<ValueId> {
        Some(self.linears.first()?.weight)
    }

    /// The bias that can take up what changes in the mean, if there is one.
    pub(super) fn own_bias(&self) -> Option<&Linear> {
        match self.linears.as_slice() {
            [linear] if linear.bias != Bias::None => Some(linear),
            _ => None,
        }
    }
}

/// A node that is left alone, and why.
pub(super) type Skipped = (GraphPath, NodeId, Skip);

/// The weights of all linear layers.
pub(super) fn sites<'a>(model: &'a Model, config: &Sparsify, goal: Goal) -> (Vec<Site<'a>>, Vec<Skipped>) {
    let (mut sites, mut skipped) = (Vec::new(), Vec::new());
    for path in model.graph_paths() {
        let Some(graph) = model.graph_at(&path) else { continue };
        let mut readers: BTreeMap<ValueId, Vec<Linear>> = BTreeMap::new();
        for linear in graph.nodes().filter_map(|(id, _)| Linear::of(graph, id)) {
            readers.entry(linear.weight).or_default().push(linear);
        }
        for linears in readers.into_values() {
            match site(&path, graph, linears, config, goal) {
                Ok(site) => sites.extend(site),
                Err((node, reason)) => skipped.push((path.clone(), node, Skip::because(reason))),
            }
        }
    }
    (sites, skipped)
}

/// Nothing if the weight is as it is to be.
fn site<'a>(
    path: &GraphPath,
    graph: &'a Graph,
    linears: Vec<Linear>,
    config: &Sparsify,
    goal: Goal,
) -> Result<Option<Site<'a>>, (NodeId, String)> {
    let Some(first) = linears.first() else { return Ok(None) };
    let Some(tensor) = graph.constant(first.weight) else { return Ok(None) };
    let (node, name) = (first.node, graph.name_of(first.weight));
    let refuse = |reason: String| Err((node, format!("{name:?}: {reason}")));
    let labels = linears.iter().filter_map(|l| graph.node(l.node)).map(|n| n.name.as_str());
    if config.protect.iter().any(|p| *p == name || labels.clone().any(|l| l == p)) {
        return refuse("it is protected".to_owned());
    }
    if tensor.elements() < config.min_elements {
        return refuse(format!("it has {} elements, and `min_elements` is {}", tensor.elements(), config.min_elements));
    }
    let width = first.width(tensor).unwrap_or(0);
    let channels = width / first.taps.max(1);
    if channels < 2 {
        return refuse("each output reads one channel only, as in a depthwise convolution".to_owned());
    }
    if let Goal::Pattern(pattern) = goal
        && channels < pattern.of
    {
        return refuse(format!("each output reads {channels} channels, fewer than the pattern {pattern} has"));
    }
    let reads = |user: Use| linears.iter().any(|l| user == Use::Node(l.node, Operand::Input(1)));
    if !graph.users(first.weight).all(reads) {
        return refuse("it is also read where it is not multiplied with, or is an output".to_owned());
    }
    if linears.iter().any(|l| graph.constant(l.input).is_some()) {
        return refuse("it is multiplied with a constant".to_owned());
    }
    if linears.iter().any(|l| !l.has_layout_of(first)) {
        return refuse("its readers disagree on what they sum over".to_owned());
    }
    let matrices = match first.matrices(tensor) {
        Ok(matrices) => matrices,
        Err(error) => return refuse(error.to_string()),
    };
    let mut values = Vec::new();
    for m in &matrices {
        (0..m.nrows()).for_each(|r| values.extend((0..m.ncols()).map(|c| m[(r, c)])));
    }
    if values.iter().any(|v| !v.is_finite()) {
        return refuse("it holds NaN or infinity".to_owned());
    }
    let columns = Columns::new(goal, channels, first.taps);
    if goal.is_met(&values, &columns) {
        return Ok(None);
    }
    Ok(Some(Site { path: path.clone(), graph, name, tensor, linears, width, columns }))
}
