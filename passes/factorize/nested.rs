//! What is best behind the first columns of a projection, for every number of them at once.
//!
//! Where features are in the order of their columns, the normal equations of a rank are the leading part of those of a higher one, and so is
//! their Cholesky factor: with `L Lᵀ = Z`, the moments of the features, and `Y = L⁻¹ (K A)ᵀ`, the first rows of `Y` are what a rank keeps of
//! the outputs, and the leading part of `L` has its weights.

use faer::{
    Mat, MatMut, MatRef, Par, Side,
    linalg::{
        solvers::Llt,
        triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place},
    },
};

use super::{
    blocks::Behind,
    hooi::{self, Kernel},
    svd,
};

/// The normal equations behind a projection, solved halfway.
pub(super) struct Nested {
    projection: Mat<f64>,
    /// The features of a column, one of each block, are behind each other.
    factor: Llt<f64>,
    /// `features x outputs`.
    half: Mat<f64>,
    blocks: usize,
}

impl Nested {
    /// Of a projection of `inputs x rank`, moments of `(blocks, inputs)`, and cross moments of as many columns. None if features depend on
    /// each other.
    pub(super) fn new(projection: Mat<f64>, moments: &Mat<f64>, cross: &Mat<f64>) -> Option<Nested> {
        let a = projection.as_ref();
        let (inner, rank) = a.shape();
        let blocks = moments.nrows() / inner.max(1);
        let features = rank * blocks;
        let mut behind = Mat::<f64>::zeros(features, features);
        let mut half = Mat::<f64>::zeros(features, cross.nrows());
        for b in 0..blocks {
            let span = b * inner..(b + 1) * inner;
            // Only what is on the diagonal and below it is read.
            let made = moments.get(span.start.., span.clone()) * a;
            for c in b..blocks {
                let below = (c - b) * inner..(c - b + 1) * inner;
                let product = a.transpose() * made.get(below, ..);
                spread(product.as_ref(), (c, b), blocks, behind.as_mut());
            }
            let crossed = a.transpose() * cross.get(.., span).transpose();
            for o in 0..crossed.ncols() {
                (0..rank).for_each(|r| half[(r * blocks + b, o)] = crossed[(r, o)]);
            }
        }
        let factor = behind.llt(Side::Lower).ok()?;
        drop(behind);
        solve_lower_triangular_in_place(factor.L(), half.as_mut(), Par::Seq);
        Some(Nested { projection, factor, half, blocks })
    }

    /// Behind the first columns: the outputs in the order of what they keep if they are to be compressed too.
    pub(super) fn behind(&self, rank: usize, compressed: bool) -> Option<Behind> {
        let features = rank * self.blocks;
        let half = self.half.get(..features, ..);
        let outputs = half.ncols();
        let (vectors, squares) = match compressed {
            true => svd::eigen(&hooi::gram(outputs, std::iter::once(half.transpose())), outputs)?,
            false => (Mat::zeros(outputs, 0), vec![svd::dot(half, half)]),
        };
        let mut solved = half.to_owned();
        let factor = self.factor.L().get(..features, ..features);
        solve_upper_triangular_in_place(factor.transpose(), solved.as_mut(), Par::Seq);
        let tap = |b: usize| Mat::from_fn(outputs, rank, |o, r| solved[(r * self.blocks + b, o)]);
        let weights = Kernel { taps: (0..self.blocks).map(tap).collect() };
        Some(Behind { projection: self.projection.get(.., ..rank).to_owned(), weights, outputs: vectors, squares })
    }
}

/// Puts what features of block `c` have with those of block `b` in their places on and below the diagonal.
fn spread(product: MatRef<'_, f64>, (c, b): (usize, usize), blocks: usize, mut into: MatMut<'_, f64>) {
    for j in 0..product.ncols() {
        for i in 0..product.nrows() {
            let (row, column) = (i * blocks + c, j * blocks + b);
            into[(row.max(column), row.min(column))] = product[(i, j)];
        }
    }
}
