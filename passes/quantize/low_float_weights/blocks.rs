//! Rounding of a weight to small floats with scales.
//!
//! The number that a code stands for is its own times the scale, in f32, as `DequantizeLinear` computes it. A float has
//! the same relative precision whatever the scale, so all that a scale decides is where the numbers fall between two
//! codes, and what lies beyond the ends; the best of a few candidates gains half a dB in 8 bits, and more than one in 4.

use std::f32::consts::SQRT_2;

use planish_ir::{DType, Dims, SmallFloat, Tensor, TensorError};

/// How a weight is stored. The order decides nothing but which of two forms of a weight comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Layout {
    /// float8e4m3fn, with a scale per entry of an axis.
    PerChannel { axis: usize },
    /// With a power of two for every `block` along an axis.
    Blocks { codes: DType, axis: usize, block: usize },
    /// float4e2m1, with a float8e4m3fn scale for every `block` along an axis, and one scale for these.
    ScaledBlocks { axis: usize, block: usize },
}

impl Layout {
    /// Entries along the axis that share a scale, if not all of the others do.
    pub(super) const fn block(self) -> Option<usize> {
        match self {
            Layout::PerChannel { .. } => None,
            Layout::Blocks { block, .. } | Layout::ScaledBlocks { block, .. } => Some(block),
        }
    }

    /// The axis of `DequantizeLinear`.
    pub(super) const fn axis(self) -> usize {
        match self {
            Layout::PerChannel { axis } | Layout::Blocks { axis, .. } | Layout::ScaledBlocks { axis, .. } => axis,
        }
    }

    const fn codes(self) -> DType {
        match self {
            Layout::PerChannel { .. } => DType::F8E4M3FN,
            Layout::Blocks { codes, .. } => codes,
            Layout::ScaledBlocks { .. } => DType::F4E2M1,
        }
    }
}

/// A weight in small floats.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Encoded {
    /// With the dims of the weight.
    pub(super) codes: Tensor,
    pub(super) scales: Scales,
    /// Power of the weight over power of the error, in dB; infinite if nothing was lost.
    pub(super) sqnr: f64,
}

/// The scales of a weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scales {
    /// As they are multiplied with.
    Plain(Tensor),
    /// Codes with a scale of their own.
    Scaled { codes: Tensor, scale: Tensor },
}

impl Encoded {
    /// Bytes of all parts.
    pub(super) fn byte_len(&self) -> u64 {
        let scales = match &self.scales {
            Scales::Plain(t) => t.byte_len(),
            Scales::Scaled { codes, scale } => codes.byte_len() + scale.byte_len(),
        };
        self.codes.byte_len() + scales
    }
}

/// Why a weight cannot be rounded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it holds {0}, for which there is no scale")]
    NotFinite(f64),
    #[error("it has no axis {0}")]
    Axis(usize),
    #[error("its elements cannot be read: {0}")]
    Tensor(#[from] TensorError),
}

/// Scales by which a channel of 8-bit floats is tried, as shares of the smallest that holds all of it.
const CHANNEL: [f32; 8] = [1.0, 1.090_507_7, 1.189_207_1, 1.296_839_6, SQRT_2, 1.542_210_8, 1.681_792_9, 1.834_008];
/// The same for powers of two: numbers beyond the range may be cut off.
const POWER: [f32; 2] = [1.0, 0.5];
/// The same for blocks of 4-bit floats, whose codes are unevenly spaced: 1.5 brings the largest number from 6 to 4.
const BLOCK: [f32; 10] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 1.1, 1.2, 1.3, 1.5];

/// Exponents of E8M0.
const SMALLEST_POWER: i32 = -127;
const LARGEST_POWER: i32 = 127;

