//! Which operators of ai.onnx take 16-bit floats, at which slots, and what they do to the range of their inputs.
//!
//! The type constraints are those of the operator definitions up to opset 28. An operator that is not listed stays in
//! float32: because ONNX gives it no 16-bit form (`NonMaxSuppression`, `TfIdfVectorizer`), because eleven bits of
//! precision are too few for its inputs (angles of `Sin` and `Cos`, pixel coordinates of `RoiAlign` and `GridSample`,
//! counts of `Range`), or because it holds a subgraph or a sequence.

use planish_ir::{Node, OpName};

use super::format::Format;

/// What an operator does to the range of its inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing that the other kinds say.
    Plain,
    /// Moves, picks or places elements.
    Moves,
    /// Elementwise arithmetic or a reduction whose result is about as large, or as small, as an input can be.
    Carries,
    /// Brings very large or very small inputs back to a moderate size.
    Damps,
    /// Gives results beyond the range of float16 for inputs that are well inside it.
    Grows,
}

/// How an operator takes a 16-bit float format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Support {
    /// What it does to the range.
    pub(super) kind: Kind,
    /// First opset version that allows the format; `None` if none does.
    pub(super) since: Option<i64>,
    slots: Slots,
}

/// Slots that do not simply follow the type of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slots {
    /// Inputs that stay float32.
    full: &'static [usize],
    /// Inputs that take any type, whatever the other inputs have.
    free: &'static [usize],
    /// Outputs that stay float32.
    full_outputs: &'static [usize],
}

const FOLLOWS: Slots = Slots { full: &[], free: &[], full_outputs: &[] };

/// Operators by what they do, in alphabetical order.
const KINDS: &[(Kind, &str)] = &[
    (
        Kind::Plain,
        "ArgMax ArgMin Attention BatchNormalization Bernoulli Celu Col2Im Conv ConvTranspose DequantizeLinear \
         Einsum Elu Equal GRU Gelu Gemm Greater GreaterOrEqual GroupNormalization HardSwish \
         InstanceNormalization IsInf IsNaN LSTM LayerNormalization Less LessOrEqual MatMul MaxUnpool Mish \
         NonZero QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform \
         RandomUniformLike Resize RotaryEmbedding Selu Shape Shrink Size Softplus SwiGLU Swish \
         ThresholdedRelu TopK Upsample",
    ),
    (
        Kind::Moves,
        "Cast CastLike CenterCropPad Compress Concat ConstantOfShape DepthToSpace Dropout Expand EyeLike \
         Flatten Gather GatherElements GatherND Identity OneHot Pad Reshape ReverseSequence ScatterElements \
         ScatterND Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu Unsqueeze",
    ),
    (
        Kind::Carries,
        "Abs Add AveragePool Ceil Clip Floor GlobalAveragePool GlobalMaxPool LeakyRelu Max MaxPool Mean Min \
         Mul Neg PRelu Reciprocal ReduceL1 ReduceMax ReduceMean ReduceMin ReduceSum Relu Round Sub Sum Where",
    ),
    (Kind::Damps, "Div Erf HardSigmoid Hardmax Log LogSoftmax Sigmoid Sign Softmax Softsign Sqrt Tanh"),
    // Squares leave the range above 256, exponentials above 11; long sums of either do so sooner.
    (
        Kind::Grows,
        "CumSum Exp GlobalLpPool LRN LpNormalization LpPool MeanVarianceNormalization Pow ReduceL2 \
         ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare",
    ),
];

const SLOTS: &[(&str, Slots)] = &[
    ("Bernoulli", Slots { free: &[0], ..FOLLOWS }),
    ("Cast", Slots { free: &[0], ..FOLLOWS }),
    ("CastLike", Slots { free: &[0], ..FOLLOWS }),
    ("Dropout", Slots { full: &[1], ..FOLLOWS }),
    ("EyeLike", Slots { free: &[0], ..FOLLOWS }),
    ("LayerNormalization", Slots { full_outputs: &[1, 2], ..FOLLOWS }),
    ("OneHot", Slots { full: &[0, 1], ..FOLLOWS }),
    ("RandomNormalLike", Slots { free: &[0], ..FOLLOWS }),
    ("RandomUniformLike", Slots { free: &[0], ..FOLLOWS }),
    // Input 1 of opset 10 is what later became input 2.
    ("Resize", Slots { full: &[1, 2], ..FOLLOWS }),
    ("Shape", Slots { free: &[0], ..FOLLOWS }),
    ("Size", Slots { free: &[0], ..FOLLOWS }),
    ("Upsample", Slots { full: &[1], ..FOLLOWS }),
];

