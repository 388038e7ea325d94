//! Turn a model that was quantized for another runtime into one that the target takes.
//!
//! Before     q = QuantizeLinear (x, s, 128);  d = DequantizeLinear (q, s, 128)        uint8
//!            y = QLinearConv (q, s, z, w, t, u, r, v, b)  ·  com.microsoft QLinearAdd, QGemm and the like
//!            f = DequantizeLinear (b, s · t);  y = Conv (d, e, f)        b int32
//! After      for tensorrt: int8 and a zero point of 0 on both sides; operators on quantized operands as pairs around operators of
//!            ONNX; float biases. For generic: the latter two where the operator is of com.microsoft.
//!            for onnxruntime-cpu: int8 weights where activations are int8
//!            for all: scalars for scales and zero points of one element
//! When       scales and zero points are constants; all that reads a quantized tensor dequantizes it by the same grid
//! Refuses    quantized tensors that are inputs or outputs of the model, are captured by a subgraph, or are read by other operators;
//!            grids that differ on both sides; types other than uint8 and int8; computed scales
//! Numerics   Exact for another zero point in codes that all have a counterpart, for shapes, biases and types; Lossy for operators
//!            written as pairs, where numbers in the middle between two codes become either, and where a grid gets a coarser step
//! Reference  ONNX QLinearConv-10, QuantizeLinear-21; TensorRT, working with quantized types
//!
//! A grid of uint8 with the zero point 128 has the numbers of one of int8 with the zero point 0, code for code. Of another zero point
//! z the range from (0 - z)·s to (255 - z)·s has to fit into 127 steps on either side, so that the step grows, up to twofold behind a
//! Relu. A grid that begins at 0 is a Relu as well, and quantizers that know it leave the Relu out; so it comes back. What all that costs
//! is for verification to say; quantizing the original for the target costs less.

mod activation;
mod bias;
mod constant;
mod shape;
mod unfold;

use planish_ir::{Node, NodeId, OpName, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip, Target};

/// Configuration: none. The target is that of the pipeline.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Legalize {}

impl Pass for Legalize {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

/// One of the rewrites.
type Rewrite = fn(&RuleContext<'_>, NodeId, &Node) -> Result<Patch, Skip>;

impl Rule for Legalize {
    fn roots(&self) -> &'static [&'static str] {
        &["QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "Conv", "Gemm", "MatMul"]
    }

    fn matches(&self, op: &OpName) -> bool {
        match op.domain.as_str() {
            "" => self.roots().contains(&op.name.as_str()),
            domain => domain == "com.microsoft" && unfold::knows(&op.name),
        }
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        if node.is_local() {
            return Err(Skip::NoMatch);
        }
        let rewrites: &[Rewrite] = match (cx.target, node.op.domain.as_str(), node.op.name.as_str()) {
            (Target::Tensorrt, "", "QuantizeLinear") => &[shape::scalar, activation::symmetric],
            (Target::Tensorrt, "", "DequantizeLinear") => {
                &[shape::scalar, bias::to_float, constant::symmetric, activation::symmetric_before]
            }
            (_, "", "QuantizeLinear" | "DequantizeLinear") => &[shape::scalar],
            (Target::OnnxruntimeCpu, "", "Conv" | "Gemm" | "MatMul") => &[constant::signed_like_activation],
            (Target::Tensorrt, _, _) => &[unfold::unfold],
            (Target::Generic, "com.microsoft", _) => &[unfold::unfold],
            _ => return Err(Skip::NoMatch),
        };
        // The first that applies; of those that do not, the first that has a reason.
        let mut reason = Skip::NoMatch;
        for rewrite in rewrites {
            match rewrite(cx, id, node) {
                Ok(patch) => return Ok(patch),
                Err(skip) if reason == Skip::NoMatch => reason = skip,
                Err(_) => {}
            }
        }
        Err(reason)
    }
}

#[cfg(test)]
mod tests;
