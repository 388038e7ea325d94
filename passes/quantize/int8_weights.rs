//! Store weights as int8 with one scale per channel; compute as before.
//!
//! Before     y = Conv (x, w)
//! After      v = DequantizeLinear <axis = 0> (w', scale);  y = Conv (x, v)      w' int8, scale = max |w| / 127
//!            of a table, only the rows that are picked: r = Gather (w', i);  y = DequantizeLinear <axis = -1> (r, scale)
//! When       weights of Conv, ConvTranspose, Gemm, MatMul and Gather, float or float16, of `min_elements` or more
//! Refuses    a weight that is read elsewhere too, or not finite · ConvTranspose in groups · Gather along the last axis ·
//!            float16 before opset 19
//! Numerics   Lossy: each weight moves by at most half a step of its channel; the report gives the signal-to-noise ratio
//! Reference  ONNX DequantizeLinear-13; Jacob et al., CVPR 2018, section 2.1
//!
//! The file gets almost four times smaller. How fast it runs is for the runtime to decide: some widen the weights once, when
//! they load the model, others at every run.
//!
//! The channels are those of the outputs. A table has its scales per column, which are the same for every row, so that
//! they stay constant behind the look-up; on word embeddings this loses no more than scales per row. A weight may be
//! transposed on its way.

mod sites;

use planish_ir::{DType, Dim, Graph, Model, Numerics, OpName, Patch, Ref, TensorType, Type, ValueId};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::per_channel::{PerChannel, Unfit, per_channel};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform};
use sites::{Reader, Weight};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Int8Weights {
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub exclude: Vec<String>,
    /// Tables of `Gather`, such as word embeddings, are weights too.
    pub gather: bool,
    /// All zero points are 0. False spends a zero point per channel, for about 1 dB less noise; TensorRT refuses them.
    pub symmetric: bool,
}

/// Per-axis `DequantizeLinear` begins here.
const MIN_OPSET: i64 = 13;

impl Default for Int8Weights {
    fn default() -> Int8Weights {
        Int8Weights { min_elements: 1024, exclude: Vec::new(), gather: true, symmetric: true }
    }
}

impl Pass for Int8Weights {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Int8Weights {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let opset = model.opset();
        if opset < MIN_OPSET {
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and scales per channel need {MIN_OPSET} or later; run `raise-opset` first"
            )));
        }
        let mut changes = Changes::default();
        let mut summary = Summary::default();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let (weights, refused) = sites::weights(graph, opset, self);
            changes.skipped.extend(refused.into_iter().map(|(node, skip)| (path.clone(), node, skip)));
            let quantize = |w: Weight| {
                let quantized: Result<Vec<PerChannel>, Unfit> =
                    w.readers.keys().map(|&axis| per_channel(&w.tensor, axis, self.symmetric)).collect();
                w.tensor.raw().into_iter().for_each(|raw| cx.weights.release(raw));
                (w, quantized)
            };
            let results: Vec<_> = weights.into_par_iter().map(quantize).collect();
            for (weight, quantized) in results {
                match quantized {
                    Ok(quantized) => {
                        summary.add(graph, &weight, &quantized);
                        changes.patches.push((path.clone(), patch(graph, &weight, quantized)));
                    }
                    Err(unfit) => {
                        let reason = Skip::because(format!("{:?}: {unfit}", graph.name_of(weight.value)));
                        let nodes = weight.readers.values().flatten().map(|r| r.node);
                        changes.skipped.extend(nodes.map(|node| (path.clone(), node, reason.clone())));
                    }
                }
            }
        }
        changes.notes.extend(summary.note());
        Ok(changes)
    }
}

