//! Grids of codes: scale and zero point of a range, rounding of numbers and weights to them.
//!
//! The real number of a code `q` is `(q - zero_point) * scale`; the code of a number is `round(x / scale) + zero_point`,
//! rounded half to even and clamped to the limits of the type, all of it in float32, as QuantizeLinear defines it. Zero
//! is always on the grid, since zeros are what padding, masks and rectifiers make.
//!
//! Reference: ONNX QuantizeLinear-21; Jacob et al., Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference, CVPR 2018, section 2.1; float8: Micikevicius et al., FP8 Formats for Deep Learning,
//! 2022, table 1.

use bytes::Bytes;
use planish_ir::{DType, Dims, Tensor, TensorError, little_endian};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What codes there are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codes {
    /// 0 to 255.
    U8,
    /// -128 to 127.
    I8,
    /// 0 to 65535.
    U16,
    /// -32768 to 32767.
    I16,
    /// Floats of 4 bits exponent and 3 bits mantissa, without infinities: up to 448.
    F8,
}

impl Codes {
    /// Those of a type.
    pub const fn of(dtype: DType) -> Option<Codes> {
        match dtype {
            DType::U8 => Some(Codes::U8),
            DType::I8 => Some(Codes::I8),
            DType::U16 => Some(Codes::U16),
            DType::I16 => Some(Codes::I16),
            DType::F8E4M3FN => Some(Codes::F8),
            _ => None,
        }
    }

    /// The ONNX type.
    pub const fn dtype(self) -> DType {
        match self {
            Codes::U8 => DType::U8,
            Codes::I8 => DType::I8,
            Codes::U16 => DType::U16,
            Codes::I16 => DType::I16,
            Codes::F8 => DType::F8E4M3FN,
        }
    }

    /// The lowest and the highest code.
    pub const fn limits(self) -> (f32, f32) {
        match self {
            Codes::U8 => (0.0, 255.0),
            Codes::I8 => (-128.0, 127.0),
            Codes::U16 => (0.0, 65_535.0),
            Codes::I16 => (-32_768.0, 32_767.0),
            Codes::F8 => (-448.0, 448.0),
        }
    }

    /// The highest magnitude that both signs reach.
    const fn magnitude(self) -> f32 {
        match self {
            // Half of the range of an unsigned type lies on each side of a zero point in the middle.
            Codes::U8 => 127.0,
            Codes::U16 => 32_767.0,
            Codes::I8 | Codes::I16 | Codes::F8 => self.limits().1,
        }
    }
}

/// Scale and zero point.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Grid {
    /// Distance of two neighbouring codes; a normal, finite, positive number.
    pub scale: f32,
    /// The code of zero.
    pub zero_point: i32,
    /// What codes there are.
    pub codes: Codes,
}

impl Grid {
    /// The grid whose ends are `low` and `high`, or 0 where that lies outside. Zero is moved onto the grid, so either
    /// end may move by half a step.
    pub fn covering(codes: Codes, low: f32, high: f32) -> Grid {
        let (low, high) = (low.min(0.0), high.max(0.0));
        if codes == Codes::F8 {
            return Grid::symmetric(codes, high.max(-low));
        }
        let (first, last) = codes.limits();
        let steps = last - first;
        // Divided first, since the whole width may exceed the range of floats.
        let scale = usable(high / steps - low / steps);
        let zero_point = (first - low / scale).round_ties_even().clamp(first, last);
        Grid { scale, zero_point: zero_point as i32, codes }
    }

    /// The grid with as many steps below zero as above that reaches `largest`.
    pub fn symmetric(codes: Codes, largest: f32) -> Grid {
        let zero_point = match codes {
            Codes::U8 => 128,
            Codes::U16 => 32_768,
            Codes::I8 | Codes::I16 | Codes::F8 => 0,
        };
        Grid { scale: usable(largest / codes.magnitude()), zero_point, codes }
    }

    /// The code of a number. NaN gets the lowest one.
    pub fn code(&self, x: f32) -> f32 {
        let (low, high) = self.codes.limits();
        match self.codes {
            Codes::F8 => e4m3(x / self.scale),
            _ => (round_ties_even(x / self.scale) + self.zero_point as f32).max(low).min(high),
        }
    }

    /// The number of a code.
    pub fn number(&self, code: f32) -> f32 {
        (code - self.zero_point as f32) * self.scale
    }

    /// The numbers that the lowest and the highest code stand for.
    pub fn ends(&self) -> (f32, f32) {
        let (low, high) = self.codes.limits();
        (self.number(low), self.number(high))
    }

    /// The scale as a scalar constant.
    pub fn scale_tensor(&self) -> Tensor {
        Tensor::scalar_f32(self.scale)
    }

    /// The zero point as a scalar constant of the type of the codes.
    pub fn zero_point_tensor(&self) -> Result<Tensor, TensorError> {
        store(self.codes, &[], &[self.zero_point as f32])
    }
}

