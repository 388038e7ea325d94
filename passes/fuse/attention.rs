//! Make one operator of an attention: the products, the scale, the mask, the softmax, and the nodes that split and merge heads.
//!
//! Before     w = Softmax (scale * (q * kᵀ) + mask);  y = w * v, with heads split off q, k and v and merged in y by views:
//!            Reshape, Transpose, Gather, Slice, Split, Squeeze, Unsqueeze, in any order and either layout
//! After      generic, from opset 23 on: Attention, keys and values of grouped queries not repeated · onnxruntime:
//!            com.microsoft::Attention if one input is projected by constant weights, else Attention if the opset has
//!            it, else com.microsoft::MultiHeadAttention · tensorrt: stays as it is, which is what TensorRT fuses
//! When       sizes prove that nothing but the mask is broadcast; the mask has a column for every key; it is
//!            added, or Where puts a number in place of scores that hides them if it is added instead
//! Refuses    scores or weights with other readers · a scale that is not positive or also applies to the mask · two masks ·
//!            a type that the operator lacks
//! Numerics   Reassociated; a query whose scores are all -inf is not a number before and may be zero after
//! Reference  Vaswani et al., Attention Is All You Need, 2017, §3.2; ONNX Attention-23; ONNX Runtime contrib operators

mod emit;
mod layout;
mod scores;

use planish_ir::{DType, Dim, Node, NodeId, Patch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip, Target};
use emit::Sizes;
use layout::operand;

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attention {}

impl Pass for Attention {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Attention {
    fn roots(&self) -> &'static [&'static str] {
        &["Softmax"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, _: NodeId, softmax: &Node) -> Result<Patch, Skip> {
        let scores = scores::find(cx, softmax)?;
        let dtype = cx.facts.fact(scores.q).dtype();
        let standard = cx.opset() >= 23;
        match (cx.target, dtype) {
            (Target::Tensorrt, _) => return Err(Skip::because("TensorRT fuses the products and the Softmax itself")),
            (Target::Generic, _) if !standard => {
                return Err(Skip::because(format!(
                    "Attention exists from opset 23 on, and the model has {}; raise-opset raises it",
                    cx.opset()
                )));
            }
            (Target::Generic, Some(DType::F32 | DType::F16 | DType::BF16))
            | (Target::OnnxruntimeCpu | Target::OnnxruntimeGpu, Some(DType::F32))
            | (Target::OnnxruntimeGpu, Some(DType::F16)) => {}
            (_, Some(other)) => return Err(Skip::because(format!("the operator does not take {other} there"))),
            (_, None) => return Err(Skip::because("its type is not known")),
        }
        let sizes = Sizes::of(cx, &scores)?;
        emit::mask_fits(cx, &scores, &sizes)?;
        let operands = [operand(cx, scores.q, false), operand(cx, scores.k, true), operand(cx, scores.v, false)];
        let per_head = |heads: &Dim, size: &Dim, f: &layout::Flat| {
            *heads == Dim::Known(f.heads) && *size == Dim::Known(f.size) && f.heads > 0 && f.size > 0
        };
        if let [Some(q), Some(k), Some(v)] = operands {
            let [size, value_size] = [&sizes.size, &sizes.value_size];
            if per_head(&sizes.heads, size, &q)
                && per_head(&sizes.heads, size, &k)
                && per_head(&sizes.heads, value_size, &v)
            {
                if cx.target != Target::Generic
                    && let Some(patch) = emit::projected(cx, &scores, &sizes, [q, k, v])?
                {
                    return Ok(patch);
                }
                return emit::flat(cx, &scores, &sizes, [q, k, v]);
            }
        }
        if !standard {
            if let Some(patch) = emit::grouped(cx, &scores, &sizes, operands[0])? {
                return Ok(patch);
            }
            return emit::by_head(cx, &scores, &sizes, operands[0]);
        }
        emit::standard(cx, &scores, &sizes, operands[0])
    }
}

#[cfg(test)]
mod tests;
