//! Equalize the ranges of channels across layers.
//!
//! Before     h = Relu (Conv (x, v, b));  y = Conv (h, w)
//! After      v' = v·s, b' = b·s per output channel;  w' = w/s per input channel;  s = √(max |w| / max |v|)
//! When       weights of Conv, ConvTranspose, Gemm, MatMul, scales of normalizations and tables, with operators between them that
//!            are proportional to their inputs: Relu, LeakyRelu, PRelu, Clip from 0, pools, sums, concatenations, views, heads;
//!            also the two sides of a product of activations, such as queries and keys
//! Refuses    a value that the caller sees · an operator that is not proportional to its input, such as HardSwish, Gelu, or Clip with
//!            an upper bound · a weight with other readers or that can be overridden · factors that leave the range of a type
//! Numerics   Reassociated; with `powers_of_two` bit-identical as long as no number leaves the range of its type
//! Reference  Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1
//!
//! It takes no data: the size of a channel is that of the weights which make it. What it gains depends on what comes after:
//! with one scale per tensor, channels of very different sizes lose their small ones; scales per channel need it less.
//! Groups of layers are balanced one after another until nothing changes any more.

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fold_scales::{Absorber, Channels, Component, Scales};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Equalize {
    /// Round factors to powers of two, which change no bit of the outputs.
    pub powers_of_two: bool,
    /// How often all layers are gone through at most.
    pub sweeps: u32,
}

impl Default for Equalize {
    fn default() -> Equalize {
        Equalize { powers_of_two: true, sweeps: 20 }
    }
}

/// Binary logarithms of factors by root.
type Exponents = BTreeMap<u32, f64>;

/// Largest exponent; more would only carry a channel that is zero but for noise to where others are.
const MOST: f64 = 20.0;
/// Change of an exponent that is not worth another sweep.
const SETTLED: f64 = 0.01;

impl Pass for Equalize {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Equalize {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let mut scales = Scales::of(model, cx.facts.graph());
        for i in 0..scales.absorbers().len() {
            let node = scales.absorbers().get(i).map(|a| a.node);
            if let (Some(node), Some(why)) = (node, scales.obstacle(i)) {
                changes.skipped.push((GraphPath::main(), node, Skip::because(why)));
            }
        }
        let components = scales.components();
        let mut exponents = Exponents::new();
        for _ in 0..self.sweeps {
            let mut moved = 0.0f64;
            for c in &components {
                for (root, step) in self.balance(model, &mut scales, c, &exponents)? {
                    moved = moved.max(step.abs());
                    *exponents.entry(root).or_default() += step;
                }
            }
            if moved < SETTLED {
                break;
            }
        }
        let mut tensors = BTreeMap::new();
        let mut largest = 0.0f64;
        for c in &components {
            let exponent = |root: u32| exponents.get(&root).copied().unwrap_or(0.0);
            let moved: Vec<f64> = c.roots.iter().map(|&r| exponent(r)).filter(|e| e.abs() >= SETTLED).collect();
            if moved.is_empty() {
                continue;
            }
            let note = format!("{} of {} channels between {}", moved.len(), c.roots.len(), weights(model, &scales, c));
            match scales.patch(c, &|root| exponent(root).exp2(), note, &mut tensors) {
                Ok(patch) => {
                    largest = moved.iter().fold(largest, |m, e| m.max(e.abs()));
                    changes.patches.push((GraphPath::main(), patch));
                }
                Err(why) => {
                    let nodes = c.readers.iter().filter_map(|&i| scales.absorbers().get(i)).map(|a| a.node);
                    let skipped = nodes.map(|node| (GraphPath::main(), node, Skip::because(why.clone())));
                    changes.skipped.extend(skipped.collect::<Vec<_>>());
                }
            }
        }
        if !changes.patches.is_empty() {
            changes.notes.push(format!(
                "{} groups of channels equalized, factors up to {:.4}",
                changes.patches.len(),
                largest.exp2()
            ));
        }
        Ok(changes)
    }
}

