//! A node on its way to a newer opset.
//!
//! The steps of a conversion see the node as the previous step left it. [`Draft::commit`] then writes into the patch
//! what differs from the node in the graph, which keeps its name, its place and its outputs.

use std::collections::HashMap;

use planish_ir::{Attr, Attrs, DType, Dim, Graph, Node, NodeId, OpName, Patch, Ref, Tensor, Type, ValueId};

/// An input slot.
#[derive(Clone)]
pub(super) enum Input {
    /// Left out.
    Absent,
    /// A value of the graph, or of a helper node.
    Wire(Ref),
    /// A constant to be made, and what it is, for its name.
    Made(&'static str, Tensor),
}

/// The node as the steps so far have made it.
pub(super) struct Draft<'a> {
    /// Name of the operator.
    pub(super) op: String,
    graph: &'a Graph,
    id: NodeId,
    node: &'a Node,
    /// `None` as long as they are those of the node, which may own whole subgraphs.
    attrs: Option<Attrs>,
    /// Changed slots.
    inputs: HashMap<usize, Input>,
    patch: &'a mut Patch,
    /// Where to read what used to be an output of a node that was converted before.
    moved: &'a mut HashMap<ValueId, Ref>,
}

/// How messages and new values name a node: by its name, or else by what it makes.
pub(super) fn label(graph: &Graph, id: NodeId, node: &Node) -> String {
    match (node.name.as_str(), node.output(0)) {
        ("", Some(v)) => graph.name_of(v),
        ("", None) => id.to_string(),
        (name, _) => name.to_owned(),
    }
}

