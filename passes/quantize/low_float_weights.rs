//! Store weights as floats of 8 or 4 bits with scales; compute as before.
//!
//! Before     y = MatMul (x, w)
//! After      v = DequantizeLinear <axis = 0, block_size = 32> (w', scale);  y = MatMul (x, v)       w' float4e2m1
//! When       weights of Conv, ConvTranspose, Gemm and MatMul, and of Gather with `gather`, of `min_elements` or more, in 16
//!            or 32 bits
//! Refuses    a weight that is read elsewhere too, or not finite · ConvTranspose in groups · an opset without the format: float8 and mxfp8 from 19 and 21 on, mxfp4 and nvfp4 from 23 on · for TensorRT,
//!            blocks that do not fill the axis · for onnxruntime on CPU, floats of 4 bits, of which it has no kernel
//! Numerics   Lossy: 4 bits of precision in 8-bit floats, 2 in 4-bit ones; the report gives the signal-to-noise ratio
//! Reference  Micikevicius et al., FP8 Formats for Deep Learning, 2022; Open Compute Project, Microscaling Formats (MX) 1.0
//!
//! `float8` is E4M3 with a scale per output channel. `mxfp8` and `mxfp4` have a power of two for every 32 numbers along
//! the axis that is summed over, stored as E8M0 from opset 24 on and as floats before. `nvfp4` has an E4M3 scale for every
//! 16, which is itself scaled per weight: two `DequantizeLinear`, one behind the other. Blocks are for matrices and tables; in
//! these formats convolutions get `float8`. Each scale is the one of a few candidates that loses least.
//!
//! Eight-bit integers (`int8-weights`) lose less at the same size. Floats are for hardware that multiplies them.

mod blocks;
mod sites;

use planish_ir::{DType, Dim, Graph, Model, Numerics, OpName, Patch, Type};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Skip, Target, Transform};
use blocks::{Encoded, Scales, encode};
use sites::{Reader, Site};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LowFloatWeights {
    /// Type of the numbers and of their scales.
    pub format: LowFloat,
    /// Weights with fewer elements stay as they are.
    pub min_elements: u64,
    /// Weights and nodes to leave alone, by name.
    pub exclude: Vec<String>,
    /// Tables of `Gather`, such as word embeddings, are weights too. ONNX lets no node pick rows of these types, so the whole
    /// table is widened first: the file is smaller, but a runtime that does not do so once, when it loads the model, does it
    /// in every run.
    pub gather: bool,
}

/// Type of the numbers and of their scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LowFloat {
    /// float8e4m3fn, a scale per output channel.
    #[default]
    Float8,
    /// float8e4m3fn, a power of two for every 32.
    MxFp8,
    /// float4e2m1, a power of two for every 32.
    MxFp4,
    /// float4e2m1, a float8e4m3fn scale for every 16, and one float for these.
    NvFp4,
}

impl LowFloat {
    /// First opset version that has it.
    const fn since(self) -> i64 {
        match self {
            LowFloat::Float8 => 19,
            LowFloat::MxFp8 => 21,
            LowFloat::MxFp4 | LowFloat::NvFp4 => 23,
        }
    }

    /// Name in pipelines.
    const fn name(self) -> &'static str {
        match self {
            LowFloat::Float8 => "float8",
            LowFloat::MxFp8 => "mxfp8",
            LowFloat::MxFp4 => "mxfp4",
            LowFloat::NvFp4 => "nvfp4",
        }
    }
}

/// First opset version with scales that are powers of two in a type of their own.
const E8M0_OPSET: i64 = 24;

impl Default for LowFloatWeights {
    fn default() -> LowFloatWeights {
        LowFloatWeights { format: LowFloat::Float8, min_elements: 1024, exclude: Vec::new(), gather: false }
    }
}

