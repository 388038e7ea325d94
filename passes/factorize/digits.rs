//! What decompositions need of matrices, in float32 and in float64.
//!
//! Arithmetic in float32 is twice as fast. Squares of singular values then have errors of 1e-7 of the largest, which does not matter where
//! far more than that is discarded anyway; who uses it checks that.

use faer::{
    Accum, Mat, MatRef, Par, Side,
    linalg::matmul::triangular::{self, BlockStructure},
};

/// Numbers of a matrix.
pub(super) trait Digits: Copy + Sized + Send + Sync {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn zeros(rows: usize, columns: usize) -> Mat<Self>;
    fn product(a: MatRef<'_, Self>, b: MatRef<'_, Self>) -> Mat<Self>;
    /// Adds `m mᵀ` to the lower triangle.
    fn add_square(sum: &mut Mat<Self>, m: MatRef<'_, Self>);
    /// Eigenvectors and eigenvalues of a symmetric matrix of which the lower triangle is read, the smallest first.
    fn eigen(symmetric: &Mat<Self>) -> Option<(Mat<Self>, Vec<Self>)>;
    /// Orthonormal columns that span those of a matrix.
    fn orthonormal(matrix: &Mat<Self>) -> Mat<Self>;
}

macro_rules! digits {
    ($of:ty) => {
        impl Digits for $of {
            fn of(x: f64) -> Self {
                x as $of
            }

            fn wide(self) -> f64 {
                f64::from(self)
            }

            fn zeros(rows: usize, columns: usize) -> Mat<Self> {
                Mat::zeros(rows, columns)
            }

            fn product(a: MatRef<'_, Self>, b: MatRef<'_, Self>) -> Mat<Self> {
                a * b
            }

            fn add_square(sum: &mut Mat<Self>, m: MatRef<'_, Self>) {
                let (lower, all) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
                triangular::matmul(sum.as_mut(), lower, Accum::Add, m, all, m.transpose(), all, 1.0, Par::Seq);
            }

            fn eigen(symmetric: &Mat<Self>) -> Option<(Mat<Self>, Vec<Self>)> {
                let found = symmetric.self_adjoint_eigen(Side::Lower).ok()?;
                let values = found.S();
                Some((found.U().to_owned(), (0..symmetric.nrows()).map(|i| values[i]).collect()))
            }

            fn orthonormal(matrix: &Mat<Self>) -> Mat<Self> {
                matrix.qr().compute_thin_Q()
            }
        }
    };
}

digits!(f32);
digits!(f64);

/// The same numbers with other digits.
pub(super) fn cast<A: Digits, B: Digits>(m: MatRef<'_, A>) -> Mat<B> {
    Mat::from_fn(m.nrows(), m.ncols(), |i, j| B::of(m[(i, j)].wide()))
}

/// The first eigenvectors of a symmetric matrix that is not negative, and all of its eigenvalues, the largest first. The lower triangle
/// is read.
pub(super) fn eigen<T: Digits>(symmetric: &Mat<T>, count: usize) -> Option<(Mat<T>, Vec<f64>)> {
    let n = symmetric.nrows();
    // Numbers that are not finite end up on the diagonal of products.
    if (0..n).any(|i| !symmetric[(i, i)].wide().is_finite()) {
        return None;
    }
    let (vectors, values) = T::eigen(symmetric)?;
    let squares: Vec<f64> = values.iter().rev().map(|v| v.wide().max(0.0)).collect();
    let first = Mat::from_fn(n, count.min(n), |i, j| vectors[(i, n - 1 - j)]);
    squares.iter().all(|s| s.is_finite()).then_some((first, squares))
}
