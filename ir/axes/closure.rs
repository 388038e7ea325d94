//! The closure of all ties of a model: which channels go together.
//!
//! Each axis of each value is a [term](super::terms); every node makes those equal that its spelling ties. In the end each
//! index set that nothing tells apart is one [`Class`]: take an index out of one member and it has to go from all of them.
//! Captures tie the values of a subgraph to those outside, and both branches of an `If` are tied to its outputs. What goes
//! into and comes out of the bodies of other nodes is blocked, as is what functions and unknown operators touch.
//!
//! Work is linear in the number of nodes for usual models, and bounded by a multiple of it for all.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Axes, Port, Role, Why,
    terms::{Shape, TermId, Terms},
};
use crate::{
    Def, Dim, Graph, GraphPath, Model, Node, NodeId, OpName, ValueId,
    infer::{self, Fact, GraphFacts, Inferred},
};

/// All sets of coupled channels of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classes {
    classes: Vec<Class>,
    by_axis: BTreeMap<(GraphPath, ValueId, usize), Vec<usize>>,
}

/// Channels that go together: index `i` of each member is one channel, for `i` below `size`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Number of channels.
    pub size: Dim,
    /// Where they are, weights included, in the order of graphs, values and axes. One axis may be there several times.
    pub members: Vec<Member>,
    /// Why channels cannot be taken out; empty if they can.
    pub blocks: Vec<Block>,
    /// Nodes that add over the channels: a channel of zeros may go without a change.
    pub summed: Vec<Place>,
    /// Nodes whose other results change when a channel goes.
    pub mixed: Vec<Place>,
}

/// A part of an axis: channel `i` is at the `block` places from `offset + i * block` on, and, for each repeat, at those that are
/// any number below `count` times `stride` further on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The graph of the value.
    pub graph: GraphPath,
    /// The value.
    pub value: ValueId,
    /// The axis, counted from the front.
    pub axis: usize,
    /// Where channel 0 begins.
    pub offset: Dim,
    /// Length of each channel, and distance to the next one.
    pub block: Dim,
    /// Copies at other places, the farthest first.
    pub repeats: Vec<Repeat>,
}

/// Copies at a distance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// How many, the first one included.
    pub count: Dim,
    /// Distance from one to the next.
    pub stride: Dim,
}

/// A node of some graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The graph.
    pub graph: GraphPath,
    /// The node in it.
    pub node: NodeId,
}

/// What keeps a class as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// An input of the model.
    Input(ValueId),
    /// An output of the model.
    Output(ValueId),
    /// A value, and why.
    Value(GraphPath, ValueId, Why),
    /// A node, and why.
    Node(Place, Why),
}

/// Work that a node may cause, in steps.
const FUEL: u64 = 1024;
/// Members that are listed, per axis of the model; structures in which far more hide are hostile.
const MEMBERS: usize = 64;
/// How often a term is looked at, on average, for what it says of its parts.
const ANCESTORS: usize = 64;
const INTRICATE: Why = "how its axes hang together is too intricate";

/// Forms the classes of a model of which `inferred` is what inference knows.
pub fn classes(model: &Model, inferred: &Inferred) -> Classes {
    let functions = model.functions.iter().map(|f| &f.op).collect();
    let mut b = Builder { model, functions, terms: Terms::default(), notes: Vec::new(), axes: BTreeMap::new() };
    b.graph(&GraphPath::main(), &model.graph, inferred.graph(), None);
    for (ids, make) in [
        (model.graph.inputs(), Block::Input as fn(ValueId) -> Block),
        (model.graph.outputs(), Block::Output as fn(ValueId) -> Block),
    ] {
        for &v in ids {
            b.block_value(&GraphPath::main(), v, make(v));
        }
    }
    b.finish()
}

/// Something that holds of a term.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    Summed(Place),
    Mixed(Place),
    Block(Block),
}

struct Builder<'a> {
    model: &'a Model,
    functions: BTreeSet<&'a OpName>,
    terms: Terms,
    notes: Vec<Note>,
    /// The term of each axis of each value of known rank.
    axes: BTreeMap<(GraphPath, ValueId), Vec<TermId>>,
}

