//! Nodes and their attributes.

use std::fmt::{Display, Write as _};

use planish_proto::onnx::attribute_proto::AttributeType as Kind;

use super::{
    Printer, name_of,
    tensor::{in_attribute, sparse_type, sparse_values},
    token::{Float, Id, Op, QuotedBytes, Ty, Word},
};
use crate::{Attr, Graph, Node, SparseTensor, ValueId, text::parse::kind_name};

impl Printer {
    /// `[conv1] c = Conv <pads = [1, 1, 1, 1]> (x, w)`; subgraphs come after the inputs, on lines of their own.
    pub(super) fn node(&mut self, g: &Graph, node: &Node, names: &[String]) {
        if !node.name.is_empty() {
            self.put(format_args!("[{}] ", Id(&node.name)));
        }
        self.slots(g, &node.outputs, names);
        let space = if node.outputs.is_empty() { "" } else { " " };
        self.put(format_args!("{space}= {}", Op(&node.op)));
        let nested = node.attrs.has_graphs();
        if !nested && !node.attrs.is_empty() {
            self.out.push_str(" <");
            for (i, (name, attr)) in node.attrs.iter().enumerate() {
                self.out.push_str(if i == 0 { "" } else { ", " });
                self.attribute(name, attr, &[]);
            }
            self.out.push('>');
        }
        self.out.push_str(" (");
        self.slots(g, &node.inputs, names);
        self.out.push(')');
        if nested {
            self.nested_attributes(g, node, names);
        }
        if self.options.types {
            self.types(g, node);
        }
    }

    fn nested_attributes(&mut self, g: &Graph, node: &Node, names: &[String]) {
        let captured: Vec<String> = node.captures.iter().map(|&v| name_of(g, names, v).to_owned()).collect();
        self.out.push_str(" <");
        self.depth += 1;
        for (i, (name, attr)) in node.attrs.iter().enumerate() {
            self.out.push_str(if i == 0 { "\n" } else { ",\n" });
            self.indent();
            self.attribute(name, attr, &captured);
        }
        self.depth -= 1;
        self.out.push('\n');
        self.indent();
        self.out.push('>');
    }

    fn slots(&mut self, g: &Graph, slots: &[Option<ValueId>], names: &[String]) {
        for (i, slot) in slots.iter().enumerate() {
            let name = slot.map_or("", |v| name_of(g, names, v));
            self.put(format_args!("{}{}", if i == 0 { "" } else { ", " }, Id(name)));
        }
    }

    fn types(&mut self, g: &Graph, node: &Node) {
        let types = node.outputs.iter().map(|v| v.and_then(|v| g.ty(v)));
        let shown: Vec<String> = types.map(|t| t.map_or_else(|| "?".to_owned(), |t| Ty(t).to_string())).collect();
        if shown.iter().any(|t| t != "?") {
            self.put(format_args!("  # {}", shown.join(", ")));
        }
    }

    /// `name = value`, with the type only where the value does not tell it. `captured` is for subgraphs.
    pub(super) fn attribute(&mut self, name: &str, attr: &Attr, captured: &[String]) {
        self.put(format_args!("{}", Word(name)));
        if let Attr::Ref { name, kind } = attr {
            match Kind::try_from(*kind) {
                Ok(Kind::Undefined) => {}
                Ok(kind) => self.put(format_args!(": {}", kind_name(kind))),
                Err(_) => self.put(format_args!(": {kind}")),
            }
            self.put(format_args!(" = @{}", Word(name)));
            return;
        }
        if let Some(kind) = empty_list(attr) {
            self.put(format_args!(": {} = []", kind_name(kind)));
            return;
        }
        self.out.push_str(" = ");
        let options = self.options;
        let sparse = |t: &SparseTensor| format!("{} {}", sparse_type(t), sparse_values(t));
        match attr {
            Attr::Int(v) => self.put(format_args!("{v}")),
            Attr::Float(v) => self.put(format_args!("{}", Float(*v))),
            Attr::String(v) => self.put(format_args!("{}", QuotedBytes(v))),
            Attr::Tensor(t) => self.put(format_args!("{}", in_attribute(t, options))),
            Attr::SparseTensor(t) => self.put(format_args!("{}", sparse(t))),
            Attr::Type(t) => self.put(format_args!("{}", Ty(t))),
            Attr::Graph(g) => self.graph(g, Some(captured)),
            Attr::Ints(v) => self.list(v.iter()),
            Attr::Floats(v) => self.list(v.iter().map(|x| Float(*x))),
            Attr::Strings(v) => self.list(v.iter().map(QuotedBytes)),
            Attr::Tensors(v) => self.list(v.iter().map(|t| in_attribute(t, options))),
            Attr::SparseTensors(v) => self.list(v.iter().map(sparse)),
            Attr::Types(v) => self.list(v.iter().map(Ty)),
            Attr::Graphs(v) => {
                self.out.push('[');
                for (i, g) in v.iter().enumerate() {
                    self.out.push_str(if i == 0 { "" } else { ", " });
                    self.graph(g, Some(captured));
                }
                self.out.push(']');
            }
            // Printed above.
            Attr::Ref { .. } => {}
        }
    }

    fn list<T: Display>(&mut self, items: impl Iterator<Item = T>) {
        self.out.push('[');
        for (i, item) in items.enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(self.out, "{}{item}", if i == 0 { "" } else { ", " });
        }
        self.out.push(']');
    }
}

/// The type of an empty list, which nothing else tells.
fn empty_list(attr: &Attr) -> Option<Kind> {
    Some(match attr {
        Attr::Ints(v) if v.is_empty() => Kind::Ints,
        Attr::Floats(v) if v.is_empty() => Kind::Floats,
        Attr::Strings(v) if v.is_empty() => Kind::Strings,
        Attr::Tensors(v) if v.is_empty() => Kind::Tensors,
        Attr::SparseTensors(v) if v.is_empty() => Kind::SparseTensors,
        Attr::Types(v) if v.is_empty() => Kind::TypeProtos,
        Attr::Graphs(v) if v.is_empty() => Kind::Graphs,
        _ => return None,
    })
}
