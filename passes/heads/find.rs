//! Finding the channels of heads that can become fewer: those of queries and keys, and those of values.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    GraphPath, Model, NodeId, Use, ValueId,
    axes::{Class, Classes},
    infer::{self, Bindings},
};

use super::product::{Heads, Kind, Product, Side};
use crate::{Bias, Context, prune::prunable};

/// Channels of heads that go together: channel `c` of each head.
pub(crate) struct Unit {
    /// Their class, as the index in [`Classes::all`].
    pub(crate) class: usize,
    /// Channels of a head.
    pub(crate) size: usize,
    /// Where they are made and read. One layer for queries, keys and values has two products with the same channels.
    pub(crate) products: Vec<Product>,
    /// Names of the weights.
    pub(crate) name: String,
    /// Multiply-accumulates that go with all of them.
    pub(crate) macs: u64,
    /// Elements of weights that go with all of them.
    pub(crate) parameters: u64,
}

impl Unit {
    /// True for the product of queries and keys.
    pub(crate) fn sums(&self, node: NodeId) -> bool {
        self.products.iter().any(|p| p.node == node && matches!(p.kind, Kind::QueryKey { .. }))
    }
}

/// What is looked for.
pub(crate) struct Asked<'a> {
    /// Kinds of products.
    pub(crate) wanted: &'a dyn Fn(Kind) -> bool,
    /// Weights that stay as they are, by name.
    pub(crate) protected: &'a [String],
}

/// What can be made smaller; and what cannot, with the reason.
pub(crate) fn units(
    model: &Model,
    cx: &Context<'_>,
    classes: &Classes,
    sizes: &Bindings,
    asked: &Asked<'_>,
) -> (Vec<Unit>, Vec<(NodeId, String)>) {
    let bound = infer::infer(model, sizes);
    let heads = Heads { model, facts: bound.graph() };
    let mut found: BTreeMap<usize, Vec<Product>> = BTreeMap::new();
    let mut refused = Vec::new();
    for id in model.graph.topological_order().unwrap_or_default() {
        match heads.product(id) {
            None => {}
            Some(Err(why)) => refused.push((id, why)),
            Some(Ok(product)) => match classes.indices_along(&GraphPath::main(), product.axis.0, product.axis.1) {
                &[class] => found.entry(class).or_default().push(product),
                _ => refused.push((id, "the channels of its heads are not alike".to_owned())),
            },
        }
    }
    let costs = prunable(model, cx.facts, classes, sizes);
    let mut units = Vec::new();
    for (index, products) in found {
        let Some(class) = classes.all().get(index) else { continue };
        if !products.iter().all(|p| (asked.wanted)(p.kind)) {
            continue;
        }
        let node = products.first().map(|p| p.node);
        let checked = check(model, &heads, class, &products, asked.protected);
        match (checked, costs.free.iter().chain(&costs.blocked).find(|u| u.class == index)) {
            (Ok(size), Some(cost)) => units.push(Unit {
                class: index,
                size,
                name: name(model, &products),
                products,
                macs: cost.macs,
                parameters: cost.parameters,
            }),
            (Ok(_), None) => {}
            (Err(why), _) => refused.extend(node.map(|n| (n, why))),
        }
    }
    (units, refused)
}

/// The number of channels, if nothing but the products knows of them.
fn check(
    model: &Model,
    heads: &Heads<'_>,
    class: &Class,
    products: &[Product],
    protected: &[String],
) -> Result<usize, String> {
    let graph = &model.graph;
    let main = GraphPath::main();
    let size = class.size.known().and_then(|n| usize::try_from(n).ok()).ok_or("the size of its heads is open")?;
    if !class.blocks.is_empty() {
        return Err(
            "the channels of its heads are an input or output of the model, or have to stay for another reason"
                .to_owned(),
        );
    }
    if !class.mixed.is_empty() {
        return Err("a normalization or the like mixes the channels of its heads".to_owned());
    }
    let sides: Vec<&Side> = products.iter().flat_map(|p| &p.sides).collect();
    if sides.iter().any(|s| s.heads.iter().any(|h| h.len() != size)) {
        return Err("its heads have not the size of their channels".to_owned());
    }
    let mut known: BTreeSet<ValueId> = sides.iter().map(|s| s.linear.weight).collect();
    for side in &sides {
        let linear = &side.linear;
        let is_gemm = graph.node(linear.node).is_some_and(|n| n.op.is("Gemm"));
        if is_gemm && linear.bias == Bias::None {
            return Err("a Gemm scales its product or its bias".to_owned());
        }
        if graph.only_user(linear.weight).is_none() {
            return Err("others read the weights of its heads too".to_owned());
        }
        if protected.contains(&graph.name_of(linear.weight)) {
            return Err("its weights are protected".to_owned());
        }
        if let Bias::Constant(bias) = linear.bias {
            known.insert(bias);
        }
    }
    let mut nodes: BTreeSet<NodeId> = products.iter().flat_map(|p| p.path.iter().copied()).collect();
    nodes.extend(sides.iter().map(|s| s.linear.node));
    if class.summed.iter().any(|p| p.graph != main || !nodes.contains(&p.node)) {
        return Err("something else sums over the channels of its heads".to_owned());
    }
    let reads = |u: Use| match u {
        Use::Node(id, _) => nodes.contains(&id) || heads.reads_shape(id),
        Use::Output(_) => false,
    };
    for member in &class.members {
        let is_constant = graph.constant(member.value).is_some();
        let fits = match is_constant {
            true => known.contains(&member.value),
            false => graph.users(member.value).all(reads),
        };
        if member.graph != main || !fits {
            return Err("something else computes with the channels of its heads".to_owned());
        }
    }
    // Channel `c` of the class is channel `c` of each head.
    for &weight in &known {
        for channel in 0..size {
            let mut expected: BTreeSet<u64> = BTreeSet::new();
            let here = |s: &&&Side| s.linear.weight == weight || s.linear.bias == Bias::Constant(weight);
            for side in sides.iter().filter(here) {
                // The bias of a layer that reads the channels has none of them.
                if side.linear.weight == weight || !is_reader(products, side) {
                    expected.extend(side.heads.iter().filter_map(|h| h.get(channel)).map(|&c| c as u64));
                }
            }
            let members = class.members.iter().filter(|m| m.value == weight);
            let actual: BTreeSet<u64> = members.filter_map(|m| m.places(channel as u64)).flatten().collect();
            if actual != expected {
                return Err("where its weights have the channels of its heads is not clear".to_owned());
            }
        }
    }
    Ok(size)
}

/// True for the layer that reads the values of heads.
fn is_reader(products: &[Product], side: &Side) -> bool {
    let reads = |p: &Product| p.kind == Kind::ValueOutput && p.sides.get(1).is_some_and(|s| std::ptr::eq(s, side));
    products.iter().any(reads)
}

fn name(model: &Model, products: &[Product]) -> String {
    let weight = |s: &Side| model.graph.name_of(s.linear.weight);
    let mut names: Vec<String> = products.iter().flat_map(|p| p.sides.iter().map(weight)).collect();
    names.dedup();
    names.join(", ")
}
