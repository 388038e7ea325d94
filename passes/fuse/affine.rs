//! Elementwise operators with constants as `y = scale * x + shift`, per channel.

use planish_ir::{Dim, Node, Tensor, Type, ValueId, infer::shape::volume, op};

use super::linear::{at, floats, rounded};
use crate::{RuleContext, Skip};

/// `y = scale * x + shift`, where both are one number for all, or one for each channel of an axis.
#[derive(Debug, Clone)]
pub(super) struct Affine {
    pub(super) x: ValueId,
    pub(super) output: ValueId,
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
    pub(super) axis: Axis,
    /// Number of channels; 1 if there is one number for all.
    channels: usize,
    /// Rank of the constant operand: `y` has at least as many axes.
    rank: usize,
}

/// Two affine functions as one.
pub(super) struct Composite {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
    /// Dims of a constant of either of them.
    pub(super) dims: Vec<u64>,
}

/// An axis, counted from 0 at the front or at the back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// There is one number for all channels.
    Any,
    First(usize),
    Last(usize),
}

impl Axis {
    /// Counted from the back if the rank is known.
    pub(super) fn of(axis: usize, rank: Option<usize>) -> Axis {
        match rank.and_then(|r| r.checked_sub(axis + 1)) {
            Some(back) => Axis::Last(back),
            None => Axis::First(axis),
        }
    }

    /// Counted from the front, if that is known.
    pub(super) fn index(self, rank: Option<usize>) -> Option<usize> {
        match self {
            Axis::Any => None,
            Axis::First(i) => rank.is_none_or(|r| i < r).then_some(i),
            Axis::Last(i) => rank?.checked_sub(i + 1),
        }
    }

    /// Provably the same axis of a value of that rank.
    fn same(self, other: Axis, rank: Option<usize>) -> bool {
        self == other || (self.index(rank).is_some() && self.index(rank) == other.index(rank))
    }
}

impl Affine {
    /// The node as scale and offset: Mul, Div, Add, Sub with a constant, Neg, BatchNormalization.
    pub(super) fn of(cx: &RuleContext<'_>, node: &Node) -> Result<Affine, Skip> {
        if !node.op.domain.is_empty() || node.is_local() {
            return Err(Skip::NoMatch);
        }
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        match node.op.name.as_str() {
            "BatchNormalization" => batch_norm(cx, node, output),
            "Neg" => Ok(Affine {
                x: node.input(0).ok_or(Skip::NoMatch)?,
                output,
                scale: vec![-1.0],
                shift: vec![0.0],
                axis: Axis::Any,
                channels: 1,
                rank: 0,
            }),
            "Mul" | "Div" | "Add" | "Sub" => binary(cx, node, output),
            _ => Err(Skip::NoMatch),
        }
    }

    /// Refuses unless the channels are those of an operator with `channels` channels on `axis` of values of `rank`.
    pub(super) fn fits(&self, axis: Axis, rank: Option<usize>, channels: usize) -> Result<(), Skip> {
        // The result would have more axes than the operand.
        if self.rank > 1 && rank.is_none_or(|r| r < self.rank) {
            return Err(Skip::because("its constant has more axes than the operand provably has"));
        }
        let count = self.channels;
        if self.axis == Axis::Any {
            return Ok(());
        }
        if !self.axis.same(axis, rank) {
            return Err(Skip::because("its constant varies along another axis than that of the channels"));
        }
        if count != channels {
            return Err(Skip::because(format!("{count} constants do not fit {channels} channels")));
        }
        Ok(())
    }

