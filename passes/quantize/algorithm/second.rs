//! Second moments of what a weight is multiplied with.

use faer::{Mat, Side};

/// `mean(x xᵀ)` of the inputs of a layer, damped, and what GPTQ needs of it.
pub(in crate::quantize) struct Second {
    size: usize,
    /// Row-major, damped.
    moment: Vec<f32>,
    diagonal: Vec<f32>,
    /// The columns in the order in which they are rounded.
    order: Vec<usize>,
    /// Entry (i, j) says how much of the error of the i-th column in that order the j-th one makes up for, for j > i.
    feedback: Vec<f32>,
    /// What the columns rounded later cannot make up for, in that order.
    rest: Vec<f32>,
}

/// How a second moment is made ready.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::quantize) struct Settings {
    /// Share of the mean of the diagonal that is added to it.
    pub(in crate::quantize) damping: f64,
    /// Columns with large inputs are rounded first.
    pub(in crate::quantize) act_order: bool,
}

impl Second {
    /// From `Σ x xᵀ`, row-major. `None` if it is no moment: not finite, or zero.
    pub(in crate::quantize) fn new(products: &[f64], size: usize, settings: Settings) -> Option<Second> {
        let at = |i: usize, j: usize| products.get(i * size + j).copied().unwrap_or(0.0);
        let mean = (0..size).map(|i| at(i, i)).sum::<f64>() / size as f64;
        if !(mean.is_normal() && products.iter().all(|p| p.is_finite())) {
            return None;
        }
        let mut order: Vec<usize> = (0..size).collect();
        if settings.act_order {
            order.sort_by(|&a, &b| at(b, b).total_cmp(&at(a, a)));
        }
        // In units of the mean, so that float32 holds it. Few samples leave directions without any input, for which the
        // factorization needs some damping.
        let mut damping = settings.damping.max(1e-6);
        let (factor, damping) = loop {
            let entry = |i: usize, j: usize| at(i, j) / mean + if i == j { damping } else { 0.0 };
            // L D Lᵀ begins at the end: what is rounded first stands last.
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
    pub(in crate::quantize) const fn size(&self) -> usize {
        self.size
    }

    /// Row-major, damped, in units of the mean of the diagonal.
    pub(super) fn moment(&self) -> &[f32] {
        &self.moment
    }

    /// Of the same.
    pub(super) fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }

    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// True if the columns are rounded in their own order.
    pub(super) fn is_natural(&self) -> bool {
        self.order.is_sorted()
    }

    pub(super) fn feedback(&self) -> &[f32] {
        &self.feedback
    }

    pub(super) fn rest(&self) -> &[f32] {
        &self.rest
    }
}
