//! A quantized type that the target does not have.
//!
//! Rule       QuantizeLinear and DequantizeLinear are of int8, float8 E4M3, int4 (weights only) or float4; scales are float32, float16 or
//!            bfloat16, and of blocks also float8 E8M0
//! Why        TensorRT has no other types; uint8 above all, which is what ONNX Runtime likes best
//! Do         `legalize` for this target turns uint8 into int8
//! Reference  TensorRT, working with quantized types

use planish_ir::DType;

use super::{Found, Lint, view::View};

pub(super) struct QuantizedTypes;

impl Lint for QuantizedTypes {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids() {
            let codes = match grid.half {
                super::view::Half::Quantize => grid.node.output(0),
                super::view::Half::Dequantize => grid.node.input(0),
            };
            let is_weight = grid.node.input(0).is_some_and(|v| view.is_weight(v));
            match grid.dtype(view) {
                None | Some(DType::I8 | DType::F8E4M3FN | DType::F4E2M1) => {}
                Some(DType::I4) if is_weight => {}
                Some(DType::I4) => {
                    found.at(grid.id, codes, "an activation is int4, which only weights may be", "quantize it to int8")
                }
                // Said by the rule about biases.
                Some(DType::I32) => {}
                Some(other) => {
                    let problem = format!("{other} is no quantized type of the target");
                    found.at(
                        grid.id,
                        codes,
                        problem,
                        "use int8, or for weights int4; `legalize` turns uint8 into int8",
                    );
                }
            }
            if let Some(other) = view.dtype(grid.node.input(1)).filter(|t| !is_scale(*t, grid.block())) {
                let advice = "use float32, float16 or bfloat16";
                found.at(grid.id, grid.node.input(1), format!("its scale is {other}"), advice);
            }
        }
    }
}

fn is_scale(dtype: DType, block: i64) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        || (block > 0 && matches!(dtype, DType::F8E8M0 | DType::F8E4M3FN))
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    fn of(zero: &str) -> Vec<String> {
        findings(
            "quantized-types",
            Tensorrt,
            23,
            "float[N,4] x",
            &format!("float s = {{0.1}}, {zero}"),
            "y = QuantizeLinear (x, s, z)",
        )
    }

    #[test]
    fn types_of_the_target_pass() {
        assert!(of("int8 z = {0}").is_empty());
        assert!(of("float8e4m3fn z").is_empty());
        let weight = "int4[4,4] w, float[4] s = {0.1, 0.1, 0.1, 0.1}";
        assert!(
            findings(
                "quantized-types",
                Tensorrt,
                21,
                "float[N,4] x",
                weight,
                "d = DequantizeLinear <axis = 0> (w, s) y = MatMul (x, d)"
            )
            .is_empty()
        );
    }

    #[test]
    fn others_are_found() {
        insta::assert_debug_snapshot!(of("uint8 z = {0}"), @r#"
        [
            "y QuantizeLinear [y]: uint8 is no quantized type of the target; use int8, or for weights int4; `legalize` turns uint8 into int8",
        ]
        "#);
        insta::assert_debug_snapshot!(of("int4 z = {0}"), @r#"
        [
            "y QuantizeLinear [y]: an activation is int4, which only weights may be; quantize it to int8",
        ]
        "#);
        assert_eq!(of("int16 z = {0}").len(), 1);
        assert_eq!(of("float8e5m2 z").len(), 1);
        insta::assert_debug_snapshot!(findings("quantized-types", Tensorrt, 24, "float[N,4] x", "float8e8m0 s", "y = QuantizeLinear <output_dtype = 3> (x, s)"), @r#"
        [
            "y QuantizeLinear [s]: its scale is float8e8m0; use float32, float16 or bfloat16",
        ]
        "#);
    }
}
