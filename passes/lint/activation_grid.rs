//! An activation function stands between an operator and its QuantizeLinear.
//!
//! Rule       the range of the QuantizeLinear behind a Relu or Clip lies within what that lets through: for a Relu, the zero point is the
//!            smallest number of the type
//! Why        ONNX Runtime takes the Relu or Clip away then, and forms an integer kernel of the operator before it; otherwise both are
//!            computed in floats
//! Do         give the QuantizeLinear the asymmetric grid of what comes out of the activation function; `quantize` does
//! Reference  ONNX Runtime 1.32, graphs after optimization

use super::{
    Found, Lint,
    kernel::{Kernel, kernel},
    view::View,
};

pub(super) struct ActivationGrid;

impl Lint for ActivationGrid {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes() {
            if let Kernel::Unclipped { activation, value } = kernel(view, node) {
                let op = view.graph.node(activation).map(|n| n.op.name.clone()).unwrap_or_default();
                found.at(
                    id,
                    Some(value),
                    format!("it is computed in floats: the grid behind its {op} reaches further than the {op} does"),
                    "quantize the result with a zero point at the smallest number of the type",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    fn of(op: &str, zero: &str) -> Vec<String> {
        let weights = format!(
            "float s = {{0.0235294}}, uint8 z = {{{zero}}}, int8[2,1,1,1] w, float t = {{0.5}}, float six = {{6.0}}, float zero = {{0.0}}"
        );
        let nodes = format!(
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) v = DequantizeLinear (w, t) c = Conv (d, v)
             a = {op} r = QuantizeLinear (a, s, z) y = DequantizeLinear (r, s, z)"
        );
        findings("activation-grid", OnnxruntimeCpu, 17, "float[N,1,4,4] x", &weights, &nodes)
    }

    #[test]
    fn a_grid_within_the_range_passes() {
        assert!(of("Relu (c)", "0").is_empty());
        assert!(of("Clip (c, zero, six)", "0").is_empty());
        assert!(of("Identity (c)", "128").is_empty());
    }

    #[test]
    fn a_grid_that_reaches_further_is_found() {
        insta::assert_debug_snapshot!(of("Relu (c)", "128"), @r#"
        [
            "c Conv [a]: it is computed in floats: the grid behind its Relu reaches further than the Relu does; quantize the result with a zero point at the smallest number of the type",
        ]
        "#);
        insta::assert_debug_snapshot!(of("Clip (c, zero, s)", "0"), @r#"
        [
            "c Conv [a]: it is computed in floats: the grid behind its Clip reaches further than the Clip does; quantize the result with a zero point at the smallest number of the type",
        ]
        "#);
    }
}
