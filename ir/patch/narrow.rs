//! Taking operands away from a node with subgraphs, and from the subgraphs with them.

use crate::{Graph, NodeId, PatchError, patch::apply::Run};

/// What a node with subgraphs keeps, each by its number, ascending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keep {
    /// Inputs of the node.
    pub inputs: Vec<usize>,
    /// Outputs of the node. Nobody may read the others.
    pub outputs: Vec<usize>,
    /// Inputs of each of its subgraphs. The others may serve only what goes.
    pub body_inputs: Vec<usize>,
    /// Outputs of each of its subgraphs.
    pub body_outputs: Vec<usize>,
}

impl Keep {
    pub(super) fn check(&self, graph: &Graph, id: NodeId) -> Result<(), PatchError> {
        let node = graph.node(id).ok_or_else(|| PatchError::Stale(id.to_string()))?;
        ascending(&self.inputs, node.inputs().len())?;
        ascending(&self.outputs, node.outputs().len())?;
        let dropped = node.outputs().iter().enumerate().filter(|(i, _)| self.outputs.binary_search(i).is_err());
        for (_, v) in dropped {
            if let Some(v) = v.filter(|&v| graph.users(v).len() > 0) {
                return Err(PatchError::Used(graph.name_of(v)));
            }
        }
        node.attrs.graphs().try_for_each(|body| self.narrowed(body).map(drop))
    }

    /// A subgraph without what goes, and without what only served that.
    fn narrowed(&self, body: &Graph) -> Result<Graph, PatchError> {
        ascending(&self.body_inputs, body.inputs().len())?;
        ascending(&self.body_outputs, body.outputs().len())?;
        let mut body = body.clone();
        body.keep_outputs(&self.body_outputs);
        let unread = body.values().filter(|(_, v)| v.users().is_empty()).map(|(id, _)| id).collect();
        Run::new(&mut body).sweep_from(unread);
        let dropped = body.inputs().iter().enumerate().filter(|(i, _)| self.body_inputs.binary_search(i).is_err());
        for (_, &v) in dropped {
            if body.users(v).len() > 0 {
                return Err(PatchError::Used(body.name_of(v)));
            }
        }
        body.keep_inputs(&self.body_inputs);
        Ok(body)
    }
}

fn ascending(keep: &[usize], count: usize) -> Result<(), PatchError> {
    match keep.is_sorted_by(|a, b| a < b) && keep.last().is_none_or(|&last| last < count) {
        true => Ok(()),
        false => Err(PatchError::Stale("an operand".into())),
    }
}

impl Run<'_> {
    pub(super) fn narrow(&mut self, id: NodeId, keep: &Keep) {
        let Some(node) = self.graph.node(id) else { return };
        let bodies: Vec<Graph> = node.attrs.graphs().filter_map(|g| keep.narrowed(g).ok()).collect();
        let inputs: Vec<_> = node.inputs().to_vec();
        for (body, narrowed) in self.graph.subgraphs_mut(id).zip(bodies) {
            *body = narrowed;
        }
        for slot in (0..inputs.len()).rev() {
            let value = keep.inputs.get(slot).and_then(|&i| inputs.get(i).copied().flatten());
            self.graph.set_operand(id, crate::Operand::Input(slot as u32), value);
        }
        self.graph.keep_node_outputs(id, &keep.outputs);
        self.lost(inputs.into_iter().flatten());
        self.applied.touched.insert(id);
    }
}