    /// This and then `outer`, as factors, offsets and the dims that a constant for either has; `None` if they vary along
    /// different axes.
    pub(super) fn then(&self, outer: &Affine, cx: &RuleContext<'_>) -> Option<Composite> {
        let rank = shape(cx, self.x).map(<[_]>::len);
        // An axis that the inner constant adds is counted from the back.
        let rank = rank.filter(|&r| r >= self.rank);
        let axis = match (self.axis, outer.axis) {
            (Axis::Any, axis) | (axis, Axis::Any) => axis,
            (a, b) => a.same(b, rank).then_some(a)?,
        };
        let channels = self.channels.max(outer.channels);
        if self.channels.min(outer.channels) != 1 && self.channels != outer.channels {
            return None;
        }
        let long = self.rank.max(outer.rank);
        let mut dims = vec![1; long];
        if channels > 1 {
            let back = match axis {
                Axis::Last(back) => back,
                Axis::First(_) | Axis::Any => return None,
            };
            dims.resize(long.max(back + 1), 1);
            let index = dims.len().checked_sub(back + 1)?;
            *dims.get_mut(index)? = channels as u64;
        }
        let all = |f: &dyn Fn(usize) -> f64| (0..channels).map(f).collect::<Vec<f64>>();
        let scale = all(&|c| at(&self.scale, c) * at(&outer.scale, c));
        let shift = all(&|c| at(&self.shift, c) * at(&outer.scale, c) + at(&outer.shift, c));
        Some(Composite { scale, shift, dims })
    }

    /// True if the result provably has the shape of the operand: a constant may broadcast it to more.
    pub(super) fn keeps_shape(&self, cx: &RuleContext<'_>) -> bool {
        // A scalar adds nothing, and statistics are as many as there are channels.
        if self.rank == 0 || matches!(self.axis, Axis::First(_)) {
            return true;
        }
        shape(cx, self.x).is_some_and(|s| {
            let size = self.axis.index(Some(s.len())).and_then(|i| s.get(i)).and_then(Dim::known);
            s.len() >= self.rank && (self.channels == 1 || size == Some(self.channels as u64))
        })
    }

    /// True if it only scales, by factors above zero.
    pub(super) fn is_positive(&self) -> bool {
        self.shift == [0.0] && self.scale.iter().all(|&s| s > 0.0)
    }
}

/// The number as it is, or refused: with an infinite or undefined constant the order of operations matters.
fn finite(values: Vec<f64>) -> Result<Vec<f64>, Skip> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(values),
        false => Err(Skip::because("a factor or offset is not finite in some channel")),
    }
}

fn binary(cx: &RuleContext<'_>, node: &Node, output: ValueId) -> Result<Affine, Skip> {
    // Before opset 7 these two decide how the second operand is aligned.
    if node.attrs.get("broadcast").is_some() || node.attrs.get("axis").is_some() {
        return Err(Skip::NoMatch);
    }
    let (a, b) = (node.input(0).ok_or(Skip::NoMatch)?, node.input(1).ok_or(Skip::NoMatch)?);
    let (x, constant, constant_first) = match (cx.graph.constant(a), cx.graph.constant(b)) {
        (None, Some(t)) => (a, t, false),
        (Some(t), None) => (b, t, true),
        _ => return Err(Skip::NoMatch),
    };
    let (axis, rank) = channel_axis(constant)?;
    let values = finite(floats(constant).map_err(|_| Skip::NoMatch)?)?;
    let negated = || values.iter().map(|v| -v).collect::<Vec<_>>();
    let (scale, shift) = match (node.op.name.as_str(), constant_first) {
        ("Mul", _) => (values, vec![0.0]),
        ("Div", false) => (finite(values.iter().map(|v| 1.0 / v).collect())?, vec![0.0]),
        ("Add", _) => (vec![1.0], values),
        ("Sub", false) => (vec![1.0], negated()),
        ("Sub", true) => (vec![-1.0], values),
        _ => return Err(Skip::NoMatch),
    };
    let channels = scale.len().max(shift.len());
    let (scale, shift) = (short(scale, 1.0), short(shift, 0.0));
    Ok(Affine { x, output, scale, shift, axis, channels, rank })
}

/// One number for all if that is all there is in the list: what changes nothing should be seen as such.
fn short(list: Vec<f64>, neutral: f64) -> Vec<f64> {
    if list.iter().all(|&v| v == neutral) { vec![neutral] } else { list }
}

