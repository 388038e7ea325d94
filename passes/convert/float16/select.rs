//! Which nodes stay in float32, and why.
//!
//! 1. Those that have to: no float16 form at this opset, a subgraph, a type that is not known, the user's wish.
//! 2. Those whose numbers leave the range: operators that grow (squares, exponentials), readers of constants that do not
//!    fit, nodes at which calibration samples came close to the limit. What reads their results goes with them until an
//!    operator brings the numbers back (`Sqrt` after a mean of squares, `Div` by a clipped norm) or mixes them with others.
//! 3. Arithmetic on sizes and positions, computed from integers, on the way to a reader that has to be exact: float16
//!    counts in ones only up to 2048.
//! 4. Nodes that merely move elements from float32 to float32.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use planish_ir::{DType, Graph, Model, Node, NodeId, Operand, Type, Use, ValueId};

use super::{
    literals::{Literals, Source, constant},
    support::{Kind, Support, support},
};

/// Operators outside of the table that still are arithmetic on sizes and positions.
const POSITIONS: &[&str] = &["Cos", "Mod", "Range", "Sin", "Tan"];

/// The outcome: nodes that stay in float32, with the reason.
pub(super) struct Selection<'a> {
    graph: &'a Graph,
    model: &'a Model,
    full: BTreeMap<NodeId, String>,
}

/// True for a dense tensor of float32.
pub(super) fn is_f32(graph: &Graph, value: ValueId) -> bool {
    graph.ty(value).and_then(Type::dtype) == Some(DType::F32)
}

