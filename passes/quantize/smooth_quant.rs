//! Move outliers of activations into the weights that read them.
//!
//! Before     n = LayerNormalization (x, γ, β);  y = MatMul (n, w)
//! After      n' = LayerNormalization (x, γ/s, β/s);  y = MatMul (n', w·s)      s = max |n|^α / max |w|^(1-α), per channel
//! When       what makes the value can take up the factors: a normalization, a linear operator, a table, with operators between
//!            that are proportional to their inputs; all that read it (queries, keys and values) are scaled alike
//! Refuses    as `equalize`: values that the caller sees, that are added to something that cannot be scaled, or behind an operator
//!            that is not proportional to its input · factors that do not make the error smaller
//! Numerics   Reassociated; with `powers_of_two` bit-identical as long as no number leaves the range of its type
//! Reference  Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, ICML 2023
//!
//! α is searched for each group of weights. The error that it is judged by is that of the outputs, if activations have 256 steps
//! over the range seen in calibration, weights 255 per output channel, and rounding errors are independent: the step of the
//! activations times the norm of the weights, and the steps of the weights times the second moment of the activations.
//! A model whose activations have no outliers stays as it is.

use planish_ir::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::migrate::{Method, Reader, migrate};
use crate::{Changes, Context, Pass, PassError, Shape, Transform, calibration::Moments};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SmoothQuant {
    /// How much is moved: 0 makes weights equally large, 1 activations. Searched for each group of weights if not given.
    pub alpha: Option<f64>,
    /// Round factors to powers of two, which change no bit of the outputs.
    pub powers_of_two: bool,
    /// Share by which the estimated error has to become smaller.
    pub least_gain: f64,
}

impl Default for SmoothQuant {
    fn default() -> SmoothQuant {
        SmoothQuant { alpha: None, powers_of_two: true, least_gain: 0.05 }
    }
}

/// What is tried for α.
const ALPHAS: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

impl Pass for SmoothQuant {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for SmoothQuant {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let given = self.alpha.map(|a| [a]);
        migrate(
            model,
            cx,
            &Method {
                propose: &|m, w, alpha| (1.0 - alpha) * w.log2() - alpha * f64::from(m.max_abs()).log2(),
                error: &error,
                alphas: given.as_ref().map_or(ALPHAS.as_slice(), |a| a.as_slice()),
                least_gain: self.least_gain,
                powers_of_two: self.powers_of_two,
            },
        )
    }
}

/// Error of the outputs of a weight in 8 bits on activations in 8 bits, up to a constant.
fn error(reader: &Reader, factors: &[f64]) -> f64 {
    let (mut low, mut high) = (0.0f64, 0.0f64);
    for (m, f) in reader.moments.iter().zip(factors).filter(|(m, _)| m.count > 0) {
        low = low.min(f64::from(m.min) * f);
        high = high.max(f64::from(m.max) * f);
    }
    let step = (high - low) / 255.0;
    let second = |m: &Moments| m.square_sum / m.count.max(1) as f64;
    let moment: Vec<f64> = reader.moments.iter().zip(factors).map(|(m, f)| second(m) * f * f).collect();
    let row = |row: &Vec<(f32, u32)>| {
        let (mut norm, mut largest, mut power) = (0.0f64, 0.0f64, 0.0f64);
        for &(w, d) in row {
            let w = f64::from(w) / factors.get(d as usize).copied().unwrap_or(1.0);
            norm += w * w;
            largest = largest.max(w.abs());
            power += moment.get(d as usize).copied().unwrap_or(0.0);
        }
        step * step * norm + (largest / 127.0) * (largest / 127.0) * power
    };
    reader.rows.iter().map(row).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use planish_ir::Tensor;

    use super::*;
    use crate::{Target, testing::check_calibrated};

    fn run(pass: SmoothQuant, weights: &str, nodes: &str) -> String {
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) <{weights}> {{ {nodes} }}"#
        );
        let sample = BTreeMap::from([("x".to_owned(), Tensor::from_f32([9, 2].as_slice(), &[1.0; 18]).unwrap())]);
        check_calibrated(pass, Target::Generic, &[sample], &text)
    }

    /// Moves what it can, be it of use or not.
    fn always(alpha: f64) -> SmoothQuant {
        SmoothQuant { alpha: Some(alpha), least_gain: f64::NEG_INFINITY, ..SmoothQuant::default() }
    }

    #[test]
    fn a_normalization_takes_up_the_factors_of_all_that_read_it() {
        insta::assert_snapshot!(run(
            always(0.0),
            "float[2] g = {1.0, 1.0}, float[2] b = {1.0, 1.0}, float[2,2] q = {1.0, 1.0, 4.0, 4.0}, float[2,2] k = {1.0, 1.0, 16.0, 1.0}",
            "n = LayerNormalization (x, g, b)\n a = MatMul (n, q)\n c = MatMul (n, k)\n y = Mul (a, c)",
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2] g = {0.25, 4.0},
          float[2] b = {0.25, 4.0},
          float[2,2] q = {4.0, 4.0, 1.0, 1.0},
          float[2,2] k = {4.0, 4.0, 4.0, 0.25}
        >
        {
          n = LayerNormalization (x, g, b)
          a = MatMul (n, q)
          c = MatMul (n, k)
          y = Mul (a, c)
        }
        "#);
    }

    #[test]
    fn what_is_also_added_stays() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <float[2] g = {1.0, 1.0}, float[2,2] w = {1.0, 1.0, 4.0, 4.0}>
            { n = LayerNormalization (x, g)  a = MatMul (n, w)  s = Add (a, n)  y = LayerNormalization (s, g) }"#;
        let model = planish_ir::text::parse(text).unwrap();
        let error = SmoothQuant::default().transform(&model, &Context::bare()).unwrap_err();
        insta::assert_snapshot!(error, @"it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, or give --calibration FILE");
        let sample = BTreeMap::from([("x".to_owned(), Tensor::from_f32([9, 2].as_slice(), &[1.0; 18]).unwrap())]);
        let after = check_calibrated(always(0.5), Target::Generic, &[sample], text);
        assert_eq!(after, planish_ir::text::print(&model));
    }

    #[test]
    fn activations_that_are_alike_stay() {
        let weights = "float[2] g = {1.0, 1.0}, float[2,2] w = {1.0, 1.0, 1.0, 1.0}";
        let nodes = "n = LayerNormalization (x, g)\n y = MatMul (n, w)";
        assert!(run(SmoothQuant::default(), weights, nodes).contains("g = {1.0, 1.0}"));
    }

    #[test]
    fn an_outlier_is_worth_moving() {
        let moments = |max: f32| Moments {
            min: -max,
            max,
            sum: 0.0,
            abs_sum: f64::from(max) * 50.0,
            square_sum: f64::from(max * max) * 30.0,
            count: 100,
        };
        let row: Vec<(f32, u32)> = (0..4).map(|d| (1.0, d)).collect();
        let reader = Reader::new((0..4).map(|d| moments(if d == 0 { 100.0 } else { 1.0 })).collect(), vec![row; 4]);
        let plain = error(&reader, &[1.0; 4]);
        let smooth = error(&reader, &[0.1, 1.0, 1.0, 1.0]);
        assert!(smooth < plain / 3.0, "{smooth} {plain}");
        // All of it in the weights is as bad again.
        assert!(error(&reader, &[0.001, 1.0, 1.0, 1.0]) > smooth);
    }
}
