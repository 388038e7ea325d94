//! Second moments of what a weight is multiplied with, ready for changing its columns one after another.
//!
//! The error of a row `e` in the products is `e H eᵀ` with the second moment H of the inputs. With `H = L D Lᵀ` that is a sum of one
//! square for each column, in which only the columns changed before it occur besides the column itself; so each is best changed to where
//! its square is least. That form (Chee et al., QuIP, NeurIPS 2023) gives what GPTQ (Frantar et al., ICLR 2023) and SparseGPT (Frantar,
//! Alistarh, ICML 2023) get from the inverse of H, needs no inverse, and applies the errors of a chunk of columns to all later ones in
//! one product of matrices.

use std::ops::Range;

use faer::{Accum, Mat, MatMut, MatRef, Par, Side, linalg::matmul::matmul};

/// Rows that are worked on together, so that what is read of H serves all of them.
pub(crate) const TILE: usize = 32;
/// Columns whose errors are applied to later chunks at once.
pub(crate) const CHUNK: usize = 128;

/// `mean(x xᵀ)` of the inputs of a layer, damped, and what follows from it for each column.
pub(crate) struct Second {
    size: usize,
    /// Row-major, damped.
    moment: Vec<f32>,
    diagonal: Vec<f32>,
    /// The columns in the order in which they are changed.
    order: Vec<usize>,
    /// Entry (i, j) says how much of the error of the i-th column in that order the j-th one makes up for, for j > i.
    feedback: Vec<f32>,
    /// What the columns changed later cannot make up for, in that order.
    rest: Vec<f32>,
}

/// How a second moment is made ready.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// Share of the mean of the diagonal that is added to it.
    pub(crate) damping: f64,
    /// Columns with large inputs are rounded first.
    pub(crate) act_order: bool,
}

impl Second {
    /// From `Σ x xᵀ`, row-major. `None` if it is no moment: not finite, or zero.
    pub(crate) fn new(products: &[f64], size: usize, settings: Settings) -> Option<Second> {
        let at = |i: usize| products.get(i * size + i).copied().unwrap_or(0.0);
        let mut order: Vec<usize> = (0..size).collect();
        if settings.act_order {
            order.sort_by(|&a, &b| at(b).total_cmp(&at(a)));
        }
        Second::ordered(products, order, settings.damping)
    }

    /// The same, with a permutation of the columns in which they are changed.
    pub(crate) fn ordered(products: &[f64], order: Vec<usize>, damping: f64) -> Option<Second> {
        let size = order.len();
        let at = |i: usize, j: usize| products.get(i * size + j).copied().unwrap_or(0.0);
        let mean = (0..size).map(|i| at(i, i)).sum::<f64>() / size as f64;
        if !(mean.is_normal() && products.iter().all(|p| p.is_finite())) {
            return None;
        }
        // In units of the mean, so that float32 holds it. Few samples leave directions without any input, for which the
        // factorization needs some damping.
        let mut damping = damping.max(1e-6);
        let (factor, damping) = loop {
            let entry = |i: usize, j: usize| at(i, j) / mean + if i == j { damping } else { 0.0 };
            // L D Lᵀ begins at the end: what is changed first stands last.
            let column = |t: usize| order.get(size - 1 - t).copied().unwrap_or(0);
            let arranged = Mat::from_fn(size, size, |s, t| entry(column(s), column(t)));
            match arranged.llt(Side::Lower) {
                Ok(factor) => break (factor, damping),
                Err(_) if damping < 1.0 => damping *= 10.0,
                Err(_) => return None,
            }
        };
        let lower = factor.L();
        let mut feedback = vec![0.0; size * size];
        for (i, row) in feedback.chunks_mut(size.max(1)).enumerate() {
            for (j, entry) in row.iter_mut().enumerate().skip(i + 1) {
                let (s, t) = (size - 1 - i, size - 1 - j);
                *entry = (lower[(s, t)] / lower[(t, t)]) as f32;
            }
        }
        let rest = (0..size).map(|i| lower[(size - 1 - i, size - 1 - i)].powi(2) as f32).collect();
        let mut moment: Vec<f32> = products.iter().map(|p| (p / mean) as f32).collect();
        moment.iter_mut().step_by(size + 1).for_each(|d| *d += damping as f32);
        let diagonal = moment.iter().step_by(size + 1).copied().collect();
        Some(Second { size, moment, diagonal, order, feedback, rest })
    }

    /// Columns of the weights that it is for.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Row-major, damped, in units of the mean of the diagonal.
    pub(crate) fn moment(&self) -> &[f32] {
        &self.moment
    }

    /// Of the same.
    pub(crate) fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }

    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// True if the columns are changed in their own order.
    pub(crate) fn is_natural(&self) -> bool {
        self.order.is_sorted()
    }

    pub(crate) fn rest(&self) -> &[f32] {
        &self.rest
    }

    /// Changes the columns of some rows one after another. `values` is row-major; `chunk` columns at a time hand on their errors.
    pub(crate) fn sweep(&self, values: &[f32], chunk: usize, change: &mut impl Change) {
        let (columns, chunk) = (self.size, chunk.max(1));
        if columns == 0 {
            return;
        }
        let rows = values.len() / columns;
        // In the order of changing: what makes up for the errors so far.
        let mut wanted: Vec<f32> = values.chunks(columns).flat_map(|row| self.order.iter().map(|&c| row[c])).collect();
        let mut errors = vec![0.0f32; rows * chunk];
        for start in (0..columns).step_by(chunk) {
            let end = (start + chunk).min(columns);
            change.reach(start..end, &wanted);
            for i in start..end {
                let feedback = &self.feedback[i * columns + i + 1..i * columns + end];
                for row in 0..rows {
                    let wanted = &mut wanted[row * columns..(row + 1) * columns];
                    let error = values[row * columns + self.order[i]] - change.change(row, i, wanted);
                    errors[row * chunk + i - start] = error;
                    wanted[i + 1..end].iter_mut().zip(feedback).for_each(|(w, f)| *w += error * f);
                }
            }
            if end < columns {
                let errors = MatRef::from_row_major_slice(&errors, rows, chunk).subcols(0, end - start);
                let feedback = MatRef::from_row_major_slice(&self.feedback, columns, columns);
                let feedback = feedback.submatrix(start, end, end - start, columns - end);
                let wanted = MatMut::from_row_major_slice_mut(&mut wanted, rows, columns);
                let later = wanted.subcols_mut(end, columns - end);
                matmul(later, Accum::Add, errors, feedback, 1.0, Par::Seq);
            }
        }
    }
}

/// What columns are changed to.
pub(crate) trait Change {
    /// The next columns, by their places in the order, are reached. `wanted` has all rows, row-major in that order.
    fn reach(&mut self, _columns: Range<usize>, _wanted: &[f32]) {}

    /// The new number of a row in the `i`-th column. `wanted[i]` is the one that makes up for the errors so far; those that follow are
    /// as far as the next columns have been reached.
    fn change(&mut self, row: usize, i: usize, wanted: &[f32]) -> f32;
}
