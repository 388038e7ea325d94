//! Patches: what a rule wants changed, as data.
//!
//! A rule reads an immutable graph and describes new constants and nodes and what is to read them. [`Patch::apply`]
//! checks everything before it changes anything, keeps the names of the interface, and removes what the change left
//! without a reader. So "failed half-way" and "changed something and said no" cannot happen.

mod apply;
mod inline;
mod narrow;

use crate::{Attrs, Graph, NodeId, OpName, SparseTensor, Tensor, Type, ValueId};
use inline::Inlined;

pub use apply::{Applied, PatchError, Removed};
pub use narrow::Keep;

/// How far a change may move the outputs. Ordered: a sequence of changes is as inexact as its worst member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Numerics {
    /// Bit for bit the same outputs.
    Exact,
    /// The same in real arithmetic; floats may round differently.
    Reassociated,
    /// Different outputs, by an amount that the pass measures or bounds.
    Lossy,
}

/// A value that a patch refers to: one of the graph, or one that the patch itself adds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ref {
    /// In the graph already.
    Value(ValueId),
    /// A constant of the patch.
    Constant(usize),
    /// An output of a node, or of a graph, that the patch adds: (which, slot).
    Output(usize, usize),
}

/// Changes to one graph.
#[derive(Clone, Debug)]
pub struct Patch {
    pub(crate) constants: Vec<(String, Tensor)>,
    pub(crate) added: Vec<Added>,
    pub(crate) edits: Vec<Edit>,
    pub(crate) imports: Vec<(String, i64)>,
    numerics: Numerics,
    note: String,
}

/// Something with outputs that a patch adds.
#[derive(Clone, Debug)]
pub(crate) enum Added {
    Node(NewNode),
    Graph(Box<Inlined>),
}

/// A node to add.
#[derive(Clone, Debug)]
pub(crate) struct NewNode {
    pub(crate) name: String,
    pub(crate) op: OpName,
    pub(crate) inputs: Vec<Option<Ref>>,
    /// Name and type; `None` for one that is left out.
    pub(crate) outputs: Vec<Option<(String, Option<Type>)>>,
    pub(crate) attrs: Attrs,
    pub(crate) captures: Vec<ValueId>,
    pub(crate) origin: Option<NodeId>,
}

#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Replace { old: ValueId, new: Ref },
    SetInput { node: NodeId, slot: u32, value: Option<Ref> },
    SetAttrs { node: NodeId, attrs: Attrs },
    SetOp { node: NodeId, op: OpName },
    SetType { value: ValueId, ty: Type },
    SetTensor { value: ValueId, tensor: Tensor },
    SetSparse { value: ValueId, tensor: SparseTensor },
    Freeze(Vec<ValueId>),
    RemoveNode(NodeId),
    RemoveValue(ValueId),
    DropOutput { node: NodeId, value: ValueId },
    Recapture { node: NodeId, keep: Vec<u32> },
    Narrow { node: NodeId, keep: Keep },
}

impl Patch {
    /// An empty patch; `note` says in a few words what it does, for the log.
    pub fn new(numerics: Numerics, note: impl Into<String>) -> Patch {
        Patch {
            constants: Vec::new(),
            added: Vec::new(),
            edits: Vec::new(),
            imports: Vec::new(),
            numerics,
            note: note.into(),
        }
    }

