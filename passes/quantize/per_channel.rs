//! Rounding of a weight to int8 with one scale per channel.
//!
//! The real number of a code `q` is `(q - zero_point) * scale`, as `DequantizeLinear` computes it. The range of a channel
//! is that of its numbers: on 8 bits, cutting outliers off for the sake of a finer step gains less than 0.1 dB on the
//! usual weights, and loses what the outliers were for. Reference: Jacob et al., Quantization and Training of Neural
//! Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 2.1.

use half::f16;
use planish_ir::{DType, Dims, Tensor, TensorError};

/// A weight in int8.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PerChannel {
    /// The codes, with the dims of the weight.
    pub(super) codes: Tensor,
    /// One per channel, of the type of the weight.
    pub(super) scales: Tensor,
    /// One per channel, int8; `None` if all are zero.
    pub(super) zero_points: Option<Tensor>,
    /// Power of the weight over power of the error, in dB; infinite if nothing was lost.
    pub(super) sqnr: f64,
}

/// Why a weight cannot be rounded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it holds {0}, for which there is no scale")]
    NotFinite(f32),
    #[error("its elements cannot be read: {0}")]
    Tensor(#[from] TensorError),
}

/// Scale and zero point of one channel.
#[derive(Debug, Clone, Copy)]
struct Grid {
    scale: f32,
    zero_point: f32,
    lowest: f32,
}

/// Steps between the lowest and the highest code of int8.
const STEPS: f32 = 255.0;

/// Rounds a float or float16 weight along `axis`, which must be one of its axes. No element moves by more than half a step.
pub(super) fn per_channel(weight: &Tensor, axis: usize, symmetric: bool) -> Result<PerChannel, Unfit> {
    let values = floats(weight)?;
    if let Some(v) = values.iter().find(|v| !v.is_finite()) {
        return Err(Unfit::NotFinite(*v));
    }
    let channels = weight.dims().get(axis).map_or(1, |&d| d as usize);
    let inner: usize = weight.dims().iter().skip(axis + 1).map(|&d| d as usize).product();
    // Elements of one channel lie together in runs of `inner`.
    let runs = || values.chunks(inner.max(1)).zip((0..channels).cycle());

    let mut ranges = vec![(0.0f32, 0.0f32); channels];
    for (run, c) in runs() {
        let range = &mut ranges[c];
        *range = run.iter().fold(*range, |(low, high), &v| (low.min(v), high.max(v)));
    }
    let grids: Vec<Grid> = ranges.into_iter().map(|r| grid(r, weight.dtype(), symmetric)).collect();

    let mut codes = Vec::with_capacity(values.len());
    let (mut signal, mut noise) = (0.0f64, 0.0f64);
    for (run, c) in runs() {
        let g = grids[c];
        for &v in run {
            let code = ((v / g.scale).round_ties_even() + g.zero_point).clamp(g.lowest, 127.0);
            let error = f64::from(v) - f64::from((code - g.zero_point) * g.scale);
            signal += f64::from(v) * f64::from(v);
            noise += error * error;
            codes.push(to_i8(code));
        }
    }
    let scales: Vec<f64> = grids.iter().map(|g| f64::from(g.scale)).collect();
    let zero_points = grids.iter().map(|g| to_i8(g.zero_point)).collect();
    let per_channel = || Dims::from_slice(&[channels as u64]);
    Ok(PerChannel {
        codes: Tensor::from_raw(DType::I8, weight.dims(), bytes(codes))?,
        scales: Tensor::from_f64_as(weight.dtype(), per_channel(), &scales)?,
        zero_points: match symmetric {
            true => None,
            false => Some(Tensor::from_raw(DType::I8, per_channel(), bytes(zero_points))?),
        },
        sqnr: 10.0 * (signal / noise).log10(),
    })
}

/// The grid that covers a range, which includes zero.
fn grid((low, high): (f32, f32), dtype: DType, symmetric: bool) -> Grid {
    let largest = high.max(-low);
    if largest == 0.0 {
        return Grid { scale: 1.0, zero_point: 0.0, lowest: -127.0 };
    }
    if symmetric {
        return Grid { scale: storable(largest / 127.0, dtype), zero_point: 0.0, lowest: -127.0 };
    }
    // Divided first, since the whole width may exceed the range of floats.
    let scale = storable(high / STEPS - low / STEPS, dtype);
    Grid { scale, zero_point: (-128.0 - low / scale).round_ties_even().clamp(-128.0, 127.0), lowest: -128.0 }
}

