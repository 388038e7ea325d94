//! A bias is quantized.
//!
//! Rule       the bias of Conv, ConvTranspose and Gemm is a float, and no DequantizeLinear takes int32
//! Why        TensorRT adds the bias in floats, and refuses a DequantizeLinear there; ONNX Runtime's models have one of int32
//! Do         `legalize` for this target makes it a float constant
//! Reference  TensorRT, working with quantized types; onnx-tensorrt, operator DequantizeLinear

use planish_ir::DType;

use super::{
    Found, Lint,
    view::{Half, View},
};

pub(super) struct Bias;

impl Lint for Bias {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids().filter(|g| g.half == Half::Dequantize) {
            let Some(output) = grid.node.output(0) else { continue };
            let is_bias = view.readers(output).any(|(_, n, slot)| {
                slot == 2 && !n.is_local() && ["Conv", "ConvTranspose", "Gemm"].iter().any(|op| n.op.is(op))
            });
            let problem = match grid.dtype(view) {
                _ if is_bias => "it dequantizes a bias",
                Some(DType::I32) => "it dequantizes int32, as a bias would have",
                _ => continue,
            };
            found.at(grid.id, Some(output), problem, "store the bias as a float constant; `legalize` does");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn a_float_passes_and_others_are_found() {
        let of = |nodes: &str| {
            let weights = "float s = {0.1}, float[4,4] w, int32[4] b, int8[4] b8, float[4] f";
            findings("bias", Tensorrt, 17, "float[N,4] x", weights, nodes)
        };
        assert!(of("y = Gemm (x, w, f)").is_empty());
        insta::assert_debug_snapshot!(of("d = DequantizeLinear (b, s) y = Gemm (x, w, d)"), @r#"
        [
            "d DequantizeLinear [d]: it dequantizes a bias; store the bias as a float constant; `legalize` does",
        ]
        "#);
        assert_eq!(of("d = DequantizeLinear (b8, s) y = Gemm (x, w, d)").len(), 1);
        insta::assert_debug_snapshot!(of("m = MatMul (x, w) d = DequantizeLinear (b, s) y = Add (m, d)"), @r#"
        [
            "d DequantizeLinear [d]: it dequantizes int32, as a bias would have; store the bias as a float constant; `legalize` does",
        ]
        "#);
    }
}
