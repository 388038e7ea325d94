//! Attributes of the operators: their names, and what holds where a node does not give one.
//!
//! As opset 7 and later define them; `since` of a change that matters is in [`unset`]. Some of what older operator
//! sets give as an attribute is an input in newer ones: [`MOVED`].

use Unset::{Each, Float, Implied, Int, Nothing, Text};

/// What holds where a node does not give an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unset {
    /// The same as if it were given this.
    Int(i64),
    /// The same as if it were given this.
    Float(f32),
    /// The same as if it were given this.
    Text(&'static str),
    /// The same as if it were given a list of this number, of the length that fits.
    Each(i64),
    /// What the inputs say; a node that gives it can say nothing else.
    Implied,
    /// It has to be given, or leaving it out means something of its own.
    Nothing,
}

/// An attribute that is an input from some opset version on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Operator of ai.onnx.
    pub op: &'static str,
    /// Attribute before.
    pub attr: &'static str,
    /// Input slot since.
    pub slot: usize,
    /// The first version in which it is an input.
    pub since: i64,
}

/// What holds where a node of this operator does not give an attribute; `None` if the operator has no such attribute, or
/// its attributes are not known.
pub fn unset(domain: &str, op: &str, attr: &str, opset: i64) -> Option<Unset> {
    let listed = attributes(domain, op)?.iter().find(|(name, _)| *name == attr)?.1;
    Some(match (op, attr) {
        ("Softmax" | "LogSoftmax" | "Hardmax", "axis") if domain.is_empty() && opset < 13 => Int(1),
        ("GridSample", "mode") if domain.is_empty() && opset < 20 => Text("bilinear"),
        _ => listed,
    })
}

/// The attributes of an operator; `None` if it has none, or they are not known.
pub fn attributes(domain: &str, op: &str) -> Option<&'static [(&'static str, Unset)]> {
    TABLE.binary_search_by(|(d, name, _)| (*d, *name).cmp(&(domain, op))).ok().map(|i| TABLE[i].2)
}

/// Where an attribute of an operator of ai.onnx is an input in newer opset versions.
pub fn moved(domain: &str, op: &str, attr: &str) -> Option<&'static Moved> {
    let is_it = |m: &&Moved| m.op == op && m.attr == attr;
    if domain.is_empty() { MOVED.iter().find(is_it) } else { None }
}

const fn moved_to(op: &'static str, attr: &'static str, slot: usize, since: i64) -> Moved {
    Moved { op, attr, slot, since }
}

/// Attributes that are inputs from some opset version on.
pub static MOVED: &[Moved] = &[
    moved_to("Clip", "max", 2, 11),
    moved_to("Clip", "min", 1, 11),
    moved_to("Pad", "pads", 1, 11),
    moved_to("Pad", "value", 2, 11),
    moved_to("ReduceL1", "axes", 1, 18),
    moved_to("ReduceL2", "axes", 1, 18),
    moved_to("ReduceLogSum", "axes", 1, 18),
    moved_to("ReduceLogSumExp", "axes", 1, 18),
    moved_to("ReduceMax", "axes", 1, 18),
    moved_to("ReduceMean", "axes", 1, 18),
    moved_to("ReduceMin", "axes", 1, 18),
    moved_to("ReduceProd", "axes", 1, 18),
    moved_to("ReduceSum", "axes", 1, 13),
    moved_to("ReduceSumSquare", "axes", 1, 18),
    moved_to("Slice", "axes", 3, 10),
    moved_to("Slice", "ends", 2, 10),
    moved_to("Slice", "starts", 1, 10),
    moved_to("Split", "split", 1, 13),
    moved_to("Squeeze", "axes", 1, 13),
    moved_to("TopK", "k", 1, 10),
    moved_to("Unsqueeze", "axes", 1, 13),
];

/// Operator set, operator, attributes; sorted.
type Line = (&'static str, &'static str, &'static [(&'static str, Unset)]);

