//! Where a graph is in a model.

use std::fmt;

use crate::{Applied, Graph, Model, NodeId, Patch, PatchError};

/// The main graph, or a subgraph of a node of it, to any depth. Bodies of local functions are not reached.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GraphPath(Vec<(NodeId, usize)>);

impl GraphPath {
    /// The main graph.
    pub const fn main() -> GraphPath {
        GraphPath(Vec::new())
    }

    /// Subgraph number `index` (as in [`Attrs::graphs`](crate::Attrs::graphs)) of a node of this graph.
    pub fn inner(&self, owner: NodeId, index: usize) -> GraphPath {
        let mut steps = self.0.clone();
        steps.push((owner, index));
        GraphPath(steps)
    }

    /// True for the main graph.
    pub fn is_main(&self) -> bool {
        self.0.is_empty()
    }

    /// The owner and the index of each subgraph on the way, outermost first.
    pub fn steps(&self) -> impl Iterator<Item = (NodeId, usize)> + '_ {
        self.0.iter().copied()
    }

    /// The path of the graph around a subgraph, and the node in it that owns the subgraph.
    pub fn owner(&self) -> Option<(GraphPath, NodeId)> {
        let (&(owner, _), around) = self.0.split_last()?;
        Some((GraphPath(around.to_vec()), owner))
    }
}

impl Model {
    /// The graph at a path; `None` if a node on the way is gone.
    pub fn graph_at(&self, path: &GraphPath) -> Option<&Graph> {
        path.0.iter().try_fold(&self.graph, |g, &(owner, index)| g.node(owner)?.attrs.graphs().nth(index))
    }

    /// The paths of all graphs, each before those inside it.
    pub fn graph_paths(&self) -> Vec<GraphPath> {
        let mut paths = vec![GraphPath::main()];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            let Some(graph) = self.graph_at(&path) else { continue };
            for (id, node) in graph.nodes() {
                paths.extend((0..node.attrs.graphs().count()).map(|i| path.inner(id, i)));
            }
        }
        paths
    }

    /// Checks and applies a patch to one of the graphs.
    pub fn apply(&mut self, path: &GraphPath, patch: Patch) -> Result<Applied, PatchError> {
        let stale = || PatchError::Stale(path.to_string());
        patch.check_model(self, self.graph_at(path).ok_or_else(stale)?)?;
        let imports = patch.imports.clone();
        let graph = path.0.iter().try_fold(&mut self.graph, |g, &(owner, index)| g.subgraphs_mut(owner).nth(index));
        let applied = patch.apply(graph.ok_or_else(stale)?)?;
        self.opsets.extend(imports);
        Ok(applied)
    }
}

/// `main`, or `main/n7.0` for the first subgraph of node n7.
impl fmt::Display for GraphPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("main")?;
        self.0.iter().try_for_each(|(owner, index)| write!(f, "/{owner}.{index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Numerics, OpName, text};

    /// A patch that puts a node of another operator set in the place of the only one.
    fn gelu(model: &Model) -> Patch {
        let (id, node) = model.graph.nodes().next().unwrap();
        let mut patch = Patch::new(Numerics::Reassociated, "gelu");
        patch.import("com.microsoft", 1);
        let op = OpName::new("com.microsoft", "Gelu");
        let y = patch.node(op, [node.input(0).map(Into::into)]).in_place_of(id).output("y", None);
        patch.replace(node.output(0).unwrap(), y);
        patch
    }

    #[test]
    fn an_operator_set_is_imported_once_it_is_used() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }"#;
        let mut model = text::parse(text).unwrap();
        let patch = gelu(&model);
        model.apply(&GraphPath::main(), patch).unwrap();
        assert_eq!(model.opsets.get("com.microsoft"), Some(&1));
        crate::verify(&model).unwrap();
    }

    #[test]
    fn another_version_or_a_function_of_this_name_is_an_error() {
        let imported = r#"<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 2]>
            g (float[2] x) => (float[2] y) { y = Relu (x) }"#;
        let shadowed = r#"<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
            g (float[2] x) => (float[2] y) { y = Relu (x) }
            <domain: "com.microsoft", opset_import: ["" : 17]> Gelu (x) => (y) { y = Relu (x) }"#;
        for (text, message) in [
            (imported, "the model imports version 2 of the operator set \"com.microsoft\", but version 1 is needed"),
            (
                shadowed,
                "the model defines com.microsoft::Gelu itself, so that the operator of this name cannot be called",
            ),
        ] {
            let mut model = text::parse(text).unwrap();
            let patch = gelu(&model);
            let before = text::print(&model);
            assert_eq!(model.apply(&GraphPath::main(), patch).unwrap_err().to_string(), message);
            assert_eq!(text::print(&model), before);
        }
    }
}
