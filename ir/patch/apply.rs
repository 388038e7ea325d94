//! Checking and applying a patch.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Attrs, Def, Graph, Model, Node, NodeId, OpName, Operand, Patch, Ref, Type, Use, ValueId, op,
    patch::{Added, Edit, NewNode},
};

/// Why a patch is not legal. The graph is then unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PatchError {
    #[error("it refers to {0}, which does not exist")]
    Stale(String),
    #[error("{old:?} is {before}, but what replaces it is {after}")]
    Type { old: String, before: Type, after: Type },
    #[error("{old:?} is a graph output and cannot be replaced by {new:?}, whose name is needed as well")]
    Interface { old: String, new: String },
    #[error("{0:?} of the graph to inline stands for nothing, but is needed")]
    Absent(String),
    #[error("the node {0:?} still has readers")]
    Used(String),
    #[error("the value {0:?} is no constant and cannot get a tensor")]
    NotConstant(String),
    #[error("the value {0:?} is no input with a default")]
    NoDefault(String),
    #[error("the sparse form of {0:?} has another type, or not one place for each of its elements")]
    SparseForm(String),
    #[error("the value {0:?} cannot be removed: it is no unread constant")]
    NotRemovable(String),
    #[error("the model imports version {present} of the operator set {domain:?}, but version {wanted} is needed")]
    Import { domain: String, present: i64, wanted: i64 },
    #[error("the model defines {0} itself, so that the operator of this name cannot be called")]
    Shadowed(String),
}

/// What applying a patch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The new nodes, in the order of the patch, those of inlined graphs included.
    pub added: Vec<NodeId>,
    /// The nodes that are gone.
    pub removed: Vec<Removed>,
    /// Nodes that live and read something that changed: where further rewrites may now match.
    pub touched: BTreeSet<NodeId>,
    /// True if a value that was there before got another type or tensor, so that what was known of it may not hold.
    pub retyped: bool,
}

/// A node that a patch removed, as it was called before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Its name; may be empty.
    pub name: String,
    /// Its operator.
    pub op: OpName,
    /// Names of its outputs.
    pub outputs: Vec<String>,
}

impl Patch {
    /// Checks what the patch asks of the model around the graph.
    pub(crate) fn check_model(&self, model: &Model, graph: &Graph) -> Result<(), PatchError> {
        for (domain, wanted) in &self.imports {
            match model.opsets.get(domain) {
                Some(&present) if present != *wanted => {
                    return Err(PatchError::Import { domain: domain.clone(), present, wanted: *wanted });
                }
                _ => {}
            }
        }
        if model.functions.is_empty() {
            return Ok(());
        }
        // A node in the place of a call calls what that called.
        let calls = |n: &NewNode| {
            n.origin.and_then(|id| graph.node(id)).is_some_and(|origin| origin.is_local && origin.op == n.op)
        };
        let nodes = self.added.iter().filter_map(|a| match a {
            Added::Node(n) => Some(n),
            // Its nodes call what they called where they were.
            Added::Graph(_) => None,
        });
        match nodes.into_iter().find(|n| !calls(n) && model.function(&n.op).is_some()) {
            Some(n) => Err(PatchError::Shadowed(n.op.to_string())),
            None => Ok(()),
        }
    }

    /// Checks the patch against a graph and applies it. What it asks of the model around the graph is for
    /// [`Model::apply`].
    pub fn apply(self, graph: &mut Graph) -> Result<Applied, PatchError> {
        self.check(graph)?;
        let mut run = Run::new(graph);
        let mut wishes = Vec::new();
        for (wish, tensor) in self.constants {
            let name = run.graph.fresh_name(&wish);
            let id = run.graph.add_constant(name.clone(), tensor);
            run.constants.push(id);
            if name != wish {
                wishes.push((id, name, wish));
            }
        }
        for added in self.added {
            let outputs = match added {
                Added::Node(node) => run.add(node),
                Added::Graph(inlined) => run.inline(*inlined),
            };
            run.made.push(outputs);
        }
        run.applied.touched.extend(&run.applied.added);
        run.own.extend(&run.applied.added);
        for edit in self.edits {
            run.edit(edit);
        }
        run.sweep();
        // Often a constant takes the place of one that is gone now, and with it the name.
        for (id, name, wish) in wishes {
            if run.graph.name_of(id) == name && run.graph.value_named(&wish).is_none() {
                run.graph.rename(id, wish);
            }
        }
        let Run { graph, mut applied, .. } = run;
        applied.touched.retain(|&n| graph.node(n).is_some());
        Ok(applied)
    }

