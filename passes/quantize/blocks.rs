//! Numbers of a few bits, in blocks that share a scale.
//!
//! A weight is seen as a [`Matrix`]: one row for each output, so that the columns are what a product sums over. A block is
//! `block` neighbours of a row; the last one of a row may be shorter. The real number of a code is
//! `(code - zero) * scale`, where codes and zero points count from 0 to `2^bits - 1`, as `MatMulNBits` stores them. Signed
//! types of ONNX hold the same number less `2^(bits - 1)`, which is the top bit turned over.

use bytes::Bytes;
use half::f16;
use planish_ir::{DType, Tensor, TensorError};
use rayon::prelude::*;

/// What codes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// How many codes there are: a power of two up to 256, or 3.
    pub(super) levels: u16,
    /// Columns that share a scale.
    pub(super) block: usize,
    /// The zero point is the middle. On 8 bits the lowest code is left out, so that the range is the same on both sides.
    pub(super) symmetric: bool,
    /// Type of the scales: float or float16.
    pub(super) scale: DType,
}

impl Format {
    /// Bits of a code: 1, 2, 4 or 8.
    pub(super) const fn bits(self) -> u32 {
        match self.levels {
            ..=2 => 1,
            3..=4 => 2,
            5..=16 => 4,
            17.. => 8,
        }
    }

    /// Highest code.
    pub(super) fn highest(self) -> f32 {
        f32::from(self.levels.max(2) - 1)
    }

    /// Lowest code.
    pub(super) fn lowest(self) -> f32 {
        if self.symmetric && self.levels == 256 { 1.0 } else { 0.0 }
    }

    /// The code that stands for zero where there are no zero points. Two levels have none: their numbers are opposite.
    pub(super) fn middle(self) -> f32 {
        match self.levels {
            2 => 0.5,
            n => f32::from(n / 2),
        }
    }

    /// Blocks of a row.
    pub(super) fn blocks(self, columns: usize) -> usize {
        columns.div_ceil(self.block.max(1))
    }

    /// The grid with a given distance of codes, and the zero point that puts `low` at the lowest code.
    pub(super) fn grid(self, scale: f32, low: f32) -> Grid {
        let scale = self.storable(scale);
        let zero = match self.symmetric {
            true => self.middle(),
            false => nearest(-low / scale, 0.0, self.highest()),
        };
        Grid { scale, zero, lowest: self.lowest(), highest: self.highest() }
    }

    /// The grid that reaches from `low` to `high`, and over zero.
    pub(super) fn spanning(self, low: f32, high: f32) -> Grid {
        let (low, high) = (low.min(0.0), high.max(0.0));
        // Divided first, since the whole width may exceed the range of floats.
        let scale = match self.symmetric {
            true => (high / (self.highest() - self.middle())).max(low / (self.lowest() - self.middle())),
            false => high / self.highest() - low / self.highest(),
        };
        match scale > 0.0 {
            true => self.grid(scale, low),
            false => self.grid(1.0, 0.0),
        }
    }

    /// The number nearest to a scale that the type of scales holds; never zero.
    pub(super) fn storable(self, scale: f32) -> f32 {
        match self.scale {
            DType::F16 => f16::from_f32(scale.clamp(SMALLEST_F16, f16::MAX.to_f32())).to_f32(),
            _ => scale.clamp(f32::MIN_POSITIVE, f32::MAX),
        }
    }

    /// The ONNX type of codes.
    pub(super) fn dtype(self) -> DType {
        match (self.bits(), self.symmetric) {
            (2, true) => DType::I2,
            (2, false) => DType::U2,
            (4, true) => DType::I4,
            (4, false) => DType::U4,
            _ => DType::I8,
        }
    }
}

/// Smallest positive number of float16.
const SMALLEST_F16: f32 = 5.960_464_5e-8;

/// Codes and numbers of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero: f32,
    pub(super) lowest: f32,
    pub(super) highest: f32,
}

impl Grid {
    /// The code nearest to a number.
    pub(super) fn code(self, value: f32) -> f32 {
        nearest(value / self.scale + self.zero, self.lowest, self.highest)
    }

    /// The number of a code.
    pub(super) fn value(self, code: f32) -> f32 {
        (code - self.zero) * self.scale
    }
}

/// A float that has no places left for a fraction: what is added to it is rounded, ties to the even number. Unlike the method of floats it
/// needs no instruction that old processors lack, so that loops with it are vectorized.
pub(super) const WHOLE: f32 = 12_582_912.0;

