//! Biases as floats.

use planish_ir::{DType, Node, NodeId, Numerics, Patch, Tensor};

use crate::{RuleContext, Skip};

/// A constant of int32 that is dequantized becomes the float constant that this gives: `(q - z) * s` in float32, element by element.
pub(super) fn to_float(cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let (codes, output) = node.input(0).zip(node.output(0)).ok_or(Skip::NoMatch)?;
    if cx.facts.fact(codes).dtype() != Some(DType::I32) {
        return Err(Skip::NoMatch);
    }
    let computed = || Skip::because("int32 that is computed is dequantized, for which the target has no operator");
    let codes = g.constant(codes).ok_or_else(computed)?;
    let scale = g
        .constant_input(node, 1)
        .filter(|s| s.dtype() == DType::F32)
        .ok_or(Skip::because("its scale is no float32 constant"))?;
    let zero_is_0 = node
        .input(2)
        .is_none_or(|z| g.constant(z).and_then(|t| t.to_i64().ok()).is_some_and(|z| z.iter().all(|z| *z == 0)));
    let is_vector = codes.rank() <= 1 && node.attrs.int("block_size").unwrap_or(0) == 0;
    let fits = scale.elements() == 1 || (codes.rank() == 1 && scale.dims() == codes.dims());
    if !zero_is_0 || !is_vector || !fits {
        return Err(Skip::because("it is no vector with a scale for each element, or for all, and a zero point of 0"));
    }
    let unread = |e: planish_ir::TensorError| Skip::because(e.to_string());
    let scales: Vec<f32> = scale.iter_f32().map_err(unread)?.collect();
    let codes_i64 = codes.to_i64().map_err(unread)?;
    let values: Vec<f32> = codes_i64.iter().zip(scales.iter().cycle()).map(|(&q, s)| q as f32 * s).collect();
    let float = Tensor::from_f32(codes.dims(), &values).map_err(unread)?;
    let mut patch = Patch::new(Numerics::Exact, format!("the bias {:?} as floats", g.name_of(output)));
    let float = patch.constant(format!("{}_float", g.name_of(output)), float);
    patch.replace(output, float);
    Ok(patch)
}