/// Lets the readers of one weight read its int8 form.
fn patch(graph: &Graph, weight: &Weight, quantized: Vec<PerChannel>) -> Patch {
    let name = graph.name_of(weight.value);
    let ty = Type::tensor(weight.tensor.dtype(), weight.tensor.dims().iter().map(|&d| Dim::from(d)));
    let mut patch = Patch::new(Numerics::Lossy, format!("{name:?} in int8"));
    for ((&axis, readers), q) in weight.readers.iter().zip(quantized) {
        let codes = patch.constant(format!("{name}_int8"), q.codes);
        let mut grid = vec![patch.constant(format!("{name}_scale"), q.scales)];
        grid.extend(q.zero_points.map(|z| patch.constant(format!("{name}_zero_point"), z)));
        // One node for each reader: runtimes fuse it with the reader, and only if that is the only one.
        for &Reader { node, slot, picks } in readers {
            if !picks {
                let output = (format!("{name}_dequantized"), Some(ty.clone()));
                let weight = dequantize(&mut patch, codes, &grid, axis as i64, output);
                patch.set_input(node, slot, Some(weight));
            } else if let Some(rows) = graph.node(node).and_then(|n| n.output(0)) {
                let output = (format!("{}_dequantized", graph.name_of(rows)), graph.ty(rows).cloned());
                let dequantized = dequantize(&mut patch, rows.into(), &grid, -1, output);
                patch.replace(rows, dequantized);
                patch.set_input(node, slot, Some(codes));
                set_int8(&mut patch, graph, rows);
            }
        }
    }
    patch
}

/// Adds a `DequantizeLinear`; `grid` is scales and, if there are any, zero points.
fn dequantize(patch: &mut Patch, codes: Ref, grid: &[Ref], axis: i64, (output, ty): (String, Option<Type>)) -> Ref {
    let inputs = [codes].into_iter().chain(grid.iter().copied());
    patch.node(OpName::onnx("DequantizeLinear"), inputs).attr("axis", axis).output(output, ty)
}

fn set_int8(patch: &mut Patch, graph: &Graph, value: ValueId) {
    if let Some(ty) = graph.ty(value).and_then(Type::as_tensor) {
        patch.set_type(value, Type::Tensor(TensorType { dtype: DType::I8, shape: ty.shape.clone() }));
    }
}

/// What the report says of all weights together.
#[derive(Default)]
struct Summary {
    /// Signal-to-noise ratio and name.
    sqnr: Vec<(f64, String)>,
    before: u64,
    after: u64,
}

impl Summary {
    fn add(&mut self, graph: &Graph, weight: &Weight, quantized: &[PerChannel]) {
        self.before += weight.tensor.byte_len();
        for q in quantized {
            self.sqnr.push((q.sqnr, graph.name_of(weight.value)));
            self.after += q.codes.byte_len() + q.scales.byte_len() + q.zero_points.as_ref().map_or(0, |z| z.byte_len());
        }
    }

