//! A name for content: 48 bits of a fast hash.
//!
//! Data files are named by what is in them, so that a file of a given name never changes. The hash guards against accidents,
//! not against adversaries: whoever can choose the weights can write the file anyway. A step multiplies 64 by 64 bits and folds
//! the 128 of the product, the construction of wyhash and its kin; four independent lanes make it faster than memory.

use std::io;

use crate::sources::Sources;

/// Odd, with evenly spread bits: the fraction of the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A running hash. What counts are the bytes and how they are divided into calls of [`Digest::payload`].
pub(crate) struct Digest {
    lanes: [u64; 4],
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self { lanes: [1, 2, 3, 4].map(|seed: u64| seed.wrapping_mul(MULTIPLIER)) }
    }

    /// Take in one weight and its size.
    pub(crate) fn payload(&mut self, bytes: &[u8], sources: &Sources) -> io::Result<()> {
        self.step([bytes.len() as u64, 0, 0, 0]);
        sources.read(bytes, |piece| {
            let (blocks, rest) = piece.as_chunks::<32>();
            blocks.iter().for_each(|block| self.block(block));
            let mut last = [0; 32];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.block(&last);
        })
    }

    /// Twelve hexadecimal digits.
    pub(crate) fn hex(self) -> String {
        let mixed = self.lanes.into_iter().fold(0_u64, |all, lane| fold(fold(all) ^ lane).rotate_left(23));
        format!("{:012x}", fold(mixed) >> 16)
    }

    fn block(&mut self, block: &[u8; 32]) {
        let (words, _) = block.as_chunks::<8>();
        let mut next = [0; 4];
        next.iter_mut().zip(words).for_each(|(to, word)| *to = u64::from_le_bytes(*word));
        self.step(next);
    }

    fn step(&mut self, words: [u64; 4]) {
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = fold(*lane ^ word);
        }
    }
}

/// Let every bit reach almost every other.
fn fold(word: u64) -> u64 {
    let product = u128::from(word) * u128::from(MULTIPLIER);
    let (low, high) = (product & u128::from(u64::MAX), product >> 64);
    u64::try_from(low ^ high).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hex(payloads: &[&[u8]]) -> String {
        let mut digest = Digest::new();
        payloads.iter().for_each(|bytes| digest.payload(bytes, &Sources::default()).unwrap());
        digest.hex()
    }

    #[test]
    fn every_bit_and_every_boundary_counts() {
        let base = [7_u8; 100];
        let mut seen = BTreeSet::from([hex(&[]), hex(&[&[]]), hex(&[&base]), hex(&[&base[..50], &base[50..]])]);
        for bit in 0..base.len() * 8 {
            let mut changed = base;
            changed[bit / 8] ^= 1 << (bit % 8);
            seen.insert(hex(&[&changed]));
        }
        for length in 0..base.len() {
            seen.insert(hex(&[&[0; 100][..length]]));
        }
        // The empty payload was counted twice.
        assert_eq!(seen.len(), 4 + base.len() * 8 + base.len() - 1);
        assert_eq!(hex(&[&base]).len(), 12);
    }

    #[test]
    fn names_stay_the_same_between_releases() {
        assert_eq!(hex(&[b"weights"]), "86b2ec81deb6");
    }
}
