//! Write an operator between DequantizeLinear and QuantizeLinear as an operator on codes: the format QOperator.
//!
//! Before     d = DequantizeLinear (x, s, z);  e = DequantizeLinear (w, t);  f = DequantizeLinear (b, s · t)
//!            y = QuantizeLinear (Relu (Conv (d, e, f)), u, 0)
//!            m = Transpose (d);  n = QuantizeLinear (m, s, z)
//! After      y = QLinearConv (x, s, z, w, t, 0, u, 0, b);  n = Transpose (x)
//!            for onnxruntime-cpu also com.microsoft QLinearAdd, QLinearConcat, QGemm, MatMulIntegerToFloat and the like
//! When       onnxruntime would form that kernel of the pairs when it loads the model, so what `lint` calls `no-kernel` stays; for
//!            generic, of convolutions and matrix products whose result is quantized. Float biases are rounded to int32
//! Refuses    results of another type than the operand; int8 activations with uint8 weights; scales along another axis; biases that are
//!            computed, or that int32 does not hold; the targets tensorrt and onnxruntime-gpu, which read pairs
//! Numerics   Exact where elements move; else Lossy: sums are rounded elsewhere, so that numbers in the middle between two codes become
//!            either of them, and what follows may amplify that. The outputs of onnxruntime stay the same to the bit
//! Reference  ONNX QLinearConv-10, QLinearMatMul-21; ONNX Runtime, contrib operators and quantization formats
//!
//! For runtimes that know these operators and look for no pairs. onnxruntime on the CPU runs either form by the same kernels. Stands behind
//! `quantize`, or alone for a model that was quantized elsewhere; `legalize` goes the other way for tensorrt.

mod bias;

use planish_ir::{Attr, Attrs, DType, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{LAYOUTS, Layout};
use crate::{
    Pass, Rule, RuleContext, Shape, Skip, Target, clean,
    lint::{
        View,
        kernel::{self, Kernel},
    },
};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Qoperator {}

const DOMAIN: &str = "com.microsoft";

impl Pass for Qoperator {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Qoperator {
    fn roots(&self) -> &'static [&'static str] {
        &[]
    }

    fn matches(&self, op: &OpName) -> bool {
        op.domain.is_empty() && kernel::takes_integers(op)
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if node.is_local() {
            return Err(Skip::NoMatch);
        }
        if kernel::moves(node) {
            let patch = moved(cx, id, node)?;
            return has_operators(cx.target).map(|()| patch);
        }
        let view = View { opset: cx.opset(), graph: cx.graph, facts: cx.facts, is_main: true };
        let quantize = match kernel::kernel(&view, node) {
            Kernel::None => return Err(Skip::NoMatch),
            Kernel::Float { problem, .. } => return Err(Skip::because(problem)),
            Kernel::Unclipped { .. } => {
                return Err(Skip::because("the activation behind it changes numbers that codes stand for"));
            }
            Kernel::Integer(quantize) => quantize.and_then(|q| cx.graph.node(q)),
        };
        has_operators(cx.target)?;
        Site { cx, view, id, node, quantize }.write()
    }
}

/// Fails for targets that have no operators on codes.
fn has_operators(target: Target) -> Result<(), Skip> {
    match target {
        Target::Generic | Target::OnnxruntimeCpu => Ok(()),
        Target::OnnxruntimeGpu | Target::Tensorrt => {
            Err(Skip::because(format!("{target} computes with codes where pairs stand, and alone there")))
        }
    }
}

/// What moves elements, between pairs of one grid.
fn moved(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let given = node.input(0).and_then(|v| g.producer(v)).map(|(_, n)| n).filter(|n| n.op.is("DequantizeLinear"));
    let (dequantize, codes) = given.and_then(|d| Some((d, d.input(0)?))).ok_or(Skip::NoMatch)?;
    let dtype = cx.facts.fact(codes).dtype();
    let mut results = Vec::new();
    for value in node.outputs() {
        let value = value.ok_or(Skip::NoMatch)?;
        let reader = g.only_user(value).filter(|(_, n, slot)| *slot == 0 && n.op.is("QuantizeLinear"));
        let (_, quantize, _) = reader.ok_or(Skip::NoMatch)?;
        clean::same_grid(g, quantize, dequantize)?;
        results.push(quantize.output(0).ok_or(Skip::NoMatch)?);
    }
    if !matches!(dtype, Some(DType::U8 | DType::I8)) || results.iter().any(|&r| cx.facts.fact(r).dtype() != dtype) {
        return Err(Skip::because("the codes before and after are not both uint8, or int8"));
    }
    if dequantize.input(1).and_then(|s| g.constant(s)).is_none_or(|s| s.elements() != 1) {
        return Err(Skip::because("there are several scales, whose axis may move"));
    }
    let picks = ["MaxPool", "ReduceMax", "ReduceMin"].iter().any(|op| node.op.is(op));
    if picks && cx.opset() < 12 {
        return Err(Skip::because(format!("{} takes codes from opset 12 on; run `raise-opset` first", node.op)));
    }
    let mut patch = Patch::new(Numerics::Exact, format!("{} of codes", node.op));
    let inputs = node.inputs().iter().enumerate().map(|(slot, v)| if slot == 0 { Some(codes) } else { *v });
    let outputs = results.iter().map(|&r| (g.name_of(r), g.ty(r).cloned())).collect();
    let new = patch.node(node.op.clone(), inputs.map(|v| v.map(Ref::from))).attrs(node.attrs.clone());
    let new = new.name(node.name.clone()).in_place_of(id).outputs(outputs);
    results.into_iter().zip(new).for_each(|(old, new)| patch.replace(old, new));
    Ok(patch)
}

/// An operator that becomes one on codes.
struct Site<'a> {
    cx: &'a RuleContext<'a>,
    view: View<'a>,
    id: NodeId,
    node: &'a Node,
    /// What quantizes the result; `None` if it stays in floats.
    quantize: Option<&'a Node>,
}

