//! Gram matrices of activations.

use faer::{
    Accum, MatMut, MatRef, Par,
    linalg::matmul::triangular::{BlockStructure, matmul},
};
use planish_ir::Tensor;

use super::{Reader, Record, Rows, Statistic};

/// Sums over all rows `x` of what a linear layer reads: how many, `x`, and `x xᵀ`.
///
/// Rows are shifted by the mean of the first chunk before they are multiplied, in float32, and the products are summed in float64.
/// So neither large means nor many samples cost precision: the covariance of values that are far from 0 is no difference of large
/// numbers (Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", 1983).
#[derive(Debug, Clone)]
pub struct Gram {
    rows: Rows,
    width: usize,
    groups: Vec<Sums>,
    non_finite: bool,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    count: u64,
    shift: Vec<f32>,
    /// Of shifted rows.
    sum: Vec<f64>,
    /// Of products of shifted rows; the lower triangle of a row-major matrix.
    products: Vec<f64>,
}

/// Elements of a chunk of rows.
pub(crate) const CHUNK: usize = 1 << 20;
const NON_FINITE: &str = "it is NaN or infinite on a sample";

impl Gram {
    /// For rows of `width` values each.
    pub fn new(rows: Rows, width: usize) -> Gram {
        let groups = vec![Sums::default(); rows.groups()];
        Gram { rows, width, groups, non_finite: false }
    }

    /// Values in a row.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Groups of channels, each with a matrix of its own; 1 unless it is of a convolution in groups.
    pub const fn groups(&self) -> usize {
        self.groups.len()
    }

    /// How many rows there were.
    pub fn count(&self, group: usize) -> u64 {
        self.groups.get(group).map_or(0, |g| g.count)
    }

    /// Mean of the rows.
    pub fn mean(&self, group: usize) -> Vec<f64> {
        let Some(g) = self.groups.get(group).filter(|g| g.count > 0) else { return vec![0.0; self.width] };
        g.shift.iter().zip(&g.sum).map(|(&shift, sum)| f64::from(shift) + sum / g.count as f64).collect()
    }

    /// `Σ x xᵀ`, row-major and symmetric, `width` squared values.
    pub fn products(&self, group: usize) -> Vec<f64> {
        self.moment(group, |g| g.shift.iter().map(|&s| f64::from(s)).collect())
    }

    /// `Σ (x - mean) (x - mean)ᵀ`, row-major and symmetric, `width` squared values.
    pub fn covariance(&self, group: usize) -> Vec<f64> {
        // Moving the origin to the mean is moving it by what the shift missed.
        self.moment(group, |g| g.sum.iter().map(|s| -s / g.count.max(1) as f64).collect())
    }

    /// `Σ (x + a) (x + a)ᵀ` of shifted rows `x`, where `a` follows from the sums.
    fn moment(&self, group: usize, by: impl Fn(&Sums) -> Vec<f64>) -> Vec<f64> {
        let n = self.width;
        let mut full = vec![0.0; n * n];
        let Some(g) = self.groups.get(group).filter(|g| g.count > 0) else { return full };
        let (a, count) = (by(g), g.count as f64);
        for i in 0..n {
            for j in 0..=i {
                let (Some(&ai), Some(&aj), Some(&si), Some(&sj)) = (a.get(i), a.get(j), g.sum.get(i), g.sum.get(j))
                else {
                    continue;
                };
                let product = g.products.get(i * n + j).copied().unwrap_or(0.0);
                let moved = product + ai * sj + aj * si + count * ai * aj;
                for at in [i * n + j, j * n + i] {
                    if let Some(entry) = full.get_mut(at) {
                        *entry = moved;
                    }
                }
            }
        }
        full
    }
}