impl<'a> Selection<'a> {
    /// Decides for every node of the main graph. `wide` are values of which the samples came close to the limit.
    pub(super) fn new(
        model: &'a Model,
        keep: &[String],
        literals: &Literals,
        wide: &BTreeMap<ValueId, f32>,
    ) -> Selection<'a> {
        let mut s = Selection { graph: &model.graph, model, full: BTreeMap::new() };
        let order = model.graph.topological_order().unwrap_or_default();
        s.keep_what_must(keep);
        let mut roots = s.keep_growing();
        roots.extend(s.keep_readers_of(literals));
        s.follow(roots, literals);
        s.keep_measured(wide);
        s.keep_exact(&order);
        s.keep_between(&order);
        s
    }

    /// The nodes that stay although they calculate in float32, with the reason.
    pub(super) fn stays_full(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let touched = |id: NodeId| self.graph.node(id).is_some_and(|n| !n.op.is("Constant") && self.touches_f32(n));
        self.full.iter().filter(move |(id, _)| touched(**id)).map(|(&id, reason)| (id, reason.as_str()))
    }

    /// True if the node reads or makes something in float16 that was float32.
    pub(super) fn becomes_half(&self, id: NodeId) -> bool {
        let (Some(node), Some(support)) = (self.graph.node(id), self.half(id)) else { return false };
        let mut inputs = node.inputs().iter().enumerate().filter(|(slot, _)| support.input_follows(*slot));
        inputs.any(|(_, v)| v.is_some_and(|v| is_f32(self.graph, v)))
            || node.outputs().iter().flatten().any(|&v| self.made_half(v))
    }

    /// How a node takes float16, if it is to be converted.
    pub(super) fn half(&self, id: NodeId) -> Option<Support> {
        if self.full.contains_key(&id) {
            return None;
        }
        support(&self.graph.node(id)?.op)
    }

    /// True if a place reads the value in float16.
    pub(super) fn reads_half(&self, user: Use) -> bool {
        match user {
            Use::Node(id, Operand::Input(slot)) => self.half(id).is_some_and(|s| s.input_follows(slot as usize)),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => false,
        }
    }

    /// True if a place needs the value in float32.
    pub(super) fn reads_full(&self, user: Use) -> bool {
        !self.reads_half(user) && !self.is_free(user)
    }

    /// True if the value becomes float16 where it is made.
    pub(super) fn made_half(&self, value: ValueId) -> bool {
        let Some((id, node)) = self.graph.producer(value) else { return false };
        let slot = node.outputs().iter().position(|&o| o == Some(value)).unwrap_or(usize::MAX);
        is_f32(self.graph, value) && self.half(id).is_some_and(|s| s.output_follows(slot))
    }

    /// True if a place takes either form. A node that stays may do so for the digits of what it reads.
    fn is_free(&self, user: Use) -> bool {
        let Use::Node(id, Operand::Input(slot)) = user else { return false };
        self.half(id).is_some_and(|s| s.input_is_free(slot as usize))
    }

    /// The first reason counts.
    fn keep(&mut self, id: NodeId, reason: impl Into<String>) {
        self.full.entry(id).or_insert_with(|| reason.into());
    }

    fn keep_what_must(&mut self, keep: &[String]) {
        let graph = self.graph;
        for (id, node) in graph.nodes() {
            if let Some(reason) = self.obstacle(node, keep) {
                self.keep(id, reason);
            }
        }
    }

    /// Why a node cannot be converted.
    fn obstacle(&self, node: &Node, keep: &[String]) -> Option<String> {
        if keep.iter().any(|k| *k == node.name || *k == node.op.to_string()) {
            return Some("it is listed in `keep`".into());
        }
        if node.attrs.has_graphs() || !node.captures().is_empty() {
            return Some("it holds a subgraph".into());
        }
        if self.model.function(&node.op).is_some() {
            return Some(format!("{} is a function of the model, into which this pass does not look", node.op));
        }
        let Some(support) = support(&node.op) else {
            return Some(format!("{} is not known to work in float16", node.op));
        };
        let opset = self.model.opset();
        if support.since() > opset {
            return Some(format!(
                "{} takes float16 from opset {} on, and the model has {opset}",
                node.op,
                support.since()
            ));
        }
        if node.op.is("BatchNormalization") && (node.attrs.int("training_mode") == Some(1) || node.outputs().len() > 1)
        {
            return Some("it is in training mode and keeps statistics".into());
        }
        if let Some(codes) = self.codes(node).filter(|t| !is_narrow(*t)) {
            return Some(format!("its codes are {codes}, whose range is that of float16 or beyond"));
        }
        let follows = |slot: &usize| support.input_follows(*slot);
        let inputs = node.inputs().iter().enumerate().filter(|(i, _)| follows(i)).filter_map(|(_, v)| *v);
        let unknown = |v: &ValueId| self.graph.ty(*v).and_then(Type::dtype).is_none();
        let odd = inputs.chain(node.outputs().iter().copied().flatten()).find(unknown)?;
        Some(format!("the type of {:?} is not known to be a tensor", self.graph.name_of(odd)))
    }

    /// Element type of the quantized side of a node.
    fn codes(&self, node: &Node) -> Option<DType> {
        let side = match node.op.name.as_str() {
            "DequantizeLinear" => node.input(0),
            "QuantizeLinear" => node.output(0),
            _ => None,
        };
        self.graph.ty(side?)?.dtype()
    }

    /// Operators that grow; returns those of them whose results carry the growth on.
    fn keep_growing(&mut self) -> Vec<NodeId> {
        let graph = self.graph;
        let mut roots = Vec::new();
        for (id, node) in graph.nodes() {
            if self.half(id).is_some() && kind(graph, node) == Kind::Grows && self.touches_f32(node) {
                self.keep(id, format!("the result of {} can leave the range of float16", node.op));
                roots.push(id);
            }
        }
        roots
    }

    fn keep_readers_of(&mut self, literals: &Literals) -> Vec<NodeId> {
        let graph = self.graph;
        let mut roots = Vec::new();
        for (source, number) in &literals.outside {
            let (readers, name): (Vec<NodeId>, String) = match *source {
                Source::Attribute(id) => (vec![id], "an attribute".into()),
                Source::Value(v) => {
                    let node = |u: Use| match u {
                        Use::Node(n, _) if self.reads_half(u) => Some(n),
                        _ => None,
                    };
                    (graph.users(v).filter_map(node).collect(), format!("{:?}", graph.name_of(v)))
                }
            };
            for id in readers {
                self.keep(id, format!("{name} holds {number:e}, which float16 does not"));
                roots.push(id);
            }
        }
        roots
    }

    /// Readers of results that may be out of range, until the numbers are back in it.
    fn follow(&mut self, roots: Vec<NodeId>, literals: &Literals) {
        let graph = self.graph;
        let mut wide: BTreeSet<ValueId> = BTreeSet::new();
        let mut work: VecDeque<ValueId> = VecDeque::new();
        let outputs = |id: NodeId| graph.node(id).into_iter().flat_map(|n| n.outputs().iter().copied().flatten());
        for root in roots {
            // A table of many weights, one of which is too large, says nothing about the results of a layer.
            if graph.node(root).is_some_and(|n| !matches!(kind(graph, n), Kind::Plain | Kind::Damps)) {
                work.extend(outputs(root).filter(|v| wide.insert(*v)));
            }
        }
        while let Some(value) = work.pop_front() {
            for user in graph.users(value) {
                let Use::Node(id, Operand::Input(slot)) = user else { continue };
                let Some(node) = graph.node(id) else { continue };
                let follows = support(&node.op).is_some_and(|s| s.input_follows(slot as usize));
                let kind = kind(graph, node);
                if !follows || kind == Kind::Plain || outputs(id).any(|v| literals.masked.contains(&v)) {
                    continue;
                }
                let reason = format!("it reads {:?}, which can leave the range of float16", graph.name_of(value));
                self.keep(id, reason);
                let alone = node
                    .inputs()
                    .iter()
                    .flatten()
                    .all(|v| wide.contains(v) || !is_f32(graph, *v) || constant(graph, *v).is_some());
                if kind != Kind::Damps && alone {
                    work.extend(outputs(id).filter(|&v| is_f32(graph, v) && wide.insert(v)));
                }
            }
        }
    }

    fn keep_measured(&mut self, wide: &BTreeMap<ValueId, f32>) {
        let graph = self.graph;
        for (&value, largest) in wide {
            let made_by = graph.producer(value).map(|(id, _)| id).filter(|_| self.made_half(value));
            let read_by = graph.users(value).filter(|&u| self.reads_half(u)).filter_map(|u| match u {
                Use::Node(id, _) => Some(id),
                Use::Output(_) => None,
            });
            for id in made_by.into_iter().chain(read_by).collect::<Vec<_>>() {
                self.keep(id, format!("{:?} reaches {largest:e} on the samples", graph.name_of(value)));
            }
        }
    }

    /// Arithmetic on sizes and positions that something exact reads.
    fn keep_exact(&mut self, order: &[NodeId]) {
        let graph = self.graph;
        let counted = counted(graph, order);
        // Backwards, so that the readers of a node are decided before it.
        for &id in order.iter().rev() {
            let Some(node) = graph.node(id).filter(|n| self.half(id).is_some() && self.touches_f32(n)) else {
                continue;
            };
            let results = || node.outputs().iter().copied().flatten().filter(|&v| is_f32(graph, v));
            let exact = match results().next() {
                Some(_) => {
                    results().all(|v| counted.contains(&v))
                        && results().any(|v| graph.users(v).any(|u| self.reads_full(u)))
                }
                None if node.op.is("Shape") || node.op.is("Size") => false,
                // A comparison or a conversion to integers.
                None => node.inputs().iter().flatten().any(|v| counted.contains(v) && constant(graph, *v).is_none()),
            };
            if exact {
                self.keep(id, "it computes sizes or positions, for which float16 has too few digits");
            }
        }
    }

    /// Nodes that move elements from float32 to float32.
    fn keep_between(&mut self, order: &[NodeId]) {
        let graph = self.graph;
        let moves = |s: &Self, id: NodeId| s.half(id).is_some_and(|s| s.kind == Kind::Moves);
        let follows =
            |id: NodeId, slot: usize| self.half(id).is_some_and(|s| s.input_follows(slot) || s.input_is_free(slot));
        let mut from_full: BTreeSet<NodeId> = BTreeSet::new();
        for &id in order {
            let Some(node) = graph.node(id).filter(|_| moves(self, id)) else { continue };
            let mut inputs = node.inputs().iter().enumerate().filter(|(i, _)| follows(id, *i)).filter_map(|(_, v)| *v);
            let full = |v: ValueId| match graph.producer(v) {
                Some((p, _)) => !self.made_half(v) || from_full.contains(&p),
                None => constant(graph, v).is_none(),
            };
            if inputs.all(|v| !is_f32(graph, v) || full(v)) {
                from_full.insert(id);
            }
        }
        let mut to_full: BTreeSet<NodeId> = BTreeSet::new();
        for &id in order.iter().rev() {
            let Some(node) = graph.node(id).filter(|_| moves(self, id)) else { continue };
            let full = |u: Use| !self.reads_half(u) || matches!(u, Use::Node(n, _) if to_full.contains(&n));
            let mut results = node.outputs().iter().copied().flatten().filter(|&v| is_f32(graph, v)).peekable();
            if results.peek().is_some() && results.all(|v| graph.users(v).all(full)) {
                to_full.insert(id);
            }
        }
        for id in from_full.intersection(&to_full).copied().collect::<Vec<_>>() {
            self.keep(id, "it moves elements from float32 to float32");
        }
    }

    /// True if converting the node would change anything.
    fn touches_f32(&self, node: &Node) -> bool {
        node.operands().chain(node.outputs().iter().copied().flatten()).any(|v| is_f32(self.graph, v))
    }
}

