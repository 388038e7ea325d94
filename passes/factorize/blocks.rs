//! Kernels whose inputs go through a projection: the first factor of Tucker-2 and of a spatial split, and what is best behind it.
//!
//! The columns of a layer's matrix come in blocks that the projection treats alike: one block for each tap, if it sees one tap at a time.
//! `Σ_b W_b x_b ≈ Σ_b M_b Aᵀ x_b`. Without samples, `A` are the leading eigenvectors of `Σ W_bᵀ W_b`, or those that HOOI finds. With second
//! moments `G` of the rows, the inputs are whitened by the mean of the blocks on its diagonal before that, and `M` is what is best behind
//! `A` by least squares; a lower rank of the outputs is then reduced-rank regression, whose optimum are the leading eigenvectors of
//! `M Z Mᵀ`, where `Z` are the moments behind the projection (Izenman: Reduced-rank regression for the multivariate linear model, Journal of
//! Multivariate Analysis 1975).

use faer::{
    Mat, MatRef, Side,
    linalg::{solvers::Solve, triangular_solve::solve_upper_triangular_in_place},
};
use rayon::prelude::*;

use super::{
    hooi::{self, Kernel},
    least::Least,
    nested::Nested,
    svd,
};

/// A turn that takes off less than this part of the error is the last one.
const STALLED: f64 = 1e-3;
/// Features, inputs in all blocks, up to which every step towards the optimum is taken. A step costs about their square.
const SMALL: usize = 1152;

/// How far the optimum is followed.
struct Effort {
    /// Sweeps over projection and outputs for the options that there are to choose from.
    before: usize,
    /// Sweeps for what was chosen.
    sweeps: usize,
    /// Turns of all factors behind them.
    turns: usize,
    /// Steps for the projection in each turn.
    steps: usize,
}

const THOROUGH: Effort = Effort { before: 8, sweeps: 8, turns: 6, steps: 8 };
/// The same steps, but fewer, and none for options of which most are never taken: on large kernels they would be most of the work.
const BRISK: Effort = Effort { before: 0, sweeps: 2, turns: 4, steps: 4 };

/// Ridge of regressions whose inputs may depend on each other, as a share of the mean of the diagonal.
const DEPENDENT: f64 = 1e-9;

/// A layer's matrix in blocks.
pub(super) struct Blocks {
    /// A block for each place behind the projection, `outputs x inputs of the projection`.
    pub(super) kernel: Kernel,
    known: Option<Known>,
    /// Sum of squares of the weights, or of what the layer computes.
    pub(super) power: f64,
}

struct Known {
    /// Second moments of the rows, block by block.
    moments: Mat<f64>,
    /// `W G`.
    cross: Mat<f64>,
    /// Upper triangular, with `Rᵀ R` the mean of the diagonal blocks.
    root: Mat<f64>,
}

/// What is behind a projection.
#[derive(Debug, Clone)]
pub(super) struct Behind {
    /// `inputs x rank`.
    pub(super) projection: Mat<f64>,
    /// `outputs x rank` for each block.
    pub(super) weights: Kernel,
    /// Orthonormal, the most important first; no more than were asked for, none if they are not compressed.
    pub(super) outputs: Mat<f64>,
    /// What each of them keeps; all of it if they are not compressed.
    pub(super) squares: Vec<f64>,
}

impl Blocks {
    /// Columns that are `blocks` apart are of one block. `None` if numbers are not finite.
    pub(super) fn new(rows: MatRef<'_, f64>, blocks: usize, moments: Option<&Mat<f64>>) -> Option<Blocks> {
        let kernel = Kernel::of_rows(rows, blocks);
        let inner = kernel.shape().1;
        let Some(given) = moments else {
            let power = kernel.power();
            return power.is_finite().then_some(Blocks { kernel, known: None, power });
        };
        let place = |k: usize| k % inner * blocks + k / inner;
        let n = rows.ncols();
        let moments = Mat::from_fn(n, n, |i, j| given[(place(i), place(j))]);
        let mut cross = Mat::zeros(rows.nrows(), n);
        for (b, w) in kernel.taps.iter().enumerate() {
            cross += w * moments.get(b * inner..(b + 1) * inner, ..);
        }
        let mean = Mat::from_fn(inner, inner, |i, j| {
            (0..blocks).map(|b| moments[(b * inner + i, b * inner + j)]).sum::<f64>() / blocks as f64
        });
        let root = mean.llt(Side::Lower).ok()?.L().transpose().to_owned();
        let power: f64 = kernel
            .taps
            .iter()
            .enumerate()
            .map(|(b, w)| svd::dot(w.as_ref(), cross.get(.., b * inner..(b + 1) * inner)))
            .sum();
        power.is_finite().then_some(Blocks { kernel, known: Some(Known { moments, cross, root }), power })
    }

