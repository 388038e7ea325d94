//! A scale is computed, or no positive number.
//!
//! Rule       scales are constants above 0, and finite
//! Why        TensorRT builds its kernels with them
//! Do         fold what computes them (`simplify`), or quantize anew
//! Reference  TensorRT, working with quantized types

use super::{Found, Lint, view::View};

pub(super) struct Scales;

impl Lint for Scales {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for grid in view.grids() {
            let Some(scale) = grid.node.input(1) else { continue };
            let Some(tensor) = view.constant(scale) else {
                let advice = "make it a constant; where it depends on constants only, `simplify` does";
                found.at(grid.id, Some(scale), "its scale is computed", advice);
                continue;
            };
            // Of 8-bit scales all but NaN are positive.
            let wrong = tensor.to_f64().is_ok_and(|v| v.iter().any(|s| !(s.is_finite() && *s > 0.0)));
            if wrong {
                found.at(grid.id, Some(scale), "a scale is not above 0, or not finite", "quantize the tensor anew");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn positive_constants_pass_and_others_are_found() {
        let of = |inputs: &str, s: &str| {
            let inputs = format!("float[N,4] x{inputs}");
            findings("scales", Tensorrt, 17, &inputs, &format!("{s}int8 z = {{0}}"), "y = QuantizeLinear (x, s, z)")
        };
        assert!(of("", "float s = {0.1}, ").is_empty());
        assert!(of("", "float16[2] s = {0.1, 2.0}, ").is_empty());
        insta::assert_debug_snapshot!(of("", "float s = {0.0}, "), @r#"
        [
            "y QuantizeLinear [s]: a scale is not above 0, or not finite; quantize the tensor anew",
        ]
        "#);
        assert_eq!(of("", "float[2] s = {0.1, -0.1}, ").len(), 1);
        insta::assert_debug_snapshot!(of(", float s", ""), @r#"
        [
            "y QuantizeLinear [s]: its scale is computed; make it a constant; where it depends on constants only, `simplify` does",
        ]
        "#);
    }
}
