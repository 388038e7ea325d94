//! Conv, ConvInteger, DeformConv, QLinearConv, and of com.microsoft FusedConv and QLinearConv: convolutions over any number of spatial
//! axes.
//!
//! Opsets: Conv 1, 11, 22; ConvInteger 10; DeformConv 19, 22; QLinearConv 10; FusedConv 1 (a Conv with an activation behind it, and an
//! optional summand as fourth input); QLinearConv of com.microsoft 1 (with `channels_last`).
//!
//! Shape rule: `[N,C,spatial…]` and weights `[M,C/group,kernel…]` give `[N,M,…]`, each spatial axis as [`Window`] says.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At,
    Port::{self, In, Out},
    Role, Spelling, WINDOW, Why, same_axes,
};
use crate::{
    DType, Dim, Shape,
    infer::{Call, Fact, Window, shape::show},
};

pub(super) static CONV: OpSpec =
    OpSpec::new("Conv", &[sig(1, 2, 3)], Traits::ROUNDING, |c| Ok(vec![Fact::tensor(c.dtype(0), output(c, 1)?)]))
        .macs(|c, o| macs(c, 1, o))
        .axes(|s| axes(s, 1, &[2], &[Out(0)]));

pub(super) static CONV_INTEGER: OpSpec = OpSpec::new("ConvInteger", &[sig(10, 2, 4)], Traits::PURE, |c| {
    Ok(vec![Fact::tensor(Some(DType::I32), output(c, 1)?)])
})
.macs(|c, o| macs(c, 1, o))
.axes(|s| axes(s, 1, &[3], &[Out(0)]));

pub(super) static DEFORM_CONV: OpSpec = OpSpec::new("DeformConv", &[sig(19, 3, 5)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(0), output(c, 1)?)])
})
.macs(|c, o| macs(c, 1, o))
.axes(axes_deformed);

pub(super) static QLINEAR_CONV: OpSpec = OpSpec::new("QLinearConv", &[sig(10, 8, 9)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(7), output(c, 3)?)])
})
.macs(|c, o| macs(c, 3, o))
.axes(|s| axes(s, 3, &[4, 5, 8], &[Out(0)]));

pub(super) static FUSED_CONV: OpSpec =
    OpSpec::new("FusedConv", &[sig(1, 2, 4)], Traits::ROUNDING, |c| Ok(vec![Fact::tensor(c.dtype(0), output(c, 1)?)]))
        .domain("com.microsoft")
        .macs(|c, o| macs(c, 1, o))
        .axes(|s| axes(s, 1, &[2], &[In(3), Out(0)]));

pub(super) static MS_QLINEAR_CONV: OpSpec = OpSpec::new("QLinearConv", &[sig(1, 8, 9)], Traits::ROUNDING, |c| {
    Ok(vec![Fact::tensor(c.dtype(7), output_of(c, 3, c.flag("channels_last", false))?)])
})
.domain("com.microsoft")
.macs(|c, o| macs(c, 3, o))
.axes(|s| match s.call.flag("channels_last", false) {
    true => Err("its channels lie behind the spatial axes"),
    false => axes(s, 3, &[4, 5, 8], &[Out(0)]),
});

fn output(call: &Call<'_>, weights: usize) -> Result<Option<Shape>, String> {
    output_of(call, weights, false)
}

