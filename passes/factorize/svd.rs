//! Matrices of low rank that come closest to a matrix: in its elements, or in what it computes.
//!
//! Of all `B` of rank `r`, `‖(W - B) L‖` is smallest for `B = U Uᵀ W`, where `U` are the first `r` left singular vectors of `W L`
//! (Eckart, Young 1936). With `L Lᵀ = E[x xᵀ]` this is the error of the outputs for the inputs `x` (activation-whitened SVD), and with
//! `L = I` that of the weights. As `U` is a basis of outputs, `L` need not be inverted, and inputs that span less than all of their
//! space are nothing special.
//!
//! Singular vectors come from the eigenvectors of the smaller of `W G Wᵀ` and `Lᵀ Wᵀ W L`, in float64 where little is discarded, so that
//! squares of singular values are known to 1e-16 of the largest. Where a small part of a big matrix is asked for, they come from a
//! randomized range finder with power iterations (Halko, Martinsson, Tropp: Finding structure with randomness, SIAM Review 2011), whose
//! error is measured.

use faer::{Mat, MatRef, Side};

use super::digits::{self, Digits, cast};

/// The first left singular vectors of `W L`.
#[derive(Debug, Clone)]
pub(super) struct Principal {
    /// Orthonormal columns, `outputs x rank`.
    pub(super) vectors: Mat<f64>,
    /// Squared singular values, the largest first: of all vectors, or of those found if they were searched at random.
    pub(super) squares: Vec<f64>,
    /// Sum of the squares of all singular values: the power of the outputs.
    pub(super) power: f64,
}

/// Vectors that a random search looks for beyond those that are wanted.
const OVERSAMPLED: usize = 16;
/// Power iterations of a random search.
const ITERATIONS: usize = 3;
/// Matrices up to this size are always decomposed exactly.
const SMALL: usize = 512;
/// A random search pays for ranks below this part of the size.
const PART: usize = 8;
/// Matrices from this size on are first decomposed in float32.
const LARGE: usize = 256;
/// Share of the power that is discarded, from which on the rounding of float32 does not matter: it is less than 1e-4 of it.
const FLAT: f64 = 1e-2;
/// Squares of a vector's length, as a share of the largest, from which on it is orthogonal to the others as it is.
const ORTHOGONAL: f64 = 1e-3;

/// Left singular vectors of `W L` with `L Lᵀ = moments`, or of `W`; at most `rank` of them. `None` if numbers are not finite.
pub(super) fn principal(weights: MatRef<'_, f64>, moments: Option<&Mat<f64>>, rank: usize) -> Option<Principal> {
    let (outputs, width) = weights.shape();
    let size = outputs.min(width);
    let rank = rank.min(size);
    if rank == 0 || size == 0 {
        return Some(Principal { vectors: Mat::zeros(outputs, 0), squares: vec![0.0; size], power: 0.0 });
    }
    match size > SMALL && rank + OVERSAMPLED < size / PART {
        true => search(weights, moments, rank),
        false => exact(weights, moments, rank),
    }
}

/// In float32 if what is discarded stands out from rounding, else in float64.
fn exact(weights: MatRef<'_, f64>, moments: Option<&Mat<f64>>, rank: usize) -> Option<Principal> {
    let size = weights.nrows().min(weights.ncols());
    if size >= LARGE && rank < size {
        let found = exact_in::<f32>(weights, moments, rank);
        if let Some(found) = found.filter(|f| 1.0 - f.energy(rank) > FLAT) {
            return Some(found);
        }
    }
    exact_in::<f64>(weights, moments, rank)
}

