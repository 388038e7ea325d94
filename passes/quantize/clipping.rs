//! Where to cut the range of activations off, from their histogram.
//!
//! Few outliers can take most of a range. What is cut off is clamped to its end, and everything else gets finer steps.
//!
//! | observer | what it keeps | reference |
//! |---|---|---|
//! | `auto` | `minmax` at matrix products, else `mse` | Bondarenko et al., Understanding and Overcoming the Challenges of Efficient Transformer Quantization, EMNLP 2021 |
//! | `minmax` | everything that was seen | |
//! | `percentile` | a share of the numbers, as much cut off at either end | Wu et al., Integer Quantization for Deep Learning Inference, 2020, section 5.2 |
//! | `entropy` | what loses least information, as the Kullback-Leibler divergence of the rounded histogram | Migacz, 8-bit Inference with TensorRT, GTC 2017 |
//! | `mse` | what has the smallest mean squared error, of what is computed of it if that is all that reads it | Choukroun et al., Low-bit Quantization of Neural Networks for Efficient Inference, ICCVW 2019 |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grid::{Codes, Grid};
use crate::calibration::Histogram;

/// How a range is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    /// `minmax` for what a matrix product reads, since the outliers of transformers carry meaning; `mse` for everything else.
    #[default]
    Auto,
    /// From the smallest to the largest number that was seen.
    MinMax,
    /// Most of the numbers.
    Percentile,
    /// Least loss of information.
    Entropy,
    /// Smallest squared error.
    Mse,
}

impl Observer {
    /// Its name in a pipeline.
    pub const fn name(self) -> &'static str {
        match self {
            Observer::Auto => "auto",
            Observer::MinMax => "minmax",
            Observer::Percentile => "percentile",
            Observer::Entropy => "entropy",
            Observer::Mse => "mse",
        }
    }
}

/// All that is computed of a value. What it makes equal need not be kept apart: below -3 a hard swish is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Behind {
    /// The value is read as it is.
    #[default]
    Itself,
    /// `x * clamp(x / 6 + 1 / 2, 0, 1)`.
    HardSwish,
    /// `x * sigmoid(alpha * x)`.
    Swish(f32),
    /// `sigmoid(x)`.
    Sigmoid,
    /// `clamp(alpha * x + beta, 0, 1)`.
    Ramp {
        /// Slope.
        alpha: f32,
        /// Number of 0.
        beta: f32,
    },
}

impl Behind {
    fn of(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Behind::Itself => x,
            Behind::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Behind::Swish(alpha) => x * sigmoid(f64::from(alpha) * x),
            Behind::Sigmoid => sigmoid(x),
            Behind::Ramp { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        }
    }
}

/// Bins with numbers in them.
struct Bins {
    /// Middle of a bin and its count, ascending.
    filled: Vec<(f64, f64)>,
    /// Half the width of a bin.
    half: f64,
    low: f64,
    high: f64,
}

impl Bins {
    fn of(histogram: &Histogram) -> Bins {
        let counts = histogram.counts().iter().enumerate().filter(|(_, n)| **n > 0);
        let (low, high) = (f64::from(histogram.min()).min(0.0), f64::from(histogram.max()).max(0.0));
        let filled = counts.map(|(bin, &n)| (histogram.center(bin), n as f64)).collect();
        Bins { filled, half: histogram.width() / 2.0, low, high }
    }

    fn total(&self) -> f64 {
        self.filled.iter().map(|(_, n)| n).sum()
    }
}

/// True if the range that an observer keeps depends on more than its ends.
pub fn needs_bins(observer: Observer, codes: Codes) -> bool {
    observer != Observer::MinMax && !matches!(codes, Codes::U16 | Codes::I16)
}

/// The range that an observer keeps. Both ends are 0 if there is nothing to see.
///
/// Sixteen bits are finer than the histogram, and so many codes need no cut: see [`needs_bins`]. `behind` is what `mse` takes the error
/// of.
pub fn range(
    histogram: &Histogram,
    observer: Observer,
    percentile: f64,
    (codes, symmetric): (Codes, bool),
    behind: Behind,
) -> (f32, f32) {
    if histogram.min() > histogram.max() {
        return (0.0, 0.0);
    }
    if !needs_bins(observer, codes) {
        return (histogram.min().min(0.0), histogram.max().max(0.0));
    }
    let bins = Bins::of(histogram);
    debug_assert!(!bins.filled.is_empty(), "a range was asked for that takes more than the ends");
    let (low, high) = match observer {
        Observer::MinMax => (bins.low, bins.high),
        Observer::Percentile => percentiles(&bins, percentile / 100.0),
        Observer::Entropy => entropy(&bins),
        Observer::Mse | Observer::Auto => mse(&bins, codes, symmetric, behind),
    };
    (low.max(bins.low) as f32, high.min(bins.high) as f32)
}

