//! The graph of planish, and what can be said about it.
//!
//! A [`Model`] holds a main [`Graph`], local [`Function`]s, and what the file says about itself. A graph is in SSA form:
//! every [`Value`] has one definition, which is a graph input, a constant, an output of a [`Node`], or, inside a
//! subgraph, something captured from the graph around it. A node reads values at its input slots and, through its
//! subgraphs, at its captures; both are explicit, so nothing is read by name behind anybody's back.
//!
//! | module | what |
//! |---|---|
//! | [`Graph`], [`Node`], [`Value`], [`Attrs`] | the data structure; petgraph is inside and stays there |
//! | [`Tensor`], [`DType`], [`Type`], [`Dim`] | constants and types, with symbolic dims |
//! | [`op`] | the operator table, which every analysis asks |
//! | [`infer`], [`cost`] | shapes and small values; parameters, bytes, multiply-accumulates |
//! | [`axes`] | which axes are tied, and the sets of channels that go together |
//! | [`Patch`] | changes as data, checked before they are applied |
//! | [`mod@verify`] | what a valid model is |
//! | [`text`] | ONNX's textual syntax, printed and parsed |
//! | [`onnx`] | file messages to and from the IR |
//!
//! Nothing here reads files, runs a model, or decides what to change.

mod attr;
pub mod axes;
pub mod cost;
mod dim;
mod dtype;
mod extract;
mod function;
mod graph;
mod ids;
pub mod infer;
mod model;
mod names;
mod node;
pub mod onnx;
pub mod op;
mod patch;
mod path;
mod small_float;
mod tensor;
pub mod text;
mod types;
mod value;
pub mod verify;

pub use attr::{Attr, Attrs};
pub use dim::{Dim, Poly};
pub use dtype::DType;
pub use graph::{Cycle, Graph};
pub use ids::{NodeId, ValueId};
pub use model::{Function, Model, Opsets};
pub use node::{Metadata, Node, OpName};
pub use patch::{Applied, Keep, NodeBuilder, Numerics, Patch, PatchError, Ref, Removed};
pub use path::GraphPath;
pub use small_float::SmallFloat;
pub use tensor::{Dims, Tensor, TensorError, little_endian, product};
pub use types::{Shape, TensorType, Type};
pub use value::{Def, Operand, SparseTensor, Use, Value};
pub use verify::{Interface, Verified, VerifyError, Violation, verify};
