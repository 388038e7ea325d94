//! Bases of heads in which the last channels matter least.
//!
//! The score of a query and a key is `qᵀ k`, which is the same for `A q` and `B k` if `Aᵀ B = I`. With the second moments of queries
//! `P = L Lᵀ` and of keys `R = M Mᵀ`, and `Lᵀ M = U S Vᵀ`, the squared error of scores after all but `r` channels are dropped is smallest
//! for `A = S½ Uᵀ L⁻¹` and `B = S½ Vᵀ M⁻¹`, and is the sum of the other `S²`. A softmax does not see what is added to all keys alike, so
//! that the keys' moments are then taken about their mean.
//!
//! Values `v` that a layer `W` reads, weighted with the attention, are the same as `B v` that `W B⁻¹` reads. With `C = L Lᵀ` the covariance
//! of what the layer reads and `W L = U S Vᵀ`, `B = Vᵀ L⁻¹` drops the channels that change its outputs least.

use faer::{
    Mat, Side,
    linalg::solvers::{Solve, Svd},
};

use crate::{factorize::svd::eigen, reconstruct::ridge};

/// What one head's channels are multiplied by on both sides, and the squared error that each channel saves, the largest first.
pub(crate) struct Basis {
    /// For queries or values: new channels x old ones.
    pub(crate) first: Mat<f64>,
    /// For keys: the same. For the layer that reads: old channels x new ones.
    pub(crate) second: Mat<f64>,
    pub(crate) squares: Vec<f64>,
}

/// Ridge as a share of the mean of the diagonal: bases are of few channels, and seen on many rows.
const DAMPING: f64 = 1e-6;

/// For queries and keys with these second moments. `None` if these are not finite.
pub(super) fn query_key(queries: &Mat<f64>, keys: &Mat<f64>) -> Option<Basis> {
    let n = queries.nrows();
    let (p, r) = (damped(queries), damped(keys));
    let (p, r) = (p.llt(Side::Lower).ok()?, r.llt(Side::Lower).ok()?);
    let svd = Svd::new((p.L().transpose() * r.L()).as_ref()).ok()?;
    let (u, s, v) = (svd.U(), svd.S(), svd.V());
    // `L⁻ᵀ U = P⁻¹ L U`
    let (a, b) = (p.solve(p.L() * u), r.solve(r.L() * v));
    let scaled = |m: &Mat<f64>| Mat::from_fn(n, n, |i, j| m[(j, i)] * s[i].sqrt());
    let squares = (0..n).map(|i| s[i] * s[i]).collect();
    finite(Basis { first: scaled(&a), second: scaled(&b), squares })
}

/// For values of this covariance, where a layer reads them with these weights: outputs x channels. `None` if these are not finite.
pub(super) fn value_output(weights: &Mat<f64>, covariance: &Mat<f64>) -> Option<Basis> {
    let c = damped(covariance);
    let c = c.llt(Side::Lower).ok()?;
    let whitened = weights * c.L();
    let (v, squares) = eigen(&(whitened.transpose() * &whitened), weights.ncols())?;
    let second = c.L() * &v;
    let first = c.solve(&second).transpose().to_owned();
    finite(Basis { first, second, squares })
}

fn damped(moments: &Mat<f64>) -> Mat<f64> {
    let (n, lambda) = (moments.nrows(), ridge(moments, DAMPING));
    Mat::from_fn(n, n, |i, j| moments[(i, j)] + if i == j { lambda } else { 0.0 })
}

fn finite(basis: Basis) -> Option<Basis> {
    let is_finite = |m: &Mat<f64>| m.col_iter().all(|c| c.iter().all(|x| x.is_finite()));
    (is_finite(&basis.first) && is_finite(&basis.second)).then_some(basis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factorize::svd::{Random, dot};

    fn moments(n: usize, random: &mut Random) -> Mat<f64> {
        let x = Mat::from_fn(n, 3 * n, |i, _| random.normal() * 0.7f64.powi(i as i32));
        let mixed = Mat::from_fn(n, n, |_, _| random.normal()) * x;
        &mixed * mixed.transpose()
    }

    fn identity_without(n: usize, rank: usize) -> Mat<f64> {
        Mat::from_fn(n, n, |i, j| if i == j && i < rank { 1.0 } else { 0.0 })
    }

    #[test]
    fn scores_lose_the_discarded_singular_values_and_nothing_at_full_size() {
        let mut random = Random(1);
        let (p, r) = (moments(8, &mut random), moments(8, &mut random));
        let basis = query_key(&p, &r).unwrap();
        let whole = basis.first.transpose() * &basis.second - Mat::<f64>::identity(8, 8);
        assert!(whole.norm_l2() < 1e-6, "{whole:?}");
        let power: f64 = basis.squares.iter().sum();
        for rank in 1..8 {
            let error =
                basis.first.transpose() * identity_without(8, rank) * &basis.second - Mat::<f64>::identity(8, 8);
            // E (qᵀ D k)² = tr (D R Dᵀ P)
            let lost = dot((&error * damped(&r) * error.transpose()).as_ref(), damped(&p).as_ref());
            let expected: f64 = basis.squares.iter().skip(rank).sum();
            assert!((lost - expected).abs() < 1e-4 * expected + 1e-9 * power, "{lost} and {expected}");
        }
    }

    #[test]
    fn outputs_lose_the_discarded_singular_values_and_nothing_at_full_size() {
        let mut random = Random(2);
        let c = moments(8, &mut random);
        let w = Mat::from_fn(20, 8, |_, _| random.normal());
        let basis = value_output(&w, &c).unwrap();
        assert!((&basis.second * &basis.first - Mat::<f64>::identity(8, 8)).norm_l2() < 1e-6);
        let power: f64 = basis.squares.iter().sum();
        for rank in 1..8 {
            let d = &w * (&basis.second * identity_without(8, rank) * &basis.first - Mat::<f64>::identity(8, 8));
            let lost = dot((&d * damped(&c)).as_ref(), d.as_ref());
            let expected: f64 = basis.squares.iter().skip(rank).sum();
            assert!((lost - expected).abs() < 1e-4 * expected + 1e-9 * power, "{lost} and {expected}");
        }
    }

    #[test]
    fn what_is_zero_or_no_number() {
        let zero = Mat::<f64>::zeros(3, 3);
        assert!(query_key(&zero, &zero).is_some());
        assert!(value_output(&Mat::zeros(4, 3), &zero).is_some());
        let nan = Mat::from_fn(3, 3, |_, _| f64::NAN);
        assert!(query_key(&nan, &zero).is_none() && value_output(&Mat::zeros(4, 3), &nan).is_none());
    }
}