    fn note(mut self) -> Option<String> {
        self.sqnr.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let (worst, name) = self.sqnr.first()?;
        let (median, _) = self.sqnr.get(self.sqnr.len() / 2)?;
        let count = self.sqnr.len();
        Some(format!(
            "{count} weights in int8, {} bytes before and {} after; signal-to-noise ratio {worst:.1} dB at worst ({name}), \
             {median:.1} dB median",
            self.before, self.after
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_with, refusals};

    fn small() -> Int8Weights {
        Int8Weights { min_elements: 1, ..Int8Weights::default() }
    }

    #[test]
    fn channels_are_those_of_the_outputs() {
        insta::assert_snapshot!(check_with(small(),
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,2,8,8] x, float[3,4] v) => (float[1,4,8,8] y, float[3,4] z)
            <float[4,2,1,1] w, float[4] b, float[4,4] m, float[4,4] n> {
                y = Conv (x, w, b)
                p = MatMul (v, m)
                z = Gemm <transB = 1> (p, n)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,8,8] x, float[3,4] v) => (float[1,4,8,8] y, float[3,4] z)
        <
          float[4] b = {0.5791523, -0.68649244, -0.99834424, 0.38279986},
          int8[4,2,1,1] w_int8 = {127, 112, -127, -7, 127, 45, 127, -56},
          float[4] w_scale = {0.0087804645, 0.0067349235, 0.0071139797, 0.004611659},
          int8[4,4] m_int8 = {-99, 127, -14, 109, 95, -47, -46, -107, 105, 0, -127, -78, 127, -110, 117, -127},
          float[4] m_scale = {0.006418421, 0.0060202098, 0.004432821, 0.004892301},
          int8[4,4] n_int8 = {-127, -121, -115, -46, 127, -20, -99, -103, 102, -127, 68, -84, -63, 127, 50, -26},
          float[4] n_scale = {0.0067004487, 0.006230755, 0.003405582, 0.004835677}
        >
        {
          w_dequantized = DequantizeLinear <axis = 0> (w_int8, w_scale)
          y = Conv (x, w_dequantized, b)
          m_dequantized = DequantizeLinear <axis = 1> (m_int8, m_scale)
          p = MatMul (v, m_dequantized)
          n_dequantized = DequantizeLinear <axis = 0> (n_int8, n_scale)
          z = Gemm <transB = 1> (p, n_dequantized)
        }
        "#);
    }

    #[test]
    fn rows_of_a_table_are_widened_after_they_are_picked() {
        insta::assert_snapshot!(check_with(small(),
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[N,S] i) => (float[N,S,4] y, float[N,S,8] z)
            <float[8,4] t> {
                y = Gather (t, i)
                c = Transpose <perm = [0, 1, 2]> (y)
                z = MatMul (c, u)
            }"#.replace("<float[8,4] t>", "<float[8,4] t, float[4,8] u>").as_str()
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,S] i) => (float[N,S,4] y, float[N,S,8] z)
        <
          int8[8,4] t_int8,  # bf4013ade976, 32 elements
          float[4] t_scale = {0.0038994383, 0.004583556, 0.0035773944, 0.004460475},
          int8[4,8] u_int8,  # 23e68095c845, 32 elements
          float[8] u_scale = {0.004454424, 0.0046789125, 0.0032997627, 0.0039766626, 0.004741215, 0.003986695, 0.004190396, 0.004525778}
        >
        {
          y_1 = Gather (t_int8, i)
          y = DequantizeLinear <axis = -1> (y_1, t_scale)
          c = Transpose <perm = [0, 1, 2]> (y)
          u_dequantized = DequantizeLinear <axis = 1> (u_int8, u_scale)
          z = MatMul (c, u_dequantized)
        }
        "#);
    }

    #[test]
    fn a_shared_weight_is_stored_once_for_each_axis() {
        insta::assert_snapshot!(check_with(small(),
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[4,4] x) => (float[4,4] y)
            <float[4,4] w> {
                a = MatMul (x, w)
                b = MatMul (a, w)
                y = Gemm <transB = 1> (b, w)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[4,4] x) => (float[4,4] y)
        <
          int8[4,4] w_int8 = {127, 112, -97, -6, 127, 45, 82, -37, -92, 85, 127, 101, -41, 14, 53, -127},
          float[4] w_scale = {0.0062087257, 0.005030343, 0.0027874778, 0.004868076},
          int8[4,4] w_int8_1 = {127, 127, -127, -7, 103, 41, 87, -38, -41, 43, 74, 58, -32, 12, 55, -127},
          float[4] w_scale_1 = {0.0062087257, 0.0054616258, 0.00476231, 0.004868076}
        >
        {
          w_dequantized_1 = DequantizeLinear <axis = 1> (w_int8_1, w_scale_1)
          a = MatMul (x, w_dequantized_1)
          w_dequantized_2 = DequantizeLinear <axis = 1> (w_int8_1, w_scale_1)
          b = MatMul (a, w_dequantized_2)
          w_dequantized = DequantizeLinear <axis = 0> (w_int8, w_scale)
          y = Gemm <transB = 1> (b, w_dequantized)
        }
        "#);
    }

    #[test]
    fn a_table_that_is_also_multiplied_with_is_stored_once() {
        insta::assert_snapshot!(check_with(small(),
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[N] i) => (float[N,8] y)
            <float[8,4] t> {
                r = Gather (t, i)
                c = Transpose (t)
                y = MatMul (r, c)
            }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i) => (float[N,8] y)
        <
          int8[8,4] t_int8,  # bf4013ade976, 32 elements
          float[4] t_scale = {0.0038994383, 0.004583556, 0.0035773944, 0.004460475}
        >
        {
          r_1 = Gather (t_int8, i)
          r = DequantizeLinear <axis = -1> (r_1, t_scale)
          t_dequantized = DequantizeLinear <axis = 1> (t_int8, t_scale)
          c = Transpose (t_dequantized)
          y = MatMul (r, c)
        }
        "#);
    }

    #[test]
    fn zero_points_if_they_are_wanted() {
        let pass = Int8Weights { symmetric: false, ..small() };
        insta::assert_snapshot!(check_with(pass,
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[3,2] x) => (float[3,2] y)
            <float[2,2] w = {0.0, -1.0, 2.55, 1.55}> { y = MatMul (x, w) }"#
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3,2] x) => (float[3,2] y)
        <
          int8[2,2] w_int8 = {-128, -128, 127, 127},
          float[2] w_scale = {0.01, 0.01},
          int8[2] w_zero_point = {-128, -28}
        >
        {
          w_dequantized = DequantizeLinear <axis = 1> (w_int8, w_scale, w_zero_point)
          y = MatMul (x, w_dequantized)
        }
        "#);
    }

