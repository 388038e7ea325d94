//! A quantized operator is computed in floats.
//!
//! Rule       an operator that has an integer kernel, and of which an activation is quantized, has all operands quantized to 8 bits and
//!            one QuantizeLinear behind it
//! Why        ONNX Runtime forms the kernel of DequantizeLinear, operator and QuantizeLinear as a whole; what is left of a pair that was
//!            not used converts back and forth
//! Do         complete the quantization of the operator, or take the pairs around it away
//! Reference  ONNX Runtime 1.32, graphs after optimization

use super::{
    Found, Lint,
    kernel::{Kernel, kernel},
    view::View,
};

pub(super) struct NoKernel;

impl Lint for NoKernel {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes() {
            if let Kernel::Float { problem, advice } = kernel(view, node) {
                found.at(id, None, format!("it is computed in floats: {problem}"), advice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    const GRID: &str = "float s = {0.1}, uint8 z = {3}, int8[5,4] w, float[5] ws = {1.0, 1.0, 1.0, 1.0, 1.0}, int8[4,5] m, float[5] b, float[4] c";

    fn of(inputs: &str, nodes: &str) -> Vec<String> {
        findings("no-kernel", OnnxruntimeCpu, 17, inputs, GRID, nodes)
    }

    const X: &str = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)";
    const Y: &str = "r = QuantizeLinear (c, s, z) y = DequantizeLinear (r, s, z)";

    #[test]
    fn complete_units_pass() {
        let w = "w2 = DequantizeLinear <axis = 1> (m, ws)";
        assert!(of("float[N,4] x", &format!("{X} {w} c = MatMul (d, w2) {Y}")).is_empty());
        assert!(of("float[N,4] x", &format!("{X} {w} y = MatMul (d, w2)")).is_empty());
        assert!(of("float[N,4] x", &format!("{X} {w} e = MatMul (d, w2) y = Add (e, b)")).is_empty());
        assert!(of("float[N,4] x", &format!("{X} {w} c = Gemm (d, w2, b) {Y}")).is_empty());
        assert!(of("float[N,4] x", &format!("{X} c = Add (d, d) {Y}")).is_empty());
        // Weights alone.
        assert!(of("float[N,4] x", &format!("{w} y = MatMul (x, w2)")).is_empty());
        // The grid begins where the activation does.
        let clipped = "e = Relu (c) r = QuantizeLinear (e, s) y = DequantizeLinear (r, s)";
        assert!(of("float[N,4] x", &format!("{X} {w} c = MatMul (d, w2) {clipped}")).is_empty());
    }

    #[test]
    fn incomplete_ones_do_not() {
        insta::assert_debug_snapshot!(of("float[N,4] x, float[N,4] o", &format!("{X} e = Add (d, o) c = Add (e, d) {Y}")), @r#"
        [
            "e Add: it is computed in floats: \"o\" is not quantized, but another input is; quantize all of its inputs, or none",
            "c Add: it is computed in floats: \"e\" is not quantized, but another input is; quantize all of its inputs, or none",
        ]
        "#);
        insta::assert_debug_snapshot!(of("float[N,4] x", &format!("{X} y = Sigmoid (d)")), @r#"
        [
            "y Sigmoid: it is computed in floats: its output is not quantized, or is read elsewhere too; put one QuantizeLinear behind it, and let everything read what that gives",
        ]
        "#);
        insta::assert_debug_snapshot!(of("float[2,4] x", &format!("{X} w2 = DequantizeLinear <axis = 1> (m, ws) e = MatMul (d, w2) y = Add (e, b)")), @r#"
        [
            "e MatMul: it is computed in floats: the Add behind it joins it to a Gemm in floats; quantize the output of the Add, or make both a Gemm whose bias is a dequantized int32 constant",
        ]
        "#);
        insta::assert_debug_snapshot!(of("float[N,4] x", &format!("{X} w2 = DequantizeLinear <axis = 1> (m, ws) y = Gemm (d, w2, b)")), @r#"
        [
            "y Gemm: it is computed in floats: its output is not quantized, or is read elsewhere too; put one QuantizeLinear behind it, and let everything read what that gives",
        ]
        "#);
    }
}