/// Rounds a float weight. With `e8m0`, powers of two are stored in that type, else as floats of the weight's type.
pub(super) fn encode(weight: &Tensor, layout: Layout, e8m0: bool) -> Result<Encoded, Unfit> {
    let values = weight.to_f64()?;
    if let Some(v) = values.iter().find(|v| !v.is_finite()) {
        return Err(Unfit::NotFinite(*v));
    }
    let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
    let groups = Groups::new(weight.dims(), layout)?;
    let Some(codec) = SmallFloat::of(layout.codes()) else {
        return Err(TensorError::Type { actual: layout.codes(), wanted: "a small float" }.into());
    };
    let mut largest = vec![0f32; groups.count];
    groups.visit(&values, |group, v| largest[group] = largest[group].max(v.abs()));
    let smallest: Vec<f32> = largest.iter().map(|l| l / codec.max()).collect();
    let rule = Rule::new(layout, weight.dtype(), e8m0, &smallest);
    let candidates: Vec<Vec<f32>> =
        rule.shares().iter().map(|c| smallest.iter().map(|s| rule.scale(s * c)).collect()).collect();
    let mut best: Vec<(f64, f32)> = vec![(f64::INFINITY, 1.0); groups.count];
    for scales in &candidates {
        let mut noise = vec![0f64; groups.count];
        groups.visit(&values, |group, v| {
            let scale = scales[group];
            let error = f64::from(v) - f64::from(codec.decode(codec.encode(v / scale, true)) * scale);
            noise[group] += error * error;
        });
        for ((best, noise), scale) in best.iter_mut().zip(noise).zip(scales) {
            if noise < best.0 {
                *best = (noise, *scale);
            }
        }
    }
    let mut codes = Vec::with_capacity(values.len());
    groups.visit(&values, |group, v| codes.push(codec.encode(v / best[group].1, true)));
    let signal: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let noise: f64 = best.iter().map(|(n, _)| n).sum();
    let scales: Vec<f32> = best.into_iter().map(|(_, scale)| scale).collect();
    Ok(Encoded {
        codes: Tensor::from_raw(layout.codes(), weight.dims(), packed(layout.codes(), &codes))?,
        scales: rule.store(groups.dims, &scales)?,
        sqnr: 10.0 * (signal / noise).log10(),
    })
}

/// Codes as they are stored: two of 4 bits in a byte, the first in the low bits.
fn packed(dtype: DType, codes: &[u8]) -> bytes::Bytes {
    match dtype.bits() {
        4 => codes.chunks(2).map(|pair| pair.iter().rev().fold(0, |byte, c| byte << 4 | c)).collect(),
        _ => bytes::Bytes::copy_from_slice(codes),
    }
}

/// Which numbers of a weight share a scale.
struct Groups {
    /// Dims of the scales.
    dims: Dims,
    count: usize,
    /// Numbers behind the axis, entries of the axis, entries that share a scale, scales along the axis.
    inner: usize,
    size: usize,
    block: Option<usize>,
    along: usize,
}

impl Groups {
    fn new(dims: &[u64], layout: Layout) -> Result<Groups, Unfit> {
        let axis = layout.axis();
        let size = *dims.get(axis).ok_or(Unfit::Axis(axis))? as usize;
        let inner = dims.iter().skip(axis + 1).map(|&d| d as usize).product();
        let along = layout.block().map_or(size, |block| size.div_ceil(block));
        let scales = match layout.block() {
            None => Dims::from_slice(&[size as u64]),
            Some(_) => dims.iter().enumerate().map(|(a, &d)| if a == axis { along as u64 } else { d }).collect(),
        };
        let count = scales.iter().map(|&d| d as usize).product();
        Ok(Groups { dims: scales, count, inner, size, block: layout.block(), along })
    }

    /// Every number in order, with the number of its scale.
    fn visit(&self, values: &[f32], mut f: impl FnMut(usize, f32)) {
        let runs = values.chunks(self.inner.max(1)).enumerate();
        for (run, numbers) in runs {
            let (outer, entry) = (run / self.size.max(1), run % self.size.max(1));
            match self.block {
                None => numbers.iter().for_each(|&v| f(entry, v)),
                Some(block) => {
                    let first = (outer * self.along + entry / block) * self.inner;
                    numbers.iter().zip(first..).for_each(|(&v, group)| f(group, v));
                }
            }
        }
    }
}

/// How scales may be chosen, and how they are stored.
enum Rule {
    /// Any float of the weight's type.
    Float(DType),
    /// A power of two, stored in the given type.
    Power(DType),
    /// E4M3 times a float that is the same for all.
    Scaled { of_all: f32, dtype: DType },
}

impl Rule {
    fn new(layout: Layout, dtype: DType, e8m0: bool, smallest: &[f32]) -> Rule {
        match layout {
            Layout::PerChannel { .. } => Rule::Float(dtype),
            Layout::Blocks { .. } if e8m0 => Rule::Power(DType::F8E8M0),
            Layout::Blocks { .. } => Rule::Power(dtype),
            Layout::ScaledBlocks { .. } => {
                let largest = smallest.iter().copied().fold(0.0, f32::max);
                // The largest scale has room for the largest candidate.
                let of_all = nearest(largest * 1.5 / e4m3_max(), dtype);
                Rule::Scaled { of_all, dtype }
            }
        }
    }

