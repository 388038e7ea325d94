//! Scale up the weights that large activations meet, before weights are stored in few bits.
//!
//! Before     n = LayerNormalization (x, γ, β);  y = MatMul (n, w)
//! After      n' = LayerNormalization (x, γ/s, β/s);  y = MatMul (n', w·s)      s = (mean |n|)^α, per channel
//! When       as `smooth-quant`: what makes the value can take up the factors; all that read it are scaled alike
//! Refuses    as `equalize`: values that the caller sees, that are added to something that cannot be scaled, or behind an operator
//!            that is not proportional to its input · factors that do not make the error smaller
//! Numerics   Reassociated; with `powers_of_two` bit-identical as long as no number leaves the range of its type
//! Reference  Lin et al., AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration, MLSys 2024
//!
//! It goes before `quantize-weights`, with the same `bits` and `block`. α is searched for each group of weights, by the error of
//! their outputs when they are rounded so: the squared error of each weight, times the second moment of its activation.

use planish_ir::{DType, Model};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    blocks::Format,
    migrate::{Method, Reader, migrate},
};
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Awq {
    /// Bits of a weight, 2 to 8.
    #[schemars(range(min = 2, max = 8))]
    pub bits: u32,
    /// Weights of one output channel that share a scale; 0 for all of them.
    pub block: usize,
    /// Without zero points.
    pub symmetric: bool,
    /// Round factors to powers of two, which change no bit of the outputs.
    pub powers_of_two: bool,
    /// Share by which the error has to become smaller.
    pub least_gain: f64,
}

impl Default for Awq {
    fn default() -> Awq {
        Awq { bits: 4, block: 32, symmetric: false, powers_of_two: false, least_gain: 0.02 }
    }
}

/// What is tried for α.
const ALPHAS: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

impl Pass for Awq {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Awq {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if !(2..=8).contains(&self.bits) {
            return Err(PassError::Precondition(format!("`bits` is {}, and has to be 2 to 8", self.bits)));
        }
        migrate(
            model,
            cx,
            &Method {
                propose: &|m, _, alpha| -alpha * m.mean_abs().log2(),
                error: &|reader, factors| self.error(reader, factors),
                alphas: &ALPHAS,
                least_gain: self.least_gain,
                powers_of_two: self.powers_of_two,
            },
        )
    }
}

impl Awq {
    /// Error of the outputs of a weight whose elements are rounded.
    fn error(&self, reader: &Reader, factors: &[f64]) -> f64 {
        let second: Vec<f64> = reader.moments.iter().map(|m| m.square_sum / m.count.max(1) as f64).collect();
        let factor = |d: u32| factors.get(d as usize).copied().unwrap_or(1.0);
        let format =
            Format { levels: 1 << self.bits.min(8), block: self.block, symmetric: self.symmetric, scale: DType::F32 };
        let mut error = 0.0;
        for row in &reader.rows {
            let length = if self.block == 0 { row.len().max(1) } else { self.block };
            for block in row.chunks(length) {
                let scaled = |&(w, d): &(f32, u32)| (f64::from(w) / factor(d)) as f32;
                let (low, high) =
                    block.iter().map(scaled).fold((0.0f32, 0.0f32), |(low, high), w| (low.min(w), high.max(w)));
                let grid = format.spanning(low, high);
                for element in block {
                    let (w, f) = (scaled(element), factor(element.1));
                    let lost = f64::from(grid.value(grid.code(w)) - w) * f;
                    error += lost * lost * second.get(element.1 as usize).copied().unwrap_or(0.0);
                }
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use planish_ir::Tensor;

    use super::*;
    use crate::{Target, calibration::Moments, testing::check_calibrated};

    fn moments(mean: f64) -> Moments {
        Moments {
            min: 0.0,
            max: 2.0 * mean as f32,
            sum: 100.0 * mean,
            abs_sum: 100.0 * mean,
            square_sum: 100.0 * mean * mean,
            count: 100,
        }
    }

    #[test]
    fn factors_are_folded_into_what_makes_the_value() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <float[2,2] v = {1.0, 2.0, 3.0, 4.0}, float[2] b = {1.0, 1.0}, float[2,2] w = {1.0, 0.3, 0.2, 0.7}>
            { a = Gemm (x, v, b)  r = Relu (a)  y = MatMul (r, w) }"#;
        let sample = BTreeMap::from([("x".to_owned(), Tensor::from_f32([2, 2].as_slice(), &[1.0; 4]).unwrap())]);
        let pass = Awq { bits: 2, least_gain: f64::NEG_INFINITY, ..Awq::default() };
        insta::assert_snapshot!(check_calibrated(pass, Target::Generic, &[sample], text), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2,2] v = {0.98241985, 2.0357895, 2.9472597, 4.071579},
          float[2] b = {0.98241985, 1.0178947},
          float[2,2] w = {1.0178947, 0.30536842, 0.19648397, 0.6876939}
        >
        {
          a = Gemm (x, v, b)
          r = Relu (a)
          y = MatMul (r, w)
        }
        "#);
    }

    #[test]
    fn weights_of_large_activations_are_rounded_more_finely() {
        let row: Vec<(f32, u32)> = (0..8).map(|d| (0.31 * (d as f32 + 1.0).sin(), d)).collect();
        let reader = Reader::new((0..8).map(|d| moments(if d == 2 { 50.0 } else { 1.0 })).collect(), vec![row]);
        let awq = Awq { bits: 3, block: 8, ..Awq::default() };
        let mut factors = [1.0; 8];
        let plain = awq.error(&reader, &factors);
        factors[2] = 0.25;
        assert!(awq.error(&reader, &factors) < plain);
    }

    #[test]
    fn bits_are_checked() {
        let model = planish_ir::text::parse(r#"<ir_version: 7, opset_import: ["" : 12]> g (float x) => (float x) {}"#);
        let error = Awq { bits: 9, ..Awq::default() }.transform(&model.unwrap(), &Context::bare()).unwrap_err();
        assert_eq!(error.to_string(), "`bits` is 9, and has to be 2 to 8");
    }
}
