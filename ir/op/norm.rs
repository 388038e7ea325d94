//! Normalizations.
//!
//! Opsets: BatchNormalization 1, 6, 7 (never trains), 9, 14 (`training_mode`), 15; GroupNormalization 18, 21;
//! InstanceNormalization 1, 6, 22; LayerNormalization 17; LpNormalization 1, 22; LRN 1, 13; MeanVarianceNormalization 9, 13;
//! RMSNormalization 23; SimplifiedLayerNormalization 1 (onnxruntime's own); com.microsoft::SkipLayerNormalization and SkipSimplifiedLayerNormalization 1.
//!
//! Shape rule: the first output has the shape of the input. Statistics: of BatchNormalization one per channel; of
//! LayerNormalization all axes from `axis` on become 1.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    At,
    Port::{self, In, Out},
    Role, Spelling, Why, aligned, same_axes,
};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static BATCH: OpSpec = OpSpec::new(
    "BatchNormalization",
    &[sig(1, 5, 5).outputs(1, 5), sig(14, 5, 5).outputs(1, 3)],
    Traits::ROUNDING,
    infer_batch,
)
.axes(axes_batch);
pub(super) static GROUP: OpSpec =
    OpSpec::new("GroupNormalization", &[sig(18, 3, 3)], Traits::ROUNDING, same).axes(axes_group);
pub(super) static INSTANCE: OpSpec =
    OpSpec::new("InstanceNormalization", &[sig(1, 3, 3)], Traits::ROUNDING, same).axes(axes_instance);
pub(super) static LAYER: OpSpec =
    OpSpec::new("LayerNormalization", &[sig(17, 2, 3).outputs(1, 3)], Traits::ROUNDING, infer_layer)
        .axes(|s| axes_layer(s, &[1, 2]));
pub(super) static LP: OpSpec = OpSpec::new("LpNormalization", &[sig(1, 1, 1)], Traits::ROUNDING, same).axes(axes_lp);
pub(super) static LRN: OpSpec = OpSpec::new("LRN", &[sig(1, 1, 1)], Traits::ROUNDING, same).axes(axes_lrn);
pub(super) static MEAN_VARIANCE: OpSpec =
    OpSpec::new("MeanVarianceNormalization", &[sig(9, 1, 1)], Traits::ROUNDING, same).axes(axes_mean_variance);
pub(super) static RMS: OpSpec =
    OpSpec::new("RMSNormalization", &[sig(23, 2, 2)], Traits::ROUNDING, same).axes(|s| axes_layer(s, &[1]));
// A contributed operator that onnxruntime keeps in ai.onnx.
pub(super) static SIMPLIFIED_LAYER: OpSpec =
    OpSpec::new("SimplifiedLayerNormalization", &[sig(1, 2, 2).outputs(1, 2)], Traits::ROUNDING, infer_layer)
        .axes(|s| axes_layer(s, &[1]));
pub(super) static SKIP_LAYER: OpSpec =
    OpSpec::new("SkipLayerNormalization", &[sig(1, 3, 5).outputs(1, 4)], Traits::ROUNDING, infer_skip)
        .domain("com.microsoft")
        .axes(|s| axes_skip(s, &[In(0), In(1), In(2), In(3), In(4)]));
pub(super) static SKIP_SIMPLIFIED: OpSpec =
    OpSpec::new("SkipSimplifiedLayerNormalization", &[sig(1, 3, 4).outputs(1, 4)], Traits::ROUNDING, infer_skip)
        .domain("com.microsoft")
        .axes(|s| axes_skip(s, &[In(0), In(1), In(2), In(3)]));

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

/// The input and the first output, along some axes.
fn through(s: &mut Spelling<'_>, axes: impl IntoIterator<Item = usize>, role: Role) -> Result<(), Why> {
    same_axes(s, &[In(0), Out(0)], axes, role)
}