/// The nearest whole number, of two equally near ones the even one. The method of the standard library is a call of a function where
/// processors from 2008 on are not taken for granted.
fn round_ties_even(x: f32) -> f32 {
    /// Floats from here to twice that are whole numbers.
    const WHOLE: f32 = 8_388_608.0;
    let magnitude = x.abs();
    if magnitude < WHOLE { ((magnitude + WHOLE) - WHOLE).copysign(x) } else { x }
}

/// A scale that is neither zero nor subnormal, of which runtimes take the reciprocal, nor infinite. Of an empty range, it is
/// 1: what comes at run time after all should not get lost.
fn usable(scale: f32) -> f32 {
    const SMALLEST: f32 = 1e-30;
    if scale > 0.0 && scale.is_finite() { scale.max(SMALLEST) } else { 1.0 }
}

/// A weight in codes, with one scale for each place along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Channels {
    /// The codes, with the dims of the weight.
    pub codes: Tensor,
    /// One per channel; all zero points are 0.
    pub scales: Vec<f32>,
    /// Power of the weight and of the error.
    pub power: (f64, f64),
}

/// Elements of a weight in runs that belong to one channel: (channel, elements).
pub fn runs<'a>(values: &'a [f32], dims: &[u64], axis: usize) -> impl Iterator<Item = (usize, &'a [f32])> {
    let size = |d: &u64| usize::try_from(*d).unwrap_or(usize::MAX);
    let channels = dims.get(axis).map_or(1, size).max(1);
    let inner: usize = dims.iter().skip(axis.saturating_add(1)).map(size).fold(1, usize::saturating_mul);
    (0..channels).cycle().zip(values.chunks(inner.max(1)))
}

/// The largest magnitude of each channel.
pub fn largest_of_channels(values: &[f32], dims: &[u64], axis: usize) -> Vec<f32> {
    let channels = dims.get(axis).and_then(|&d| usize::try_from(d).ok()).unwrap_or(1);
    let mut largest = vec![0.0f32; channels];
    for (channel, run) in runs(values, dims, axis) {
        if let Some(slot) = largest.get_mut(channel) {
            *slot = run.iter().fold(*slot, |m, v| m.max(v.abs()));
        }
    }
    largest
}

/// Rounds a weight to signed codes with the scale of its channel, of magnitude `limit` at most.
pub fn quantize(
    values: &[f32],
    dims: &[u64],
    axis: usize,
    codes: Codes,
    scales: Vec<f32>,
    limit: f32,
) -> Result<Channels, TensorError> {
    let mut out = Vec::with_capacity(values.len());
    let (mut signal, mut noise) = (0.0f64, 0.0f64);
    for (channel, run) in runs(values, dims, axis) {
        let scale = scales.get(channel).copied().unwrap_or(1.0);
        let grid = Grid { scale, zero_point: 0, codes };
        for &v in run {
            let code = grid.code(v).clamp(-limit, limit);
            let error = f64::from(v) - f64::from(grid.number(code));
            signal += f64::from(v) * f64::from(v);
            noise += error * error;
            out.push(code);
        }
    }
    Ok(Channels { codes: store(codes, dims, &out)?, scales, power: (signal, noise) })
}

/// Whole numbers, or numbers of float8, as a tensor of their type.
pub fn store(codes: Codes, dims: &[u64], values: &[f32]) -> Result<Tensor, TensorError> {
    let raw: Bytes = match codes {
        Codes::U8 => values.iter().map(|&v| v as u8).collect(),
        Codes::I8 => values.iter().map(|&v| (v as i8).cast_unsigned()).collect(),
        Codes::U16 => little_endian(values, |v| (v as u16).to_le_bytes()),
        Codes::I16 => little_endian(values, |v| (v as i16).to_le_bytes()),
        Codes::F8 => values.iter().map(|&v| e4m3_bits(v)).collect(),
    };
    Tensor::from_raw(codes.dtype(), Dims::from_slice(dims), raw)
}

/// The nearest number of float8 E4M3FN, ties to the one with an even mantissa; saturates at ±448.
fn e4m3(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let magnitude = x.abs().min(448.0);
    // Below 2^-6 the step stays that of the smallest exponent.
    let exponent = magnitude.max(E4M3_MIN_NORMAL).log2().floor();
    let step = (exponent - 3.0).exp2();
    ((magnitude / step).round_ties_even() * step).copysign(x)
}

const E4M3_MIN_NORMAL: f32 = 0.015_625;