    /// Outputs, and inputs of the projection.
    pub(super) fn shape(&self) -> (usize, usize) {
        self.kernel.shape()
    }

    /// Squared singular values along the outputs, the largest first.
    pub(super) fn output_squares(&self) -> Option<Vec<f64>> {
        let products = match &self.known {
            None => self.kernel.output_gram(),
            Some(known) => {
                let (outputs, inner) = self.shape();
                let mut sum = Mat::zeros(outputs, outputs);
                for (b, w) in self.kernel.taps.iter().enumerate() {
                    sum += known.cross.get(.., b * inner..(b + 1) * inner) * w.transpose();
                }
                sum
            }
        };
        Some(svd::eigen(&products, 0)?.1)
    }

    /// True if second moments are known.
    pub(super) const fn is_whitened(&self) -> bool {
        self.known.is_some()
    }

    /// The best weights behind features, `rank x inputs` for each block, and their error as a share of the power. Nothing without second
    /// moments.
    pub(super) fn regress(&self, features: &[Mat<f64>]) -> Option<(Mat<f64>, f64)> {
        let known = self.known.as_ref()?;
        let (outputs, inner) = self.shape();
        let rank = features.first()?.nrows();
        let (mut half, mut cross) = (Mat::<f64>::zeros(known.moments.nrows(), rank), Mat::<f64>::zeros(outputs, rank));
        for (b, f) in features.iter().enumerate() {
            half += known.moments.get(.., b * inner..(b + 1) * inner) * f.transpose();
            cross += known.cross.get(.., b * inner..(b + 1) * inner) * f.transpose();
        }
        let mut behind = Mat::<f64>::zeros(rank, rank);
        for (b, f) in features.iter().enumerate() {
            behind += f * half.get(b * inner..(b + 1) * inner, ..);
        }
        // Features may depend on each other.
        let lambda = DEPENDENT * (0..rank).map(|r| behind[(r, r)]).sum::<f64>() / rank.max(1) as f64;
        let damped = Mat::from_fn(rank, rank, |i, j| behind[(i, j)] + if i == j { lambda } else { 0.0 });
        let weights = damped.llt(Side::Lower).ok()?.solve(cross.transpose()).transpose().to_owned();
        let made = svd::dot((&weights * &behind).as_ref(), weights.as_ref());
        let lost = self.power - 2.0 * svd::dot(weights.as_ref(), cross.as_ref()) + made;
        Some((weights, if self.power > 0.0 { (lost / self.power).max(0.0) } else { 0.0 }))
    }

    /// The kernel with whitened inputs.
    pub(super) fn whitened(&self) -> Kernel {
        self.known.as_ref().map_or_else(|| self.kernel.clone(), |k| self.kernel.times(k.root.transpose()))
    }

    /// A projection of whitened inputs, for the inputs as they are.
    pub(super) fn unwhitened(&self, projection: Mat<f64>) -> Mat<f64> {
        let Some(known) = &self.known else { return projection };
        let mut result = projection;
        solve_upper_triangular_in_place(known.root.as_ref(), result.as_mut(), faer::Par::Seq);
        result
    }

    /// All projections of the start, the first columns being those of each rank, and the squared singular values along the inputs.
    pub(super) fn projections(&self) -> Option<(Mat<f64>, Vec<f64>)> {
        let (vectors, squares) = svd::eigen(&self.whitened().input_gram(), self.shape().1)?;
        Some((svd::orthonormal(&self.unwhitened(vectors)), squares))
    }

    /// The best weights behind a projection, for outputs that are to be compressed too or stay as they are. Nothing without second moments.
    fn behind(&self, projection: Mat<f64>, compressed: bool) -> Option<Behind> {
        let known = self.known.as_ref()?;
        let rank = projection.ncols();
        Nested::new(projection, &known.moments, &known.cross)?.behind(rank, compressed)
    }

