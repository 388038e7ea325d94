//! Convolutions over one axis as products: the taps of the window side by side, in uint8.
//!
//! In ONNX Runtime 1.32 on AVX2 such a convolution of 128 channels and a window of 3 takes 0.51 of the time of Conv, one of 256 channels,
//! 512 outputs and a window of 5 takes 0.57. Over two axes the float convolutions of ONNX Runtime keep a layout of their own from one to
//! the next, which nothing here makes up for.

use planish_ir::{Dim, Node, OpName, Patch, Ref, Tensor, infer::Fact};

use crate::Skip;

/// How the window slides. Axes are those of the input with the channels behind the spatial axes.
pub(super) struct Windows {
    rank: usize,
    axis: usize,
    taps: usize,
    stride: i64,
    dilation: i64,
    pads: (i64, i64),
}

/// Fewer elements under a window, or outputs, are not worth the copies.
const LEAST: (u64, u64) = (256, 64);
/// Copies of the input that are laid side by side.
const MOST_TAPS: u64 = 16;

/// The window of a convolution and its weight as a matrix `[taps * channels, outputs]`; `None` where a product is not faster.
pub(super) fn read(node: &Node, input: &Fact, weight: &Tensor) -> Option<(Windows, Tensor)> {
    let &[outputs, channels, ref kernel @ ..] = weight.dims() else { return None };
    let shape = input.shape()?;
    let rank = weight.rank();
    let wide: Vec<usize> = (0..kernel.len()).filter(|&i| kernel.get(i) != Some(&1)).collect();
    let &[spatial] = wide.as_slice() else { return None };
    let taps = *kernel.get(spatial)?;
    let thin = |(i, d): (usize, &Dim)| i == spatial || *d == Dim::Known(1);
    let fits = shape.len() == rank
        && shape.get(2..)?.iter().enumerate().all(thin)
        && taps <= MOST_TAPS
        && channels.checked_mul(taps)? >= LEAST.0
        && outputs >= LEAST.1
        && node.attrs.int("group").unwrap_or(1) == 1
        && matches!(node.attrs.str("auto_pad"), None | Some("" | "NOTSET" | "VALID"));
    if !fits {
        return None;
    }
    // One number for each spatial axis; those of the thin axes say nothing, but padding would.
    let along = |name: &str, default: i64| node.attrs.ints(name).map_or(Some(default), |v| v.get(spatial).copied());
    let (stride, dilation) = (along("strides", 1)?, along("dilations", 1)?);
    let pads = match node.attrs.ints("pads") {
        Some(p) if node.attrs.str("auto_pad") != Some("VALID") => {
            let (begin, end) = (spatial, spatial + kernel.len());
            let others_pad = p.iter().enumerate().any(|(i, n)| i != begin && i != end && *n != 0);
            let (before, after) = (*p.get(begin)?, *p.get(end)?);
            if others_pad || before < 0 || after < 0 {
                return None;
            }
            (before, after)
        }
        _ => (0, 0),
    };
    if stride < 1 || dilation < 1 || dilation.checked_mul(i64::try_from(taps).ok()?).is_none() {
        return None;
    }
    let windows = Windows { rank, axis: spatial + 1, taps: usize::try_from(taps).ok()?, stride, dilation, pads };
    let [o, c, t] = [outputs, channels, taps].map(|n| usize::try_from(n).unwrap_or(0));
    let values = weight.as_f32().ok()?;
    let element = |i: usize| {
        let (row, output) = (i / o, i % o);
        values.get((output * c + row % c) * t + row / c).copied().unwrap_or(f32::NAN)
    };
    let matrix: Vec<f32> = (0..values.len()).map(element).collect();
    let matrix = Tensor::from_f32([taps * channels, outputs].as_slice(), &matrix).ok()?;
    Some((windows, matrix))
}

impl Windows {
    /// Channels behind the spatial axes, and for each place all that the window covers there.
    pub(super) fn unfold(&self, patch: &mut Patch, codes: Ref, zero: Ref, name: &str) -> Ref {
        let perm: Vec<i64> = [0].into_iter().chain(2..self.rank as i64).chain([1]).collect();
        let mut x = patch
            .node(OpName::onnx("Transpose"), [codes])
            .attr("perm", perm)
            .output(format!("{name}_channels_last"), None);
        if self.pads != (0, 0) {
            let mut pads = vec![0; 2 * self.rank];
            let ends = [(self.axis, self.pads.0), (self.rank + self.axis, self.pads.1)];
            ends.into_iter().for_each(|(i, n)| pads.get_mut(i).into_iter().for_each(|p| *p = n));
            let pads = patch.constant(format!("{name}_pads"), Tensor::ints(&pads));
            // The zero point stands for 0.
            x = patch.node(OpName::onnx("Pad"), [x, pads, zero]).output(format!("{name}_padded"), None);
        }
        let axis = patch.constant(format!("{name}_axis"), Tensor::ints(&[self.axis as i64]));
        let step = patch.constant(format!("{name}_stride"), Tensor::ints(&[self.stride]));
        let mut parts = Vec::with_capacity(self.taps);
        for tap in 0..self.taps {
            let (start, left) = (tap as i64 * self.dilation, (self.taps - 1 - tap) as i64 * self.dilation);
            let end = if left == 0 { i64::MAX } else { -left };
            let start = patch.constant(format!("{name}_from_{tap}"), Tensor::ints(&[start]));
            let end = patch.constant(format!("{name}_to_{tap}"), Tensor::ints(&[end]));
            let slice = patch.node(OpName::onnx("Slice"), [x, start, end, axis, step]);
            parts.push(slice.output(format!("{name}_tap_{tap}"), None));
        }
        let concat = patch.node(OpName::onnx("Concat"), parts).attr("axis", self.rank as i64 - 1);
        concat.output(format!("{name}_windows"), None)
    }

    /// The axes that bring the channels back behind the batch.
    pub(super) fn back(&self) -> Vec<i64> {
        let last = self.rank as i64 - 1;
        [0, last].into_iter().chain(1..last).collect()
    }
}

/// Why a convolution stays.
pub(super) fn stays() -> Skip {
    Skip::because(
        "it slides over several axes, or is small, where integers take longer than Conv; quantize it statically",
    )
}
