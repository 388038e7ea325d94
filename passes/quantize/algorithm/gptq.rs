//! GPTQ: columns are rounded one after another, and those that are still to come make up for the error of each.
//!
//! Each is rounded to where its part of the error is least, see [`Second`]. Weights that are exactly zero were pruned, and stay zero.
//!
//! The grid of a block is searched when its first column is reached, for the numbers that are to be rounded then. If the columns
//! are rounded in another order (`act_order`), the grids are those of the weights as they were. In the end codes and scales are
//! improved in turns, see `refine`.
//!
//! Rounding column by column is greedy, and so is that improvement: of few weights they now and then make worse than each to the
//! nearest. A row of which that holds starts from the nearest instead.
//!
//! Reference: Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, ICLR 2023.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    super::blocks::{Blocks, Format, Grid, Matrix},
    mse, refine, rtn,
};
use crate::reconstruct::{CHUNK, Change, Second, TILE};

pub(super) fn quantize(matrix: &Matrix, format: Format, second: &Second) -> Blocks {
    let (columns, per_row) = (matrix.columns, format.blocks(matrix.columns));
    // Grids can be searched on the way if a block is done before its errors are handed on.
    let on_the_way = second.is_natural() && format.block <= CHUNK;
    let mut blocks = mse::quantize(matrix, format, Some(second.diagonal()));
    if columns == 0 || second.size() != columns {
        return blocks;
    }
    let nearest = [blocks.clone(), rtn::quantize(matrix, format)];
    let Blocks { codes, grids, .. } = &mut blocks;
    let tiles = codes.par_chunks_mut(TILE * columns).zip(grids.par_chunks_mut(TILE * per_row));
    tiles.zip(matrix.values.par_chunks(TILE * columns)).enumerate().for_each(|(index, ((codes, grids), values))| {
        let mut tile = Tile { format, second, columns, per_row, values, codes, grids };
        let chunk = if on_the_way { CHUNK / format.block * format.block } else { CHUNK };
        second.sweep(values, chunk, &mut Rounding { tile: &mut tile, search: on_the_way });
        refine::tile(&mut tile);
        tile.take_better(&nearest, index * TILE);
    });
    blocks
}

/// Rounds the columns of some rows.
struct Rounding<'a, 'b> {
    tile: &'a mut Tile<'b>,
    /// The grid of a block is searched when its first column is reached.
    search: bool,
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
    /// Starts again, in rows of which one of `others` is better, from the best of them. The tile begins at row `first` of theirs.
    fn take_better(&mut self, others: &[Blocks], first: usize) {
        let Tile { columns, per_row, values, .. } = *self;
        let mut least = self.errors(self.codes, self.grids);
        let mut best = vec![None; least.len()];
        let weights = |rows: Range<usize>| rows.start * columns..rows.end * columns;
        let blocks = |rows: Range<usize>| rows.start * per_row..rows.end * per_row;
        let rows = first..first + least.len();
        for other in others {
            let errors = self.errors(&other.codes[weights(rows.clone())], &other.grids[blocks(rows.clone())]);
            for ((error, least), best) in errors.into_iter().zip(&mut least).zip(&mut best) {
                if error < *least {
                    (*least, *best) = (error, Some(other));
                }
            }
        }
        for (row, other) in best.into_iter().enumerate().filter_map(|(row, best)| Some((row, best?))) {
            let (here, there) = (row..row + 1, first + row..first + row + 1);
            let (codes, grids) = (&mut self.codes[weights(here.clone())], &mut self.grids[blocks(here.clone())]);
            codes.copy_from_slice(&other.codes[weights(there.clone())]);
            grids.copy_from_slice(&other.grids[blocks(there)]);
            refine::tile(&mut Tile { values: &values[weights(here)], codes, grids, ..*self });
        }
    }
}

impl Change for Rounding<'_, '_> {
    fn change(&mut self, row: usize, i: usize, wanted: &[f32]) -> f32 {
        let Tile { format, second, columns, per_row, values, .. } = *self.tile;
        let column = second.order()[i];
        let at = row * columns + column;
        let grid = &mut self.tile.grids[row * per_row + column / format.block];
        if self.search && i.is_multiple_of(format.block) {
            let to = (i + format.block).min(columns);
            *grid = mse::search(format, &wanted[i..to], &second.rest()[i..to]);
        }
        let zero = grid.code(0.0);
        // Two levels have no zero to keep.
        let code = if is_pruned(values[at]) && grid.value(zero) == 0.0 { zero } else { grid.code(wanted[i]) };
        self.tile.codes[at] = code as u8;
        grid.value(code)
    }
}

/// True for a weight that is not to make up for the errors of others, since it was taken out.
pub(super) fn is_pruned(value: f32) -> bool {
    value == 0.0
}
