//! Which channels matter, by what can be seen without running the model, or by measure of it.

use faer::Mat;
use planish_ir::{
    GraphPath, Model, Tensor, Use, ValueId,
    axes::{Class, Member},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Linear;

/// In which order channels go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// The optimal brain surgeon: what the readers lose once their other weights have made up for it.
    #[default]
    Surgeon,
    /// Sum of the magnitudes of the weights that make a channel (Li et al.: Pruning filters for efficient ConvNets, ICLR 2017).
    L1,
    /// The same of their squares.
    L2,
    /// Magnitude of the scale of BatchNormalization, or `l1` where there is none (Liu et al.: Learning efficient convolutional networks
    /// through network slimming, ICCV 2017).
    BatchNorm,
    /// Magnitude of what is read times the norm of the weights that read it (Sun et al.: A simple and effective pruning approach for large
    /// language models, ICLR 2024).
    Activation,
}

/// The weights that make the channels of a class, with the axis and the places that each has there.
fn makers<'a>(model: &'a Model, class: &'a Class, readers: &[ValueId]) -> Vec<(&'a Member, &'a Tensor)> {
    let main = GraphPath::main();
    let own = class.members.iter().filter(|m| m.graph == main && !readers.contains(&m.value));
    own.filter_map(|m| Some((m, model.graph.constant(m.value).filter(|t| t.rank() > 1)?))).collect()
}

/// The elements of each channel along a member's axis. None if a place is not on it.
fn slices(member: &Member, tensor: &Tensor, channels: usize) -> Option<Vec<Vec<f64>>> {
    let values = tensor.to_f64().ok()?;
    let dims: Vec<usize> = tensor.dims().iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let inner: usize = dims.get(member.axis + 1..)?.iter().product();
    let size = *dims.get(member.axis)?;
    let outer = values.len().checked_div(size.checked_mul(inner)?)?;
    let slice = |channel: usize| -> Option<Vec<f64>> {
        let mut slice = Vec::new();
        for place in member.places(channel as u64)? {
            let place = usize::try_from(place).ok().filter(|&p| p < size)?;
            for block in 0..outer {
                let first = (block * size + place) * inner;
                slice.extend_from_slice(values.get(first..first + inner)?);
            }
        }
        Some(slice)
    };
    (0..channels).map(slice).collect()
}

impl Criterion {
    /// A number for each channel, the smallest to go first. None where this criterion has none: for [`Criterion::Surgeon`] and
    /// [`Criterion::Activation`], which need what the readers read.
    pub(super) fn of_weights(
        self,
        model: &Model,
        class: &Class,
        channels: usize,
        readers: &[ValueId],
    ) -> Option<Vec<f64>> {
        let scales = || {
            let is_scale = |m: &&Member| {
                let mut users = model.graph.users(m.value);
                let is_second = |u: Use| {
                    matches!(u, Use::Node(n, planish_ir::Operand::Input(1)) if
                    model.graph.node(n).is_some_and(|n| n.op.is("BatchNormalization")))
                };
                m.graph.is_main() && users.any(is_second)
            };
            let scale = class.members.iter().find(is_scale)?;
            slices(scale, model.graph.constant(scale.value)?, channels)
        };
        let sum = |of: fn(f64) -> f64| {
            let mut sums = vec![0.0; channels];
            let makers = makers(model, class, readers);
            // Computed, or packed: their readers have to tell.
            if makers.is_empty() {
                return None;
            }
            for (member, tensor) in makers {
                let slices = slices(member, tensor, channels)?;
                sums.iter_mut().zip(slices).for_each(|(s, slice)| *s += slice.into_iter().map(of).sum::<f64>());
            }
            Some(sums)
        };
        match self {
            Criterion::Surgeon | Criterion::Activation => None,
            Criterion::L1 => sum(f64::abs),
            Criterion::L2 => sum(|w| w * w),
            Criterion::BatchNorm => match scales() {
                Some(scales) => Some(scales.into_iter().map(|s| s.into_iter().map(f64::abs).sum()).collect()),
                None => sum(f64::abs),
            },
        }
    }
}