impl Builder<'_> {
    /// `outer` are the captures of the node that owns the graph, with the path of the graph around.
    fn graph(&mut self, path: &GraphPath, g: &Graph, facts: &GraphFacts, outer: Option<(&GraphPath, &Node)>) {
        for (id, value) in g.values() {
            let Some(shape) = facts.fact(id).shape() else { continue };
            let terms = shape.iter().map(|d| self.terms.atom(d.clone())).collect();
            self.axes.insert((path.clone(), id), terms);
            match (&value.def, outer) {
                (Def::SparseConstant(_), _) => {
                    self.block_value(path, id, Block::Value(path.clone(), id, "it is stored in coordinate form"));
                }
                (Def::Captured(k), Some((around, owner))) => {
                    if let (Some(&v), Some((_, node))) = (owner.captures().get(*k as usize), path.owner()) {
                        let place = Place { graph: around.clone(), node };
                        self.tie_values((around, v), (path, id), &place);
                    }
                }
                _ => {}
            }
        }
        // The verifier reports cycles; nothing on them is tied.
        for id in g.topological_order().unwrap_or_default() {
            if let Some(node) = g.node(id) {
                self.terms.refuel(FUEL);
                self.node(path, id, node, facts);
            }
        }
    }

    fn node(&mut self, path: &GraphPath, id: NodeId, node: &Node, facts: &GraphFacts) {
        let place = Place { graph: path.clone(), node: id };
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v));
        let call = match self.functions.contains(&node.op) {
            true => None,
            false => infer::call(node, &self.model.opsets, node.inputs().iter().map(fact).collect(), Vec::new()),
        };
        let ports = || node.inputs().iter().chain(node.outputs()).flatten().copied();
        match call {
            Some(_) if node.op.is("If") => {
                if let Some(condition) = node.input(0) {
                    self.block_value(path, condition, Block::Node(place.clone(), "it decides which branch runs"));
                }
            }
            Some(call) => {
                let outputs: Vec<Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
                self.spelled(path, node, &Axes::of(&call, &outputs), &place);
            }
            None => ports().for_each(|v| {
                self.block_value(path, v, Block::Node(place.clone(), "the operator is not known"));
            }),
        }
        for (i, body) in node.attrs.graphs().enumerate() {
            let Some(inner) = facts.subgraph(id, i) else {
                for &v in node.captures() {
                    self.block_value(path, v, Block::Node(place.clone(), "its subgraphs are not followed"));
                }
                continue;
            };
            let at = path.inner(id, i);
            self.graph(&at, body, inner, Some((path, node)));
            if node.op.is("If") {
                for (&inner, outer) in body.outputs().iter().zip(node.outputs()) {
                    if let Some(outer) = *outer {
                        self.tie_values((path, outer), (&at, inner), &place);
                    }
                }
            } else {
                for &v in body.inputs().iter().chain(body.outputs()) {
                    self.block_value(&at, v, Block::Node(place.clone(), "its body takes or returns it"));
                }
            }
        }
    }

    /// Makes equal what a node ties.
    fn spelled(&mut self, path: &GraphPath, node: &Node, axes: &Axes, place: &Place) {
        let mut letters = Vec::with_capacity(axes.letters.len());
        for letter in &axes.letters {
            let term = self.terms.atom(letter.size.clone());
            let note = match letter.role {
                Role::Free => None,
                Role::Summed => Some(Note::Summed(place.clone())),
                Role::Mixed => Some(Note::Mixed(place.clone())),
                Role::Whole(why) => Some(Note::Block(Block::Node(place.clone(), why))),
            };
            if let Some(note) = note {
                self.note(&[term], note);
            }
            letters.push(term);
        }
        for s in &axes.spelled {
            let value = match s.port {
                Port::In(slot) => node.input(slot),
                Port::Out(slot) => node.output(slot),
            };
            let Some(&axis) = value.and_then(|v| self.axes.get(&(path.clone(), v))?.get(s.axis)) else { continue };
            let mut parts = Vec::with_capacity(s.parts.len());
            for part in &s.parts {
                let factors = part.iter().filter_map(|l| letters.get(l.index()).copied()).collect();
                parts.push(self.terms.product(factors));
            }
            let spelled = self.terms.sum(parts);
            if let Err(why) = self.terms.unify(axis, spelled) {
                self.note(&[axis, spelled], Note::Block(Block::Node(place.clone(), why)));
            }
        }
    }

    /// Two values are the same.
    fn tie_values(&mut self, a: (&GraphPath, ValueId), b: (&GraphPath, ValueId), place: &Place) {
        let key = |(path, v): (&GraphPath, ValueId)| (path.clone(), v);
        match (self.axes.get(&key(a)).cloned(), self.axes.get(&key(b)).cloned()) {
            (Some(x), Some(y)) if x.len() == y.len() => {
                for (x, y) in x.into_iter().zip(y) {
                    if let Err(why) = self.terms.unify(x, y) {
                        self.note(&[x, y], Note::Block(Block::Node(place.clone(), why)));
                    }
                }
            }
            (x, y) => {
                let terms: Vec<TermId> = x.into_iter().chain(y).flatten().collect();
                self.note(&terms, Note::Block(Block::Node(place.clone(), "the rank of an operand is not known")));
            }
        }
    }

    fn block_value(&mut self, path: &GraphPath, v: ValueId, block: Block) {
        if let Some(terms) = self.axes.get(&(path.clone(), v)).cloned() {
            self.note(&terms, Note::Block(block));
        }
    }

    fn note(&mut self, terms: &[TermId], note: Note) {
        if self.notes.last() != Some(&note) {
            self.notes.push(note);
        }
        let Ok(index) = u32::try_from(self.notes.len().saturating_sub(1)) else { return };
        terms.iter().for_each(|&t| self.terms.note(t, index));
    }

    fn finish(mut self) -> Classes {
        let mut listing =
            Listing { terms: &self.terms, limit: self.axes.len().saturating_mul(MEMBERS), found: Vec::new() };
        let mut too_many = Vec::new();
        for ((graph, value), terms) in &self.axes {
            for (axis, &term) in terms.iter().enumerate() {
                let start = Member {
                    graph: graph.clone(),
                    value: *value,
                    axis,
                    offset: Dim::Known(0),
                    block: Dim::Known(1),
                    repeats: Vec::new(),
                };
                if !listing.list(term, start) {
                    too_many.push((term, graph.clone(), *value));
                }
            }
        }
        let found = listing.found;
        for (term, graph, value) in too_many {
            self.note(&[term], Note::Block(Block::Value(graph, value, INTRICATE)));
        }
        self.collect(found)
    }

    fn collect(mut self, found: Vec<(TermId, Member)>) -> Classes {
        let parents = self.parents();
        let mut ancestors = Ancestors {
            parents: &parents,
            seen: vec![usize::MAX; parents.len()],
            limit: parents.len().saturating_mul(ANCESTORS),
        };
        let mut result = Classes::default();
        let mut index: BTreeMap<TermId, usize> = BTreeMap::new();
        for (term, member) in found {
            let term = self.terms.find(term);
            let at = *index.entry(term).or_insert_with(|| {
                let at = result.classes.len();
                let mut class = self.class(term, ancestors.of(term, at));
                if ancestors.limit == 0 {
                    class.blocks.push(Block::Value(member.graph.clone(), member.value, INTRICATE));
                }
                result.classes.push(class);
                at
            });
            let key = (member.graph.clone(), member.value, member.axis);
            let listed = result.by_axis.entry(key).or_default();
            if listed.last() != Some(&at) {
                listed.push(at);
            }
            if let Some(class) = result.classes.get_mut(at) {
                class.members.push(member);
            }
        }
        result
    }

    /// The terms that each term is a part or a factor of, by index.
    fn parents(&mut self) -> Vec<Vec<TermId>> {
        let mut parents = vec![Vec::new(); self.terms.len()];
        let roots: Vec<TermId> = self.terms.roots().collect();
        for root in roots {
            let children = match self.terms.shape(root) {
                Shape::Atom => continue,
                Shape::Sum(c) | Shape::Product(c) => c.clone(),
            };
            for child in children {
                let child = self.terms.find(child);
                if let Some(list) = parents.get_mut(child.index()).filter(|l| l.last() != Some(&root)) {
                    list.push(root);
                }
            }
        }
        parents
    }

    /// A class without members: what holds of a term, or of one that it is a part of.
    fn class(&self, term: TermId, ancestors: Vec<TermId>) -> Class {
        let mut notes: Vec<u32> = ancestors.into_iter().flat_map(|t| self.terms.notes(t)).copied().collect();
        notes.sort_unstable();
        notes.dedup();
        let size = self.terms.size(term).clone();
        let mut class = Class { size, members: Vec::new(), blocks: Vec::new(), summed: Vec::new(), mixed: Vec::new() };
        for note in notes.into_iter().filter_map(|i| self.notes.get(i as usize)) {
            match note {
                Note::Summed(place) => class.summed.push(place.clone()),
                Note::Mixed(place) => class.mixed.push(place.clone()),
                Note::Block(block) => class.blocks.push(block.clone()),
            }
        }
        class.summed.sort();
        class.summed.dedup();
        class.mixed.sort();
        class.mixed.dedup();
        class.blocks.sort();
        class.blocks.dedup();
        class
    }
}

