//! Operators of com.microsoft on quantized operands: QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax,
//! QLinearWhere, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool. An operand is a tensor with a scale and a zero point
//! behind it, both scalars.
//!
//! Opsets: 1.
//!
//! Shape rule: as the float operator; the result has the type of its zero point, or of the first operand. `channels_last` puts the
//! channels of pools behind the spatial axes.

use super::{OpSpec, Signature, Traits, VARIADIC, sig};
use crate::axes::{
    Port::{self, In, Out},
    Role, Spelling, Why, aligned, same_axes,
};
use crate::{
    Dim, Shape,
    infer::{
        Call, Fact, Outcome,
        shape::{broadcast, show, unify},
    },
};

pub(super) static ADD: OpSpec = binary("QLinearAdd");
pub(super) static MUL: OpSpec = binary("QLinearMul");
pub(super) static SIGMOID: OpSpec = unary("QLinearSigmoid");
pub(super) static LEAKY_RELU: OpSpec = unary("QLinearLeakyRelu");
pub(super) static SOFTMAX: OpSpec =
    OpSpec::new("QLinearSoftmax", &[sig(1, 5, 5)], Traits::ROUNDING, |c| of_type(c, 4, shape(c, 0)))
        .domain("com.microsoft")
        .axes(axes_softmax);
pub(super) static WHERE: OpSpec = OpSpec::new("QLinearWhere", &[sig(1, 9, 9)], Traits::ROUNDING, |c| {
    let joined = joint(c, &[0, 1, 4])?;
    of_type(c, 8, joined)
})
.domain("com.microsoft")
.axes(|s| axes_aligned(s, &[In(0), In(1), In(4)]));
pub(super) static CONCAT: OpSpec = OpSpec::new("QLinearConcat", &[sig(1, 5, VARIADIC)], Traits::ROUNDING, infer_concat)
    .domain("com.microsoft")
    .axes(axes_concat);
pub(super) static AVERAGE_POOL: OpSpec = OpSpec::new("QLinearAveragePool", &[sig(1, 4, 5)], Traits::ROUNDING, |c| {
    of_type(c, 4, super::pool::output(c, c.flag("channels_last", false))?)
})
.domain("com.microsoft")
.axes(|s| axes_pool(s, None));
pub(super) static GLOBAL_AVERAGE_POOL: OpSpec =
    OpSpec::new("QLinearGlobalAveragePool", &[sig(1, 5, 5)], Traits::ROUNDING, infer_global)
        .domain("com.microsoft")
        .axes(|s| axes_pool(s, Some(Role::Mixed)));

const BINARY: &[Signature] = &[sig(1, 7, 8)];
const UNARY: &[Signature] = &[sig(1, 4, 5)];

const fn binary(name: &'static str) -> OpSpec {
    OpSpec::new(name, BINARY, Traits::ROUNDING, |c| {
        let joined = joint(c, &[0, 3])?;
        of_type(c, 7, joined)
    })
    .domain("com.microsoft")
    .axes(|s| axes_aligned(s, &[In(0), In(3)]))
}

const fn unary(name: &'static str) -> OpSpec {
    OpSpec::new(name, UNARY, Traits::ROUNDING, |c| of_type(c, 4, shape(c, 0)))
        .domain("com.microsoft")
        .axes(|s| axes_aligned(s, &[In(0)]))
}

fn shape(call: &Call<'_>, slot: usize) -> Option<Shape> {
    call.shape(slot).map(<[_]>::to_vec)
}

/// One output with the type of a zero point, or else of the first operand, which is the same.
fn of_type(call: &Call<'_>, zero: usize, shape: Option<Shape>) -> Outcome {
    Ok(vec![Fact::tensor(call.dtype(zero).or_else(|| call.dtype(0)), shape)])
}

/// What operands broadcast to.
fn joint(call: &Call<'_>, slots: &[usize]) -> Result<Option<Shape>, String> {
    let mut all = Shape::new();
    for &slot in slots {
        let Some(own) = call.shape(slot) else { return Ok(None) };
        all = broadcast(&all, own)?;
    }
    Ok(Some(all))
}

