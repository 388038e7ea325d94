//! Half precision on a processor.
//!
//! Rule       no operator of linear algebra is computed in float16 or bfloat16
//! Why        the CPU has few kernels for them: ONNX Runtime puts casts around the operators and computes in float32
//! Do         compile the float32 model for this target; to halve the file, quantize weights to 8 or 4 bits
//! Reference  ONNX Runtime 1.32, graphs after optimization

use planish_ir::{DType, op};

use super::{Found, Lint, view::View};

pub(super) struct Float16;

impl Lint for Float16 {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes().filter(|(_, n)| op::of(n).is_some_and(|s| s.macs.is_some())) {
            let half = node
                .outputs()
                .iter()
                .flatten()
                .find(|&&v| matches!(view.dtype(Some(v)), Some(DType::F16 | DType::BF16)));
            if let Some(&value) = half {
                found.at(
                    id,
                    Some(value),
                    "it is computed in half precision, for which the CPU has hardly any kernel",
                    "use float32",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::OnnxruntimeCpu;

    #[test]
    fn float_passes_and_half_precision_is_found() {
        let of = |ty: &str| {
            findings(
                "float16",
                OnnxruntimeCpu,
                17,
                &format!("{ty}[N,4] x"),
                &format!("{ty}[4,5] w"),
                "y = MatMul (x, w)",
            )
        };
        assert!(of("float").is_empty());
        insta::assert_debug_snapshot!(of("float16"), @r#"
        [
            "y MatMul [y]: it is computed in half precision, for which the CPU has hardly any kernel; use float32",
        ]
        "#);
    }
}