    fn effort(&self) -> &'static Effort {
        if self.kernel.features() <= SMALL { &THOROUGH } else { &BRISK }
    }

    /// What there is to choose from: projections of these ranks, and what is best behind them; if outputs are to be compressed too, about to the
    /// second ranks. Nothing without second moments.
    pub(super) fn options(&self, ranks: &[(usize, usize)], compressed: bool) -> Option<Vec<Behind>> {
        let known = self.known.as_ref()?;
        let Some(most) = ranks.iter().map(|r| r.0).max() else { return Some(Vec::new()) };
        let projection = self.projections()?.0.get(.., ..most).to_owned();
        let nested = Nested::new(projection, &known.moments, &known.cross)?;
        let sweeps = if compressed { self.effort().before } else { 0 };
        let option =
            |&(rank, output_rank): &(usize, usize)| self.swept(nested.behind(rank, compressed)?, output_rank, sweeps);
        ranks.par_iter().map(option).collect()
    }

    /// Sweeps over projection and outputs, each the best for the other. Each minimizes the error as if blocks were not correlated; it is taken if
    /// the true error falls.
    fn swept(&self, mut now: Behind, output_rank: usize, sweeps: usize) -> Option<Behind> {
        let (outputs, inner) = self.shape();
        let rank = now.projection.ncols();
        if sweeps == 0 || output_rank >= outputs || rank >= inner {
            return Some(now);
        }
        let whitened = self.whitened();
        for _ in 0..sweeps {
            let along = whitened.after(now.outputs.get(.., ..output_rank).transpose());
            let (vectors, _) = svd::eigen(&along.input_gram(), rank)?;
            let next = self.behind(svd::orthonormal(&self.unwhitened(vectors)), true)?;
            if !self.takes(&mut now, next, output_rank) {
                break;
            }
        }
        Some(now)
    }

    /// Projection and outputs of these ranks, each in turn the best for the other.
    pub(super) fn fitted(&self, rank: usize, output_rank: usize) -> Option<Behind> {
        if self.known.is_none() {
            let found = hooi::tucker(&self.kernel, (output_rank, rank))?;
            let (weights, squares) = (found.weights, found.squares);
            return Some(Behind { projection: found.inputs, weights, outputs: found.outputs, squares });
        }
        let start = self.projections()?.0.get(.., ..rank).to_owned();
        let start = self.behind(start, output_rank < self.shape().0)?;
        self.swept(start, output_rank, self.effort().sweeps)
    }

    /// The same, and then each of the factors in turn the best for the others by the second moments as they are.
    pub(super) fn best(&self, rank: usize, output_rank: usize) -> Option<Behind> {
        let mut now = self.fitted(rank, output_rank)?;
        let Some(known) = self.known.as_ref().filter(|_| rank < self.shape().1) else { return Some(now) };
        let effort = self.effort();
        for _ in 0..effort.turns {
            let (core, outputs) = now.split(output_rank);
            let cross = outputs.as_ref().map_or_else(|| known.cross.clone(), |u| u.transpose() * &known.cross);
            let least = Least { core: &core.taps, cross, moments: &known.moments, root: known.root.as_ref() };
            let Some(projection) = least.from(now.projection.clone(), effort.steps) else { break };
            let Some(next) = self.behind(svd::orthonormal(&projection), output_rank < self.shape().0) else { break };
            if !self.takes(&mut now, next, output_rank) {
                break;
            }
        }
        Some(now)
    }

    /// Takes what is better; false if another step is not worth it.
    fn takes(&self, now: &mut Behind, next: Behind, output_rank: usize) -> bool {
        let (old, new) = (self.error(now, output_rank), self.error(&next, output_rank));
        if new < old {
            *now = next;
        }
        old - new >= STALLED * old && new < old
    }

    /// Squared error as a share of the power, with this rank of outputs.
    pub(super) fn error(&self, behind: &Behind, rank: usize) -> f64 {
        let kept: f64 = behind.squares.iter().take(rank).sum();
        if self.power > 0.0 { (1.0 - kept / self.power).max(0.0) } else { 0.0 }
    }
}

