//! What can be split: weights, and the nodes that read them.

use std::collections::BTreeSet;

use planish_ir::{Graph, GraphPath, Node, NodeId, Operand, Use, ValueId, infer::GraphFacts, op};

use super::{
    allocate::{Ladder, Step},
    method::{Choice, Cost, Gain, Layer, Method, Place, Scene},
    rank::{Budget, Own},
    shared_input,
    split::Decompositions,
};
use crate::{Changes, Skip};

/// A weight that can be split, or several together.
pub(super) struct Site<'a> {
    /// In the order of the nodes that read them.
    pub(super) weights: Vec<ValueId>,
    pub(super) nodes: Vec<NodeId>,
    pub(super) name: String,
    /// Operator and dims, for the table.
    pub(super) form: String,
    /// As each of the methods sees it that can split it.
    pub(super) layers: Vec<Box<dyn Layer + 'a>>,
    /// Of the nodes.
    pub(super) places: Vec<Place>,
    pub(super) cost: Cost,
}

/// An option of a site.
#[derive(Clone, PartialEq)]
pub(super) struct Pick {
    /// Index in [`Site::layers`].
    pub(super) layer: usize,
    pub(super) choice: Choice,
}

/// The weights that a method can split, in the order of the nodes that read them, and behind them those that it can split together.
/// What is refused is noted.
pub(super) fn sites<'a>(
    scene: &Scene<'a>,
    bound: &GraphFacts,
    methods: &[&dyn Method],
    changes: &mut Changes,
) -> Vec<Site<'a>> {
    let graph = &scene.model.graph;
    let mut sites = Vec::new();
    let mut seen = BTreeSet::new();
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        if is_quantized(graph, node) {
            let why = "its weights are quantized already; factorize before quantizing";
            changes.skipped.push((GraphPath::main(), id, Skip::because(why)));
            continue;
        }
        for weight in node.inputs().iter().flatten().copied() {
            let is_weight = graph.constant(weight).is_some_and(|t| t.rank() > 1 && t.dtype().is_float());
            if is_weight && !seen.contains(&weight) {
                match site(scene, bound, methods, weight, id) {
                    Ok(found) => sites.push(found),
                    // Another node that reads it may be one that a method is about.
                    Err(Skip::NoMatch) => continue,
                    Err(skip) => changes.skipped.push((GraphPath::main(), id, skip)),
                }
                seen.insert(weight);
            }
        }
    }
    let groups = shared_input::groups(graph, &sites);
    let together = groups.iter().filter_map(|members| together(scene, methods, members));
    let together: Vec<Site<'a>> = together.collect();
    sites.extend(together);
    sites
}

fn site<'a>(
    scene: &Scene<'a>,
    bound: &GraphFacts,
    methods: &[&dyn Method],
    weight: ValueId,
    first: NodeId,
) -> Result<Site<'a>, Skip> {
    let graph = &scene.model.graph;
    let slot = graph.node(first).and_then(|n| n.inputs().iter().position(|v| *v == Some(weight)));
    let reader = |u: Use| match u {
        Use::Node(id, Operand::Input(at)) if usize::try_from(at).ok() == slot => Some(id),
        Use::Node(..) | Use::Output(_) => None,
    };
    let users: Option<Vec<NodeId>> = graph.users(weight).map(reader).collect();
    let mut layers = Vec::new();
    let mut refused = Skip::NoMatch;
    for method in methods {
        match method.layer(scene, weight, users.as_deref().unwrap_or(&[first])) {
            Ok(layer) => layers.push(layer),
            Err(skip @ Skip::Refused(_)) => refused = skip,
            Err(_) => {}
        }
    }
    if layers.is_empty() {
        return Err(refused);
    }
    let name = graph.name_of(weight);
    let Some(nodes) = users else {
        let why = "its weights are read in another way too, or by a subgraph, or are an output of the model";
        return Err(Skip::because(why));
    };
    let other = slot.map_or(0, |at| usize::from(at == 0));
    let is_constant =
        |id: &NodeId| graph.node(*id).and_then(|n| n.input(other)).is_some_and(|v| graph.constant(v).is_some());
    if nodes.iter().any(is_constant) {
        return Err(Skip::because("it is multiplied with a constant; `fold-constants` may compute the product"));
    }
    if scene.settings.protect.contains(&name) {
        return Err(Skip::because("its weights are protected"));
    }
    let dims = |v: Option<ValueId>| -> Vec<u64> {
        let shape = v.and_then(|v| bound.fact(v).shape()).unwrap_or_default();
        shape.iter().map(|d| d.known().unwrap_or(1)).collect()
    };
    // What it reads besides the weight.
    let input = |n: &Node| n.inputs().iter().flatten().copied().find(|&v| v != weight);
    let place = |n: &Node| Place { input: dims(input(n)), output: dims(n.output(0)) };
    let places: Vec<Place> = nodes.iter().filter_map(|&id| graph.node(id)).map(place).collect();
    let cost = layers.first().map(|l| l.cost(&places)).unwrap_or_default();
    let sizes: Vec<String> = graph.constant(weight).map_or(&[][..], |t| t.dims()).iter().map(u64::to_string).collect();
    let op = graph.node(first).map(|n| n.op.to_string()).unwrap_or_default();
    Ok(Site { weights: vec![weight], nodes, name, form: format!("{op} {}", sizes.join("x")), layers, places, cost })
}

