//! Histograms of activations.

use planish_ir::Tensor;

use super::{Reader, Record, Statistic};

/// Bins on each side of 0.
const BINS: usize = 4096;

/// A histogram over a range that grows with what is added.
///
/// Its edges are multiples of a power of two, and it grows by doubling: so it does not depend on the order of the samples, and
/// holds the same counts as if the range had been known from the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Width of a bin is `2^exponent / BINS`; the bins span `-2^exponent..2^exponent`.
    exponent: i32,
    /// From the lowest to the highest; empty before the first number.
    counts: Vec<u64>,
    min: f32,
    max: f32,
    non_finite: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { exponent: i32::MIN, counts: Vec::new(), min: f32::INFINITY, max: f32::NEG_INFINITY, non_finite: 0 }
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// Counts of equally wide bins, from the lowest to the highest; the middle of the list is at 0. Empty if nothing was added.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2() / BINS as f64
    }

    /// The middle of a bin.
    pub fn center(&self, bin: usize) -> f64 {
        (bin as f64 + 0.5 - BINS as f64) * self.width()
    }

    /// Smallest finite number; infinity if there is none.
    pub const fn min(&self) -> f32 {
        self.min
    }

    /// Largest finite number; minus infinity if there is none.
    pub const fn max(&self) -> f32 {
        self.max
    }

    /// How many finite numbers were added.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many numbers were NaN or infinite, and left out.
    pub const fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// Adds numbers; those that are not finite are only counted.
    pub fn extend(&mut self, values: &[f32]) {
        let mut largest = 0.0f32;
        for &x in values {
            if x.is_finite() {
                largest = largest.max(x.abs());
                self.min = self.min.min(x);
                self.max = self.max.max(x);
            } else {
                self.non_finite += 1;
            }
        }
        if self.min > self.max {
            return;
        }
        self.cover(largest);
        let per_unit = 1.0 / self.width();
        for &x in values.iter().filter(|x| x.is_finite()) {
            // Exact: the width is a power of two. All numbers are below the upper end.
            let bin = (f64::from(x) * per_unit).floor() + BINS as f64;
            if let Some(count) = self.counts.get_mut(bin as usize) {
                *count += 1;
            }
        }
    }

    /// Widens the range until it holds `largest` on both sides.
    fn cover(&mut self, largest: f32) {
        let mut needed = exponent(largest);
        if self.counts.is_empty() {
            self.counts = vec![0; 2 * BINS];
            self.exponent = needed;
        }
        needed = needed.max(self.exponent);
        let steps = needed - self.exponent;
        if steps == 0 {
            return;
        }
        let mut counts = vec![0u64; 2 * BINS];
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            let offset = bin as i64 - BINS as i64;
            let merged = (offset >> steps.min(62)) + BINS as i64;
            if let Some(c) = usize::try_from(merged).ok().and_then(|m| counts.get_mut(m)) {
                *c += count;
            }
        }
        self.counts = counts;
        self.exponent = needed;
    }
}

/// The smallest `e` with `2^e > x`, not below that of the smallest normal number.
fn exponent(x: f32) -> i32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    (bits >> (f32::MANTISSA_DIGITS - 1)) as i32 - (f32::MAX_EXP - 1) + 1
}

impl Statistic for Histogram {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let &[tensor] = tensors else { return Err("a histogram is of one value".to_owned()) };
        self.extend(&super::rows::floats(tensor)?);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (2 * BINS * size_of::<u64>()) as u64
    }

    fn identity(&self) -> Option<String> {
        Some(format!("histogram of 2 x {BINS} bins"))
    }

    fn save(&self) -> Vec<u8> {
        let begun = Record::new()
            .number(self.non_finite)
            .float(f64::from(self.min))
            .float(f64::from(self.max))
            .float(f64::from(self.exponent))
            .number(self.counts.len() as u64);
        self.counts.iter().fold(begun, |r, &n| r.number(n)).bytes()
    }

    fn restore(&self, record: &[u8]) -> Result<Histogram, String> {
        let mut r = Reader::new(record);
        let non_finite = r.number()?;
        // They were such before, so nothing is lost.
        let (min, max, exponent) = (r.float()? as f32, r.float()? as f32, r.float()? as i32);
        let counts = (0..r.count()?).map(|_| r.number()).collect::<Result<Vec<u64>, String>>()?;
        r.end()?;
        if !counts.is_empty() && counts.len() != 2 * BINS {
            return Err(format!("it has {} bins", counts.len()));
        }
        Ok(Histogram { exponent, counts, min, max, non_finite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_on_an_edge_belongs_to_the_bin_above() {
        let mut h = Histogram::new();
        h.extend(&[1.0, -1.0, 0.0, f32::NAN]);
        assert_eq!(h.width(), 2.0 / BINS as f64);
        let filled: Vec<usize> = (0..2 * BINS).filter(|&b| h.counts()[b] > 0).collect();
        assert_eq!(filled, [BINS / 2, BINS, BINS + BINS / 2]);
        assert_eq!((h.count(), h.non_finite(), h.min(), h.max()), (3, 1, -1.0, 1.0));
        assert_eq!([exponent(0.9), exponent(1.0), exponent(0.0), exponent(f32::MAX)], [0, 1, -125, 128]);
    }

    proptest! {
        #[test]
        fn the_order_of_samples_does_not_matter(
            mut values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL, 1..60)
        ) {
            let mut whole = Histogram::new();
            whole.extend(&values);
            let mut parts = Histogram::new();
            values.reverse();
            values.chunks(7).for_each(|c| parts.extend(c));
            prop_assert_eq!(whole, parts);
        }
    }
}
