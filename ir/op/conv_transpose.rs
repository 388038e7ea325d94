//! ConvTranspose: the transposed convolution.
//!
//! Opsets: 1, 11, 22.
//!
//! Shape rule: `[N,C,spatial…]` and weights `[C,M/group,kernel…]` give `[N,M,…]`; each spatial axis is
//! `stride * (size - 1) + output_padding + kernel extent - pads`, or what `output_shape` lists.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome, Window, shape::show},
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("ConvTranspose", &[sig(1, 2, 3)], Traits::ROUNDING, infer).macs(macs).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let (Some(x), w) = (call.shape(0), call.shape(1)) else { return Ok(vec![call.like(0, None)]) };
    let [batch, _, spatial @ ..] = x else { return Err(format!("its input {} has no channels", show(x))) };
    let (channels, kernel) = match w {
        Some(w) if w.len() != x.len() => {
            return Err(format!("its input {} and weights {} differ in rank", show(x), show(w)));
        }
        Some([_, per_group, kernel @ ..]) => {
            let groups = u64::try_from(call.int("group", 1)).map_or(Dim::Unknown, Dim::Known);
            (per_group.mul(&groups), kernel.to_vec())
        }
        _ => (Dim::Unknown, vec![Dim::Unknown; spatial.len()]),
    };
    let sizes = match call.attrs().ints("output_shape") {
        // Some exporters list all axes.
        Some(list) if list.len() >= spatial.len() => list
            .iter()
            .skip(list.len() - spatial.len())
            .map(|&n| u64::try_from(n).map_or(Dim::Unknown, Dim::Known))
            .collect(),
        _ => {
            let extra = call.attrs().ints("output_padding").unwrap_or(&[]);
            Window::read(call, kernel)?.unslide(spatial, extra)
        }
    };
    let shape = [batch.clone(), channels].into_iter().chain(sizes).collect();
    Ok(vec![call.like(0, Some(shape))])
}

/// One per input element and weight that it meets.
fn macs(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    let taps = call.shape(1)?.get(1..)?.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?))?;
    call.fact(0).count()?.checked_mul(taps)
}

/// `x[n,g*c+,…]` and `w[g*c+,o,…]` give `y[n,g*o,…]`, with g groups.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let count = s.count("group", Some(1))?;
    let group = s.letter(Dim::Known(count), Role::Free);
    let input = s.per_block(In(1), 0, count, Role::Summed)?;
    let output = s.letter(s.size(In(1), 1)?.clone(), Role::Free);
    s.state(At::Attr("group"), &[group]);
    s.spell(In(0), 1, &[group, input]);
    s.spell(In(1), 0, &[group, input]);
    s.spell(In(1), 1, &[output]);
    s.vector(In(2), &[group, output])?;
    s.spell(Out(0), 1, &[group, output]);
    s.tie(&[(In(0), 0), (Out(0), 0)], Role::Free).map(|_| ())
}