impl<'a> Draft<'a> {
    /// The node as it is.
    pub(super) fn new(
        graph: &'a Graph,
        id: NodeId,
        node: &'a Node,
        patch: &'a mut Patch,
        moved: &'a mut HashMap<ValueId, Ref>,
    ) -> Draft<'a> {
        let op = node.op.name.clone();
        Draft { op, graph, id, node, attrs: None, inputs: HashMap::new(), patch, moved }
    }

    /// Number of output slots.
    pub(super) fn outputs(&self) -> usize {
        self.node.outputs().len()
    }

    /// True if the output slot is in use.
    pub(super) fn has_output(&self, slot: usize) -> bool {
        self.node.output(slot).is_some()
    }

    /// What an input slot reads now.
    pub(super) fn input(&self, slot: usize) -> Input {
        match (self.inputs.get(&slot), self.node.input(slot)) {
            (Some(input), _) => input.clone(),
            (None, Some(v)) => Input::Wire(self.read(v)),
            (None, None) => Input::Absent,
        }
    }

    /// The value that the node's first input slot reads. Fails if there is none.
    pub(super) fn first(&self) -> Result<Ref, String> {
        self.node.input(0).map(|v| self.read(v)).ok_or_else(|| "its first input is missing".into())
    }

    /// True if an input slot is in use.
    pub(super) fn has_input(&self, slot: usize) -> bool {
        !matches!(self.input(slot), Input::Absent)
    }

    /// Changes an input slot.
    pub(super) fn set_input(&mut self, slot: usize, input: Input) {
        self.inputs.insert(slot, input);
    }

    /// The tensor at an input slot, if it is constant.
    pub(super) fn constant(&self, slot: usize) -> Option<&Tensor> {
        match self.inputs.get(&slot) {
            Some(Input::Made(_, tensor)) => Some(tensor),
            Some(Input::Absent | Input::Wire(_)) => None,
            None => {
                let v = self.node.input(slot)?;
                let made = || self.graph.producer(v).filter(|(_, n)| n.op.is("Constant"))?.1.attrs.tensor("value");
                self.graph.constant(v).or_else(made)
            }
        }
    }

    /// Shape that the node of the graph gets at an input slot.
    pub(super) fn shape(&self, slot: usize) -> Option<&'a [Dim]> {
        self.graph.ty(self.node.input(slot)?)?.shape()
    }

    /// Element type that the node of the graph gets at an input slot, if it is known.
    pub(super) fn known_dtype(&self, slot: usize) -> Option<DType> {
        self.graph.ty(self.node.input(slot)?)?.dtype()
    }

    /// Element type that the node of the graph gets at an input slot. Fails if it is unknown.
    pub(super) fn dtype(&self, slot: usize) -> Result<DType, String> {
        let unknown = || {
            let name = self.node.input(slot).map_or_else(|| format!("number {slot}"), |v| self.graph.name_of(v));
            format!("the element type of its input {name:?} is unknown; declare it in the model")
        };
        self.known_dtype(slot).ok_or_else(unknown)
    }

    /// The attribute as it is now.
    pub(super) fn attr(&self, name: &str) -> Option<&Attr> {
        self.attrs.as_ref().unwrap_or(&self.node.attrs).get(name)
    }

    /// A string attribute as it is now.
    pub(super) fn str(&self, name: &str) -> Option<&str> {
        self.attrs.as_ref().unwrap_or(&self.node.attrs).str(name)
    }

    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: impl Into<Attr>) {
        self.attrs.get_or_insert_with(|| self.node.attrs.clone()).set(name, value.into());
    }

    /// Takes an attribute out, if there is one.
    pub(super) fn take(&mut self, name: &str) -> Option<Attr> {
        self.attr(name)?;
        self.attrs.get_or_insert_with(|| self.node.attrs.clone()).remove(name)
    }

    /// Takes an integer attribute out. Fails if it is of another type.
    pub(super) fn take_int(&mut self, name: &str) -> Result<Option<i64>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Attr::Int(i)) => Ok(Some(i)),
            Some(_) => Err(format!("its attribute {name:?} is no integer")),
        }
    }

    /// Takes an attribute with a list of integers out. Fails if it is of another type.
    pub(super) fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Attr::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(format!("its attribute {name:?} is no list of integers")),
        }
    }

    /// Takes a float attribute out. Fails if it is of another type.
    pub(super) fn take_float(&mut self, name: &str) -> Result<Option<f32>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Attr::Float(x)) => Ok(Some(x)),
            Some(_) => Err(format!("its attribute {name:?} is no float")),
        }
    }

    /// Takes an attribute with a list of floats out. Fails if it is of another type.
    pub(super) fn take_floats(&mut self, name: &str) -> Result<Option<Vec<f32>>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Attr::Floats(v)) => Ok(Some(v)),
            Some(_) => Err(format!("its attribute {name:?} is no list of floats")),
        }
    }

    /// A constant of 64-bit integers for helper nodes; `what` says what they are, for its name.
    pub(super) fn ints(&mut self, what: &str, values: &[i64]) -> Ref {
        let name = self.name(what);
        self.patch.constant(name, Tensor::ints(values))
    }

    /// Adds a node with one output beside this one; `what` says what it makes, for its name.
    pub(super) fn helper(&mut self, what: &str, op: &str, inputs: impl IntoIterator<Item = Ref>, attrs: Attrs) -> Ref {
        let name = self.name(what);
        self.patch.node(OpName::onnx(op), inputs).attrs(attrs).name(name.clone()).output(name, None)
    }

    /// An output of this node, to be read by a helper node.
    pub(super) fn output(&self, slot: usize) -> Result<(ValueId, &'a Graph), String> {
        let v = self.node.output(slot).ok_or_else(|| format!("its output number {slot} is missing"))?;
        Ok((v, self.graph))
    }

    /// All readers of an output read `new` instead, which is made from it; the output itself is then of type `ty`.
    pub(super) fn move_output(&mut self, output: ValueId, new: Ref, ty: Option<Type>) {
        self.patch.replace(output, new);
        if let Some(ty) = ty {
            self.patch.set_type(output, ty);
        }
        self.moved.insert(output, new);
    }

    /// Writes into the patch what differs from the node; returns whether anything does.
    pub(super) fn commit(mut self) -> bool {
        let changed = self.op != self.node.op.name || self.attrs.is_some() || !self.inputs.is_empty();
        if self.op != self.node.op.name {
            self.patch.set_op(self.id, OpName::onnx(&self.op));
        }
        if let Some(attrs) = self.attrs.take() {
            self.patch.set_attrs(self.id, attrs);
        }
        let mut slots: Vec<(usize, Input)> = self.inputs.drain().collect();
        slots.sort_unstable_by_key(|(slot, _)| *slot);
        for (slot, input) in slots {
            let value = match input {
                Input::Absent => None,
                Input::Wire(r) => Some(r),
                Input::Made(what, tensor) => {
                    let name = self.name(what);
                    Some(self.patch.constant(name, tensor))
                }
            };
            self.patch.set_input(self.id, slot, value);
        }
        changed
    }

    fn read(&self, v: ValueId) -> Ref {
        self.moved.get(&v).copied().unwrap_or(Ref::Value(v))
    }

    fn name(&self, what: &str) -> String {
        format!("{}_{what}", label(self.graph, self.id, self.node))
    }
}
