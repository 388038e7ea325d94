//! Mutation, for import and for [`Patch`](crate::Patch) only: everybody else sees `&Graph`.
//!
//! Each function keeps the redundant parts (users, edges, names) in step, and forgets the order if it can change it. Ids
//! that are dead are ignored: callers check before, and the verifier finds what slipped through.

use std::collections::BTreeSet;

use petgraph::{Direction, graph::NodeIndex, visit::EdgeRef};

use crate::{Def, Graph, Node, NodeId, Operand, Type, Use, Value, ValueId};

impl Graph {
    /// Adds a value. The name must be free; see [`Graph::fresh_name`].
    pub(crate) fn add_value(&mut self, name: String, ty: Option<Type>, def: Def) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.by_name.insert(name.clone(), id);
        let users = BTreeSet::new();
        let (doc, metadata) = Default::default();
        self.values.push(Some(Value { name, ty, inferred: false, def, users, doc, metadata }));
        id
    }

    /// Adds a value and makes it the last input.
    pub(crate) fn add_input(&mut self, name: String, ty: Option<Type>, default: Option<crate::Tensor>) -> ValueId {
        let id = self.add_value(name, ty, Def::Input { default });
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub(crate) fn add_constant(&mut self, name: String, tensor: crate::Tensor) -> ValueId {
        let ty = Type::tensor(tensor.dtype(), tensor.dims().iter().map(|&d| d.into()));
        self.add_value(name, Some(ty), Def::Constant(tensor))
    }

    /// Makes a value the last output.
    pub(crate) fn add_output(&mut self, id: ValueId) {
        self.order.take();
        let at = self.outputs.len() as u32;
        self.outputs.push(id);
        if let Some(v) = self.value_mut(id) {
            v.users.insert(Use::Output(at));
        }
    }

    /// Adds a node whose operands exist; its outputs are added by the caller as values and then entered here.
    pub(crate) fn add_node(&mut self, node: Node) -> NodeId {
        self.order.take();
        let operands = operands_of(&node);
        let outputs = node.outputs.clone();
        let id = NodeId(self.dag.add_node(Some(node)).index() as u32);
        for (operand, value) in operands {
            self.connect(id, operand, value);
        }
        for (slot, value) in outputs.iter().enumerate() {
            if let Some(v) = value.and_then(|v| self.value_mut(v)) {
                v.def = Def::Node { node: id, slot: slot as u32 };
            }
        }
        id
    }

    /// Keeps only the outputs with these numbers, ascending.
    pub(crate) fn keep_outputs(&mut self, keep: &[usize]) {
        self.order.take();
        let old = std::mem::take(&mut self.outputs);
        for (i, &id) in old.iter().enumerate() {
            if let Some(v) = self.value_mut(id) {
                v.users.remove(&Use::Output(i as u32));
            }
        }
        for id in keep.iter().filter_map(|&i| old.get(i).copied()) {
            self.add_output(id);
        }
    }

    /// Keeps only the inputs with these numbers, ascending; nobody reads the others.
    pub(crate) fn keep_inputs(&mut self, keep: &[usize]) {
        let old = std::mem::take(&mut self.inputs);
        for (i, id) in old.into_iter().enumerate() {
            match keep.binary_search(&i) {
                Ok(_) => self.inputs.push(id),
                Err(_) => self.remove_value(id),
            }
        }
    }

    /// Keeps only the output slots of a node with these numbers, ascending; nobody reads the others.
    pub(crate) fn keep_node_outputs(&mut self, id: NodeId, keep: &[usize]) {
        self.order.take();
        let Some(node) = self.node_mut(id) else { return };
        let old = std::mem::take(&mut node.outputs);
        node.outputs = keep.iter().map(|&i| old.get(i).copied().flatten()).collect();
        for (i, value) in old.iter().enumerate() {
            let Some(value) = *value else { continue };
            match keep.binary_search(&i) {
                Ok(slot) => {
                    if let Some(v) = self.value_mut(value) {
                        v.def = Def::Node { node: id, slot: slot as u32 };
                    }
                }
                Err(_) => self.remove_value(value),
            }
        }
    }

    /// Removes a node and those of its outputs that nobody reads. Its operands stay.
    pub(crate) fn remove_node(&mut self, id: NodeId) {
        self.order.take();
        let Some(slot) = self.dag.node_weight_mut(NodeIndex::new(id.index())) else { return };
        let Some(node) = slot.take() else { return };
        for (operand, value) in operands_of(&node) {
            self.disconnect(id, operand, value);
        }
        for output in node.outputs.iter().flatten() {
            if self.users(*output).len() == 0 {
                self.remove_value(*output);
            }
        }
    }

    /// Removes a value that nobody reads.
    pub(crate) fn remove_value(&mut self, id: ValueId) {
        self.order.take();
        let Some(v) = self.values.get_mut(id.index()).and_then(Option::take) else { return };
        if let Some(node) = v.producer() {
            self.clear_output(node, id);
        }
        self.by_name.remove(&v.name);
    }

    /// Marks an output slot of a node as left out, because its value is gone.
    pub(crate) fn clear_output(&mut self, node: NodeId, value: ValueId) {
        self.order.take();
        if let Some(n) = self.node_mut(node) {
            for slot in n.outputs.iter_mut().filter(|s| **s == Some(value)) {
                *slot = None;
            }
            while n.outputs.last() == Some(&None) {
                n.outputs.pop();
            }
        }
    }

    /// Lets one place read another value, or none.
    pub(crate) fn set_operand(&mut self, node: NodeId, operand: Operand, value: Option<ValueId>) {
        self.order.take();
        let Some(n) = self.node_mut(node) else { return };
        let old = match operand {
            Operand::Input(i) => {
                let i = i as usize;
                if n.inputs.len() <= i {
                    n.inputs.resize(i + 1, None);
                }
                let old = std::mem::replace(&mut n.inputs[i], value);
                n.trim_inputs();
                old
            }
            Operand::Capture(k) => match (n.captures.get_mut(k as usize), value) {
                (Some(c), Some(v)) => Some(std::mem::replace(c, v)),
                _ => return,
            },
        };
        if let Some(old) = old {
            self.disconnect(node, operand, old);
        }
        if let Some(new) = value {
            self.connect(node, operand, new);
        }
    }

    /// Lets every reader of `old` that `select` accepts read `new`.
    pub(crate) fn replace_uses(&mut self, old: ValueId, new: ValueId, select: impl Fn(Use) -> bool) {
        self.order.take();
        let users: Vec<Use> = self.users(old).filter(|&u| select(u)).collect();
        for user in users {
            match user {
                Use::Node(node, operand) => self.set_operand(node, operand, Some(new)),
                Use::Output(i) => {
                    self.outputs[i as usize] = new;
                    if let Some(v) = self.value_mut(old) {
                        v.users.remove(&user);
                    }
                    if let Some(v) = self.value_mut(new) {
                        v.users.insert(user);
                    }
                }
            }
        }
    }

    /// Gives a value another name, which must be free.
    pub(crate) fn rename(&mut self, id: ValueId, name: String) {
        self.order.take();
        let Some(v) = self.values.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let old = std::mem::replace(&mut v.name, name.clone());
        self.by_name.remove(&old);
        self.by_name.insert(name, id);
    }

    /// Gives `to` the name of `from`, and `from` a fresh one.
    pub(crate) fn take_name(&mut self, from: ValueId, to: ValueId) {
        self.order.take();
        let (Some(name), Some(own)) =
            (self.value(from).map(|v| v.name.clone()), self.value(to).map(|v| v.name.clone()))
        else {
            return;
        };
        self.by_name.remove(&own);
        let spare = self.fresh_name(&name);
        self.by_name.insert(spare.clone(), from);
        self.by_name.insert(name.clone(), to);
        if let Some(v) = self.value_mut(from) {
            v.name = spare;
        }
        if let Some(v) = self.value_mut(to) {
            v.name = name;
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.dag.node_weight_mut(NodeIndex::new(id.index()))?.as_mut()
    }

    pub(crate) fn value_mut(&mut self, id: ValueId) -> Option<&mut Value> {
        self.values.get_mut(id.index())?.as_mut()
    }

    /// Sets the type of a value that planish has found out. A declared one stays declared.
    pub(crate) fn set_inferred_type(&mut self, id: ValueId, ty: Type) {
        if let Some(v) = self.value_mut(id) {
            v.inferred |= v.ty.is_none();
            v.ty = Some(ty);
        }
    }

    /// Sets the type of a value.
    pub(crate) fn set_type(&mut self, id: ValueId, ty: Type) {
        if let Some(v) = self.value_mut(id) {
            v.ty = Some(ty);
        }
    }

    /// Forgets the types of values that nodes make and of inputs.
    pub(crate) fn forget_types(&mut self) {
        for v in self.values.iter_mut().flatten().filter(|v| matches!(v.def, Def::Input { .. } | Def::Node { .. })) {
            (v.ty, v.inferred) = (None, false);
        }
    }

    /// Gives a constant another tensor and the type of it.
    pub(crate) fn set_constant(&mut self, id: ValueId, tensor: crate::Tensor) {
        if let Some(v) = self.value_mut(id) {
            v.ty = Some(Type::tensor(tensor.dtype(), tensor.dims().iter().map(|&d| d.into())));
            v.def = Def::Constant(tensor);
        }
    }

    /// Gives a constant a sparse form.
    pub(crate) fn set_sparse(&mut self, id: ValueId, tensor: crate::SparseTensor) {
        if let Some(v) = self.value_mut(id) {
            v.def = Def::SparseConstant(Box::new(tensor));
        }
    }

    /// Makes constants of inputs that have defaults. Does nothing to any other value.
    pub(crate) fn freeze(&mut self, ids: &[ValueId]) {
        self.order.take();
        let mut frozen = BTreeSet::new();
        for &id in ids {
            if let Some(v) = self.value_mut(id)
                && let Def::Input { default } = &mut v.def
                && let Some(tensor) = default.take()
            {
                v.def = Def::Constant(tensor);
                frozen.insert(id);
            }
        }
        self.inputs.retain(|id| !frozen.contains(id));
    }

    /// The subgraphs of a node, in the order of [`Attrs::graphs`](crate::Attrs::graphs).
    pub(crate) fn subgraphs_mut(&mut self, id: NodeId) -> impl Iterator<Item = &mut Graph> {
        self.node_mut(id).into_iter().flat_map(|n| n.attrs.graphs_mut())
    }

    /// Replaces the list of captures of a node; [`Graph::renumber_captures`] has to follow for its subgraphs.
    pub(crate) fn set_captures(&mut self, id: NodeId, captures: Vec<ValueId>) {
        self.order.take();
        let Some(n) = self.node_mut(id) else { return };
        let old = std::mem::take(&mut n.captures);
        n.captures.clone_from(&captures);
        for (k, value) in old.into_iter().enumerate() {
            self.disconnect(id, Operand::Capture(k as u32), value);
        }
        for (k, value) in captures.into_iter().enumerate() {
            self.connect(id, Operand::Capture(k as u32), value);
        }
    }

    /// Follows a change of the owner's captures: the one that was number `keep[i]` is now number `i`.
    pub(crate) fn renumber_captures(&mut self, keep: &[u32]) {
        for v in self.values.iter_mut().flatten() {
            if let Def::Captured(k) = &mut v.def
                && let Ok(i) = keep.binary_search(k)
            {
                *k = i as u32;
            }
        }
    }

    fn connect(&mut self, node: NodeId, operand: Operand, value: ValueId) {
        let Some(v) = self.value_mut(value) else { return };
        v.users.insert(Use::Node(node, operand));
        if let Some(producer) = v.producer() {
            self.dag.add_edge(NodeIndex::new(producer.index()), NodeIndex::new(node.index()), operand);
        }
    }

    fn disconnect(&mut self, node: NodeId, operand: Operand, value: ValueId) {
        if let Some(v) = self.value_mut(value) {
            v.users.remove(&Use::Node(node, operand));
        }
        let edge = self
            .dag
            .edges_directed(NodeIndex::new(node.index()), Direction::Incoming)
            .find(|e| *e.weight() == operand)
            .map(|e| e.id());
        if let Some(edge) = edge {
            self.dag.remove_edge(edge);
        }
    }
}

fn operands_of(node: &Node) -> Vec<(Operand, ValueId)> {
    let inputs = node.inputs.iter().enumerate().filter_map(|(i, v)| Some((Operand::Input(i as u32), (*v)?)));
    let captures = node.captures.iter().enumerate().map(|(k, v)| (Operand::Capture(k as u32), *v));
    inputs.chain(captures).collect()
}