/// The channels may lie behind the spatial axes of input and output; the weights are the same.
fn output_of(call: &Call<'_>, weights: usize, channels_last: bool) -> Result<Option<Shape>, String> {
    let (x, w) = (call.shape(0), call.shape(weights));
    let (Some(x), w) = (x, w) else { return Ok(w.map(|w| open(w.len(), w.first().filter(|_| !channels_last)))) };
    let (batch, channels, spatial) = match x {
        [batch, spatial @ .., channels] if channels_last => (batch, channels, spatial),
        [batch, channels, spatial @ ..] if !channels_last => (batch, channels, spatial),
        _ => return Err(format!("its input {} has no channels", show(x))),
    };
    let kernel = match (call.attrs().ints("kernel_shape"), w) {
        (_, Some(w)) if w.len() != x.len() => {
            return Err(format!("its input {} and weights {} differ in rank", show(x), show(w)));
        }
        (_, Some([_, _, kernel @ ..])) => kernel.to_vec(),
        (Some(k), _) if k.len() == spatial.len() => {
            k.iter().map(|&k| u64::try_from(k).map_or(Dim::Unknown, Dim::Known)).collect()
        }
        _ => vec![Dim::Unknown; spatial.len()],
    };
    if let (Some(c), Some(per_group)) = (channels.known(), w.and_then(|w| w.get(1)?.known()))
        && let Some(groups) = u64::try_from(call.int("group", 1)).ok()
        && per_group.checked_mul(groups) != Some(c)
    {
        return Err(format!("its input has {c} channels, its weights take {per_group} in each of {groups} groups"));
    }
    let made = w.and_then(|w| w.first()).cloned().unwrap_or(Dim::Unknown);
    let mut shape = vec![batch.clone()];
    let slid = Window::read(call, kernel)?.slide(spatial);
    match channels_last {
        true => shape.extend(slid.into_iter().chain([made])),
        false => shape.extend([made].into_iter().chain(slid)),
    }
    Ok(Some(shape))
}

/// Only the rank and the number of output channels are known.
fn open(rank: usize, channels: Option<&Dim>) -> Shape {
    let mut shape = vec![Dim::Unknown; rank];
    if let (Some(slot), Some(c)) = (shape.get_mut(1), channels) {
        *slot = c.clone();
    }
    shape
}

/// One per output element and weight of its channel.
fn macs(call: &Call<'_>, weights: usize, outputs: &[Fact]) -> Option<u64> {
    let taps = call.shape(weights)?.get(1..)?.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?))?;
    outputs.first()?.count()?.checked_mul(taps)
}

/// `x[n,g*c+,…]` and `w[g*o,c+,…]` give `y[n,g*o,…]`, with g groups. `vectors` have one element per output channel, `images` are
/// outputs or summands.
fn axes(s: &mut Spelling<'_>, weights: usize, vectors: &[usize], images: &[Port]) -> Result<(), Why> {
    let (rank, count) = (s.shape(In(0))?.len(), s.count("group", Some(1))?);
    let group = s.letter(Dim::Known(count), Role::Free);
    let input = s.letter(s.size(In(weights), 1)?.clone(), Role::Summed);
    let output = s.per_block(In(weights), 0, count, Role::Free)?;
    s.state(At::Attr("group"), &[group]);
    s.spell(In(0), 1, &[group, input]);
    s.spell(In(weights), 0, &[group, output]);
    s.spell(In(weights), 1, &[input]);
    images.iter().for_each(|&p| s.spell(p, 1, &[group, output]));
    vectors.iter().try_for_each(|&v| s.vector(In(v), &[group, output]))?;
    let all = [&[In(0)], images].concat();
    same_axes(s, &all, [0], Role::Free)?;
    if is_pointwise(s, weights) {
        return same_axes(s, &all, 2..rank, Role::Free);
    }
    for axis in 2..rank {
        s.whole(In(0), axis, WINDOW)?;
        s.whole(In(weights), axis, WINDOW)?;
        same_axes(s, images, [axis], Role::Whole(WINDOW))?;
    }
    Ok(())
}

/// True if each place of the output depends on the same place of the input only.
fn is_pointwise(s: &Spelling<'_>, weights: usize) -> bool {
    let kernel = s.shape(In(weights)).ok().and_then(|w| w.get(2..)).unwrap_or(&[]);
    let is = |name: &str, n: i64| s.call.attrs().ints(name).is_none_or(|v| v.iter().all(|&x| x == n));
    kernel.iter().all(|d| *d == Dim::Known(1)) && is("strides", 1) && is("pads", 0)
}

/// As [`axes`]; the offsets move each place of the window.
fn axes_deformed(s: &mut Spelling<'_>) -> Result<(), Why> {
    if s.call.int("offset_group", 1) != 1 {
        return Err("channels share offsets in groups");
    }
    axes(s, 1, &[3], &[Out(0)])?;
    for axis in 2..s.shape(In(0))?.len() {
        s.whole(In(0), axis, WINDOW)?;
        s.whole(Out(0), axis, WINDOW)?;
    }
    same_axes(s, &[In(0), In(2), In(4), Out(0)], [0], Role::Free)
}
