//! Attention, RotaryEmbedding and com.microsoft::Attention.
//!
//! Opsets: Attention 23, 24 (a seventh input), 25; RotaryEmbedding 23; com.microsoft::Attention 1.
//!
//! Shape rule of Attention: queries `[batch,heads,seq,size]` or `[batch,seq,heads*size]` give outputs of the same form with
//! the values' size. The present keys and values are past and new ones behind each other; the fourth output holds
//! scores, `[batch,heads,seq,total]`. com.microsoft::Attention projects `[batch,seq,in]` with weights `[in,3*hidden]` to
//! `[batch,seq,hidden]`.

use super::{OpSpec, Traits, sig, unary::same};
use crate::{
    Dim, Shape,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static ATTENTION: OpSpec =
    OpSpec::new("Attention", &[sig(23, 3, 6).outputs(1, 4), sig(24, 3, 7).outputs(1, 4)], Traits::ROUNDING, infer)
        .macs(macs);
pub(super) static ROTARY_EMBEDDING: OpSpec = OpSpec::new("RotaryEmbedding", &[sig(23, 3, 4)], Traits::ROUNDING, same);
pub(super) static MS_ATTENTION: OpSpec =
    OpSpec::new("Attention", &[sig(1, 2, 7).outputs(1, 2)], Traits::ROUNDING, infer_ms)
        .domain("com.microsoft")
        .macs(|_, _| None);

/// An operand as `[batch, heads, seq, size]`.
fn by_head(call: &Call<'_>, slot: usize, heads: &str) -> Option<[Dim; 4]> {
    match call.shape(slot)? {
        [batch, heads, seq, size] => Some([batch.clone(), heads.clone(), seq.clone(), size.clone()]),
        [batch, seq, width] => {
            let heads = u64::try_from(call.attrs().int(heads)?).ok().filter(|&h| h > 0)?;
            Some([batch.clone(), Dim::Known(heads), seq.clone(), width.floor_div(heads)])
        }
        _ => None,
    }
}

/// Sequence with the past in front of it.
fn total(call: &Call<'_>, past: usize, new: &Dim) -> Dim {
    match (call.has(past), call.shape(past)) {
        (false, _) => new.clone(),
        (true, Some([_, _, old, _])) => old.add(new),
        (true, _) => Dim::Unknown,
    }
}

fn infer(call: &Call<'_>) -> Outcome {
    let (q, k, v) =
        (by_head(call, 0, "q_num_heads"), by_head(call, 1, "kv_num_heads"), by_head(call, 2, "kv_num_heads"));
    let y: Option<Shape> = match (&q, &v, call.shape(0).map(<[_]>::len)) {
        (Some([batch, heads, seq, _]), Some([_, _, _, size]), Some(4)) => {
            Some(vec![batch.clone(), heads.clone(), seq.clone(), size.clone()])
        }
        (Some([batch, heads, seq, _]), Some([_, _, _, size]), Some(3)) => {
            Some(vec![batch.clone(), seq.clone(), heads.mul(size)])
        }
        (_, _, rank) => rank.map(|r| vec![Dim::Unknown; r]),
    };
    let present = |own: &Option<[Dim; 4]>, past: usize| {
        own.as_ref()
            .map(|[batch, heads, seq, size]| vec![batch.clone(), heads.clone(), total(call, past, seq), size.clone()])
    };
    let scores = match (&q, &k) {
        (Some([batch, heads, seq, _]), Some([_, _, keys, _])) => {
            Some(vec![batch.clone(), heads.clone(), seq.clone(), total(call, 4, keys)])
        }
        _ => None,
    };
    Ok(vec![call.like(0, y), call.like(1, present(&k, 4)), call.like(2, present(&v, 5)), call.like(0, scores)])
}

/// Queries times keys, and scores times values.
fn macs(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    let [batch, heads, seq, size] = by_head(call, 0, "q_num_heads")?;
    let [_, _, keys, _] = by_head(call, 1, "kv_num_heads")?;
    let [_, _, _, value_size] = by_head(call, 2, "kv_num_heads")?;
    let pairs = batch.mul(&heads).mul(&seq).mul(&total(call, 4, &keys));
    pairs.mul(&size.add(&value_size)).known()
}

fn infer_ms(call: &Call<'_>) -> Outcome {
    let hidden = match (call.attrs().ints("qkv_hidden_sizes"), call.shape(1)) {
        (Some([_, _, v]), _) => Num::Int(*v).dim(),
        (None, Some([_, columns])) => columns.floor_div(3),
        _ => Dim::Unknown,
    };
    let y = match call.shape(0) {
        Some([batch, seq, _]) => Some(vec![batch.clone(), seq.clone(), hidden]),
        _ => None,
    };
    Ok(vec![call.like(0, y)])
}
