//! Gram matrices of activations.

use faer::{
    Accum, Mat, MatMut, MatRef, Par,
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
    /// Of products of shifted rows: of a symmetric matrix the rows up to the diagonal, one after the other.
    products: Vec<f64>,
}

/// Elements up to the diagonal.
const fn triangle(width: usize) -> usize {
    width * (width + 1) / 2
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
        self.sums_about(group, &vec![0.0; self.width])
    }

    /// `Σ (x - mean) (x - mean)ᵀ`, row-major and symmetric, `width` squared values.
    pub fn covariance(&self, group: usize) -> Vec<f64> {
        self.sums_about(group, &self.mean(group))
    }

    fn sums_about(&self, group: usize, origin: &[f64]) -> Vec<f64> {
        let n = self.width;
        let mut full = vec![0.0; n * n];
        let mut view = MatMut::from_column_major_slice_mut(&mut full, n, n);
        self.add_above(group, origin, 1.0, view.as_mut());
        mirror(view);
        full
    }

    /// Mean of the rows of several, of which some have seen rows.
    pub(crate) fn mean_of(all: &[&Gram], group: usize) -> Vec<f64> {
        let mut mean = vec![0.0; all.first().map_or(0, |g| g.width)];
        let total = Gram::count_of(all, group);
        for g in all {
            let share = g.count(group) as f64 / total;
            mean.iter_mut().zip(g.mean(group)).for_each(|(m, x)| *m += share * x);
        }
        mean
    }

    /// Mean of `x xᵀ` over the rows of several; about their mean if that is `centred`.
    pub(crate) fn moments_of(all: &[&Gram], group: usize, centred: bool) -> Mat<f64> {
        let n = all.first().map_or(0, |g| g.width);
        let origin = if centred { Gram::mean_of(all, group) } else { vec![0.0; n] };
        let scale = 1.0 / Gram::count_of(all, group);
        let mut moments = Mat::zeros(n, n);
        all.iter().for_each(|g| g.add_above(group, &origin, scale, moments.as_mut()));
        mirror(moments.as_mut());
        moments
    }

    fn count_of(all: &[&Gram], group: usize) -> f64 {
        all.iter().map(|g| g.count(group)).sum::<u64>().max(1) as f64
    }

    /// Adds `scale Σ (x - origin) (x - origin)ᵀ` to the diagonal and what is above it.
    fn add_above(&self, group: usize, origin: &[f64], scale: f64, mut into: MatMut<'_, f64>) {
        let Some(g) = self.groups.get(group).filter(|g| g.count > 0) else { return };
        // The sums are of shifted rows. About their own mean nothing large cancels, and what is missing is how far that is away.
        let count = g.count as f64;
        let own: Vec<f64> = g.sum.iter().map(|s| s / count).collect();
        let away: Vec<f64> = own
            .iter()
            .zip(&g.shift)
            .zip(origin)
            .map(|((own, &shift), origin)| own + f64::from(shift) - origin)
            .collect();
        let mut products = g.products.as_slice();
        for (j, (own_j, away_j)) in own.iter().zip(&away).enumerate() {
            let Some((row, rest)) = products.split_at_checked(j + 1) else { return };
            products = rest;
            let column = into.as_mut().col_mut(j).subrows_mut(0, j + 1);
            let others = row.iter().zip(own.iter().zip(&away));
            for (entry, (product, (own_i, away_i))) in column.iter_mut().zip(others) {
                *entry += scale * (product + count * (away_i * away_j - own_i * own_j));
            }
        }
    }
}

/// Copies what is above the diagonal below it.
pub(crate) fn mirror(mut m: MatMut<'_, f64>) {
    const BLOCK: usize = 64;
    let n = m.ncols();
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        for j in start..end {
            (j + 1..end).for_each(|i| m[(i, j)] = m[(j, i)]);
        }
        for later in (end..n).step_by(BLOCK) {
            let (size, other) = (end - start, BLOCK.min(n - later));
            let block = m.as_ref().submatrix(start, later, size, other).to_owned();
            m.as_mut().submatrix_mut(later, start, other, size).copy_from(block.transpose());
        }
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
            self.products = vec![0.0; triangle(width)];
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
        let lower = products.chunks(width).enumerate().flat_map(|(i, row)| row.iter().take(i + 1));
        self.products.iter_mut().zip(lower).for_each(|(sum, &p)| *sum += f64::from(p));
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
        let half = (self.width as u64).saturating_mul(self.width as u64 + 1) / 2;
        half.saturating_mul(8 * self.groups.len() as u64)
    }

    fn working(&self) -> u64 {
        // The product of one chunk is smaller than the matrix that is read.
        (self.width as u64).saturating_mul(self.width as u64).saturating_mul(8).max(4 * CHUNK as u64)
    }

    fn identity(&self) -> Option<String> {
        Some(format!("half gram of {} along {:?}", self.width, self.rows))
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
            if lens != (width, width, triangle(width)) {
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
