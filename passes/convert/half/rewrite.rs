//! The patch that a selection asks for.
//!
//! A value that is made in 16 bits changes its type where it is made. Where both forms of a value are needed, one `Cast`
//! makes the second from the first for all its readers, and the name stays with the float32 form: it may be one of the
//! interface.

use planish_ir::{
    DType, Def, Dims, Graph, Node, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, TensorError, TensorType,
    Type, Use, ValueId,
};
use rayon::prelude::*;

use super::{
    format::Format,
    literals::{Literals, Source, clamp_mask, constant},
    select::{Selection, is_f32},
    support::type_attribute,
};
use crate::PassError;

/// Brings the graph into the form that the selection describes.
pub(super) fn rewrite(
    graph: &Graph,
    selection: &Selection<'_>,
    literals: &Literals,
    format: Format,
    weights: &dyn crate::Weights,
) -> Result<Patch, PassError> {
    let patch = Patch::new(Numerics::Lossy, format!("float32 becomes {}", format.name()));
    let mut run = Rewrite { graph, selection, format, patch, inputs: Vec::new(), types: Vec::new() };
    run.constants(literals, weights)?;
    for (id, _) in graph.values().filter(|(id, _)| is_f32(graph, *id)) {
        match (constant(graph, id), selection.made_half(id)) {
            (Some(_), _) => {}
            (None, true) => run.made_half(id),
            (None, false) => run.made_full(id),
        }
    }
    for (id, node) in graph.nodes() {
        run.attributes(id, node, literals)?;
    }
    // `Patch::replace` moves all readers, so the readers of the 16-bit form are set after it; and it takes the type of
    // the old value for the interface's, so that changes last.
    let Rewrite { mut patch, inputs, types, .. } = run;
    for (node, slot, value) in inputs {
        patch.set_input(node, slot, Some(value));
    }
    for (value, ty) in types {
        patch.set_type(value, ty);
    }
    Ok(patch)
}

struct Rewrite<'a> {
    graph: &'a Graph,
    selection: &'a Selection<'a>,
    format: Format,
    patch: Patch,
    inputs: Vec<(NodeId, usize, Ref)>,
    types: Vec<(ValueId, Type)>,
}

/// A constant with the forms in which it is needed.
struct Converted {
    value: ValueId,
    /// With the large numbers of a mask brought into range, if there are any.
    clamped: Option<Tensor>,
    half: Option<Tensor>,
}

