//! Of the operands of a product only the activation is quantized.
//!
//! Rule       a Conv, ConvTranspose, Gemm or MatMul with a quantized activation has a quantized weight, or second activation, too
//! Why        TensorRT computes with integers or small floats only if both are, and in the type of the scales otherwise, so that the pair
//!            costs accuracy and time
//! Do         quantize the other operand, or take the pair away
//! Reference  TensorRT, working with quantized types, placement of Q/DQ

use super::{Found, Lint, view::View};

pub(super) struct HalfQuantized;

impl Lint for HalfQuantized {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        let products = ["Conv", "ConvTranspose", "Gemm", "MatMul"];
        for (id, node) in view.nodes().filter(|(_, n)| products.iter().any(|op| n.op.is(op))) {
            let Some((a, b)) = node.input(0).zip(node.input(1)) else { continue };
            let is_activation = |v| view.dequantized(v).is_some() && !view.is_weight(v);
            let other = match (view.dequantized(a).is_some(), view.dequantized(b).is_some()) {
                (true, false) if is_activation(a) => b,
                (false, true) if is_activation(b) => a,
                _ => continue,
            };
            found.at(
                id,
                Some(other),
                format!("{:?} is not quantized, but the other operand is", view.name(other)),
                "quantize both operands, or none",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn both_or_a_weight_alone_pass_and_an_activation_alone_is_found() {
        let of = |nodes: &str| {
            findings(
                "half-quantized",
                Tensorrt,
                17,
                "float[N,4] x",
                "float s = {0.1}, int8 z = {0}, int8[4,4] w, float[4,4] f",
                nodes,
            )
        };
        let x = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)";
        assert!(of(&format!("{x} v = DequantizeLinear (w, s) y = MatMul (d, v)")).is_empty());
        assert!(of("v = DequantizeLinear (w, s) y = MatMul (x, v)").is_empty());
        insta::assert_debug_snapshot!(of(&format!("{x} y = MatMul (d, f)")), @r#"
        [
            "y MatMul [f]: \"f\" is not quantized, but the other operand is; quantize both operands, or none",
        ]
        "#);
    }
}
