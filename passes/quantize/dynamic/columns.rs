//! A matrix in int8 with one scale for each column, such that no pair of neighbours can saturate 16 bits.

use planish_ir::{DType, Tensor, TensorError};

/// A matrix `[K, N]` in int8.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// `[K, N]`.
    pub(super) codes: Tensor,
    /// `[N]`, float.
    pub(super) scales: Tensor,
    /// Power of the weight over power of the error, in dB.
    pub(super) sqnr: f64,
    /// Columns whose step is coarser than their largest element asks for.
    pub(super) narrowed: usize,
}

/// Largest code, and largest sum of two neighbours of one sign: 255 * 128 is below 2^15. Rounding may add one half to each of both.
const LARGEST: f32 = 127.0;

/// What is known of a column.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    largest: f32,
    /// Sum of two neighbours of one sign.
    pair: f32,
    before: f32,
}

impl Extent {
    fn add(&mut self, v: f32) {
        self.largest = self.largest.max(v.abs());
        let (up, down) = (v.max(0.0) + self.before.max(0.0), v.min(0.0) + self.before.min(0.0));
        self.pair = self.pair.max(up).max(-down);
        self.before = v;
    }
}

impl Columns {
    /// Rounds a float matrix `[K, N]`, or `[N, K]` if it is transposed. Fails if an element is not finite.
    pub(super) fn of(weight: &Tensor, transposed: bool, in_pairs: bool) -> Result<Columns, String> {
        let &[rows, columns] = weight.dims() else { return Err("it is no matrix".into()) };
        let text = |e: TensorError| e.to_string();
        let values = weight.as_f32().map_err(text)?;
        if let Some(v) = values.iter().find(|v| !v.is_finite()) {
            return Err(format!("it holds {v}, for which there is no scale"));
        }
        let [inner, outer] = if transposed { [columns, rows] } else { [rows, columns] };
        let (k, n) = (inner as usize, outer as usize);
        // Where the element of row i and column j lies.
        let (down, across) = if transposed { (1, k) } else { (n, 1) };
        let mut extents = vec![Extent::default(); n];
        for i in 0..k {
            extents.iter_mut().enumerate().for_each(|(j, e)| e.add(values[i * down + j * across]));
        }
        let step = |e: &Extent| match if in_pairs { e.pair } else { e.largest } {
            0.0 => 1.0,
            // Divided first: the sum of two elements may leave the range of floats.
            widest => (widest / LARGEST).clamp(f32::MIN_POSITIVE, f32::MAX),
        };
        let scales: Vec<f32> = extents.iter().map(step).collect();
        let (mut signal, mut noise) = (0.0f64, 0.0f64);
        let mut codes = Vec::with_capacity(values.len());
        for i in 0..k {
            for (j, scale) in scales.iter().enumerate() {
                let v = values[i * down + j * across];
                let code = (v / scale).round_ties_even().clamp(-LARGEST, LARGEST);
                let error = f64::from(v) - f64::from(code) * f64::from(*scale);
                signal += f64::from(v) * f64::from(v);
                noise += error * error;
                codes.push((code as i8).cast_unsigned());
            }
        }
        Ok(Columns {
            codes: Tensor::from_raw(DType::I8, [inner, outer].as_slice(), codes.into()).map_err(text)?,
            scales: Tensor::from_f32([outer].as_slice(), &scales).map_err(text)?,
            sqnr: 10.0 * (signal / noise).log10(),
            narrowed: extents.iter().filter(|e| in_pairs && e.pair > e.largest).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(dims: [u64; 2]) -> Tensor {
        let number = |i: u64| {
            ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * (1 + i % 7) as f32
        };
        let values: Vec<f32> = (0..dims[0] * dims[1]).map(number).collect();
        Tensor::from_f32(dims.as_slice(), &values).unwrap()
    }

    #[test]
    fn no_pair_of_neighbours_saturates() {
        for transposed in [false, true] {
            let c = Columns::of(&matrix([33, 17]), transposed, true).unwrap();
            let codes = c.codes.to_i64().unwrap();
            let n = c.codes.dims()[1] as usize;
            assert_eq!(c.codes.dims(), if transposed { [17, 33] } else { [33, 17] });
            let mut reached = 0;
            for i in n..codes.len() {
                let (a, b) = (codes[i - n], codes[i]);
                let (up, down) = (a.max(0) + b.max(0), a.min(0) + b.min(0));
                assert!(255 * up <= 32767 && 255 * down >= -32768, "{a} {b}");
                reached = reached.max(up).max(-down);
            }
            assert!(reached > 120);
            assert!(c.narrowed > 0 && c.sqnr > 30.0, "{} {}", c.narrowed, c.sqnr);
        }
    }

    #[test]
    fn transposing_changes_the_layout_only() {
        let w = Tensor::from_f32([2, 3].as_slice(), &[1.0, -2.0, 4.0, 0.0, 127.0, 0.5]).unwrap();
        let t = Tensor::from_f32([3, 2].as_slice(), &[1.0, 0.0, -2.0, 127.0, 4.0, 0.5]).unwrap();
        let (a, b) = (Columns::of(&w, false, false).unwrap(), Columns::of(&t, true, false).unwrap());
        assert_eq!((&a.codes, &a.scales), (&b.codes, &b.scales));
        assert_eq!(a.codes.to_i64().unwrap(), [127, -2, 127, 0, 127, 16]);
    }

    #[test]
    fn extremes_have_a_scale() {
        let w = Tensor::from_f32([2, 3].as_slice(), &[0.0, f32::MAX, 1e-44, 0.0, f32::MAX, 0.0]).unwrap();
        let scales = Columns::of(&w, false, true).unwrap().scales.to_f64().unwrap();
        assert!(scales.iter().all(|s| *s > 0.0 && s.is_finite()), "{scales:?}");
        let w = Tensor::from_f32([1, 2].as_slice(), &[0.0, f32::NAN]).unwrap();
        assert_eq!(Columns::of(&w, false, true).unwrap_err(), "it holds NaN, for which there is no scale");
    }
}