/// Cuts half of what is not kept off at either end.
fn percentiles(bins: &Bins, kept: f64) -> (f64, f64) {
    let cut = bins.total() * (1.0 - kept) / 2.0;
    let low = edge(bins.filled.iter(), cut) - bins.half;
    let high = edge(bins.filled.iter().rev(), cut) + bins.half;
    (low.min(0.0), high.max(0.0))
}

/// The first bin up to which there are more numbers than are cut off.
fn edge<'a>(mut bins: impl Iterator<Item = &'a (f64, f64)>, cut: f64) -> f64 {
    let mut seen = 0.0;
    let found = bins.find(|(_, n)| {
        seen += n;
        seen > cut
    });
    found.map_or(0.0, |(center, _)| *center)
}

/// Searches the end on one side, then on the other, until neither moves.
fn mse(bins: &Bins, codes: Codes, symmetric: bool, behind: Behind) -> (f64, f64) {
    let computed: Vec<(f64, f64, f64)> = bins.filled.iter().map(|&(x, n)| (x, n, behind.of(x))).collect();
    let error = |low: f64, high: f64| {
        let grid = match symmetric {
            true => Grid::symmetric(codes, high.max(-low) as f32),
            false => Grid::covering(codes, low as f32, high as f32),
        };
        let squared = |&(x, n, of_x): &(f64, f64, f64)| {
            let e = of_x - behind.of(f64::from(grid.number(grid.code(x as f32))));
            n * e * e
        };
        computed.iter().map(squared).sum::<f64>()
    };
    // Shares of the whole side, geometrically: heavy tails want to be cut by factors.
    const STEPS: i32 = 40;
    let shares: Vec<f64> = (0..STEPS).map(|i| 0.94f64.powi(i)).collect();
    let (mut low, mut high) = (bins.low, bins.high);
    let mut least = error(low, high);
    const ROUNDS: usize = 4;
    for _ in 0..ROUNDS {
        let before = (low, high);
        for share in &shares {
            let candidates = match symmetric {
                true => [(bins.low * share, bins.high * share), (low, high)],
                false => [(bins.low * share, high), (low, bins.high * share)],
            };
            for (l, h) in candidates {
                let e = error(l, h);
                if e < least {
                    (least, low, high) = (e, l, h);
                }
            }
        }
        if (low, high) == before {
            break;
        }
    }
    (low, high)
}

/// The magnitude at which the histogram, cut there and rounded to 128 levels, tells least from what it was.
fn entropy(bins: &Bins) -> (f64, f64) {
    const LEVELS: usize = 128;
    // As many bins as the method was made for: the finer they are, the less it keeps.
    const BINS: f64 = 2048.0;
    let width = (bins.half * 2.0).max(bins.high.max(-bins.low) / BINS);
    let place = |x: f64| (x.abs() / width) as usize;
    let length = bins.filled.iter().map(|(x, _)| place(*x) + 1).max().unwrap_or(0);
    let mut magnitudes = vec![0.0f64; length];
    for (x, n) in &bins.filled {
        if let Some(slot) = magnitudes.get_mut(place(*x)) {
            *slot += n;
        }
    }
    let mut best = (f64::INFINITY, length);
    let mut outside: f64 = magnitudes.iter().skip(LEVELS).sum();
    // A step of one bin at the fine end, and of about one per cent further out.
    let mut end = LEVELS;
    while end < length {
        let divergence = divergence(magnitudes.get(..end).unwrap_or_default(), outside, LEVELS);
        if divergence < best.0 {
            best = (divergence, end);
        }
        let next = end + (end / 100).max(1);
        outside -= magnitudes.get(end..next.min(length)).unwrap_or_default().iter().sum::<f64>();
        end = next;
    }
    // Nothing cut off loses nothing to the end.
    if divergence(&magnitudes, 0.0, LEVELS) < best.0 {
        best.1 = length;
    }
    let limit = best.1 as f64 * width;
    (-limit, limit)
}

