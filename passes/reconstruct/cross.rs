//! Second moments of two rows that belong together: of the first with itself and with the second, but not of the second with itself.

use faer::{Accum, Mat, MatMut, MatRef, Par, linalg::matmul::matmul};

use crate::calibration::{Gram, Rows};

/// Sums over pairs of what a layer reads and what it is to compute. As in [`Gram`], rows are shifted before they are multiplied in
/// float32, and the products of a chunk are summed in float64.
#[derive(Debug, Clone)]
pub(super) struct Cross {
    inputs: Gram,
    /// Of the targets.
    shift: Vec<f32>,
    /// Of the shifted targets.
    sum: Vec<f64>,
    /// Of the squares of shifted targets.
    squares: Vec<f64>,
    /// `targets x inputs`, row-major, both shifted.
    products: Vec<f64>,
    outputs: usize,
}

/// Mean products of inputs with themselves and with the targets, and the power of these.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub(super) inputs: Mat<f64>,
    /// `outputs x inputs`.
    pub(super) cross: Mat<f64>,
    pub(super) power: f64,
}

/// Bytes of the sums over rows of so many inputs and outputs, with the whole matrix of the inputs, of which one half is kept: it is made when
/// they are read.
pub(super) fn bytes(width: usize, outputs: usize) -> u64 {
    let (width, outputs) = (width as u64, outputs as u64);
    width.saturating_mul(width.saturating_add(outputs)).saturating_mul(8)
}

impl Cross {
    pub(super) fn new(width: usize, outputs: usize) -> Cross {
        let inputs = Gram::new(Rows::Axis(-1), width);
        Cross { inputs, shift: Vec::new(), sum: Vec::new(), squares: Vec::new(), products: Vec::new(), outputs }
    }

    pub(super) fn count(&self) -> f64 {
        self.inputs.count(0) as f64
    }

    /// Adds rows, row-major, as many of one as of the other; both are scratch afterwards.
    pub(super) fn add(&mut self, inputs: &mut [f32], targets: &mut [f32]) -> Result<(), String> {
        let (width, outputs) = (self.inputs.width(), self.outputs);
        let count = targets.len().checked_div(outputs).unwrap_or(0);
        if count == 0 || inputs.len() != count * width {
            return Ok(());
        }
        if targets.iter().any(|x| !x.is_finite()) {
            return Err("it is NaN or infinite on a sample".to_owned());
        }
        self.inputs.add_rows(inputs)?;
        if self.shift.is_empty() {
            let mut mean = vec![0.0f64; outputs];
            for row in targets.chunks(outputs) {
                mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
            }
            self.shift = mean.into_iter().map(|m| (m / count as f64) as f32).collect();
            (self.sum, self.squares) = (vec![0.0; outputs], vec![0.0; outputs]);
            self.products = vec![0.0; outputs * width];
        }
        for row in targets.chunks_mut(outputs) {
            let sums = self.sum.iter_mut().zip(&mut self.squares);
            for ((x, &shift), (sum, square)) in row.iter_mut().zip(&self.shift).zip(sums) {
                *x -= shift;
                *sum += f64::from(*x);
                *square += f64::from(*x).powi(2);
            }
        }
        let mut products = vec![0.0f32; outputs * width];
        let into = MatMut::from_row_major_slice_mut(&mut products, outputs, width);
        let (x, y) =
            (MatRef::from_row_major_slice(inputs, count, width), MatRef::from_row_major_slice(targets, count, outputs));
        // One thread: layers are what runs in parallel.
        matmul(into, Accum::Replace, y.transpose(), x, 1.0, Par::Seq);
        self.products.iter_mut().zip(products).for_each(|(sum, p)| *sum += f64::from(p));
        Ok(())
    }

    /// Means of the inputs and of the targets.
    pub(super) fn means(&self) -> (Vec<f64>, Vec<f64>) {
        let count = self.count().max(1.0);
        let targets = self.shift.iter().zip(&self.sum).map(|(&shift, sum)| f64::from(shift) + sum / count).collect();
        (self.inputs.mean(0), targets)
    }