/// True for codes of at most 448 in magnitude.
const fn is_narrow(codes: DType) -> bool {
    use DType::*;
    matches!(codes, I8 | U8 | I4 | U4 | I2 | U2 | F4E2M1 | F8E4M3FN | F8E4M3FNUZ)
}

/// What a node does to the range of its inputs, as far as its constants say more than the operator alone.
fn kind(graph: &Graph, node: &Node) -> Kind {
    match (node.op.name.as_str(), support(&node.op)) {
        (_, None) => Kind::Plain,
        ("Mul", _) if node.input(0) == node.input(1) => Kind::Grows,
        ("Pow", _) => {
            let exponent = node.input(1).and_then(|v| constant(graph, v)?.single_f64());
            if exponent.is_some_and(|e| (0.0..=1.0).contains(&e)) { Kind::Damps } else { Kind::Grows }
        }
        (_, Some(support)) => support.kind,
    }
}

/// Float32 values that are computed from integers and single constants alone: sizes, positions, and what follows from
/// them. A table look-up or a product with a weight matrix ends it, or everything behind an embedding would be one.
fn counted(graph: &Graph, order: &[NodeId]) -> BTreeSet<ValueId> {
    let mut counted: BTreeSet<ValueId> = BTreeSet::new();
    for &id in order {
        let Some(node) = graph.node(id) else { continue };
        let is_counted = |v: ValueId| match graph.ty(v).and_then(Type::dtype) {
            Some(DType::F32) => counted.contains(&v) || constant(graph, v).is_some(),
            Some(t) => !t.is_float(),
            None => false,
        };
        if arithmetic(graph, node) && node.inputs().iter().flatten().all(|&v| is_counted(v)) {
            counted.extend(node.outputs().iter().copied().flatten().filter(|&v| is_f32(graph, v)));
        }
    }
    counted
}

fn arithmetic(graph: &Graph, node: &Node) -> bool {
    let constants = || node.inputs().iter().flatten().filter_map(|v| constant(graph, *v));
    match node.op.name.as_str() {
        _ if !node.op.domain.is_empty() || node.attrs.has_graphs() => false,
        "Gather" | "GatherElements" | "GatherND" => constants().next().is_none(),
        "MatMul" | "Einsum" => constants().all(|t| t.dims().iter().filter(|&&d| d > 1).count() <= 1),
        name => POSITIONS.contains(&name) || support(&node.op).is_some_and(|s| s.kind != Kind::Plain),
    }
}