/// The scale as it can be stored: not zero, and not rounded down, or the ends of the range would be out of reach.
fn storable(scale: f32, dtype: DType) -> f32 {
    if dtype != DType::F16 {
        return scale.max(f32::MIN_POSITIVE);
    }
    let rounded = f16::from_f32(scale);
    let up = if rounded.to_f32() < scale { f16::from_bits(rounded.to_bits() + 1) } else { rounded };
    up.to_f32()
}

/// Elements of a float or float16 tensor.
fn floats(tensor: &Tensor) -> Result<Vec<f32>, TensorError> {
    match tensor.dtype() {
        DType::F16 => {
            let raw = tensor.raw().map_or(&[][..], |b| b);
            Ok(raw.as_chunks::<2>().0.iter().map(|c| f16::from_le_bytes(*c).to_f32()).collect())
        }
        _ => Ok(tensor.iter_f32()?.collect()),
    }
}

/// A code that is a whole number within int8 already.
const fn to_i8(code: f32) -> i8 {
    code as i8
}

fn bytes(codes: Vec<i8>) -> bytes::Bytes {
    codes.into_iter().map(i8::cast_unsigned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of very different sizes, reproducibly.
    fn weight(dtype: DType, dims: &[u64]) -> Tensor {
        let n: u64 = dims.iter().product();
        let number = |i: u64| {
            let x = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1u32 << 24) - 0.4;
            x * 10f64.powi((i % 5) as i32 - 3)
        };
        Tensor::from_f64_as(dtype, dims, &(0..n).map(number).collect::<Vec<_>>()).unwrap()
    }

    fn dequantized(q: &PerChannel, axis: usize) -> Vec<(f64, f64)> {
        let (scales, codes) = (q.scales.to_f64().unwrap(), q.codes.to_i64().unwrap());
        let zero_points = q.zero_points.as_ref().map_or_else(|| vec![0; scales.len()], |z| z.to_i64().unwrap());
        let inner: usize = q.codes.dims()[axis + 1..].iter().map(|&d| d as usize).product();
        let channel = |i: usize| i / inner % scales.len();
        codes
            .iter()
            .enumerate()
            .map(|(i, c)| ((c - zero_points[channel(i)]) as f64 * scales[channel(i)], scales[channel(i)]))
            .collect()
    }

    #[test]
    fn no_element_moves_by_more_than_half_a_step() {
        for (dims, axis) in [(&[7, 3, 5][..], 0), (&[7, 3, 5], 1), (&[7, 3, 5], 2), (&[64, 32], 1), (&[1, 9], 0)] {
            for dtype in [DType::F32, DType::F16] {
                for symmetric in [true, false] {
                    let w = weight(dtype, dims);
                    let q = per_channel(&w, axis, symmetric).unwrap();
                    assert_eq!(q.scales.dims(), [dims[axis]]);
                    for (before, (after, scale)) in w.to_f64().unwrap().iter().zip(dequantized(&q, axis)) {
                        assert!((before - after).abs() <= scale * 0.500_01, "{before} became {after}, scale {scale}");
                    }
                    assert!(q.sqnr > 25.0, "{}", q.sqnr);
                }
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_empty_channels_have_a_scale() {
        let w = Tensor::from_f32([2, 4].as_slice(), &[127.0, 0.5, 1.5, -2.5, 0.0, 0.0, 0.0, 0.0]).unwrap();
        let q = per_channel(&w, 0, true).unwrap();
        assert_eq!(q.codes.to_i64().unwrap(), [127, 0, 2, -2, 0, 0, 0, 0]);
        assert_eq!(q.scales.to_f64().unwrap(), [1.0, 1.0]);
        assert_eq!(q.zero_points, None);
    }

    #[test]
    fn tiny_and_huge_channels_have_a_scale_that_is_no_zero_and_no_infinity() {
        for symmetric in [true, false] {
            let w = Tensor::from_f32([2, 2].as_slice(), &[1e-44, -1e-44, f32::MAX, f32::MIN]).unwrap();
            let scales = per_channel(&w, 0, symmetric).unwrap().scales.to_f64().unwrap();
            assert!(scales.iter().all(|s| *s > 0.0 && s.is_finite()), "{scales:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_finite() {
        let w = Tensor::from_f32([2].as_slice(), &[1.0, f32::INFINITY]).unwrap();
        assert_eq!(per_channel(&w, 0, true), Err(Unfit::NotFinite(f32::INFINITY)));
    }
}
