//! Attention, RotaryEmbedding, and of com.microsoft Attention, MultiHeadAttention and QAttention.
//!
//! Opsets: Attention 23, 24 (a seventh input), 25; RotaryEmbedding 23; those of
//! com.microsoft 1. QAttention is Attention on a quantized input with quantized weights.
//!
//! Shape rule of Attention: queries `[batch,heads,seq,size]` or `[batch,seq,heads*size]` give outputs of the same form with
//! the values' size. The present keys and values are past and new ones behind each other; the fourth output holds
//! scores, `[batch,heads,seq,total]`. com.microsoft::Attention projects `[batch,seq,in]` with weights `[in,3*hidden]` to
//! `[batch,seq,hidden]`; MultiHeadAttention takes what is projected already, queries `[batch,seq,hidden]`.

use super::{OpSpec, Traits, sig, unary::same};
use crate::axes::{
    At, Letter, Part,
    Port::{self, In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim, Shape,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static ATTENTION: OpSpec =
    OpSpec::new("Attention", &[sig(23, 3, 6).outputs(1, 4), sig(24, 3, 7).outputs(1, 4)], Traits::ROUNDING, infer)
        .macs(macs)
        .axes(axes);
pub(super) static ROTARY_EMBEDDING: OpSpec =
    OpSpec::new("RotaryEmbedding", &[sig(23, 3, 4)], Traits::ROUNDING, same).axes(axes_rotary);
pub(super) static MS_ROTARY_EMBEDDING: OpSpec =
    OpSpec::new("RotaryEmbedding", &[sig(1, 4, 4)], Traits::ROUNDING, same).domain("com.microsoft");
pub(super) static MS_ATTENTION: OpSpec =
    OpSpec::new("Attention", &[sig(1, 2, 7).outputs(1, 2)], Traits::ROUNDING, infer_ms)
        .domain("com.microsoft")
        .macs(|_, _| None)
        .axes(axes_ms);

pub(super) static MS_MULTI_HEAD: OpSpec =
    OpSpec::new("MultiHeadAttention", &[sig(1, 1, 10).outputs(1, 4)], Traits::ROUNDING, infer_multi_head)
        .domain("com.microsoft")
        .macs(macs_multi_head);

pub(super) static Q_ATTENTION: OpSpec =
    OpSpec::new("QAttention", &[sig(1, 5, 9).outputs(1, 2)], Traits::ROUNDING, infer_quantized)
        .domain("com.microsoft")
        .macs(|_, _| None)
        .axes(axes_quantized);

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

/// An operand of attention: `[n,h,s,d]`, or `[n,s,h*d]`.
fn spell_heads(
    s: &mut Spelling<'_>,
    port: Port,
    batch: Letter,
    heads: &[Letter],
    rows: Letter,
    size: Letter,
) -> Result<(), Why> {
    if !s.has(port) {
        return Ok(());
    }
    s.spell(port, 0, &[batch]);
    match s.shape(port)?.len() {
        4 => {
            s.spell(port, 1, heads);
            s.spell(port, 2, &[rows]);
            s.spell(port, 3, &[size]);
        }
        3 => {
            s.spell(port, 1, &[rows]);
            s.spell(port, 2, &[heads, &[size]].concat());
        }
        _ => return Err("its operands have other ranks than it takes"),
    }
    Ok(())
}

/// In four axes: `0[n,g*r,s,d+] 1[n,g,t~,d+] 2[n,g,t~,e] 3[…s,p~|t~] 4[n,g,p~,d+] 5[n,g,p~,e] -> 0[n,g*r,s,e] 1[n,g,p~|t~,d+]
/// 2[n,g,p~|t~,e] 3[n,g*r,s,p~|t~]`: g groups of r queries share keys and values.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    const SIZES: Why = "the sizes of its heads are not known";
    let [batch, heads, rows, size] = by_head(s.call, 0, "q_num_heads").ok_or(SIZES)?;
    let [_, groups, keys, _] = by_head(s.call, 1, "kv_num_heads").ok_or(SIZES)?;
    let [_, _, _, value] = by_head(s.call, 2, "kv_num_heads").ok_or(SIZES)?;
    let repeats = if heads.same(&groups) { Some(Dim::Known(1)) } else { heads.div_exact(&groups) };
    let batch = s.letter(batch, Role::Free);
    let group = s.letter(groups, Role::Free);
    let repeat = s.letter(repeats.ok_or("its heads do not divide into groups")?, Role::Free);
    let rows = s.letter(rows, Role::Free);
    let keys = s.letter(keys, Role::Mixed);
    let size = s.letter(size, Role::Summed);
    let value = s.letter(value, Role::Free);
    s.state(At::Attr("q_num_heads"), &[group, repeat]);
    s.state(At::Attr("kv_num_heads"), &[group]);
    s.state(At::InverseRoot("scale"), &[size]);
    spell_heads(s, In(0), batch, &[group, repeat], rows, size)?;
    spell_heads(s, In(1), batch, &[group], keys, size)?;
    spell_heads(s, In(2), batch, &[group], keys, value)?;
    spell_heads(s, Out(0), batch, &[group, repeat], rows, value)?;
    let past = match s.has(In(4)) {
        true => Some(s.letter(s.size(In(4), 2)?.clone(), Role::Mixed)),
        false => None,
    };
    let total: Vec<Part> = past.into_iter().chain([keys]).map(|l| vec![l]).collect();
    for (old, new, width) in [(In(4), Out(1), size), (In(5), Out(2), value)] {
        for port in [old, new] {
            for (axis, letter) in [(0, batch), (1, group), (3, width)] {
                s.spell(port, axis, &[letter]);
            }
        }
        past.into_iter().for_each(|p| s.spell(old, 2, &[p]));
        s.parts(new, 2, total.clone());
    }
    s.spell(Out(3), 0, &[batch]);
    s.spell(Out(3), 1, &[group, repeat]);
    s.spell(Out(3), 2, &[rows]);
    s.parts(Out(3), 3, total.clone());
    if s.has(In(3)) {
        axes_mask(s, batch, &[group, repeat], rows, &total)?;
    }
    Ok(())
}

/// The mask broadcasts to `[n,h,s,t]`.
fn axes_mask(s: &mut Spelling<'_>, batch: Letter, heads: &[Letter], rows: Letter, total: &[Part]) -> Result<(), Why> {
    let targets = [vec![vec![batch]], vec![heads.to_vec()], vec![vec![rows]], total.to_vec()];
    let mask = s.shape(In(3))?;
    for (axis, (size, target)) in mask.iter().rev().zip(targets.into_iter().rev()).enumerate() {
        let at = mask.len() - 1 - axis;
        if *size == Dim::Known(1) {
            s.spell(In(3), at, &[]);
        } else if size.same(&s.volume(&target)) {
            s.parts(In(3), at, target);
        } else {
            target.iter().flatten().for_each(|&l| s.keep(l, "it is not known whether the mask is broadcast"));
        }
    }
    Ok(())
}

/// `0[n,h,s,p!*d] 1[t!,d] 2[t!,d] 3[n,s] -> 0[n,h,s,p!*d]`: pairs of elements are rotated, which are `d*p!` if they are interleaved.
fn axes_rotary(s: &mut Spelling<'_>) -> Result<(), Why> {
    let [batch, heads, rows, size] = by_head(s.call, 0, "num_heads").ok_or("the size of its heads is not known")?;
    let rotated = match s.count("rotary_embedding_dim", None) {
        Ok(n) => Dim::Known(n),
        Err(_) => size.clone(),
    };
    let half = rotated.div_exact(&Dim::Known(2)).ok_or("the size of its heads is not even")?;
    let [batch, heads, rows] = [batch, heads, rows].map(|d| s.letter(d, Role::Free));
    s.state(At::Attr("num_heads"), &[heads]);
    let pair = s.letter(Dim::Known(2), Role::Whole("pairs are rotated"));
    let half = s.letter(half, Role::Free);
    let rest = size.sub(&rotated);
    let turned = if s.call.flag("interleaved", false) { vec![half, pair] } else { vec![pair, half] };
    let kept = s.letter(rest.clone(), Role::Free);
    for port in [In(0), Out(0)] {
        s.spell(port, 0, &[batch]);
        match s.shape(port)?.len() {
            4 => {
                s.spell(port, 1, &[heads]);
                s.spell(port, 2, &[rows]);
                s.parts(port, 3, vec![turned.clone(), vec![kept]]);
            }
            _ if rest == Dim::Known(0) => {
                s.spell(port, 1, &[rows]);
                s.spell(port, 2, &[&[heads], turned.as_slice()].concat());
            }
            _ => return Err("a part of each head is not rotated"),
        }
    }
    for port in [In(1), In(2)] {
        let last = s.shape(port)?.len().saturating_sub(1);
        s.spell(port, last, &[half]);
        if last == 2 {
            s.stretch(port, 0, batch)?;
            s.stretch(port, 1, rows)?;
        }
    }
    if s.has(In(3)) {
        s.stretch(In(3), 0, batch)?;
        s.stretch(In(3), 1, rows)?;
    }
    Ok(())
}

/// `0[n,s~,i+] 1[i+,h*d+|h*d+|h*e] 2[h*d+|h*d+|h*e] -> 0[n,s~,h*e]`.
fn axes_ms(s: &mut Spelling<'_>) -> Result<(), Why> {
    let heads = s.count("num_heads", None)?;
    let columns = s.size(In(1), 1)?;
    let [query, value] = match s.call.attrs().ints("qkv_hidden_sizes") {
        Some([q, k, v]) if q == k => [q, v].map(|&n| Num::Int(n).dim()),
        Some(_) => return Err("its queries and keys differ in size"),
        None => {
            let each = columns.div_exact(&Dim::Known(3)).ok_or("its weights do not divide into three")?;
            [each.clone(), each]
        }
    };
    let [size, value] = [(query, Role::Summed), (value, Role::Free)]
        .map(|(width, role)| width.div_exact(&Dim::Known(heads)).map(|d| s.letter(d, role)));
    let (Some(size), Some(value)) = (size, value) else { return Err("its heads do not divide the hidden size") };
    let head = s.letter(Dim::Known(heads), Role::Free);
    let parts = vec![vec![head, size], vec![head, size], vec![head, value]];
    s.state(At::Attr("num_heads"), &[head]);
    s.state(At::InverseRoot("scale"), &[size]);
    for (i, part) in parts.iter().enumerate() {
        s.state(At::Item("qkv_hidden_sizes", i), part);
    }
    s.tie(&[(In(0), 0), (Out(0), 0)], Role::Free)?;
    s.tie(&[(In(0), 1), (Out(0), 1)], Role::Mixed)?;
    s.tie(&[(In(0), 2), (In(1), 0)], Role::Summed)?;
    s.parts(In(1), 1, parts.clone());
    s.parts(In(2), 0, parts);
    s.spell(Out(0), 2, &[head, value]);
    Ok(())
}

fn infer_quantized(call: &Call<'_>) -> Outcome {
    let (Some([batch, seq, _]), Some([_, columns])) = (call.shape(0), call.shape(1)) else {
        return Ok(vec![call.like(3, None), call.like(3, None)]);
    };
    let hidden = columns.floor_div(3);
    let heads = call.attrs().int("num_heads").and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
    let total = match (call.has(8), call.shape(8)) {
        (false, _) => seq.clone(),
        (true, Some([_, _, _, past, _])) => past.add(seq),
        (true, _) => Dim::Unknown,
    };
    let size = heads.map_or(Dim::Unknown, |n| hidden.floor_div(n));
    let heads = heads.map_or(Dim::Unknown, Dim::Known);
    let present = vec![Dim::Known(2), batch.clone(), heads, total, size];
    Ok(vec![call.like(3, Some(vec![batch.clone(), seq.clone(), hidden])), call.like(3, Some(present))])
}

/// As [`axes_ms`]; scales and zero points of the weights are scalars, or one for each column.
fn axes_quantized(s: &mut Spelling<'_>) -> Result<(), Why> {
    if s.has(In(8)) || s.has(Out(1)) {
        return Err("its keys and values of the past are stacked");
    }
    axes_ms(s)?;
    let scalar = |shape: &[Dim]| matches!(shape, [] | [Dim::Known(1)]);
    for slot in [4, 7] {
        if s.has(In(slot)) && !scalar(s.shape(In(slot))?) {
            return Err("its weights have a scale for each column");
        }
    }
    Ok(())
}

/// Values have four axes or three; packed ones, as few runtimes take them, say nothing.
fn infer_multi_head(call: &Call<'_>) -> Outcome {
    let width = match call.shape(2) {
        Some([_, _, width]) => width.clone(),
        Some([_, heads, _, size]) => heads.mul(size),
        _ => Dim::Unknown,
    };
    let y = match call.shape(0) {
        Some([batch, seq, _]) => Some(vec![batch.clone(), seq.clone(), width]),
        _ => None,
    };
    Ok(vec![call.like(0, y)])
}

fn macs_multi_head(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    let [batch, heads, seq, size] = by_head(call, 0, "num_heads")?;
    let [_, _, keys, _] = by_head(call, 1, "num_heads")?;
    let [_, _, _, value_size] = by_head(call, 2, "num_heads")?;
    batch.mul(&heads).mul(&seq).mul(&total(call, 6, &keys)).mul(&size.add(&value_size)).known()
}
