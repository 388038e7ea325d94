//! CP decomposition of convolution kernels by alternating least squares.
//!
//! `W[o,i,t] ≈ Σ U[o,r] V[i,r] Π K_a[t_a,r]`, with one factor per spatial axis (Carroll, Chang 1970; Harshman 1970; Kolda, Bader: Tensor
//! decompositions and applications, SIAM Review 2009). Each factor in turn is a least squares problem of `rank x rank`.
//!
//! The best approximation may not exist: terms then grow without bound and cancel each other. So each step has a ridge, which falls
//! from sweep to sweep, toward the factor before the step (proximal, which leaves the minimum where it is), and terms are spread evenly
//! over the factors. Sweeps that follow a straight line are accelerated by a longer step along it, which is taken back if it does not
//! pay (Rajih, Comon, Harshman: Enhanced line search, SIAM J. Matrix Anal. Appl. 2008). Two starts, from the HOSVD and at random, run
//! for some sweeps, and the better one goes on. All but the last sweeps see the kernel projected onto as many of its leading singular vectors
//! as there are terms (Bro, Andersson: Improving the speed of multiway algorithms, Chemom. Intell. Lab. Syst. 1998).

use faer::Mat;

use super::{
    hooi::Kernel,
    svd::{self, Random},
};
use crate::reconstruct::toward;

/// Sweeps of each start.
const FIRST: usize = 30;
/// Sweeps of the better start.
const SWEEPS: usize = 400;
/// Fall of the relative error within [`PATIENCE`] sweeps below which there are no more.
const STALLED: f64 = 1e-6;
const PATIENCE: usize = 10;
/// Fall of the relative error that each multiply-accumulate must bring: 1e-5 for a billion.
const WORTH: f64 = 1e-14;
/// Ridge of the first sweep, as a share of the mean of the diagonal, and what is left of it from sweep to sweep.
const RIDGE: f64 = 1e-2;
const COOLING: f64 = 0.7;
/// Ridge of the last sweeps.
const LEAST: f64 = 1e-9;

/// A kernel as a sum of products.
#[derive(Debug, Clone)]
pub(super) struct Cp {
    /// `outputs x rank`.
    pub(super) outputs: Mat<f64>,
    /// `inputs x rank`.
    pub(super) inputs: Mat<f64>,
    /// `size x rank` for each spatial axis.
    pub(super) axes: Vec<Mat<f64>>,
    /// Norm of what is lost, as a share of the kernel's norm.
    pub(super) error: f64,
}

/// The best approximation of this rank that the sweeps find. `window` are the sizes of the spatial axes, row-major in the kernel's taps.
/// `None` if numbers are not finite or do not fit each other.
pub(super) fn cp(kernel: &Kernel, window: &[usize], rank: usize) -> Option<Cp> {
    let power = kernel.power();
    if !power.is_finite() || rank == 0 || window.iter().product::<usize>() != kernel.taps.len() {
        return None;
    }
    if power == 0.0 {
        return Some(zero(kernel, window, rank));
    }
    let fit = Fit { kernel, places: places(window), window, power };
    let (outputs, inputs) = kernel.shape();
    if rank >= outputs && rank >= inputs {
        return fit.searched(rank);
    }
    // No more than `rank` directions of outputs and inputs can be met, and most of the search can be for those alone.
    let u = svd::eigen(&kernel.output_gram(), rank)?.0;
    let v = svd::eigen(&kernel.input_gram(), rank)?.0;
    let small = kernel.between(u.transpose(), v.as_ref());
    let power = small.power();
    if power == 0.0 {
        return fit.searched(rank);
    }
    let found = Fit { kernel: &small, places: places(window), window, power }.searched(rank)?;
    let start = Cp { outputs: u * found.outputs, inputs: v * found.inputs, ..found };
    fit.run(start, SWEEPS, LEAST)
}

