//! 16-bit floats.
//!
//! float16: tract sums products in float16, where hardware and other engines sum in f32 and round once. The difference
//! grows with the length of the sum, so what accumulates, or loses bits in between, is computed in f32 here, and its
//! result rounded to float16.
//!
//! bfloat16: tract has no such type. Everything is computed in f32, which is nearer to the real numbers than the model
//! asks for.

use bytes::Bytes;
use half::bf16;
use planish_ir::{DType, Tensor, onnx::import_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, type_proto};

use super::{
    build::{Builder, initializer, int},
    scope::Op,
};
use crate::engine::program::failed;

/// Operators that move, compare, select or round to nothing new: float16 is good enough for them.
const EXACT: &[&str] = &[
    "Abs",
    "Cast",
    "CastLike",
    "Clip",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "Equal",
    "Expand",
    "EyeLike",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "If",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Loop",
    "Max",
    "MaxPool",
    "Min",
    "Neg",
    "NonZero",
    "OneHot",
    "Pad",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Scan",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sign",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
];

/// A float16 operator that computes is run in f32 between casts.
pub(super) fn in_f32(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let halves: Vec<bool> = (0..op.node.input.len()).map(|slot| op.dtype(slot) == Some(DType::F16)).collect();
    if !op.domain().is_empty() || EXACT.contains(&op.name()) || !halves.contains(&true) {
        return Ok(false);
    }
    let mut node: NodeProto = op.node.clone();
    for (slot, name) in node.input.iter_mut().enumerate() {
        if halves.get(slot) == Some(&true) {
            *name = match op.constant(slot) {
                Some(t) => b.constant(as_f32(t)?),
                None => b.cast(name, DType::F32),
            };
        }
    }
    let mut casts = Vec::new();
    for name in node.output.iter_mut().filter(|n| !n.is_empty()) {
        if op.scope.dtype(name).unwrap_or(DType::F16) == DType::F16 {
            let wide = b.fresh("wide");
            casts.push((wide.clone(), std::mem::replace(name, wide)));
        }
    }
    b.node(node);
    for (wide, name) in casts {
        b.op_into("Cast", &[&wide], vec![int("to", i64::from(DType::F16.code()))], &[&name]);
    }
    Ok(true)
}

fn as_f32(t: &Tensor) -> Result<Tensor, EngineError> {
    let wide = t.to_f64().and_then(|v| Tensor::from_f32(t.dims(), &v.iter().map(|&v| v as f32).collect::<Vec<_>>()));
    wide.map_err(|e| failed(e.to_string()))
}

/// Makes a bfloat16 model a float32 one: types, constants, and attributes that name the type.
pub(super) fn widen_bfloat16(message: &mut ModelProto) -> Result<(), EngineError> {
    message.graph.as_mut().map_or(Ok(()), widen_graph)
}

fn widen_graph(graph: &mut GraphProto) -> Result<(), EngineError> {
    for info in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &mut info.r#type
            && t.elem_type == Some(DType::BF16.code())
        {
            t.elem_type = Some(DType::F32.code());
        }
    }
    graph.initializer.iter_mut().try_for_each(widen_tensor)?;
    for a in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        let names_type =
            matches!(a.name.as_deref(), Some("to" | "dtype" | "output_dtype" | "stash_type" | "softmax_precision"));
        if names_type && a.i == Some(i64::from(DType::BF16.code())) {
            a.i = Some(i64::from(DType::F32.code()));
        }
        a.t.iter_mut().try_for_each(widen_tensor)?;
        a.g.iter_mut().chain(&mut a.graphs).try_for_each(widen_graph)?;
    }
    Ok(())
}

fn widen_tensor(t: &mut TensorProto) -> Result<(), EngineError> {
    if t.data_type != Some(DType::BF16.code()) {
        return Ok(());
    }
    let none: &planish_ir::onnx::External<'_> = &|_| Err("it is stored elsewhere".into());
    let tensor = import_tensor(t.clone(), none).map_err(|e| failed(e.to_string()))?;
    *t = initializer(t.name.as_deref().unwrap_or(""), &widened(&tensor)?);
    Ok(())
}

/// A bfloat16 tensor in f32.
pub(in crate::engine) fn widened(t: &Tensor) -> Result<Tensor, EngineError> {
    let raw = t.raw().map_or(&[][..], |b| b);
    let bytes: Bytes = raw.as_chunks().0.iter().flat_map(|&c| bf16::from_le_bytes(c).to_f32().to_le_bytes()).collect();
    Tensor::from_raw(DType::F32, t.dims(), bytes).map_err(|e| failed(e.to_string()))
}
