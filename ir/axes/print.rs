//! Classes as text, for people and for tests: `8: w@0, x@1+8, f@1*49; summed by "fc"; blocked by output "y"`.

use super::{Block, Class, Classes, Member, Place};
use crate::{Dim, GraphPath, Model, ValueId};

impl Classes {
    /// One line per class that `keep` accepts, with the members that `list` accepts. A member is the name of its value, `@` and the axis, then `+` and its offset, `*` and
    /// the length of a channel, `x` and the number of copies, `/` and their distance, where they matter.
    pub fn show(&self, model: &Model, keep: impl Fn(&Class) -> bool, list: impl Fn(&Member) -> bool) -> String {
        self.all().iter().filter(|c| keep(c)).map(|c| line(model, c, &list) + "\n").collect()
    }
}

fn line(model: &Model, class: &Class, list: impl Fn(&Member) -> bool) -> String {
    let members: Vec<String> = class.members.iter().filter(|m| list(m)).map(|m| member(model, m)).collect();
    let mut text = format!("{}: {}", class.size, members.join(", "));
    for (what, places) in [("summed by", &class.summed), ("mixed by", &class.mixed)] {
        if !places.is_empty() {
            let labels: Vec<String> = places.iter().map(|p| label(model, p)).collect();
            text += &format!("; {what} {}", labels.join(", "));
        }
    }
    if !class.blocks.is_empty() {
        let blocks: Vec<String> = class.blocks.iter().map(|b| b.describe(model)).collect();
        text += &format!("; blocked by {}", blocks.join(", "));
    }
    text
}

fn member(model: &Model, m: &Member) -> String {
    let mut text = format!("{}@{}", name(model, &m.graph, m.value), m.axis);
    if m.offset != Dim::Known(0) {
        text += &format!("+{}", m.offset);
    }
    if m.block != Dim::Known(1) {
        text += &format!("*{}", m.block);
    }
    for r in &m.repeats {
        text += &format!("x{}/{}", r.count, r.stride);
    }
    text
}

impl Block {
    /// True if it is the place in a window or image that has to stay, which is no channel.
    pub fn is_window(&self) -> bool {
        matches!(self, Block::Node(_, why) if *why == super::WINDOW)
    }

    /// As in `output "y"` or `"attn" (its sizes do not factor)`.
    pub fn describe(&self, model: &Model) -> String {
        let main = GraphPath::main();
        match self {
            Block::Input(v) => format!("input {:?}", name(model, &main, *v)),
            Block::Output(v) => format!("output {:?}", name(model, &main, *v)),
            Block::Value(graph, v, why) => format!("{:?} ({why})", name(model, graph, *v)),
            Block::Node(place, why) => format!("{} ({why})", label(model, place)),
        }
    }
}

fn name(model: &Model, graph: &GraphPath, value: ValueId) -> String {
    model.graph_at(graph).map_or_else(|| value.to_string(), |g| g.name_of(value))
}

/// A node by its name, or else by what it makes.
fn label(model: &Model, place: &Place) -> String {
    let Some(g) = model.graph_at(&place.graph) else { return place.node.to_string() };
    match g.node(place.node).map(|n| (n.name.as_str(), n.output(0))) {
        Some(("", Some(v))) => format!("{:?}", g.name_of(v)),
        Some(("", None)) | None => place.node.to_string(),
        Some((name, _)) => format!("{name:?}"),
    }
}
