//! Operators on quantized operands, written as dequantization, operator and quantization.

use planish_ir::{Attrs, DType, Node, NodeId, Numerics, OpName, Patch, Ref, Type};

use crate::{
    RuleContext, Skip,
    quantize::operands::{LAYOUTS, Layout},
};

/// True for an operator that can be written out.
pub(super) fn knows(name: &str) -> bool {
    name == "QLinearConcat"
        || matches!(name, "QuantizeLinear" | "DequantizeLinear")
        || LAYOUTS.iter().any(|l| l.name == name)
}

/// Writes an operator out.
pub(super) fn unfold(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let name = node.op.name.as_str();
    if matches!(name, "QuantizeLinear" | "DequantizeLinear") {
        return standard(cx, id, node);
    }
    let output = node.output(0).ok_or(Skip::NoMatch)?;
    let mut patch = Patch::new(Numerics::Lossy, format!("{} as pairs", node.op));
    let y = match LAYOUTS.iter().find(|l| l.name == name) {
        Some(layout) => written(cx, id, node, layout, &mut patch)?,
        None if name == "QLinearConcat" => concat(cx, id, node, &mut patch)?,
        None => return Err(Skip::NoMatch),
    };
    patch.replace(output, y);
    Ok(patch)
}

/// The operators of com.microsoft that ONNX has by now.
fn standard(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let codes = if node.op.name == "QuantizeLinear" { node.output(0) } else { node.input(0) };
    let dtype = codes.and_then(|v| cx.facts.fact(v).dtype()).ok_or(Skip::because("its type is not known"))?;
    let least = match dtype {
        DType::U8 | DType::I8 | DType::I32 => 13,
        _ => 21,
    };
    if cx.opset() < least {
        return Err(Skip::because(format!("ONNX has {dtype} from opset {least} on; run `raise-opset` first")));
    }
    let mut patch = Patch::new(Numerics::Exact, format!("{} of ONNX", node.op.name));
    patch.set_op(id, OpName::onnx(&node.op.name));
    Ok(patch)
}

fn written(cx: &RuleContext<'_>, id: NodeId, node: &Node, layout: &Layout, patch: &mut Patch) -> Result<Ref, Skip> {
    let attrs = attributes(cx, node, layout)?;
    let mut inputs: Vec<Option<Ref>> = Vec::new();
    if layout.name == "QLinearWhere" {
        inputs.push(node.input(0).map(Ref::from));
    }
    for &slot in layout.operands {
        let axis = layout.axis(slot, attrs.int("transB").unwrap_or(0) != 0);
        inputs.push(Some(dequantized(cx, node, slot, axis, patch)?));
    }
    if let Some(bias) = layout.bias.and_then(|slot| node.input(slot)) {
        // It counts in units of the product of both scales.
        let name = cx.graph.name_of(bias);
        let scales = [node.input(1), node.input(4)].map(|v| v.and_then(|v| cx.graph.constant(v)));
        let [Some(x), Some(w)] = scales else {
            return Err(Skip::because("the scales of its operands, of which that of the bias follows, are computed"));
        };
        let failed = |e: planish_ir::TensorError| Skip::because(e.to_string());
        let x: Vec<f32> = x.iter_f32().map_err(failed)?.collect();
        let &[x] = x.as_slice() else { return Err(Skip::because("its first operand has several scales")) };
        let unit: Vec<f32> = w.iter_f32().map_err(failed)?.map(|w| x * w).collect();
        let dims = if unit.len() == 1 { planish_ir::Dims::new() } else { w.dims().into() };
        let unit = planish_ir::Tensor::from_f32(dims, &unit).map_err(failed)?;
        let unit = patch.constant(format!("{name}_scale"), unit);
        let dequantize = patch.node(OpName::onnx("DequantizeLinear"), [Ref::from(bias), unit]).attr("axis", 0);
        let ty = cx.facts.fact(bias).shape().map(|s| Type::tensor(DType::F32, s.to_vec()));
        inputs.push(Some(dequantize.output(format!("{name}_dequantized"), ty)));
    }
    let real = result_type(cx, node);
    let name = node.output(0).map(|v| cx.graph.name_of(v)).unwrap_or_default();
    let is_float = layout.name == "QGemm" && node.input(layout.result + 1).is_none();
    let computed = patch.node(OpName::onnx(layout.float), inputs).attrs(attrs).in_place_of(id);
    if is_float {
        return Ok(computed.output(name, real));
    }
    let computed = computed.output(format!("{name}_real"), real);
    Ok(quantized(cx, node, layout.result, computed, patch))
}

