//! GPTQ: columns are rounded one after another, and those that are still to come make up for the error of each.
//!
//! The error of a row `e` in the products is `e H eᵀ` with the second moment H of the inputs. With `H = L D Lᵀ` that is a sum of one
//! square for each column, in which only the columns rounded before it occur besides the column itself; so each is rounded to
//! where its square is least. That form (Chee et al., QuIP, NeurIPS 2023) gives what the paper gets from the inverse of H, needs no
//! inverse, and applies the errors of a chunk of columns to all later ones in one product of matrices.
//!
//! The grid of a block is searched when its first column is reached, for the numbers that are to be rounded then. If the columns
//! are rounded in another order (`act_order`), the grids are those of the weights as they were. In the end codes and scales are
//! improved in turns, see `refine`.
//!
//! Reference: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::{
    super::blocks::{Blocks, Format, Grid, Matrix},
    Second, mse, refine,
};

/// Rows that are worked on together, so that what is read of H serves all of them.
pub(super) const TILE: usize = 32;
/// Columns whose errors are applied to later chunks at once.
const CHUNK: usize = 128;

pub(super) fn quantize(matrix: &Matrix, format: Format, second: &Second) -> Blocks {
    let (columns, per_row) = (matrix.columns, format.blocks(matrix.columns));
    // Grids can be searched on the way if a block is done before its errors are handed on.
    let on_the_way = second.is_natural() && format.block <= CHUNK;
    let mut blocks = match on_the_way {
        true => Blocks::by_rows(matrix, format, |_, _, _, _| {}),
        false => mse::quantize(matrix, format, Some(second.diagonal())),
    };
    if columns == 0 || second.size() != columns {
        return blocks;
    }
    let Blocks { codes, grids, .. } = &mut blocks;
    let tiles = codes.par_chunks_mut(TILE * columns).zip(grids.par_chunks_mut(TILE * per_row));
    tiles.zip(matrix.values.par_chunks(TILE * columns)).for_each(|((codes, grids), values)| {
        let mut tile = Tile { format, second, columns, per_row, values, codes, grids };
        tile.round(on_the_way);
        refine::tile(&mut tile);
    });
    blocks
}

/// Some rows of a weight.
pub(super) struct Tile<'a> {
    pub(super) format: Format,
    pub(super) second: &'a Second,
    pub(super) columns: usize,
    /// Blocks of a row.
    pub(super) per_row: usize,
    pub(super) values: &'a [f32],
    pub(super) codes: &'a mut [u8],
    pub(super) grids: &'a mut [Grid],
}

impl Tile<'_> {
    fn round(&mut self, search: bool) {
        let Tile { format, second, columns, per_row, values, .. } = *self;
        let (order, rest, feedback) = (second.order(), second.rest(), second.feedback());
        let rows = values.len() / columns;
        // In the order of rounding: what each weight is to be rounded to.
        let mut wanted: Vec<f32> = values.chunks(columns).flat_map(|row| order.iter().map(|&c| row[c])).collect();
        let chunk = match search {
            true => CHUNK / format.block * format.block,
            false => CHUNK,
        };
        let mut errors = vec![0.0f32; rows * chunk];
        for start in (0..columns).step_by(chunk) {
            let end = (start + chunk).min(columns);
            for i in start..end {
                let column = order[i];
                let block = column / format.block;
                for row in 0..rows {
                    let wanted = &mut wanted[row * columns..(row + 1) * columns];
                    let grid = &mut self.grids[row * per_row + block];
                    if search && i % format.block == 0 {
                        let to = (i + format.block).min(columns);
                        *grid = mse::search(format, &wanted[i..to], &rest[i..to]);
                    }
                    let code = grid.code(wanted[i]);
                    self.codes[row * columns + column] = code as u8;
                    let error = values[row * columns + column] - grid.value(code);
                    errors[row * chunk + i - start] = error;
                    let feedback = &feedback[i * columns + i + 1..i * columns + end];
                    wanted[i + 1..end].iter_mut().zip(feedback).for_each(|(w, f)| *w += error * f);
                }
            }
            if end < columns {
                let errors = MatRef::from_row_major_slice(&errors, rows, chunk).subcols(0, end - start);
                let feedback = MatRef::from_row_major_slice(feedback, columns, columns);
                let feedback = feedback.submatrix(start, end, end - start, columns - end);
                let wanted = MatMut::from_row_major_slice_mut(&mut wanted, rows, columns);
                let later = wanted.subcols_mut(end, columns - end);
                matmul(later, Accum::Add, errors, feedback, 1.0, Par::Seq);
            }
        }
    }
}
