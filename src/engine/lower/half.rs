//! 16-bit floats.
//!
//! float16: tract sums products in float16, where hardware and other engines sum in f32 and round once. The difference
//! grows with the length of the sum, so what accumulates, or loses bits in between, is computed in f32 here, and its
//! result rounded to float16.
//!
//! bfloat16: tract has no such type. Everything is computed in f32, and what comes out of an operator that computes is
//! rounded to the nearest bfloat16, as hardware does it. What fused operators have inside is not rounded.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use half::bf16;
use planish_ir::{DType, Tensor, onnx::import_tensor};
use planish_passes::EngineError;
use planish_proto::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, type_proto};

use super::{
    build::{Builder, initializer, int},
    rounding_to,
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

/// Makes a bfloat16 model a float32 one: types, constants, and attributes that name the type; and rounds what is computed.
/// Types of inner values have to be there, as far as they are known.
pub(super) fn widen_bfloat16(message: &mut ModelProto) -> Result<(), EngineError> {
    let Some(graph) = &mut message.graph else { return Ok(()) };
    let mut names = BTreeSet::new();
    collect_names(graph, &mut names);
    round_graph(graph, &BTreeMap::new(), &mut names);
    widen_graph(graph)
}

fn collect_names(graph: &GraphProto, names: &mut BTreeSet<String>) {
    names.extend(graph.input.iter().filter_map(|i| i.name.clone()));
    names.extend(graph.initializer.iter().filter_map(|t| t.name.clone()));
    for node in &graph.node {
        names.extend(node.output.iter().cloned());
        let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        inner.for_each(|g| collect_names(g, names));
    }
}

type Types = BTreeMap<String, DType>;

/// Rounds every bfloat16 value of a graph that is not exact as it is made.
fn round_graph(graph: &mut GraphProto, outside: &Types, names: &mut BTreeSet<String>) {
    let mut types = outside.clone();
    let infos = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
    types.extend(infos.filter_map(|i| Some((i.name.clone()?, element_type(i.r#type.as_ref()?)?))));
    types.extend(graph.initializer.iter().filter_map(|t| Some((t.name.clone()?, DType::from_code(t.data_type?)?))));
    let mut rounded = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            round_graph(inner, &types, names);
        }
        let mut roundings = Vec::new();
        if !keeps_bfloat16(&node, &types) {
            for output in node.output.iter_mut().filter(|o| types.get(o.as_str()) == Some(&DType::BF16)) {
                let mut exact = format!("{output}/exact");
                while !names.insert(exact.clone()) {
                    exact.push('\'');
                }
                let name = std::mem::replace(output, exact.clone());
                roundings.push(NodeProto {
                    op_type: Some(rounding_to(DType::BF16, true)),
                    input: vec![exact],
                    output: vec![name],
                    ..Default::default()
                });
            }
        }
        rounded.push(node);
        rounded.append(&mut roundings);
    }
    graph.node = rounded;
}

fn element_type(ty: &TypeProto) -> Option<DType> {
    match ty.value.as_ref()? {
        type_proto::Value::TensorType(t) => DType::from_code(t.elem_type?),
        _ => None,
    }
}

/// True for an operator that makes bfloat16 of nothing but bfloat16 without a need to round.
fn keeps_bfloat16(node: &NodeProto, types: &Types) -> bool {
    let plain = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
    let op = node.op_type.as_deref().unwrap_or("");
    let converts = matches!(op, "Cast" | "CastLike" | "DequantizeLinear");
    let from = node.input.first().and_then(|i| types.get(i));
    plain && EXACT.contains(&op) && (!converts || from == Some(&DType::BF16))
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
