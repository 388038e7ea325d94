//! How the operators of ai.onnx changed, from opset 8 on.
//!
//! Every operator has a line, and every version that defines it anew has a step on it, also where nothing has to be
//! done: an operator or a version that is missing here is unknown, and never taken to be compatible.

use super::{axes, details, draft::Draft, inputs, normalization, resize, softmax};

/// The oldest opset that a model can be raised from.
pub(super) const OLDEST: i64 = 7;
/// The newest opset that a model can be raised to.
pub(super) const NEWEST: i64 = 25;

/// A version that defines an operator anew.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// The opset.
    pub(super) version: i64,
    /// How to come from the definition before to this one.
    pub(super) convert: Convert,
}

/// How to come from one definition of an operator to the next.
#[derive(Clone, Copy)]
pub(super) enum Convert {
    /// Every valid node stays valid and means the same: more types, new attributes with the old behaviour as default,
    /// better wording.
    Compatible,
    /// The node has to be changed, or looked at. Fails with the reason why it cannot be converted.
    By(fn(&mut Draft<'_>) -> Result<(), String>),
    /// There is no way, for this reason.
    Impossible(&'static str),
}

const fn same(version: i64) -> Step {
    Step { version, convert: Convert::Compatible }
}

const fn by(version: i64, convert: fn(&mut Draft<'_>) -> Result<(), String>) -> Step {
    Step { version, convert: Convert::By(convert) }
}

const fn never(version: i64, reason: &'static str) -> Step {
    Step { version, convert: Convert::Impossible(reason) }
}

/// The steps of an operator, by ascending version; `None` for an operator that ai.onnx does not have.
pub(super) fn steps(op: &str) -> Option<&'static [Step]> {
    HISTORY.binary_search_by(|(name, _)| (*name).cmp(op)).ok().map(|i| HISTORY[i].1)
}

/// Every operator that ai.onnx has or had from opset 7 to 25, sorted by name.
///
/// Two steps are compatible because of what the old definitions meant: OneHot-9 asks for indices that are not negative
/// (since 11 they count from the end), and the windows that start in the padding, which AveragePool and MaxPool with
/// `ceil_mode` ignore since 22, never held a value.
#[rustfmt::skip]
pub(super) static HISTORY: &[(&str, &[Step])] = &[
    ("Abs", &[same(13)]),
    ("Acos", &[same(22)]),
    ("Acosh", &[same(22)]),
    ("Add", &[same(13), same(14)]),
    ("AffineGrid", &[]),
    ("And", &[]),
    ("ArgMax", &[same(11), same(12), same(13)]),
    ("ArgMin", &[same(11), same(12), same(13)]),
    ("Asin", &[same(22)]),
    ("Asinh", &[same(22)]),
    ("Atan", &[same(22)]),
    ("Atanh", &[same(22)]),
    ("Attention", &[same(24), same(25)]),
    ("AveragePool", &[same(10), same(11), same(19), same(22)]),
    ("BatchNormalization", &[by(9, normalization::spatial), by(14, normalization::inference_only), same(15)]),
    ("Bernoulli", &[same(22)]),
    ("BitShift", &[]),
    ("BitwiseAnd", &[]),
    ("BitwiseNot", &[]),
    ("BitwiseOr", &[]),
    ("BitwiseXor", &[]),
    ("BlackmanWindow", &[]),
    ("Cast", &[same(9), same(13), same(19), same(21), same(23), same(24), same(25)]),
    ("CastLike", &[same(19), same(21), same(23), same(24), same(25)]),
    ("Ceil", &[same(13)]),
    ("Celu", &[]),
    ("CenterCropPad", &[]),
    ("Clip", &[by(11, inputs::clip), same(12), same(13)]),
    ("Col2Im", &[]),
    ("Compress", &[same(11)]),
    ("Concat", &[same(11), same(13)]),
    ("ConcatFromSequence", &[]),
    ("Constant", &[same(9), same(11), same(12), same(13), same(19), same(21), same(23), same(24), same(25)]),
    ("ConstantOfShape", &[same(20), same(21), same(23), same(24), same(25)]),
    ("Conv", &[same(11), same(22)]),
    ("ConvInteger", &[]),
    ("ConvTranspose", &[same(11), same(22)]),
    ("Cos", &[same(22)]),
    ("Cosh", &[same(22)]),
    ("CumSum", &[same(14)]),
    ("DFT", &[by(20, axes::dft)]),
    ("DeformConv", &[same(22)]),
    ("DepthToSpace", &[same(11), same(13)]),
    ("DequantizeLinear", &[same(13), same(19), same(21), same(23), same(24), same(25)]),
    ("Det", &[same(22)]),
    ("Div", &[same(13), same(14)]),
    ("Dropout", &[by(10, inputs::dropout_mask), by(12, inputs::dropout), same(13), same(22)]),
    ("DynamicQuantizeLinear", &[]),
    ("Einsum", &[]),
    ("Elu", &[same(22)]),
    ("Equal", &[same(11), same(13), same(19)]),
    ("Erf", &[by(13, details::erf)]),
    ("Exp", &[same(13)]),
    ("Expand", &[same(13)]),
    ("EyeLike", &[same(22)]),
    ("Flatten", &[same(9), same(11), same(13), same(21), same(23), same(24), same(25)]),
    ("Floor", &[same(13)]),
    ("GRU", &[same(14), same(22)]),
    ("Gather", &[same(11), same(13)]),
    ("GatherElements", &[same(13)]),
    ("GatherND", &[same(12), same(13)]),
    ("Gelu", &[]),
    ("Gemm", &[same(9), same(11), same(13)]),
    ("GlobalAveragePool", &[same(22)]),
    ("GlobalLpPool", &[same(22)]),
    ("GlobalMaxPool", &[same(22)]),
    ("Greater", &[same(9), same(13)]),
    ("GreaterOrEqual", &[same(16)]),
    ("GridSample", &[by(20, details::grid_sample), same(22)]),
    ("GroupNormalization", &[by(21, normalization::per_channel)]),
    ("HammingWindow", &[]),
    ("HannWindow", &[]),
    ("HardSigmoid", &[same(22)]),
    ("HardSwish", &[same(22)]),
    ("Hardmax", &[same(11), by(13, softmax::one_axis)]),
    ("Identity", &[same(13), same(14), same(16), same(19), same(21), same(23), same(24), same(25)]),
    ("If", &[same(11), same(13), same(16), same(19), same(21), same(23), same(24), same(25)]),
    ("ImageDecoder", &[]),
    ("InstanceNormalization", &[same(22)]),
    ("IsInf", &[same(20)]),
    ("IsNaN", &[same(13), same(20)]),
    ("LRN", &[same(13)]),
    ("LSTM", &[same(14), same(22)]),
    ("LayerNormalization", &[]),
    ("LeakyRelu", &[same(16)]),
    ("Less", &[same(9), same(13)]),
    ("LessOrEqual", &[same(16)]),
    ("Log", &[same(13)]),
    ("LogSoftmax", &[same(11), by(13, softmax::one_axis)]),
    ("Loop", &[same(11), same(13), same(16), same(19), same(21), same(23), same(24), same(25)]),
    ("LpNormalization", &[same(22)]),
    ("LpPool", &[same(11), same(18), same(22)]),
    ("MatMul", &[same(9), same(13)]),
    ("MatMulInteger", &[]),
    ("Max", &[same(8), same(12), same(13)]),
    ("MaxPool", &[same(8), same(10), same(11), same(12), same(22)]),
    ("MaxRoiPool", &[same(22)]),
    ("MaxUnpool", &[same(11), same(22)]),
    ("Mean", &[same(8), same(13)]),
    ("MeanVarianceNormalization", &[same(13)]),
    ("MelWeightMatrix", &[]),
    ("Min", &[same(8), same(12), same(13)]),
    ("Mish", &[same(22)]),
    ("Mod", &[same(13)]),
    ("Mul", &[same(13), same(14)]),
    ("Multinomial", &[same(22)]),
    ("Neg", &[same(13)]),
    ("NegativeLogLikelihoodLoss", &[same(13), same(22)]),
    ("NonMaxSuppression", &[same(11)]),
    ("NonZero", &[same(13)]),
    ("Not", &[]),
    ("OneHot", &[same(11)]),
    ("Optional", &[]),
    ("OptionalGetElement", &[same(18)]),
    ("OptionalHasElement", &[same(18)]),
    ("Or", &[]),
    ("PRelu", &[same(9), same(16)]),
    ("Pad", &[by(11, inputs::pad), same(13), same(18), same(19), same(21), same(23), same(24), same(25)]),
    ("Pow", &[same(12), same(13), same(15)]),
    ("QLinearConv", &[]),
    ("QLinearMatMul", &[same(21)]),
    ("QuantizeLinear", &[same(13), same(19), same(21), same(23), same(24), same(25)]),
    ("RMSNormalization", &[]),
    ("RNN", &[same(14), same(22)]),
    ("RandomNormal", &[same(22)]),
    ("RandomNormalLike", &[same(22)]),
    ("RandomUniform", &[same(22)]),
    ("RandomUniformLike", &[same(22)]),
    ("Range", &[]),
    ("Reciprocal", &[same(13)]),
    ("ReduceL1", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceL2", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceLogSum", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceLogSumExp", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceMax", &[same(11), same(12), same(13), by(18, axes::optional), same(20)]),
    ("ReduceMean", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceMin", &[same(11), same(12), same(13), by(18, axes::optional), same(20)]),
    ("ReduceProd", &[same(11), same(13), by(18, axes::optional)]),
    ("ReduceSum", &[same(11), by(13, axes::optional)]),
    ("ReduceSumSquare", &[same(11), same(13), by(18, axes::optional)]),
    ("RegexFullMatch", &[]),
    ("Relu", &[same(13), same(14)]),
    ("Reshape", &[same(13), same(14), same(19), same(21), same(23), same(24), same(25)]),
    ("Resize", &[by(11, resize::old_rule), by(13, resize::either_or), same(18), same(19)]),
    ("ReverseSequence", &[]),
    ("RoiAlign", &[by(16, details::roi_align), same(22)]),
    ("RotaryEmbedding", &[]),
    ("Round", &[same(22)]),
    ("STFT", &[]),
    ("Scan", &[never(9, "it scans several sequences"), same(11), same(16), same(19), same(21), same(23), same(24), same(25)]),
    ("Scatter", &[by(11, details::scatter)]),
    ("ScatterElements", &[same(13), same(16), same(18)]),
    ("ScatterND", &[same(13), same(16), same(18)]),
    ("Selu", &[same(22)]),
    ("SequenceAt", &[]),
    ("SequenceConstruct", &[]),
    ("SequenceEmpty", &[]),
    ("SequenceErase", &[]),
    ("SequenceInsert", &[]),
    ("SequenceLength", &[]),
    ("SequenceMap", &[]),
    ("Shape", &[same(13), same(15), same(19), same(21), same(23), same(24), same(25)]),
    ("Shrink", &[]),
    ("Sigmoid", &[same(13)]),
    ("Sign", &[same(13)]),
    // onnxruntime's own, which no version changes.
    ("SimplifiedLayerNormalization", &[]),
    ("Sin", &[same(22)]),
    ("Sinh", &[same(22)]),
    ("Size", &[same(13), same(19), same(21), same(23), same(24), same(25)]),
    ("Slice", &[by(10, inputs::slice), same(11), same(13)]),
    ("Softmax", &[same(11), by(13, softmax::one_axis)]),
    ("SoftmaxCrossEntropyLoss", &[same(13)]),
    ("Softplus", &[same(22)]),
    ("Softsign", &[same(22)]),
    ("SpaceToDepth", &[same(13)]),
    ("Split", &[same(11), by(13, inputs::split), by(18, inputs::even_split)]),
    ("SplitToSequence", &[same(24)]),
    ("Sqrt", &[same(13)]),
    ("Squeeze", &[same(11), by(13, axes::optional), same(21), same(23), same(24), same(25)]),
    ("StringConcat", &[]),
    ("StringNormalizer", &[]),
    ("StringSplit", &[]),
    ("Sub", &[same(13), same(14)]),
    ("Sum", &[same(8), same(13)]),
    ("Swish", &[]),
    ("Tan", &[same(22)]),
    ("Tanh", &[same(13)]),
    ("TensorScatter", &[]),
    ("TfIdfVectorizer", &[]),
    ("ThresholdedRelu", &[same(22)]),
    ("Tile", &[same(13)]),
    ("TopK", &[by(10, inputs::top_k), same(11), same(24)]),
    ("Transpose", &[same(13), same(21), same(23), same(24), same(25)]),
    ("Trilu", &[]),
    ("Unique", &[]),
    ("Unsqueeze", &[same(11), by(13, axes::required), same(21), same(23), same(24), same(25)]),
    ("Upsample", &[by(9, resize::scales), by(10, resize::upsample)]),
    ("Where", &[same(16)]),
    ("Xor", &[]),
];

#[cfg(test)]
mod tests {
    use planish_ir::op::TABLE;

    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(HISTORY.is_sorted_by(|a, b| a.0 < b.0));
        for (op, steps) in HISTORY {
            assert!(steps.is_sorted_by(|a, b| a.version < b.version), "{op}");
            assert!(steps.iter().all(|s| s.version > OLDEST && s.version <= NEWEST), "{op}");
        }
    }

    /// What the operator table of the IR knows of versions must be known here too.
    #[test]
    fn every_signature_is_a_step() {
        for spec in TABLE.iter().filter(|s| s.domain.is_empty()) {
            let Some(first) = spec.signatures.first().filter(|s| s.since <= NEWEST) else { continue };
            let steps = steps(spec.name).unwrap_or_else(|| panic!("{} has no line", spec.name));
            for s in spec.signatures.iter().filter(|s| s.since > OLDEST.max(first.since) && s.since <= NEWEST) {
                assert!(steps.iter().any(|step| step.version == s.since), "{}-{} has no step", spec.name, s.since);
            }
        }
    }
}
