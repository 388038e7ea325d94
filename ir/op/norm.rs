//! Normalizations.
//!
//! Opsets: BatchNormalization 1, 6, 7 (never trains), 9, 14 (`training_mode`), 15; GroupNormalization 18, 21;
//! InstanceNormalization 1, 6, 22; LayerNormalization 17; LpNormalization 1, 22; LRN 1, 13; MeanVarianceNormalization 9, 13;
//! RMSNormalization 23; SimplifiedLayerNormalization 1 (onnxruntime's own); com.microsoft::SkipLayerNormalization and SkipSimplifiedLayerNormalization 1.
//!
//! Shape rule: the first output has the shape of the input. Statistics: of BatchNormalization one per channel; of
//! LayerNormalization all axes from `axis` on become 1.

use super::{OpSpec, Traits, sig, unary::same};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static BATCH: OpSpec = OpSpec::new(
    "BatchNormalization",
    &[sig(1, 5, 5).outputs(1, 5), sig(14, 5, 5).outputs(1, 3)],
    Traits::ROUNDING,
    infer_batch,
);
pub(super) static GROUP: OpSpec = OpSpec::new("GroupNormalization", &[sig(18, 3, 3)], Traits::ROUNDING, same);
pub(super) static INSTANCE: OpSpec = OpSpec::new("InstanceNormalization", &[sig(1, 3, 3)], Traits::ROUNDING, same);
pub(super) static LAYER: OpSpec =
    OpSpec::new("LayerNormalization", &[sig(17, 2, 3).outputs(1, 3)], Traits::ROUNDING, infer_layer);
pub(super) static LP: OpSpec = OpSpec::new("LpNormalization", &[sig(1, 1, 1)], Traits::ROUNDING, same);
pub(super) static LRN: OpSpec = OpSpec::new("LRN", &[sig(1, 1, 1)], Traits::ROUNDING, same);
pub(super) static MEAN_VARIANCE: OpSpec =
    OpSpec::new("MeanVarianceNormalization", &[sig(9, 1, 1)], Traits::ROUNDING, same);
pub(super) static RMS: OpSpec = OpSpec::new("RMSNormalization", &[sig(23, 2, 2)], Traits::ROUNDING, same);
// A contributed operator that onnxruntime keeps in ai.onnx.
pub(super) static SIMPLIFIED_LAYER: OpSpec =
    OpSpec::new("SimplifiedLayerNormalization", &[sig(1, 2, 2).outputs(1, 2)], Traits::ROUNDING, infer_layer);
pub(super) static SKIP_LAYER: OpSpec =
    OpSpec::new("SkipLayerNormalization", &[sig(1, 3, 5).outputs(1, 4)], Traits::ROUNDING, infer_skip)
        .domain("com.microsoft");
pub(super) static SKIP_SIMPLIFIED: OpSpec =
    OpSpec::new("SkipSimplifiedLayerNormalization", &[sig(1, 3, 4).outputs(1, 4)], Traits::ROUNDING, infer_skip)
        .domain("com.microsoft");

fn infer_batch(call: &Call<'_>) -> Outcome {
    let y = call.same(0);
    // The running statistics, and what training saved before opset 14.
    let channel = call.same(3);
    Ok(vec![y, channel.clone(), channel.clone(), channel.clone(), channel])
}

fn infer_layer(call: &Call<'_>) -> Outcome {
    let y = call.same(0);
    let dtype = match call.attrs().int("stash_type") {
        Some(_) => call.dtype_attr("stash_type"),
        None => Some(DType::F32),
    };
    let shape = match call.shape(0) {
        Some(x) => {
            let at = call.axis("axis", -1, x.len())?;
            Some(x.iter().enumerate().map(|(i, d)| if i < at { d.clone() } else { Dim::Known(1) }).collect())
        }
        None => None,
    };
    let statistics = Fact::tensor(dtype, shape);
    Ok(vec![y, statistics.clone(), statistics])
}

/// Output 3 is the sum of input, skip and bias; outputs 1 and 2 are statistics, which no runtime makes.
fn infer_skip(call: &Call<'_>) -> Outcome {
    let y = call.same(0);
    let statistics = Fact::tensor(Some(DType::F32), None);
    Ok(vec![y.clone(), statistics.clone(), statistics, y])
}
