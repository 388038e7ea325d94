//! Half-quadratic quantization: the errors are sparse rather than small.
//!
//! Outliers cost little in a norm below 1. That norm is split into a proximity step, which says for each weight what part of it
//! is to be given up, and a least-squares step for the grid, in turns. The paper moves the zero point and leaves the scale; zero
//! points that are stored as codes are too coarse for that, so here it is the scale that moves, and the zero point between its
//! neighbours. The exponent of the norm is 3/4, for which the proximity step takes square roots only; the paper has 0.7.
//!
//! Reference: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023.

use super::{
    super::blocks::{Blocks, Format, Grid, Matrix, round},
    rtn::{encode, range},
};

/// Turns; the error stops falling earlier as a rule.
const TURNS: usize = 10;

pub(super) fn quantize(matrix: &Matrix, format: Format) -> Blocks {
    Blocks::by_rows(matrix, format, |_, row, codes, grids| {
        for ((values, codes), grid) in row.chunks(format.block).zip(codes.chunks_mut(format.block)).zip(grids) {
            *grid = search(format, values);
            encode(*grid, values, codes);
        }
    })
}

/// Shares of the range from which the turns start: they end near where they begin.
const STARTS: [f32; 3] = [1.0, 0.9, 0.8];

fn search(format: Format, values: &[f32]) -> Grid {
    let (low, high) = range(values);
    let whole = format.spanning(low, high);
    let mut best = (norm(whole, values), whole);
    let shifts = if format.symmetric { &[0.0f32][..] } else { &[0.0, -1.0, 1.0] };
    for (share, shift) in STARTS.iter().flat_map(|s| shifts.iter().map(move |z| (s, z))) {
        let start = format.spanning(low * share, high * share);
        let zero = if format.symmetric { start.zero } else { (start.zero + shift).clamp(0.0, format.highest()) };
        let mut grid = Grid { zero, ..start };
        let mut last = norm(grid, values);
        // In units of the range, so that the same weight of the penalty serves all blocks.
        let (unit, mut beta) = (whole.scale, 1.0f32);
        for _ in 0..TURNS {
            if last < best.0 {
                best = (last, grid);
            }
            let scale = turn(grid, values, beta, unit);
            if scale.is_nan() || scale <= 0.0 {
                break;
            }
            grid.scale = format.storable(scale);
            let error = norm(grid, values);
            if error >= last {
                break;
            }
            last = error;
            beta *= 1.05;
        }
    }
    best.1
}

/// The best scale for the weights less what is given up of them.
fn turn(grid: Grid, values: &[f32], beta: f32, unit: f32) -> f32 {
    let (inverse, zero, low, high) = (1.0 / grid.scale, grid.zero, grid.lowest, grid.highest);
    let (mut cross, mut square) = (0.0f32, 0.0f32);
    for &v in values {
        let step = round(v * inverse + zero).clamp(low, high) - zero;
        let error = (v - step * grid.scale) / unit;
        // The proximity step of |x|^(3/4), as in the paper.
        let kept = (error.abs() - 1.0 / (beta * (error.abs() + 1e-8).sqrt().sqrt())).max(0.0).copysign(error);
        cross += (v - kept * unit) * step;
        square += step * step;
    }
    cross / square
}

/// Sum of the errors to the power of 3/4.
fn norm(grid: Grid, values: &[f32]) -> f32 {
    let inverse = 1.0 / grid.scale;
    let (zero, low, high) = (grid.zero, grid.lowest, grid.highest);
    let error = |v: f32| {
        let root = (v - (round(v * inverse + zero).clamp(low, high) - zero) * grid.scale).abs().sqrt();
        root * root.sqrt()
    };
    values.iter().map(|&v| error(v)).sum()
}
