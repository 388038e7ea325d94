//! Tucker-2 decomposition of convolution kernels: outputs and inputs are compressed, taps stay.
//!
//! `W[o,i,t] ≈ Σ U[o,p] C[p,q,t] V[i,q]` with orthonormal `U` and `V` (De Lathauwer, De Moor, Vandewalle: On the best rank-1 and
//! rank-(R1,R2,…,RN) approximation of higher-order tensors, SIAM J. Matrix Anal. Appl. 2000). The start is the HOSVD, the leading left
//! singular vectors of each unfolding; then each factor in turn becomes optimal for the other one (HOOI), until the error stops falling, or
//! falls by less than sweeps over so large a kernel are worth.
//!
//! Singular vectors come from eigenvectors of the unfoldings' Gram matrices in float64. That loses singular values below 1e-8 of the
//! largest, less than the rounding of float32 weights, and costs a small part of an SVD: the matrix is `512 x 512` and not
//! `512 x 2304`.

use faer::{Mat, MatRef};

use super::{
    digits::{self, Digits, cast},
    svd,
};

/// Sweeps over both factors at most.
const SWEEPS: usize = 100;
/// Fall of the relative error from one sweep to the next below which there are no more.
const STALLED: f64 = 1e-7;
/// Fall of the relative error that each multiply-accumulate of a sweep must bring: 1e-5 for a billion.
const WORTH: f64 = 1e-14;
/// The same that float32 can tell from rounding.
const SINGLE: f64 = 2e-6;
/// Kernels with so many inputs and outputs are swept in float32 first.
const LARGE: usize = 64;

/// The taps of a kernel, `outputs x inputs` each.
#[derive(Debug, Clone)]
pub(super) struct Kernel<T = f64> {
    pub(super) taps: Vec<Mat<T>>,
}

/// Factors of a kernel. The core is the kernel between them.
#[derive(Debug, Clone)]
pub(super) struct Tucker {
    /// `outputs x output rank`, orthonormal columns.
    pub(super) outputs: Mat<f64>,
    /// `inputs x input rank`, orthonormal columns.
    pub(super) inputs: Mat<f64>,
    /// The kernel behind the inputs' factor.
    pub(super) weights: Kernel,
    /// What each output keeps of the kernel's power behind the inputs' factor, the most important first; of all outputs.
    pub(super) squares: Vec<f64>,
}

impl Kernel {
    /// Takes rows apart that have the taps of each input behind each other.
    pub(super) fn of_rows(rows: MatRef<'_, f64>, taps: usize) -> Kernel {
        let taps = taps.max(1);
        let inputs = rows.ncols() / taps;
        let tap = |t| Mat::from_fn(rows.nrows(), inputs, |o, i| rows[(o, i * taps + t)]);
        Kernel { taps: (0..taps).map(tap).collect() }
    }

    /// The inverse of [`Kernel::of_rows`].
    pub(super) fn rows(&self) -> Mat<f64> {
        let (outputs, inputs) = self.shape();
        let taps = self.taps.len();
        let mut rows = Mat::zeros(outputs, inputs * taps);
        for (t, tap) in self.taps.iter().enumerate() {
            for i in 0..inputs {
                rows.col_mut(i * taps + t).copy_from(tap.col(i));
            }
        }
        rows
    }

    /// Sum of squares.
    pub(super) fn power(&self) -> f64 {
        self.taps.iter().map(|t| svd::dot(t.as_ref(), t.as_ref())).sum()
    }

    /// `left · tap · right` for each tap.
    pub(super) fn between(&self, left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Kernel {
        Kernel { taps: self.taps.iter().map(|t| left * t * right).collect() }
    }
}

impl<T: Digits> Kernel<T> {
    /// Outputs and inputs.
    pub(super) fn shape(&self) -> (usize, usize) {
        self.taps.first().map_or((0, 0), |t| t.shape())
    }

    /// Inputs of all taps.
    pub(super) fn features(&self) -> usize {
        self.shape().1 * self.taps.len()
    }

    /// `tap · right` for each tap.
    pub(super) fn times(&self, right: MatRef<'_, T>) -> Kernel<T> {
        Kernel { taps: self.taps.iter().map(|t| T::product(t.as_ref(), right)).collect() }
    }

    /// `left · tap` for each tap.
    pub(super) fn after(&self, left: MatRef<'_, T>) -> Kernel<T> {
        Kernel { taps: self.taps.iter().map(|t| T::product(left, t.as_ref())).collect() }
    }

    /// Gram matrix of the unfolding along the outputs, `Σ tap tapᵀ`.
    pub(super) fn output_gram(&self) -> Mat<T> {
        gram(self.shape().0, self.taps.iter().map(|t| t.as_ref()))
    }