/// Finds what terms are parts of.
struct Ancestors<'a> {
    parents: &'a [Vec<TermId>],
    /// For each term, the last search that met it.
    seen: Vec<usize>,
    /// How many may still be met, over all searches. At 0 some are missing.
    limit: usize,
}

impl Ancestors<'_> {
    /// A term and all that it is a part of, directly or not. `search` numbers the searches.
    fn of(&mut self, term: TermId, search: usize) -> Vec<TermId> {
        let mut found = vec![term];
        let mut next = 0;
        while let Some(&at) = found.get(next) {
            next += 1;
            for &parent in self.parents.get(at.index()).into_iter().flatten() {
                let Some(seen) = self.seen.get_mut(parent.index()).filter(|s| **s != search) else { continue };
                *seen = search;
                self.limit = self.limit.saturating_sub(1);
                if self.limit == 0 {
                    return found;
                }
                found.push(parent);
            }
        }
        found
    }
}

/// Takes terms apart into members.
struct Listing<'a> {
    terms: &'a Terms,
    limit: usize,
    found: Vec<(TermId, Member)>,
}

impl Listing<'_> {
    /// Lists the members along one axis; false if there are more than the limit allows.
    fn list(&mut self, term: TermId, start: Member) -> bool {
        let mut stack = vec![(term, start)];
        while let Some((term, at)) = stack.pop() {
            if matches!(self.terms.size(term), Dim::Known(0 | 1)) {
                continue;
            }
            if self.found.len() + stack.len() > self.limit {
                return false;
            }
            match self.terms.shape(term) {
                Shape::Atom => self.found.push((term, at)),
                Shape::Sum(parts) => {
                    let mut offset = at.offset.clone();
                    let children = stack.len();
                    for &part in parts {
                        let next = offset.add(&self.terms.size(part).mul(&at.block));
                        stack.push((part, Member { offset, ..at.clone() }));
                        offset = next;
                    }
                    stack.get_mut(children..).into_iter().for_each(<[_]>::reverse);
                }
                Shape::Product(factors) => {
                    let mut repeats = at.repeats.clone();
                    let children = stack.len();
                    for (i, &factor) in factors.iter().enumerate() {
                        let inner = factors.iter().skip(i + 1);
                        let block = inner.fold(at.block.clone(), |n, &f| n.mul(self.terms.size(f)));
                        stack.push((factor, Member { block: block.clone(), repeats: repeats.clone(), ..at.clone() }));
                        push_repeat(&mut repeats, Repeat { count: self.terms.size(factor).clone(), stride: block });
                    }
                    stack.get_mut(children..).into_iter().for_each(<[_]>::reverse);
                }
            }
        }
        true
    }
}