/// Kullback-Leibler divergence of `inside` with `outside` added to its last bin, from `inside` averaged over each level.
fn divergence(inside: &[f64], outside: f64, levels: usize) -> f64 {
    let total: f64 = inside.iter().sum::<f64>() + outside;
    let averaged_total: f64 = inside.iter().sum();
    if averaged_total <= 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for level in 0..levels {
        let bound = |l: usize| l * inside.len() / levels;
        let group = inside.get(bound(level)..bound(level + 1)).unwrap_or_default();
        let filled = group.iter().filter(|n| **n > 0.0).count().max(1) as f64;
        let average = group.iter().sum::<f64>() / filled / averaged_total;
        for (i, n) in group.iter().enumerate() {
            let is_last = level + 1 == levels && i + 1 == group.len();
            let p = (n + if is_last { outside } else { 0.0 }) / total;
            if p > 0.0 {
                // What the rounded histogram does not have at all counts as very rare.
                let q = if *n > 0.0 { average } else { 1e-9 };
                sum += p * (p / q).ln();
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Observer; 5] =
        [Observer::Auto, Observer::MinMax, Observer::Percentile, Observer::Entropy, Observer::Mse];

    fn histogram(values: &[f32]) -> Histogram {
        let mut h = Histogram::new();
        h.extend(values);
        h
    }

    /// Roughly normal numbers, reproducibly.
    fn normal(n: u32) -> Vec<f32> {
        // SplitMix64.
        let uniform = |i: u64| {
            let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
        };
        (0..n).map(|i| (0..12).map(|k| uniform(u64::from(i) * 12 + k + 1)).sum::<f32>() - 6.0).collect()
    }

    fn error(values: &[f32], (low, high): (f32, f32)) -> f64 {
        let g = Grid::covering(Codes::U8, low, high);
        values.iter().map(|&x| f64::from(x - g.number(g.code(x))).powi(2)).sum()
    }

    #[test]
    fn an_outlier_is_cut_off_by_all_but_minmax() {
        let mut values = normal(20_000);
        values.push(400.0);
        let h = histogram(&values);
        for observer in ALL {
            let (low, high) = range(&h, observer, 99.99, (Codes::U8, false), Behind::Itself);
            assert!((-6.0..=-1.0).contains(&low), "{observer:?} {low}");
            match observer {
                Observer::MinMax => assert_eq!(high, 400.0),
                // One number of 400 weighs more than the rounding of all others together; half of the error goes to each.
                Observer::Mse | Observer::Auto => assert!(high > 100.0 && high <= 400.0, "{high}"),
                Observer::Percentile | Observer::Entropy => assert!((2.0..60.0).contains(&high), "{observer:?} {high}"),
            }
        }
    }

    #[test]
    fn numbers_without_outliers_keep_their_range() {
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0).collect();
        for observer in ALL {
            let (low, high) = range(&histogram(&values), observer, 99.99, (Codes::U8, false), Behind::Itself);
            assert_eq!(low, 0.0);
            assert!(high > 0.97, "{observer:?} {high}");
        }
    }

    #[test]
    fn nothing_to_see_gives_an_empty_range() {
        for observer in ALL {
            assert_eq!(range(&Histogram::new(), observer, 99.99, (Codes::U8, false), Behind::Itself), (0.0, 0.0));
            assert_eq!(range(&histogram(&[0.0; 5]), observer, 99.99, (Codes::U8, false), Behind::Itself), (0.0, 0.0));
        }
    }

    #[test]
    fn sixteen_bits_keep_everything() {
        let mut values = normal(1000);
        values.push(4000.0);
        assert_eq!(range(&histogram(&values), Observer::Mse, 99.0, (Codes::U16, false), Behind::Itself).1, 4000.0);
    }

    #[test]
    fn what_a_hard_swish_makes_zero_takes_no_codes() {
        // Even between -20 and 5: all below -3 gives 0.
        let values: Vec<f32> = (0..50_000).map(|i| i as f32 / 2000.0 - 20.0).collect();
        let ends = |behind| range(&histogram(&values), Observer::Mse, 0.0, (Codes::U8, false), behind);
        let (low, high) = ends(Behind::HardSwish);
        assert!((-3.3..=-2.6).contains(&low) && high > 4.9, "{low} {high}");
        let (low, _) = ends(Behind::Swish(1.0));
        assert!((-10.0..=-4.0).contains(&low), "{low}");
        assert!(ends(Behind::Itself).0 < -19.0);
        let (low, high) = ends(Behind::Ramp { alpha: 0.5, beta: 0.5 });
        // An end is cut down to a tenth at most.
        assert!((-2.0..=-0.9).contains(&low) && (0.9..=1.3).contains(&high), "{low} {high}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn ranges_lie_inside_what_was_seen_and_mse_is_no_worse_than_minmax(
            values in prop::collection::vec(-100f32..100.0, 1..400), heavy in 1f32..50.0,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v * (v.abs() / 100.0).powf(heavy / 10.0)).collect();
            let h = histogram(&values);
            for observer in ALL {
                let (low, high) = range(&h, observer, 99.9, (Codes::U8, false), Behind::Itself);
                prop_assert!(low <= 0.0 && high >= 0.0 && low >= h.min().min(0.0) && high <= h.max().max(0.0));
            }
            let found = error(&values, range(&h, Observer::Mse, 0.0, (Codes::U8, false), Behind::Itself));
            let all = error(&values, range(&h, Observer::MinMax, 0.0, (Codes::U8, false), Behind::Itself));
            // The search sees bins, not numbers.
            let bins = values.len() as f64 * h.width() * h.width();
            prop_assert!(found <= all * 1.1 + bins, "{found} {all}");
        }
    }
}