/// How alike channels are, from the weights that make them: their products, with a mean diagonal of 1. If what these weights read is white,
/// it is the covariance of the channels. Weights that act on each channel by itself, as of depthwise convolutions, multiply; the others add.
pub(super) fn likeness(model: &Model, class: &Class, channels: usize, readers: &[ValueId]) -> Option<Mat<f64>> {
    let (mut sum, mut factor) = (Mat::<f64>::zeros(channels, channels), Mat::from_fn(channels, channels, |_, _| 1.0));
    let mut is_empty = true;
    for (member, tensor) in makers(model, class, readers) {
        let slices = slices(member, tensor, channels)?;
        let width = slices.iter().map(Vec::len).max()?;
        let rows = Mat::from_fn(channels, width, |c, i| slices.get(c).and_then(|s| s.get(i)).copied().unwrap_or(0.0));
        let products = &rows * rows.transpose();
        // Each output reads one channel: a depthwise convolution.
        let is_separate = model.graph.users(member.value).any(|u| {
            let linear = |n| Linear::of(&model.graph, n).filter(|l| l.weight == member.value);
            matches!(u, Use::Node(n, _) if linear(n).is_some_and(|l| l.groups() > 1 && l.groups() == channels))
        });
        match is_separate {
            true => factor = Mat::from_fn(channels, channels, |i, j| factor[(i, j)] * products[(i, j)]),
            false => sum += products,
        }
        is_empty &= is_separate;
    }
    let whole = if is_empty { factor } else { Mat::from_fn(channels, channels, |i, j| sum[(i, j)] * factor[(i, j)]) };
    let mean = (0..channels).map(|i| whole[(i, i)]).sum::<f64>() / channels.max(1) as f64;
    (mean > 0.0 && mean.is_finite()).then(|| Mat::from_fn(channels, channels, |i, j| whole[(i, j)] / mean))
}

#[cfg(test)]
mod tests {
    use planish_ir::{axes::classes, infer};

    use super::*;
    use crate::{Context, Transform, prune::Prune, testing::parse};

    const TWO_LAYERS: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,1] y)
        <float[2,4] w = {1.0, 0.0, 2.0, 0.5,  0.0, 3.0, 0.0, 0.5}, float[4,1] v = {1.0, 1.0, 1.0, 9.0}> {
            a = MatMul (x, w)
            b = Relu (a)
            y = MatMul (b, v)
        }"#;

    #[test]
    fn weights_that_make_a_channel_tell_how_large_and_how_alike_it_is() {
        let model = parse(TWO_LAYERS);
        let facts = infer::infer(&model, &infer::Bindings::new());
        let classes = classes(&model, &facts);
        let readers = [model.graph.value_named("v").unwrap()];
        let class = classes.all().iter().find(|c| c.size.known() == Some(4)).unwrap();
        let of = |c: Criterion| c.of_weights(&model, class, 4, &readers);
        assert_eq!(of(Criterion::L1).unwrap(), [1.0, 3.0, 2.0, 1.0]);
        assert_eq!(of(Criterion::L2).unwrap(), [1.0, 9.0, 4.0, 0.5]);
        assert_eq!(of(Criterion::BatchNorm).unwrap(), [1.0, 3.0, 2.0, 1.0]);
        assert_eq!(of(Criterion::Surgeon), None);
        let alike = likeness(&model, class, 4, &readers).unwrap();
        let cosine = |i: usize, j: usize| alike[(i, j)] / (alike[(i, i)] * alike[(j, j)]).sqrt();
        assert!((cosine(0, 2) - 1.0).abs() < 1e-12 && cosine(0, 1).abs() < 1e-12);
    }

    #[test]
    fn without_samples_a_channel_like_another_goes_and_its_weights_move_there() {
        let mut model = parse(TWO_LAYERS);
        let facts = infer::infer(&model, &infer::Bindings::new());
        let pass = Prune { macs: Some(0.8), round_to: 1, ..Prune::default() };
        let changes = pass.transform(&model, &Context { facts: &facts, ..Context::bare() }).unwrap();
        changes.patches.into_iter().for_each(|(path, patch)| drop(model.apply(&path, patch).unwrap()));
        let values =
            |name: &str| model.graph.constant(model.graph.value_named(name).unwrap()).unwrap().to_f64().unwrap();
        // Of channels 0 and 2, of which one is twice the other, the smaller went.
        assert_eq!(values("w"), [0.0, 2.0, 0.5, 3.0, 0.0, 0.5]);
        let v = values("v");
        assert!((v[1] - 1.5).abs() < 0.1, "{v:?}");
        assert!(changes.notes.iter().any(|n| n.starts_with("warning")), "{:?}", changes.notes);
    }
}
