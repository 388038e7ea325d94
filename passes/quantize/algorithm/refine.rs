//! Improves codes and scales in turns, each with all others as they are.
//!
//! The error in the products, `e H eᵀ`, is a square in every single code and scale, so the best value of each is known. GPTQ
//! cannot go back to what it rounded first; this does. It only ever lowers the error.
//!
//! Reference: Nair and Suggala, CDQuant: Greedy Coordinate Descent for Accurate LLM Quantization, 2024.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

use super::{
    super::blocks::Grid,
    gptq::{Tile, is_pruned},
};

/// Turns of all codes and then all scales; the last is of codes only.
const TURNS: usize = 3;

pub(super) fn tile(tile: &mut Tile<'_>) {
    let columns = tile.columns;
    let mut slopes = tile.slopes(&tile.lost(tile.codes, tile.grids));
    for turn in 0..TURNS {
        for (row, slopes) in slopes.chunks_mut(columns).enumerate() {
            codes(tile, row, slopes);
            if turn + 1 < TURNS {
                scales(tile, row, slopes);
            }
        }
    }
}

impl Tile<'_> {
    /// The error in the products of each row, with these codes and grids.
    pub(super) fn errors(&self, codes: &[u8], grids: &[Grid]) -> Vec<f32> {
        let lost = self.lost(codes, grids);
        let slopes = self.slopes(&lost);
        let rows = lost.chunks(self.columns).zip(slopes.chunks(self.columns));
        rows.map(|(lost, slopes)| lost.iter().zip(slopes).map(|(e, s)| e * s).sum()).collect()
    }

    /// What is lost of each weight, e.
    fn lost(&self, codes: &[u8], grids: &[Grid]) -> Vec<f32> {
        let lost = |(at, (value, code)): (usize, (&f32, &u8))| {
            let grid = grids[at / self.columns * self.per_row + at % self.columns / self.format.block];
            value - grid.value(f32::from(*code))
        };
        self.values.iter().zip(codes).enumerate().map(lost).collect()
    }

    /// e H, half of the slope of the error at each column.
    fn slopes(&self, lost: &[f32]) -> Vec<f32> {
        let (rows, columns) = (lost.len() / self.columns, self.columns);
        let mut slopes = vec![0.0f32; lost.len()];
        matmul(
            MatMut::from_row_major_slice_mut(&mut slopes, rows, columns),
            Accum::Replace,
            MatRef::from_row_major_slice(lost, rows, columns),
            MatRef::from_row_major_slice(self.second.moment(), columns, columns),
            1.0,
            Par::Seq,
        );
        slopes
    }
}

/// Moves each code of a row to where the error is least.
fn codes(tile: &mut Tile<'_>, row: usize, slopes: &mut [f32]) {
    let Tile { columns, per_row, format, second, values, .. } = *tile;
    let (moment, diagonal) = (second.moment(), second.diagonal());
    for column in 0..columns {
        let grid = tile.grids[row * per_row + column / format.block];
        let old = f32::from(tile.codes[row * columns + column]);
        let number = grid.value(old);
        let new = grid.code(number + slopes[column] / diagonal[column]);
        let stays = is_pruned(values[row * columns + column]) && number == 0.0;
        if new != old && !stays {
            tile.codes[row * columns + column] = new as u8;
            let step = grid.value(new) - number;
            let moment = &moment[column * columns..(column + 1) * columns];
            slopes.iter_mut().zip(moment).for_each(|(s, m)| *s -= step * m);
        }
    }
}

/// Moves each scale of a row to where the error is least.
fn scales(tile: &mut Tile<'_>, row: usize, slopes: &mut [f32]) {
    let Tile { columns, per_row, format, second, .. } = *tile;
    let moment = second.moment();
    let mut steps = vec![0.0f32; format.block];
    for block in 0..per_row {
        let grid = &mut tile.grids[row * per_row + block];
        let (start, end) = (block * format.block, ((block + 1) * format.block).min(columns));
        let codes = &tile.codes[row * columns + start..row * columns + end];
        steps.iter_mut().zip(codes).for_each(|(s, &c)| *s = f32::from(c) - grid.zero);
        let steps = &steps[..end - start];
        let slope: f32 = steps.iter().zip(&slopes[start..end]).map(|(s, g)| s * g).sum();
        let inside = |i: usize| {
            let moment = &moment[(start + i) * columns + start..(start + i) * columns + end];
            steps.iter().zip(moment).map(|(s, m)| s * m).sum::<f32>()
        };
        let square: f32 = steps.iter().enumerate().filter(|(_, s)| **s != 0.0).map(|(i, s)| s * inside(i)).sum();
        if square.is_nan() || square <= 0.0 {
            continue;
        }
        let scale = grid.scale + slope / square;
        if scale.is_nan() || scale <= 0.0 {
            continue;
        }
        let by = format.storable(scale) - grid.scale;
        // A change far below the distance of codes is not worth going through H.
        if by.abs() < 1e-3 * grid.scale {
            continue;
        }
        grid.scale += by;
        for (i, step) in steps.iter().enumerate().filter(|(_, s)| **s != 0.0) {
            let moment = &moment[(start + i) * columns..(start + i + 1) * columns];
            slopes.iter_mut().zip(moment).for_each(|(s, m)| *s -= by * step * m);
        }
    }
}
