//! Compute in bfloat16, with float32 at the model's inputs and outputs and where bfloat16 has too few digits.
//!
//! Before     y = MatMul (x, w);  z = Sin (y)                               float32
//! After      c = MatMul (Cast (x), w);  y = Cast (c);  z = Sin (y)         c and w bfloat16
//! When       the operator takes bfloat16 at the model's opset: most from 13 on, convolutions and pools from 22 on
//! Refuses    operators without a bfloat16 form, functions, and unknown operators · nodes with subgraphs · readers of a
//!            constant that would be infinite, or of a single one that would be 0 · differences of almost equal numbers
//!            that are divided by, such as a mean of squares minus a square · scales of quantization that lose bits · sizes and positions that are computed from integers for an exact reader · what `keep` lists · what
//!            lies between nodes in float32 and would only add casts
//! Numerics   Lossy: 8 bits of precision instead of 24; the range stays. Masks of -3.4e38 before Softmax become -32768.
//! Reference  Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322
//!
//! For hardware that has it, where activations leave the range of float16. It is eight times coarser, so prefer `float16`
//! where that keeps most nodes.

use planish_ir::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half::{Format, InterfaceTypes, Settings, convert};
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bfloat16 {
    /// Nodes that stay in float32, by name, or all of an operator, such as `Softmax` or `com.example::Op`.
    pub keep: Vec<String>,
    /// Types of the model's inputs and outputs.
    pub interface: InterfaceTypes,
}

/// ONNX has the type from this opset on.
const MIN_OPSET: i64 = 13;

