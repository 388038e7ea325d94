//! Linear operators with constant weights, and how they take up a scale or an offset before or behind them.

use planish_ir::{DType, Node, NodeId, Patch, Tensor, ValueId};

use super::affine::{Affine, Axis};
use crate::{RuleContext, Skip};

/// A node that computes, per output channel, a weighted sum of input channels plus a bias; a normalization with scale and
/// offset counts as one whose channels do not mix.
pub(super) struct Linear<'a> {
    pub(super) id: NodeId,
    pub(super) node: &'a Node,
    kind: Kind,
    weight: (ValueId, &'a Tensor),
    bias: Bias<'a>,
}

/// What there is at the slot of the bias.
#[derive(Clone, Copy)]
enum Bias<'a> {
    /// The operator has none.
    Never,
    Absent,
    Constant(ValueId, &'a Tensor),
    Computed(ValueId),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Conv {
        groups: usize,
    },
    ConvTranspose {
        groups: usize,
    },
    Gemm {
        trans_b: bool,
        alpha: f64,
        beta: f64,
    },
    MatMul,
    /// Scale and offset per element of the last axis.
    LayerNorm,
    /// Scale and offset per element of axis 1.
    ChannelNorm,
}

/// What a linear operator has to do besides: multiply per input channel, multiply and add per output channel. Each is one
/// number for all or one per channel.
struct Extra<'e> {
    input: &'e [f64],
    output: &'e [f64],
    shift: &'e [f64],
}