impl Equalize {
    /// How far the exponents of a component have to move, so that on the geometric mean weights before and behind are as
    /// large.
    fn balance(
        &self,
        model: &Model,
        scales: &mut Scales<'_>,
        component: &Component,
        exponents: &Exponents,
    ) -> Result<Exponents, PassError> {
        // For each root: number and sum of the logarithms of what grows with it, and of what shrinks.
        let mut sides: BTreeMap<u32, [(f64, f64); 2]> = BTreeMap::new();
        let mut add = |root: u32, shrinks: bool, size: f64| {
            if size > 0.0 && size.is_finite() {
                let [grow, shrink] = sides.entry(root).or_default();
                let side = if shrinks { shrink } else { grow };
                *side = (side.0 + 1.0, side.1 + size.log2());
            }
        };
        for (list, reads) in [(&component.readers, true), (&component.producers, false)] {
            for a in list.iter().filter_map(|&i| scales.absorbers().get(i)) {
                let sizes = sizes(model, a, reads, exponents)?;
                let channels = if reads { &a.data } else { &a.result };
                for (root, (inverse, size)) in by_root(channels, &sizes) {
                    add(root, reads ^ inverse, size);
                }
            }
        }
        for &v in &component.constants {
            if !scales.is_gain(v) {
                continue;
            }
            let values = read(model, v)?;
            for (root, (inverse, size)) in scales.constant_sizes(v, &values) {
                let now = exponents.get(&root).copied().unwrap_or(0.0);
                add(root, inverse, size * if inverse { -now } else { now }.exp2());
            }
        }
        let step = |(root, [grow, shrink]): (u32, [(f64, f64); 2])| {
            let balanced = (shrink.1 / shrink.0 - grow.1 / grow.0) / 2.0;
            let old = exponents.get(&root).copied().unwrap_or(0.0);
            let new = (old + balanced).clamp(-MOST, MOST);
            let step = if self.powers_of_two { whole(new - old) } else { new - old };
            (grow.0 > 0.0 && shrink.0 > 0.0 && step.is_finite()).then_some((root, step))
        };
        Ok(sides.into_iter().filter_map(step).collect())
    }
}

/// The nearest whole number; of two that are as near, the one nearer to zero, so that nothing moves to and fro.
fn whole(step: f64) -> f64 {
    (step.abs() - 0.5 - 1e-9).ceil().max(0.0).copysign(step)
}

/// Largest weight of each channel of the data or the result of a weight, with the factors chosen so far.
fn sizes(model: &Model, a: &Absorber, of_data: bool, exponents: &Exponents) -> Result<Vec<f64>, PassError> {
    let values = read(model, a.weight)?;
    let factors = |c: &Channels| -> Vec<f64> {
        let exponent = |s: &super::fold_scales::Signed| {
            let e = exponents.get(&s.root).copied().unwrap_or(0.0);
            if s.inverse { -e } else { e }
        };
        c.factors.iter().map(|f| f.as_ref().map_or(0.0, exponent).exp2()).collect()
    };
    let (data, result) = (factors(&a.data), factors(&a.result));
    let mut sizes = vec![0.0f64; if of_data { data.len() } else { result.len() }];
    a.visit(values.len(), &mut |flat, d, r| {
        let (Some(w), Some(by_data), Some(by_result)) = (values.get(flat), data.get(d), result.get(r)) else { return };
        if let Some(size) = sizes.get_mut(if of_data { d } else { r }) {
            *size = size.max(w.abs() * by_result / by_data);
        }
    });
    Ok(sizes)
}

/// Largest size of the channels that have a factor in common.
fn by_root(channels: &Channels, sizes: &[f64]) -> BTreeMap<u32, (bool, f64)> {
    let mut found: BTreeMap<u32, (bool, f64)> = BTreeMap::new();
    for (factor, size) in channels.factors.iter().zip(sizes) {
        if let Some(s) = factor {
            let entry = found.entry(s.root).or_insert((s.inverse, 0.0));
            entry.1 = entry.1.max(*size);
        }
    }
    found
}

fn read(model: &Model, constant: ValueId) -> Result<Vec<f64>, PassError> {
    let graph = &model.graph;
    let values = graph.constant(constant).map_or(Ok(Vec::new()), Tensor::to_f64);
    values.map_err(|source| PassError::Tensor { place: graph.name_of(constant), source })
}