/// `0[n,c,…] 1[c] 2[c] 3[c] 4[c] -> 0[n,c,…]`; batch and places are mixed in training.
fn axes_batch(s: &mut Spelling<'_>) -> Result<(), Why> {
    let opset = s.call.opset;
    if opset < 9 && !s.call.flag("spatial", true) {
        return Err("it has statistics for each place");
    }
    let trains =
        if opset >= 14 { s.call.flag("training_mode", false) } else { opset < 7 && !s.call.flag("is_test", false) };
    let others = (0..s.shape(In(0))?.len()).filter(|&a| a != 1);
    through(s, others, if trains { Role::Mixed } else { Role::Free })?;
    let channel = s.tie(&[(In(0), 1), (Out(0), 1)], Role::Free)?;
    (1..5).flat_map(|i| [In(i), Out(i)]).try_for_each(|p| s.vector(p, &[channel]))
}

/// `0[n,c,…~] 1[c] 2[c] -> 0[n,c,…~]`.
fn axes_instance(s: &mut Spelling<'_>) -> Result<(), Why> {
    through(s, 2..s.shape(In(0))?.len(), Role::Mixed)?;
    through(s, [0], Role::Free)?;
    let channel = s.tie(&[(In(0), 1), (Out(0), 1)], Role::Free)?;
    [In(1), In(2)].into_iter().try_for_each(|p| s.vector(p, &[channel]))
}

/// `0[n,g*c~,…~] 1[g*c~] 2[g*c~] -> 0[n,g*c~,…~]`; before opset 21 scale and bias are `[g]`.
fn axes_group(s: &mut Spelling<'_>) -> Result<(), Why> {
    let count = s.count("num_groups", None)?;
    through(s, 2..s.shape(In(0))?.len(), Role::Mixed)?;
    through(s, [0], Role::Free)?;
    let group = s.letter(Dim::Known(count), Role::Free);
    s.state(At::Attr("num_groups"), &[group]);
    let channel = s.per_block(In(0), 1, count, Role::Mixed)?;
    [In(0), Out(0)].into_iter().for_each(|p| s.spell(p, 1, &[group, channel]));
    let scaled = if s.call.opset < 21 { vec![group] } else { vec![group, channel] };
    [In(1), In(2)].into_iter().try_for_each(|p| s.vector(p, &scaled))
}

/// `0[a,b~] 1[b~] 2[b~] -> 0[a,b~] 1[a,1] 2[a,1]`, where b may be several axes. Scale and bias broadcast.
fn axes_layer(s: &mut Spelling<'_>, vectors: &[usize]) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", -1, rank).map_err(|_| "its axis does not exist")?;
    let statistics = [Out(1), Out(2)];
    let kept = [&[In(0), Out(0)], statistics.as_slice()].concat();
    same_axes(s, &kept, 0..at, Role::Free)?;
    statistics.iter().for_each(|&p| (at..rank).for_each(|a| s.spell(p, a, &[])));
    let inputs: Vec<Port> = [0].iter().chain(vectors).map(|&i| In(i)).collect();
    aligned(s, &inputs, &[Out(0)], 0..rank - at, Role::Mixed)
}

fn axes_lp(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", -1, rank).map_err(|_| "its axis does not exist")?;
    through(s, (0..rank).filter(|&a| a != at), Role::Free)?;
    through(s, [at], Role::Mixed)
}

/// Channels are divided by their neighbours.
fn axes_lrn(s: &mut Spelling<'_>) -> Result<(), Why> {
    through(s, (0..s.shape(In(0))?.len()).filter(|&a| a != 1), Role::Free)?;
    through(s, [1], Role::Mixed)
}

fn axes_mean_variance(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let listed = s.call.attrs().ints("axes").unwrap_or(&[0, 2, 3]);
    let mixed = listed.iter().map(|&a| crate::infer::axis(a, rank)).collect::<Result<Vec<_>, _>>();
    let mixed = mixed.map_err(|_| "its axes do not exist")?;
    through(s, (0..rank).filter(|a| !mixed.contains(a)), Role::Free)?;
    through(s, mixed, Role::Mixed)
}

/// Input, skip, scale and biases broadcast; the last axis is mixed.
fn axes_skip(s: &mut Spelling<'_>, inputs: &[Port]) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    aligned(s, inputs, &[Out(0), Out(3)], 0..1, Role::Mixed)?;
    aligned(s, inputs, &[Out(0), Out(3)], 1..rank, Role::Free)
}