fn exact_in<T: Digits>(weights: MatRef<'_, f64>, moments: Option<&Mat<f64>>, rank: usize) -> Option<Principal> {
    let (outputs, width) = weights.shape();
    let w = cast::<f64, T>(weights);
    if outputs <= width {
        let products = match moments {
            Some(g) => {
                let half = T::product(cast::<f64, T>(g.as_ref()).as_ref(), w.transpose());
                T::product(w.as_ref(), half.as_ref())
            }
            None => square(w.as_ref()),
        };
        let (vectors, squares) = digits::eigen(&products, rank)?;
        let power = squares.iter().sum();
        return Some(Principal { vectors: cast(vectors.as_ref()), squares, power });
    }
    let whitened = match moments {
        Some(g) => T::product(w.as_ref(), cast::<f64, T>(root(g)?.as_ref()).as_ref()),
        None => w,
    };
    let (inputs, squares) = digits::eigen(&square(whitened.transpose()), rank)?;
    let power = squares.iter().sum();
    let along = T::product(whitened.as_ref(), inputs.as_ref());
    // The columns are orthogonal up to rounding; those that are short, or of no length, are made so.
    let (first, last) = (squares.first().copied().unwrap_or(0.0), squares.get(rank - 1).copied().unwrap_or(0.0));
    let vectors = match last > ORTHOGONAL * first {
        true => Mat::from_fn(outputs, rank, |o, r| along[(o, r)].wide() / squares[r].sqrt()),
        false => cast(T::orthonormal(&along).as_ref()),
    };
    Some(Principal { vectors, squares, power })
}

/// `m mᵀ`, the lower triangle.
fn square<T: Digits>(m: MatRef<'_, T>) -> Mat<T> {
    let mut sum = T::zeros(m.nrows(), m.nrows());
    T::add_square(&mut sum, m);
    sum
}

/// Searches the range of `W L` from random outputs.
fn search(weights: MatRef<'_, f64>, moments: Option<&Mat<f64>>, rank: usize) -> Option<Principal> {
    let (outputs, width) = weights.shape();
    let size = rank + OVERSAMPLED;
    let mut random = Random(0x5eed_0000_0000_0001 ^ ((outputs as u64) << 32) ^ width as u64);
    let times = |q: &Mat<f64>| {
        let back = weights.transpose() * q;
        match moments {
            Some(g) => (g * &back, back),
            None => (back.clone(), back),
        }
    };
    let mut q = orthonormal(&(weights * Mat::from_fn(width, size, |_, _| random.normal())));
    for _ in 0..ITERATIONS {
        q = orthonormal(&(weights * times(&q).0));
    }
    let (whitened, back) = times(&q);
    let (rotation, squares) = eigen(&(back.transpose() * whitened), size)?;
    let vectors = q * rotation.get(.., ..rank);
    let power = match moments {
        Some(g) => dot((weights * g).as_ref(), weights),
        None => dot(weights, weights),
    };
    power.is_finite().then_some(Principal { vectors, squares: squares.into_iter().take(rank).collect(), power })
}

impl Principal {
    /// The factors of that rank: `outputs x rank` and `rank x width`.
    pub(super) fn factors(&self, weights: MatRef<'_, f64>, rank: usize) -> (Mat<f64>, Mat<f64>) {
        let left = self.vectors.get(.., ..rank.min(self.vectors.ncols())).to_owned();
        let right = left.transpose() * weights;
        (left, right)
    }

    /// Share of the power that a rank keeps. Of a random search this is measured too: what it did not find counts as lost.
    pub(super) fn energy(&self, rank: usize) -> f64 {
        match self.power > 0.0 {
            true => (self.squares.iter().take(rank).sum::<f64>() / self.power).clamp(0.0, 1.0),
            false => 1.0,
        }
    }
}

/// `L` with `L Lᵀ` = a matrix that is symmetric and not negative: its Cholesky factor, or by eigenvectors if it is singular.
pub(super) fn root(symmetric: &Mat<f64>) -> Option<Mat<f64>> {
    if let Ok(factor) = symmetric.llt(Side::Lower) {
        return Some(factor.L().to_owned());
    }
    let (vectors, squares) = eigen(symmetric, symmetric.nrows())?;
    Some(Mat::from_fn(vectors.nrows(), vectors.ncols(), |i, j| vectors[(i, j)] * squares[j].sqrt()))
}

/// The first eigenvectors of a symmetric matrix that is not negative, and all of its eigenvalues, the largest first.
pub(crate) fn eigen(symmetric: &Mat<f64>, count: usize) -> Option<(Mat<f64>, Vec<f64>)> {
    digits::eigen(symmetric, count)
}

/// Orthonormal columns that span those of a matrix.
pub(super) fn orthonormal(matrix: &Mat<f64>) -> Mat<f64> {
    matrix.qr().compute_thin_Q()
}