    fn check(&self, g: &Graph) -> Result<(), PatchError> {
        let live = |r: &Ref| match *r {
            Ref::Value(v) if g.value(v).is_none() => Err(PatchError::Stale(v.to_string())),
            _ => Ok(()),
        };
        for added in &self.added {
            let (inputs, captures) = match added {
                Added::Node(n) => (&n.inputs, &n.captures),
                Added::Graph(i) => (&i.inputs, &i.captures),
            };
            inputs.iter().flatten().try_for_each(live)?;
            captures.iter().try_for_each(|&v| live(&Ref::Value(v)))?;
            if let Added::Graph(inlined) = added {
                inlined.check()?;
            }
        }
        let mut replaced = BTreeSet::new();
        let mut named: BTreeMap<Ref, bool> = BTreeMap::new();
        let node = |id: NodeId| g.node(id).ok_or_else(|| PatchError::Stale(id.to_string()));
        let value = |id: ValueId| g.value(id).ok_or_else(|| PatchError::Stale(id.to_string()));
        for edit in &self.edits {
            match edit {
                Edit::Replace { old, new } => {
                    live(new)?;
                    let new = self.pass_through(*new);
                    self.check_replace(g, *old, new)?;
                    // A new value takes the name of what it replaces, so only one of them can be an output.
                    let is_output = g.is_output(*old);
                    if !matches!(new, Ref::Value(_))
                        && named.insert(new, is_output).is_some_and(|other| other || is_output)
                    {
                        let new = "a value that takes the place of another one too".into();
                        return Err(PatchError::Interface { old: g.name_of(*old), new });
                    }
                    replaced.insert(*old);
                }
                Edit::SetInput { node: n, value: v, .. } => {
                    node(*n)?;
                    v.iter().try_for_each(live)?;
                }
                Edit::SetAttrs { node: n, .. } | Edit::SetOp { node: n, .. } | Edit::Recapture { node: n, .. } => {
                    node(*n)?;
                }
                Edit::SetType { value: v, .. } => {
                    value(*v)?;
                }
                Edit::SetTensor { value: v, .. } => {
                    let v = value(*v)?;
                    if !matches!(v.def, Def::Constant(_)) {
                        return Err(PatchError::NotConstant(v.name.clone()));
                    }
                }
                Edit::SetSparse { value: v, tensor } => {
                    let v = value(*v)?;
                    let Def::Constant(dense) = &v.def else { return Err(PatchError::NotConstant(v.name.clone())) };
                    let is_same = (dense.dtype(), dense.dims()) == (tensor.values.dtype(), &*tensor.dims);
                    if !is_same || tensor.indices.dims().first() != tensor.values.dims().first() {
                        return Err(PatchError::SparseForm(v.name.clone()));
                    }
                }
                Edit::Freeze(values) => {
                    for v in values {
                        let v = value(*v)?;
                        if !v.has_default() {
                            return Err(PatchError::NoDefault(v.name.clone()));
                        }
                    }
                }
                Edit::RemoveNode(n) => {
                    let n = node(*n)?;
                    let read = |v: &ValueId| match replaced.contains(v) {
                        true => self.reads(*v),
                        false => g.users(*v).len() > 0,
                    };
                    if n.outputs.iter().flatten().any(read) {
                        return Err(PatchError::Used(n.name.clone()));
                    }
                }
                Edit::RemoveValue(v) => {
                    let v = value(*v)?;
                    if !v.users.is_empty()
                        || !matches!(v.def, Def::Constant(_) | Def::SparseConstant(_) | Def::Captured(_))
                    {
                        return Err(PatchError::NotRemovable(v.name.clone()));
                    }
                }
                Edit::Narrow { node: n, keep } => keep.check(g, *n)?,
                Edit::DropOutput { node: n, value: v } => {
                    node(*n)?;
                    if !value(*v)?.users.is_empty() {
                        return Err(PatchError::Used(value(*v)?.name.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_replace(&self, g: &Graph, old: ValueId, new: Ref) -> Result<(), PatchError> {
        let Some(v) = g.value(old) else { return Err(PatchError::Stale(old.to_string())) };
        let after = match new {
            Ref::Value(n) => g.ty(n).cloned(),
            Ref::Constant(i) => {
                self.constants.get(i).map(|(_, t)| Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into())))
            }
            Ref::Output(i, slot) => match self.added.get(i) {
                Some(Added::Node(n)) => n.outputs.get(slot).and_then(|o| o.as_ref()?.1.clone()),
                Some(Added::Graph(i)) => i.body.outputs().get(slot).and_then(|&v| i.body.ty(v)).cloned(),
                None => None,
            },
        };
        if let (Some(before), Some(after)) = (v.ty(), after)
            && !before.compatible(&after)
        {
            return Err(PatchError::Type { old: v.name.clone(), before: before.clone(), after });
        }
        if let (true, Ref::Value(n)) = (v.is_output(), new) {
            // The output's name has to move to the new value, which must not need its own.
            let movable = g.value(n).is_some_and(|n| matches!(n.def, Def::Node { .. }) && !n.is_output());
            if !movable {
                return Err(PatchError::Interface { old: v.name.clone(), new: g.name_of(n) });
            }
        }
        Ok(())
    }
}

pub(super) struct Run<'g> {
    pub(super) graph: &'g mut Graph,
    constants: Vec<ValueId>,
    /// The outputs of what was added, in the order of the patch.
    made: Vec<Vec<Option<ValueId>>>,
    pub(super) applied: Applied,
    /// The nodes that were added.
    own: BTreeSet<NodeId>,
    /// Values that lost a reader.
    dead: Vec<ValueId>,
    /// Names of values that others have taken over.
    given_away: BTreeMap<ValueId, String>,
}

impl<'g> Run<'g> {
    pub(super) fn new(graph: &'g mut Graph) -> Run<'g> {
        Run {
            graph,
            constants: Vec::new(),
            made: Vec::new(),
            applied: Applied::default(),
            own: BTreeSet::new(),
            dead: Vec::new(),
            given_away: BTreeMap::new(),
        }
    }

    /// Notes values that lost a reader.
    pub(super) fn lost(&mut self, values: impl IntoIterator<Item = ValueId>) {
        self.dead.extend(values);
    }

    /// Removes those of the values that nobody reads, and in turn what only served to make them.
    pub(super) fn sweep_from(mut self, values: Vec<ValueId>) {
        self.dead = values;
        self.sweep();
    }

    pub(super) fn resolve(&self, r: Ref) -> Option<ValueId> {
        match r {
            Ref::Value(v) => Some(v),
            Ref::Constant(i) => self.constants.get(i).copied(),
            Ref::Output(i, slot) => self.made.get(i)?.get(slot).copied().flatten(),
        }
    }

    fn add(&mut self, new: NewNode) -> Vec<Option<ValueId>> {
        let origin = new.origin.and_then(|id| self.graph.node(id));
        let mut node = match origin {
            // Attributes may hold subgraphs and weights: not cloned, the patch brings its own.
            Some(o) => Node {
                is_local: o.is_local && o.op == new.op,
                name: o.name.clone(),
                op: new.op,
                attrs: Attrs::new(),
                doc: o.doc.clone(),
                metadata: o.metadata.clone(),
                inputs: Default::default(),
                outputs: Default::default(),
                captures: o.captures.clone(),
                devices: o.devices.clone(),
            },
            None => Node {
                is_local: false,
                name: String::new(),
                op: new.op,
                attrs: Attrs::new(),
                doc: String::new(),
                metadata: Default::default(),
                inputs: Default::default(),
                outputs: Default::default(),
                captures: Vec::new(),
                devices: Vec::new(),
            },
        };
        node.attrs = new.attrs;
        if !node.attrs.has_graphs() {
            node.captures.clear();
        }
        if !new.name.is_empty() {
            node.name = new.name;
        }
        node.inputs = new.inputs.iter().map(|r| r.and_then(|r| self.resolve(r))).collect();
        for output in new.outputs {
            let Some((hint, ty)) = output else {
                node.outputs.push(None);
                continue;
            };
            let name = self.graph.fresh_name(&hint);
            // The producer is entered by `add_node`.
            let id = self.graph.add_value(name, ty, Def::Captured(u32::MAX));
            if let Some(v) = self.graph.value_mut(id) {
                v.inferred = true;
            }
            node.outputs.push(Some(id));
        }
        let outputs = node.outputs.to_vec();
        let id = self.graph.add_node(node);
        self.applied.added.push(id);
        outputs
    }

    /// What reads a value may be known better now.
    fn now_constant(&mut self, value: ValueId) {
        self.applied.retyped = true;
        let readers = self.graph.users(value).filter_map(|u| match u {
            Use::Node(n, _) => Some(n),
            Use::Output(_) => None,
        });
        self.applied.touched.extend(readers);
    }

    fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Replace { old, new } => {
                if let Some(new) = self.resolve(new) {
                    self.replace(old, new);
                }
            }
            Edit::SetInput { node, slot, value } => {
                let old = self.graph.node(node).and_then(|n| n.input(slot as usize));
                let value = value.and_then(|r| self.resolve(r));
                self.graph.set_operand(node, Operand::Input(slot), value);
                self.dead.extend(old);
                self.applied.touched.insert(node);
            }
            Edit::SetAttrs { node, attrs } => {
                if let Some(n) = self.graph.node_mut(node) {
                    n.attrs = attrs;
                }
                self.applied.touched.insert(node);
            }
            Edit::SetOp { node, op } => {
                if let Some(n) = self.graph.node_mut(node) {
                    n.op = op;
                }
                self.applied.touched.insert(node);
            }
            Edit::SetType { value, ty } => {
                self.graph.set_type(value, ty);
                self.applied.retyped = true;
            }
            Edit::SetTensor { value, tensor } => {
                self.graph.set_constant(value, tensor);
                self.now_constant(value);
            }
            Edit::SetSparse { value, tensor } => self.graph.set_sparse(value, tensor),
            Edit::Freeze(values) => {
                self.graph.freeze(&values);
                values.into_iter().for_each(|v| self.now_constant(v));
            }
            Edit::RemoveNode(id) => self.remove(id),
            Edit::RemoveValue(v) => self.graph.remove_value(v),
            Edit::DropOutput { node, value } => {
                self.graph.remove_value(value);
                self.graph.clear_output(node, value);
            }
            Edit::Recapture { node, keep } => self.recapture(node, &keep),
            Edit::Narrow { node, keep } => self.narrow(node, &keep),
        }
    }

    fn replace(&mut self, old: ValueId, new: ValueId) {
        if old == new {
            return;
        }
        let own = std::mem::take(&mut self.own);
        let by_others = |u: Use| !matches!(u, Use::Node(n, _) if own.contains(&n));
        for user in self.graph.users(old).filter(|&u| by_others(u)).collect::<Vec<_>>() {
            if let Use::Node(n, _) = user {
                self.applied.touched.insert(n);
            }
        }
        let was_output = self.graph.is_output(old);
        self.graph.replace_uses(old, new, by_others);
        // A new value takes the old one's place in every respect; an existing one only where the interface asks for it.
        let is_new = self.graph.value(new).and_then(|v| v.producer()).is_some_and(|n| own.contains(&n))
            || self.constants.contains(&new);
        self.own = own;
        if was_output || is_new {
            self.given_away.entry(old).or_insert_with(|| self.graph.name_of(old));
            self.graph.take_name(old, new);
        }
        self.dead.push(old);
        let (old_type, inferred) = self.graph.value(old).map(|v| (v.ty.clone(), v.inferred)).unwrap_or_default();
        let (Some(v), Some(old_type)) = (self.graph.value_mut(new), old_type) else { return };
        if was_output {
            // The interface keeps its types and its names for sizes.
            v.ty = Some(old_type);
        } else if is_new {
            v.ty = Some(v.ty.as_ref().map_or_else(|| old_type.clone(), |ty| ty.merge(&old_type)));
            v.inferred = inferred;
        }
        // Another value that was there already keeps the type that it was found to have: what a file declares of inner
        // values may be out of date.
    }

    /// Removes values and nodes that lost their last reader, and in turn what only they read.
    fn sweep(&mut self) {
        while let Some(id) = self.dead.pop() {
            let Some(v) = self.graph.value(id) else { continue };
            if !v.users.is_empty() {
                continue;
            }
            match &v.def {
                Def::Constant(_) | Def::SparseConstant(_) | Def::Captured(_) => self.graph.remove_value(id),
                Def::Input { .. } => {}
                Def::Node { node, .. } => {
                    let node = *node;
                    let Some(n) = self.graph.node(node) else { continue };
                    let removable = op::has_no_effect(n);
                    let unread = n.outputs.iter().flatten().all(|&o| self.graph.users(o).len() == 0);
                    if removable && unread {
                        self.remove(node);
                    }
                }
            }
        }
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(n) = self.graph.node(id) {
            self.dead.extend(n.operands());
            let name = |v: &ValueId| self.given_away.get(v).cloned().unwrap_or_else(|| self.graph.name_of(*v));
            let outputs = n.outputs.iter().flatten().map(name).collect();
            self.applied.removed.push(Removed { name: n.name.clone(), op: n.op.clone(), outputs });
            self.graph.remove_node(id);
        }
    }

    fn recapture(&mut self, id: NodeId, keep: &[u32]) {
        let Some(n) = self.graph.node(id) else { return };
        let old = n.captures.clone();
        let kept: Vec<ValueId> = keep.iter().filter_map(|&k| old.get(k as usize).copied()).collect();
        self.graph.set_captures(id, kept);
        for inner in self.graph.subgraphs_mut(id) {
            inner.renumber_captures(keep);
        }
        self.dead.extend(old);
    }
}
