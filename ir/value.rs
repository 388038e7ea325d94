//! Values: what flows between nodes.

use std::collections::BTreeSet;

use crate::{DType, Dims, Metadata, NodeId, Tensor, Type};

/// One value of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub(crate) name: String,
    pub(crate) ty: Option<Type>,
    /// The type is planish's own finding and need not be written to a file.
    pub(crate) inferred: bool,
    pub(crate) def: Def,
    pub(crate) users: BTreeSet<Use>,
    pub(crate) doc: String,
    pub(crate) metadata: Metadata,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Def {
    /// An input of the graph; with a default, it is an initializer that the caller may override, hence no constant.
    Input {
        /// What it is if the caller passes nothing.
        default: Option<Tensor>,
    },
    /// A constant (ONNX: initializer).
    Constant(Tensor),
    /// A constant in coordinate form (ONNX: sparse initializer).
    SparseConstant(Box<SparseTensor>),
    /// Output `slot` of a node.
    Node {
        /// The producer.
        node: NodeId,
        /// Which of its outputs.
        slot: u32,
    },
    /// Read from the enclosing graph: capture number `.0` of the node that owns this graph.
    Captured(u32),
}

/// Who reads a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Use {
    /// An operand of a node.
    Node(NodeId, Operand),
    /// Output number `.0` of the graph.
    Output(u32),
}

/// A place at which a node reads a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operand {
    /// Input slot.
    Input(u32),
    /// Capture of the node's subgraphs.
    Capture(u32),
}

/// A tensor in coordinate form (`SparseTensorProto`).
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    /// The non-zero elements, `[nnz]`.
    pub values: Tensor,
    /// Where they are, int64: `[nnz]` linear indices or `[nnz, rank]` coordinates.
    pub indices: Tensor,
    /// Dims of the dense tensor.
    pub dims: Dims,
}

impl Value {
    /// Its name, unique in its graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type, as declared or inferred.
    pub const fn ty(&self) -> Option<&Type> {
        self.ty.as_ref()
    }

    /// Element type, if it is known to be a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.ty.as_ref().and_then(Type::dtype)
    }

    /// Where it comes from.
    pub const fn def(&self) -> &Def {
        &self.def
    }

    /// Who reads it, in a fixed order.
    pub const fn users(&self) -> &BTreeSet<Use> {
        &self.users
    }

    /// True for an input that callers may leave out, because it has a default.
    pub const fn has_default(&self) -> bool {
        matches!(self.def, Def::Input { default: Some(_) })
    }

    /// The tensor, if it is a constant that no caller can override.
    pub const fn constant(&self) -> Option<&Tensor> {
        match &self.def {
            Def::Constant(t) => Some(t),
            Def::Input { .. } | Def::SparseConstant(_) | Def::Node { .. } | Def::Captured(_) => None,
        }
    }

    /// The node that makes it.
    pub const fn producer(&self) -> Option<NodeId> {
        match self.def {
            Def::Node { node, .. } => Some(node),
            Def::Input { .. } | Def::Constant(_) | Def::SparseConstant(_) | Def::Captured(_) => None,
        }
    }

    /// True if it is an output of the graph.
    pub fn is_output(&self) -> bool {
        // `Use::Output` sorts last.
        matches!(self.users.last(), Some(Use::Output(_)))
    }

    /// Documentation string.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// `metadata_props`.
    pub const fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}
