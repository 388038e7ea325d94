//! Factors per channel that can be moved from one weight to others without a change of the results.
//!
//! A value whose channels are multiplied by factors above zero gives the same results, if whatever makes it multiplies by them
//! (the columns of a weight, the scale of a normalization), and whatever reads it divides by them (the rows of a weight); in
//! between, operators have to be proportional to their inputs. This finds all such factors of a graph. Each element along
//! the axes of a value that matter has an unknown factor; each node says which of them are equal or inverse to each other
//! ([`relation`]); what is left free can be chosen. Axes follow from the operator table, so that heads, groups,
//! concatenations and flattened images are no special cases.
//!
//! Factors that are powers of two are exact: as long as nothing leaves the range of its type, every runtime gives the
//! same bits as before.

mod allocate;
mod apply;
mod pieces;
mod relate;
mod relation;
mod signed;

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    Graph, Model, NodeId, Use, ValueId,
    axes::{Axes, Letter, Port},
    infer::GraphFacts,
};

use pieces::{Site, strides};
use relation::{Relation, label, ports, relations};
use signed::{CONTRADICTION, Factors, Var};

pub(super) use signed::Signed;

/// All factors of the main graph of a model.
pub(super) struct Scales<'a> {
    graph: &'a Graph,
    facts: &'a GraphFacts,
    spans: BTreeMap<ValueId, Span>,
    factors: Factors,
    /// Why factors are one, by number.
    reasons: Vec<String>,
    /// Weights that take up factors.
    absorbers: Vec<Absorber>,
    gains: BTreeSet<ValueId>,
}

/// The factors of one value: one for each index of some of its axes, in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    axes: Vec<usize>,
    sizes: Vec<usize>,
    first: Var,
}

/// For each axis of a constant and each index along it, how far it moves along the channels of a value.
type Steps = Vec<Vec<usize>>;

/// A weight between two values that may have factors.
#[derive(Debug, Clone)]
pub(super) struct Absorber {
    /// The node that reads it.
    pub(super) node: NodeId,
    /// The weight, which has no other reader.
    pub(super) weight: ValueId,
    /// The data that it is multiplied with.
    pub(super) data: Channels,
    /// The result.
    pub(super) result: Channels,
}

/// The channels of a value beside a weight.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    /// The value.
    pub(super) value: ValueId,
    /// The axis along which they lie, counted from the front.
    pub(super) axis: usize,
    /// The factor of each; `None` where it is one.
    pub(super) factors: Vec<Option<Signed>>,
    steps: Steps,
}

/// Factors that belong to one decision: those of the inputs of some weights, and what depends on them.
#[derive(Debug, Clone, Default)]
pub(super) struct Component {
    /// The factors that stand for all.
    pub(super) roots: Vec<Var>,
    /// Weights that are divided, by their number in [`Scales::absorbers`].
    pub(super) readers: Vec<usize>,
    /// Weights that are multiplied.
    pub(super) producers: Vec<usize>,
    /// Constants that have factors as values: scales and biases, tables.
    pub(super) constants: Vec<ValueId>,
}

