//! The projection that is best in front of a given core.
//!
//! `Σ_b C_b Aᵀ x_b` is to come near to `y`, with second moments `G` of `x` and cross moments `K` of `y` and `x`. That is linear in `A`, but
//! its normal equations, `Σ_b (Σ_c C_c Aᵀ G_cb - K_b)ᵀ C_b = 0`, have as many unknowns as `A` has elements, so they are solved by conjugate
//! gradients. If blocks were not correlated and all had the same moments, they would be `Ḡ A Σ C_bᵀ C_b = …`, which is what preconditions
//! them, so that a few steps do.

use faer::{
    Mat, MatRef, Par, Side,
    linalg::{
        solvers::Solve,
        triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place},
    },
};

use super::svd::dot;

/// Part of the first gradient that is left when it is enough.
const ENOUGH: f64 = 1e-3;
/// Ridge of the core's products in the preconditioner, as a share of the mean of their diagonal.
const RIDGE: f64 = 1e-6;

/// A least squares problem for a projection.
pub(super) struct Least<'a> {
    /// `outputs x rank` for each block.
    pub(super) core: &'a [Mat<f64>],
    /// `outputs x inputs`, block by block.
    pub(super) cross: Mat<f64>,
    /// Second moments of the inputs, block by block.
    pub(super) moments: &'a Mat<f64>,
    /// Upper triangular, with `Rᵀ R` the mean of the blocks on the diagonal of the moments.
    pub(super) root: MatRef<'a, f64>,
}

impl Least<'_> {
    /// A projection, `inputs x rank`, that is better than the given one, after so many steps at most. None if numbers run out of range.
    pub(super) fn from(&self, start: Mat<f64>, steps: usize) -> Option<Mat<f64>> {
        let rank = start.ncols();
        let mut products = Mat::<f64>::zeros(rank, rank);
        for c in self.core {
            products += c.transpose() * c;
        }
        let lambda = RIDGE * (0..rank).map(|r| products[(r, r)]).sum::<f64>() / rank.max(1) as f64;
        for r in 0..rank {
            products[(r, r)] += lambda;
        }
        let products = products.llt(Side::Lower).ok()?;
        let crossed = (rank < self.cross.nrows()).then(|| self.crossed());
        let normal = |a: &Mat<f64>| match &crossed {
            Some(crossed) => self.through_inputs(a, crossed),
            None => self.against_core(&self.products(a)),
        };
        let conditioned = |residual: &Mat<f64>| -> Mat<f64> {
            let mut left = residual.clone();
            solve_lower_triangular_in_place(self.root.transpose(), left.as_mut(), Par::Seq);
            solve_upper_triangular_in_place(self.root, left.as_mut(), Par::Seq);
            products.solve(left.transpose()).transpose().to_owned()
        };
        let mut a = start;
        let mut residual = self.against_core(&self.cross) - normal(&a);
        let mut direction = conditioned(&residual);
        let mut slope = dot(residual.as_ref(), direction.as_ref());
        let first = slope;
        for _ in 0..steps {
            if !(slope > ENOUGH * ENOUGH * first && slope.is_normal()) {
                break;
            }
            let along = normal(&direction);
            let curvature = dot(direction.as_ref(), along.as_ref());
            if !(curvature > 0.0 && curvature.is_finite()) {
                break;
            }
            let step = slope / curvature;
            a += faer::Scale(step) * &direction;
            residual -= faer::Scale(step) * &along;
            let next = conditioned(&residual);
            let new = dot(residual.as_ref(), next.as_ref());
            direction = next + faer::Scale(new / slope) * &direction;
            slope = new;
        }
        (0..a.ncols()).all(|j| a.col(j).norm_l2().is_finite()).then_some(a)
    }

    /// `Σ_c C_c Aᵀ G_c`, what the projection makes of the inputs' moments.
    fn products(&self, a: &Mat<f64>) -> Mat<f64> {
        let (inner, outputs) = (a.nrows(), self.cross.nrows());
        let mut made = Mat::<f64>::zeros(outputs, inner * self.core.len());
        for (b, c) in self.core.iter().enumerate() {
            made.get_mut(.., b * inner..(b + 1) * inner).copy_from(c * a.transpose());
        }
        made * self.moments
    }

    /// `C_cᵀ C_b` for all `c`, below each other; for each `b`.
    fn crossed(&self) -> Vec<Mat<f64>> {
        let rank = self.core.first().map_or(0, |c| c.ncols());
        let below = |b: &Mat<f64>| {
            let mut below = Mat::<f64>::zeros(rank * self.core.len(), rank);
            for (i, c) in self.core.iter().enumerate() {
                below.get_mut(i * rank..(i + 1) * rank, ..).copy_from(c.transpose() * b);
            }
            below
        };
        self.core.iter().map(below).collect()
    }

    /// `Σ_b (Σ_c C_c Aᵀ G_cb)ᵀ C_b` by way of the inputs, which is less work where the projection has fewer columns than there are outputs.
    fn through_inputs(&self, a: &Mat<f64>, crossed: &[Mat<f64>]) -> Mat<f64> {
        let (inner, rank) = a.shape();
        let mut made = Mat::<f64>::zeros(rank * self.core.len(), self.moments.ncols());
        for c in 0..self.core.len() {
            let rows = self.moments.get(c * inner..(c + 1) * inner, ..);
            made.get_mut(c * rank..(c + 1) * rank, ..).copy_from(a.transpose() * rows);
        }
        let mut sum = Mat::<f64>::zeros(inner, rank);
        for (b, crossed) in crossed.iter().enumerate() {
            sum += made.get(.., b * inner..(b + 1) * inner).transpose() * crossed;
        }
        sum
    }

    /// `Σ_b M_bᵀ C_b`.
    fn against_core(&self, m: &Mat<f64>) -> Mat<f64> {
        let inner = m.ncols() / self.core.len().max(1);
        let rank = self.core.first().map_or(0, |c| c.ncols());
        let mut sum = Mat::<f64>::zeros(inner, rank);
        for (b, c) in self.core.iter().enumerate() {
            sum += m.get(.., b * inner..(b + 1) * inner).transpose() * c;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::{super::svd::Random, *};

    #[test]
    fn the_gradient_vanishes() {
        let mut random = Random(1);
        let mut drawn = |rows: usize, columns: usize| Mat::from_fn(rows, columns, |_, _| random.normal());
        let (core, w, x, start) = ([drawn(4, 2), drawn(4, 2)], drawn(4, 6), drawn(6, 30), drawn(3, 2));
        let moments = &x * x.transpose();
        let mean = Mat::from_fn(3, 3, |i, j| 0.5 * (moments[(i, j)] + moments[(i + 3, j + 3)]));
        let root = mean.llt(Side::Lower).unwrap().L().transpose().to_owned();
        let least = Least { core: &core, cross: &w * &moments, moments: &moments, root: root.as_ref() };
        let gradient =
            |a: &Mat<f64>| (least.against_core(&least.cross) - least.against_core(&least.products(a))).norm_l2();
        let before = gradient(&start);
        let other = drawn(3, 2);
        let (one, two) = (least.against_core(&least.products(&other)), least.through_inputs(&other, &least.crossed()));
        assert!((&one - two).norm_l2() < 1e-12 * one.norm_l2());
        let after = gradient(&least.from(start, 8).unwrap());
        assert!(after < 1e-2 * before, "{after} {before}");
    }
}
