//! Recurrent mixers of language models: CausalConvWithState, LinearAttention.
//!
//! Opsets: 27.
//!
//! Shape rule: the first output of CausalConvWithState has the shape of the input, the second one that of the state. The
//! outputs of LinearAttention are known as far as the state is given.

use super::{OpSpec, Traits, sig};

pub(super) static CAUSAL_CONV: OpSpec =
    OpSpec::new("CausalConvWithState", &[sig(27, 2, 4).outputs(2, 2)], Traits::ROUNDING, |c| {
        Ok(vec![c.same(0), if c.has(3) { c.same(3) } else { c.like(0, None) }])
    })
    .macs(|_, _| None);
pub(super) static LINEAR_ATTENTION: OpSpec =
    OpSpec::new("LinearAttention", &[sig(27, 3, 6).outputs(2, 2)], Traits::ROUNDING, |c| {
        Ok(vec![c.like(0, None), if c.has(3) { c.same(3) } else { c.like(0, None) }])
    })
    .macs(|_, _| None);