fn zero(kernel: &Kernel, window: &[usize], rank: usize) -> Cp {
    let (outputs, inputs) = kernel.shape();
    let axes = window.iter().map(|&k| Mat::zeros(k, rank)).collect();
    Cp { outputs: Mat::zeros(outputs, rank), inputs: Mat::zeros(inputs, rank), axes, error: 0.0 }
}

/// Coordinates of each tap.
fn places(window: &[usize]) -> Vec<Vec<usize>> {
    let place = |mut tap: usize| {
        let mut at: Vec<usize> = window
            .iter()
            .rev()
            .map(|&size| {
                let here = tap % size.max(1);
                tap /= size.max(1);
                here
            })
            .collect();
        at.reverse();
        at
    };
    (0..window.iter().product()).map(place).collect()
}

impl Cp {
    /// Products of the spatial factors, `taps x rank`; without one axis if it is given.
    fn taps(&self, places: &[Vec<usize>], without: Option<usize>) -> Mat<f64> {
        let rank = self.outputs.ncols();
        let factor = |t: usize, r: usize| {
            let at = places.get(t).map(Vec::as_slice).unwrap_or_default();
            let axes = self.axes.iter().zip(at).enumerate().filter(|(a, _)| Some(*a) != without);
            axes.map(|(_, (k, &x))| k[(x, r)]).product()
        };
        Mat::from_fn(places.len(), rank, factor)
    }

    /// What the terms make of the inputs before the outputs sum over them, `rank x inputs` for each tap.
    pub(super) fn features(&self) -> Vec<Mat<f64>> {
        let window: Vec<usize> = self.axes.iter().map(|k| k.nrows()).collect();
        let taps = self.taps(&places(&window), None);
        let (inputs, rank) = self.inputs.shape();
        (0..taps.nrows()).map(|t| Mat::from_fn(rank, inputs, |r, i| taps[(t, r)] * self.inputs[(i, r)])).collect()
    }

    /// The kernel that the factors stand for.
    #[cfg(test)]
    fn kernel(&self, window: &[usize]) -> Kernel {
        let taps = self.taps(&places(window), None);
        let tap = |t: usize| {
            let scaled =
                Mat::from_fn(self.outputs.nrows(), self.outputs.ncols(), |o, r| self.outputs[(o, r)] * taps[(t, r)]);
            scaled * self.inputs.transpose()
        };
        Kernel { taps: (0..taps.nrows()).map(tap).collect() }
    }

    fn factors_mut(&mut self) -> impl Iterator<Item = &mut Mat<f64>> {
        [&mut self.outputs, &mut self.inputs].into_iter().chain(&mut self.axes)
    }

    /// Gives each term the same norm in all factors.
    fn spread(&mut self) {
        let count = 2 + self.axes.len();
        for r in 0..self.outputs.ncols() {
            let norms: Vec<f64> = self.factors_mut().map(|f| f.col(r).norm_l2()).collect();
            let mean = norms.iter().map(|n| n.ln()).sum::<f64>() / count as f64;
            if !mean.is_finite() {
                continue;
            }
            for (factor, norm) in self.factors_mut().zip(norms) {
                let scale = mean.exp() / norm;
                for i in 0..factor.nrows() {
                    factor[(i, r)] *= scale;
                }
            }
        }
    }

    /// The point beyond this one, seen from an earlier one.
    fn beyond(&self, earlier: &Cp, step: f64) -> Cp {
        let mut next = self.clone();
        let along = |new: &mut Mat<f64>, old: &Mat<f64>| {
            for j in 0..new.ncols() {
                for i in 0..new.nrows() {
                    new[(i, j)] += step * (new[(i, j)] - old[(i, j)]);
                }
            }
        };
        along(&mut next.outputs, &earlier.outputs);
        along(&mut next.inputs, &earlier.inputs);
        next.axes.iter_mut().zip(&earlier.axes).for_each(|(new, old)| along(new, old));
        next
    }
}

/// A kernel that is being decomposed.
struct Fit<'a> {
    kernel: &'a Kernel,
    places: Vec<Vec<usize>>,
    window: &'a [usize],
    power: f64,
}

