//! Codes of weights and biases.
//!
//! x86 without VNNI multiplies pairs of unsigned activations and signed weights into 16 bits that saturate. Activations
//! go up to 255, so two weights that lie behind each other in the order in which the kernel sums may add up to 128 at most,
//! on each side of zero. Weights of 7 bits always do; but mostly large ones have small neighbours, or neighbours of the
//! other sign, and then a channel keeps up to 8 bits. Depthwise convolutions have a kernel that widens first.

use std::collections::BTreeMap;

use planish_ir::{Node, NodeId, Tensor, TensorError};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::grid::{self, Channels, Codes};
use super::unit::{Linear, Place, Product, Role, Unit};
use crate::{PassError, clean};

/// Whether weights leave room for saturating sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReduceRange {
    /// In channels where sums can saturate, by as much as it takes.
    #[default]
    Auto,
    /// Nowhere: the result runs on processors with VNNI, or on ARM.
    Never,
    /// Everywhere, to 7 bits.
    Always,
}

/// How a weight is rounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    pub(crate) codes: Codes,
    pub(crate) per_channel: bool,
    /// `None` where activations are signed, or are no 8-bit integers.
    pub(crate) reduce: Option<ReduceRange>,
}

/// Largest code of a signed 8-bit weight; -128 is left out, so that the range is symmetric.
const LIMIT: f32 = 127.0;
const LIMIT_OF_7_BITS: f32 = 64.0;
/// Two codes may round up by half a step each.
const LIMIT_OF_PAIRS: f32 = 127.0;
/// Largest sum of two codes on one side of zero.
pub(super) const MOST_OF_PAIRS: f32 = 128.0;

/// Scales of the output channels of a weight, and the largest code.
pub(super) fn scales(
    weight: &Tensor,
    linear: &Linear,
    node: &Node,
    how: Rounding,
) -> Result<(Vec<f32>, f32), TensorError> {
    let values = weight.as_f32()?;
    let largest = grid::largest_of_channels(&values, weight.dims(), linear.axis);
    let full = match how.codes {
        Codes::F8 => Codes::F8.limits().1,
        _ => LIMIT,
    };
    let (mut steps, limit) = match how.reduce {
        Some(ReduceRange::Always) => (largest, LIMIT_OF_7_BITS),
        Some(ReduceRange::Auto) if !is_depthwise(linear, node, weight) => {
            (pairs(&values, weight.dims(), linear), LIMIT_OF_PAIRS)
        }
        _ => (largest, full),
    };
    if !how.per_channel {
        let most = steps.iter().copied().fold(0.0, f32::max);
        steps.iter_mut().for_each(|s| *s = most);
    }
    Ok((steps.iter().map(|step| usable(step / limit)).collect(), limit))
}

/// Not the 0 of a channel of zeros.
const fn usable(scale: f32) -> f32 {
    if scale > 0.0 && scale.is_finite() { scale.max(f32::MIN_POSITIVE) } else { 1.0 }
}

/// The weights of some products, each rounded to the nearest code.
pub(super) fn nearest(
    at: Place<'_>,
    units: &BTreeMap<NodeId, Unit>,
    how: Rounding,
    products: Vec<NodeId>,
) -> Result<BTreeMap<NodeId, Channels>, PassError> {
    let one = |id: NodeId| {
        let (Some(unit), Some(node)) = (units.get(&id), at.graph.node(id)) else { return Ok(None) };
        let Role::Linear(linear) = &unit.role else { return Ok(None) };
        let Some(weight) = clean::constant_of(at.graph, linear.weight) else { return Ok(None) };
        let failed = |source| PassError::Tensor { place: at.graph.name_of(linear.weight), source };
        let rounded = round(&weight, linear, node, how, |_| 0.0).map_err(failed)?;
        Ok(Some((id, rounded)))
    };
    products.into_par_iter().filter_map(|id| one(id).transpose()).collect()
}

/// Rounds the weight of a product; `least` is the smallest scale that each channel may have.
pub(crate) fn round(
    weight: &Tensor,
    linear: &Linear,
    node: &Node,
    how: Rounding,
    least: impl Fn(usize) -> f32,
) -> Result<Channels, TensorError> {
    let (mut scales, limit) = scales(weight, linear, node, how)?;
    scales.iter_mut().enumerate().for_each(|(c, s)| *s = usable(s.max(least(c))));
    let values = weight.as_f32()?;
    grid::quantize(&values, weight.dims(), linear.axis, how.codes, scales, limit)
}

