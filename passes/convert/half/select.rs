//! Which nodes stay in float32, and why.
//!
//! 1. Those that have to: no 16-bit form at this opset, a subgraph, a type that is not known, the user's wish.
//! 2. Those whose numbers leave the range. Samples decide where there are any: a value that comes close to the limit, one
//!    of which rounding loses too much because it is tiny, a divisor that would become zero, a sum inside an operator that
//!    no result shows, a difference of almost equal numbers that is divided by. Without samples operators that grow (squares, exponentials) stay, and what reads their results
//!    goes with them until an operator brings the numbers back (`Sqrt` after a mean of squares, `Div` by a clipped norm)
//!    or mixes them with others. Readers of constants that do not fit are treated so in any case: samples need not
//!    show the case that a small number guards against.
//! 3. Arithmetic on sizes and positions, computed from integers, on the way to a reader that has to be exact: float16
//!    counts in ones only up to 2048.
//! 4. Of the rest, what lies between nodes in float32, so that the number of casts is the smallest possible: the smallest
//!    cut of a network ([`cut`](super::cut)) in which every cast costs the same, and staying in float32 costs nodes with
//!    linear algebra or weights far more than casts, and others a little.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use planish_ir::{DType, Def, Graph, Model, Node, NodeId, Operand, Type, Use, ValueId, op};

use super::{
    InterfaceTypes, Settings,
    cancel::cancelling,
    cut::{NEVER, Network, SINK, SOURCE},
    format::Format,
    literals::{Literals, Source, constant},
    measure::{Extent, Measured},
    ranges::{grown, is_divisor, kind, reach_of_sum},
    sums::{self, Terms},
    support::{Kind, Support, support},
};

/// Operators outside of the table that still are arithmetic on sizes and positions.
const POSITIONS: &[&str] = &["Cos", "Mod", "Range", "Sin", "Tan"];

/// Rounding to float16 loses about 70 dB; what is worse than this has lost most of its bits to being tiny.
const MIN_SQNR_DB: f64 = 40.0;

/// Longest axis over which a `Softmax` is summed in float16: one in 2048 is the last thing that a sum of 1 can see.
const MAX_SOFTMAX: u64 = 2048;

/// What a cast costs beside a node that merely stays in float32.
const CAST: u64 = 32;

/// Elements of a weight for which staying in float32 costs as much as a cast.
const ELEMENTS_OF_A_CAST: u64 = 4096;

/// The outcome: nodes that stay in float32, with the reason.
pub(super) struct Selection<'a> {
    graph: &'a Graph,
    model: &'a Model,
    settings: &'a Settings<'a>,
    full: BTreeMap<NodeId, String>,
    /// Inputs and outputs that are better not in the format, and what it does not hold.
    misfits: BTreeSet<ValueId>,
}

/// True for a dense tensor of float32.
pub(super) fn is_f32(graph: &Graph, value: ValueId) -> bool {
    graph.ty(value).and_then(Type::dtype) == Some(DType::F32)
}