    #[test]
    fn float16_scales_need_opset_19() {
        let text = r#"<ir_version: 10, opset_import: ["" : 19]>
            g (float16[3,2] x) => (float16[3,2] y)
            <float16[2,2] w = {0.5, -1.0, 2.0, 1.5}> { y = MatMul (x, w) }"#;
        insta::assert_snapshot!(check_with(small(), text), @r#"
        <ir_version: 10, opset_import: ["" : 19]>
        g (float16[3,2] x) => (float16[3,2] y)
        <
          int8[2,2] w_int8 = {32, -85, 127, 127},
          float16[2] w_scale = {9225, 8717}  # 0.01576233, 0.011817932
        >
        {
          w_dequantized = DequantizeLinear <axis = 1> (w_int8, w_scale)
          y = MatMul (x, w_dequantized)
        }
        "#);
    }

    /// Runs the pass on a graph that it must leave alone; `w` has 1024 elements.
    fn refusal(inputs: &str, output: &str, weight: &str, nodes: &str) -> String {
        let graph = format!("g ({inputs}) => ({output} y) <{weight}> {{ {nodes} }}");
        refusals::<Int8Weights>(&format!(r#"<ir_version: 8, opset_import: ["" : 17]> {graph}"#)).join("\n")
    }

    #[test]
    fn refuses() {
        let matrix = "float[32,32] w";
        let x = "float[32,32] x";
        insta::assert_snapshot!(refusal(x, "float[32,8]", "float[32,8] w", "y = MatMul (x, w)"), @r#""w" has 256 elements, and `min_elements` is 1024"#);
        insta::assert_snapshot!(refusal(x, "float[32,32]", "float[32,32] w = {inf}", "y = MatMul (x, w)"), @r#""w": it holds inf, for which there is no scale"#);
        insta::assert_snapshot!(refusal(x, "float[32,32]", matrix, "a = MatMul (x, w)\n r = Relu (w)\n y = Add (a, r)"), @r#""w" is also read where it has to be float: input 0 of the Relu that makes "r""#);
        insta::assert_snapshot!(refusal("int64[2] x", "float[32,2]", matrix, "[pick] y = Gather <axis = 1> (w, x)"), @r#""pick" picks along the last axis"#);
        insta::assert_snapshot!(
            refusal("float[1,32,4,4] x", "float[1,64,4,4]", "float[32,32,1,1] w", "[up] y = ConvTranspose <group = 2> (x, w)"), @r#""up" has 2 groups, of which axis 1 holds only one"#
        );
        insta::assert_snapshot!(
            refusal("float16[2,32] x", "float[2,32]", "float16[32,32] w", "a = MatMul (x, w)\n y = Cast <to = 1> (a)"), @r#""w" is float16, which DequantizeLinear makes from opset 19 on"#
        );
    }

    #[test]
    fn an_overridable_input_is_no_weight() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2,32] x, float[32,32] w) => (float[2,32] y) <float[32,32] w = {0.5}> { y = MatMul (x, w) }"#;
        assert!(refusals::<Int8Weights>(text).is_empty());
    }

    #[test]
    fn per_axis_needs_opset_13() {
        let model = planish_ir::text::parse(r#"<ir_version: 7, opset_import: ["" : 12]> g (float x) => (float x) {}"#);
        let error = Int8Weights::default().transform(&model.unwrap(), &Context::bare());
        insta::assert_snapshot!(error.unwrap_err(), @"the model has opset 12, and scales per channel need 13 or later; run `raise-opset` first");
    }
}
