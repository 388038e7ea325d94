//! Values for weights that a text leaves out.
//!
//! They depend on the name, type and dims alone, and are numerically tame: networks made of them neither explode nor
//! vanish, and indices stay small.

use bytes::Bytes;
use half::{bf16, f16};

use crate::DType;

/// A generator of uniformly distributed numbers: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, OOPSLA 2014).
struct Generator(u64);

impl Generator {
    fn new(name: &str) -> Generator {
        let digest = blake3::hash(name.as_bytes());
        Generator(digest.as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In -1 to 1.
    fn unit(&mut self) -> f64 {
        // The upper 53 bits are a fraction that f64 holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// In `0..bound`, for bounds that are small against 2^64.
    fn below(&mut self, bound: u8) -> u8 {
        // Less than `bound`, hence a byte.
        (self.next() % u64::from(bound.max(1))) as u8
    }
}

/// Little-endian elements of a type that is no string; below 8 bits they are packed.
///
/// Floats are uniform in ±√(3/fan_in), which gives variance 1/fan_in. The fan-in is the product of all dims but the
/// first, or the larger of two dims; that of vectors and scalars counts as 3, so they are in ±1. Integers up to 8 bits
/// are weights and get -8 to 7 (or their whole range), unsigned ones 0 to 15; wider ones are sizes and indices and get
/// 0 to 3.
pub(super) fn raw(name: &str, dtype: DType, dims: &[u64], elements: usize) -> Vec<u8> {
    use DType::*;
    let mut g = Generator::new(name);
    let scale = (3.0 / fan_in(dims)).sqrt();
    let n = 0..elements;
    match dtype {
        F32 => n.flat_map(|_| ((g.unit() * scale) as f32).to_le_bytes()).collect(),
        F64 => n.flat_map(|_| (g.unit() * scale).to_le_bytes()).collect(),
        F16 => n.flat_map(|_| f16::from_f64(g.unit() * scale).to_le_bytes()).collect(),
        BF16 => n.flat_map(|_| bf16::from_f64(g.unit() * scale).to_le_bytes()).collect(),
        Complex64 => n.flat_map(|_| [g.unit(), g.unit()]).flat_map(|v| ((v * scale) as f32).to_le_bytes()).collect(),
        Complex128 => n.flat_map(|_| [g.unit(), g.unit()]).flat_map(|v| (v * scale).to_le_bytes()).collect(),
        I8 => n.flat_map(|_| (g.below(16).cast_signed() - 8).to_le_bytes()).collect(),
        U8 => n.map(|_| g.below(16)).collect(),
        Bool => n.map(|_| g.below(2)).collect(),
        I16 | U16 => n.flat_map(|_| u16::from(g.below(4)).to_le_bytes()).collect(),
        I32 | U32 => n.flat_map(|_| u32::from(g.below(4)).to_le_bytes()).collect(),
        I64 | U64 => n.flat_map(|_| u64::from(g.below(4)).to_le_bytes()).collect(),
        // Patterns up to 0x38 are at most 1 in all four formats, and finite; a negative zero is NaN in two of them.
        F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ => n
            .map(|_| match (g.below(0x39), g.below(2)) {
                (0, _) => 0,
                (magnitude, sign) => magnitude | sign << 7,
            })
            .collect(),
        // A power of two with the exponent -7 to 0.
        F8E8M0 => n.map(|_| 120 + g.below(8)).collect(),
        I4 | U4 | F4E2M1 => pack(4, n.map(|_| g.below(16))),
        I2 | U2 => pack(2, n.map(|_| g.below(4))),
        String => Vec::new(),
    }
}

/// Strings `name_0`, `name_1`, ….
pub(super) fn strings(name: &str, elements: usize) -> Vec<Bytes> {
    (0..elements).map(|i| Bytes::from(format!("{name}_{i}"))).collect()
}

/// Packs elements of `bits` bits, the first one in the low bits of a byte.
pub(super) fn pack(bits: usize, elements: impl Iterator<Item = u8>) -> Vec<u8> {
    let per_byte = 8 / bits;
    let mut bytes = Vec::new();
    for (i, element) in elements.enumerate() {
        match (i % per_byte, bytes.last_mut()) {
            (0, _) | (_, None) => bytes.push(element),
            (place, Some(byte)) => *byte |= element << (bits * place),
        }
    }
    bytes
}

fn fan_in(dims: &[u64]) -> f64 {
    let fan = match dims {
        [] | [_] => 3,
        [a, b] => *a.max(b),
        [_, rest @ ..] => rest.iter().copied().fold(1, u64::saturating_mul),
    };
    fan.max(1) as f64
}
