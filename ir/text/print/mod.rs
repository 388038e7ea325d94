//! A model to text.
//!
//! Works on any model, also one that the verifier refuses, since that is when it is needed most.

mod node;
mod tensor;
mod token;

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use crate::names::Scopes;
use crate::{Def, Function, Graph, Metadata, Model, NodeId, Opsets, Value, ValueId};
use token::{Id, Quoted, Ty, Word};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrintOptions {
    /// Say in comments what weights are whose values are not shown: digest, number of elements, share of zeros. This
    /// reads them.
    pub digests: bool,
    /// Show the values of all weights and the types of all values, so that parsing gives the same model back.
    pub full: bool,
    /// Say in a comment after each node what types its outputs have.
    pub types: bool,
}

impl Default for PrintOptions {
    fn default() -> PrintOptions {
        PrintOptions { digests: true, full: false, types: false }
    }
}

impl PrintOptions {
    /// Everything that the syntax has a place for.
    pub const fn full() -> PrintOptions {
        PrintOptions { digests: false, full: true, types: false }
    }
}

/// Lines longer than this are broken where that is possible.
const WIDTH: usize = 120;

/// Prints a model with the default options: for reading.
pub fn print(model: &Model) -> String {
    print_with(model, PrintOptions::default())
}

/// Prints a model.
pub fn print_with(model: &Model, options: PrintOptions) -> String {
    print_showing(model, options, BTreeSet::new())
}

/// Prints a model and shows the values of the weights with these names, however many they are.
pub fn print_showing(model: &Model, options: PrintOptions, shown: BTreeSet<String>) -> String {
    let mut p = Printer { shown, ..Printer::new(options) };
    p.header(model);
    p.graph(&model.graph, None);
    p.out.push('\n');
    for f in &model.functions {
        p.function(f);
    }
    p.out
}

/// Prints a graph with the default options.
pub fn print_graph(graph: &Graph) -> String {
    print_graph_with(graph, PrintOptions::default())
}

/// Prints a graph. What a subgraph captures has the names that it has inside.
pub fn print_graph_with(graph: &Graph, options: PrintOptions) -> String {
    let mut p = Printer::new(options);
    p.graph(graph, None);
    p.out.push('\n');
    p.out
}

struct Printer {
    out: String,
    options: PrintOptions,
    /// Weights whose values are shown.
    shown: BTreeSet<String>,
    scopes: Scopes,
    /// Graphs around the cursor.
    depth: usize,
}

/// One line of a graph's `<…>`.
struct Entry {
    text: String,
    comment: Option<String>,
}

impl Printer {
    fn new(options: PrintOptions) -> Printer {
        Printer { out: String::new(), options, shown: BTreeSet::new(), scopes: Scopes::default(), depth: 0 }
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(text);
    }

    fn indent(&mut self) {
        self.put(format_args!("{:1$}", "", 2 * self.depth));
    }

    fn header(&mut self, m: &Model) {
        let mut items = vec![format!("ir_version: {}", m.ir_version), opsets(&m.opsets)];
        for (key, text) in
            [("producer_name", &m.producer_name), ("producer_version", &m.producer_version), ("domain", &m.domain)]
        {
            items.extend(text_item(key, text));
        }
        items.extend(m.model_version.map(|v| format!("model_version: {v}")));
        items.extend(text_item("doc_string", &m.doc));
        items.extend(metadata_item(&m.metadata));
        self.listing("<", &items, ">");
        self.out.push('\n');
    }

    fn function(&mut self, f: &Function) {
        self.out.push('\n');
        let mut items = vec![format!("domain: {}", Quoted(&f.op.domain))];
        items.extend(text_item("overload", &f.op.overload));
        items.push(opsets(&f.opsets));
        items.extend(text_item("doc_string", &f.doc));
        self.listing("<", &items, ">");
        self.put(format_args!("\n{} ", Id(&f.op.name)));

        let mut attributes: Vec<String> = f.attributes.iter().map(|a| Word(a).to_string()).collect();
        for (name, attr) in f.defaults.iter() {
            let at = self.out.len();
            self.attribute(name, attr, &[]);
            attributes.push(self.out.split_off(at));
        }
        if !attributes.is_empty() {
            self.listing("<", &attributes, "> ");
        }
        let names = self.scopes.enter(&f.body, None);
        self.signature(&f.body, &names);
        self.body(&f.body, &names);
        self.scopes.leave();
        self.out.push('\n');
    }

    /// From the name of a graph to its closing brace. `captured` are the names of what its owner captures, if there is
    /// one.
    fn graph(&mut self, g: &Graph, captured: Option<&[String]>) {
        let names = self.scopes.enter(g, captured);
        self.put(format_args!("{} ", Id(&g.name)));
        self.signature(g, &names);
        self.body(g, &names);
        self.scopes.leave();
    }