/// The site of several weights of one node each, as far as methods can split them together.
fn together<'a>(scene: &Scene<'a>, methods: &[&dyn Method], members: &[&Site<'a>]) -> Option<Site<'a>> {
    let weights: Vec<ValueId> = members.iter().flat_map(|s| s.weights.iter().copied()).collect();
    let nodes: Vec<NodeId> = members.iter().flat_map(|s| s.nodes.iter().copied()).collect();
    let layers: Vec<_> = methods.iter().filter_map(|m| m.together(scene, &weights, &nodes)).collect();
    let places: Vec<Place> = members.iter().flat_map(|s| s.places.iter().cloned()).collect();
    let cost = layers.first()?.cost(&places);
    let names: Vec<&str> = members.iter().map(|s| s.name.as_str()).collect();
    let forms: Vec<&str> = members.iter().map(|s| s.form.as_str()).collect();
    let (name, form) = (names.join(" + "), forms.join(" + "));
    Some(Site { weights, nodes, name, form, layers, places, cost })
}

/// True if a node multiplies by integers that stand for floats.
fn is_quantized(graph: &Graph, node: &Node) -> bool {
    let from_integers = |v: ValueId| {
        let producer = graph.producer(v).filter(|(_, n)| n.op.is("DequantizeLinear"));
        producer.is_some_and(|(_, n)| n.input(0).is_some_and(|q| graph.constant(q).is_some()))
    };
    let multiplies = op::of(node).is_some_and(|s| s.macs.is_some());
    let integer = |v: &ValueId| graph.constant(*v).is_some_and(|t| t.rank() > 1 && !t.dtype().is_float());
    multiplies && node.inputs().iter().flatten().any(|v| from_integers(*v) || integer(v))
}

impl Site<'_> {
    pub(super) fn gain(&self) -> Gain {
        self.layers.first().map_or(Gain::Time, |l| l.gain())
    }

    /// What can be had and gains something over what there is.
    pub(super) fn options(&self, decompositions: &Decompositions<'_>) -> Vec<Pick> {
        let mut picks = Vec::new();
        for (layer, decomposition) in decompositions.iter().enumerate() {
            let Ok(decomposition) = decomposition else { continue };
            let gain = self.gain();
            let pays = |c: &&Choice| gain.of(&c.cost) < gain.of(&self.cost) && c.error.is_finite();
            picks.extend(decomposition.options().iter().filter(pays).map(|c| Pick { layer, choice: c.clone() }));
        }
        picks
    }

    /// What is counted of it, and what it loses: as it is, and with each option.
    pub(super) fn ladder(&self, options: &[Pick], budget: Budget) -> Ladder {
        let step = |p: &Pick| Step { cost: budget.of(&p.choice.cost), error: p.choice.error };
        let asis = Step { cost: budget.of(&self.cost), error: 0.0 };
        std::iter::once(asis).chain(options.iter().map(step)).collect()
    }

    /// Of a patch.
    pub(super) fn title(&self, pick: &Pick) -> String {
        format!("{:?} split at {}", self.name, ranks(&pick.choice))
    }
}

/// The option to take where ranks are chosen for each layer by itself: of those at a given rank the one that loses least, of those that keep
/// as much the fastest.
pub(super) fn best(own: Own, options: &[Pick]) -> Option<&Pick> {
    match own {
        Own::Rank(_) | Own::Ratio(_) => options.iter().min_by(|a, b| a.choice.error.total_cmp(&b.choice.error)),
        Own::Energy(_) | Own::Evbmf => options.iter().min_by_key(|p| p.choice.cost.time()),
    }
}

pub(super) fn ranks(choice: &Choice) -> String {
    choice.ranks.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
