//! Half-quadratic quantization: the errors are sparse rather than small.
//!
//! Outliers cost little in a norm below 1. That norm is split into a proximity step, which says for each weight what part of it
//! is to be given up, and a least-squares step for the grid, in turns. The paper moves the zero point and leaves the scale; zero
//! points that are stored as codes are too coarse for that, so here it is the scale that moves, and the zero point between its
//! neighbours. The exponent of the norm is 3/4, for which the proximity step takes square roots only; the paper has 0.7.
//!
//! Reference: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.

use wide::f32x8;

use super::{
    super::blocks::{Blocks, Format, Grid, Matrix},
    lanes::{nearest, sums},
    rtn::{encode, range},
};

/// Turns; the error stops falling earlier as a rule.
const TURNS: i32 = 10;
/// Shares of the range from which the turns start: they end near where they begin.
const STARTS: [f32; 3] = [1.0, 0.9, 0.8];
/// So many of the starts are followed, those with the least errors.
const FOLLOWED: usize = 3;
/// Keeps the penalty of an error of zero finite.
const TINY: f32 = 1e-6;

pub(super) fn quantize(matrix: &Matrix, format: Format) -> Blocks {
    Blocks::by_rows(matrix, format, |_, row, codes, grids| {
        for ((values, codes), grid) in row.chunks(format.block).zip(codes.chunks_mut(format.block)).zip(grids) {
            *grid = search(format, values);
            encode(*grid, values, codes);
        }
    })
}

/// The best grid that was found for some weights.
fn search(format: Format, values: &[f32]) -> Grid {
    let (low, high) = range(values);
    let whole = format.spanning(low, high);
    // In units of the range, so that the same weight of the penalty serves all blocks.
    let unit = whole.scale;
    let shifts = if format.symmetric { &[0.0f32][..] } else { &[0.0, -1.0, 1.0] };
    let start = |(share, shift): (&f32, &f32)| {
        let start = format.spanning(low * share, high * share);
        let zero = if format.symmetric { start.zero } else { (start.zero + shift).clamp(0.0, format.highest()) };
        let grid = Grid { zero, ..start };
        (look(grid, values, 1.0, unit), grid)
    };
    let mut starts: Vec<_> = STARTS.iter().flat_map(|s| shifts.iter().map(move |z| (s, z))).map(start).collect();
    starts.sort_by(|((a, _), _), ((b, _), _)| a.total_cmp(b));
    let mut best = (f32::INFINITY, whole);
    for ((mut norm, mut scale), mut grid) in starts.into_iter().take(FOLLOWED) {
        for turn in 1..=TURNS {
            // No scale is best for no steps.
            if scale.is_nan() || scale <= 0.0 {
                break;
            }
            let moved = Grid { scale: format.storable(scale), ..grid };
            let (next, better) = look(moved, values, 1.05f32.powi(turn), unit);
            if next >= norm {
                break;
            }
            (grid, norm, scale) = (moved, next, better);
        }
        if norm < best.0 {
            best = (norm, grid);
        }
    }
    best.1
}

/// Sum of the errors in units to the power of 3/4, and the best scale for the weights less what is given up of them.
fn look(grid: Grid, values: &[f32], beta: f32, unit: f32) -> (f32, f32) {
    let (inverse, zero, scale) = (f32x8::splat(1.0 / grid.scale), f32x8::splat(grid.zero), f32x8::splat(grid.scale));
    let (unit, per_unit, penalty) = (f32x8::splat(unit), f32x8::splat(1.0 / unit), f32x8::splat(1.0 / beta));
    let [norm, cross, square] = sums([values], |[v]| {
        let step = nearest(v * inverse + zero, grid.lowest, grid.highest) - zero;
        let error = (v - step * scale) * per_unit;
        let size = error.abs();
        let root = size.sqrt();
        let fourth = root.sqrt();
        // The proximity step of |x|^(3/4), as in the paper.
        let kept = (size - penalty / (fourth + f32x8::splat(TINY))).fast_max(f32x8::ZERO).copysign(error);
        [root * fourth, (v - kept * unit) * step, step * step]
    });
    (norm, cross / square)
}