impl Fit<'_> {
    /// The best that is found from either start.
    fn searched(&self, rank: usize) -> Option<Cp> {
        let starts = [self.leading(rank)?, self.drawn(rank)];
        let tried = starts.map(|start| self.run(start, FIRST, RIDGE));
        let best = tried.into_iter().flatten().min_by(|a, b| a.error.total_cmp(&b.error))?;
        self.run(best, SWEEPS, RIDGE * COOLING.powi(FIRST as i32))
    }

    /// The fall of the error within [`PATIENCE`] sweeps below which there are no more, of terms of a rank.
    fn stalled(&self, rank: usize) -> f64 {
        let (outputs, inputs) = self.kernel.shape();
        let products = 2 * self.kernel.taps.len() * outputs * inputs + rank * (outputs + inputs) + rank * rank;
        STALLED.max(WORTH * (PATIENCE * products) as f64 * rank as f64)
    }

    /// The leading singular vectors of the unfoldings, and seeded noise where a factor has more columns.
    fn leading(&self, rank: usize) -> Option<Cp> {
        let mut random = Random(0x5eed_0000_0000_0002 ^ rank as u64);
        let mut filled = |(vectors, _): (Mat<f64>, Vec<f64>)| {
            let scale = 1.0 / (vectors.nrows().max(1) as f64).sqrt();
            Mat::from_fn(vectors.nrows(), rank, |i, r| match r < vectors.ncols() {
                true => vectors[(i, r)],
                false => scale * random.normal(),
            })
        };
        let outputs = filled(svd::eigen(&self.kernel.output_gram(), rank)?);
        let inputs = filled(svd::eigen(&self.kernel.input_gram(), rank)?);
        let mut axes = Vec::new();
        for (axis, &size) in self.window.iter().enumerate() {
            let mut gram = Mat::<f64>::zeros(size, size);
            for (x, a) in self.places.iter().zip(&self.kernel.taps) {
                for (y, b) in self.places.iter().zip(&self.kernel.taps) {
                    let same = x.iter().zip(y).enumerate().all(|(i, (x, y))| i == axis || x == y);
                    if let (true, Some(&x), Some(&y)) = (same, x.get(axis), y.get(axis)) {
                        gram[(x, y)] += svd::dot(a.as_ref(), b.as_ref());
                    }
                }
            }
            axes.push(filled(svd::eigen(&gram, rank)?));
        }
        Some(Cp { outputs, inputs, axes, error: f64::INFINITY })
    }

    fn drawn(&self, rank: usize) -> Cp {
        let mut random = Random(0x5eed_0000_0000_0003 ^ rank as u64);
        let mut factor = |size: usize| Mat::from_fn(size, rank, |_, _| random.normal());
        let (outputs, inputs) = self.kernel.shape();
        let (outputs, inputs) = (factor(outputs), factor(inputs));
        Cp { outputs, inputs, axes: self.window.iter().map(|&k| factor(k)).collect(), error: f64::INFINITY }
    }

    /// Sweeps until the error stalls. `None` if a step has no solution.
    fn run(&self, start: Cp, sweeps: usize, ridge: f64) -> Option<Cp> {
        let (mut now, mut earlier, mut ridge) = (start, None::<Cp>, ridge);
        let mut errors: Vec<f64> = Vec::new();
        let mut reach = 1.0;
        let stalled = self.stalled(now.outputs.ncols());
        for sweep in 0..sweeps {
            ridge = (ridge * COOLING).max(LEAST);
            let mut next = self.sweep(now.clone(), ridge)?;
            if let (Some(before), true) = (&earlier, sweep % 4 == 3) {
                // A longer step, and a sweep from there.
                match self.sweep(next.beyond(before, reach), ridge) {
                    Some(far) if far.error < next.error => {
                        next = far;
                        reach *= 1.5;
                    }
                    _ => reach = (0.5 * reach).max(0.5),
                }
            }
            earlier = Some(std::mem::replace(&mut now, next));
            let past = errors.len().checked_sub(PATIENCE).and_then(|at| errors.get(at)).copied();
            errors.push(now.error);
            if past.is_some_and(|past| past - now.error < stalled) {
                break;
            }
        }
        Some(now)
    }

    /// Each factor once, the outputs' last.
    fn sweep(&self, mut at: Cp, ridge: f64) -> Option<Cp> {
        at.spread();
        let rank = at.outputs.ncols();
        // The kernel along the terms' outputs, `inputs x rank` for each tap.
        let along: Vec<Mat<f64>> = self.kernel.taps.iter().map(|w| w.transpose() * &at.outputs).collect();
        let outer = self_products(&at.outputs);
        let taps = at.taps(&self.places, None);
        let wanted = weighted(&along, &taps);
        let spatial: Vec<Mat<f64>> = at.axes.iter().map(self_products).collect();
        at.inputs = solve(&product(std::iter::once(&outer).chain(&spatial), rank), &wanted, &at.inputs, ridge)?;

        let inner = self_products(&at.inputs);
        let both = Mat::from_fn(along.len(), rank, |t, r| {
            along.get(t).map_or(0.0, |a| a.col(r).transpose() * at.inputs.col(r))
        });
        for axis in 0..at.axes.len() {
            let others = at.taps(&self.places, Some(axis));
            let Some(old) = at.axes.get(axis) else { continue };
            let mut wanted = Mat::<f64>::zeros(old.nrows(), rank);
            for (t, place) in self.places.iter().enumerate() {
                let Some(&x) = place.get(axis) else { continue };
                for r in 0..rank {
                    wanted[(x, r)] += both[(t, r)] * others[(t, r)];
                }
            }
            let rest: Vec<Mat<f64>> =
                at.axes.iter().enumerate().filter(|(a, _)| *a != axis).map(|(_, k)| self_products(k)).collect();
            let moments = product([&outer, &inner].into_iter().chain(&rest), rank);
            let new = solve(&moments, &wanted, old, ridge)?;
            if let Some(old) = at.axes.get_mut(axis) {
                *old = new;
            }
        }

        let along: Vec<Mat<f64>> = self.kernel.taps.iter().map(|w| w * &at.inputs).collect();
        let wanted = weighted(&along, &at.taps(&self.places, None));
        let spatial: Vec<Mat<f64>> = at.axes.iter().map(self_products).collect();
        let moments = product(std::iter::once(&inner).chain(&spatial), rank);
        at.outputs = solve(&moments, &wanted, &at.outputs, ridge)?;
        let made = svd::dot((&at.outputs * &moments).as_ref(), at.outputs.as_ref());
        let lost = self.power - 2.0 * svd::dot(wanted.as_ref(), at.outputs.as_ref()) + made;
        at.error = (lost.max(0.0) / self.power).sqrt();
        at.error.is_finite().then_some(at)
    }
}