impl<'a> Linear<'a> {
    /// The node as a linear operator, if it is one and its weight is a constant of rank and type that can be folded into.
    pub(super) fn of(cx: &RuleContext<'a>, id: NodeId, node: &'a Node) -> Result<Linear<'a>, Skip> {
        if !node.op.domain.is_empty() || node.is_local() {
            return Err(Skip::NoMatch);
        }
        let groups = || match usize::try_from(node.attrs.int("group").unwrap_or(1)) {
            Ok(g) if g > 0 => Ok(g),
            _ => Err(Skip::NoMatch),
        };
        let kind = match node.op.name.as_str() {
            "Conv" => Kind::Conv { groups: groups()? },
            "ConvTranspose" => Kind::ConvTranspose { groups: groups()? },
            "Gemm" => Kind::Gemm {
                trans_b: node.attrs.int("transB").unwrap_or(0) != 0,
                alpha: f64::from(node.attrs.float("alpha").unwrap_or(1.0)),
                beta: f64::from(node.attrs.float("beta").unwrap_or(1.0)),
            },
            "MatMul" => Kind::MatMul,
            "LayerNormalization" => {
                let rank = cx.facts.fact(node.input(0).ok_or(Skip::NoMatch)?).shape().map(<[_]>::len);
                let axis = node.attrs.int("axis").unwrap_or(-1);
                let last = axis == -1 || rank.and_then(|r| i64::try_from(r).ok()).is_some_and(|r| axis == r - 1);
                if last { Kind::LayerNorm } else { return Err(Skip::NoMatch) }
            }
            "InstanceNormalization" => Kind::ChannelNorm,
            "BatchNormalization" => {
                super::affine::inference_only(node)?;
                Kind::ChannelNorm
            }
            _ => return Err(Skip::NoMatch),
        };
        let id_of_weight = node.input(1).ok_or(Skip::NoMatch)?;
        // A product of two computed values is no linear operator in this sense, and not worth a word.
        let weight = match (cx.graph.constant(id_of_weight), kind) {
            (Some(t), _) => t,
            (None, Kind::MatMul) => return Err(Skip::NoMatch),
            (None, _) => {
                let name = cx.graph.name_of(id_of_weight);
                return Err(Skip::because(format!("the weight {name:?} is no constant")));
            }
        };
        let rank_fits = match kind {
            Kind::Conv { .. } | Kind::ConvTranspose { .. } => weight.rank() >= 3,
            Kind::Gemm { .. } | Kind::MatMul => weight.rank() == 2,
            Kind::LayerNorm | Kind::ChannelNorm => weight.rank() == 1,
        };
        // A group has as many rows as any other. What hostile files say otherwise is not multiplied out.
        let rank_fits = match kind {
            Kind::Conv { groups } | Kind::ConvTranspose { groups } => {
                rank_fits && weight.dims().first().is_some_and(|&rows| rows.checked_rem(groups as u64) == Some(0))
            }
            Kind::Gemm { .. } if node.attrs.get("broadcast").is_some() => false,
            _ => rank_fits,
        };
        if !rank_fits || weight.elements() == 0 || !is_supported(weight.dtype()) {
            return Err(Skip::NoMatch);
        }
        let bias = match (kind, node.input(2)) {
            (Kind::MatMul, _) => Bias::Never,
            (_, None) => Bias::Absent,
            (_, Some(b)) => cx.graph.constant(b).map_or(Bias::Computed(b), |t| Bias::Constant(b, t)),
        };
        Ok(Linear { id, node, kind, weight: (id_of_weight, weight), bias })
    }

    /// True for a normalization.
    pub(super) const fn is_norm(&self) -> bool {
        matches!(self.kind, Kind::LayerNorm | Kind::ChannelNorm)
    }

    /// Number of output channels.
    fn outputs(&self) -> usize {
        let (a, b, _) = self.extents();
        match self.kind {
            Kind::Conv { .. } | Kind::LayerNorm | Kind::ChannelNorm => a,
            Kind::ConvTranspose { groups } => b.saturating_mul(groups),
            Kind::Gemm { trans_b, .. } => {
                if trans_b {
                    a
                } else {
                    b
                }
            }
            Kind::MatMul => b,
        }
    }

    /// Number of input channels.
    fn inputs(&self) -> usize {
        let (a, b, _) = self.extents();
        match self.kind {
            Kind::Conv { groups } => b.saturating_mul(groups),
            Kind::ConvTranspose { .. } | Kind::MatMul | Kind::LayerNorm | Kind::ChannelNorm => a,
            Kind::Gemm { trans_b, .. } => {
                if trans_b {
                    b
                } else {
                    a
                }
            }
        }
    }

    /// The first axis, the second, and the product of the others. The tensor exists, so the products fit.
    fn extents(&self) -> (usize, usize, usize) {
        let size = |d: &u64| usize::try_from(*d).unwrap_or(usize::MAX);
        let dims = self.weight.1.dims();
        let at = |i: usize| dims.get(i).map_or(1, size);
        (at(0), at(1), dims.iter().skip(2).map(size).fold(1, usize::saturating_mul))
    }

    /// Output and input channel of the weights at position (a, b) of the first two axes.
    fn channels(&self, a: usize, b: usize) -> (usize, usize) {
        let (rows, columns, _) = self.extents();
        match self.kind {
            Kind::Conv { groups } => (a, a / (rows / groups).max(1) * columns + b),
            Kind::ConvTranspose { groups } => (a / (rows / groups).max(1) * columns + b, a),
            Kind::Gemm { trans_b: true, .. } => (a, b),
            Kind::Gemm { .. } | Kind::MatMul => (b, a),
            Kind::LayerNorm | Kind::ChannelNorm => (a, a),
        }
    }

    /// Where the output's channels are.
    pub(super) fn output_axis(&self) -> Axis {
        match self.kind {
            Kind::Conv { .. } | Kind::ConvTranspose { .. } => Axis::of(1, Some(self.weight.1.rank())),
            Kind::Gemm { .. } => Axis::of(1, Some(2)),
            Kind::MatMul | Kind::LayerNorm => Axis::Last(0),
            Kind::ChannelNorm => Axis::First(1),
        }
    }

    /// Rank of input and output, where the weight says it.
    fn rank(&self) -> Option<usize> {
        match self.kind {
            Kind::Conv { .. } | Kind::ConvTranspose { .. } => Some(self.weight.1.rank()),
            Kind::Gemm { .. } => Some(2),
            Kind::MatMul | Kind::LayerNorm | Kind::ChannelNorm => None,
        }
    }

    /// Makes the node compute what `affine` makes of its output as well.
    pub(super) fn take_after(&self, cx: &RuleContext<'_>, affine: &Affine, patch: &mut Patch) -> Result<(), Skip> {
        let rank = self.rank().or_else(|| self.node.output(0).and_then(|v| cx.facts.fact(v).shape()).map(<[_]>::len));
        affine.fits(self.output_axis(), rank, self.outputs())?;
        if affine.shift != [0.0] && matches!(self.bias, Bias::Never) {
            return Err(Skip::NoMatch);
        }
        self.rewrite(cx, &Extra { input: &[1.0], output: &affine.scale, shift: &affine.shift }, patch)
    }

    /// Makes the node compute what `affine` makes of its input as well.
    pub(super) fn take_before(&self, cx: &RuleContext<'_>, affine: &Affine, patch: &mut Patch) -> Result<(), Skip> {
        let axis = match self.kind {
            Kind::Gemm { .. } if self.node.attrs.int("transA").unwrap_or(0) != 0 => Axis::of(0, Some(2)),
            Kind::LayerNorm => return Err(Skip::NoMatch),
            Kind::ChannelNorm if !self.node.op.is("BatchNormalization") => return Err(Skip::NoMatch),
            _ => self.output_axis(),
        };
        let rank = self.rank().or_else(|| cx.facts.fact(affine.x).shape().map(<[_]>::len));
        affine.fits(axis, rank, self.inputs())?;
        if affine.shift == [0.0] && !self.is_norm() {
            return self.rewrite(cx, &Extra { input: &affine.scale, output: &[1.0], shift: &[0.0] }, patch);
        }
        let shift = match self.kind {
            Kind::MatMul => return Err(Skip::NoMatch),
            Kind::ConvTranspose { .. } => {
                return Err(Skip::because("an offset before a transposed convolution counts less at the edges"));
            }
            Kind::Conv { .. } if pads(self.node) => {
                return Err(Skip::because("the convolution pads with zeros, which the offset does not reach"));
            }
            Kind::ChannelNorm => self.shift_of_normalized(cx, affine)?,
            Kind::Conv { .. } | Kind::Gemm { .. } | Kind::LayerNorm => self.shift_of_sums(affine)?,
        };
        // The offsets of a normalization include what the scale makes of its mean.
        self.rewrite(cx, &Extra { input: &affine.scale, output: &[1.0], shift: &shift }, patch)
    }

    /// What a constant per input channel adds to each output.
    fn shift_of_sums(&self, affine: &Affine) -> Result<Vec<f64>, Skip> {
        let alpha = match self.kind {
            Kind::Gemm { alpha, .. } => alpha,
            _ => 1.0,
        };
        let mut shift = vec![0.0; self.outputs()];
        self.for_each_block(&floats(self.weight.1)?, |block, out, input| {
            if let Some(sum) = shift.get_mut(out) {
                *sum += alpha * at(&affine.shift, input) * block.iter().sum::<f64>();
            }
        });
        Ok(shift)
    }

    /// γ/√(σ²+ε)·(s·x + t − μ) + β = s·γ/√(σ²+ε)·(x − μ) + β + γ/√(σ²+ε)·(t + (s − 1)·μ)
    fn shift_of_normalized(&self, cx: &RuleContext<'_>, affine: &Affine) -> Result<Vec<f64>, Skip> {
        let statistics = super::affine::statistics(cx, self.node)?;
        Ok(statistics
            .factor
            .iter()
            .zip(&statistics.mean)
            .enumerate()
            .map(|(c, (f, mean))| f * (at(&affine.shift, c) + (at(&affine.scale, c) - 1.0) * mean))
            .collect())
    }

    /// Calls `visit` with the weights of each pair of channels.
    fn for_each_block(&self, values: &[f64], mut visit: impl FnMut(&[f64], usize, usize)) {
        let (_, columns, inner) = self.extents();
        for (i, block) in values.chunks(inner.max(1)).enumerate() {
            let (out, input) = self.channels(i / columns.max(1), i % columns.max(1));
            visit(block, out, input);
        }
    }

    /// Replaces weight and bias. `alpha` and `beta` of a Gemm become 1 where their operand is rewritten.
    fn rewrite(&self, cx: &RuleContext<'_>, extra: &Extra<'_>, patch: &mut Patch) -> Result<(), Skip> {
        let (id, weight) = self.weight;
        let (alpha, beta) = match self.kind {
            Kind::Gemm { alpha, beta, .. } => (alpha, beta),
            _ => (1.0, 1.0),
        };
        let dtype = weight.dtype();
        let scales = extra.input != [1.0] || extra.output != [1.0];
        let mut attrs = self.node.attrs.clone();
        // The bias is computed first, since it refuses more often and is small.
        let rewrites_bias =
            extra.shift != [0.0] || (extra.output != [1.0] && !matches!(self.bias, Bias::Absent | Bias::Never));
        let bias = match rewrites_bias {
            true => {
                let (old, channels) = (self.bias_per_channel()?, self.outputs());
                let new = (0..channels).map(|c| beta * at(&old, c) * at(extra.output, c) + at(extra.shift, c));
                Some(rounded(dtype, &[channels as u64], &new.collect::<Vec<_>>())?)
            }
            false => None,
        };
        let name = cx.graph.name_of(id);
        if scales {
            if cx.graph.users(id).len() > 1 {
                return Err(Skip::because(format!("the weight {name:?} has other readers, which would need a copy")));
            }
            let mut values = floats(weight)?;
            let (_, columns, inner) = self.extents();
            for (i, block) in values.chunks_mut(inner.max(1)).enumerate() {
                let (out, input) = self.channels(i / columns.max(1), i % columns.max(1));
                let factor = alpha * at(extra.output, out) * at(extra.input, input);
                block.iter_mut().for_each(|w| *w *= factor);
            }
            let new = patch.constant(name.clone(), rounded(dtype, weight.dims(), &values)?);
            patch.set_input(self.id, 1, Some(new));
            attrs.remove("alpha");
        }
        if let Some(bias) = bias {
            let name = match self.bias {
                Bias::Constant(b, _) | Bias::Computed(b) => cx.graph.name_of(b),
                Bias::Never | Bias::Absent => format!("{name}_bias"),
            };
            let new = patch.constant(name, bias);
            patch.set_input(self.id, 2, Some(new));
            attrs.remove("beta");
        }
        if let Kind::Gemm { .. } = self.kind {
            patch.set_attrs(self.id, attrs);
        }
        Ok(())
    }

    /// The bias as one number for all or one per channel.
    fn bias_per_channel(&self) -> Result<Vec<f64>, Skip> {
        match self.bias {
            Bias::Never | Bias::Absent => Ok(vec![0.0]),
            Bias::Computed(_) => Err(Skip::because("the bias is no constant")),
            Bias::Constant(_, t) => {
                let channels = self.outputs() as u64;
                let per_channel = t.elements() == 1 || (t.elements() == channels && t.dims().last() == Some(&channels));
                match per_channel && t.rank() <= 2 {
                    true => floats(t),
                    false => Err(Skip::because("the bias is not one number per output channel")),
                }
            }
        }
    }
}