/// Operators that exist before they take float16, by the opset version from which they do.
const FLOAT16_SINCE: &[(i64, &str)] =
    &[(14, "CumSum"), (19, "DequantizeLinear QuantizeLinear"), (20, "IsInf"), (28, "Celu")];

/// The same for bfloat16; the others take it from [`BFLOAT16_OPSET`] on, or since they exist.
const BFLOAT16_SINCE: &[(i64, &str)] = &[
    (14, "BatchNormalization CumSum"),
    (15, "Pow"),
    (16, "GreaterOrEqual LeakyRelu LessOrEqual PRelu Where"),
    (19, "DequantizeLinear QuantizeLinear"),
    (20, "ConstantOfShape IsInf"),
    (
        22,
        "AveragePool Conv ConvTranspose Elu EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish InstanceNormalization LSTM LpNormalization LpPool MaxPool MaxUnpool Mish RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Round Selu Softplus Softsign ThresholdedRelu",
    ),
    (24, "TopK"),
    (28, "Celu Compress Einsum OneHot ReverseSequence"),
];

/// Operators that never take bfloat16.
const NO_BFLOAT16: &[&str] = &["Shrink", "Upsample"];

/// First opset version with bfloat16.
const BFLOAT16_OPSET: i64 = 13;

/// How the operator takes the format; `None` if it is not known to.
pub(super) fn support(op: &OpName, format: Format) -> Option<Support> {
    if !op.domain.is_empty() || !op.overload.is_empty() {
        return None;
    }
    let kind = KINDS.iter().find(|(_, names)| names.split(' ').any(|n| n == op.name))?.0;
    let slots = SLOTS.iter().find(|(name, _)| *name == op.name).map_or(FOLLOWS, |(_, slots)| *slots);
    Some(Support { kind, since: since(&op.name, format), slots })
}

/// First opset version at which an operator takes the format.
fn since(op: &str, format: Format) -> Option<i64> {
    let (listed, otherwise) = match format {
        Format::Float16 => (FLOAT16_SINCE, 1),
        Format::Bfloat16 if NO_BFLOAT16.contains(&op) => return None,
        Format::Bfloat16 => (BFLOAT16_SINCE, BFLOAT16_OPSET),
    };
    Some(listed.iter().find(|(_, names)| names.split(' ').any(|n| n == op)).map_or(otherwise, |(version, _)| *version))
}

impl Support {
    /// True for an input that has the type of the node.
    pub(super) fn input_follows(&self, slot: usize) -> bool {
        !self.slots.full.contains(&slot) && !self.slots.free.contains(&slot)
    }

    /// True for an input that takes any type.
    pub(super) fn input_is_free(&self, slot: usize) -> bool {
        self.slots.free.contains(&slot)
    }

    /// True for an output that has the type of the node.
    pub(super) fn output_follows(&self, slot: usize) -> bool {
        !self.slots.full_outputs.contains(&slot)
    }
}

/// The attribute that says which element type a node yields, if one does.
pub(super) fn type_attribute(node: &Node) -> Option<&'static str> {
    match node.op.name.as_str() {
        "Cast" => Some("to"),
        "Bernoulli" | "EyeLike" | "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" => {
            Some("dtype")
        }
        "DequantizeLinear" if node.attrs.int("output_dtype").is_some_and(|t| t != 0) => Some("output_dtype"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operator_has_one_kind_and_every_exception_is_listed() {
        let mut seen = BTreeSet::new();
        for (_, names) in KINDS {
            assert!(names.split(' ').is_sorted(), "{names}");
            for name in names.split(' ') {
                assert!(seen.insert(name), "{name} is listed twice");
            }
        }
        assert!(SLOTS.is_sorted_by_key(|(name, _)| *name));
        assert!(SLOTS.iter().all(|(name, _)| seen.contains(name)));
    }

    #[test]
    fn domains_matter() {
        assert_eq!(support(&OpName::onnx("Conv"), Format::Float16).unwrap().kind, Kind::Plain);
        assert_eq!(support(&OpName::new("com.example", "Conv"), Format::Float16), None);
        assert_eq!(support(&OpName::onnx("NonMaxSuppression"), Format::Float16), None);
    }
}
