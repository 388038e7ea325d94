//! Col2Im.
//!
//! Opsets: 18.
//!
//! Shape rule: `[N, C*block, blocks]` gives `[N, C, image…]`, with image and block sizes from inputs.

use super::{OpSpec, Traits, sig};
use crate::{
    Dim,
    infer::{Call, Num, Outcome, shape::volume},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Col2Im", &[sig(18, 3, 3)], Traits::ROUNDING, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let sizes = |slot: usize| call.per_axis(slot).map(|s| s.iter().map(Num::dim).collect::<Vec<_>>());
    let Some(image) = sizes(1) else { return Ok(vec![call.like(0, None)]) };
    let block = sizes(2).map_or(Dim::Unknown, |b| volume(&b));
    let (batch, channels) = match call.shape(0) {
        Some([n, columns, _]) => (n.clone(), columns.div_exact(&block).unwrap_or(Dim::Unknown)),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    Ok(vec![call.like(0, Some([batch, channels].into_iter().chain(image).collect()))])
}