/// The one axis along which a constant varies, and its rank.
pub(super) fn channel_axis(t: &Tensor) -> Result<(Axis, usize), Skip> {
    let rank = t.rank();
    if t.elements() == 0 {
        return Err(Skip::NoMatch);
    }
    let mut long = t.dims().iter().enumerate().filter(|(_, d)| **d != 1);
    match (long.next(), long.next()) {
        (None, _) => Ok((Axis::Any, rank)),
        (Some((i, _)), None) => Ok((Axis::of(i, Some(rank)), rank)),
        _ => Err(Skip::NoMatch),
    }
}

/// What a BatchNormalization multiplies with, and what it subtracts and adds.
pub(super) struct Statistics {
    /// γ/√(σ²+ε)
    pub(super) factor: Vec<f64>,
    pub(super) mean: Vec<f64>,
    pub(super) offset: Vec<f64>,
}

/// Refuses a BatchNormalization that does more than its statistics say.
pub(super) fn inference_only(bn: &Node) -> Result<(), Skip> {
    // Before version 14 training is what extra outputs ask for; from then on an attribute does.
    if bn.attrs.int("training_mode").unwrap_or(0) != 0 || bn.outputs().iter().skip(1).any(Option::is_some) {
        return Err(Skip::because("it is in training mode"));
    }
    if bn.attrs.int("spatial").unwrap_or(1) == 0 {
        return Err(Skip::because("spatial = 0 normalizes every position on its own"));
    }
    Ok(())
}

/// The statistics of a BatchNormalization, if all are constants.
pub(super) fn statistics(cx: &RuleContext<'_>, bn: &Node) -> Result<Statistics, Skip> {
    inference_only(bn)?;
    let part = |slot: usize, what: &str| -> Result<Vec<f64>, Skip> {
        let id = bn.input(slot).ok_or(Skip::NoMatch)?;
        let t = cx.graph.constant(id);
        floats(t.ok_or_else(|| Skip::because(format!("the {what} {:?} is no constant", cx.graph.name_of(id))))?)
    };
    let (gamma, offset) = (part(1, "scale")?, part(2, "offset")?);
    let (mean, variance) = (part(3, "mean")?, part(4, "variance")?);
    if [offset.len(), mean.len(), variance.len()] != [gamma.len(); 3] {
        return Err(Skip::because("its statistics differ in length"));
    }
    let epsilon = f64::from(bn.attrs.float("epsilon").unwrap_or(1e-5));
    let factor: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    if !factor.iter().all(|f| f.is_finite()) {
        return Err(Skip::because("scale / √(variance + epsilon) is not finite in some channel"));
    }
    Ok(Statistics { factor, mean, offset })
}

fn batch_norm(cx: &RuleContext<'_>, bn: &Node, output: ValueId) -> Result<Affine, Skip> {
    let Statistics { factor, mean, offset } = statistics(cx, bn)?;
    let shift = factor.iter().zip(&mean).zip(&offset).map(|((f, m), o)| o - m * f).collect();
    let x = bn.input(0).ok_or(Skip::NoMatch)?;
    let channels = factor.len();
    let (scale, shift) = (short(factor, 1.0), short(finite(shift)?, 0.0));
    Ok(Affine { x, output, scale, shift, axis: Axis::First(1), channels, rank: 2 })
}

/// A step from the output of an operator to its input, over which a scale or an offset moves.
pub(super) struct Step {
    /// The same function of the operator's input.
    pub(super) moved: Affine,
    /// Operands that change with it: (slot, new tensor, old value).
    pub(super) operands: Vec<(usize, Tensor, ValueId)>,
}