impl Sums {
    /// Adds rows, row-major.
    fn add(&mut self, rows: &mut [f32], width: usize) {
        let count = rows.len() / width;
        if count == 0 {
            return;
        }
        if self.count == 0 {
            let mut mean = vec![0.0f64; width];
            for row in rows.chunks(width) {
                mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
            }
            self.shift = mean.into_iter().map(|m| (m / count as f64) as f32).collect();
            self.sum = vec![0.0; width];
            self.products = vec![0.0; width * width];
        }
        for row in rows.chunks_mut(width) {
            for ((x, &shift), sum) in row.iter_mut().zip(&self.shift).zip(&mut self.sum) {
                *x -= shift;
                *sum += f64::from(*x);
            }
        }
        self.count += count as u64;
        let x = MatRef::from_row_major_slice(rows, count, width);
        let mut products = vec![0.0f32; width * width];
        let target = MatMut::from_row_major_slice_mut(&mut products, width, width);
        let (lower, all) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        // One thread: statistics are what runs in parallel.
        matmul(target, lower, Accum::Replace, x.transpose(), all, x, all, 1.0, Par::Seq);
        for (i, (sums, products)) in self.products.chunks_mut(width).zip(products.chunks(width)).enumerate() {
            sums.iter_mut().zip(products).take(i + 1).for_each(|(sum, &p)| *sum += f64::from(p));
        }
    }
}

impl Gram {
    /// What is taken off rows before they are multiplied. Nothing before there were any.
    pub(crate) fn shift(&self) -> &[f32] {
        self.groups.first().map_or(&[], |g| &g.shift)
    }

    /// Adds rows that were put together elsewhere, row-major, of the only group, and leaves them shifted. Fails if a number is not finite.
    pub(crate) fn add_rows(&mut self, rows: &mut [f32]) -> Result<(), String> {
        if rows.iter().any(|x| !x.is_finite()) {
            self.non_finite = true;
            return Err(NON_FINITE.to_owned());
        }
        if let (Some(sums), true) = (self.groups.first_mut(), self.width > 0) {
            sums.add(rows, self.width);
        }
        Ok(())
    }
}

impl Statistic for Gram {
    fn add(&mut self, tensors: &[&Tensor]) -> Result<(), String> {
        let &[tensor] = tensors else { return Err("a Gram matrix is of one value".to_owned()) };
        let Gram { rows, width, groups, non_finite } = self;
        if *width == 0 {
            return Ok(());
        }
        let chunk = (CHUNK / *width).max(1);
        rows.each(tensor, *width, chunk, |group, rows| {
            if rows.iter().any(|x| !x.is_finite()) {
                *non_finite = true;
            } else if let Some(sums) = groups.get_mut(group) {
                sums.add(rows, *width);
            }
        })?;
        match *non_finite {
            true => Err(NON_FINITE.to_owned()),
            false => Ok(()),
        }
    }

    fn bytes(&self) -> u64 {
        // The matrix, and the product of one chunk.
        let square = (self.width as u64).saturating_mul(self.width as u64);
        square.saturating_mul(8 * self.groups.len() as u64 + 4).saturating_add(4 * CHUNK as u64)
    }

    fn identity(&self) -> Option<String> {
        Some(format!("gram of {} along {:?}", self.width, self.rows))
    }

    fn save(&self) -> Vec<u8> {
        let begun = Record::new().number(u64::from(self.non_finite)).number(self.groups.len() as u64);
        let add = |r: Record, g: &Sums| {
            let shift = g.shift.iter().map(|&x| f64::from(x));
            r.number(g.count).floats(shift).floats(g.sum.iter().copied()).floats(g.products.iter().copied())
        };
        self.groups.iter().fold(begun, add).bytes()
    }

    fn restore(&self, record: &[u8]) -> Result<Gram, String> {
        let mut r = Reader::new(record);
        let non_finite = r.number()? != 0;
        let mut groups = Vec::new();
        for _ in 0..r.count()? {
            let count = r.number()?;
            let shift: Vec<f32> = r.floats()?.into_iter().map(|x| x as f32).collect();
            let sums = Sums { count, shift, sum: r.floats()?, products: r.floats()? };
            let lens = (sums.shift.len(), sums.sum.len(), sums.products.len());
            let width = if count == 0 { 0 } else { self.width };
            if lens != (width, width, width * width) {
                return Err(format!("it is of {} numbers instead of {width}", sums.sum.len()));
            }
            groups.push(sums);
        }
        r.end()?;
        if groups.len() != self.groups.len() {
            return Err(format!("it has {} groups", groups.len()));
        }
        Ok(Gram { rows: self.rows.clone(), width: self.width, groups, non_finite })
    }
}
