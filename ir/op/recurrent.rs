//! GRU, LSTM, RNN, and com.microsoft::DynamicQuantizeLSTM.
//!
//! Opsets: 1, 3 (GRU's outputs are optional), 7, 14 `layout`, 22; DynamicQuantizeLSTM 1 (weights are transposed, and their scales and zero
//! points are inputs 8 to 11).
//!
//! Shape rule, with d directions: input `[seq,batch,in]`, recurrent weights `[d,gates*hidden,hidden]`; outputs
//! `[seq,d,batch,hidden]` and `[d,batch,hidden]` (LSTM: twice). `layout` = 1 puts the batch first.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    At,
    Port::{In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static GRU: OpSpec =
    OpSpec::new("GRU", &[sig(1, 3, 6).outputs(2, 2), sig(3, 3, 6).outputs(0, 2)], Traits::ROUNDING, |c| infer(c, 2))
        .macs(macs)
        .axes(|s| axes(s, 3));
pub(super) static LSTM: OpSpec = OpSpec::new("LSTM", &[sig(1, 3, 8).outputs(0, 3)], Traits::ROUNDING, |c| infer(c, 2))
    .macs(macs)
    .axes(|s| axes(s, 4));
pub(super) static RNN: OpSpec = OpSpec::new("RNN", &[sig(1, 3, 6).outputs(0, 2)], Traits::ROUNDING, |c| infer(c, 2))
    .macs(macs)
    .axes(|s| axes(s, 1));

pub(super) static DYNAMIC_LSTM: OpSpec =
    OpSpec::new("DynamicQuantizeLSTM", &[sig(1, 12, 12).outputs(0, 3)], Traits::ROUNDING, |c| infer(c, 1))
        .domain("com.microsoft")
        .macs(macs);

/// Hidden units are counted along an axis of the recurrent weights.
fn infer(call: &Call<'_>, units: usize) -> Outcome {
    call.expect_rank(0, 3)?;
    call.expect_rank(1, 3)?;
    call.expect_rank(2, 3)?;
    let batch_first = call.flag("layout", false);
    let (seq, batch) = match (call.shape(0), batch_first) {
        (Some([seq, batch, _]), false) | (Some([batch, seq, _]), true) => (seq.clone(), batch.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    let directions = Dim::Known(if call.attrs().str("direction") == Some("bidirectional") { 2 } else { 1 });
    let from_weights = call.shape(2).and_then(|r| r.get(units)).cloned().unwrap_or(Dim::Unknown);
    let hidden = call.attrs().int("hidden_size").and_then(|n| u64::try_from(n).ok()).map_or(from_weights, Dim::Known);
    let (all, last) = if batch_first {
        (vec![batch.clone(), seq, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![seq, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let last = call.like(0, Some(last));
    Ok(vec![call.like(0, Some(all)), last.clone(), last])
}

/// Every weight of both matrices is used once per step and batch element.
fn macs(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    let [a, b, _] = call.shape(0)? else { return None };
    let steps = a.known()?.checked_mul(b.known()?)?;
    let weights = call.fact(1).count()?.checked_add(call.fact(2).count()?)?;
    steps.checked_mul(weights)
}

/// `0[t,n,i+] 1[d!,g!*h,i+] 2[d!,g!*h,h+] 3[d!,e!*g!*h] 4[n] 5[d!,n,h] 6[d!,n,h] 7[d!,p!*h] -> 0[t,d!,n,h] 1[d!,n,h] 2[d!,n,h]`: g gates of
/// h hidden units in d directions, with a bias for inputs and one for states. Attributes that list an activation per gate stay.
fn axes(s: &mut Spelling<'_>, gates: u64) -> Result<(), Why> {
    const DIRECTION: Why = "directions are counted";
    let batch_first = s.call.flag("layout", false);
    let (time, batch) = if batch_first { (1, 0) } else { (0, 1) };
    let direction = s.tie(&[(In(1), 0), (In(2), 0), (In(3), 0), (In(7), 0)], Role::Whole(DIRECTION))?;
    s.tie(&[(In(0), 2), (In(1), 2)], Role::Summed)?;
    let hidden = s.letter(s.size(In(2), 2)?.clone(), Role::Summed);
    s.state(At::Attr("hidden_size"), &[hidden]);
    let gate = s.letter(Dim::Known(gates), Role::Whole("gates are counted"));
    s.spell(In(1), 1, &[gate, hidden]);
    s.spell(In(2), 1, &[gate, hidden]);
    s.spell(In(2), 2, &[hidden]);
    let biases = s.letter(Dim::Known(2), Role::Whole("biases are counted"));
    s.spell(In(3), 1, &[biases, gate, hidden]);
    let peepholes = s.letter(Dim::Known(3), Role::Whole("gates are counted"));
    s.spell(In(7), 1, &[peepholes, hidden]);

    let samples = s.tie(&[(In(0), batch), (In(4), 0)], Role::Free)?;
    let steps = s.tie(&[(In(0), time)], Role::Mixed)?;
    let state = if batch_first { [samples, direction, hidden] } else { [direction, samples, hidden] };
    for port in [In(5), In(6), Out(1), Out(2)] {
        state.iter().enumerate().for_each(|(axis, &l)| s.spell(port, axis, &[l]));
    }
    let all = if batch_first { [samples, steps, direction, hidden] } else { [steps, direction, samples, hidden] };
    all.iter().enumerate().for_each(|(axis, &l)| s.spell(Out(0), axis, &[l]));
    Ok(())
}
