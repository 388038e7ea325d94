//! Recurrent mixers of language models: CausalConvWithState, LinearAttention.
//!
//! Opsets: 27.
//!
//! Shape rules: CausalConvWithState on `[batch,channels,length]` keeps the shape; its state is `[batch,channels,kernel - 1]`.
//! LinearAttention takes queries, keys and values `[batch,length,heads*size]`, with `q_num_heads` heads of queries and
//! `kv_num_heads` of the others. Its output is `[batch,length,heads of queries * size of values]`, its state `[batch,heads of
//! keys,size of keys,size of values]`.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Num, Outcome},
};

pub(super) static CAUSAL_CONV: OpSpec =
    OpSpec::new("CausalConvWithState", &[sig(27, 2, 4).outputs(2, 2)], Traits::ROUNDING, causal).macs(|_, _| None);
pub(super) static LINEAR_ATTENTION: OpSpec =
    OpSpec::new("LinearAttention", &[sig(27, 3, 6).outputs(2, 2)], Traits::ROUNDING, linear).macs(|_, _| None);

/// Size of an axis of an input.
fn size(call: &Call<'_>, slot: usize, at: usize) -> Dim {
    call.shape(slot).and_then(|s| s.get(at)).cloned().unwrap_or(Dim::Unknown)
}

fn causal(call: &Call<'_>) -> Outcome {
    call.expect_rank(0, 3)?;
    let state = vec![size(call, 0, 0), size(call, 0, 1), size(call, 1, 2).offset(-1)];
    Ok(vec![call.same(0), if call.has(3) { call.same(3) } else { call.like(0, Some(state)) }])
}

fn linear(call: &Call<'_>) -> Outcome {
    call.expect_rank(0, 3)?;
    let heads = |name: &str| call.attrs().int(name).map_or(Dim::Unknown, |n| Num::Int(n).dim());
    let (query_heads, heads) = (heads("q_num_heads"), heads("kv_num_heads"));
    let per_head = |slot: usize| size(call, slot, 2).div_exact(&heads).unwrap_or(Dim::Unknown);
    let output = vec![size(call, 0, 0), size(call, 0, 1), per_head(2).mul(&query_heads)];
    let state = vec![size(call, 0, 0), heads.clone(), per_head(1), per_head(2)];
    Ok(vec![call.like(0, Some(output)), if call.has(3) { call.same(3) } else { call.like(0, Some(state)) }])
}

#[cfg(test)]
mod tests {
    use crate::{Attrs, infer::testing::Draft};

    #[test]
    fn states_follow_from_heads_and_kernel() {
        let mut d = Draft::new(27);
        let q = d.input("q", &["B", "T", "32"]);
        let (k, v) = (d.input("k", &["B", "T", "16"]), d.input("v", &["B", "T", "24"]));
        let attrs = Attrs::new().with("q_num_heads", 4).with("kv_num_heads", 2);
        let y = d.nodes("LinearAttention", &[Some(q), Some(k), Some(v)], attrs, 2);
        assert_eq!((d.ty(y[0]), d.ty(y[1])), ("float[B,T,48]".into(), "float[B,2,8,12]".into()));
        let (x, w) = (d.input("x", &["B", "6", "L"]), d.weights(&[6, 1, 4]));
        let y = d.nodes("CausalConvWithState", &[Some(x), Some(w)], Attrs::new(), 2);
        assert_eq!((d.ty(y[0]), d.ty(y[1])), ("float[B,6,L]".into(), "float[B,6,3]".into()));
    }

    #[test]
    fn heads_that_do_not_divide_leave_sizes_open() {
        let mut d = Draft::new(27);
        let q = d.input("q", &["B", "T", "32"]);
        for attrs in [Attrs::new(), Attrs::new().with("q_num_heads", 4).with("kv_num_heads", 0)] {
            let y = d.nodes("LinearAttention", &[Some(q), Some(q), Some(q)], attrs, 2);
            assert_eq!(d.ty(y[0]), "float[B,T,?]");
        }
    }
}
