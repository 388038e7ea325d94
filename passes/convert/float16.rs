//! Compute in float16, with float32 at the model's inputs and outputs and wherever float16 would fail.
//!
//! Before     y = Conv (x, w);  z = Exp (y)                                 float32
//! After      c = Conv (Cast (x), w);  y = Cast (c);  z = Exp (y)           c and w float16
//! When       the operator takes float16 at the model's opset
//! Refuses    operators without a float16 form, functions, and unknown operators · nodes with subgraphs · values that
//!            come within `headroom` of 65504 on the samples, or are too small for it · divisors that would be 0 ·
//!            sums inside an operator that leave the range · differences of almost equal numbers that are divided by ·
//!            without samples, operators that grow (squares, exponentials, sums of them), until an operator brings the
//!            result back into range · readers of a constant beyond ±65504 or of a single one below 2⁻²⁵ · sizes and
//!            positions that are computed from integers for an exact reader · what `keep` lists · what lies between nodes
//!            in float32 and would only add casts
//! Numerics   Lossy: 11 bits of precision instead of 24. Masks of -3.4e38 before Softmax become -32768.
//! Reference  IEEE 754-2019, binary16; Micikevicius et al., Mixed Precision Training, ICLR 2018
//!
//! The report says for every node in float32 how large and how small its numbers are. The number of casts is the smallest
//! that the nodes in float32 allow. Without calibration samples only constants are checked for range; that activations
//! stay inside it is for the verification afterwards to find. Fuse normalizations first: LayerNormalization computes its
//! statistics in float32 by definition, while its parts add them up in float16 where they can, and cost casts where not.

use planish_ir::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half::{Format, InterfaceTypes, Settings, convert};
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Float16 {
    /// Nodes that stay in float32, by name, or all of an operator, such as `Softmax` or `com.example::Op`.
    pub keep: Vec<String>,
    /// Types of the model's inputs and outputs.
    pub interface: InterfaceTypes,
    /// How many times larger than on the samples activations may get without leaving the range; 1 or more.
    pub headroom: f32,
}

impl Default for Float16 {
    fn default() -> Float16 {
        Float16 { keep: Vec::new(), interface: InterfaceTypes::Keep, headroom: 2.0 }
    }
}

/// `Cast` names its target by number from this opset on.
const MIN_OPSET: i64 = 6;

impl Pass for Float16 {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Float16 {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if model.opset() < MIN_OPSET {
            let opset = model.opset();
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and float16 needs {MIN_OPSET} or later; run `raise-opset` first"
            )));
        }
        let settings =
            Settings { format: Format::Float16, keep: &self.keep, interface: self.interface, headroom: self.headroom };
        convert(model, cx, &settings)
    }
}

#[cfg(test)]
mod tests;