/// Element types whose products can be formed in 64 bits and rounded back.
const fn is_supported(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

/// The number of a channel in a list that has one for all or one for each.
pub(super) fn at(list: &[f64], channel: usize) -> f64 {
    match list {
        [one] => *one,
        _ => list.get(channel).copied().unwrap_or(f64::NAN),
    }
}

/// True unless the operator provably pads nothing.
pub(super) fn pads(node: &Node) -> bool {
    match node.attrs.str("auto_pad").unwrap_or("NOTSET") {
        "VALID" => false,
        "NOTSET" => node.attrs.ints("pads").is_some_and(|p| p.iter().any(|&n| n != 0)),
        _ => true,
    }
}

/// The elements, widened.
pub(super) fn floats(t: &Tensor) -> Result<Vec<f64>, Skip> {
    t.to_f64().map_err(|e| Skip::because(e.to_string()))
}

/// The numbers as a tensor, if all of them are in the range of its type and keep their precision.
pub(super) fn rounded(dtype: DType, dims: &[u64], values: &[f64]) -> Result<Tensor, Skip> {
    let t = Tensor::from_f64_as(dtype, dims, values).map_err(|e| Skip::because(e.to_string()))?;
    let stored = floats(&t)?;
    if !stored.iter().all(|x| x.is_finite()) {
        return Err(Skip::because(format!("a folded weight or offset is not finite in {dtype}")));
    }
    // Below the smallest normal number a type has fewer bits. Single numbers there do not matter beside larger ones.
    let precise = match dtype {
        DType::F16 => F16_PRECISE,
        DType::F64 => 8.0 * f64::MIN_POSITIVE,
        _ => 8.0 * f64::from(f32::MIN_POSITIVE),
    };
    let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest != 0.0 && largest < precise {
        return Err(Skip::because(format!("folded weights would be so small that {dtype} rounds them coarsely")));
    }
    Ok(t)
}

/// Eight times the smallest normal number.
const F16_PRECISE: f64 = 8.0 / 16384.0;