    const fn shares(&self) -> &'static [f32] {
        match self {
            Rule::Float(_) => &CHANNEL,
            Rule::Power(_) => &POWER,
            Rule::Scaled { .. } => &BLOCK,
        }
    }

    /// The scale that can be stored for a wish; 1 where all numbers are zero.
    fn scale(&self, wish: f32) -> f32 {
        if wish == 0.0 {
            return 1.0;
        }
        match self {
            Rule::Float(dtype) => nearest(wish, *dtype),
            Rule::Power(dtype) => {
                let lowest = if *dtype == DType::F16 { -24 } else { SMALLEST_POWER };
                let highest = if *dtype == DType::F16 { 15 } else { LARGEST_POWER };
                2f32.powi((wish.log2().ceil() as i32).clamp(lowest, highest))
            }
            Rule::Scaled { of_all, .. } => match SmallFloat::of(DType::F8E4M3FN) {
                Some(e4m3) => {
                    // Zero would erase a block.
                    let code = e4m3.encode(wish / of_all, true).max(1);
                    e4m3.decode(code) * of_all
                }
                None => wish,
            },
        }
    }

    fn store(&self, dims: Dims, scales: &[f32]) -> Result<Scales, TensorError> {
        let floats = |dtype: DType| {
            let wide: Vec<f64> = scales.iter().map(|&s| f64::from(s)).collect();
            Tensor::from_f64_as(dtype, dims.clone(), &wide).map(Scales::Plain)
        };
        match self {
            Rule::Power(DType::F8E8M0) => {
                let codes = scales.iter().map(|s| (s.log2() as i32 + LARGEST_POWER) as u8).collect();
                Tensor::from_raw(DType::F8E8M0, dims, codes).map(Scales::Plain)
            }
            Rule::Float(dtype) | Rule::Power(dtype) => floats(*dtype),
            Rule::Scaled { of_all, dtype } => {
                let Some(e4m3) = SmallFloat::of(DType::F8E4M3FN) else { return floats(*dtype) };
                let codes = scales.iter().map(|s| e4m3.encode(s / of_all, true)).collect();
                Ok(Scales::Scaled {
                    codes: Tensor::from_raw(DType::F8E4M3FN, dims, codes)?,
                    scale: Tensor::from_f64_as(*dtype, Dims::new(), &[f64::from(*of_all)])?,
                })
            }
        }
    }
}

fn e4m3_max() -> f32 {
    SmallFloat::of(DType::F8E4M3FN).map_or(1.0, SmallFloat::max)
}