/// The nearest whole number between two of them that codes may be, ties to the even one.
pub(super) fn nearest(x: f32, lowest: f32, highest: f32) -> f32 {
    (x.clamp(lowest, highest) + WHOLE) - WHOLE
}

/// A weight as rows of what a product sums over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Row by row.
    pub(super) values: Vec<f32>,
}

/// Why a weight has no codes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it holds {0}, for which there is no scale")]
    NotFinite(f32),
    #[error("its elements cannot be read: {0}")]
    Tensor(#[from] TensorError),
}

impl Matrix {
    /// The rows lie along `axis` of the tensor, which must be float or float16 and finite; the columns are all other axes in
    /// their order.
    pub(super) fn of(tensor: &Tensor, axis: usize) -> Result<Matrix, Unfit> {
        let values: Vec<f32> = match tensor.dtype() {
            DType::F16 => {
                let raw = tensor.raw().map_or(&[][..], |b| b);
                raw.as_chunks::<2>().0.iter().map(|c| f16::from_le_bytes(*c).to_f32()).collect()
            }
            _ => tensor.iter_f32()?.collect(),
        };
        if let Some(v) = values.iter().find(|v| !v.is_finite()) {
            return Err(Unfit::NotFinite(*v));
        }
        let rows = tensor.dims().get(axis).map_or(1, |&d| d as usize);
        let columns = values.len() / rows.max(1);
        let values = move_axis(values, Sides::of(tensor, axis), false);
        Ok(Matrix { rows, columns, values })
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        self.values.get(row * self.columns..(row + 1) * self.columns).unwrap_or_default()
    }
}

/// Sizes in front of an axis, of it, and behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides {
    pub(super) outer: usize,
    pub(super) size: usize,
    pub(super) inner: usize,
}

impl Sides {
    pub(super) fn of(tensor: &Tensor, axis: usize) -> Sides {
        let product = |dims: &[u64]| dims.iter().map(|&d| d as usize).product();
        let (before, rest) = tensor.dims().split_at(axis.min(tensor.rank()));
        Sides {
            outer: product(before),
            size: rest.first().map_or(1, |&d| d as usize),
            inner: product(rest.get(1..).unwrap_or_default()),
        }
    }
}

/// Moves an axis to the front, or from the front to its place.
pub(super) fn move_axis<T: Copy + Default + Send + Sync>(values: Vec<T>, sides: Sides, back: bool) -> Vec<T> {
    let Sides { outer, size, inner } = sides;
    if outer == 1 || size == 1 {
        return values;
    }
    let mut moved = vec![T::default(); values.len()];
    // Squares that fit the nearest memory, since either side jumps.
    const TILE: usize = 32;
    if inner == 1 {
        let (from, to) = if back { (size, outer) } else { (outer, size) };
        moved.par_chunks_mut(TILE * from).enumerate().for_each(|(tile, chunk)| {
            for start in (0..from).step_by(TILE) {
                for (r, row) in chunk.chunks_mut(from).enumerate() {
                    let column = tile * TILE + r;
                    for (i, out) in row.iter_mut().enumerate().skip(start).take(TILE) {
                        *out = values[i * to + column];
                    }
                }
            }
        });
        return moved;
    }
    for o in 0..outer {
        for s in 0..size {
            let (a, b) = ((o * size + s) * inner, (s * outer + o) * inner);
            let (from, to) = if back { (b, a) } else { (a, b) };
            moved[to..to + inner].copy_from_slice(&values[from..from + inner]);
        }
    }
    moved
}

/// A weight in codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blocks {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Row by row.
    pub(super) codes: Vec<u8>,
    /// Row by row, one for each block.
    pub(super) grids: Vec<Grid>,
}

impl Blocks {
    /// Codes and grids row by row, in parallel. `quantize` gets the number of a row, the row, and where its codes and
    /// grids go.
    pub(super) fn by_rows(
        matrix: &Matrix,
        format: Format,
        quantize: impl Fn(usize, &[f32], &mut [u8], &mut [Grid]) + Sync,
    ) -> Blocks {
        let per_row = format.blocks(matrix.columns);
        let mut codes = vec![0; matrix.values.len()];
        let mut grids = vec![format.grid(1.0, 0.0); matrix.rows * per_row];
        if !codes.is_empty() {
            let columns = matrix.columns;
            let rows = codes.par_chunks_mut(columns).zip(grids.par_chunks_mut(per_row));
            rows.with_min_len(16).enumerate().for_each(|(r, (codes, grids))| quantize(r, matrix.row(r), codes, grids));
        }
        Blocks { format, rows: matrix.rows, columns: matrix.columns, codes, grids }
    }

