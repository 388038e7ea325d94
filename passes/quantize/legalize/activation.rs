//! Symmetric grids of activations.

use planish_ir::{DType, Dims, Graph, Node, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, Type, Use, ValueId};

use crate::{RuleContext, Skip};

/// A grid of 8 bits whose zero point is 0, in int8, that reaches as far as another one; the scale is the old one where every code has
/// its counterpart.
pub(super) fn grid(dtype: DType, scale: f32, zero: i64) -> Result<(f32, Numerics), Skip> {
    let (low, high) = match dtype {
        DType::U8 => (0 - zero, 255 - zero),
        DType::I8 => (-128 - zero, 127 - zero),
        _ => return Err(Skip::because("only grids of uint8 and int8 are made symmetric")),
    };
    if low >= -128 && high <= 127 {
        return Ok((scale, Numerics::Exact));
    }
    let steps = high.max(-low) as f32;
    Ok((scale * (steps / 127.0), Numerics::Lossy))
}

/// A tensor of one element.
fn single(dtype: DType, value: f64) -> Result<Tensor, Skip> {
    match dtype {
        DType::I8 => Tensor::from_raw(DType::I8, Dims::new(), vec![0].into()),
        _ => Tensor::from_f64_as(dtype, Dims::new(), &[value]),
    }
    .map_err(|e| Skip::because(e.to_string()))
}

/// The same, found from a DequantizeLinear: what read the codes before may have been written out meanwhile.
pub(super) fn symmetric_before(cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
    let producer = node.input(0).and_then(|v| cx.graph.producer(v));
    match producer.filter(|(_, n)| n.op.is("QuantizeLinear") && !n.is_local()) {
        // What it refuses is reported at the QuantizeLinear.
        Some((id, quantize)) => symmetric(cx, id, quantize).map_err(|_| Skip::NoMatch),
        None => Err(Skip::NoMatch),
    }
}

/// A grid that begins or ends at 0 cuts off what is below or above, which a symmetric one does not. Quantizers that know it have taken
/// the Relu away that stood there.
fn keep_sign(
    cx: &RuleContext<'_>,
    id: NodeId,
    node: &Node,
    dtype: DType,
    zero: i64,
    patch: &mut Patch,
) -> Result<(), Skip> {
    let Some(real) = node.input(0) else { return Ok(()) };
    let (lowest, highest) = if dtype == DType::U8 { (0, 255) } else { (-128, 127) };
    let (name, ty) = (cx.graph.name_of(real), cx.graph.ty(real).cloned());
    let cut = if zero == lowest && !is_nonnegative(cx.graph, real) {
        patch.node(OpName::onnx("Relu"), [Ref::from(real)]).output(format!("{name}_cut"), ty)
    } else if zero == highest {
        let float = cx.facts.fact(real).dtype().filter(|d| d.is_float() && cx.opset() >= 11);
        let float = float
            .ok_or(Skip::because("its grid ends at 0, and Clip takes its bounds as inputs from opset 11 on only"))?;
        let bound = patch.constant(format!("{name}_bound"), single(float, 0.0)?);
        patch.node(OpName::onnx("Clip"), [Some(real.into()), None, Some(bound)]).output(format!("{name}_cut"), ty)
    } else {
        return Ok(());
    };
    patch.set_input(id, 0, Some(cut));
    Ok(())
}

/// True if no element is below 0, as the few nodes before it show.
fn is_nonnegative(graph: &Graph, value: ValueId) -> bool {
    const KEEP: &[&str] = &[
        "AveragePool",
        "DequantizeLinear",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "QuantizeLinear",
        "ReduceMax",
        "ReduceMean",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ];
    let mut at = value;
    for _ in 0..8 {
        let Some((_, n)) = graph.producer(at).filter(|(_, n)| !n.is_local()) else { return false };
        if ["Relu", "Sigmoid", "Softmax", "Exp", "Abs", "HardSigmoid"].iter().any(|op| n.op.is(op)) {
            return true;
        }
        match n.input(0).filter(|_| KEEP.iter().any(|op| n.op.is(op))) {
            Some(before) => at = before,
            None => return false,
        }
    }
    false
}

/// A QuantizeLinear with everything that dequantizes its codes gets a zero point of 0 and int8.
pub(super) fn symmetric(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let (scale, codes) = node.input(1).zip(node.output(0)).ok_or(Skip::NoMatch)?;
    let zero_point = node.input(2);
    // Facts are those from before the pass.
    let dtype = zero_point.and_then(|z| g.constant(z)).map(Tensor::dtype).or_else(|| cx.facts.fact(codes).dtype());
    let dtype = dtype.ok_or(Skip::because("its type is not known"))?;
    let zero = match zero_point {
        None => Some(0),
        Some(z) => g.constant(z).and_then(Tensor::single_i64),
    };
    if dtype.is_float() || (dtype == DType::I8 && zero == Some(0)) {
        return Err(Skip::NoMatch);
    }
    let tensor = g.constant(scale).ok_or(Skip::because("its scale is computed"))?;
    let (Some(step), Some(zero)) = (tensor.single_f64(), zero) else {
        return Err(Skip::because("it has several scales, or a zero point that is computed"));
    };
    let same = |n: &Node| {
        let equal = |slot: usize| match (n.input(slot), node.input(slot)) {
            (a, b) if a == b => true,
            (Some(a), Some(b)) => g.constant(a).zip(g.constant(b)).is_some_and(|(a, b)| a == b),
            _ => false,
        };
        n.op.is("DequantizeLinear") && !n.is_local() && equal(1) && equal(2)
    };
    let mut readers = Vec::new();
    for u in g.users(codes) {
        match u {
            Use::Node(reader, Operand::Input(0)) if g.node(reader).is_some_and(same) => readers.push(reader),
            Use::Output(_) => {
                return Err(Skip::because("its codes are an output of the model, whose type has to stay"));
            }
            Use::Node(..) => {
                return Err(Skip::because(
                    "its codes are read by something else than a DequantizeLinear of the same grid",
                ));
            }
        }
    }
    let (step, numerics) = grid(dtype, step as f32, zero)?;
    let mut patch = Patch::new(numerics, format!("{:?} on a symmetric grid", g.name_of(codes)));
    let scale_type = tensor.dtype();
    let new_scale = match numerics {
        Numerics::Exact => scale.into(),
        _ => patch.constant(format!("{}_symmetric", g.name_of(scale)), single(scale_type, f64::from(step))?),
    };
    let zero_name = zero_point.map_or_else(|| format!("{}_zero_point", g.name_of(codes)), |z| g.name_of(z));
    let new_zero = patch.constant(format!("{zero_name}_symmetric"), single(DType::I8, 0.0)?);
    keep_sign(cx, id, node, dtype, zero, &mut patch)?;
    for n in [id].into_iter().chain(readers) {
        patch.set_input(n, 1, Some(new_scale));
        patch.set_input(n, 2, Some(new_zero));
    }
    // Without a zero point an attribute may say the type.
    if node.attrs.get("output_dtype").is_some() {
        let mut attrs = node.attrs.clone();
        attrs.remove("output_dtype");
        patch.set_attrs(id, attrs);
    }
    if let Some(ty) = g.ty(codes).and_then(Type::as_tensor) {
        patch.set_type(codes, Type::Tensor(planish_ir::TensorType { dtype: DType::I8, shape: ty.shape.clone() }));
    }
    Ok(patch)
}
