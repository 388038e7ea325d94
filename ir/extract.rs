//! Cutting a piece out of a graph, to run it on its own.

use std::collections::HashMap;

use crate::{Def, Graph, GraphPath, Model, Node, NodeId, ValueId};

impl Model {
    /// A model that computes `outputs` of one of the graphs and holds nothing else. What it needs from graph inputs and
    /// from enclosing graphs becomes its inputs. Names are kept; weights are shared. `None` if the path or a value is gone.
    pub fn extract(&self, path: &GraphPath, outputs: &[ValueId]) -> Option<Model> {
        let graph = self.graph_at(path)?;
        Some(Model {
            ir_version: self.ir_version,
            opsets: self.opsets.clone(),
            graph: graph.extract(outputs)?,
            functions: self.functions.clone(),
            ..Model::default()
        })
    }
}

impl Graph {
    fn extract(&self, outputs: &[ValueId]) -> Option<Graph> {
        let mut piece = Graph::default();
        piece.name.clone_from(&self.name);
        // Only for look-ups: old ids to new ones.
        let mut new: HashMap<ValueId, ValueId> = HashMap::new();
        for id in self.ancestors(outputs) {
            let node = self.node(id)?;
            for operand in node.operands() {
                self.carry(operand, &mut piece, &mut new)?;
            }
            let mut copy = Node { outputs: Default::default(), ..node.clone() };
            copy.inputs.iter_mut().flatten().for_each(|v| *v = new.get(v).copied().unwrap_or(*v));
            copy.captures.iter_mut().for_each(|v| *v = new.get(v).copied().unwrap_or(*v));
            for output in node.outputs() {
                let value = output.and_then(|v| Some((v, self.value(v)?)));
                // The producer is entered by `add_node`.
                copy.outputs.push(value.map(|(v, old)| {
                    let id = piece.add_value(old.name.clone(), old.ty.clone(), Def::Captured(u32::MAX));
                    new.insert(v, id);
                    id
                }));
            }
            piece.add_node(copy);
        }
        for &output in outputs {
            let id = self.carry(output, &mut piece, &mut new)?;
            piece.add_output(id);
        }
        Some(piece)
    }

    /// Brings a value that no node of the piece makes into it.
    fn carry(&self, old: ValueId, piece: &mut Graph, new: &mut HashMap<ValueId, ValueId>) -> Option<ValueId> {
        if let Some(&id) = new.get(&old) {
            return Some(id);
        }
        let v = self.value(old)?;
        let id = match &v.def {
            Def::Constant(t) => piece.add_constant(v.name.clone(), t.clone()),
            Def::SparseConstant(_) => piece.add_value(v.name.clone(), v.ty.clone(), v.def.clone()),
            Def::Input { default } => piece.add_input(v.name.clone(), v.ty.clone(), default.clone()),
            Def::Captured(_) | Def::Node { .. } => piece.add_input(v.name.clone(), v.ty.clone(), None),
        };
        new.insert(old, id);
        Some(id)
    }

    /// The nodes that values depend on, producers first.
    fn ancestors(&self, values: &[ValueId]) -> Vec<NodeId> {
        let bound = self.nodes().next_back().map_or(0, |(id, _)| id.index() + 1);
        let producer = |&v: &ValueId| self.value(v).and_then(crate::Value::producer).map(NodeId::index);
        let successors = |i: usize, out: &mut Vec<usize>| {
            if let Some(node) = self.node(NodeId(i as u32)) {
                out.extend(node.operands().filter_map(|v| producer(&v)));
            }
        };
        // A verified graph has no cycle.
        let order = crate::graph::post_order(bound, values.iter().filter_map(producer), successors).unwrap_or_default();
        order.into_iter().map(|i| NodeId(i as u32)).collect()
    }
}
