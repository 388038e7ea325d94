//! Weights that make up for those that become zero.
//!
//! One column after another is decided on, and those that are still to come make up for what goes ([`Second`]); of neighbours, or of a
//! chunk of columns, those weights go that cost least then. That is greedy: columns that come early cannot make up for late ones. So in the
//! end all weights that are left are fitted together, by conjugate gradients from there, each step of which lowers the damped error.
//!
//! Reference: Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023; the fit of what is
//! left: Boža: Fast and Effective Weight Update for Pruned Large Language Models, TMLR 2024, there by another method.

use std::ops::Range;

use faer::{Accum, Mat, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::pattern::{Columns, Goal, least};
use crate::reconstruct::{CHUNK, Change, Second, TILE};

/// Steps of conjugate gradients.
const STEPS: usize = 12;

/// `weights` are `outputs x width`; `second` has the order of `columns`.
pub(super) fn compensate(weights: &Mat<f64>, goal: Goal, columns: &Columns, second: &Second) -> Mat<f64> {
    let (rows, width) = (weights.nrows(), weights.ncols());
    let values: Vec<f32> = (0..rows).flat_map(|r| (0..width).map(move |c| weights[(r, c)] as f32)).collect();
    let mut new = vec![0.0f32; values.len()];
    let tiles = new.par_chunks_mut(TILE * width).zip(values.par_chunks(TILE * width));
    tiles.for_each(|(new, values)| tile(new, values, goal, columns, second));
    Mat::from_fn(rows, width, |r, c| f64::from(new[r * width + c]))
}

fn tile(new: &mut [f32], values: &[f32], goal: Goal, columns: &Columns, second: &Second) {
    let mut pruning = Pruning { goal, columns, second, kept: vec![true; values.len()], new };
    let chunk = match goal {
        Goal::Pattern(pattern) => CHUNK / pattern.of * pattern.of,
        Goal::Share(_) => CHUNK,
    };
    second.sweep(values, chunk, &mut pruning);
    let kept = pruning.kept;
    refine(new, values, &kept, second);
}

/// Some rows, while their columns are decided on.
struct Pruning<'a> {
    goal: Goal,
    columns: &'a Columns,
    second: &'a Second,
    /// In the order of the columns that the weights have.
    kept: Vec<bool>,
    new: &'a mut [f32],
}

impl Pruning<'_> {
    /// Takes out what costs least, of some rows, between two places in the order. `wanted` begins with the first of the rows.
    fn decide(&mut self, rows: Range<usize>, places: Range<usize>, wanted: &[f32]) {
        let (width, rest) = (self.second.size(), self.second.rest());
        let cost =
            |(row, place): (usize, usize)| f64::from(wanted[row * width + place]).powi(2) * f64::from(rest[place]);
        let at = |i: usize| (i / places.len(), places.start + i % places.len());
        let costs: Vec<f64> = (0..rows.len() * places.len()).map(|i| cost(at(i))).collect();
        for i in least(&costs, self.goal.zeros(costs.len())) {
            let (row, place) = at(i);
            self.kept[(rows.start + row) * width + self.columns.order[place]] = false;
        }
    }
}

impl Change for Pruning<'_> {
    fn reach(&mut self, places: Range<usize>, wanted: &[f32]) {
        if let Goal::Share(_) = self.goal {
            self.decide(0..wanted.len() / self.second.size().max(1), places, wanted);
        }
    }

    fn change(&mut self, row: usize, i: usize, wanted: &[f32]) -> f32 {
        if let (Goal::Pattern(_), Some(end)) = (self.goal, self.columns.end_of_group_at(i)) {
            self.decide(row..row + 1, i..end, wanted);
        }
        let at = row * self.second.size() + self.columns.order[i];
        self.new[at] = if self.kept[at] { wanted[i] } else { 0.0 };
        self.new[at]
    }
}

/// Moves the weights that are kept toward the least error, all other ones staying zero: conjugate gradients on each row, with the diagonal
/// as preconditioner.
fn refine(new: &mut [f32], values: &[f32], kept: &[bool], second: &Second) {
    let (width, diagonal) = (second.size(), second.diagonal());
    let rows = values.len() / width.max(1);
    // What a change of each kept weight would gain: the error times H.
    let through = |x: &[f32]| {
        let mut product = vec![0.0f32; x.len()];
        let target = MatMut::from_row_major_slice_mut(&mut product, rows, width);
        let moment = MatRef::from_row_major_slice(second.moment(), width, width);
        matmul(target, Accum::Replace, MatRef::from_row_major_slice(x, rows, width), moment, 1.0, Par::Seq);
        product.iter_mut().zip(kept).filter(|(_, kept)| !**kept).for_each(|(p, _)| *p = 0.0);
        product
    };
    let errors: Vec<f32> = values.iter().zip(&*new).map(|(w, n)| w - n).collect();
    let mut slopes = through(&errors);
    let mut step: Vec<f32> = slopes.iter().enumerate().map(|(i, s)| s / diagonal[i % width]).collect();
    let mut gains: Vec<f64> = slopes.chunks(width).zip(step.chunks(width)).map(|(s, p)| dot(s, p)).collect();
    for _ in 0..STEPS {
        let curved = through(&step);
        for (row, gain) in gains.iter_mut().enumerate() {
            let all = row * width..(row + 1) * width;
            let (step, curved, slopes) = (&mut step[all.clone()], &curved[all.clone()], &mut slopes[all.clone()]);
            let length = *gain / dot(step, curved);
            // There is nothing left to gain.
            if !(length.is_finite() && length > 0.0) {
                *gain = 0.0;
                continue;
            }
            new[all].iter_mut().zip(&*step).for_each(|(n, s)| *n += length as f32 * s);
            slopes.iter_mut().zip(curved).for_each(|(s, c)| *s -= length as f32 * c);
            let scaled: Vec<f32> = slopes.iter().zip(diagonal).map(|(s, d)| s / d).collect();
            let next = dot(slopes, &scaled);
            let turn = (next / *gain) as f32;
            step.iter_mut().zip(scaled).for_each(|(p, z)| *p = z + turn * *p);
            *gain = next;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}
