//! The Cholesky factor of a matrix of second moments with a ridge, made where the matrix lies: the largest ones are the peak of what a pass
//! takes.

use faer::{
    Accum, Mat, MatMut, MatRef, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::{
        cholesky::llt::{factor, solve},
        matmul::{
            matmul as gemm,
            triangular::{BlockStructure, matmul},
        },
        triangular_inverse::invert_lower_triangular,
    },
};

use crate::calibration::mirror;

/// Of a symmetric positive definite matrix.
pub(crate) struct Factor {
    /// What is above the diagonal says nothing.
    lower: Mat<f64>,
}

impl Factor {
    /// Of a symmetric matrix with something added to the diagonal. None if that is not positive definite.
    pub(crate) fn new(mut matrix: Mat<f64>, added: f64) -> Option<Factor> {
        (0..matrix.nrows().min(matrix.ncols())).for_each(|i| matrix[(i, i)] += added);
        let n = matrix.nrows();
        let mut memory = MemBuffer::try_new(factor::cholesky_in_place_scratch::<f64>(n, PAR, SPEC())).ok()?;
        let stack = MemStack::new(&mut memory);
        factor::cholesky_in_place(matrix.as_mut(), factor::LltRegularization::default(), PAR, stack, SPEC()).ok()?;
        Some(Factor { lower: matrix })
    }

    /// `X` of `A X = B`, where `B` was.
    pub(crate) fn solve(&self, mut right: Mat<f64>) -> Mat<f64> {
        // It needs no memory: the factor is not permuted.
        in_pieces(right.as_mut(), 0, &|_, piece| {
            solve::solve_in_place(self.lower.as_ref(), piece, PAR, MemStack::new(&mut []));
        });
        right
    }

    /// The inverse, where the factor was.
    pub(crate) fn inverse(self) -> Mat<f64> {
        let Factor { lower: mut inverse } = self;
        let n = inverse.nrows();
        let mut root = Mat::zeros(n, n);
        invert_lower_triangular(root.as_mut(), inverse.as_ref(), PAR);
        let (lower, upper) = (BlockStructure::TriangularLower, BlockStructure::TriangularUpper);
        // What is computed lies above the diagonal, from where it is mirrored.
        let (into, transposed) = (inverse.as_mut(), root.transpose());
        matmul(into, upper, Accum::Replace, transposed, upper, root.as_ref(), lower, 1.0, PAR);
        mirror(inverse.as_mut());
        inverse
    }
}

/// Least squares with a ridge `λ` toward old weights: `W + (C - W G) (G + λI)⁻¹`, for the second moments `G` of what is read and `C` of that
/// with what is wanted. None if there is no such inverse.
pub(crate) fn toward(old: &Mat<f64>, moments: &Mat<f64>, cross: &Mat<f64>, lambda: f64) -> Option<Mat<f64>> {
    Some(old + change(&residual(old, moments, cross), moments.clone(), lambda)?)
}

/// `C - W G`: what old weights leave to be fitted.
pub(super) fn residual(old: &Mat<f64>, moments: &Mat<f64>, cross: &Mat<f64>) -> Mat<f64> {
    cross - times(old.as_ref(), moments.as_ref())
}

/// Columns that a thread computes at a time. Results do not depend on the number of threads, but where a piece begins they could.
const PIECE: usize = 256;

/// The product of two matrices, by several threads.
pub(super) fn times(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(a.nrows(), b.ncols());
    in_pieces(product.as_mut(), 0, &|first, piece| {
        let b = b.subcols(first, piece.ncols());
        gemm(piece, Accum::Replace, a, b, 1.0, PAR);
    });
    product
}

/// Does something with each piece of the columns of a matrix, of which the first is the `first`.
fn in_pieces(matrix: MatMut<'_, f64>, first: usize, of: &(impl Fn(usize, MatMut<'_, f64>) + Sync)) {
    let pieces = matrix.ncols().div_ceil(PIECE);
    if pieces <= 1 {
        return of(first, matrix);
    }
    let half = pieces / 2 * PIECE;
    let (left, right) = matrix.split_at_col_mut(half);
    rayon::join(|| in_pieces(left, first, of), || in_pieces(right, first + half, of));
}

/// `R (G + λI)⁻¹`: what is added to weights that leave `R`. None if there is no such inverse.
pub(super) fn change(residual: &Mat<f64>, moments: Mat<f64>, lambda: f64) -> Option<Mat<f64>> {
    Some(Factor::new(moments, lambda)?.solve(residual.transpose().to_owned()).transpose().to_owned())
}

/// Sum of the products of elements.
pub(crate) fn dot(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
}

/// Layers are what runs in parallel, and results must not depend on the number of threads.
const PAR: Par = Par::Seq;
const SPEC: fn() -> faer::Spec<factor::LltParams, f64> = faer::Spec::default;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_factor_of_the_damped_matrix() {
        let n = 70;
        let x = Mat::from_fn(n, 2 * n, |i, j| ((i * 31 + j * 17) % 23) as f64 / 7.0 - 1.5);
        let a = &x * x.transpose();
        let damped = Mat::from_fn(n, n, |i, j| a[(i, j)] + if i == j { 3.0 } else { 0.0 });
        let inverse = Factor::new(a.clone(), 3.0).unwrap().inverse();
        let one = &damped * &inverse;
        assert!((&one - Mat::<f64>::identity(n, n)).norm_max() < 1e-9);
        assert_eq!(inverse, inverse.transpose().to_owned());
        let b = Mat::from_fn(n, 5, |i, j| (i + j) as f64);
        let solved = Factor::new(a, 3.0).unwrap().solve(b.clone());
        assert!((&damped * &solved - &b).norm_max() < 1e-8);
        assert!(Factor::new(Mat::zeros(3, 3), 0.0).is_none());
    }

    #[test]
    fn pieces_are_of_the_whole() {
        // Two whole pieces and one that is not.
        let (n, m) = (20, 2 * PIECE + 3);
        let a = Mat::from_fn(7, n, |i, j| ((i * 5 + j * 3) % 11) as f64 - 4.0);
        let b = Mat::from_fn(n, m, |i, j| ((i * 7 + j * 13) % 17) as f64 - 8.0);
        // Sums of small whole numbers are exact.
        assert_eq!(times(a.as_ref(), b.as_ref()), &a * &b);
        let x = Factor::new(Mat::identity(n, n), 1.0).unwrap().solve(b.clone());
        assert!((2.0 * &x - &b).norm_max() < 1e-12);
    }
}