/// Adds copies at a smaller distance; those that fill the distance of the last ones become one with them.
fn push_repeat(repeats: &mut Vec<Repeat>, new: Repeat) {
    match repeats.last_mut() {
        Some(last) if last.stride.same(&new.stride.mul(&new.count)) => {
            last.count = last.count.mul(&new.count);
            last.stride = new.stride;
        }
        _ => repeats.push(new),
    }
}

impl Classes {
    /// All classes, in the order of their first members.
    pub fn all(&self) -> &[Class] {
        &self.classes
    }

    /// The classes of which an axis is made, in the order in which they lie along it. Empty for an axis of size 1 or of
    /// unknown rank.
    pub fn along(&self, graph: &GraphPath, value: ValueId, axis: usize) -> impl Iterator<Item = &Class> {
        self.indices_along(graph, value, axis).iter().filter_map(|&i| self.classes.get(i))
    }

    /// The same, as indices into [`Classes::all`].
    pub fn indices_along(&self, graph: &GraphPath, value: ValueId, axis: usize) -> &[usize] {
        self.by_axis.get(&(graph.clone(), value, axis)).map_or(&[], Vec::as_slice)
    }
}

impl Member {
    /// The places along the axis that channel `i` takes, in ascending order; `None` if a size is open.
    pub fn places(&self, i: u64) -> Option<Vec<u64>> {
        let block = self.block.known()?;
        let mut starts = vec![self.offset.known()?.checked_add(i.checked_mul(block)?)?];
        for r in self.repeats.iter().rev() {
            let (count, stride) = (r.count.known()?, r.stride.known()?);
            let copies = (0..count).flat_map(|c| starts.iter().map(move |s| c.checked_mul(stride)?.checked_add(*s)));
            starts = copies.collect::<Option<_>>()?;
        }
        starts
            .into_iter()
            .map(|s| Some(s..s.checked_add(block)?))
            .collect::<Option<Vec<_>>>()
            .map(|r| r.into_iter().flatten().collect())
    }
}
