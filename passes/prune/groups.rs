//! The classes that can be pruned, and the layers that make up for it.

use planish_ir::{
    Dim, GraphPath, Model, NodeId,
    axes::{Class, Classes},
    infer::Bindings,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::prunable;
use crate::{Context, Linear, heads::Unit};

/// What channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Of convolutions, and what is coupled with them.
    Channels,
    /// Of attention: blocks of the width. With grouped queries a head of keys and values goes with all queries that read it.
    Heads,
    /// Of feed-forward layers and recurrent cells.
    Neurons,
    /// Of each head: those of queries and keys, and those of values, in the bases in which the last of them matter least. All heads of a
    /// layer keep as many.
    HeadChannels,
}

impl Kind {
    /// What they are called in reports.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Kind::Channels => "channels",
            Kind::Heads => "heads",
            Kind::Neurons => "neurons",
            Kind::HeadChannels => "channels of each head",
        }
    }
}

/// A layer, and its columns for each channel of a class.
pub(super) type Reads = (NodeId, Vec<Vec<usize>>);

/// A class that can be pruned.
pub(super) struct Group {
    /// Its index in [`Classes::all`].
    pub(super) class: usize,
    /// Channels.
    pub(super) size: u64,
    /// Its first weight.
    pub(super) name: String,
    /// Layers that sum over it, and the columns of each channel.
    pub(super) readers: Vec<Reads>,
    /// What its channels are.
    pub(super) kind: Kind,
}

/// Which classes are asked for.
pub(super) struct Asked<'a> {
    pub(super) kinds: &'a [Kind],
    /// Weights whose channels stay.
    pub(super) protected: &'a [String],
    /// Channels of heads.
    pub(super) heads: &'a [Unit],
    /// They are turned, so that products of activations may sum over fewer.
    pub(super) are_turned: bool,
}

impl Group {
    /// The classes that can be pruned; and why others cannot.
    pub(super) fn all(
        model: &Model,
        cx: &Context<'_>,
        classes: &Classes,
        bindings: &Bindings,
        asked: &Asked<'_>,
    ) -> (Vec<Group>, Vec<String>) {
        let units = prunable(model, cx.facts, classes, bindings);
        let (mut groups, mut notes) = (Vec::new(), Vec::new());
        for unit in &units.free {
            let Some(class) = classes.all().get(unit.class) else { continue };
            let names = weights(model, class);
            let name = names.first().cloned().unwrap_or_default();
            let Some(size) = unit.size.filter(|&n| n > 1) else { continue };
            let heads = asked.heads.iter().find(|u| u.class == unit.class);
            let kind = if heads.is_some() { Kind::HeadChannels } else { kind(model, class) };
            if !asked.kinds.contains(&kind) || names.iter().any(|n| asked.protected.contains(n)) {
                continue;
            }
            let passed = heads.filter(|_| asked.are_turned);
            match readers(model, cx, class, |node| passed.is_some_and(|u| u.sums(node))) {
                Ok(readers) => groups.push(Group { class: unit.class, size, name, readers, kind }),
                Err(why) => notes.push(format!("{name}: {size} channels stay: {why}")),
            }
        }
        (groups, notes)
    }

    /// Numbers of channels that may go, ascending from 0, such that a multiple of `round_to` stays where there are enough. Heads are few,
    /// and each is large; so are their channels, of which all heads of a layer lose as many.
    pub(super) fn allowed(&self, limit: u64, round_to: u64) -> Vec<u64> {
        let least = if self.kind == Kind::HeadChannels { 8 } else { 4 };
        let mut quantum = if self.kind == Kind::Heads { 1 } else { round_to.max(1) };
        while quantum > 1 && self.size < least * quantum {
            quantum /= 2;
        }
        (0..=limit.min(self.size)).filter(|k| *k == 0 || (self.size - k).is_multiple_of(quantum)).collect()
    }
}

