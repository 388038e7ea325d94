//! Round to nearest: the range of a block is that of its weights.
//!
//! Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
//! 2018, section 2.1.

use super::super::blocks::{Blocks, Format, Grid, Matrix};

pub(super) fn quantize(matrix: &Matrix, format: Format) -> Blocks {
    Blocks::by_rows(matrix, format, |_, row, codes, grids| {
        for ((values, codes), grid) in row.chunks(format.block).zip(codes.chunks_mut(format.block)).zip(grids) {
            let (low, high) = range(values);
            *grid = format.spanning(low, high);
            encode(*grid, values, codes);
        }
    })
}

/// Smallest and largest number, of which one may be beyond zero.
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(low, high): (f32, f32), &v| (low.min(v), high.max(v)))
}

/// The codes nearest to numbers.
pub(super) fn encode(grid: Grid, values: &[f32], codes: &mut [u8]) {
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = grid.code(value) as u8;
    }
}