/// For each column of a channel the one that it is added to in 16 bits, if that may saturate.
pub(super) fn partners(weight: &Tensor, linear: &Linear, node: &Node, how: Rounding) -> Option<Vec<usize>> {
    if how.reduce != Some(ReduceRange::Auto) || is_depthwise(linear, node, weight) {
        return None;
    }
    let size = |i: usize| weight.dims().get(i).and_then(|&d| usize::try_from(d).ok()).unwrap_or(1);
    let depth = usize::try_from(weight.elements()).ok()?.checked_div(size(linear.axis))?;
    let inputs = if linear.op == Product::Conv { size(1).max(1) } else { depth.max(1) };
    let places = (depth / inputs).max(1);
    let partner = |column: usize| {
        let summed = column % places * inputs + column / places;
        let other = summed ^ 1;
        if other < depth { other % inputs * places + other / inputs } else { column }
    };
    Some((0..depth).map(partner).collect())
}

/// True for a convolution with one input channel and one output channel in each group.
fn is_depthwise(linear: &Linear, node: &Node, weight: &Tensor) -> bool {
    let groups = u64::try_from(node.attrs.int("group").unwrap_or(1)).unwrap_or(1);
    linear.op == Product::Conv && groups > 1 && matches!(weight.dims(), [m, 1, ..] if *m == groups)
}

/// For each output channel the largest sum of two weights, neighbours in the order of summation, on one side of zero.
fn pairs(values: &[f32], dims: &[u64], linear: &Linear) -> Vec<f32> {
    let size = |i: usize| dims.get(i).and_then(|&d| usize::try_from(d).ok()).unwrap_or(1);
    let channels = size(linear.axis);
    let depth = values.len().checked_div(channels).unwrap_or(0);
    // Where the k-th summand of a channel lies. Kernels go through a window with the channels innermost.
    let at = |channel: usize, k: usize| match (linear.op, linear.axis) {
        (Product::Conv, _) => {
            let inputs = size(1).max(1);
            let places = depth / inputs;
            channel * depth + k % inputs * places + k / inputs
        }
        (_, 0) => channel * depth + k,
        _ => k * channels + channel,
    };
    let sum = |channel: usize, first: usize| {
        let side = |sign: f32| {
            let one = |k: usize| {
                if k < depth { values.get(at(channel, k)).map_or(0.0, |v| (v * sign).max(0.0)) } else { 0.0 }
            };
            one(first) + one(first + 1)
        };
        side(1.0).max(side(-1.0))
    };
    (0..channels).map(|c| (0..depth).step_by(2).map(|k| sum(c, k)).fold(0.0, f32::max)).collect()
}

/// A bias in 32 bits has the scale of the sums that it is added to.
pub(crate) struct Bias {
    pub(crate) codes: Tensor,
    pub(crate) scales: Tensor,
}

/// Largest code of a bias, with room for the sums.
const BIAS_LIMIT: f64 = (1u32 << 30) as f64;

/// The smallest scale of a channel's weights with which its bias fits.
pub(crate) fn least_scale(bias: f32, activation: f32) -> f32 {
    (f64::from(bias.abs()) / (f64::from(activation) * BIAS_LIMIT)) as f32
}

/// Rounds a bias.
pub(crate) fn bias(bias: &[f32], activation: f32, weights: &[f32]) -> Result<Bias, TensorError> {
    let dims = [bias.len() as u64];
    // The product in float32, as runtimes compare it.
    let scales: Vec<f32> = weights.iter().map(|w| w * activation).collect();
    let code = |(b, s): (&f32, &f32)| {
        let code = (f64::from(*b) / f64::from(*s)).round_ties_even();
        (code.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32).to_le_bytes()
    };
    let raw: bytes::Bytes = bias.iter().zip(&scales).flat_map(code).collect();
    Ok(Bias {
        codes: Tensor::from_raw(planish_ir::DType::I32, dims.as_slice(), raw)?,
        scales: Tensor::from_f32(dims.as_slice(), &scales)?,
    })
}