    fn signature(&mut self, g: &Graph, names: &[String]) {
        let list = |ids: &[ValueId]| -> Vec<String> { ids.iter().map(|&v| declaration(g, names, v)).collect() };
        self.listing("(", &list(g.inputs()), ")");
        self.listing(" => (", &list(g.outputs()), ")");
    }

    /// Weights, types and nodes.
    fn body(&mut self, g: &Graph, names: &[String]) {
        let order = g.topological_order();
        let cyclic = order.is_err();
        let order: Vec<NodeId> = order.unwrap_or_else(|_| g.nodes().map(|(id, _)| id).collect());
        let entries = self.entries(g, names, &order);
        match entries.is_empty() {
            true => self.out.push(' '),
            false => self.block(&entries),
        }
        self.out.push('{');
        if cyclic {
            self.out.push_str("  # the nodes form a cycle, hence the order means nothing");
        }
        self.out.push('\n');
        self.depth += 1;
        for node in order.into_iter().filter_map(|id| g.node(id)) {
            self.indent();
            self.node(g, node, names);
            self.out.push('\n');
        }
        self.depth -= 1;
        self.indent();
        self.out.push('}');
    }

    /// Weights in the order of ids, then types of intermediate values in the order of nodes.
    fn entries(&self, g: &Graph, names: &[String], order: &[NodeId]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (id, v) in g.values() {
            let name = name_of(g, names, id);
            let full = self.options.full || self.shown.contains(name);
            let name = Id(name);
            match &v.def {
                Def::Constant(t) | Def::Input { default: Some(t) } => {
                    let is_default = matches!(v.def, Def::Input { .. });
                    entries.push(tensor::entry(t, name, is_default, PrintOptions { full, ..self.options }));
                }
                Def::SparseConstant(t) => {
                    let text = format!("{} {name} = {}", tensor::sparse_type(t), tensor::sparse_values(t));
                    entries.push(Entry { text, comment: None });
                }
                Def::Input { default: None } | Def::Node { .. } | Def::Captured(_) => {}
            }
        }
        if self.options.full {
            let outputs = order.iter().filter_map(|&id| g.node(id)).flat_map(|n| n.outputs.iter().flatten());
            let typed = |id: ValueId| g.value(id).is_some_and(|v: &Value| v.ty.is_some() && !v.is_output());
            for &id in outputs.filter(|&&id| typed(id)) {
                entries.push(Entry { text: declaration(g, names, id), comment: None });
            }
        }
        entries
    }

    fn block(&mut self, entries: &[Entry]) {
        self.out.push('\n');
        self.indent();
        self.out.push_str("<\n");
        for (i, Entry { text, comment }) in entries.iter().enumerate() {
            self.indent();
            let comma = if i + 1 < entries.len() { "," } else { "" };
            self.put(format_args!("  {text}{comma}"));
            if let Some(comment) = comment {
                self.put(format_args!("  # {comment}"));
            }
            self.out.push('\n');
        }
        self.indent();
        self.out.push_str(">\n");
        self.indent();
    }

    /// Items on one line, or on one each if the line would be too long.
    fn listing(&mut self, open: &str, items: &[String], close: &str) {
        let line = self.out.len() - self.out.rfind('\n').map_or(0, |i| i + 1);
        let width = items.iter().map(|s| s.len() + 2).sum::<usize>() + line + open.len() + close.len();
        self.out.push_str(open);
        if width <= WIDTH {
            self.put(format_args!("{}{close}", items.join(", ")));
            return;
        }
        for (i, item) in items.iter().enumerate() {
            self.out.push('\n');
            self.indent();
            let comma = if i + 1 < items.len() { "," } else { "" };
            self.put(format_args!("  {item}{comma}"));
        }
        self.out.push('\n');
        self.indent();
        self.out.push_str(close);
    }
}

/// The name of a value here; a value that is gone shows its id.
fn name_of<'a>(g: &Graph, names: &'a [String], id: ValueId) -> &'a str {
    match g.value(id) {
        Some(_) => names.get(id.index()).map_or("", String::as_str),
        None => "removed",
    }
}

/// `float[N,3] x`, or only the name of a value without a type.
fn declaration(g: &Graph, names: &[String], id: ValueId) -> String {
    let name = Id(name_of(g, names, id));
    match g.ty(id) {
        Some(ty) => format!("{} {name}", Ty(ty)),
        None => name.to_string(),
    }
}

fn opsets(opsets: &Opsets) -> String {
    let items: Vec<String> = opsets.iter().map(|(domain, v)| format!("{} : {v}", Quoted(domain))).collect();
    format!("opset_import: [{}]", items.join(", "))
}

fn text_item(key: &str, text: &str) -> Option<String> {
    (!text.is_empty()).then(|| format!("{key}: {}", Quoted(text)))
}

fn metadata_item(metadata: &Metadata) -> Option<String> {
    let items: Vec<String> = metadata.iter().map(|(k, v)| format!("{}: {}", Quoted(k), Quoted(v))).collect();
    (!items.is_empty()).then(|| format!("metadata_props: [{}]", items.join(", ")))
}