fn kind(model: &Model, class: &Class) -> Kind {
    let is_convolved = |m: &planish_ir::axes::Member| {
        let graph = model.graph_at(&m.graph)?;
        graph.constant(m.value)?;
        let reads = |u: planish_ir::Use| match u {
            planish_ir::Use::Node(node, _) => graph.node(node),
            planish_ir::Use::Output(_) => None,
        };
        Some(graph.users(m.value).filter_map(reads).any(|n| n.op.is("Conv") || n.op.is("ConvTranspose")))
    };
    // A convolution that is flattened has blocks too.
    if class.members.iter().filter_map(is_convolved).any(|c| c) {
        return Kind::Channels;
    }
    match class.members.iter().any(|m| m.block != Dim::Known(1)) {
        true => Kind::Heads,
        false => Kind::Neurons,
    }
}

fn weights(model: &Model, class: &Class) -> Vec<String> {
    let name = |m: &planish_ir::axes::Member| {
        let graph = model.graph_at(&m.graph)?;
        graph.constant(m.value).filter(|t| t.rank() > 1).map(|_| graph.name_of(m.value))
    };
    class.members.iter().filter_map(name).collect()
}

/// The layers that sum over a class, but for nodes that need none to make up for what goes; or why it is not pruned.
fn readers(
    model: &Model,
    cx: &Context<'_>,
    class: &Class,
    is_passed: impl Fn(NodeId) -> bool,
) -> Result<Vec<Reads>, String> {
    if !class.mixed.is_empty() {
        return Err("a normalization or the like mixes them".into());
    }
    let main = GraphPath::main();
    if class.members.iter().any(|m| m.graph != main) {
        return Err("a subgraph has them".into());
    }
    let mut readers = Vec::new();
    for place in class.summed.iter().filter(|p| !is_passed(p.node)) {
        let graph = &model.graph;
        let name = || {
            graph
                .node(place.node)
                .map_or_else(String::new, |n| n.output(0).map_or_else(String::new, |v| graph.name_of(v)))
        };
        let linear = Linear::of(graph, place.node).filter(|l| l.groups() == 1);
        let linear =
            linear.ok_or_else(|| format!("{:?} sums over them, and is no layer with constant weights", name()))?;
        let rank = cx.facts.shape(linear.input).map_or(0, <[_]>::len);
        let axis = planish_ir::infer::axis(linear.channel_axis, rank)?;
        let size = class.size.known().unwrap_or(0);
        let here: Vec<_> =
            class.members.iter().filter(|m| m.graph == main && m.value == linear.input && m.axis == axis).collect();
        let columns = |channel: u64| -> Option<Vec<usize>> {
            let mut columns = Vec::new();
            for m in &here {
                for p in m.places(channel)? {
                    let first = usize::try_from(p).ok()?.checked_mul(linear.taps)?;
                    columns.extend(first..first.checked_add(linear.taps)?);
                }
            }
            columns.sort_unstable();
            Some(columns)
        };
        let all: Option<Vec<Vec<usize>>> = (0..size).map(columns).collect();
        let width = graph.constant(linear.weight).and_then(|w| linear.width(w)).unwrap_or(0);
        let all = all.filter(|c| c.iter().any(|c| !c.is_empty()) && c.iter().flatten().all(|&c| c < width));
        readers.push((place.node, all.ok_or_else(|| format!("where {:?} has them is not known", name()))?));
    }
    if readers.is_empty() && !class.summed.iter().any(|p| is_passed(p.node)) {
        Err("nothing sums over them".into())
    } else {
        Ok(readers)
    }
}

#[cfg(test)]
mod tests {
    use planish_ir::{axes::classes, infer};

    use super::*;
    use crate::testing::parse;

    #[test]
    fn what_is_flattened_behind_a_convolution_is_no_head() {
        let model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,3,4,4] x) => (float[N,5] y) <float[8,3,1,1] w, float[128,6] fc, float[6,5] out> {
                a = Conv (x, w)
                b = Flatten (a)
                c = MatMul (b, fc)
                y = MatMul (c, out)
            }"#,
        );
        let facts = infer::infer(&model, &infer::Bindings::new());
        let classes = classes(&model, &facts);
        let found: Vec<_> = classes
            .all()
            .iter()
            .filter(|c| !weights(&model, c).is_empty() && c.blocks.is_empty())
            .map(|c| (c.size.known(), kind(&model, c)))
            .collect();
        assert_eq!(found, [(Some(8), Kind::Channels), (Some(6), Kind::Neurons)]);
    }
}
