//! Histograms of activations.

use planish_ir::Tensor;

use super::{Reader, Record, Statistic};

/// Bins on each side of 0.
const BINS: usize = 4096;

/// Numbers whose bins are found at a time.
const CHUNK: usize = 1024;
/// Numbers that are counted at a time; fewer than 32 bits count.
const MOST: usize = 1 << 24;
/// From so many numbers on, several tables of counters are worth adding up.
const MANY: usize = 1 << 15;
const TABLES: usize = 4;
/// The least exponent of a range. Of what is smaller all are in the bins around 0; and widths, and their reciprocals, are normal numbers.
const LEAST_EXPONENT: i32 = -100;

/// A histogram over a range that grows with what is added.
///
/// Its edges are multiples of a power of two, and it grows by doubling: so it does not depend on the order of the samples, and
/// holds the same counts as if the range had been known from the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// False if only the ends are kept.
    has_bins: bool,
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
        let (min, max) = (f32::INFINITY, f32::NEG_INFINITY);
        Histogram { has_bins: true, exponent: i32::MIN, counts: Vec::new(), min, max, non_finite: 0 }
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// An empty one that keeps the smallest and the largest number alone, which takes a fraction of the time.
    pub fn of_ends() -> Histogram {
        Histogram { has_bins: false, ..Histogram::default() }
    }

    /// Counts of equally wide bins, from the lowest to the highest; the middle of the list is at 0. Empty if nothing was added, and if
    /// only the ends are kept.
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

    /// How many finite numbers are in the bins.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many numbers were NaN or infinite, and left out.
    pub const fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// Adds numbers; those that are not finite are only counted.
    pub fn extend(&mut self, values: &[f32]) {
        for values in values.chunks(MOST) {
            let (low, high, non_finite) = ends(values);
            self.min = self.min.min(low);
            self.max = self.max.max(high);
            self.non_finite += non_finite;
            if self.has_bins && low <= high {
                self.cover(high.max(-low));
                self.count_in(values);
            }
        }
    }

    /// Counts numbers in bins that cover them.
    fn count_in(&mut self, values: &[f32]) {
        let per_unit = (1.0 / self.width()) as f32;
        let mut bins = [0u16; CHUNK];
        if values.len() < MANY {
            for chunk in values.chunks(CHUNK) {
                place(chunk, per_unit, &mut bins);
                for (&bin, _) in bins.iter().zip(chunk).filter(|(_, x)| x.is_finite()) {
                    if let Some(count) = self.counts.get_mut(usize::from(bin)) {
                        *count += 1;
                    }
                }
            }
            return;
        }
        // Many numbers are the same, as zeros are, and a counter is not written twice at once. So neighbours have counters of their own.
        let mut tables = vec![[0u32; TABLES]; 2 * BINS];
        for chunk in values.chunks(CHUNK) {
            place(chunk, per_unit, &mut bins);
            for (bins, values) in bins.chunks(TABLES).zip(chunk.chunks(TABLES)) {
                for (table, (&bin, x)) in bins.iter().zip(values).enumerate() {
                    if let Some(count) = tables.get_mut(usize::from(bin)).and_then(|t| t.get_mut(table)) {
                        *count += u32::from(x.is_finite());
                    }
                }
            }
        }
        for (count, tables) in self.counts.iter_mut().zip(&tables) {
            *count += tables.iter().map(|&n| u64::from(n)).sum::<u64>();
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

/// The smallest and the largest finite number, and how many numbers are not finite. Infinity and minus infinity if none is finite.
fn ends(values: &[f32]) -> (f32, f32, u64) {
    // So many at a time, as they are independent.
    const LANES: usize = 16;
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut non_finite = [0u32; LANES];
    for chunk in values.chunks(LANES) {
        for (((&x, low), high), non_finite) in chunk.iter().zip(&mut low).zip(&mut high).zip(&mut non_finite) {
            let is_finite = x.abs() < f32::INFINITY;
            *low = if is_finite && x < *low { x } else { *low };
            *high = if is_finite && x > *high { x } else { *high };
            *non_finite += u32::from(!is_finite);
        }
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (low, high, non_finite.into_iter().map(u64::from).sum())
}

/// The bins of numbers; those that are not finite get any. `per_unit` is one over the width, a power of two.
fn place(values: &[f32], per_unit: f32, bins: &mut [u16; CHUNK]) {
    /// Around it floats are whole numbers, and all of them.
    const WHOLE: f32 = 12_582_912.0;
    for (bin, &x) in bins.iter_mut().zip(values) {
        // Exact, but for what is so small that it vanishes.
        let at = x * per_unit;
        let shifted = at + WHOLE;
        let nearest = shifted.to_bits().wrapping_sub(WHOLE.to_bits()) as i32;
        let is_above = i32::from(shifted - WHOLE > at) | (i32::from(at == 0.0) & i32::from(x < 0.0));
        *bin = (nearest - is_above).wrapping_add(BINS as i32) as u16;
    }
}

/// The smallest `e` with `2^e > x`, but for the least one.
fn exponent(x: f32) -> i32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let exponent = (bits >> (f32::MANTISSA_DIGITS - 1)) as i32 - (f32::MAX_EXP - 1) + 1;
    exponent.max(LEAST_EXPONENT)
}

impl Statistic for Histogram {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let &[tensor] = tensors else { return Err("a histogram is of one value".to_owned()) };
        self.extend(&super::rows::floats(tensor)?);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        if self.has_bins { (2 * BINS * size_of::<u64>()) as u64 } else { size_of::<Histogram>() as u64 }
    }

    fn identity(&self) -> Option<String> {
        Some(if self.has_bins { format!("histogram of 2 x {BINS} bins") } else { "ends".to_owned() })
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
        Ok(Histogram { has_bins: self.has_bins, exponent, counts, min, max, non_finite })
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
        assert_eq!([exponent(0.9), exponent(1.0), exponent(0.0), exponent(f32::MAX)], [0, 1, LEAST_EXPONENT, 128]);
    }

    #[test]
    fn the_ends_are_those_of_a_whole_histogram() {
        let values = [3.0, f32::NAN, -2.5, f32::INFINITY, 0.5];
        let (mut whole, mut ends) = (Histogram::new(), Histogram::of_ends());
        whole.extend(&values);
        ends.extend(&values);
        assert_eq!((ends.min(), ends.max(), ends.non_finite()), (whole.min(), whole.max(), whole.non_finite()));
        assert!(ends.counts().is_empty() && ends.identity() != whole.identity());
        assert_eq!(Histogram::of_ends().restore(&ends.save()), Ok(ends));
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
            prop_assert_eq!(&whole, &parts);
            let floor = |x: &f32| ((f64::from(*x) / whole.width()).floor() + BINS as f64) as usize;
            let mut counts = vec![0u64; 2 * BINS];
            values.iter().for_each(|x| counts[floor(x)] += 1);
            prop_assert_eq!(whole.counts(), counts);
        }

        #[test]
        fn many_numbers_are_counted_as_few_are(seed in 0u64..64) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                f32::from_bits((state >> 32) as u32)
            };
            let values: Vec<f32> = (0..MANY + 3).map(|_| next()).collect();
            let (mut many, mut few) = (Histogram::new(), Histogram::new());
            many.extend(&values);
            values.chunks(MANY / 2).for_each(|c| few.extend(c));
            prop_assert_eq!(many, few);
        }
    }
}