/// Sum of the products of elements.
pub(crate) fn dot(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> f64 {
    (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
}

/// Normally distributed numbers, the same on every machine (splitmix64, and the sum of twelve uniform ones).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let mut random = Random(seed);
        Mat::from_fn(rows, columns, |_, _| random.normal())
    }

    /// A matrix whose singular values fall.
    fn falling(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let n = rows.min(columns);
        let (u, v) = (orthonormal(&random(rows, n, seed)), orthonormal(&random(columns, n, seed + 1)));
        let scaled = Mat::from_fn(rows, n, |i, j| u[(i, j)] * 0.97f64.powi(j as i32));
        scaled * v.transpose()
    }

    fn moments(width: usize, samples: usize, seed: u64) -> Mat<f64> {
        let x = random(width, samples, seed);
        let mixed = random(width, width, seed + 7) * x;
        &mixed * mixed.transpose()
    }

    fn lost(weights: &Mat<f64>, other: &Mat<f64>, moments: &Mat<f64>) -> f64 {
        let difference = weights - other;
        dot((&difference * moments).as_ref(), difference.as_ref())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_lost_are_the_discarded_singular_values(
            outputs in 1usize..24, width in 1usize..24, samples in 1usize..40, rank in 1usize..24, seed in 0u64..1000,
        ) {
            let (w, g) = (random(outputs, width, seed), moments(width, samples, seed + 99));
            let rank = rank.min(outputs.min(width));
            let found = principal(w.as_ref(), Some(&g), rank).unwrap();
            // As faer's own singular values have it.
            let singular = (&w * root(&g).unwrap()).singular_values().unwrap();
            let optimum: f64 = singular.iter().skip(rank).map(|s| s * s).sum();
            let power: f64 = singular.iter().map(|s| s * s).sum();
            let (left, right) = found.factors(w.as_ref(), rank);
            let actual = lost(&w, &(left * right), &g);
            prop_assert!((actual - optimum).abs() <= 1e-4 * optimum + 1e-9 * power, "{actual} and {optimum} of {power}");
            prop_assert!(((1.0 - found.energy(rank)) * power - optimum).abs() <= 1e-4 * optimum + 1e-9 * power);
        }

        #[test]
        fn full_rank_is_the_matrix(outputs in 1usize..24, width in 1usize..24, seed in 0u64..1000) {
            let w = random(outputs, width, seed);
            for g in [None, Some(moments(width, 64, seed))] {
                let (left, right) = principal(w.as_ref(), g.as_ref(), 24).unwrap().factors(w.as_ref(), 24);
                let difference = &w - left * right;
                let (error, power) = (dot(difference.as_ref(), difference.as_ref()), dot(w.as_ref(), w.as_ref()));
                prop_assert!(error <= 1e-12 * power, "{error} of {power}");
            }
        }
    }

    #[test]
    fn a_random_search_finds_what_an_exact_decomposition_does() {
        for (outputs, width) in [(90, 120), (120, 90)] {
            let w = falling(outputs, width, 3);
            let g = moments(width, 200, 4);
            for g in [None, Some(&g)] {
                let (found, best) = (search(w.as_ref(), g, 8).unwrap(), exact(w.as_ref(), g, 8).unwrap());
                assert!((found.power / best.power - 1.0).abs() < 1e-9);
                let (lost, least) = (1.0 - found.energy(8), 1.0 - best.energy(8));
                assert!(lost >= least - 1e-9 && lost <= 1.01 * least, "{lost} and {least}");
                // The error that it states is the one that it makes.
                let (left, right) = found.factors(w.as_ref(), 8);
                let (g, whole) = (g.cloned().unwrap_or_else(|| Mat::identity(width, width)), found.power);
                let actual = super::tests::lost(&w, &(left * right), &g) / whole;
                assert!((actual - lost).abs() < 1e-9, "{actual} and {lost}");
            }
        }
    }

    #[test]
    fn nothing_and_what_is_no_number() {
        let zero = principal(Mat::zeros(3, 5).as_ref(), None, 2).unwrap();
        assert_eq!((zero.energy(0), zero.vectors.shape()), (1.0, (3, 2)));
        let nan = Mat::from_fn(3, 5, |i, j| if (i, j) == (1, 1) { f64::NAN } else { 1.0 });
        assert!(principal(nan.as_ref(), None, 2).is_none());
        assert!(principal(nan.as_ref().transpose(), None, 2).is_none());
        assert_eq!(principal(Mat::zeros(0, 5).as_ref(), None, 2).unwrap().vectors.ncols(), 0);
    }
}