/// The nearest number of a type that is neither zero nor infinite.
fn nearest(scale: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(scale).clamp(half::f16::MIN_POSITIVE_SUBNORMAL, half::f16::MAX).to_f32(),
        DType::BF16 => half::bf16::from_f32(scale).clamp(half::bf16::MIN_POSITIVE, half::bf16::MAX).to_f32(),
        _ => scale.clamp(f32::MIN_POSITIVE, f32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of very different sizes, reproducibly.
    fn weight(dtype: DType, dims: &[u64]) -> Tensor {
        let n: u64 = dims.iter().product();
        let number = |i: u64| {
            let x = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1u32 << 24) - 0.4;
            x * 10f64.powi((i % 3) as i32 - 2)
        };
        Tensor::from_f64_as(dtype, dims, &(0..n).map(number).collect::<Vec<_>>()).unwrap()
    }

    fn unpacked(t: &Tensor) -> Vec<u8> {
        let raw = t.raw().unwrap();
        match t.dtype().bits() {
            4 => raw.iter().flat_map(|b| [b & 15, b >> 4]).take(t.elements() as usize).collect(),
            _ => raw.to_vec(),
        }
    }

    /// As the definition of `DequantizeLinear` has it, worked out by multi-dimensional indices.
    fn decoded(e: &Encoded, layout: Layout) -> Vec<f64> {
        let e4m3 = SmallFloat::of(DType::F8E4M3FN).unwrap();
        let scales: Vec<f32> = match &e.scales {
            Scales::Plain(t) if t.dtype() == DType::F8E8M0 => {
                t.raw().unwrap().iter().map(|&c| 2f32.powi(i32::from(c) - 127)).collect()
            }
            Scales::Plain(t) => t.to_f64().unwrap().into_iter().map(|v| v as f32).collect(),
            Scales::Scaled { codes, scale } => {
                let scale = scale.single_f64().unwrap() as f32;
                unpacked(codes).into_iter().map(|c| e4m3.decode(c) * scale).collect()
            }
        };
        let codec = SmallFloat::of(e.codes.dtype()).unwrap();
        let dims: Vec<usize> = e.codes.dims().iter().map(|&d| d as usize).collect();
        let index = |mut i: usize| -> Vec<usize> {
            let mut at: Vec<usize> = dims
                .iter()
                .rev()
                .map(|d| {
                    let k = i % d;
                    i /= d;
                    k
                })
                .collect();
            at.reverse();
            at
        };
        let scale_of = |i: usize| {
            let at = index(i);
            let Some(block) = layout.block() else { return scales[at[layout.axis()]] };
            let place = at.iter().zip(&dims).enumerate().fold(0, |place, (axis, (k, d))| {
                let (k, d) = if axis == layout.axis() { (k / block, d.div_ceil(block)) } else { (*k, *d) };
                place * d + k
            });
            scales[place]
        };
        unpacked(&e.codes).into_iter().enumerate().map(|(i, c)| f64::from(codec.decode(c) * scale_of(i))).collect()
    }

    #[test]
    fn decoding_gives_back_the_weight_up_to_the_precision_of_the_format() {
        let blocks = |codes, axis| Layout::Blocks { codes, axis, block: 32 };
        for (layout, least) in [
            (Layout::PerChannel { axis: 0 }, 30.0),
            (Layout::PerChannel { axis: 1 }, 30.0),
            (blocks(DType::F8E4M3FN, 0), 30.0),
            (blocks(DType::F8E4M3FN, 1), 30.0),
            (blocks(DType::F4E2M1, 0), 17.0),
            (blocks(DType::F4E2M1, 1), 17.0),
            (Layout::ScaledBlocks { axis: 0, block: 16 }, 19.0),
            (Layout::ScaledBlocks { axis: 1, block: 16 }, 19.0),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for e8m0 in [false, true] {
                    let w = weight(dtype, &[70, 45]);
                    let e = encode(&w, layout, e8m0).unwrap();
                    let (before, after) = (w.to_f64().unwrap(), decoded(&e, layout));
                    let signal: f64 = before.iter().map(|v| v * v).sum();
                    let noise: f64 = before.iter().zip(&after).map(|(a, b)| (a - b) * (a - b)).sum();
                    let sqnr = 10.0 * (signal / noise).log10();
                    assert!(sqnr > least, "{layout:?} {dtype}: {sqnr}");
                    assert!((sqnr - e.sqnr).abs() < 0.01, "{layout:?} {dtype}: {sqnr} and {}", e.sqnr);
                }
            }
        }
    }

    #[test]
    fn numbers_of_the_format_stay_as_they_are() {
        let w =
            Tensor::from_f32([32, 1].as_slice(), &(0..32).map(|i| [0.5, -3.0, 6.0, 0.0][i % 4]).collect::<Vec<_>>())
                .unwrap();
        let layout = Layout::Blocks { codes: DType::F4E2M1, axis: 0, block: 32 };
        let e = encode(&w, layout, true).unwrap();
        assert_eq!(decoded(&e, layout), w.to_f64().unwrap());
        assert_eq!(e.sqnr, f64::INFINITY);
        assert_eq!(e.byte_len(), 17);
    }

    #[test]
    fn empty_and_extreme_blocks_have_a_scale() {
        for values in [[0.0; 16], [1e-44; 16], [f32::MAX; 16]] {
            let w = Tensor::from_f32([16, 1].as_slice(), &values).unwrap();
            for layout in [
                Layout::PerChannel { axis: 0 },
                Layout::Blocks { codes: DType::F8E4M3FN, axis: 0, block: 32 },
                Layout::ScaledBlocks { axis: 0, block: 16 },
            ] {
                let e = encode(&w, layout, true).unwrap();
                assert!(decoded(&e, layout).iter().all(|v| v.is_finite()), "{layout:?} {values:?}");
            }
        }
    }

    #[test]
    fn refuses_what_is_not_finite() {
        let w = Tensor::from_f32([1].as_slice(), &[f32::NAN]).unwrap();
        assert!(matches!(encode(&w, Layout::PerChannel { axis: 0 }, false), Err(Unfit::NotFinite(_))));
        let w = Tensor::from_f32([1].as_slice(), &[1.0]).unwrap();
        assert_eq!(encode(&w, Layout::PerChannel { axis: 1 }, false), Err(Unfit::Axis(1)));
    }
}
