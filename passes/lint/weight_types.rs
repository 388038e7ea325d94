//! An int8 activation meets a uint8 weight.
//!
//! Rule       weights are int8 where activations are
//! Why        kernels for int8 times uint8 are missing; on x86 ONNX Runtime turns the activation into uint8 when it loads the model,
//!            elsewhere the operator is computed in floats
//! Do         store the weight as int8; `legalize` does
//! Reference  ONNX Runtime 1.32

use planish_ir::DType;

use super::{Found, Lint, view::View};

pub(super) struct WeightTypes;

impl Lint for WeightTypes {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes().filter(|(_, n)| ["Conv", "Gemm", "MatMul"].iter().any(|op| n.op.is(op))) {
            let grid = |slot: usize| view.dequantized(node.input(slot)?)?.dtype(view);
            let weight = node.input(1).filter(|&w| view.is_weight(w));
            if weight.is_some() && (grid(0), grid(1)) == (Some(DType::I8), Some(DType::U8)) {
                let advice = "store the weight as int8: 128 less in codes and zero points";
                found.at(id, weight, "its activation is int8 and its weight uint8", advice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    fn of(activation: &str, weight: &str) -> Vec<String> {
        let weights = format!(
            "float s = {{0.1}}, {activation} z = {{3}}, {weight}[4,5] w, float t = {{0.5}}, {weight} wz = {{0}}"
        );
        let nodes = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) v = DequantizeLinear (w, t, wz) y = MatMul (d, v)";
        findings("weight-types", OnnxruntimeCpu, 17, "float[N,4] x", &weights, nodes)
    }

    #[test]
    fn pairs_with_a_kernel_pass_and_others_are_found() {
        assert!(of("uint8", "int8").is_empty());
        assert!(of("int8", "int8").is_empty());
        assert!(of("uint8", "uint8").is_empty());
        insta::assert_debug_snapshot!(of("int8", "uint8"), @r#"
        [
            "y MatMul [v]: its activation is int8 and its weight uint8; store the weight as int8: 128 less in codes and zero points",
        ]
        "#);
    }
}