impl Rewrite<'_> {
    fn constants(&mut self, literals: &Literals, weights: &dyn crate::Weights) -> Result<(), PassError> {
        let (graph, selection, format) = (self.graph, self.selection, self.format);
        let constants: Vec<(ValueId, Tensor)> =
            graph.values().filter_map(|(id, _)| Some((id, constant(graph, id)?))).collect();
        let convert = |(value, tensor): &(ValueId, Tensor)| -> Result<Converted, PassError> {
            let failed = |source: TensorError| PassError::Tensor { place: graph.name_of(*value), source };
            let clamped = match literals.masks.contains(&Source::Value(*value)) {
                true => Some(clamp_mask(tensor, format).map_err(failed)?),
                false => None,
            };
            let half = match graph.users(*value).any(|u| selection.reads_half(u)) {
                true => Some(format.convert(clamped.as_ref().unwrap_or(tensor)).map_err(failed)?),
                false => None,
            };
            tensor.raw().into_iter().for_each(|raw| weights.release(raw));
            Ok(Converted { value: *value, clamped, half })
        };
        let converted: Vec<Converted> = constants.par_iter().map(convert).collect::<Result<_, _>>()?;
        for c in converted {
            self.constant(c);
        }
        Ok(())
    }

    fn constant(&mut self, Converted { value, clamped, half }: Converted) {
        let name = self.graph.name_of(value);
        let is_initializer = matches!(self.graph.value(value).map(|v| v.def()), Some(Def::Constant(_)));
        let full = self.graph.users(value).any(|u| self.selection.reads_full(u));
        match half {
            Some(half) if is_initializer && !full => return self.patch.set_tensor(value, half),
            Some(half) => {
                let half = self.patch.constant(format!("{name}_{}", self.format.name()), half);
                self.read_half(value, half);
            }
            None => {}
        }
        if let Some(clamped) = clamped.filter(|_| full) {
            let clamped = self.patch.constant(name, clamped);
            self.patch.replace(value, clamped);
        }
    }

    /// A value that comes in 16 bits.
    fn made_half(&mut self, value: ValueId) {
        let graph = self.graph;
        if graph.users(value).any(|u| self.selection.reads_full(u)) {
            let cast = self.cast(value, DType::F32);
            if self.selection.interface_is_free(value) {
                self.read_full(value, cast);
            } else {
                self.patch.replace(value, cast);
                self.read_half(value, value.into());
            }
        }
        self.types.extend(as_type(graph, value, self.format.dtype()).map(|ty| (value, ty)));
    }

    /// A value that is there in float32.
    fn made_full(&mut self, value: ValueId) {
        if self.graph.users(value).any(|u| self.selection.reads_half(u)) {
            let cast = self.cast(value, self.format.dtype());
            self.read_half(value, cast);
        }
    }

    /// Lets the float32 readers of a value read its float32 form.
    fn read_full(&mut self, value: ValueId, full: Ref) {
        for user in self.graph.users(value).filter(|&u| self.selection.reads_full(u)) {
            if let Use::Node(node, Operand::Input(slot)) = user {
                self.inputs.push((node, slot as usize, full));
            }
        }
    }

    fn cast(&mut self, value: ValueId, to: DType) -> Ref {
        let name = format!("{}_{}", self.graph.name_of(value), to);
        let ty = as_type(self.graph, value, to);
        self.patch.node(OpName::onnx("Cast"), [Ref::Value(value)]).attr("to", i64::from(to.code())).output(name, ty)
    }

    /// Lets the 16-bit readers of a value read its 16-bit form.
    fn read_half(&mut self, value: ValueId, half: Ref) {
        for user in self.graph.users(value).filter(|&u| self.selection.reads_half(u)) {
            if let Use::Node(node, Operand::Input(slot)) = user {
                self.inputs.push((node, slot as usize, half));
            }
        }
    }

    /// Attributes that say or hold the element type of the result.
    fn attributes(&mut self, id: NodeId, node: &Node, literals: &Literals) -> Result<(), PassError> {
        let becomes_half = node.outputs().iter().flatten().any(|&v| self.selection.made_half(v));
        let is_mask = literals.masks.contains(&Source::Attribute(id));
        let attrs = || node.attrs.clone();
        if let Some(name) = type_attribute(node).filter(|_| becomes_half) {
            self.patch.set_attrs(id, attrs().with(name, i64::from(self.format.dtype().code())));
        } else if node.op.is("ConstantOfShape") && (becomes_half || is_mask) {
            let failed = |source| PassError::Tensor { place: node.name.clone(), source };
            let fill = fill(node, is_mask, becomes_half, self.format).map_err(failed)?;
            self.patch.set_attrs(id, attrs().with("value", fill));
        }
        Ok(())
    }
}

/// What a `ConstantOfShape` fills with.
fn fill(node: &Node, is_mask: bool, half: bool, format: Format) -> Result<Tensor, TensorError> {
    let zero = || Tensor::from_f32(Dims::from_slice(&[1]), &[0.0]);
    let mut fill = node.attrs.tensor("value").cloned().map_or_else(zero, Ok)?;
    if is_mask {
        fill = clamp_mask(&fill, format)?;
    }
    if half { format.convert(&fill) } else { Ok(fill) }
}

/// The type of a value with another element type.
fn as_type(graph: &Graph, value: ValueId, dtype: DType) -> Option<Type> {
    let shape = graph.ty(value)?.as_tensor()?.shape.clone();
    Some(Type::Tensor(TensorType { dtype, shape }))
}