impl Pass for Bfloat16 {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Bfloat16 {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if model.opset() < MIN_OPSET {
            let opset = model.opset();
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and bfloat16 needs {MIN_OPSET} or later; run `raise-opset` first, to 22 \
                 for convolutions"
            )));
        }
        let settings =
            Settings { format: Format::Bfloat16, keep: &self.keep, interface: self.interface, headroom: 1.0 };
        convert(model, cx, &settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn squares_and_small_numbers_are_in_range() {
        insta::assert_snapshot!(check::<Bfloat16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,8] x) => (float[N,8] y)
            <float[8,8] w, float two = {2.0}, float eps = {1e-12}> {
                a = MatMul (x, w)
                s = Pow (a, two)
                v = ReduceMean <axes = [1]> (s)
                e = Add (v, eps)
                r = Sqrt (e)
                n = Div (a, r)
                y = MatMul (n, w)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <
          bfloat16[8,8] w,  # 8e3fb3277bd8, 64 elements
          bfloat16 two = {16384},  # 2.0
          bfloat16 eps = {11149}  # 1.0018653e-12
        >
        {
          x_bfloat16 = Cast <to = 16> (x)
          a = MatMul (x_bfloat16, w)
          s = Pow (a, two)
          v = ReduceMean <axes = [1]> (s)
          e = Add (v, eps)
          r = Sqrt (e)
          n = Div (a, r)
          y_1 = MatMul (n, w)
          y = Cast <to = 1> (y_1)
        }
        "#);
    }

    /// The variance of one exporter, which is ruined by rounding; the mean is needed in both types.
    #[test]
    fn variances_that_are_differences_stay() {
        insta::assert_snapshot!(check::<Bfloat16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,8] x) => (float[N,8] y)
            <float[8,8] w, float eps = {1e-6}, float zero = {0.0}> {
                a = MatMul (x, w)
                s = Mul (a, a)
                m2 = ReduceMean <axes = [1]> (s)
                m = ReduceMean <axes = [1]> (a)
                mm = Mul (m, m)
                d = Sub (m2, mm)
                p = Max (d, zero)
                v = Add (p, eps)
                r = Sqrt (v)
                c = Sub (a, m)
                n = Div (c, r)
                y = MatMul (n, w)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <
          bfloat16[8,8] w,  # 8e3fb3277bd8, 64 elements
          float eps = {1e-6},
          float zero = {0.0}
        >
        {
          x_bfloat16 = Cast <to = 16> (x)
          a_1 = MatMul (x_bfloat16, w)
          a = Cast <to = 1> (a_1)
          m = ReduceMean <axes = [1]> (a)
          c = Sub (a, m)
          s = Mul (a, a)
          m2 = ReduceMean <axes = [1]> (s)
          mm = Mul (m, m)
          d = Sub (m2, mm)
          p = Max (d, zero)
          v = Add (p, eps)
          r = Sqrt (v)
          n = Div (c, r)
          n_bfloat16 = Cast <to = 16> (n)
          y_1 = MatMul (n_bfloat16, w)
          y = Cast <to = 1> (y_1)
        }
        "#);
    }

    #[test]
    fn a_mask_that_would_be_infinite_is_brought_into_range() {
        insta::assert_snapshot!(check::<Bfloat16>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,8] x, float[N,8] i) => (float[N,8] y)
            <float[8,8] w, float low = {-3.4028234663852886e38}> {
                a = MatMul (x, w)
                b = Mul (i, low)
                s = Add (a, b)
                p = Softmax (s)
                y = MatMul (p, w)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x, float[N,8] i) => (float[N,8] y)
        <
          bfloat16[8,8] w,  # 8e3fb3277bd8, 64 elements
          bfloat16 low = {50944}  # -32768.0
        >
        {
          x_bfloat16 = Cast <to = 16> (x)
          a = MatMul (x_bfloat16, w)
          i_bfloat16 = Cast <to = 16> (i)
          b = Mul (i_bfloat16, low)
          s = Add (a, b)
          p = Softmax (s)
          y_1 = MatMul (p, w)
          y = Cast <to = 1> (y_1)
        }
        "#);
    }

    #[test]
    fn convolutions_need_opset_22() {
        let text = |opset: i64| {
            format!(
                r#"<ir_version: 10, opset_import: ["" : {opset}]> g (float[1,8,4,4] x) => (float[1,8,4,4] y)
                <float[8,8,1,1] w> {{ y = Conv (x, w) }}"#
            )
        };
        insta::assert_snapshot!(refusals::<Bfloat16>(&text(21)).join("\n"), @"Conv takes bfloat16 from opset 22 on, and the model has 21");
        insta::assert_snapshot!(check::<Bfloat16>(&text(22)), @r#"
        <ir_version: 10, opset_import: ["" : 22]>
        g (float[1,8,4,4] x) => (float[1,8,4,4] y)
        <
          bfloat16[8,8,1,1] w  # 884f58406617, 64 elements
        >
        {
          x_bfloat16 = Cast <to = 16> (x)
          y_1 = Conv (x_bfloat16, w)
          y = Cast <to = 1> (y_1)
        }
        "#);
    }

    #[test]
    fn scales_that_lose_bits_stay() {
        insta::assert_snapshot!(check::<Bfloat16>(
            r#"<ir_version: 10, opset_import: ["" : 21]>
            g (float[2,8] x) => (float[2,8] y)
            <int8[8,8] w, float fine = {0.0123}, float coarse = {0.015625}> {
                a = DequantizeLinear (w, fine)
                b = DequantizeLinear (w, coarse)
                c = MatMul (x, a)
                y = MatMul (c, b)
            }"#
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[2,8] x) => (float[2,8] y)
        <
          int8[8,8] w,  # 89daff5127aa, 64 elements, 6 % zeros
          float fine = {0.0123},
          bfloat16 coarse = {15488}  # 0.015625
        >
        {
          x_bfloat16 = Cast <to = 16> (x)
          a = DequantizeLinear (w, fine)
          a_bfloat16 = Cast <to = 16> (a)
          c = MatMul (x_bfloat16, a_bfloat16)
          b = DequantizeLinear (w, coarse)
          y_1 = MatMul (c, b)
          y = Cast <to = 1> (y_1)
        }
        "#);
    }

    #[test]
    fn the_type_needs_opset_13() {
        let model = planish_ir::text::parse(r#"<ir_version: 7, opset_import: ["" : 12]> g (float x) => (float x) {}"#);
        let error = Bfloat16::default().transform(&model.unwrap(), &Context::bare());
        insta::assert_snapshot!(error.unwrap_err(), @"the model has opset 12, and bfloat16 needs 13 or later; run `raise-opset` first, to 22 for convolutions");
    }
}
