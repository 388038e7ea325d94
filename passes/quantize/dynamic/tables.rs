//! Tables of which rows are picked, such as word embeddings: int8 with one scale for each column, widened behind the look-up.

use planish_ir::{
    DType, Graph, NodeId, Numerics, OpName, Operand, Patch, Tensor, TensorError, Type, Use, ValueId, infer,
};

use super::QuantizeDynamic;
use crate::quantize::grid::{Channels, Codes, Grid, largest_of_channels, quantize};

/// A table and the nodes that look into it.
pub(super) struct Table {
    value: ValueId,
    tensor: Tensor,
    readers: Vec<NodeId>,
}

/// Tables that are only looked into, along their first axis.
pub(super) fn find(graph: &Graph, config: &QuantizeDynamic) -> Vec<Table> {
    let large = |t: &&Tensor| t.rank() == 2 && t.dtype() == DType::F32 && t.elements() >= config.min_elements;
    let tables = graph.values().filter_map(|(id, v)| Some((id, v.name(), v.constant().filter(large)?)));
    tables
        .filter(|(_, name, _)| !config.exclude.iter().any(|e| e == name))
        .filter_map(|(value, _, tensor)| {
            let reader = |u: Use| match u {
                Use::Node(id, Operand::Input(0)) => graph.node(id).filter(|n| {
                    let axis = infer::axis(n.attrs.int("axis").unwrap_or(0), 2);
                    n.op.is("Gather") && !n.is_local() && axis == Ok(0) && n.output(0).is_some()
                }),
                Use::Node(..) | Use::Output(_) => None,
            };
            let readers: Option<Vec<NodeId>> = graph
                .users(value)
                .map(|u| match (reader(u), u) {
                    (Some(_), Use::Node(id, _)) => Some(id),
                    _ => None,
                })
                .collect();
            let readers = readers.filter(|r| !r.is_empty())?;
            Some(Table { value, tensor: tensor.clone(), readers })
        })
        .collect()
}

/// The int8 form, and its signal-to-noise ratio. Fails if an element is not finite.
pub(super) fn patch(graph: &Graph, table: &Table) -> Result<(Patch, f64, u64), String> {
    let name = graph.name_of(table.value);
    let values = table.tensor.as_f32().map_err(|e| e.to_string())?;
    if values.iter().any(|x| !x.is_finite()) {
        return Err(format!("{name:?} has elements that are not finite"));
    }
    let q = columns(&values, table.tensor.dims()).map_err(|e| e.to_string())?;
    let scales = Tensor::from_f32([q.scales.len() as u64].as_slice(), &q.scales).map_err(|e| e.to_string())?;
    let bytes = q.codes.byte_len() + scales.byte_len();
    let sqnr = 10.0 * (q.power.0 / q.power.1.max(f64::MIN_POSITIVE)).log10();
    let mut patch = Patch::new(Numerics::Lossy, format!("{name:?} in int8"));
    let codes = patch.constant(format!("{name}_int8"), q.codes);
    let scales = patch.constant(format!("{name}_scale"), scales);
    for &id in &table.readers {
        let Some((node, rows)) = graph.node(id).and_then(|n| Some((n, n.output(0)?))) else { continue };
        let shape = graph.ty(rows).and_then(Type::as_tensor).and_then(|t| t.shape.clone());
        let picked = patch
            .node(node.op.clone(), [Some(codes), node.input(1).map(Into::into)])
            .attrs(node.attrs.clone())
            .in_place_of(id)
            .output(format!("{}_int8", graph.name_of(rows)), shape.map(|s| Type::tensor(DType::I8, s)));
        let widened = patch.node(OpName::onnx("DequantizeLinear"), [picked, scales]).attr("axis", -1);
        let widened = widened.output(graph.name_of(rows), graph.ty(rows).cloned());
        patch.replace(rows, widened);
    }
    Ok((patch, sqnr, bytes))
}

/// Quantizes each column by its largest magnitude.
fn columns(values: &[f32], dims: &[u64]) -> Result<Channels, TensorError> {
    let largest = largest_of_channels(values, dims, 1);
    let scales = largest.into_iter().map(|l| Grid::symmetric(Codes::I8, l).scale).collect();
    quantize(values, dims, 1, Codes::I8, scales, 127.0)
}

impl Table {
    /// One of the nodes that look into it.
    pub(super) fn reader(&self) -> Option<NodeId> {
        self.readers.first().copied()
    }

    /// Name of the table.
    pub(super) fn name(&self, graph: &Graph) -> String {
        graph.name_of(self.value)
    }
}