    /// Means of the moments of several, of which some have seen rows; about the means of them together if they are centred. Of the targets
    /// only some are looked at, so far apart.
    pub(super) fn moments(all: &[&Cross], every: usize, centred: bool) -> Moments {
        let (width, outputs) = all.first().map_or((0, 0), |c| (c.inputs.width(), c.outputs.div_ceil(every)));
        let (of_inputs, of_targets) = Cross::means_of(all);
        let mut moments =
            Moments { inputs: Cross::inputs_of(all, centred), cross: Mat::zeros(outputs, width), power: 0.0 };
        let total = all.iter().map(|c| c.count()).sum::<f64>().max(1.0);
        for c in all.iter().filter(|c| c.count() > 0.0) {
            // Each is known about its own mean; what is missing is how far that is from the origin, which is the common mean or zero.
            let (own_inputs, own_targets) = c.means();
            let away = |own: &[f64], common: &[f64]| -> Vec<f64> {
                own.iter().zip(common).map(|(own, common)| own - if centred { *common } else { 0.0 }).collect()
            };
            let (dx, dy) = (away(&own_inputs, &of_inputs), away(&own_targets, &of_targets));
            let (count, share) = (c.count(), c.count() / total);
            let shift = c.inputs.shift();
            let mean_of = |o: usize| c.sum[o] / count;
            let residual: Vec<f64> = own_inputs.iter().zip(shift).map(|(m, &s)| m - f64::from(s)).collect();
            for (at, o) in (0..c.outputs).step_by(every).enumerate() {
                let (mean, products) = (mean_of(o), &c.products[o * width..(o + 1) * width]);
                for (i, ((product, residual), dx)) in products.iter().zip(&residual).zip(&dx).enumerate() {
                    moments.cross[(at, i)] += share * (product / count - mean * residual + dy[o] * dx);
                }
            }
            let power = |o: usize| share * (c.squares[o] / count - mean_of(o).powi(2) + dy[o].powi(2));
            moments.power += (0..c.outputs).step_by(every).map(power).sum::<f64>();
        }
        moments
    }

    /// Means of the second moments of what is read, over several.
    pub(super) fn inputs_of(all: &[&Cross], centred: bool) -> Mat<f64> {
        Gram::moments_of(&Cross::grams(all), 0, centred)
    }

    /// Means over several.
    pub(super) fn means_of(all: &[&Cross]) -> (Vec<f64>, Vec<f64>) {
        let mut targets = vec![0.0; all.first().map_or(0, |c| c.outputs)];
        let total = all.iter().map(|c| c.count()).sum::<f64>().max(1.0);
        for c in all.iter().filter(|c| c.count() > 0.0) {
            let share = c.count() / total;
            targets.iter_mut().zip(c.means().1).for_each(|(m, x)| *m += share * x);
        }
        (Gram::mean_of(&Cross::grams(all), 0), targets)
    }

    fn grams<'a>(all: &[&'a Cross]) -> Vec<&'a Gram> {
        all.iter().map(|c| &c.inputs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            3.0 + (state >> 40) as f32 / (1u64 << 23) as f32
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// Beside sums in float64; the products are of float32, so the tolerance is 1e-6 of their size.
    #[test]
    fn moments_of_two_parts_are_those_of_all_rows() {
        let (width, outputs, rows) = (3, 2, 20);
        let (x, y) = (numbers(rows * width, 1), numbers(rows * outputs, 2));
        let (mut a, mut b) = (Cross::new(width, outputs), Cross::new(width, outputs));
        a.add(&mut x[..8 * width].to_vec(), &mut y[..8 * outputs].to_vec()).unwrap();
        b.add(&mut x[8 * width..].to_vec(), &mut y[8 * outputs..].to_vec()).unwrap();
        for centred in [false, true] {
            let found = Cross::moments(&[&a, &b], 1, centred);
            let mean = |list: &[f32], n: usize, i: usize| {
                let sum: f64 = list.iter().skip(i).step_by(n).map(|&v| f64::from(v)).sum();
                if centred { sum / rows as f64 } else { 0.0 }
            };
            let product = |p: &[f32], n: usize, i: usize, q: &[f32], m: usize, j: usize| {
                let (a, b) = (mean(p, n, i), mean(q, m, j));
                let at = |r: usize| (f64::from(p[r * n + i]) - a) * (f64::from(q[r * m + j]) - b);
                (0..rows).map(at).sum::<f64>() / rows as f64
            };
            for i in 0..width {
                for j in 0..width {
                    assert!((found.inputs[(i, j)] - product(&x, width, i, &x, width, j)).abs() < 1e-5);
                }
                for o in 0..outputs {
                    assert!((found.cross[(o, i)] - product(&y, outputs, o, &x, width, i)).abs() < 1e-5);
                }
            }
            let power: f64 = (0..outputs).map(|o| product(&y, outputs, o, &y, outputs, o)).sum();
            assert!((found.power - power).abs() < 1e-5, "{} {power}", found.power);
            let of_some = Cross::moments(&[&a, &b], 2, centred);
            assert_eq!(of_some.cross, found.cross.get(..1, ..).to_owned());
            assert!((of_some.power - product(&y, outputs, 0, &y, outputs, 0)).abs() < 1e-5);
        }
    }
}
