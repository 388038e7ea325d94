//! Scales are computed while the model runs.
//!
//! Rule       no DynamicQuantizeLinear, no ConvInteger or MatMulInteger, and no operator of the QLinear family
//! Why        TensorRT quantizes by pairs with constant scales alone
//! Do         `legalize` for this target writes operators with constant scales as pairs; a dynamic model has to be compiled anew from
//!            its float original, with calibration data
//! Reference  onnx-tensorrt, list of operators

use super::{Found, Lint, view::View};

pub(super) struct Dynamic;

const REFUSED: &[(&str, &str)] = &[
    ("ConvInteger", "quantize the float original statically"),
    ("DynamicQuantizeLinear", "quantize the float original statically"),
    ("MatMulInteger", "quantize the float original statically"),
    ("QLinearConv", "write it as pairs around a Conv; `legalize` does"),
    ("QLinearMatMul", "write it as pairs around a MatMul; `legalize` does"),
];

impl Lint for Dynamic {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes() {
            if let Some((op, advice)) = REFUSED.iter().find(|(op, _)| node.op.is(op)) {
                found.at(id, None, format!("the target has no {op}"), *advice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::{Generic, Tensorrt};

    #[test]
    fn pairs_pass_and_others_are_found() {
        let of = |target, nodes: &str| {
            findings("dynamic", target, 17, "float[N,4] x", "float s = {0.1}, int8[4,4] w", nodes)
        };
        let dynamic = "q, t, z = DynamicQuantizeLinear (x) y = MatMulInteger (q, w, z)";
        assert!(of(Tensorrt, "q = QuantizeLinear (x, s) y = DequantizeLinear (q, s)").is_empty());
        assert!(of(Generic, dynamic).is_empty());
        insta::assert_debug_snapshot!(of(Tensorrt, dynamic), @r#"
        [
            "q DynamicQuantizeLinear: the target has no DynamicQuantizeLinear; quantize the float original statically",
            "y MatMulInteger: the target has no MatMulInteger; quantize the float original statically",
        ]
        "#);
    }
}
