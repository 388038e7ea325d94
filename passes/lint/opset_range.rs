//! An operator set that the target cannot read.
//!
//! Rule       the model imports ai.onnx in a version from 9 to 25
//! Why        TensorRT 11 reads these; TensorRT 10.0 reads 9 to 20
//! Do         `raise-opset` for old models; for new ones export with an older version
//! Reference  onnx-tensorrt, release notes

use super::{Found, Lint, view::View};

pub(super) struct OpsetRange;

const RANGE: std::ops::RangeInclusive<i64> = 9..=25;

impl Lint for OpsetRange {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        let opset = view.opset;
        if view.is_main && !RANGE.contains(&opset) {
            let advice = if opset < *RANGE.start() { "run `raise-opset`" } else { "export it with opset 25 or older" };
            found.model(
                format!("it imports opset {opset}, and the target reads {} to {}", RANGE.start(), RANGE.end()),
                advice,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::Tensorrt;

    #[test]
    fn versions_in_the_range_pass_and_others_are_found() {
        let of = |opset| findings("opset-range", Tensorrt, opset, "float[N,4] x", "float unused", "y = Relu (x)");
        assert!(of(9).is_empty() && of(25).is_empty());
        insta::assert_debug_snapshot!(of(8), @r#"
        [
            " : it imports opset 8, and the target reads 9 to 25; run `raise-opset`",
        ]
        "#);
        insta::assert_debug_snapshot!(of(26), @r#"
        [
            " : it imports opset 26, and the target reads 9 to 25; export it with opset 25 or older",
        ]
        "#);
    }
}