/// The weights of a component, for the log.
fn weights(model: &Model, scales: &Scales<'_>, c: &Component) -> String {
    let names = |list: &[usize]| -> Vec<String> {
        list.iter()
            .filter_map(|&i| scales.absorbers().get(i))
            .map(|a| format!("{:?}", model.graph.name_of(a.weight)))
            .collect()
    };
    let mut before = names(&c.producers);
    before.extend(c.constants.iter().filter(|v| scales.is_gain(**v)).map(|v| format!("{:?}", model.graph.name_of(*v))));
    format!("{} and {}", before.join(", "), names(&c.readers).join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_with, refusals};

    fn model(inputs: &str, outputs: &str, weights: &str, nodes: &str) -> String {
        format!(r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}"#)
    }

    #[test]
    fn through_an_activation() {
        let text = model(
            "float[N,1,4,4] x",
            "float[N,1,4,4] y",
            "float[2,1,1,1] v = {8.0, 0.5}, float[2] b = {1.0, -1.0}, float[1,2,1,1] w = {0.5, 32.0}",
            "c = Conv (x, v, b)\n r = Relu (c)\n y = Conv (r, w)",
        );
        insta::assert_snapshot!(check::<Equalize>(&text), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,1,4,4] y)
        <
          float[2,1,1,1] v = {2.0, 4.0},
          float[2] b = {0.25, -8.0},
          float[1,2,1,1] w = {2.0, 4.0}
        >
        {
          c = Conv (x, v, b)
          r = Relu (c)
          y = Conv (r, w)
        }
        "#);
        let pass = Equalize { powers_of_two: false, ..Equalize::default() };
        insta::assert_snapshot!(check_with(pass, &text.replace("32.0", "16.0")), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,1,4,4] y)
        <
          float[2,1,1,1] v = {2.0, 2.828427},
          float[2] b = {0.25, -5.656854},
          float[1,2,1,1] w = {2.0, 2.828427}
        >
        {
          c = Conv (x, v, b)
          r = Relu (c)
          y = Conv (r, w)
        }
        "#);
    }

    #[test]
    fn depthwise_convolutions_residuals_and_pools() {
        insta::assert_snapshot!(check::<Equalize>(&model(
            "float[N,1,4,4] x", "float[N,1] y",
            "float[2,1,1,1] v = {8.0, 0.5}, float[2,1,1,1] d = {1.0, 4.0}, float[2] b = {1.0, 1.0}, float[2,1] w = {2.0, 2.0}",
            "c = Conv (x, v)\n r = LeakyRelu (c)\n d1 = Conv <group = 2> (r, d, b)\n s = Add (d1, r)\n p = GlobalAveragePool (s)
             f = Flatten (p)\n y = MatMul (f, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4,4] x) => (float[N,1] y)
        <
          float[2,1,1,1] v = {8.0, 0.5},
          float[2,1,1,1] d = {1.0, 4.0},
          float[2] b = {1.0, 1.0},
          float[2,1] w = {2.0, 2.0}
        >
        {
          c = Conv (x, v)
          r = LeakyRelu (c)
          d1 = Conv <group = 2> (r, d, b)
          s = Add (d1, r)
          p = GlobalAveragePool (s)
          f = Flatten (p)
          y = MatMul (f, w)
        }
        "#);
    }

    #[test]
    fn concatenated_and_flattened_channels() {
        insta::assert_snapshot!(check::<Equalize>(&model(
            "float[N,1,2,2] x", "float[N,1] y",
            "float[1,1,1,1] u = {4.0}, float[1,1,1,1] v = {1.0}, float[8,1] w = {1.0, 1.0, 1.0, 1.0, 16.0, 16.0, 4.0, 1.0}",
            "a = Conv (x, u)\n b = Conv (x, v)\n c = Concat <axis = 1> (a, b)\n f = Flatten (c)\n y = MatMul (f, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,2,2] x) => (float[N,1] y)
        <
          float[1,1,1,1] u = {8.0},
          float[1,1,1,1] v = {2.0},
          float[8,1] w = {0.5, 0.5, 0.5, 0.5, 8.0, 8.0, 2.0, 0.5}
        >
        {
          a = Conv (x, u)
          b = Conv (x, v)
          c = Concat <axis = 1> (a, b)
          f = Flatten (c)
          y = MatMul (f, w)
        }
        "#);
    }

    #[test]
    fn heads_of_attention() {
        insta::assert_snapshot!(check::<Equalize>(&model(
            "float[N,S,2] x", "float[N,S,2] y",
            "float[2,4] q = {16.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0}, float[2,4] k = {1.0}, float[2,4] v = {1.0}, float[4] vb = {1.0, 2.0, 3.0, 4.0}, float[4,2] o = {4.0, 4.0, 1.0, 1.0, 1.0, 1.0, 16.0, 1.0}, int64[4] h = {0, 0, 2, 2}, int64[3] m = {0, 0, 4}, float half = {0.5}",
            "q0 = MatMul (x, q)\n k0 = MatMul (x, k)\n v0 = MatMul (x, v)\n vv = Add (v0, vb)
             q1 = Reshape (q0, h)\n k1 = Reshape (k0, h)\n v1 = Reshape (vv, h)
             q2 = Transpose <perm = [0, 2, 1, 3]> (q1)\n k2 = Transpose <perm = [0, 2, 3, 1]> (k1)\n v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
             s = MatMul (q2, k2)\n t = Mul (s, half)\n p = Softmax (t)\n a = MatMul (p, v2)
             b = Transpose <perm = [0, 2, 1, 3]> (a)\n c = Reshape (b, m)\n y = MatMul (c, o)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,S,2] x) => (float[N,S,2] y)
        <
          float[2,4] q = {4.0, 1.0, 1.0, 2.0, 0.25, 1.0, 1.0, 0.5},
          float[2,4] k = {4.0, 1.0, 1.0, 2.0, 4.0, 1.0, 1.0, 2.0},
          float[2,4] v = {2.0, 1.0, 1.0, 4.0, 2.0, 1.0, 1.0, 4.0},
          float[4] vb = {2.0, 2.0, 3.0, 16.0},
          float[4,2] o = {2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 4.0, 0.25},
          int64[4] h = {0, 0, 2, 2},
          int64[3] m = {0, 0, 4},
          float half = {0.5}
        >
        {
          q0 = MatMul (x, q)
          q1 = Reshape (q0, h)
          q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
          k0 = MatMul (x, k)
          k1 = Reshape (k0, h)
          k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
          s = MatMul (q2, k2)
          t = Mul (s, half)
          p = Softmax (t)
          v0 = MatMul (x, v)
          vv = Add (v0, vb)
          v1 = Reshape (vv, h)
          v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
          a = MatMul (p, v2)
          b = Transpose <perm = [0, 2, 1, 3]> (a)
          c = Reshape (b, m)
          y = MatMul (c, o)
        }
        "#);
    }

    #[test]
    fn gated_layers_behind_a_normalization() {
        insta::assert_snapshot!(check::<Equalize>(&model(
            "float[N,2] x", "float[N,2] y",
            "float[2] g = {1.0, 1.0}, float[2] b = {1.0, 1.0}, float[2,2] gate = {1.0, 1.0, 4.0, 4.0}, float[2,2] up = {1.0, 1.0, 4.0, 1.0}, float[2,2] down = {1.0, 1.0, 16.0, 1.0}",
            "n = LayerNormalization (x, g, b)\n a = MatMul (n, gate)\n s = Sigmoid (a)\n u = MatMul (n, up)\n m = Mul (s, u)\n y = MatMul (m, down)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y)
        <
          float[2] g = {1.0, 2.0},
          float[2] b = {1.0, 2.0},
          float[2,2] gate = {1.0, 1.0, 2.0, 2.0},
          float[2,2] up = {1.0, 4.0, 2.0, 2.0},
          float[2,2] down = {1.0, 1.0, 4.0, 0.25}
        >
        {
          n = LayerNormalization (x, g, b)
          a = MatMul (n, gate)
          s = Sigmoid (a)
          u = MatMul (n, up)
          m = Mul (s, u)
          y = MatMul (m, down)
        }
        "#);
    }

    #[test]
    fn a_table_makes_channels_too() {
        insta::assert_snapshot!(check::<Equalize>(&model(
            "int64[N] i", "float[N,1] y",
            "float[3,2] t = {1.0, 2.0, 3.0, 4.0, 16.0, 1.0}, float[2,1] w = {1.0, 1.0}",
            "r = Gather (t, i)\n y = MatMul (r, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i) => (float[N,1] y)
        <
          float[3,2] t = {0.25, 1.0, 0.75, 2.0, 4.0, 0.5},
          float[2,1] w = {4.0, 2.0}
        >
        {
          r = Gather (t, i)
          y = MatMul (r, w)
        }
        "#);
    }

    /// Why the second convolution keeps its weights.
    fn refusal(between: &str) -> String {
        let nodes = format!("c = Conv (x, v)\n {between}\n y = Conv (r, w)");
        let weights =
            "float[2,1,1,1] v = {8.0, 1.0}, float[1,2,1,1] w = {1.0, 16.0}, float zero = {0.0}, float six = {6.0}";
        refusals::<Equalize>(&model("float[N,1,4,4] x", "float[N,1,4,4] y", weights, &nodes)).pop().unwrap_or_default()
    }

    #[test]
    fn refuses() {
        insta::assert_snapshot!(refusal("r = HardSwish (c)"), @r#"its input "r" cannot be scaled: the HardSwish that makes "r" reads or makes it: it is not proportional to its input"#);
        insta::assert_snapshot!(refusal("r = Clip (c, zero, six)"), @r#"its input "r" cannot be scaled: the Clip that makes "r" reads or makes it: its upper bound would cut scaled values elsewhere"#);
        insta::assert_snapshot!(refusal("r = Clip (c, six)"), @r#"its input "r" cannot be scaled: the Clip that makes "r" reads or makes it: its lower bound would cut scaled values elsewhere"#);
        insta::assert_snapshot!(refusal("s = Sigmoid (c)\n r = Add (c, s)"), @r#"its input "r" cannot be scaled: the Sigmoid that makes "s" reads or makes it: it is not proportional to its input"#);
        let weights = "float[2,1] v = {8.0, 1.0}, float[2,1] w = {1.0, 16.0}";
        let reasons = |inputs: &str, outputs: &str, nodes: &str| {
            refusals::<Equalize>(&model(inputs, outputs, weights, nodes)).join("\n")
        };
        insta::assert_snapshot!(reasons("float[N,1] x", "float[N,1] y, float[N,2] r", "c = Gemm <transB = 1> (x, v)\n r = Relu (c)\n y = MatMul (r, w)"), @r#"
        its input "x" cannot be scaled: "x" is given by the caller
        its input "r" cannot be scaled: "r" is an output of the graph
        "#);
        insta::assert_snapshot!(reasons("float[N,1] x, float[2,1] w", "float[N,1] y", "c = Gemm <transB = 1> (x, v)\n r = Relu (c)\n y = MatMul (r, w)"), @r#"its input "x" cannot be scaled: "x" is given by the caller"#);
        insta::assert_snapshot!(reasons("float[N,1] x, bool b", "float[N,1] y", "c = Gemm <transB = 1> (x, v)\n y = If (b) <then_branch = t () => (float[N,1] z) { z = MatMul (c, w) }, else_branch = e () => (float[N,1] z) { z = MatMul (c, w) }>"), @r#"its input "x" cannot be scaled: "x" is given by the caller"#);
    }

    #[test]
    fn weights_with_other_readers_stay() {
        let text = model(
            "float[N,2] x",
            "float[N,2] y",
            "float[2,2] w = {8.0, 1.0, 1.0, 1.0}",
            "a = MatMul (x, w)\n r = Relu (a)\n y = MatMul (r, w)",
        );
        assert_eq!(refusals::<Equalize>(&text), [""; 0]);
    }

    #[test]
    fn numbers_that_would_leave_the_range_of_float16() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float16[N,1] x) => (float16[N,1] y)
            <float16[1,1] v = {1}, float16[1] b = {31743}, float16[1,1] w = {31743}>
            { c = Gemm (x, v, b)  y = MatMul (c, w) }"#;
        insta::assert_snapshot!(refusals::<Equalize>(text).join("\n"), @r#"
        its input "x" cannot be scaled: "x" is given by the caller
        "b" would hold numbers that float16 cannot
        "#);
    }
}