impl<'a> Scales<'a> {
    /// Finds the factors of the main graph.
    pub(super) fn of(model: &'a Model, facts: &'a GraphFacts) -> Scales<'a> {
        let graph = &model.graph;
        let mut scales = Scales {
            graph,
            facts,
            spans: BTreeMap::new(),
            factors: Factors::default(),
            reasons: vec!["it would have to be scaled by a factor and by its inverse".into()],
            absorbers: Vec::new(),
            gains: BTreeSet::new(),
        };
        let mut sites = Vec::new();
        for (id, node) in graph.nodes() {
            let Some(axes) = Axes::of_node(model, facts, node) else {
                sites.push((id, Err("the operator is not known")));
                continue;
            };
            let found = relations(graph, facts, model.opset(), node);
            sites.push((id, found.map(|relations| Site { id, axes, relations })));
        }
        let good: Vec<&Site> = sites.iter().filter_map(|(_, s)| s.as_ref().ok()).collect();
        scales.allocate(&good);
        for (id, site) in &sites {
            match site {
                Ok(site) => scales.fix_unnamed(site),
                Err(why) => scales.fix_all(*id, why),
            }
        }
        for (v, _) in graph.values() {
            scales.fix_interface(v);
        }
        for site in &good {
            scales.relate_site(site);
        }
        scales.products(&good);
        for site in &good {
            scales.absorber(site);
        }
        scales
    }

    /// The weights that take up factors.
    pub(super) fn absorbers(&self) -> &[Absorber] {
        &self.absorbers
    }

    /// True for a constant that tells how large the channels of a value are, rather than being added to them.
    pub(super) fn is_gain(&self, constant: ValueId) -> bool {
        self.gains.contains(&constant)
    }

    fn value(&self, node: NodeId, port: Port) -> Option<ValueId> {
        let node = self.graph.node(node)?;
        match port {
            Port::In(slot) => node.input(slot),
            Port::Out(slot) => node.output(slot),
        }
    }

    fn reason(&mut self, why: String) -> u32 {
        if self.reasons.last() != Some(&why) {
            self.reasons.push(why);
        }
        u32::try_from(self.reasons.len().saturating_sub(1)).unwrap_or(CONTRADICTION)
    }

    fn fix(&mut self, value: ValueId, why: u32) {
        if let Some(span) = self.spans.get(&value).cloned() {
            (0..span.len()).for_each(|i| self.factors.fix(span.first + i as Var, why));
        }
    }

    /// What the caller sees, and what is read in subgraphs, stays as it is.
    fn fix_interface(&mut self, value: ValueId) {
        let Some(v) = self.graph.value(value) else { return };
        let name = v.name();
        let captured = v.users().iter().any(|u| matches!(u, Use::Node(_, planish_ir::Operand::Capture(_))));
        let why = match (v.producer().is_none() && v.constant().is_none(), v.is_output(), captured) {
            (true, ..) => format!("{name:?} is given by the caller"),
            (_, true, _) => format!("{name:?} is an output of the graph"),
            (_, _, true) => format!("{name:?} is read in a subgraph"),
            _ => return,
        };
        let why = self.reason(why);
        self.fix(value, why);
    }

    fn fix_all(&mut self, id: NodeId, why: &str) {
        let Some(node) = self.graph.node(id) else { return };
        let why = self.reason(format!("{} reads or makes it: {why}", label(self.graph, id)));
        node.operands().chain(node.outputs().iter().flatten().copied()).for_each(|v| self.fix(v, why));
    }

    /// Operands that no relation names have the factor one.
    fn fix_unnamed(&mut self, site: &Site) {
        let Some(node) = self.graph.node(site.id) else { return };
        let named: Vec<Port> = site.relations.iter().flat_map(ports).collect();
        let all = (0..node.inputs().len()).map(Port::In).chain((0..node.outputs().len()).map(Port::Out));
        let unnamed: Vec<ValueId> = all.filter(|p| !named.contains(p)).filter_map(|p| self.value(site.id, p)).collect();
        if unnamed.iter().any(|v| self.spans.contains_key(v)) {
            let why = self.reason(format!("{} is not proportional to it", label(self.graph, site.id)));
            unnamed.into_iter().for_each(|v| self.fix(v, why));
        }
    }

    /// Notes the weight of a node with the factors on both of its sides; fixes those of a weight that cannot take them up.
    fn absorber(&mut self, site: &Site) {
        for r in &site.relations {
            let Relation::Weighted { data, weight, result } = r else { continue };
            let Some(id) = self.value(site.id, *weight) else { continue };
            let sides = (self.channels(site, *data, *weight), self.channels(site, *result, *weight));
            match sides {
                (Some(data), Some(result)) => {
                    self.absorbers.push(Absorber { node: site.id, weight: id, data, result });
                }
                _ => {
                    let why =
                        self.reason(format!("{} has weights whose axes are not followed", label(self.graph, site.id)));
                    for port in [*data, *result] {
                        if let Some(v) = self.value(site.id, port) {
                            self.fix(v, why);
                        }
                    }
                }
            }
        }
    }

    fn channels(&mut self, site: &Site, port: Port, weight: Port) -> Option<Channels> {
        let value = self.value(site.id, port)?;
        let span = self.spans.get(&value)?.clone();
        let spelled = |p: Port| site.axes.spelled.iter().filter(move |s| s.port == p);
        let letters: BTreeSet<Letter> = spelled(weight).flat_map(|s| s.parts.iter().flatten().copied()).collect();
        let mut along = spelled(port).filter(|s| s.parts.iter().flatten().any(|l| letters.contains(l)));
        // A single channel has no letter; its factor is that of the whole value.
        let axis = along.next();
        if along.next().is_some() {
            return None;
        }
        let (axis, own) = match axis {
            Some(s) => (s.axis, s.parts.as_slice()),
            None => (span.axes.first().copied().unwrap_or(0), [].as_slice()),
        };
        let place = span.axes.iter().position(|&a| a == axis);
        let stride: usize = place.map_or(1, |i| span.sizes.iter().skip(i + 1).product());
        let count = match (place.and_then(|i| span.sizes.get(i)), own.is_empty()) {
            (Some(&n), false) => n,
            _ => 1,
        };
        let moves = match own {
            [] => Vec::new(),
            [part] => strides(site, part)?,
            _ => return None,
        };
        let dims = self.facts.fact(self.value(site.id, weight)?).shape()?;
        let mut steps = Vec::with_capacity(dims.len());
        for (axis, size) in dims.iter().enumerate() {
            let size = usize::try_from(size.known()?).ok()?;
            let parts = &spelled(weight).find(|s| s.axis == axis)?.parts;
            let [part] = parts.as_slice() else { return None };
            let inner = strides(site, part)?;
            let step = |index: usize| {
                let along = |(l, size, stride): &(Letter, usize, usize)| {
                    let far = moves.iter().find(|(m, ..)| m == l).map_or(0, |s| s.2);
                    index / (*stride).max(1) % (*size).max(1) * far
                };
                inner.iter().map(along).sum::<usize>()
            };
            steps.push((0..size).map(step).collect());
        }
        let factors = (0..count).map(|c| self.free(span.first + (c * stride) as Var)).collect();
        Some(Channels { value, axis, factors, steps })
    }

    /// The factors that can be chosen, in sets that belong together, with the weights around them.
    pub(super) fn components(&mut self) -> Vec<Component> {
        let mut sets = Factors::default();
        sets.add(self.factors.len());
        let mut join = |factors: &mut dyn Iterator<Item = Var>| {
            let mut first = None;
            for var in factors {
                sets.unite(*first.get_or_insert(var), var, false);
            }
        };
        for a in &self.absorbers {
            for side in [&a.data, &a.result] {
                join(&mut side.factors.iter().flatten().map(|s| s.root));
            }
        }
        let constants: Vec<(ValueId, Span)> = self
            .spans
            .iter()
            .filter(|(v, _)| self.graph.constant(**v).is_some())
            .map(|(v, span)| (*v, span.clone()))
            .collect();
        let mut of_constants = Vec::new();
        for (v, span) in constants {
            let free: Vec<Var> = self.chosen(&span).into_iter().flatten().map(|s| s.root).collect();
            join(&mut free.iter().copied());
            of_constants.push((v, free));
        }
        let mut found: BTreeMap<Var, Component> = BTreeMap::new();
        let mut roots: BTreeMap<Var, BTreeSet<Var>> = BTreeMap::new();
        for (i, a) in self.absorbers.iter().enumerate() {
            for (side, reads) in [(&a.data, true), (&a.result, false)] {
                let Some(first) = side.factors.iter().flatten().next() else { continue };
                let key = sets.find(first.root).root;
                let component = found.entry(key).or_default();
                if reads {
                    component.readers.push(i)
                } else {
                    component.producers.push(i)
                }
                roots.entry(key).or_default().extend(side.factors.iter().flatten().map(|s| s.root));
            }
        }
        for (v, free) in of_constants {
            let Some(&first) = free.first() else { continue };
            let key = sets.find(first).root;
            if let Some(component) = found.get_mut(&key) {
                component.constants.push(v);
                roots.entry(key).or_default().extend(free);
            }
        }
        for (key, component) in &mut found {
            component.roots = roots.remove(key).unwrap_or_default().into_iter().collect();
        }
        found.into_values().collect()
    }

    /// Why no channel of the data of a weight can have a factor; `None` if some can.
    pub(super) fn obstacle(&mut self, absorber: usize) -> Option<String> {
        let data = &self.absorbers.get(absorber)?.data;
        if data.factors.iter().any(Option::is_some) {
            return None;
        }
        let first = self.spans.get(&data.value)?.first;
        let name = self.graph.name_of(data.value);
        let why = self.factors.why_fixed(first).and_then(|i| self.reasons.get(i as usize));
        why.map(|why| format!("its input {name:?} cannot be scaled: {why}"))
    }

    /// What each factor of a value depends on; `None` where it is one.
    fn chosen(&mut self, span: &Span) -> Vec<Option<Signed>> {
        (0..span.len()).map(|i| self.free(span.first + i as Var)).collect()
    }

    fn free(&mut self, var: Var) -> Option<Signed> {
        match self.factors.why_fixed(var) {
            Some(_) => None,
            None => Some(self.factors.find(var)),
        }
    }
}

impl Span {
    fn len(&self) -> usize {
        self.sizes.iter().product()
    }
}
