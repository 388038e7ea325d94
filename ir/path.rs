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
        let graph = path.0.iter().try_fold(&mut self.graph, |g, &(owner, index)| g.subgraphs_mut(owner).nth(index));
        patch.apply(graph.ok_or_else(|| PatchError::Stale(path.to_string()))?)
    }
}

/// `main`, or `main/n7.0` for the first subgraph of node n7.
impl fmt::Display for GraphPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("main")?;
        self.0.iter().try_for_each(|(owner, index)| write!(f, "/{owner}.{index}"))
    }
}