impl Pass for LowFloatWeights {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for LowFloatWeights {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let (opset, since, name) = (model.opset(), self.format.since(), self.format.name());
        if opset < since {
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and {name} needs {since} or later; run `raise-opset: {{to: {since}}}` first"
            )));
        }
        if cx.target == Target::OnnxruntimeCpu && matches!(self.format, LowFloat::MxFp4 | LowFloat::NvFp4) {
            return Err(PassError::Precondition(format!(
                "onnxruntime has no DequantizeLinear of 4-bit floats on CPU, so {name} would not load there; \
                 use `mxfp8`, or integers"
            )));
        }
        // onnxruntime knows no scales of this type either.
        let e8m0 = opset >= E8M0_OPSET && cx.target != Target::OnnxruntimeCpu;
        let mut changes = Changes::default();
        let mut summary = Summary::default();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let (sites, refused) = sites::sites(graph, self, cx.target);
            changes.skipped.extend(refused.into_iter().map(|(node, skip)| (path.clone(), node, skip)));
            let encoded: Vec<_> = sites
                .into_par_iter()
                .map(|site| {
                    let encoded = encode(&site.tensor, site.layout, e8m0);
                    site.tensor.raw().into_iter().for_each(|raw| cx.weights.release(raw));
                    (site, encoded)
                })
                .collect();
            for (site, encoded) in encoded {
                match encoded {
                    Ok(encoded) => {
                        summary.add(graph, &site, &encoded);
                        changes.patches.push((path.clone(), patch(graph, &site, encoded)));
                    }
                    Err(reason) => {
                        let skip = Skip::because(format!("{:?}: {reason}", graph.name_of(site.value)));
                        changes.skipped.extend(site.readers.iter().map(|r| (path.clone(), r.node, skip.clone())));
                    }
                }
            }
        }
        changes.notes.extend(summary.note());
        Ok(changes)
    }
}

/// Lets readers of one weight read its small form.
fn patch(graph: &Graph, site: &Site, encoded: Encoded) -> Patch {
    let name = graph.name_of(site.value);
    let ty = Type::tensor(site.tensor.dtype(), site.tensor.dims().iter().map(|&d| Dim::from(d)));
    let codes_dtype = encoded.codes.dtype();
    let mut patch = Patch::new(Numerics::Lossy, format!("{name:?} in {codes_dtype}"));
    let codes = patch.constant(format!("{name}_{codes_dtype}"), encoded.codes);
    // The type of the result is that of the scales, unless they have one of their own.
    let mut output_dtype = None;
    let scales = match encoded.scales {
        Scales::Plain(scales) => {
            output_dtype = (scales.dtype() == DType::F8E8M0).then_some(site.tensor.dtype());
            patch.constant(format!("{name}_scale"), scales)
        }
        Scales::Scaled { codes, scale } => {
            let ty = Type::tensor(scale.dtype(), codes.dims().iter().map(|&d| Dim::from(d)));
            let inputs = [
                patch.constant(format!("{name}_scale_{}", codes.dtype()), codes),
                patch.constant(format!("{name}_scale_scale"), scale),
            ];
            let node = patch.node(OpName::onnx("DequantizeLinear"), inputs);
            node.output(format!("{name}_scale"), Some(ty))
        }
    };
    let dequantize = |patch: &mut Patch, axis: i64, output: String| {
        let mut node = patch.node(OpName::onnx("DequantizeLinear"), [codes, scales]).attr("axis", axis);
        if let Some(block) = site.layout.block() {
            node = node.attr("block_size", block as i64);
        }
        if let Some(dtype) = output_dtype {
            node = node.attr("output_dtype", i64::from(dtype.code()));
        }
        node.output(output, Some(ty.clone()))
    };
    // One node for each reader: runtimes fuse it with the reader, and only if that is the only one.
    for &Reader { node, slot } in &site.readers {
        let (axis, output) = (site.layout.axis() as i64, format!("{name}_dequantized"));
        let weight = dequantize(&mut patch, axis, output);
        patch.set_input(node, slot, Some(weight));
    }
    patch
}

/// What the report says of all weights together.
#[derive(Default)]
struct Summary {
    /// Signal-to-noise ratio and name.
    sqnr: Vec<(f64, String)>,
    /// Weights in blocks, and others.
    blocked: usize,
    before: u64,
    after: u64,
}

