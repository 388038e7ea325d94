//! An operator that the target does not have.
//!
//! Rule       operators are of ai.onnx; for TensorRT also not those that its importer lists as not supported
//! Why        operators of other sets, such as com.microsoft, belong to one runtime; TensorRT takes them by plugins only
//! Do         `legalize` writes quantized operators as pairs; compile the original model for this target rather than one that was
//!            optimized for another
//! Reference  onnx-tensorrt, list of operators

use super::{Found, Lint, view::View};

pub(super) struct Operators;

/// Of ai.onnx, without those that quantize dynamically.
const NOT_IN_TENSORRT: &[&str] = &[
    "BitShift",
    "Compress",
    "ConcatFromSequence",
    "Det",
    "ImageDecoder",
    "MaxRoiPool",
    "MaxUnpool",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "RegexFullMatch",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    "Unique",
];

impl Lint for Operators {
    fn check(&self, view: &View<'_>, found: &mut Found<'_>) {
        for (id, node) in view.nodes() {
            let domain = &node.op.domain;
            if !domain.is_empty() {
                let problem = format!("{} is no operator of ONNX itself", node.op);
                found.at(id, None, problem, "use standard operators; `legalize` has them for quantized ones");
            } else if found.is_for(crate::Target::Tensorrt) && NOT_IN_TENSORRT.contains(&node.op.name.as_str()) {
                found.at(
                    id,
                    None,
                    format!("the target has no {}", node.op.name),
                    "compute it before or behind the model",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::findings;
    use crate::Target::{Generic, Tensorrt};

    #[test]
    fn standard_operators_pass_and_others_are_found() {
        let of =
            |target, nodes: &str| findings("operators", target, 17, "float[N,4] x", "bool[4] k = {1, 0, 1, 0}", nodes);
        assert!(of(Tensorrt, "y = Relu (x)").is_empty());
        insta::assert_debug_snapshot!(of(Tensorrt, "y = com.microsoft.Gelu (x)"), @r#"
        [
            "y com.microsoft::Gelu: com.microsoft::Gelu is no operator of ONNX itself; use standard operators; `legalize` has them for quantized ones",
        ]
        "#);
        assert_eq!(of(Generic, "y = com.microsoft.Gelu (x)").len(), 1);
        insta::assert_debug_snapshot!(of(Tensorrt, "y = Compress <axis = 1> (x, k)"), @r#"
        [
            "y Compress: the target has no Compress; compute it before or behind the model",
        ]
        "#);
        assert!(of(Generic, "y = Compress <axis = 1> (x, k)").is_empty());
    }
}
