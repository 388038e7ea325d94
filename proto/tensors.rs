//! Every place of a model where a tensor can hide.

use crate::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// What a tensor is to its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A dense initializer of the main graph or of a subgraph, the place where every runtime looks for external data.
    Initializer,
    /// Part of a sparse tensor, or the value of an attribute.
    Elsewhere,
}

/// Call `visit` for every tensor of `model` in a fixed order, until it fails.
pub(crate) fn for_each<E>(
    model: &mut ModelProto,
    mut visit: impl FnMut(Place, &mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    let mut walk = Walk { visit: &mut visit };
    if let Some(graph) = &mut model.graph {
        walk.graph(graph)?;
    }
    for training in &mut model.training_info {
        for graph in training.initialization.iter_mut().chain(&mut training.algorithm) {
            walk.graph(graph)?;
        }
    }
    for function in &mut model.functions {
        walk.nodes(&mut function.node)?;
        walk.attributes(&mut function.attribute_proto)?;
    }
    Ok(())
}

struct Walk<'a, E> {
    visit: &'a mut dyn FnMut(Place, &mut TensorProto) -> Result<(), E>,
}

impl<E> Walk<'_, E> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), E> {
        for tensor in &mut graph.initializer {
            (self.visit)(Place::Initializer, tensor)?;
        }
        for sparse in &mut graph.sparse_initializer {
            self.sparse(sparse)?;
        }
        self.nodes(&mut graph.node)
    }

    fn nodes(&mut self, nodes: &mut [NodeProto]) -> Result<(), E> {
        nodes.iter_mut().try_for_each(|node| self.attributes(&mut node.attribute))
    }

    fn attributes(&mut self, attributes: &mut [AttributeProto]) -> Result<(), E> {
        for attribute in attributes {
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                (self.visit)(Place::Elsewhere, tensor)?;
            }
            for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
                self.sparse(sparse)?;
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(graph)?;
            }
        }
        Ok(())
    }

    fn sparse(&mut self, sparse: &mut SparseTensorProto) -> Result<(), E> {
        for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
            (self.visit)(Place::Elsewhere, tensor)?;
        }
        Ok(())
    }
}
