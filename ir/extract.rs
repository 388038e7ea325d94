//! Cutting a piece out of a graph, to run it on its own.

use std::collections::{BTreeSet, HashMap};

use crate::{Def, Graph, GraphPath, Model, Node, NodeId, ValueId};

impl Model {
    /// A model that computes `outputs` of one of the graphs and holds nothing else. What it needs from graph inputs and
    /// from enclosing graphs becomes its inputs. Names are kept; weights are shared. `None` if the path or a value is gone.
    pub fn extract(&self, path: &GraphPath, outputs: &[ValueId]) -> Option<Model> {
        self.extract_between(path, &BTreeSet::new(), outputs)
    }

    /// [`Model::extract`], except that the values in `cut` are not computed: they become inputs too.
    pub fn extract_between(&self, path: &GraphPath, cut: &BTreeSet<ValueId>, outputs: &[ValueId]) -> Option<Model> {
        let graph = self.graph_at(path)?;
        Some(Model {
            ir_version: self.ir_version,
            opsets: self.opsets.clone(),
            graph: graph.extract(cut, outputs)?,
            functions: self.functions.clone(),
            ..Model::default()
        })
    }
}

impl Graph {
    fn extract(&self, cut: &BTreeSet<ValueId>, outputs: &[ValueId]) -> Option<Graph> {
        let mut piece = Graph::default();
        piece.name.clone_from(&self.name);
        // Only for look-ups: old ids to new ones.
        let mut new: HashMap<ValueId, ValueId> = HashMap::new();
        for id in self.ancestors(cut, outputs) {
            let node = self.node(id)?;
            for operand in node.operands() {
                self.carry(operand, &mut piece, &mut new)?;
            }
            let mut copy = Node { outputs: Default::default(), ..node.clone() };
            copy.inputs.iter_mut().flatten().for_each(|v| *v = new.get(v).copied().unwrap_or(*v));
            copy.captures.iter_mut().for_each(|v| *v = new.get(v).copied().unwrap_or(*v));
            for output in node.outputs() {
                // An input has taken the place of one that is cut.
                let value = output.filter(|v| !cut.contains(v)).and_then(|v| Some((v, self.value(v)?)));
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

    /// The nodes that values depend on but for those in `cut`, producers first.
    fn ancestors(&self, cut: &BTreeSet<ValueId>, values: &[ValueId]) -> Vec<NodeId> {
        let bound = self.nodes().next_back().map_or(0, |(id, _)| id.index() + 1);
        let producer = |v: &ValueId| {
            let value = self.value(*v).filter(|_| !cut.contains(v));
            value.and_then(crate::Value::producer).map(NodeId::index)
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{text, verify};

    #[test]
    fn what_is_cut_becomes_an_input() {
        let mut model = text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[4,6] x) => (float[4,3] y, float[4,3] z)
            <float[3] w = {1.0, 2.0, 3.0}> {
                a = Relu (x)
                b, c = Split <axis = 1> (a)
                d = Mul (b, w)
                y = Sub (d, c)
                z = Neg (d)
            }"#,
        )
        .unwrap();
        crate::infer::annotate(&mut model);
        let id = |name: &str| model.graph.value_named(name).unwrap();
        let piece = |cut: &[&str], output: &str| {
            let cut = cut.iter().map(|n| id(n)).collect();
            let piece = model.extract_between(&GraphPath::main(), &cut, &[id(output)]).unwrap();
            verify(&piece).unwrap();
            text::print(&piece)
        };
        insta::assert_snapshot!(piece(&["b", "c"], "y"), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[4,3] b, float[4,3] c) => (float[4,3] y)
        <
          float[3] w = {1.0, 2.0, 3.0}
        >
        {
          d = Mul (b, w)
          y = Sub (d, c)
        }
        "#);
        // The node stays for its other output.
        insta::assert_snapshot!(piece(&["b"], "y"), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[4,3] b, float[4,6] x) => (float[4,3] y)
        <
          float[3] w = {1.0, 2.0, 3.0}
        >
        {
          d = Mul (b, w)
          a = Relu (x)
          "", c = Split <axis = 1> (a)
          y = Sub (d, c)
        }
        "#);
        insta::assert_snapshot!(piece(&[], "z"), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[4,6] x) => (float[4,3] z)
        <
          float[3] w = {1.0, 2.0, 3.0}
        >
        {
          a = Relu (x)
          b, c = Split <axis = 1> (a)
          d = Mul (b, w)
          z = Neg (d)
        }
        "#);
    }
}
