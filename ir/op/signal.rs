//! Signals: BlackmanWindow, DFT, HammingWindow, HannWindow, MelWeightMatrix, STFT.
//!
//! Opsets: 17; DFT also 20 (`axis` is an input).
//!
//! Shape rules: a window is a vector of the given length. DFT keeps the axes; its last one becomes 2 (real and imaginary
//! part), or 1 for an inverse onesided transform; the transformed one gets `dft_length`, of which onesided transforms keep
//! `n/2 + 1`. MelWeightMatrix is `[dft_length/2 + 1, num_mel_bins]`. STFT gives `[batch,frames,bins,2]`.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Num, Outcome, axis},
};

pub(super) static BLACKMAN: OpSpec = OpSpec::new("BlackmanWindow", &[sig(17, 1, 1)], Traits::ROUNDING, window);
pub(super) static HAMMING: OpSpec = OpSpec::new("HammingWindow", &[sig(17, 1, 1)], Traits::ROUNDING, window);
pub(super) static HANN: OpSpec = OpSpec::new("HannWindow", &[sig(17, 1, 1)], Traits::ROUNDING, window);
pub(super) static DFT: OpSpec = OpSpec::new("DFT", &[sig(17, 1, 2), sig(20, 1, 3)], Traits::ROUNDING, dft);
pub(super) static MEL: OpSpec = OpSpec::new("MelWeightMatrix", &[sig(17, 5, 5)], Traits::ROUNDING, |c| {
    let bins = single(c, 1).map_or(Dim::Unknown, |n| half(&n));
    let shape = vec![bins, single(c, 0).unwrap_or(Dim::Unknown)];
    Ok(vec![Fact::tensor(c.dtype_attr("output_datatype").or(Some(DType::F32)), Some(shape))])
});
pub(super) static STFT: OpSpec = OpSpec::new("STFT", &[sig(17, 2, 4)], Traits::ROUNDING, stft);

fn single(call: &Call<'_>, slot: usize) -> Option<Dim> {
    match call.elements(slot)? {
        [n] => Some(n.dim()),
        _ => None,
    }
}

/// Frequencies of a real signal of that length.
fn half(length: &Dim) -> Dim {
    length.floor_div(2).offset(1)
}

fn window(call: &Call<'_>) -> Outcome {
    let dtype = call.dtype_attr("output_datatype").or(Some(DType::F32));
    Ok(vec![Fact::tensor(dtype, Some(vec![single(call, 0).unwrap_or(Dim::Unknown)]))])
}

fn dft(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None)]) };
    let given = match (call.opset < 20, call.has(2)) {
        (true, _) => Some(call.int("axis", 1)),
        (false, true) => call.elements(2).and_then(|e| e.first()?.int()),
        (false, false) => Some(-2),
    };
    let (onesided, inverse) = (call.flag("onesided", false), call.flag("inverse", false));
    let mut shape = input.to_vec();
    let Some(given) = given else { return Ok(vec![call.like(0, Some(vec![Dim::Unknown; input.len()]))]) };
    let at = axis(given, input.len())?;
    if let Some(d) = shape.get_mut(at) {
        let length = if call.has(1) { single(call, 1) } else { Some(d.clone()) };
        *d = match (length, onesided, inverse) {
            (Some(n), true, false) => half(&n),
            // The length of the signal of which n frequencies are known.
            (Some(n), true, true) if !call.has(1) => n.offset(-1).mul(&Dim::Known(2)),
            (n, _, _) => n.unwrap_or(Dim::Unknown),
        };
    }
    if let Some(last) = shape.last_mut() {
        *last = Dim::Known(if inverse && onesided { 1 } else { 2 });
    }
    Ok(vec![call.like(0, Some(shape))])
}

fn stft(call: &Call<'_>) -> Outcome {
    let step = call.elements(1).and_then(|e| e.first()?.int()).and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
    let window = call.shape(2).and_then(|s| s.first()).cloned();
    let frame = if call.has(3) { single(call, 3) } else { window };
    let size = |at: usize| call.shape(0).and_then(|s| s.get(at)).cloned().unwrap_or(Dim::Unknown);
    let frame = frame.unwrap_or(Dim::Unknown);
    let frames = match step {
        Some(step) => Num::from_dim(&size(1)).sub(&Num::from_dim(&frame)).dim().floor_div(step).offset(1),
        None => Dim::Unknown,
    };
    let bins = if call.flag("onesided", true) { half(&frame) } else { frame };
    Ok(vec![call.like(0, Some(vec![size(0), frames, bins, Dim::Known(2)]))])
}
