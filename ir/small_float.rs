//! Floats of 4 and 8 bits.
//!
//! E4M3 and E5M2 are named after the bits of their exponent and mantissa. FN has no infinity, FNUZ neither infinity nor a
//! negative zero, E2M1 not even a NaN. Reference: Micikevicius et al., FP8 Formats for Deep Learning, 2022; Open Compute
//! Project, Microscaling Formats (MX) 1.0; ONNX, "Float stored in 8 bits".

use crate::DType;

/// A signed float format of at most 8 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SmallFloat {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    special: Special,
}

/// Which codes are no finite numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Special {
    /// None.
    Nothing,
    /// All bits but the sign set: NaN.
    AllOnes,
    /// The code of the negative zero: NaN.
    NegativeZero,
    /// The largest exponent: infinities and NaN, as in IEEE 754.
    LargestExponent,
}

impl SmallFloat {
    /// The format of an element type; `None` for types that are no signed floats of at most 8 bits.
    pub const fn of(dtype: DType) -> Option<SmallFloat> {
        let (exponent, mantissa, bias, special) = match dtype {
            DType::F4E2M1 => (2, 1, 1, Special::Nothing),
            DType::F8E4M3FN => (4, 3, 7, Special::AllOnes),
            DType::F8E4M3FNUZ => (4, 3, 8, Special::NegativeZero),
            DType::F8E5M2 => (5, 2, 15, Special::LargestExponent),
            DType::F8E5M2FNUZ => (5, 2, 16, Special::NegativeZero),
            _ => return None,
        };
        Some(SmallFloat { exponent, mantissa, bias, special })
    }

    /// The largest finite number.
    pub fn max(self) -> f32 {
        self.magnitude(self.max_code())
    }

    /// The number that a code stands for. Bits above those of the format are not looked at.
    pub fn decode(self, code: u8) -> f32 {
        let magnitude = u32::from(code) & (self.sign() - 1);
        let is_negative = u32::from(code) & self.sign() != 0;
        if magnitude > self.max_code() {
            return match self.special == Special::LargestExponent && magnitude == self.max_code() + 1 {
                true if is_negative => f32::NEG_INFINITY,
                true => f32::INFINITY,
                false => f32::NAN.copysign(if is_negative { -1.0 } else { 1.0 }),
            };
        }
        if magnitude == 0 && is_negative && self.special == Special::NegativeZero {
            return f32::NAN;
        }
        let value = self.magnitude(magnitude);
        if is_negative { -value } else { value }
    }

    /// The code of the nearest number, ties to even. What is too large becomes, infinities included, the largest number if
    /// `saturate`, else infinity, or NaN where the format has none. A NaN stays one; E2M1, which has none, makes it a negative zero, as
    /// the official tests have it.
    pub fn encode(self, value: f32, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign() } else { 0 };
        let max = self.max_code();
        let nan = match self.special {
            Special::Nothing => self.sign(),
            Special::AllOnes => sign | (self.sign() - 1),
            // The quiet one with no payload.
            Special::LargestExponent => sign | (max + 1) | (1 << (self.mantissa - 1)),
            Special::NegativeZero => self.sign(),
        };
        if value.is_nan() {
            return nan as u8;
        }
        let code = match self.rounded(value.abs()) {
            code if code <= max => code,
            _ if saturate || self.special == Special::Nothing => max,
            _ if self.special == Special::LargestExponent => max + 1,
            _ => return nan as u8,
        };
        let sign = if code == 0 && self.special == Special::NegativeZero { 0 } else { sign };
        (sign | code) as u8
    }

    /// The code of a magnitude, as if the exponent had no end.
    fn rounded(self, value: f32) -> u32 {
        if value.is_infinite() {
            return u32::MAX;
        }
        // Whole steps between neighbours of the size of the value, which a float holds exactly.
        let exponent = exponent_of(value).max(1 - self.bias);
        let steps = (f64::from(value) * f64::from(self.mantissa as i32 - exponent).exp2()).round_ties_even();
        // A full mantissa carries over into the exponent by itself.
        (((exponent + self.bias - 1) as u32) << self.mantissa).saturating_add(steps as u32)
    }

    fn magnitude(self, code: u32) -> f32 {
        let (exponent, mantissa) = (code >> self.mantissa, code & ((1 << self.mantissa) - 1));
        let fraction = mantissa as f32 / (1u32 << self.mantissa) as f32;
        match exponent {
            0 => fraction * ((1 - self.bias) as f32).exp2(),
            e => (1.0 + fraction) * (e as f32 - self.bias as f32).exp2(),
        }
    }

    /// The bit of the sign.
    const fn sign(self) -> u32 {
        1 << (self.exponent + self.mantissa)
    }

    /// The code of the largest finite number.
    const fn max_code(self) -> u32 {
        match self.special {
            Special::Nothing | Special::NegativeZero => self.sign() - 1,
            Special::AllOnes => self.sign() - 2,
            Special::LargestExponent => self.sign() - 1 - (1 << self.mantissa),
        }
    }
}

