//! Search for the range of a block with the least squared error.
//!
//! A narrower range has a finer step and cuts off what is largest. The range is shrunk in steps, on both ends together and then
//! on each of them; for each candidate the scale that is best for the codes follows in closed form, and with it the error,
//! without a second look at the weights. Errors of columns whose inputs are large count more, where that is known.
//!
//! Reference: Nahshan et al., Loss Aware Post-Training Quantization, Machine Learning 2021; Choukroun et al., Low-bit Quantization of
//! Neural Networks for Efficient Inference, ICCV-W 2019.

use wide::f32x8;

use super::{
    super::blocks::{Blocks, Format, Grid, Matrix},
    lanes::{nearest, sums},
    rtn::{encode, range},
};

/// `importance` weights the squared errors of the columns.
pub(super) fn quantize(matrix: &Matrix, format: Format, importance: Option<&[f32]>) -> Blocks {
    let ones = vec![1.0; matrix.columns];
    let importance = importance.filter(|i| i.len() == matrix.columns).unwrap_or(&ones);
    Blocks::by_rows(matrix, format, |_, row, codes, grids| {
        let blocks = row.chunks(format.block).zip(importance.chunks(format.block));
        for (((values, importance), codes), grid) in blocks.zip(codes.chunks_mut(format.block)).zip(grids) {
            *grid = search(format, values, importance);
            encode(*grid, values, codes);
        }
    })
}

/// How far both ends of the range are moved, as shares of it.
const BOTH: [f32; 18] =
    [1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.78, 0.74, 0.7, 0.65, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25];
/// How far each end is moved from there.
const ONE: [f32; 6] = [0.8, 0.87, 0.94, 1.06, 1.13, 1.2];

/// The best grid that was found for some weights.
pub(super) fn search(format: Format, values: &[f32], importance: &[f32]) -> Grid {
    let (low, high) = range(values);
    let mut best = Candidate { grid: format.spanning(low, high), ends: (low, high), gain: f32::NEG_INFINITY };
    if low == high {
        return best.grid;
    }
    // More levels leave less to be gained by cutting off.
    let both = match format.levels {
        ..=4 => &BOTH[..],
        5..=16 => &BOTH[..13],
        17.. => &BOTH[..5],
    };
    for share in both {
        best.challenge(format, (low * share, high * share), values, importance);
    }
    if !format.symmetric && format.levels <= 16 {
        let (low, high) = best.ends;
        for share in ONE {
            best.challenge(format, (low * share, high), values, importance);
        }
        let (low, _) = best.ends;
        for share in ONE {
            best.challenge(format, (low, high * share), values, importance);
        }
    }
    // Other codes may be nearest with the scale that is best for these codes.
    for _ in 0..2 {
        let (gain, scale) = judge(format, best.grid, values, importance);
        if gain <= best.gain {
            break;
        }
        best.gain = gain;
        best.grid = Grid { scale, ..best.grid };
    }
    best.grid
}

struct Candidate {
    grid: Grid,
    ends: (f32, f32),
    gain: f32,
}

impl Candidate {
    fn challenge(&mut self, format: Format, ends: (f32, f32), values: &[f32], importance: &[f32]) {
        let grid = format.spanning(ends.0, ends.1);
        let (gain, scale) = judge(format, grid, values, importance);
        if gain > self.gain {
            *self = Candidate { grid: Grid { scale, ..grid }, ends, gain };
        }
    }
}

/// How much of the sum of squares the codes explain with the best scale for them, and that scale.
fn judge(format: Format, grid: Grid, values: &[f32], importance: &[f32]) -> (f32, f32) {
    let (inverse, zero) = (f32x8::splat(1.0 / grid.scale), f32x8::splat(grid.zero));
    let [cross, square] = sums([values, importance], |[v, h]| {
        let step = nearest(v * inverse + zero, grid.lowest, grid.highest) - zero;
        [h * v * step, h * step * step]
    });
    if !(square > 0.0 && cross > 0.0) {
        return (f32::NEG_INFINITY, grid.scale);
    }
    let scale = format.storable(cross / square);
    // Of the scale as it is stored: |v|² - |v - scale * step|².
    (scale * (2.0 * cross - scale * square), scale)
}
