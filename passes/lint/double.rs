//! A type that the target computes nothing in.
//!
//! Rule       no operator of linear algebra is computed in float64
//! Why        TensorRT has no such kernels: its importer narrows the numbers, or refuses them
//! Do         convert the model to float32
//! Reference  onnx-tensorrt, list of operators

use planish_ir::{DType, op};

use super::{Found, Lint, view::View};

pub(super) struct Double;

impl Lint for Double {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes().filter(|(_, n)| op::of(n).is_some_and(|s| s.macs.is_some())) {
            if let Some(&value) = node.outputs().iter().flatten().find(|&&v| view.dtype(Some(v)) == Some(DType::F64)) {
                found.at(id, Some(value), "it is computed in float64", "convert the model to float32");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn float_passes_and_double_is_found() {
        let of = |ty: &str| {
            findings("double", Tensorrt, 17, &format!("{ty}[N,4] x"), &format!("{ty}[4,5] w"), "y = MatMul (x, w)")
        };
        assert!(of("float").is_empty() && of("float16").is_empty());
        insta::assert_debug_snapshot!(of("double"), @r#"
        [
            "y MatMul [y]: it is computed in float64; convert the model to float32",
        ]
        "#);
    }
}