/// The exponent of a finite magnitude; that of the smallest normal one for subnormal ones.
fn exponent_of(value: f32) -> i32 {
    ((value.to_bits() >> 23) as i32 - 127).max(-126)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DType; 5] = [DType::F4E2M1, DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ];

    fn codes(dtype: DType) -> impl Iterator<Item = u8> {
        (0..1u16 << dtype.bits()).map(|c| c as u8)
    }

    #[test]
    fn numbers_of_known_codes() {
        let of = |d| SmallFloat::of(d).unwrap();
        assert_eq!(
            codes(DType::F4E2M1).take(8).map(|c| of(DType::F4E2M1).decode(c)).collect::<Vec<_>>(),
            [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        );
        let e4m3 = of(DType::F8E4M3FN);
        assert_eq!([0x01, 0x38, 0xB8, 0x7E].map(|c| e4m3.decode(c)), [0.001953125, 1.0, -1.0, 448.0]);
        assert!(e4m3.decode(0x7F).is_nan() && e4m3.decode(0xFF).is_nan());
        let e5m2 = of(DType::F8E5M2);
        assert_eq!([0x7B, 0x7C, 0xFC].map(|c| e5m2.decode(c)), [57344.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert!((0x7D..=0x7F).all(|c| e5m2.decode(c).is_nan()));
        assert_eq!((of(DType::F8E4M3FNUZ).max(), of(DType::F8E5M2FNUZ).max()), (240.0, 57344.0));
        assert!(of(DType::F8E4M3FNUZ).decode(0x80).is_nan());
        assert_eq!(SmallFloat::of(DType::F16), None);
    }

    #[test]
    fn every_code_comes_back() {
        for dtype in ALL {
            let f = SmallFloat::of(dtype).unwrap();
            for code in codes(dtype) {
                let value = f.decode(code);
                let back = f.encode(value, false);
                assert!(if value.is_nan() { f.decode(back).is_nan() } else { back == code }, "{dtype} {code:#x}");
            }
        }
    }

    /// Against all numbers of the format: no other one is nearer, and of two equally near ones it is the even one.
    #[test]
    fn rounding_is_to_the_nearest_even_code() {
        for dtype in ALL {
            let f = SmallFloat::of(dtype).unwrap();
            let finite: Vec<(u8, f32)> = codes(dtype)
                .map(|c| (c, f.decode(c)))
                .filter(|(c, v)| v.is_finite() && (*c == 0 || *v != 0.0))
                .collect();
            let mut values: Vec<f32> = finite.iter().map(|(_, v)| *v).collect();
            values.sort_by(f32::total_cmp);
            // Neighbours, the middle between them, and what is just beside it.
            let pairs = values.windows(2).map(|w| (w[0] / 2.0 + w[1] / 2.0, w[1]));
            for v in pairs.flat_map(|(m, v)| [m, m.next_up(), m.next_down(), v, v.next_up(), v.next_down()]) {
                let got = f.encode(v, true);
                let distance = |x: f32| (f64::from(x) - f64::from(v)).abs();
                let best = finite.iter().map(|(_, x)| distance(*x)).fold(f64::INFINITY, f64::min);
                assert_eq!(distance(f.decode(got)), best, "{dtype} {v} {got:#x}");
                let nearest = finite.iter().filter(|(_, x)| distance(*x) == best).count();
                assert!(nearest == 1 || got & 1 == 0, "{dtype} {v} {got:#x}");
            }
        }
    }

    #[test]
    fn what_is_too_large() {
        for dtype in ALL {
            let f = SmallFloat::of(dtype).unwrap();
            for large in [f.max() * 1.5, f32::MAX, f32::INFINITY] {
                assert_eq!(f.decode(f.encode(large, true)), f.max());
                assert_eq!(f.decode(f.encode(-large, true)), -f.max());
                let beyond = f.decode(f.encode(large, false));
                match dtype {
                    DType::F8E5M2 => assert_eq!(beyond, f32::INFINITY),
                    DType::F4E2M1 => assert_eq!(beyond, 6.0),
                    _ => assert!(beyond.is_nan()),
                }
            }
            assert!(dtype == DType::F4E2M1 || f.decode(f.encode(f32::NAN, true)).is_nan());
        }
        let e4m3 = SmallFloat::of(DType::F8E4M3FN).unwrap();
        assert_eq!(e4m3.decode(e4m3.encode(464.0, false)), 448.0, "a tie that goes down to the even code");
        assert_eq!(SmallFloat::of(DType::F8E4M3FNUZ).unwrap().encode(-1e-9, true), 0);
    }
}