/// The bits of a number of float8 E4M3FN.
fn e4m3_bits(x: f32) -> u8 {
    let sign = u8::from(x.is_sign_negative()) << 7;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = x.abs();
    if magnitude < E4M3_MIN_NORMAL {
        return sign | (magnitude * 512.0) as u8;
    }
    let exponent = magnitude.log2().floor();
    let mantissa = (magnitude / exponent.exp2() - 1.0) * 8.0;
    sign | ((exponent as i32 + 7) as u8) << 3 | mantissa as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTEGERS: [Codes; 4] = [Codes::U8, Codes::I8, Codes::U16, Codes::I16];

    #[test]
    fn halves_go_to_the_even_neighbour() {
        let of = |x: f32| (round_ties_even(x), round_ties_even(-x));
        for x in [0.0, 0.25, 0.5, 1.5, 2.5, 254.5, 8_388_607.5, 8_388_609.0, 3e38, f32::INFINITY] {
            assert_eq!(of(x), (x.round_ties_even(), (-x).round_ties_even()), "{x}");
        }
        assert!(round_ties_even(f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn inside_the_range_no_number_moves_by_more_than_half_a_step(
            low in -1e6f32..1e6, width in 1e-6f32..1e6, at in 0.0f32..1.0,
        ) {
            for codes in INTEGERS {
                let high = low + width;
                let g = Grid::covering(codes, low, high);
                let x = low + at * width;
                let back = g.number(g.code(x));
                // Half a step for rounding, and half for zero that moved onto the grid; the rest is float32.
                prop_assert!((x - back).abs() <= g.scale * 1.0001 + x.abs() * 1e-6, "{x} {back} {g:?}");
                let (first, last) = g.ends();
                prop_assert!(first <= 0.0 && last >= 0.0);
                prop_assert_eq!(g.number(g.code(0.0)), 0.0);
            }
        }

        #[test]
        fn codes_are_codes_of_their_numbers(low in -100f32..0.0, high in 0.01f32..100.0, code in 0u8..=255) {
            let g = Grid::covering(Codes::U8, low, high);
            prop_assert_eq!(g.code(g.number(f32::from(code))), f32::from(code));
        }

        #[test]
        fn symmetric_grids_reach_both_ends(largest in 1e-6f32..1e6) {
            for codes in INTEGERS {
                let g = Grid::symmetric(codes, largest);
                for x in [largest, -largest] {
                    let error = (x - g.number(g.code(x))).abs();
                    prop_assert!(error <= largest * 1e-6, "{error}");
                }
            }
        }

        #[test]
        fn float8_is_nearest(x in -500f32..500.0) {
            let all: Vec<f32> = (0u8..=255).filter(|b| b & 0x7f != 0x7f).map(from_e4m3).collect();
            let nearest = all.iter().map(|v| (v - x).abs()).fold(f32::INFINITY, f32::min);
            prop_assert!((e4m3(x) - x).abs() <= nearest * 1.000_001);
        }
    }

    fn from_e4m3(bits: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
        let magnitude = match exponent {
            0 => mantissa / 512.0,
            e => (1.0 + mantissa / 8.0) * ((e - 7) as f32).exp2(),
        };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn float8_bits_are_those_of_the_number() {
        for bits in (0u8..=255).filter(|b| b & 0x7f != 0x7f) {
            let x = from_e4m3(bits);
            assert_eq!((e4m3(x), e4m3_bits(x)), (x, bits), "{bits:02x}");
        }
        assert_eq!(e4m3(1e9), 448.0);
        // 17 lies between 16 and 18, 19 between 18 and 20: both to the even mantissa.
        assert_eq!((e4m3(17.0), e4m3(19.0)), (16.0, 20.0));
    }

    #[test]
    fn empty_and_extreme_ranges_have_a_usable_scale() {
        for (low, high) in [(0.0, 0.0), (-1e-44, 1e-44), (f32::MIN, f32::MAX), (f32::NAN, f32::NAN)] {
            for g in [Grid::covering(Codes::U8, low, high), Grid::symmetric(Codes::I8, high)] {
                assert!(g.scale.is_normal() && g.scale > 0.0, "{low} {high} {g:?}");
            }
        }
        assert_eq!(Grid::covering(Codes::U8, 3.0, 5.1).zero_point, 0);
        assert_eq!(Grid::covering(Codes::U8, -5.1, -3.0).zero_point, 255);
    }

    #[test]
    fn channels_lie_along_any_axis() {
        let values: Vec<f32> = (0..12).map(|i| i as f32 - 6.0).collect();
        assert_eq!(largest_of_channels(&values, &[3, 4], 0), [6.0, 2.0, 5.0]);
        assert_eq!(largest_of_channels(&values, &[3, 4], 1), [6.0, 5.0, 4.0, 5.0]);
        assert_eq!(largest_of_channels(&values, &[2, 3, 2], 1), [6.0, 4.0, 5.0]);
        let q = quantize(&values, &[3, 4], 1, Codes::I8, vec![0.5; 4], 10.0).unwrap();
        assert_eq!(q.codes.to_i64().unwrap(), [-10, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10]);
        assert_eq!(q.power, (146.0, 1.0));
    }

    #[test]
    fn ties_go_to_even() {
        let q = quantize(&[0.5, 1.5, -2.5, 127.0], &[4], 1, Codes::I8, vec![1.0], 127.0).unwrap();
        assert_eq!(q.codes.to_i64().unwrap(), [0, 2, -2, 127]);
    }
}