/// Attributes that the operator of ONNX has as well.
fn attributes(cx: &RuleContext<'_>, node: &Node, layout: &Layout) -> Result<Attrs, Skip> {
    if node.attrs.int("channels_last").unwrap_or(0) != 0 {
        return Err(Skip::because("its channels lie behind the spatial axes; export the model without that layout"));
    }
    let mut attrs = node.attrs.clone();
    attrs.remove("channels_last");
    if let Some(version) = attrs.remove("opset") {
        let before = matches!(version, planish_ir::Attr::Int(v) if v < 13);
        if before != (cx.opset() < 13) {
            return Err(Skip::because("its softmax is that of another operator set version"));
        }
    }
    if layout.name == "QGemm" && attrs.float("alpha").is_some_and(|a| a != 1.0) && node.input(6).is_some() {
        return Err(Skip::because("alpha multiplies its bias too, which Gemm does not"));
    }
    Ok(attrs)
}

/// The operands follow the scale and zero point of the result.
fn concat(cx: &RuleContext<'_>, id: NodeId, node: &Node, patch: &mut Patch) -> Result<Ref, Skip> {
    let parts: Result<Vec<Option<Ref>>, Skip> =
        (2..node.inputs().len()).step_by(3).map(|slot| dequantized(cx, node, slot, None, patch).map(Some)).collect();
    let name = node.output(0).map(|v| cx.graph.name_of(v)).unwrap_or_default();
    let real = result_type(cx, node);
    let parts = parts?;
    let joined = patch.node(OpName::onnx("Concat"), parts).attrs(node.attrs.clone()).in_place_of(id);
    let joined = joined.output(format!("{name}_real"), real);
    Ok(quantized(cx, node, 0, joined, patch))
}

fn result_type(cx: &RuleContext<'_>, node: &Node) -> Option<Type> {
    let shape = cx.facts.fact(node.output(0)?).shape()?;
    Some(Type::tensor(DType::F32, shape.to_vec()))
}

/// The operand that begins at a slot, in floats.
fn dequantized(
    cx: &RuleContext<'_>,
    node: &Node,
    slot: usize,
    axis: Option<i64>,
    patch: &mut Patch,
) -> Result<Ref, Skip> {
    let value = node.input(slot).ok_or(Skip::because("an operand is left out"))?;
    let scale = node.input(slot + 1).ok_or(Skip::because("a scale is left out"))?;
    let several = cx.facts.fact(scale).shape().ok_or(Skip::because("the shape of a scale is not known"))?;
    let several = !matches!(several, [] | [planish_ir::Dim::Known(1)]);
    if several && (axis.is_none() || cx.opset() < 13) {
        return Err(Skip::because(
            "an operand has several scales, which a pair cannot have here, or not before opset 13",
        ));
    }
    let mut inputs = vec![Ref::from(value), scale.into()];
    inputs.extend(node.input(slot + 2).map(Ref::from));
    let name = cx.graph.name_of(value);
    let ty = cx.facts.fact(value).shape().map(|s| Type::tensor(DType::F32, s.to_vec()));
    let mut dequantize = patch.node(OpName::onnx("DequantizeLinear"), inputs);
    if let Some(axis) = axis.filter(|_| several) {
        dequantize = dequantize.attr("axis", axis);
    }
    Ok(dequantize.output(format!("{name}_dequantized"), ty))
}

/// The result by the scale and zero point that begin at a slot.
fn quantized(cx: &RuleContext<'_>, node: &Node, slot: usize, real: Ref, patch: &mut Patch) -> Ref {
    let mut inputs = vec![Some(real)];
    inputs.extend([slot, slot + 1].into_iter().filter_map(|s| node.input(s)).map(|v| Some(Ref::from(v))));
    let (name, ty) = node.output(0).map(|v| (cx.graph.name_of(v), cx.graph.ty(v).cloned())).unwrap_or_default();
    patch.node(OpName::onnx("QuantizeLinear"), inputs).output(name, ty)
}