impl Summary {
    fn add(&mut self, graph: &Graph, site: &Site, encoded: &Encoded) {
        self.sqnr.push((encoded.sqnr, graph.name_of(site.value)));
        self.blocked += usize::from(site.layout.block().is_some());
        self.before += site.tensor.byte_len();
        self.after += encoded.byte_len();
    }

    fn note(mut self) -> Option<String> {
        self.sqnr.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let (worst, name) = self.sqnr.first()?;
        let (median, _) = self.sqnr.get(self.sqnr.len() / 2)?;
        Some(format!(
            "{} weights in blocks, {} with a scale per channel; {} bytes before and {} after; signal-to-noise ratio \
             {worst:.1} dB at worst ({name}), {median:.1} dB median",
            self.blocked,
            self.sqnr.len() - self.blocked,
            self.before,
            self.after
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_for, check_with, refusals_for};

    fn small(format: LowFloat) -> LowFloatWeights {
        LowFloatWeights { format, min_elements: 1, ..LowFloatWeights::default() }
    }

    #[test]
    fn channels_have_scales() {
        insta::assert_snapshot!(check_with(small(LowFloat::Float8),
            r#"<ir_version: 9, opset_import: ["" : 19]>
            g (float[1,2,8,8] x, float16[3,4] v) => (float[1,4,8,8] y, float16[3,4] z)
            <float[4,2,1,1] w, float16[4,4] n> {
                y = Conv (x, w)
                z = Gemm <transB = 1> (v, n)
            }"#
        ), @r#"
        <ir_version: 9, opset_import: ["" : 19]>
        g (float[1,2,8,8] x, float16[3,4] v) => (float[1,4,8,8] y, float16[3,4] z)
        <
          float8e4m3fn[4,2,1,1] w_float8e4m3fn = {121, 120, 254, 221, 126, 114, 121, 240},
          float[4] w_scale = {0.0038387245, 0.0019092306, 0.0020166861, 0.0020161674},
          float8e4m3fn[4,4] n_float8e4m3fn = {254, 253, 253, 242, 126, 233, 251, 251, 120, 250, 115, 245, 241, 121, 110, 231},
          float16[4] n_scale = {6088, 5949, 5528, 6229}  # 0.0018997192, 0.0017671585, 0.0013656616, 0.0021152496
        >
        {
          w_dequantized = DequantizeLinear <axis = 0> (w_float8e4m3fn, w_scale)
          y = Conv (x, w_dequantized)
          n_dequantized = DequantizeLinear <axis = 0> (n_float8e4m3fn, n_scale)
          z = Gemm <transB = 1> (v, n_dequantized)
        }
        "#);
    }

    #[test]
    fn tables_are_widened_before_rows_are_picked() {
        let table = |format| LowFloatWeights { gather: true, ..small(format) };
        let text = r#"<ir_version: 10, opset_import: ["" : 21]>
            g (int64[N,S] i) => (float[N,S,64] y)
            <float[8,64] t> { y = Gather (t, i) }"#;
        insta::assert_snapshot!(check_with(table(LowFloat::MxFp8), text), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (int64[N,S] i) => (float[N,S,64] y)
        <
          float8e4m3fn[8,64] t_float8e4m3fn,  # 2757c57c4de4, 512 elements
          float[8,2] t_scale = {0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125, 0.00048828125}
        >
        {
          t_dequantized = DequantizeLinear <axis = 1, block_size = 32> (t_float8e4m3fn, t_scale)
          y = Gather (t_dequantized, i)
        }
        "#);
        insta::assert_snapshot!(check_with(table(LowFloat::Float8), text), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (int64[N,S] i) => (float[N,S,64] y)
        <
          float8e4m3fn[8,64] t_float8e4m3fn,  # bdcb53300e78, 512 elements
          float[8] t_scale = {0.0006239992, 0.0006041603, 0.0008019728, 0.0008671233, 0.00048299783, 0.0007436735, 0.0008094008, 0.0005211694}
        >
        {
          t_dequantized = DequantizeLinear <axis = 0> (t_float8e4m3fn, t_scale)
          y = Gather (t_dequantized, i)
        }
        "#);
        insta::assert_snapshot!(refusals_for(small(LowFloat::Float8), Target::Generic, text).join("\n"), @r#""t" is a table, and `gather` is off"#);
    }

    #[test]
    fn a_table_that_is_also_multiplied_with_is_stored_once() {
        let pass = LowFloatWeights { gather: true, ..small(LowFloat::Float8) };
        insta::assert_snapshot!(check_with(pass,
            r#"<ir_version: 10, opset_import: ["" : 21]>
            g (int64[N] i) => (float[N,8] y)
            <float[8,4] t> {
                r = Gather (t, i)
                c = Transpose (t)
                y = MatMul (r, c)
            }"#
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (int64[N] i) => (float[N,8] y)
        <
          float8e4m3fn[8,4] t_float8e4m3fn,  # b233dd14c2d7, 32 elements
          float[8] t_scale = {0.0019500717, 0.001484342, 0.0012993563, 0.0014341929, 0.0012330889, 0.001438891, 0.0009934878, 0.0015633015}
        >
        {
          t_dequantized_1 = DequantizeLinear <axis = 0> (t_float8e4m3fn, t_scale)
          r = Gather (t_dequantized_1, i)
          t_dequantized = DequantizeLinear <axis = 0> (t_float8e4m3fn, t_scale)
          c = Transpose (t_dequantized)
          y = MatMul (r, c)
        }
        "#);
    }

    #[test]
    fn blocks_lie_along_the_axis_that_is_summed_over() {
        let text = |opset: i64| {
            format!(
                r#"<ir_version: 11, opset_import: ["" : {opset}]>
                g (float[3,64] x) => (float[3,32] y)
                <float[64,32] w, float[32,32] v> {{
                    a = MatMul (x, w)
                    y = Gemm <transB = 1> (a, v)
                }}"#
            )
        };
        insta::assert_snapshot!(check_with(small(LowFloat::MxFp4), &text(23)), @r#"
        <ir_version: 11, opset_import: ["" : 23]>
        g (float[3,64] x) => (float[3,32] y)
        <
          float4e2m1[64,32] w_float4e2m1,  # 059177dd8d9e, 2048 elements, 3 % zeros
          float[2,32] w_scale,  # c7eb6c8a4ace, 64 elements
          float4e2m1[32,32] v_float4e2m1,  # 9802b7bfa042, 1024 elements, 5 % zeros
          float[32,1] v_scale  # 5b8a2b201921, 32 elements
        >
        {
          w_dequantized = DequantizeLinear <axis = 0, block_size = 32> (w_float4e2m1, w_scale)
          a = MatMul (x, w_dequantized)
          v_dequantized = DequantizeLinear <axis = 1, block_size = 32> (v_float4e2m1, v_scale)
          y = Gemm <transB = 1> (a, v_dequantized)
        }
        "#);
        insta::assert_snapshot!(check_with(small(LowFloat::MxFp8), &text(24)), @r#"
        <ir_version: 11, opset_import: ["" : 24]>
        g (float[3,64] x) => (float[3,32] y)
        <
          float8e4m3fn[64,32] w_float8e4m3fn,  # bde039cfabb3, 2048 elements
          float8e8m0[2,32] w_scale,  # 4673fe4deeb6, 64 elements
          float8e4m3fn[32,32] v_float8e4m3fn,  # 6bf337bd57f0, 1024 elements
          float8e8m0[32,1] v_scale  # 67ae2993dccc, 32 elements
        >
        {
          w_dequantized = DequantizeLinear <axis = 0, block_size = 32, output_dtype = 1> (w_float8e4m3fn, w_scale)
          a = MatMul (x, w_dequantized)
          v_dequantized = DequantizeLinear <axis = 1, block_size = 32, output_dtype = 1> (v_float8e4m3fn, v_scale)
          y = Gemm <transB = 1> (a, v_dequantized)
        }
        "#);
        insta::assert_snapshot!(check_with(small(LowFloat::NvFp4), &text(23)), @r#"
        <ir_version: 11, opset_import: ["" : 23]>
        g (float[3,64] x) => (float[3,32] y)
        <
          float4e2m1[64,32] w_float4e2m1,  # a009fdc88076, 2048 elements, 4 % zeros
          float8e4m3fn[4,32] w_scale_float8e4m3fn,  # 5e111c8b96bd, 128 elements
          float w_scale_scale = {0.00012081532},
          float4e2m1[32,32] v_float4e2m1,  # f0e2398be8a9, 1024 elements, 4 % zeros
          float8e4m3fn[32,2] v_scale_float8e4m3fn,  # e99cfd0d6ee0, 64 elements
          float v_scale_scale = {0.00017050396}
        >
        {
          w_scale = DequantizeLinear (w_scale_float8e4m3fn, w_scale_scale)
          w_dequantized = DequantizeLinear <axis = 0, block_size = 16> (w_float4e2m1, w_scale)
          a = MatMul (x, w_dequantized)
          v_scale = DequantizeLinear (v_scale_float8e4m3fn, v_scale_scale)
          v_dequantized = DequantizeLinear <axis = 1, block_size = 16> (v_float4e2m1, v_scale)
          y = Gemm <transB = 1> (a, v_dequantized)
        }
        "#);
        // onnxruntime has no E8M0.
        insta::assert_snapshot!(check_for(small(LowFloat::MxFp8), Target::OnnxruntimeCpu, &text(24)), @r#"
        <ir_version: 11, opset_import: ["" : 24]>
        g (float[3,64] x) => (float[3,32] y)
        <
          float8e4m3fn[64,32] w_float8e4m3fn,  # bde039cfabb3, 2048 elements
          float[2,32] w_scale,  # 83e77bc5ba5a, 64 elements
          float8e4m3fn[32,32] v_float8e4m3fn,  # 6bf337bd57f0, 1024 elements
          float[32,1] v_scale  # 4867c60e0a87, 32 elements
        >
        {
          w_dequantized = DequantizeLinear <axis = 0, block_size = 32> (w_float8e4m3fn, w_scale)
          a = MatMul (x, w_dequantized)
          v_dequantized = DequantizeLinear <axis = 1, block_size = 32> (v_float8e4m3fn, v_scale)
          y = Gemm <transB = 1> (a, v_dequantized)
        }
        "#);
    }

    #[test]
    fn a_last_block_may_be_short_but_not_for_tensorrt() {
        let text = r#"<ir_version: 11, opset_import: ["" : 23]>
            g (float[3,40] x) => (float[3,2] y) <float[40,2] w> { y = MatMul (x, w) }"#;
        insta::assert_snapshot!(check_with(small(LowFloat::MxFp4), text), @r#"
        <ir_version: 11, opset_import: ["" : 23]>
        g (float[3,40] x) => (float[3,2] y)
        <
          float4e2m1[40,2] w_float4e2m1,  # a0fce8205683, 80 elements, 5 % zeros
          float[2,2] w_scale = {0.0625, 0.0625, 0.0625, 0.0625}
        >
        {
          w_dequantized = DequantizeLinear <axis = 0, block_size = 32> (w_float4e2m1, w_scale)
          y = MatMul (x, w_dequantized)
        }
        "#);
        insta::assert_snapshot!(refusals_for(small(LowFloat::MxFp4), Target::Tensorrt, text).join("\n"), @r#"axis 0 of "w" has 40 entries, which blocks of 32 do not fill"#);
    }

    #[test]
    fn weights_that_are_shared() {
        // Each axis has scales of its own; blocks along the same axis are stored once.
        insta::assert_snapshot!(check_with(small(LowFloat::Float8),
            r#"<ir_version: 9, opset_import: ["" : 19]>
            g (float[4,4] x) => (float[4,4] y)
            <float[4,4] w> {
                a = MatMul (x, w)
                b = MatMul (a, w)
                y = Gemm <transB = 1> (b, w)
            }"#
        ), @r#"
        <ir_version: 9, opset_import: ["" : 19]>
        g (float[4,4] x) => (float[4,4] y)
        <
          float8e4m3fn[4,4] w_float8e4m3fn = {121, 120, 246, 213, 126, 114, 121, 240, 243, 114, 119, 116, 241, 100, 116, 254},
          float[4] w_scale = {0.002714388, 0.0014260124, 0.0014492335, 0.0013800126},
          float8e4m3fn[4,4] w_float8e4m3fn_1 = {122, 121, 253, 217, 120, 108, 121, 236, 237, 108, 119, 113, 234, 94, 115, 250},
          float[4] w_scale_1 = {0.0024891046, 0.002387764, 0.0014722181, 0.0019516326}
        >
        {
          w_dequantized_1 = DequantizeLinear <axis = 1> (w_float8e4m3fn_1, w_scale_1)
          a = MatMul (x, w_dequantized_1)
          w_dequantized_2 = DequantizeLinear <axis = 1> (w_float8e4m3fn_1, w_scale_1)
          b = MatMul (a, w_dequantized_2)
          w_dequantized = DequantizeLinear <axis = 0> (w_float8e4m3fn, w_scale)
          y = Gemm <transB = 1> (b, w_dequantized)
        }
        "#);
    }

    fn refusal(inputs: &str, output: &str, weight: &str, nodes: &str) -> String {
        let graph = format!("g ({inputs}) => ({output} y) <{weight}> {{ {nodes} }}");
        let text = format!(r#"<ir_version: 11, opset_import: ["" : 23]> {graph}"#);
        refusals_for(LowFloatWeights::default(), Target::Generic, &text).join("\n")
    }

    #[test]
    fn refuses() {
        let (x, matrix) = ("float[32,32] x", "float[32,32] w");
        insta::assert_snapshot!(refusal(x, "float[32,8]", "float[32,8] w", "y = MatMul (x, w)"), @r#""w" has 256 elements, and `min_elements` is 1024"#);
        insta::assert_snapshot!(refusal(x, "float[32,32]", "float[32,32] w = {inf}", "y = MatMul (x, w)"), @r#""w": it holds inf, for which there is no scale"#);
        insta::assert_snapshot!(refusal(x, "float[32,32]", matrix, "a = MatMul (x, w)\n r = Relu (w)\n y = Add (a, r)"), @r#""w" is also read where it has to be float"#);
        insta::assert_snapshot!(
            refusal("float[1,32,4,4] x", "float[1,64,4,4]", "float[32,32,1,1] w", "[up] y = ConvTranspose <group = 2> (x, w)"), @r#""up" has 2 groups, of which axis 1 holds only one"#
        );
        // It can be overridden.
        insta::assert_snapshot!(refusal("float[2,32] x, float[32,32] w", "float[2,32]", "float[32,32] w = {0.5}", "y = MatMul (x, w)"), @"");
    }

    #[test]
    fn what_the_opset_or_the_target_does_not_have() {
        let model = |opset: i64| {
            let text = format!(r#"<ir_version: 9, opset_import: ["" : {opset}]> g (float x) => (float x) {{}}"#);
            planish_ir::text::parse(&text).unwrap()
        };
        let error = small(LowFloat::MxFp4).transform(&model(21), &Context::bare());
        insta::assert_snapshot!(error.unwrap_err(), @"the model has opset 21, and mxfp4 needs 23 or later; run `raise-opset: {to: 23}` first");
        let cx = Context { target: Target::OnnxruntimeCpu, ..Context::bare() };
        insta::assert_snapshot!(small(LowFloat::NvFp4).transform(&model(23), &cx).unwrap_err(), @"onnxruntime has no DequantizeLinear of 4-bit floats on CPU, so nvfp4 would not load there; use `mxfp8`, or integers");
    }
}