    /// Blocks of a row.
    pub(super) fn per_row(&self) -> usize {
        self.format.blocks(self.columns)
    }

    /// The numbers of a row.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = f32> + '_ {
        let codes = self.codes.get(row * self.columns..(row + 1) * self.columns).unwrap_or_default();
        let grids = self.grids.get(row * self.per_row()..).unwrap_or_default();
        codes.chunks(self.format.block.max(1)).zip(grids).flat_map(|(c, g)| c.iter().map(|&c| g.value(f32::from(c))))
    }

    /// Power of the weight over power of the error, in dB; infinite if nothing was lost.
    pub(super) fn sqnr(&self, matrix: &Matrix) -> f64 {
        let row = |r: usize| {
            self.row(r).zip(matrix.row(r)).fold((0.0, 0.0), |(signal, noise), (q, &w)| {
                let (q, w) = (f64::from(q), f64::from(w));
                (signal + w * w, noise + (w - q) * (w - q))
            })
        };
        // Added in the order of the rows, so that the sum is the same for any number of threads.
        let rows: Vec<(f64, f64)> = (0..self.rows).into_par_iter().with_min_len(16).map(row).collect();
        let (signal, noise) = rows.into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        10.0 * (signal / noise).log10()
    }

    /// Scales, row by row.
    pub(super) fn scales(&self, dims: &[u64]) -> Result<Tensor, TensorError> {
        let scales: Vec<f64> = self.grids.iter().map(|g| f64::from(g.scale)).collect();
        Tensor::from_f64_as(self.format.scale, dims, &scales)
    }

    /// Zero points, row by row.
    pub(super) fn zeros(&self) -> Vec<u8> {
        self.grids.iter().map(|g| g.zero as u8).collect()
    }

    /// As `MatMulNBits` has them, `[rows, blocks, block * bits / 8]`: blocks begin at a byte of their own, and the last one of a
    /// row is filled up.
    pub(super) fn packed_blocks(&self) -> Result<Tensor, TensorError> {
        let (block, blocks) = (self.format.block, self.per_row());
        let size = pack_len(block, self.format.bits());
        let mut bytes = vec![0u8; self.rows * blocks * size];
        if !bytes.is_empty() {
            let rows = bytes.par_chunks_mut(blocks * size).zip(self.codes.par_chunks(self.columns));
            rows.for_each(|(out, codes)| {
                for (out, codes) in out.chunks_mut(size).zip(codes.chunks(block)) {
                    pack_into(codes, self.format.bits(), out);
                }
            });
        }
        Tensor::from_raw(DType::U8, [self.rows as u64, blocks as u64, size as u64].as_slice(), bytes.into())
    }

    /// Zero points as `MatMulNBits` has them, `[rows, blocks * bits / 8]`.
    pub(super) fn packed_zeros(&self) -> Result<Tensor, TensorError> {
        pack_rows(&self.zeros(), self.rows, self.per_row(), self.format.bits())
    }
}

/// Bytes that codes take.
pub(super) const fn pack_len(codes: usize, bits: u32) -> usize {
    (codes * bits as usize).div_ceil(8)
}

/// Packs codes, the first one in the low bits.
pub(super) fn pack_into(codes: &[u8], bits: u32, out: &mut [u8]) {
    let per_byte = (8 / bits.clamp(1, 8)) as usize;
    for (byte, codes) in out.iter_mut().zip(codes.chunks(per_byte)) {
        *byte = codes.iter().rev().fold(0, |byte, &code| byte.checked_shl(bits).unwrap_or(0) | code);
    }
}

/// Packs rows of codes, each of which begins at a byte of its own: `[rows, columns * bits / 8]`.
pub(super) fn pack_rows(codes: &[u8], rows: usize, columns: usize, bits: u32) -> Result<Tensor, TensorError> {
    let size = pack_len(columns, bits);
    let mut bytes = vec![0; rows * size];
    if !bytes.is_empty() {
        let rows = bytes.par_chunks_mut(size).zip(codes.par_chunks(columns));
        rows.for_each(|(out, codes)| pack_into(codes, bits, out));
    }
    Tensor::from_raw(DType::U8, [rows as u64, size as u64].as_slice(), bytes.into())
}