impl Behind {
    /// The weights between the projection and the first outputs, and those outputs; nothing for the latter if there is no lower rank.
    pub(super) fn split(&self, rank: usize) -> (Kernel, Option<Mat<f64>>) {
        if rank >= self.outputs.nrows() {
            return (self.weights.clone(), None);
        }
        let outputs = self.outputs.get(.., ..rank).to_owned();
        (self.weights.after(outputs.transpose()), Some(outputs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::svd::Random, *};

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let mut random = Random(seed);
        Mat::from_fn(rows, columns, |_, _| random.normal())
    }

    fn moments(width: usize, seed: u64) -> Mat<f64> {
        let x = random(width, width, seed) * random(width, 3 * width, seed + 1);
        &x * x.transpose()
    }

    /// The matrix that a projection and what is behind it stand for, in the order of the original columns.
    fn matrix(behind: &Behind, rank: usize) -> Mat<f64> {
        let (core, outputs) = behind.split(rank);
        let blocks = core.taps.len();
        let taps: Vec<Mat<f64>> = core
            .taps
            .iter()
            .map(|c| outputs.as_ref().map_or_else(|| c.clone(), |u| u * c) * behind.projection.transpose())
            .collect();
        let (rows, inner) = taps[0].shape();
        Mat::from_fn(rows, inner * blocks, |o, k| taps[k % blocks][(o, k / blocks)])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_error_is_what_it_says_and_full_rank_has_none(
            outputs in 1usize..6, inputs in 1usize..9, blocks in 1usize..4, rank in 1usize..8, below in 1usize..6,
            seed in 0u64..1000,
        ) {
            let width = inputs * blocks;
            let w = random(outputs, width, seed);
            let g = moments(width, seed + 5);
            for known in [None, Some(&g)] {
                let all = Blocks::new(w.as_ref(), blocks, known).unwrap();
                let rank = rank.min(inputs);
                let (found, best) = (all.fitted(rank, below).unwrap(), all.best(rank, below).unwrap());
                prop_assert!(all.error(&best, below) <= all.error(&found, below) + 1e-12);
                let unit = Mat::identity(width, width);
                let moments = known.unwrap_or(&unit);
                for found in [found, best] {
                    let lost = &w - matrix(&found, below);
                    let actual = svd::dot((&lost * moments).as_ref(), lost.as_ref()) / all.power;
                    let error = all.error(&found, below);
                    prop_assert!((actual - error).abs() < 1e-7, "{actual} {error}");
                }
                let full = all.fitted(inputs, outputs).unwrap();
                let lost = &w - matrix(&full, outputs);
                prop_assert!(lost.norm_l2() < 1e-6 * w.norm_l2());
            }
        }

        #[test]
        fn errors_fall_with_the_rank(outputs in 2usize..8, inputs in 2usize..6, blocks in 1usize..4, seed in 0u64..1000) {
            let w = random(outputs, inputs * blocks, seed);
            let g = moments(inputs * blocks, seed + 5);
            let all = Blocks::new(w.as_ref(), blocks, Some(&g)).unwrap();
            let below = outputs.div_ceil(2);
            let ranks: Vec<(usize, usize)> = (1..=inputs).map(|rank| (rank, outputs)).collect();
            let starts = all.options(&ranks, true).unwrap();
            let errors: Vec<f64> = starts.iter().map(|s| all.error(s, below)).collect();
            prop_assert!(errors.is_sorted_by(|a, b| *b <= a + 1e-9), "{errors:?}");
            for (start, error) in starts.iter().zip(errors) {
                let lost = &w - matrix(start, below);
                let actual = svd::dot((&lost * &g).as_ref(), lost.as_ref()) / all.power;
                prop_assert!((actual - error).abs() < 1e-7, "{actual} {error}");
            }
        }
    }

    #[test]
    fn blocks_that_are_correlated_are_fitted_as_they_are() {
        // Neighbours of an image are nearly the same.
        let shared = random(6, 60, 1);
        let x = Mat::from_fn(18, 60, |i, j| shared[(i % 6, j)]) + 0.2 * random(18, 60, 2);
        let all = Blocks::new(random(8, 18, 3).as_ref(), 3, Some(&(&x * x.transpose()))).unwrap();
        let error = |found: &Behind| all.error(found, 4);
        let (plain, best) = (error(&all.fitted(3, 4).unwrap()), error(&all.best(3, 4).unwrap()));
        assert!(best < plain, "{best} {plain}");
    }

    #[test]
    fn one_block_is_the_optimum_of_a_whitened_svd() {
        let (w, g) = (random(6, 9, 1), moments(9, 2));
        let all = Blocks::new(w.as_ref(), 1, Some(&g)).unwrap();
        let found = all.options(&[(3, 6)], false).unwrap().remove(0);
        let best = svd::principal(w.as_ref(), Some(&g), 3).unwrap();
        assert!((all.error(&found, 6) - (1.0 - best.energy(3))).abs() < 1e-9);
    }
}