/// Codes, with their scale and zero point.
struct Operand {
    codes: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
    dtype: DType,
}

impl Site<'_> {
    fn write(&self) -> Result<Patch, Skip> {
        let (g, node) = (self.cx.graph, self.node);
        let layout = LAYOUTS.iter().find(|l| node.op.is(l.float));
        let name = match (layout, self.quantize) {
            (None, _) => "QLinearConcat",
            (Some(l), None) if l.name == "QLinearMatMul" => "MatMulIntegerToFloat",
            (Some(l), _) => l.name,
        };
        let op = match name {
            "QLinearConv" | "QLinearMatMul" => OpName::onnx(name),
            _ if self.cx.target == Target::OnnxruntimeCpu => OpName::new(DOMAIN, name),
            _ => return Err(Skip::because(format!("ONNX has no {name}; onnxruntime-cpu has"))),
        };
        let mut patch = Patch::new(Numerics::Lossy, format!("{} as {name}", node.op));
        let inputs = match layout {
            Some(layout) => self.inputs(layout, &mut patch)?,
            None => self.parts(&mut patch)?,
        };
        let attrs = self.attributes(name)?;
        let output = self.quantize.unwrap_or(node).output(0).ok_or(Skip::NoMatch)?;
        if !op.domain.is_empty() {
            patch.import(DOMAIN, 1);
        }
        let new = patch.node(op, inputs).attrs(attrs).name(node.name.clone()).in_place_of(self.id);
        let new = new.output(g.name_of(output), g.ty(output).cloned());
        patch.replace(output, new);
        Ok(patch)
    }

    /// Inputs of all operators but QLinearConcat.
    fn inputs(&self, layout: &Layout, patch: &mut Patch) -> Result<Vec<Option<Ref>>, Skip> {
        let node = self.node;
        // The condition of a Where comes first, in both.
        let first = usize::from(layout.float == "Where");
        let mut operands = Vec::new();
        for (i, &slot) in layout.operands.iter().enumerate() {
            let axis = layout.axis(slot, node.attrs.int("transB").unwrap_or(0) != 0);
            operands.push(self.operand(node.input(first + i).ok_or(Skip::NoMatch)?, axis)?);
        }
        let result = self.result()?;
        same_types(&operands, result.as_ref(), layout.channels.is_some())?;
        let mut inputs: Vec<Option<Ref>> = Vec::new();
        let mut put = |slot: usize, value: Ref| {
            inputs.resize(inputs.len().max(slot + 1), None);
            inputs.get_mut(slot).into_iter().for_each(|i| *i = Some(value));
        };
        if let Some(condition) = node.input(0).filter(|_| first == 1) {
            put(0, condition.into());
        }
        if let (None, "MatMul", [a, b]) = (&result, layout.float, operands.as_slice()) {
            let zeros = [self.zero_point(a, patch)?, self.zero_point(b, patch)?];
            let all = [a.codes, b.codes, a.scale, b.scale].map(Ref::from).into_iter().chain(zeros);
            return Ok(all.map(Some).collect());
        }
        for (operand, &slot) in operands.iter().zip(layout.operands) {
            put(slot, operand.codes.into());
            put(slot + 1, operand.scale.into());
            put(slot + 2, self.zero_point(operand, patch)?);
        }
        if let Some(result) = &result {
            put(layout.result, result.scale.into());
            put(layout.result + 1, self.zero_point(result, patch)?);
        }
        if let (Some(slot), Some(bias), [a, b]) = (layout.bias, node.input(2), operands.as_slice()) {
            put(slot, bias::codes(&self.view, bias, [a.scale, b.scale], patch)?);
        }
        Ok(inputs)
    }

    /// Inputs of QLinearConcat: the operands follow the scale and zero point of the result.
    fn parts(&self, patch: &mut Patch) -> Result<Vec<Option<Ref>>, Skip> {
        let operands = self.node.inputs().iter().flatten().map(|&v| self.operand(v, None));
        let operands: Vec<Operand> = operands.collect::<Result<_, Skip>>()?;
        let result = self.result()?.ok_or(Skip::NoMatch)?;
        same_types(&operands, Some(&result), false)?;
        let mut inputs = vec![Some(result.scale.into()), Some(self.zero_point(&result, patch)?)];
        for o in &operands {
            inputs.extend([Some(o.codes.into()), Some(o.scale.into()), Some(self.zero_point(o, patch)?)]);
        }
        Ok(inputs)
    }

    /// What a value was dequantized from. It may have a scale for each channel of an axis.
    fn operand(&self, value: ValueId, axis: Option<i64>) -> Result<Operand, Skip> {
        let grid = self.view.dequantized(value).ok_or(Skip::NoMatch)?;
        if grid.is_per_tensor(&self.view) != Some(true) {
            let rank = self.cx.facts.fact(value).shape().map(<[_]>::len);
            let wanted = axis.zip(rank).and_then(|(a, rank)| planish_ir::infer::axis(a, rank).ok());
            if grid.block() != 0 || wanted.is_none() || grid.axis(&self.view) != wanted {
                let name = self.cx.graph.name_of(value);
                return Err(Skip::because(format!("the scales of {name:?} are not along the axis of its channels")));
            }
        }
        self.half(grid.node, grid.node.input(0))
    }

    fn result(&self) -> Result<Option<Operand>, Skip> {
        self.quantize.map(|q| self.half(q, q.output(0))).transpose()
    }

    fn half(&self, node: &Node, codes: Option<ValueId>) -> Result<Operand, Skip> {
        let (codes, scale) = codes.zip(node.input(1)).ok_or(Skip::NoMatch)?;
        let dtype = self.cx.facts.fact(codes).dtype().filter(|t| matches!(t, DType::U8 | DType::I8));
        let is_float = self.cx.facts.fact(scale).dtype() == Some(DType::F32);
        let name = || self.cx.graph.name_of(codes);
        match dtype {
            Some(dtype) if is_float => Ok(Operand { codes, scale, zero_point: node.input(2), dtype }),
            Some(_) => Err(Skip::because(format!("the scale of {:?} is no float32", name()))),
            None => Err(Skip::because(format!("{:?} has no codes of 8 bits", name()))),
        }
    }

    /// One that is left out is zero, of the shape of the scale.
    fn zero_point(&self, operand: &Operand, patch: &mut Patch) -> Result<Ref, Skip> {
        if let Some(zero_point) = operand.zero_point {
            return Ok(zero_point.into());
        }
        let scale =
            self.view.constant(operand.scale).ok_or(Skip::because("a scale without a zero point is computed"))?;
        let zeros = scale.iter_f32().map(|scales| scales.map(|_| 0).collect());
        let zeros = zeros.and_then(|zeros: bytes::Bytes| Tensor::from_raw(operand.dtype, scale.dims(), zeros));
        let name = format!("{}_zero_point", self.cx.graph.name_of(operand.codes));
        Ok(patch.constant(name, zeros.map_err(|e| Skip::because(e.to_string()))?))
    }

    /// Attributes as the operator on codes has them.
    fn attributes(&self, name: &str) -> Result<Attrs, Skip> {
        let mut attrs = self.node.attrs.clone();
        match name {
            "QGemm" => {
                // It is 1, or there were no integer kernel.
                attrs.remove("beta");
                if attrs.float("alpha").is_some_and(|a| a != 1.0) && self.node.input(2).is_some() {
                    return Err(Skip::because("alpha would multiply its bias too"));
                }
            }
            "QLinearSoftmax" => {
                let is_flat = self.cx.opset() < 13;
                if attrs.int("axis").is_none() {
                    attrs.set("axis", Attr::Int(if is_flat { 1 } else { -1 }));
                }
                attrs.set("opset", Attr::Int(self.cx.opset()));
            }
            "QLinearAveragePool" => {
                let dilations = attrs.remove("dilations");
                if matches!(dilations, Some(Attr::Ints(d)) if d.iter().any(|d| *d != 1)) {
                    return Err(Skip::because("its windows are dilated"));
                }
            }
            _ => {}
        }
        Ok(attrs)
    }
}

/// Holds that the kernels take operands of these types.
fn same_types(operands: &[Operand], result: Option<&Operand>, is_product: bool) -> Result<(), Skip> {
    let Some((first, others)) = operands.split_first() else { return Err(Skip::NoMatch) };
    if result.is_some_and(|r| r.dtype != first.dtype) {
        return Err(Skip::because("its result has codes of another type than what it reads"));
    }
    match is_product {
        true if first.dtype == DType::I8 && others.iter().any(|o| o.dtype == DType::U8) => {
            Err(Skip::because("onnxruntime multiplies int8 with int8 alone; run `legalize` first"))
        }
        false if others.iter().any(|o| o.dtype != first.dtype) => {
            Err(Skip::because("its operands have codes of several types"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