/// Codes as a tensor of one of ONNX's integer types, which are packed without gaps.
pub(super) fn pack_as(dtype: DType, dims: &[u64], mut codes: Vec<u8>) -> Result<Tensor, TensorError> {
    let bits = dtype.bits() as u32;
    if matches!(dtype, DType::I2 | DType::I4 | DType::I8) {
        codes.iter_mut().for_each(|c| *c ^= 1 << (bits - 1));
    }
    let bytes: Bytes = match bits {
        8 => codes.into(),
        _ => {
            let mut bytes = vec![0; pack_len(codes.len(), bits)];
            pack_into(&codes, bits, &mut bytes);
            bytes.into()
        }
    };
    Tensor::from_raw(dtype, dims, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpack(bytes: &[u8], bits: u32) -> Vec<u8> {
        let per_byte = 8 / bits;
        let code = |b: u8, i: u32| (b >> (i * bits)) & ((1u16 << bits) - 1) as u8;
        bytes.iter().flat_map(|&b| (0..per_byte).map(move |i| code(b, i))).collect()
    }

    fn blocks(bits: u32, block: usize, rows: usize, columns: usize) -> Blocks {
        let format = Format { levels: 1 << bits, block, symmetric: false, scale: DType::F32 };
        let codes = (0..rows * columns).map(|i| (i * 7 % (1 << bits)) as u8).collect();
        let grid = |i: usize| Grid { zero: (i * 5 % (1 << bits)) as f32, ..format.grid(i as f32 + 1.0, 0.0) };
        Blocks { format, rows, columns, codes, grids: (0..rows * format.blocks(columns)).map(grid).collect() }
    }

    proptest! {
        #[test]
        fn packed_codes_are_found_again(
            bits in prop::sample::select(vec![2u32, 4, 8]), block in prop::sample::select(vec![16usize, 32]),
            rows in 1usize..5, columns in 1usize..80
        ) {
            let b = blocks(bits, block, rows, columns);
            let packed = b.packed_blocks().unwrap();
            prop_assert_eq!(packed.dims(), [rows as u64, columns.div_ceil(block) as u64, (block * bits as usize / 8) as u64]);
            let padded = columns.div_ceil(block) * block;
            for (row, codes) in unpack(packed.raw().unwrap(), bits).chunks(padded).zip(b.codes.chunks(columns)) {
                prop_assert_eq!(&row[..columns], codes);
                prop_assert!(row[columns..].iter().all(|&c| c == 0));
            }
            let zeros = b.packed_zeros().unwrap();
            let width = zeros.dims()[1] as usize * 8 / bits as usize;
            for (row, codes) in unpack(zeros.raw().unwrap(), bits).chunks(width).zip(b.zeros().chunks(b.per_row())) {
                prop_assert_eq!(&row[..b.per_row()], codes);
            }
            let flat = pack_as(b.format.dtype(), &[(rows * columns) as u64], b.codes.clone()).unwrap();
            if bits < 8 {
                prop_assert_eq!(&unpack(flat.raw().unwrap(), bits)[..rows * columns], b.codes.as_slice());
            }
        }

        #[test]
        fn an_axis_moves_there_and_back(outer in 1usize..70, size in 1usize..70, inner in 1usize..4) {
            let sides = Sides { outer, size, inner };
            let values: Vec<u32> = (0..(outer * size * inner) as u32).collect();
            let moved = move_axis(values.clone(), sides, false);
            for (i, v) in moved.iter().enumerate() {
                let (s, o, k) = (i / inner / outer, i / inner % outer, i % inner);
                prop_assert_eq!(*v as usize, (o * size + s) * inner + k);
            }
            prop_assert_eq!(move_axis(moved, sides, true), values);
        }
    }

    #[test]
    fn signed_types_hold_the_same_numbers() {
        let t = pack_as(DType::I8, &[3], vec![0, 128, 255]).unwrap();
        assert_eq!(t.to_i64().unwrap(), [-128, 0, 127]);
        assert_eq!(pack_as(DType::I4, &[3], vec![0, 8, 15]).unwrap().raw().unwrap().as_ref(), [0x08, 0x07]);
        assert_eq!(pack_as(DType::I2, &[4], vec![0, 1, 2, 3]).unwrap().raw().unwrap().as_ref(), [0b01_00_11_10]);
    }

    #[test]
    fn ties_go_to_even() {
        for (x, wanted) in [(0.5, 0.0), (1.5, 2.0), (-2.5, -2.0), (2.6, 3.0), (-0.2, 0.0), (1e9, 255.0), (-1e9, -2.0)] {
            assert_eq!(nearest(x, -2.0, 255.0), wanted);
        }
    }
}