/// Scale and zero point of the result come first, then each operand.
fn infer_concat(call: &Call<'_>) -> Outcome {
    let shapes: Vec<Option<&[Dim]>> = operands(call).map(|slot| call.shape(slot)).collect();
    let Some(first) = shapes.iter().find_map(|s| *s) else { return of_type(call, 1, None) };
    let at = call.axis("axis", 1, first.len())?;
    let mut joined = first.to_vec();
    let mut along = Dim::Known(0);
    for (i, own) in shapes.iter().enumerate() {
        let Some(own) = own else {
            along = Dim::Unknown;
            continue;
        };
        if own.len() != first.len() {
            return Err(format!("the operands {} and {} differ in rank", show(first), show(own)));
        }
        for (axis, (have, new)) in joined.iter_mut().zip(*own).enumerate() {
            match axis == at {
                true => along = along.add(new),
                false => *have = unify(have, new).map_err(|e| format!("axis {axis} of operand {i}: {e}"))?,
            }
        }
    }
    if let Some(slot) = joined.get_mut(at) {
        *slot = along;
    }
    of_type(call, 1, Some(joined))
}

/// Slots of the tensors of a concatenation.
fn operands(call: &Call<'_>) -> impl Iterator<Item = usize> + use<> {
    (2..call.node.inputs().len()).step_by(3)
}

fn infer_global(call: &Call<'_>) -> Outcome {
    let last = call.flag("channels_last", false);
    let pooled = shape(call, 0).map(|x| {
        let channels = if last { x.len().saturating_sub(1) } else { 1 };
        let kept = |(i, d)| if i == 0 || i == channels { d } else { Dim::Known(1) };
        x.into_iter().enumerate().map(kept).collect()
    });
    of_type(call, 4, pooled)
}

/// `0[a,b] 3[b] -> 0[a,b]`; scales and zero points have no axes of their own.
fn axes_aligned(s: &mut Spelling<'_>, inputs: &[Port]) -> Result<(), Why> {
    let rank = s.shape(Out(0))?.len();
    aligned(s, inputs, &[Out(0)], 0..rank, Role::Free)
}

/// `0[a,b~] -> 0[a,b~]`; by the definition before opset 13 all axes from `axis` on are mixed.
fn axes_softmax(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let whole = s.call.int("opset", 13) < 13;
    let at = s.call.axis("axis", -1, rank).map_err(|_| "its axis does not exist")?;
    let mixed = |a: usize| a == at || (whole && a > at);
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| !mixed(a)), Role::Free)?;
    same_axes(s, &[In(0), Out(0)], (0..rank).filter(|&a| mixed(a)), Role::Mixed)
}

/// `2[a] 5[b] -> 0[a|b]` along the axis; all others are tied.
fn axes_concat(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(Out(0))?.len();
    let at = s.call.axis("axis", 1, rank).map_err(|_| "its axis does not exist")?;
    let inputs: Vec<Port> = operands(s.call).map(In).collect();
    let all = [inputs.as_slice(), &[Out(0)]].concat();
    same_axes(s, &all, (0..rank).filter(|&a| a != at), Role::Free)?;
    let parts = inputs.into_iter().map(|p| Ok(vec![s.tie(&[(p, at)], Role::Free)?])).collect::<Result<_, Why>>()?;
    s.parts(Out(0), at, parts);
    Ok(())
}

/// `0[n,c,h!] -> 0[n,c,i!]`, or of a global pool `0[n,c,h~] -> 0[n,c,1]`.
fn axes_pool(s: &mut Spelling<'_>, global: Option<Role>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let channels = if s.call.flag("channels_last", false) { rank.saturating_sub(1) } else { 1 };
    same_axes(s, &[In(0), Out(0)], [0, channels], Role::Free)?;
    let Some(role) = global else { return Ok(()) };
    for axis in (1..rank).filter(|&a| a != channels) {
        s.tie(&[(In(0), axis)], role)?;
        s.spell(Out(0), axis, &[]);
    }
    Ok(())
}