/// Moves an affine function of a node's output to the node's input; `None` where that changes the result.
pub(super) fn move_up(cx: &RuleContext<'_>, node: &Node, affine: &Affine) -> Option<Step> {
    if !node.op.domain.is_empty() || op::of(node).is_none() || node.outputs().iter().skip(1).any(Option::is_some) {
        return None;
    }
    let x = node.input(0)?;
    let plain = |axis| Some(Step { moved: Affine { x, axis, ..affine.clone() }, operands: Vec::new() });
    let only_scales = affine.shift == [0.0];
    match node.op.name.as_str() {
        "Relu" | "LeakyRelu" if affine.is_positive() => plain(affine.axis),
        "MaxPool" | "GlobalMaxPool" if affine.scale.iter().all(|&s| s > 0.0) => plain(affine.axis),
        "GlobalAveragePool" => plain(affine.axis),
        // Counted zeros of the border get no offset.
        "AveragePool" if only_scales || node.attrs.int("count_include_pad").unwrap_or(0) == 0 => plain(affine.axis),
        "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" if affine.rank == 0 => plain(affine.axis),
        "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            let (from, to) = (shape(cx, x)?, shape(cx, node.output(0)?)?);
            // A constant with more axes than the operand makes the result larger.
            if affine.rank > to.len() {
                return None;
            }
            let axis = match (affine.axis, node.op.is("Transpose")) {
                (Axis::Any, _) => Axis::Any,
                (axis, true) => {
                    let index = axis.index(Some(to.len()))?;
                    let source = match node.attrs.ints("perm") {
                        Some(p) => usize::try_from(*p.get(index)?).ok()?,
                        None => from.len().checked_sub(index + 1)?,
                    };
                    Axis::of(source, Some(from.len()))
                }
                (axis, false) => Axis::of(kept_axis(from, to, axis.index(Some(to.len()))?)?, Some(from.len())),
            };
            // What stays to be checked of the constant's rank was checked here.
            Some(Step { moved: Affine { x, axis, rank: 0, ..affine.clone() }, operands: Vec::new() })
        }
        "Add" | "Sub" if only_scales => {
            let inner = binary(cx, node, node.output(0)?).ok().filter(|i| i.keeps_shape(cx))?;
            let slot = node.inputs().iter().position(|v| *v != Some(inner.x))?;
            let id = node.input(slot)?;
            let constant = cx.graph.constant(id)?;
            // Both are per channel of the same axis, or one of them for all.
            let rank = shape(cx, inner.x).map(<[_]>::len);
            let aligned = affine.axis == Axis::Any || inner.axis == Axis::Any || affine.axis.same(inner.axis, rank);
            if !aligned || affine.rank.max(inner.rank) > 1 && rank.is_none_or(|r| r < affine.rank.max(inner.rank)) {
                return None;
            }
            let values = floats(constant).ok()?;
            // A scalar constant gets as many elements as there are factors, in the place of their axis.
            let (dims, count) = match (inner.axis, affine.axis) {
                (Axis::Any, Axis::Last(back)) if affine.scale.len() > 1 => {
                    let mut dims = vec![affine.scale.len() as u64];
                    dims.resize(back + 1, 1);
                    (dims, affine.scale.len())
                }
                (Axis::Any, Axis::First(_)) if affine.scale.len() > 1 => return None,
                _ => (constant.dims().to_vec(), values.len()),
            };
            let scaled: Vec<f64> = (0..count).map(|c| at(&values, c) * at(&affine.scale, c)).collect();
            let tensor = rounded(constant.dtype(), &dims, &scaled).ok()?;
            let moved = Affine { x: inner.x, ..affine.clone() };
            Some(Step { moved, operands: vec![(slot, tensor, id)] })
        }
        _ => None,
    }
}

fn shape<'a>(cx: &RuleContext<'a>, v: ValueId) -> Option<&'a [Dim]> {
    cx.facts.ty(v).and_then(Type::shape)
}

/// The axis of `from` that a reshape leaves as axis `index` of `to`: it has the same size and as many elements behind it.
fn kept_axis(from: &[Dim], to: &[Dim], index: usize) -> Option<usize> {
    let behind = volume(to.get(index + 1..)?);
    (0..from.len()).find(|&i| {
        from.get(i).zip(to.get(index)).is_some_and(|(a, b)| a.same(b))
            && from.get(i + 1..).is_some_and(|rest| volume(rest).same(&behind))
    })
}