impl<'a> Selection<'a> {
    /// Decides for every node of the main graph.
    pub(super) fn new(
        model: &'a Model,
        settings: &'a Settings<'a>,
        literals: &Literals,
        measured: &Measured,
        axis_size: &dyn Fn(&Node) -> Option<u64>,
    ) -> Selection<'a> {
        let mut s = Selection { graph: &model.graph, model, settings, full: BTreeMap::new(), misfits: BTreeSet::new() };
        let order = model.graph.topological_order().unwrap_or_default();
        s.keep_what_must();
        let mut roots = s.keep_growing(measured);
        roots.extend(s.keep_readers_of(literals));
        s.follow(roots, literals);
        s.keep_measured(measured);
        s.keep_sums(measured, axis_size);
        s.keep_cancelling(measured);
        s.keep_exact(&order);
        s.keep_between();
        s
    }

    const fn format(&self) -> Format {
        self.settings.format
    }

    fn support(&self, node: &Node) -> Option<Support> {
        support(&node.op, self.format())
    }

    /// The nodes that stay although they calculate in float32, with the reason.
    pub(super) fn stays_full(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let touched = |id: NodeId| self.graph.node(id).is_some_and(|n| !n.op.is("Constant") && self.touches_f32(n));
        self.full.iter().filter(move |(id, _)| touched(**id)).map(|(&id, reason)| (id, reason.as_str()))
    }

    /// True if the node reads or makes something in 16 bits that was float32.
    pub(super) fn becomes_half(&self, id: NodeId) -> bool {
        let (Some(node), Some(support)) = (self.graph.node(id), self.half(id)) else { return false };
        let mut inputs = node.inputs().iter().enumerate().filter(|(slot, _)| support.input_follows(*slot));
        inputs.any(|(_, v)| v.is_some_and(|v| is_f32(self.graph, v)))
            || node.outputs().iter().flatten().any(|&v| self.made_half(v))
    }

    /// How a node takes the format, if it is to be converted.
    pub(super) fn half(&self, id: NodeId) -> Option<Support> {
        if self.full.contains_key(&id) {
            return None;
        }
        self.support(self.graph.node(id)?)
    }

    /// True if a place reads the value in 16 bits.
    pub(super) fn reads_half(&self, user: Use) -> bool {
        match user {
            Use::Node(id, Operand::Input(slot)) => self.half(id).is_some_and(|s| s.input_follows(slot as usize)),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => false,
        }
    }

    /// True for an input or output of the model that may have either type, at the user's wish.
    pub(super) fn interface_is_free(&self, value: ValueId) -> bool {
        // Subgraphs are not converted, so what they capture is needed as it was.
        let is_captured = || self.graph.users(value).any(|u| matches!(u, Use::Node(_, Operand::Capture(_))));
        let is_part = || match self.graph.value(value).map(|v| v.def()) {
            Some(Def::Input { default }) => default.is_none(),
            _ => self.graph.is_output(value) && constant(self.graph, value).is_none(),
        };
        self.settings.interface == InterfaceTypes::Convert
            && is_f32(self.graph, value)
            && !self.misfits.contains(&value)
            && is_part()
            && !is_captured()
    }

    /// True if a place needs the value in float32.
    pub(super) fn reads_full(&self, user: Use) -> bool {
        !self.reads_half(user) && !self.is_free(user)
    }

    /// True if the value comes in 16 bits where it is made.
    pub(super) fn made_half(&self, value: ValueId) -> bool {
        let Some((id, node)) = self.graph.producer(value) else {
            let is_input = matches!(self.graph.value(value).map(|v| v.def()), Some(Def::Input { .. }));
            return is_input && self.interface_is_free(value);
        };
        let slot = node.outputs().iter().position(|&o| o == Some(value)).unwrap_or(usize::MAX);
        is_f32(self.graph, value) && self.half(id).is_some_and(|s| s.output_follows(slot))
    }

    /// True if a place takes either form. A node that stays may do so for the digits of what it reads.
    fn is_free(&self, user: Use) -> bool {
        match user {
            Use::Node(id, Operand::Input(slot)) => self.half(id).is_some_and(|s| s.input_is_free(slot as usize)),
            Use::Node(_, Operand::Capture(_)) => false,
            Use::Output(i) => self.graph.outputs().get(i as usize).is_some_and(|&v| self.interface_is_free(v)),
        }
    }

    /// The first reason counts.
    fn keep(&mut self, id: NodeId, reason: impl Into<String>) {
        self.full.entry(id).or_insert_with(|| reason.into());
    }

    fn keep_what_must(&mut self) {
        let graph = self.graph;
        for (id, node) in graph.nodes() {
            if let Some(reason) = self.obstacle(node) {
                self.keep(id, reason);
            }
        }
    }

    /// Why a node cannot be converted.
    fn obstacle(&self, node: &Node) -> Option<String> {
        let format = self.format().name();
        if self.settings.keep.iter().any(|k| *k == node.name || *k == node.op.to_string()) {
            return Some("it is listed in `keep`".into());
        }
        if node.attrs.has_graphs() || !node.captures().is_empty() {
            return Some("it holds a subgraph".into());
        }
        if self.model.function(&node.op).is_some() {
            return Some(format!("{} is a function of the model, into which this pass does not look", node.op));
        }
        let Some(support) = self.support(node) else {
            return Some(format!("{} is not known to work in {format}", node.op));
        };
        let opset = self.model.opset();
        match support.since {
            Some(since) if since <= opset => {}
            Some(since) => {
                return Some(format!("{} takes {format} from opset {since} on, and the model has {opset}", node.op));
            }
            None => return Some(format!("{} does not take {format}", node.op)),
        }
        if node.op.is("BatchNormalization") && (node.attrs.int("training_mode") == Some(1) || node.outputs().len() > 1)
        {
            return Some("it is in training mode and keeps statistics".into());
        }
        if let Some(codes) = self.codes(node).filter(|t| !is_narrow(*t)) {
            return Some(format!("its codes are {codes}, which take more than {format} has"));
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

    /// Operators that grow, unless samples show that they do not; returns those of which the results carry it on.
    fn keep_growing(&mut self, measured: &Measured) -> Vec<NodeId> {
        let graph = self.graph;
        let mut roots = Vec::new();
        if self.format() == Format::Bfloat16 {
            return roots;
        }
        for (id, node) in graph.nodes() {
            if self.half(id).is_none() || kind(graph, node, self.format()) != Kind::Grows || !self.touches_f32(node) {
                continue;
            }
            let result = node.output(0).and_then(|v| measured.extent(v));
            match result.map(|e| grown(graph, node, e.largest, self.settings.headroom)) {
                Some(Some(reach)) if reach <= self.format().max() => {}
                Some(Some(reach)) => {
                    let headroom = self.settings.headroom;
                    self.keep(
                        id,
                        format!("its result can reach {reach:.2e} for inputs {headroom} times those of the samples"),
                    );
                }
                Some(None) | None => {
                    self.keep(id, format!("the result of {} can leave the range of float16", node.op));
                    roots.push(id);
                }
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
                let reason = match is_quantizing(graph, id) {
                    true => {
                        format!("{name} holds the scale {number:e}, which {} rounds too much", self.format().name())
                    }
                    false => format!("{name} holds {number:e}, which {} does not", self.format().name()),
                };
                self.keep(id, reason);
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
            if graph.node(root).is_some_and(|n| !matches!(kind(graph, n, self.format()), Kind::Plain | Kind::Damps)) {
                work.extend(outputs(root).filter(|v| wide.insert(*v)));
            }
        }
        while let Some(value) = work.pop_front() {
            for user in graph.users(value) {
                let Use::Node(id, Operand::Input(slot)) = user else { continue };
                let Some(node) = graph.node(id) else { continue };
                let follows = self.support(node).is_some_and(|s| s.input_follows(slot as usize));
                let kind = kind(graph, node, self.format());
                if !follows || kind == Kind::Plain || outputs(id).any(|v| literals.masked.contains(&v)) {
                    continue;
                }
                let reason = format!(
                    "it reads {:?}, which can leave the range of {}",
                    graph.name_of(value),
                    self.format().name()
                );
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

    /// Makers and readers of values that the format does not hold.
    fn keep_measured(&mut self, measured: &Measured) {
        let graph = self.graph;
        for (&value, extent) in &measured.values {
            if let Some(reason) = self.misfit(extent) {
                self.misfits.insert(value);
                let reason = format!("{:?} {reason}", graph.name_of(value));
                let made_by = graph.producer(value).map(|(id, _)| id).filter(|_| self.made_half(value));
                for id in made_by.into_iter().chain(self.half_readers(value)).collect::<Vec<_>>() {
                    self.keep(id, reason.clone());
                }
            } else if extent.flushed > 0 {
                let divides = |&id: &NodeId| graph.node(id).is_some_and(|n| is_divisor(graph, n, value));
                for id in self.half_readers(value).filter(divides).collect::<Vec<_>>() {
                    let reason = format!(
                        "it divides by {:?}, of which {} numbers would be 0",
                        graph.name_of(value),
                        extent.flushed
                    );
                    self.keep(id, reason);
                }
            }
        }
    }

    /// Why a value cannot be held in the format.
    fn misfit(&self, extent: &Extent) -> Option<String> {
        let Extent { largest, overflow, numbers, .. } = *extent;
        if numbers == 0 {
            return None;
        }
        if overflow > 0 {
            return Some(format!("overflows: {overflow} of {numbers} numbers on the samples, up to {largest:.2e}"));
        }
        if largest > self.format().max() / self.settings.headroom {
            return Some(format!("reaches {largest:.2e} on the samples, too close to {}", self.format().max()));
        }
        let lost = extent.sqnr();
        (lost < MIN_SQNR_DB).then(|| {
            let share = 100.0 * extent.tiny();
            format!("is tiny: {share:.0} % of its numbers lose bits or all, which leaves {lost:.0} dB")
        })
    }

    fn half_readers(&self, value: ValueId) -> impl Iterator<Item = NodeId> {
        self.graph.users(value).filter(|&u| self.reads_half(u)).filter_map(|u| match u {
            Use::Node(id, _) => Some(id),
            Use::Output(_) => None,
        })
    }

    /// Nodes inside of which a sum leaves the range.
    fn keep_sums(&mut self, measured: &Measured, axis_size: &dyn Fn(&Node) -> Option<u64>) {
        if self.format() == Format::Bfloat16 {
            return;
        }
        for (&id, &sum) in &measured.sums {
            let Some(node) = self.graph.node(id) else { continue };
            let Some((terms, false)) = sums::terms(node) else { continue };
            let reach = reach_of_sum(terms, sum, self.settings.headroom);
            if self.half(id).is_some() && reach > self.format().max() {
                let what = if terms == Terms::Squares { "squares" } else { "numbers" };
                self.keep(id, format!("the {what} that it adds up reach {sum:.2e} on the samples"));
            }
        }
        for (id, node) in self.graph.nodes() {
            if !node.op.is("Softmax") && !node.op.is("LogSoftmax") || self.half(id).is_none() {
                continue;
            }
            if let Some(n) = axis_size(node).filter(|&n| n > MAX_SOFTMAX) {
                self.keep(
                    id,
                    format!("it adds up {n} exponentials, and float16 sees no more than one in {MAX_SOFTMAX}"),
                );
            }
        }
    }

    /// Differences of which too little would be left to divide by.
    fn keep_cancelling(&mut self, measured: &Measured) {
        for c in cancelling(self.graph, measured) {
            let name = self.graph.node(c.difference).and_then(|n| n.output(0)).map(|v| self.graph.name_of(v));
            let left = c.left_db.map_or_else(
                || "what is left of it was not measured".to_owned(),
                |db| format!("{db:.0} dB above its rounding errors"),
            );
            let reason = format!("the difference {:?} is divided by: {left}", name.unwrap_or_default());
            for id in c.nodes {
                if self.half(id).is_some() {
                    self.keep(id, reason.clone());
                }
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

    /// Nodes of which the conversion would only add casts.
    fn keep_between(&mut self) {
        let graph = self.graph;
        let mut network = Network::new();
        let mut at: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut inputs: Vec<(ValueId, usize)> = Vec::new();
        for (id, node) in graph.nodes().filter(|(id, n)| self.half(*id).is_some() && self.touches_f32(n)) {
            let place = network.node();
            network.edge(place, SINK, self.gain(node));
            at.insert(id, place);
        }
        for (value, _) in graph.values().filter(|(v, _)| is_f32(graph, *v) && constant(graph, *v).is_none()) {
            let maker = match graph.producer(value) {
                Some((id, _)) if self.made_half(value) => at.get(&id).copied().unwrap_or(SOURCE),
                None if self.made_half(value) => {
                    let place = network.node();
                    network.edge(place, SINK, 1);
                    inputs.push((value, place));
                    place
                }
                _ => SOURCE,
            };
            // Behind `up` are readers in float32 of what is made in 16 bits, before `down` the others.
            let (up, down) = (network.node(), network.node());
            network.edge(up, maker, CAST);
            network.edge(maker, down, CAST);
            for user in graph.users(value).filter(|&u| !self.is_free(u)) {
                match user {
                    Use::Node(id, _) if self.reads_half(user) => {
                        let reader = at.get(&id).copied().unwrap_or(SOURCE);
                        network.edge(reader, up, NEVER);
                        network.edge(down, reader, NEVER);
                    }
                    _ => network.edge(SOURCE, up, NEVER),
                }
            }
        }
        let full = network.cut();
        let stays = |(_, place): &(ValueId, usize)| full.get(*place) == Some(&true);
        self.misfits.extend(inputs.into_iter().filter(stays).map(|(value, _)| value));
        for (id, place) in at {
            if full.get(place) == Some(&true) {
                let format = self.format().name();
                self.keep(id, format!("it lies between nodes in float32, and in {format} it would only add casts"));
            }
        }
    }

    /// What is lost if a node stays in float32, beside [`CAST`].
    fn gain(&self, node: &Node) -> u64 {
        if op::of(node).is_some_and(|s| s.macs.is_some()) {
            return NEVER;
        }
        let weights = node.inputs().iter().flatten().filter_map(|v| constant(self.graph, *v)).map(|t| t.elements());
        1 + weights.fold(0u64, u64::saturating_add).min(NEVER / CAST) * CAST / ELEMENTS_OF_A_CAST
    }

    /// Values of which both forms are needed, so that a cast makes the one from the other.
    pub(super) fn casts(&self) -> usize {
        let is_cast = |&(v, _): &(ValueId, &planish_ir::Value)| {
            let mut users = self.graph.users(v);
            is_f32(self.graph, v)
                && constant(self.graph, v).is_none()
                && match self.made_half(v) {
                    true => users.any(|u| self.reads_full(u)),
                    false => users.any(|u| self.reads_half(u)),
                }
        };
        self.graph.values().filter(is_cast).count()
    }

    /// Groups of nodes in float32 that hang together by values.
    pub(super) fn islands(&self) -> usize {
        let kept: BTreeSet<NodeId> = self.stays_full().map(|(id, _)| id).collect();
        let mut seen = BTreeSet::new();
        let mut islands = 0;
        for &start in &kept {
            if !seen.insert(start) {
                continue;
            }
            islands += 1;
            let mut work = vec![start];
            while let Some(node) = work.pop().and_then(|id| self.graph.node(id)) {
                let made = node.outputs().iter().copied().flatten().filter(|&v| is_f32(self.graph, v));
                let readers = made.flat_map(|v| self.graph.users(v)).filter_map(|u| match u {
                    Use::Node(id, _) => Some(id),
                    Use::Output(_) => None,
                });
                let read = node.operands().filter(|&v| is_f32(self.graph, v));
                let makers = read.filter_map(|v| self.graph.producer(v)).map(|(id, _)| id);
                work.extend(readers.chain(makers).filter(|id| kept.contains(id) && seen.insert(*id)));
            }
        }
        islands
    }

    /// True if converting the node would change anything.
    fn touches_f32(&self, node: &Node) -> bool {
        node.operands().chain(node.outputs().iter().copied().flatten()).any(|v| is_f32(self.graph, v))
    }
}

fn is_quantizing(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).is_some_and(|n| n.op.is("QuantizeLinear") || n.op.is("DequantizeLinear"))
}

/// True for codes of at most 448 in magnitude.
const fn is_narrow(codes: DType) -> bool {
    use DType::*;
    matches!(codes, I8 | U8 | I4 | U4 | I2 | U2 | F4E2M1 | F8E4M3FN | F8E4M3FNUZ)
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
        name => POSITIONS.contains(&name) || support(&node.op, Format::Float16).is_some_and(|s| s.kind != Kind::Plain),
    }
}

#[cfg(test)]
mod tests;