    /// Gram matrix of the unfolding along the inputs, `Σ tapᵀ tap`.
    pub(super) fn input_gram(&self) -> Mat<T> {
        gram(self.shape().1, self.taps.iter().map(|t| t.transpose()))
    }
}

/// `Σ m mᵀ`, the lower triangle.
pub(super) fn gram<'a, T: Digits + 'a>(size: usize, matrices: impl Iterator<Item = MatRef<'a, T>>) -> Mat<T> {
    let mut sum = T::zeros(size, size);
    matrices.for_each(|m| T::add_square(&mut sum, m));
    sum
}

/// The best approximation of these ranks (outputs, inputs) that the sweeps find. `None` if numbers are not finite.
pub(super) fn tucker(kernel: &Kernel, ranks: (usize, usize)) -> Option<Tucker> {
    let (outputs, inputs) = kernel.shape();
    let ranks = (ranks.0.min(outputs), ranks.1.min(inputs));
    let v = match (ranks.0 == outputs, ranks.1 == inputs) {
        (_, true) => Mat::identity(inputs, inputs),
        // All outputs see all of the inputs that are left.
        (true, false) => svd::eigen(&kernel.input_gram(), ranks.1)?.0,
        (false, false) => swept(kernel, ranks)?,
    };
    let weights = kernel.times(v.as_ref());
    let (u, squares) = svd::eigen(&weights.output_gram(), ranks.0)?;
    Some(Tucker { outputs: u, inputs: v, weights, squares })
}

/// The inputs' factor after the last sweep: of large kernels in float32, as long as sweeps bring more than its rounding takes.
fn swept(kernel: &Kernel, ranks: (usize, usize)) -> Option<Mat<f64>> {
    let (outputs, inputs) = kernel.shape();
    let taps = kernel.taps.len();
    let macs = 2.0 * (taps * outputs * inputs) as f64 * (ranks.0 + ranks.1) as f64;
    let stalled = STALLED.max(WORTH * macs);
    let power = kernel.power();
    if outputs.min(inputs) < LARGE {
        return sweep(kernel, power, ranks, svd::eigen(&kernel.input_gram(), ranks.1)?.0, stalled);
    }
    let single: Kernel<f32> = Kernel { taps: kernel.taps.iter().map(|t| cast(t.as_ref())).collect() };
    let start = digits::eigen(&single.input_gram(), ranks.1).map(|e| e.0);
    let found = start.and_then(|start| sweep(&single, power, ranks, start, stalled.max(SINGLE)));
    match found.map(|v| cast::<f32, f64>(v.as_ref())) {
        Some(v) if stalled >= SINGLE => Some(svd::orthonormal(&v)),
        Some(v) => sweep(kernel, power, ranks, svd::orthonormal(&v), stalled),
        // Its numbers may be too large or too small for float32.
        None => sweep(kernel, power, ranks, svd::eigen(&kernel.input_gram(), ranks.1)?.0, stalled),
    }
}

/// The inputs' factor after the last sweep. Sweeps converge slowly where the spectrum is flat; so each starts beyond the last factor, as
/// gradient descent with momentum does (Nesterov 1983), and from the last one again where that went too far.
fn sweep<T: Digits>(
    kernel: &Kernel<T>,
    power: f64,
    ranks: (usize, usize),
    start: Mat<T>,
    stalled: f64,
) -> Option<Mat<T>> {
    let mut v = start;
    let (mut before, mut run, mut last) = (v.clone(), 0u32, f64::INFINITY);
    for _ in 0..SWEEPS {
        let start = match run {
            0 => v.clone(),
            _ => beyond(&v, &before, f64::from(run) / f64::from(run + 3)),
        };
        let u = digits::eigen(&kernel.times(start.as_ref()).output_gram(), ranks.0)?.0;
        let (next, squares) = digits::eigen(&kernel.after(u.transpose()).input_gram(), ranks.1)?;
        let kept: f64 = squares.iter().take(ranks.1).sum();
        let error = if power > 0.0 { (1.0 - kept / power).max(0.0).sqrt() } else { 0.0 };
        if error > last {
            if run == 0 {
                break;
            }
            run = 0;
            continue;
        }
        before = std::mem::replace(&mut v, next);
        run += 1;
        if last - error < stalled {
            break;
        }
        last = error;
    }
    Some(v)
}

/// A subspace beyond one, seen from an earlier one.
fn beyond<T: Digits>(now: &Mat<T>, before: &Mat<T>, step: f64) -> Mat<T> {
    let inner = T::product(before.transpose(), now.as_ref());
    let turned = T::product(before.as_ref(), inner.as_ref());
    T::orthonormal(&Mat::from_fn(now.nrows(), now.ncols(), |i, j| {
        let (now, turned) = (now[(i, j)].wide(), turned[(i, j)].wide());
        T::of(now + step * (now - turned))
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(outputs: usize, inputs: usize, taps: usize, seed: u64) -> Kernel {
        let mut random = svd::Random(seed);
        Kernel { taps: (0..taps).map(|_| Mat::from_fn(outputs, inputs, |_, _| random.normal())).collect() }
    }

    fn made(kernel: &Kernel, found: &Tucker) -> Kernel {
        let core = kernel.between(found.outputs.transpose(), found.inputs.as_ref());
        core.between(found.outputs.as_ref(), found.inputs.transpose())
    }

    fn error(kernel: &Kernel, found: &Tucker) -> f64 {
        distance(kernel, &made(kernel, found))
    }

    fn distance(a: &Kernel, b: &Kernel) -> f64 {
        let lost: f64 = a.taps.iter().zip(&b.taps).map(|(a, b)| (a - b).squared_norm_l2()).sum();
        (lost / a.power()).sqrt()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn factors_have_the_shapes_asked_for_and_the_error_is_what_it_says(
            outputs in 1usize..10, inputs in 1usize..10, taps in 1usize..6, p in 1usize..10, q in 1usize..10, seed in any::<u64>(),
        ) {
            let kernel = drawn(outputs, inputs, taps, seed);
            let found = tucker(&kernel, (p, q)).unwrap();
            let (p, q) = (p.min(outputs), q.min(inputs));
            prop_assert_eq!(found.outputs.shape(), (outputs, p));
            prop_assert_eq!(found.inputs.shape(), (inputs, q));
            let kept: f64 = found.squares.iter().take(p).sum();
            prop_assert!((error(&kernel, &found).powi(2) - (1.0 - kept / kernel.power())).abs() < 1e-12);
            let unit = found.outputs.transpose() * &found.outputs;
            prop_assert!((unit - Mat::<f64>::identity(p, p)).norm_l2() < 1e-10);
        }

        #[test]
        fn errors_fall_with_the_rank_and_end_in_rounding(outputs in 1usize..8, inputs in 1usize..8, taps in 1usize..4, seed in any::<u64>()) {
            let kernel = drawn(outputs, inputs, taps, seed);
            let steps = outputs.max(inputs);
            let errors: Vec<f64> = (1..=steps).map(|r| error(&kernel, &tucker(&kernel, (r, r)).unwrap())).collect();
            prop_assert!(errors.is_sorted_by(|a, b| *b <= a + 1e-9), "{errors:?}");
            prop_assert!(error(&kernel, &tucker(&kernel, (outputs, inputs)).unwrap()) < 1e-13);
        }
    }

    #[test]
    fn what_has_the_rank_is_found_exactly() {
        let small = drawn(3, 2, 9, 1);
        let mut random = svd::Random(2);
        let u = Mat::from_fn(12, 3, |_, _| random.normal());
        let v = Mat::from_fn(2, 7, |_, _| random.normal());
        let kernel = small.between(u.as_ref(), v.as_ref());
        assert!(error(&kernel, &tucker(&kernel, (3, 2)).unwrap()) < 1e-12);
    }

    #[test]
    fn rows_and_taps_are_the_same_numbers() {
        let kernel = drawn(3, 4, 5, 3);
        let rows = kernel.rows();
        assert_eq!(rows[(2, 3 * 5 + 4)], kernel.taps[4][(2, 3)]);
        assert_eq!(Kernel::of_rows(rows.as_ref(), 5).rows(), rows);
    }

    #[test]
    fn nothing_and_nonsense() {
        let zero = Kernel { taps: vec![Mat::zeros(4, 4); 2] };
        assert_eq!(tucker(&zero, (2, 2)).unwrap().squares, [0.0; 4]);
        let mut broken = drawn(4, 4, 2, 4);
        broken.taps[1][(2, 2)] = f64::NAN;
        assert!(tucker(&broken, (2, 2)).is_none());
    }

    #[test]
    fn sweeps_beat_the_start() {
        let kernel = drawn(16, 16, 9, 5);
        let hosvd = {
            let v = svd::eigen(&kernel.input_gram(), 4).unwrap().0;
            let u = svd::eigen(&kernel.output_gram(), 4).unwrap().0;
            let kept = kernel.between(u.transpose(), v.as_ref()).power();
            (1.0 - kept / kernel.power()).sqrt()
        };
        let swept = error(&kernel, &tucker(&kernel, (4, 4)).unwrap());
        assert!(swept < hosvd - 1e-3, "{swept} {hosvd}");
    }
}
