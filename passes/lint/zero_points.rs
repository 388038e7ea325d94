//! A zero point is not 0.
//!
//! Rule       every zero point of QuantizeLinear and DequantizeLinear is left out, or is a constant of zeros
//! Why        TensorRT quantizes symmetrically only, and refuses others
//! Do         `legalize` for this target moves activations and weights to symmetric grids
//! Reference  TensorRT, working with quantized types; onnx-tensorrt, operators QuantizeLinear and DequantizeLinear

use planish_ir::{DType, Tensor};

use super::{Found, Lint, view::View};

pub(super) struct ZeroPoints;

impl Lint for ZeroPoints {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids() {
            let Some(zero) = grid.node.input(2) else { continue };
            match view.constant(zero) {
                Some(t) if is_zero(t) => {}
                Some(_) => {
                    found.at(grid.id, Some(zero), "its zero point is not 0", "quantize symmetrically; `legalize` does")
                }
                None => found.at(grid.id, Some(zero), "its zero point is computed", "leave it out"),
            }
        }
    }
}

/// Zeros of any type; a float of 8 bits has a negative one too.
fn is_zero(t: &Tensor) -> bool {
    match (t.dtype(), t.raw()) {
        (DType::F8E4M3FN | DType::F8E5M2, Some(raw)) => raw.iter().all(|b| b & 0x7F == 0),
        (_, Some(raw)) => raw.iter().all(|b| *b == 0),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn zeros_pass_and_others_are_found() {
        let of = |z: &str| {
            findings(
                "zero-points",
                Tensorrt,
                17,
                "float[N,4] x",
                &format!("float s = {{0.1}}, {z}"),
                "y = QuantizeLinear (x, s, z)",
            )
        };
        assert!(of("int8 z = {0}").is_empty());
        assert!(of("int8[2] z = {0, 0}").is_empty());
        assert!(
            findings("zero-points", Tensorrt, 17, "float[N,4] x", "float s = {0.1}", "y = QuantizeLinear (x, s)")
                .is_empty()
        );
        insta::assert_debug_snapshot!(of("uint8 z = {128}"), @r#"
        [
            "y QuantizeLinear [z]: its zero point is not 0; quantize symmetrically; `legalize` does",
        ]
        "#);
        insta::assert_debug_snapshot!(findings("zero-points", Tensorrt, 17, "float[N,4] x, int8 z", "float s = {0.1}", "y = QuantizeLinear (x, s, z)"), @r#"
        [
            "y QuantizeLinear [z]: its zero point is computed; leave it out",
        ]
        "#);
    }
}
