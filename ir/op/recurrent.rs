//! GRU, LSTM, RNN.
//!
//! Opsets: 1, 3 (GRU's outputs are optional), 7, 14 `layout`, 22.
//!
//! Shape rule, with d directions: input `[seq,batch,in]`, recurrent weights `[d,gates*hidden,hidden]`; outputs
//! `[seq,d,batch,hidden]` and `[d,batch,hidden]` (LSTM: twice). `layout` = 1 puts the batch first.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Fact, Outcome},
};

pub(super) static GRU: OpSpec =
    OpSpec::new("GRU", &[sig(1, 3, 6).outputs(2, 2), sig(3, 3, 6).outputs(0, 2)], Traits::ROUNDING, infer).macs(macs);
pub(super) static LSTM: OpSpec = OpSpec::new("LSTM", &[sig(1, 3, 8).outputs(0, 3)], Traits::ROUNDING, infer).macs(macs);
pub(super) static RNN: OpSpec = OpSpec::new("RNN", &[sig(1, 3, 6).outputs(0, 2)], Traits::ROUNDING, infer).macs(macs);

fn infer(call: &Call<'_>) -> Outcome {
    call.expect_rank(0, 3)?;
    call.expect_rank(1, 3)?;
    call.expect_rank(2, 3)?;
    let batch_first = call.flag("layout", false);
    let (seq, batch) = match (call.shape(0), batch_first) {
        (Some([seq, batch, _]), false) | (Some([batch, seq, _]), true) => (seq.clone(), batch.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    let directions = Dim::Known(if call.attrs().str("direction") == Some("bidirectional") { 2 } else { 1 });
    let from_weights = call.shape(2).and_then(|r| r.get(2)).cloned().unwrap_or(Dim::Unknown);
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