#[rustfmt::skip]
static TABLE: &[Line] = &[
    ("", "AffineGrid", &[("align_corners", Int(0))]),
    ("", "ArgMax", &[("axis", Int(0)), ("keepdims", Int(1)), ("select_last_index", Int(0))]),
    ("", "ArgMin", &[("axis", Int(0)), ("keepdims", Int(1)), ("select_last_index", Int(0))]),
    ("", "Attention", &[("is_causal", Int(0)), ("kv_num_heads", Nothing), ("left_window_size", Int(-1)),
        ("q_num_heads", Nothing), ("qk_matmul_output_mode", Int(0)), ("right_window_size", Int(-1)), ("scale",
        Nothing), ("softcap", Float(0.0)), ("softmax_precision", Nothing)]),
    ("", "AveragePool", &[("auto_pad", Text("NOTSET")), ("ceil_mode", Int(0)), ("count_include_pad", Int(0)),
        ("dilations", Each(1)), ("kernel_shape", Nothing), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "BatchNormalization", &[("epsilon", Float(1e-05)), ("momentum", Float(0.9)), ("spatial", Int(1)),
        ("training_mode", Int(0))]),
    ("", "Bernoulli", &[("dtype", Nothing), ("seed", Nothing)]),
    ("", "BitCast", &[("to", Nothing)]),
    ("", "BitShift", &[("direction", Nothing)]),
    ("", "BlackmanWindow", &[("output_datatype", Int(1)), ("periodic", Int(1))]),
    ("", "Cast", &[("round_mode", Text("up")), ("saturate", Int(1)), ("to", Nothing)]),
    ("", "CastLike", &[("round_mode", Text("up")), ("saturate", Int(1))]),
    ("", "CausalConvWithState", &[("activation", Text("none"))]),
    ("", "Celu", &[("alpha", Float(1.0))]),
    ("", "CenterCropPad", &[("axes", Nothing)]),
    ("", "Clip", &[("max", Float(3.4028235e+38)), ("min", Float(-3.4028235e+38))]),
    ("", "Col2Im", &[("dilations", Each(1)), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "Compress", &[("axis", Nothing)]),
    ("", "Concat", &[("axis", Nothing)]),
    ("", "ConcatFromSequence", &[("axis", Nothing), ("new_axis", Int(0))]),
    ("", "Constant", &[("sparse_value", Nothing), ("value", Nothing), ("value_float", Nothing), ("value_floats",
        Nothing), ("value_int", Nothing), ("value_ints", Nothing), ("value_string", Nothing), ("value_strings",
        Nothing)]),
    ("", "ConstantOfShape", &[("value", Nothing)]),
    ("", "Conv", &[("auto_pad", Text("NOTSET")), ("dilations", Each(1)), ("group", Int(1)), ("kernel_shape",
        Implied), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "ConvInteger", &[("auto_pad", Text("NOTSET")), ("dilations", Each(1)), ("group", Int(1)),
        ("kernel_shape", Implied), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "ConvTranspose", &[("auto_pad", Text("NOTSET")), ("dilations", Each(1)), ("group", Int(1)),
        ("kernel_shape", Implied), ("output_padding", Each(0)), ("output_shape", Nothing), ("pads", Each(0)),
        ("strides", Each(1))]),
    ("", "CumProd", &[("exclusive", Int(0)), ("reverse", Int(0))]),
    ("", "CumSum", &[("exclusive", Int(0)), ("reverse", Int(0))]),
    ("", "DFT", &[("axis", Int(1)), ("inverse", Int(0)), ("onesided", Int(0))]),
    ("", "DeformConv", &[("dilations", Each(1)), ("group", Int(1)), ("kernel_shape", Implied), ("offset_group",
        Int(1)), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "DepthToSpace", &[("blocksize", Nothing), ("mode", Text("DCR"))]),
    ("", "DequantizeLinear", &[("axis", Int(1)), ("block_size", Int(0)), ("output_dtype", Int(0))]),
    ("", "Dropout", &[("ratio", Float(0.5)), ("seed", Nothing)]),
    ("", "Einsum", &[("equation", Nothing)]),
    ("", "Elu", &[("alpha", Float(1.0))]),
    ("", "EyeLike", &[("dtype", Nothing), ("k", Int(0))]),
    ("", "Flatten", &[("axis", Int(1))]),
    ("", "GRU", &[("activation_alpha", Nothing), ("activation_beta", Nothing), ("activations", Nothing), ("clip",
        Nothing), ("direction", Text("forward")), ("hidden_size", Nothing), ("layout", Int(0)),
        ("linear_before_reset", Int(0))]),
    ("", "Gather", &[("axis", Int(0))]),
    ("", "GatherElements", &[("axis", Int(0))]),
    ("", "GatherND", &[("batch_dims", Int(0))]),
    ("", "Gelu", &[("approximate", Text("none"))]),
    ("", "Gemm", &[("alpha", Float(1.0)), ("beta", Float(1.0)), ("transA", Int(0)), ("transB", Int(0))]),
    ("", "GlobalLpPool", &[("p", Int(2))]),
    ("", "GridSample", &[("align_corners", Int(0)), ("mode", Text("linear")), ("padding_mode", Text("zeros"))]),
    ("", "GroupNormalization", &[("epsilon", Float(1e-05)), ("num_groups", Nothing), ("stash_type", Int(1))]),
    ("", "HammingWindow", &[("output_datatype", Int(1)), ("periodic", Int(1))]),
    ("", "HannWindow", &[("output_datatype", Int(1)), ("periodic", Int(1))]),
    ("", "HardSigmoid", &[("alpha", Float(0.2)), ("beta", Float(0.5))]),
    ("", "Hardmax", &[("axis", Int(-1))]),
    ("", "If", &[("else_branch", Nothing), ("then_branch", Nothing)]),
    ("", "ImageDecoder", &[("pixel_format", Text("RGB"))]),
    ("", "InstanceNormalization", &[("epsilon", Float(1e-05))]),
    ("", "IsInf", &[("detect_negative", Int(1)), ("detect_positive", Int(1))]),
    ("", "LRN", &[("alpha", Float(0.0001)), ("beta", Float(0.75)), ("bias", Float(1.0)), ("size", Nothing)]),
    ("", "LSTM", &[("activation_alpha", Nothing), ("activation_beta", Nothing), ("activations", Nothing), ("clip",
        Nothing), ("direction", Text("forward")), ("hidden_size", Nothing), ("input_forget", Int(0)), ("layout",
        Int(0))]),
    ("", "LayerNormalization", &[("axis", Int(-1)), ("epsilon", Float(1e-05)), ("stash_type", Int(1))]),
    ("", "LeakyRelu", &[("alpha", Float(0.01))]),
    ("", "LinearAttention", &[("chunk_size", Int(64)), ("kv_num_heads", Nothing), ("q_num_heads", Nothing),
        ("scale", Float(0.0)), ("update_rule", Text("gated_delta"))]),
    ("", "LogSoftmax", &[("axis", Int(-1))]),
    ("", "Loop", &[("body", Nothing)]),
    ("", "LpNormalization", &[("axis", Int(-1)), ("p", Int(2))]),
    ("", "LpPool", &[("auto_pad", Text("NOTSET")), ("ceil_mode", Int(0)), ("dilations", Each(1)), ("kernel_shape",
        Nothing), ("p", Int(2)), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "MaxPool", &[("auto_pad", Text("NOTSET")), ("ceil_mode", Int(0)), ("dilations", Each(1)),
        ("kernel_shape", Nothing), ("pads", Each(0)), ("storage_order", Int(0)), ("strides", Each(1))]),
    ("", "MaxRoiPool", &[("pooled_shape", Nothing), ("spatial_scale", Float(1.0))]),
    ("", "MaxUnpool", &[("kernel_shape", Nothing), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "MeanVarianceNormalization", &[("axes", Nothing)]),
    ("", "MelWeightMatrix", &[("output_datatype", Int(1))]),
    ("", "Mod", &[("fmod", Int(0))]),
    ("", "Multinomial", &[("dtype", Int(6)), ("sample_size", Int(1)), ("seed", Nothing)]),
    ("", "NegativeLogLikelihoodLoss", &[("ignore_index", Nothing), ("reduction", Text("mean"))]),
    ("", "NonMaxSuppression", &[("center_point_box", Int(0))]),
    ("", "OneHot", &[("axis", Int(-1))]),
    ("", "Optional", &[("type", Nothing)]),
    ("", "Pad", &[("mode", Text("constant")), ("pads", Each(0)), ("value", Float(0.0))]),
    ("", "QLinearConv", &[("auto_pad", Text("NOTSET")), ("dilations", Each(1)), ("group", Int(1)),
        ("kernel_shape", Implied), ("pads", Each(0)), ("strides", Each(1))]),
    ("", "QuantizeLinear", &[("axis", Int(1)), ("block_size", Int(0)), ("output_dtype", Int(0)), ("precision",
        Int(0)), ("saturate", Int(1))]),
    ("", "RMSNormalization", &[("axis", Int(-1)), ("epsilon", Float(1e-05)), ("stash_type", Int(1))]),
    ("", "RNN", &[("activation_alpha", Nothing), ("activation_beta", Nothing), ("activations", Nothing), ("clip",
        Nothing), ("direction", Text("forward")), ("hidden_size", Nothing), ("layout", Int(0))]),
    ("", "RandomNormal", &[("dtype", Int(1)), ("mean", Float(0.0)), ("scale", Float(1.0)), ("seed", Nothing),
        ("shape", Nothing)]),
    ("", "RandomNormalLike", &[("dtype", Nothing), ("mean", Float(0.0)), ("scale", Float(1.0)), ("seed", Nothing)]),
    ("", "RandomUniform", &[("dtype", Int(1)), ("high", Float(1.0)), ("low", Float(0.0)), ("seed", Nothing),
        ("shape", Nothing)]),
    ("", "RandomUniformLike", &[("dtype", Nothing), ("high", Float(1.0)), ("low", Float(0.0)), ("seed", Nothing)]),
    ("", "Range", &[("stash_type", Int(1))]),
    ("", "ReduceL1", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceL2", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceLogSum", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceLogSumExp", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceMax", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceMean", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceMin", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceProd", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceSum", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "ReduceSumSquare", &[("axes", Nothing), ("keepdims", Int(1)), ("noop_with_empty_axes", Int(0))]),
    ("", "RegexFullMatch", &[("pattern", Nothing)]),
    ("", "Reshape", &[("allowzero", Int(0))]),
    ("", "Resize", &[("antialias", Int(0)), ("axes", Nothing), ("coordinate_transformation_mode",
        Text("half_pixel")), ("cubic_coeff_a", Float(-0.75)), ("exclude_outside", Int(0)), ("extrapolation_value",
        Float(0.0)), ("keep_aspect_ratio_policy", Text("stretch")), ("mode", Text("nearest")), ("nearest_mode",
        Text("round_prefer_floor"))]),
    ("", "ReverseSequence", &[("batch_axis", Int(1)), ("time_axis", Int(0))]),
    ("", "RoiAlign", &[("coordinate_transformation_mode", Text("half_pixel")), ("mode", Text("avg")),
        ("output_height", Int(1)), ("output_width", Int(1)), ("sampling_ratio", Int(0)), ("spatial_scale",
        Float(1.0))]),
    ("", "RotaryEmbedding", &[("interleaved", Int(0)), ("num_heads", Nothing), ("rotary_embedding_dim", Int(0))]),
    ("", "STFT", &[("onesided", Int(1))]),
    ("", "Scan", &[("body", Nothing), ("directions", Nothing), ("num_scan_inputs", Nothing), ("scan_input_axes",
        Nothing), ("scan_input_directions", Nothing), ("scan_output_axes", Nothing), ("scan_output_directions",
        Nothing)]),
    ("", "Scatter", &[("axis", Int(0))]),
    ("", "ScatterElements", &[("axis", Int(0)), ("reduction", Text("none"))]),
    ("", "ScatterND", &[("reduction", Text("none"))]),
    ("", "Selu", &[("alpha", Float(1.6732632)), ("gamma", Float(1.050701))]),
    ("", "SequenceEmpty", &[("dtype", Nothing)]),
    ("", "SequenceMap", &[("body", Nothing)]),
    ("", "Shape", &[("end", Nothing), ("start", Int(0))]),
    ("", "Shrink", &[("bias", Float(0.0)), ("lambd", Float(0.5))]),
    ("", "SimplifiedLayerNormalization", &[("axis", Int(-1)), ("epsilon", Float(1e-05)), ("stash_type", Int(1))]),
    ("", "Slice", &[("axes", Nothing), ("ends", Nothing), ("starts", Nothing)]),
    ("", "Softmax", &[("axis", Int(-1))]),
    ("", "SoftmaxCrossEntropyLoss", &[("ignore_index", Nothing), ("reduction", Text("mean"))]),
    ("", "SpaceToDepth", &[("blocksize", Nothing), ("mode", Text("DCR"))]),
    ("", "Split", &[("axis", Int(0)), ("num_outputs", Nothing), ("split", Nothing)]),
    ("", "SplitToSequence", &[("axis", Int(0)), ("keepdims", Int(1))]),
    ("", "Squeeze", &[("axes", Nothing)]),
    ("", "StringNormalizer", &[("case_change_action", Text("NONE")), ("is_case_sensitive", Int(0)), ("locale",
        Nothing), ("stopwords", Nothing)]),
    ("", "StringSplit", &[("delimiter", Nothing), ("maxsplit", Nothing)]),
    ("", "SwiGLU", &[("alpha", Float(1.0))]),
    ("", "Swish", &[("alpha", Float(1.0))]),
    ("", "TensorScatter", &[("axis", Int(-2)), ("mode", Text("linear"))]),
    ("", "TfIdfVectorizer", &[("max_gram_length", Nothing), ("max_skip_count", Nothing), ("min_gram_length",
        Nothing), ("mode", Nothing), ("ngram_counts", Nothing), ("ngram_indexes", Nothing), ("pool_int64s",
        Nothing), ("pool_strings", Nothing), ("weights", Nothing)]),
    ("", "ThresholdedRelu", &[("alpha", Float(1.0))]),
    ("", "TopK", &[("axis", Int(-1)), ("k", Nothing), ("largest", Int(1)), ("sorted", Int(1))]),
    ("", "Transpose", &[("perm", Nothing)]),
    ("", "Trilu", &[("upper", Int(1))]),
    ("", "Unique", &[("axis", Nothing), ("sorted", Int(1))]),
    ("", "Unsqueeze", &[("axes", Nothing)]),
    ("", "Upsample", &[("mode", Text("nearest")), ("scales", Nothing)]),
    ("com.microsoft", "Attention", &[("do_rotary", Nothing), ("mask_filter_value", Nothing), ("num_heads",
        Nothing), ("past_present_share_buffer", Nothing), ("qkv_hidden_sizes", Nothing), ("rotary_embedding_dim",
        Nothing), ("scale", Nothing), ("unidirectional", Int(0))]),
    ("com.microsoft", "FusedConv", &[("activation", Nothing), ("activation_params", Nothing), ("auto_pad",
        Text("NOTSET")), ("dilations", Each(1)), ("group", Int(1)), ("kernel_shape", Implied), ("pads", Each(0)),
        ("strides", Each(1))]),
    ("com.microsoft", "MatMulNBits", &[("K", Nothing), ("N", Nothing), ("accuracy_level", Int(0)), ("bits",
        Int(4)), ("block_size", Nothing), ("weight_prepacked", Int(0))]),
    ("com.microsoft", "MultiHeadAttention", &[("mask_filter_value", Nothing), ("num_heads", Nothing), ("scale", Nothing),
        ("unidirectional", Int(0))]),
    ("com.microsoft", "QuickGelu", &[("alpha", Float(1.702))]),
    ("com.microsoft", "RotaryEmbedding", &[("interleaved", Int(0)), ("is_packed_batching", Int(0)), ("num_heads",
        Int(0)), ("rotary_embedding_dim", Int(0)), ("scale", Float(1.0))]),
    ("com.microsoft", "SkipLayerNormalization", &[("epsilon", Float(1e-12))]),
    ("com.microsoft", "SkipSimplifiedLayerNormalization", &[("epsilon", Float(1e-12))]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpName, op};

    #[test]
    fn the_table_is_sorted_and_names_operators_that_exist() {
        assert!(TABLE.is_sorted_by_key(|l| (l.0, l.1)));
        for (domain, name, attributes) in TABLE {
            assert!(op::spec(&OpName::new(domain, name)).is_some(), "{domain}::{name} is not in the operator table");
            assert!(attributes.is_sorted_by_key(|a| a.0), "{name}");
        }
        for m in MOVED {
            assert!(unset("", m.op, m.attr, 7).is_some(), "{} has no {}", m.op, m.attr);
        }
    }

    #[test]
    fn defaults_follow_the_version() {
        assert_eq!(unset("", "Softmax", "axis", 12), Some(Int(1)));
        assert_eq!(unset("", "Softmax", "axis", 13), Some(Int(-1)));
        assert_eq!(unset("", "Conv", "strides", 13), Some(Each(1)));
        assert_eq!(unset("", "Conv", "stride", 13), None);
    }
}
