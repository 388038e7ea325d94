//! Sums over the weights of a block, eight numbers at once.
//!
//! The lanes are as many on all machines, and so the sums are the same to the bit.

use wide::f32x8;

use super::super::blocks::WHOLE;

/// Numbers in a vector.
const LANES: usize = 8;

/// Sums of what `terms` says of the numbers that lie at the same place of all columns.
#[inline(always)]
pub(super) fn sums<const K: usize, const N: usize>(
    columns: [&[f32]; K],
    terms: impl Fn([f32x8; K]) -> [f32x8; N],
) -> [f32; N] {
    let parts = columns.map(|c| c.as_chunks::<LANES>());
    let mut sums = [f32x8::ZERO; N];
    let whole = parts.iter().map(|p| p.0.len()).min().unwrap_or(0);
    for at in 0..whole {
        let terms = terms(parts.map(|p| f32x8::new(p.0[at])));
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    let rest = parts.iter().map(|p| p.1.len()).min().unwrap_or(0);
    if rest > 0 {
        let filled = parts.map(|p| f32x8::new(std::array::from_fn(|lane| p.1.get(lane).copied().unwrap_or(0.0))));
        let is_there = f32x8::new(std::array::from_fn(|lane| lane as f32)).simd_lt(f32x8::splat(rest as f32));
        sums.iter_mut().zip(terms(filled)).for_each(|(sum, term)| *sum += term & is_there);
    }
    sums.map(|lanes| lanes.to_array().iter().sum())
}

/// The nearest whole numbers between two of them, ties to the even one.
#[inline(always)]
pub(super) fn nearest(x: f32x8, lowest: f32, highest: f32) -> f32x8 {
    let whole = f32x8::splat(WHOLE);
    (x.fast_max(f32x8::splat(lowest)).fast_min(f32x8::splat(highest)) + whole) - whole
}

#[cfg(test)]
mod tests {
    use super::{super::super::blocks, *};

    #[test]
    fn every_number_counts_once() {
        for len in [0, 1, 7, 8, 9, 16, 31] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..len).map(|i| (i * i) as f32).collect();
            let [count, product] = sums([&a, &b], |[a, b]| [f32x8::ONE, a * b]);
            assert_eq!(count, len as f32);
            assert_eq!(product, a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>());
        }
    }

    #[test]
    fn codes_are_those_of_single_numbers() {
        let x = [0.5, 1.5, -2.5, 2.6, -0.2, 1e9, -1e9, 14.5];
        let wanted = x.map(|x| blocks::nearest(x, 0.0, 15.0));
        assert_eq!(nearest(f32x8::new(x), 0.0, 15.0).to_array(), wanted);
    }
}