fn self_products(factor: &Mat<f64>) -> Mat<f64> {
    factor.transpose() * factor
}

/// Element by element.
fn product<'a>(matrices: impl Iterator<Item = &'a Mat<f64>>, rank: usize) -> Mat<f64> {
    let mut result = Mat::from_fn(rank, rank, |_, _| 1.0);
    for m in matrices {
        for j in 0..rank {
            for i in 0..rank {
                result[(i, j)] *= m[(i, j)];
            }
        }
    }
    result
}

/// `Σ along[t] diag(taps[t])`.
fn weighted(along: &[Mat<f64>], taps: &Mat<f64>) -> Mat<f64> {
    let (rows, rank) = along.first().map_or((0, 0), |a| a.shape());
    let mut sum = Mat::<f64>::zeros(rows, rank);
    for (t, a) in along.iter().enumerate() {
        for r in 0..rank {
            let scale = taps[(t, r)];
            for i in 0..rows {
                sum[(i, r)] += scale * a[(i, r)];
            }
        }
    }
    sum
}

/// Least squares with a ridge toward the old factor.
fn solve(moments: &Mat<f64>, wanted: &Mat<f64>, old: &Mat<f64>, ridge: f64) -> Option<Mat<f64>> {
    let rank = moments.nrows();
    let mean = (0..rank).map(|r| moments[(r, r)]).sum::<f64>() / rank.max(1) as f64;
    let lambda = ridge * mean;
    if !lambda.is_finite() || lambda <= 0.0 {
        return None;
    }
    toward(old, moments, wanted, lambda)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(outputs: usize, inputs: usize, taps: usize, seed: u64) -> Kernel {
        let mut random = Random(seed);
        Kernel { taps: (0..taps).map(|_| Mat::from_fn(outputs, inputs, |_, _| random.normal())).collect() }
    }

    fn distance(a: &Kernel, b: &Kernel) -> f64 {
        let lost: f64 = a.taps.iter().zip(&b.taps).map(|(a, b)| (a - b).squared_norm_l2()).sum();
        (lost / a.power()).sqrt()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_error_is_what_it_says(
            outputs in 1usize..6, inputs in 1usize..6, rows in 1usize..4, columns in 1usize..4, rank in 1usize..6, seed in 0u64..1000,
        ) {
            let kernel = drawn(outputs, inputs, rows * columns, seed);
            let found = cp(&kernel, &[rows, columns], rank).unwrap();
            prop_assert!((distance(&kernel, &found.kernel(&[rows, columns])) - found.error).abs() < 1e-6);
        }
    }

    #[test]
    fn what_has_the_rank_is_found() {
        for (window, seed) in [(&[3usize, 3][..], 1), (&[5], 2), (&[2, 3, 2], 3)] {
            let mut random = Random(seed);
            let mut factor = |size: usize| Mat::from_fn(size, 4, |_, _| random.normal());
            let terms = Cp {
                outputs: factor(8),
                inputs: factor(6),
                axes: window.iter().map(|&k| factor(k)).collect(),
                error: 0.0,
            };
            let kernel = terms.kernel(window);
            let found = cp(&kernel, window, 4).unwrap();
            assert!(distance(&kernel, &found.kernel(window)) < 1e-3, "{window:?}: {}", found.error);
        }
    }

    #[test]
    fn errors_fall_with_the_rank() {
        let kernel = drawn(6, 5, 9, 4);
        let errors: Vec<f64> = [2, 8, 16, 32, 45].iter().map(|&r| cp(&kernel, &[3, 3], r).unwrap().error).collect();
        assert!(errors.is_sorted_by(|a, b| *b < a + 1e-6), "{errors:?}");
        // As many terms as inputs and taps make everything.
        assert!(errors[4] < 1e-2, "{errors:?}");
    }

    #[test]
    fn a_kernel_without_a_best_approximation_stays_bounded() {
        // The sum a a b + a b a + b a a has rank 3, and terms of rank 2 come as near as one likes while they grow.
        let kernel = Kernel {
            taps: vec![
                Mat::from_fn(2, 2, |i, j| if i + j == 1 { 1.0 } else { 0.0 }),
                Mat::from_fn(2, 2, |i, j| if i + j == 0 { 1.0 } else { 0.0 }),
            ],
        };
        let found = cp(&kernel, &[2], 2).unwrap();
        let most = found.outputs.norm_max().max(found.inputs.norm_max());
        assert!(found.error < 0.3 && most < 1e3, "{} {most}", found.error);
    }

    #[test]
    fn nothing_and_nonsense() {
        assert_eq!(cp(&Kernel { taps: vec![Mat::zeros(3, 3); 4] }, &[2, 2], 2).unwrap().error, 0.0);
        let mut broken = drawn(4, 4, 4, 4);
        broken.taps[1][(2, 2)] = f64::NAN;
        assert!(cp(&broken, &[2, 2], 2).is_none());
        assert!(cp(&drawn(2, 2, 4, 1), &[3, 2], 2).is_none());
    }
}