    /// What it does, in a few words.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// How far it may move the outputs.
    pub const fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.constants.is_empty() && self.added.is_empty() && self.edits.is_empty()
    }

    /// Adds a constant. `name` is a wish: it gets a suffix if it is taken.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Ref {
        self.constants.push((name.into(), tensor));
        Ref::Constant(self.constants.len() - 1)
    }

    /// Adds a node. Finish it with [`NodeBuilder::output`] or [`NodeBuilder::outputs`].
    pub fn node(&mut self, op: OpName, inputs: impl IntoIterator<Item = impl Into<Option<Ref>>>) -> NodeBuilder<'_> {
        let node = NewNode {
            name: String::new(),
            op,
            inputs: inputs.into_iter().map(Into::into).collect(),
            outputs: Vec::new(),
            attrs: Attrs::new(),
            captures: Vec::new(),
            origin: None,
        };
        NodeBuilder { patch: self, node }
    }

    /// The patch adds nodes of this operator set: the model is to import it, if it does not yet. Fails to apply if it
    /// imports another version.
    pub fn import(&mut self, domain: impl Into<String>, version: i64) {
        self.imports.push((domain.into(), version));
    }

    /// Copies the nodes and constants of another graph into this one, such as a branch of an `If` or the body of a
    /// function: input `i` of `body` stands for `inputs[i]`, what it captures under number `k` for `captures[k]`. An input
    /// that is `None` is left out by the nodes that read it. Returns what the outputs of `body` are. Copied values and
    /// nodes keep their names, behind `prefix` and a slash if it is not empty, as far as those are free.
    ///
    /// The node that owned the body stays until the patch removes it; see [`Patch::remove_node`].
    pub fn inline(
        &mut self,
        body: Graph,
        prefix: impl Into<String>,
        inputs: Vec<Option<Ref>>,
        captures: Vec<ValueId>,
    ) -> Vec<Ref> {
        let at = self.added.len();
        let outputs = (0..body.outputs().len()).map(|slot| Ref::Output(at, slot)).collect();
        self.added.push(Added::Graph(Box::new(Inlined { body, prefix: prefix.into(), inputs, captures })));
        outputs
    }

    /// Every reader of `old`, graph outputs and subgraphs included, reads `new` instead; readers that this patch adds
    /// keep reading `old`, so that a node can be inserted behind a value. The new value takes over the old one's name.
    /// Whatever only served to make `old` is removed.
    pub fn replace(&mut self, old: ValueId, new: impl Into<Ref>) {
        self.edits.push(Edit::Replace { old, new: new.into() });
    }

    /// One input slot of a node reads another value, or nothing.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: Option<Ref>) {
        self.edits.push(Edit::SetInput { node, slot: slot as u32, value });
    }

    /// A node gets other attributes. Its subgraphs must stay as they are.
    pub fn set_attrs(&mut self, node: NodeId, attrs: Attrs) {
        self.edits.push(Edit::SetAttrs { node, attrs });
    }

    /// A node calls another operator, which must take its operands and attributes as they are after this patch.
    pub fn set_op(&mut self, node: NodeId, op: OpName) {
        self.edits.push(Edit::SetOp { node, op });
    }

    /// A value's type is known better.
    pub fn set_type(&mut self, value: ValueId, ty: Type) {
        self.edits.push(Edit::SetType { value, ty });
    }

    /// A constant gets another tensor, and with it another type; its name and its readers stay. Unlike with
    /// [`Patch::replace`], the new type need not fit the old one: the patch has to bring the readers along.
    pub fn set_tensor(&mut self, value: ValueId, tensor: Tensor) {
        self.edits.push(Edit::SetTensor { value, tensor });
    }

    /// A constant is stored in sparse form; its type has to stay, and so have its elements.
    pub fn set_sparse(&mut self, value: ValueId, tensor: SparseTensor) {
        self.edits.push(Edit::SetSparse { value, tensor });
    }

    /// Inputs that have defaults are no inputs any more, and always those.
    pub fn freeze(&mut self, values: Vec<ValueId>) {
        self.edits.push(Edit::Freeze(values));
    }

    /// Removes a node that nobody reads, or whose outputs the patch has replaced before.
    pub fn remove_node(&mut self, node: NodeId) {
        self.edits.push(Edit::RemoveNode(node));
    }

    /// Removes a constant that nobody reads.
    pub fn remove_value(&mut self, value: ValueId) {
        self.edits.push(Edit::RemoveValue(value));
    }

    /// Leaves out an output of a node that nobody reads. The operator must allow it.
    pub fn drop_output(&mut self, node: NodeId, value: ValueId) {
        self.edits.push(Edit::DropOutput { node, value });
    }

    /// Keeps only the captures with these numbers, ascending; no subgraph may use the others.
    pub fn keep_captures(&mut self, node: NodeId, keep: Vec<u32>) {
        self.edits.push(Edit::Recapture { node, keep });
    }

    /// Takes operands away from a node with subgraphs, and from its subgraphs with them. What only served to make them is
    /// removed on both sides.
    pub fn narrow(&mut self, node: NodeId, keep: Keep) {
        self.edits.push(Edit::Narrow { node, keep });
    }
}

/// A node under construction.
#[derive(Debug)]
#[must_use = "the node is added by `output` or `outputs`"]
pub struct NodeBuilder<'a> {
    patch: &'a mut Patch,
    node: NewNode,
}

impl NodeBuilder<'_> {
    /// Sets all attributes.
    pub fn attrs(mut self, attrs: Attrs) -> Self {
        self.node.attrs = attrs;
        self
    }

    /// Sets one attribute.
    pub fn attr(mut self, name: &str, value: impl Into<crate::Attr>) -> Self {
        self.node.attrs.set(name, value.into());
        self
    }

    /// Names the node.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.node.name = name.into();
        self
    }

    /// The node stands in the place of another one: it takes over its name, doc string, metadata, placement and
    /// captures, as far as they are not given.
    pub fn in_place_of(mut self, node: NodeId) -> Self {
        self.node.origin = Some(node);
        self
    }

    /// Adds the node with one output, which is named `name` if that is free, and has the type if it is known.
    pub fn output(mut self, name: impl Into<String>, ty: Option<Type>) -> Ref {
        self.node.outputs.push(Some((name.into(), ty)));
        self.patch.added.push(Added::Node(self.node));
        Ref::Output(self.patch.added.len() - 1, 0)
    }

    /// Adds the node with several outputs.
    pub fn outputs(self, outputs: Vec<(String, Option<Type>)>) -> Vec<Ref> {
        self.optional_outputs(outputs.into_iter().map(Some).collect())
    }

    /// Adds the node with several outputs, of which those that are `None` are left out.
    pub fn optional_outputs(mut self, outputs: Vec<Option<(String, Option<Type>)>>) -> Vec<Ref> {
        let (at, count) = (self.patch.added.len(), outputs.len());
        self.node.outputs = outputs;
        self.patch.added.push(Added::Node(self.node));
        (0..count).map(|slot| Ref::Output(at, slot)).collect()
    }
}

impl From<ValueId> for Ref {
    fn from(v: ValueId) -> Ref {
        Ref::Value(v)
    }
}
