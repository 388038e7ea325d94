//! A form of quantization that is younger than the operator set of the model.
//!
//! Rule       scales along an axis ask for opset 13, float8 for 19, blocks and types of 4 and 16 bits for 21, float4 for 23, scales of float8
//!            E8M0 for 24, types of 2 bits for 25
//! Why        runtimes refuse a model that uses what its version does not define
//! Do         `raise-opset`
//! Reference  ONNX changelog of operators, QuantizeLinear and DequantizeLinear

use planish_ir::DType;

use super::{Found, Lint, view::View};

pub(super) struct MinimumOpset;

impl Lint for MinimumOpset {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        let opset = view.opset;
        for grid in view.grids().filter(|g| g.node.op.domain.is_empty()) {
            let of_type = match grid.dtype(view) {
                Some(DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ) => (19, "float8"),
                Some(DType::I4 | DType::U4 | DType::I16 | DType::U16) => (21, "a type of 4 or 16 bits"),
                Some(DType::F4E2M1) => (23, "float4"),
                Some(DType::I2 | DType::U2) => (25, "a type of 2 bits"),
                _ => (10, ""),
            };
            let of_scale = match view.dtype(grid.node.input(1)) {
                Some(DType::F8E8M0) => (24, "scales of float8 E8M0"),
                Some(DType::F16 | DType::BF16) => (19, "scales of 16 bits"),
                _ => (10, ""),
            };
            let of_form = match (grid.block() > 0, grid.is_per_tensor(view)) {
                (true, _) => (21, "blocks"),
                (false, Some(false)) => (13, "scales along an axis"),
                (false, _) => (10, ""),
            };
            for (least, what) in [of_type, of_scale, of_form] {
                if opset < least {
                    let problem =
                        format!("it has {what}, which ONNX defines from opset {least} on; the model imports {opset}");
                    found.at(grid.id, None, problem, format!("run `raise-opset` to {least}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    #[test]
    fn forms_of_their_version_pass_and_younger_ones_are_found() {
        let of = |opset, weights: &str, nodes: &str| {
            findings("minimum-opset", OnnxruntimeCpu, opset, "float[N,4] x", weights, nodes)
        };
        assert!(of(10, "float s = {0.1}, int8 z = {0}", "y = QuantizeLinear (x, s, z)").is_empty());
        assert!(of(21, "float s = {0.1}, int16 z = {0}", "y = QuantizeLinear (x, s, z)").is_empty());
        insta::assert_debug_snapshot!(of(12, "float[4] s", "y = QuantizeLinear (x, s)"), @r#"
        [
            "y QuantizeLinear: it has scales along an axis, which ONNX defines from opset 13 on; the model imports 12; run `raise-opset` to 13",
        ]
        "#);
        insta::assert_debug_snapshot!(of(17, "int4[64,4] w, float[2,4] s", "y = DequantizeLinear <block_size = 32, axis = 0> (w, s)"), @r#"
        [
            "y DequantizeLinear: it has a type of 4 or 16 bits, which ONNX defines from opset 21 on; the model imports 17; run `raise-opset` to 21",
            "y DequantizeLinear: it has blocks, which ONNX defines from opset 21 on; the model imports 17; run `raise-opset` to 21",
        ]
        "#);
    }
}
