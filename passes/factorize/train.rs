//! Matrices as trains of small tensors, one for each digit of the row's number and of the column's.
//!
//! With inputs `i = (i₁ … i_d)` and outputs `o = (o₁ … o_d)` written in digits, `W[o, i] = C₁[o₁, i₁] · C₂[o₂, i₂] · … · C_d[o_d, i_d]`, a
//! product of matrices whose inner sizes are the ranks. Cut off by singular values one bond after the other, the squared error is at most the
//! sum of what each bond discards (Oseledets: Tensor-train decomposition, SIAM J. Sci. Comput. 2011, theorem 2.2).
//!
//! Second moments of inputs mix all digits, so no bond can be whitened by itself. But `W` is linear in each core, and the core that loses least
//! of `E|y - Wx|²` beside the others is a least squares problem of its size; solved for one after the other, the error only falls (Holtz,
//! Rohwedder, Schneider: The alternating linear scheme for tensor optimization in the tensor train format, SIAM J. Sci. Comput. 2012).

use std::borrow::Cow;

use faer::{Accum, Mat, MatMut, MatRef, Par, linalg::matmul::matmul};

use super::{
    projection::row_major,
    rank::{Own, Spectrum},
    svd::{dot, principal},
};
use crate::reconstruct::{Factor, ridge};

/// How often all cores are fitted.
const SWEEPS: usize = 3;
/// Cores with more unknowns for each output than this are not fitted: their normal equations would take more than 32 MiB.
const UNKNOWNS: usize = 2048;
/// Nor are those for which a product on the way there would have more elements than this, 256 MiB: with ranks that differ much.
const LARGEST: usize = 1 << 25;
/// Ridge of the normal equations, as a share of the mean of their diagonal.
const RIDGE: f64 = 1e-9;

/// How many values a digit of the inputs and one of the outputs has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) input: usize,
    pub(super) output: usize,
}

/// A core: `C[o, i]` is a matrix of `before x behind`.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(super) before: usize,
    pub(super) mode: Mode,
    pub(super) behind: usize,
    /// Row-major: before, output, input, behind.
    pub(super) values: Vec<f64>,
}

/// A matrix as a product of cores, of which the first has one row and the last one column.
#[derive(Debug, Clone)]
pub(super) struct Train {
    pub(super) cores: Vec<Core>,
}

/// Which ranks bonds get.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut<'a> {
    /// These, or all that there are if those are fewer.
    At(&'a [usize]),
    /// By what their singular values say.
    By(Own),
}

/// Sizes of `n` in `count` factors as near to each other as its divisors allow, ascending. None if one would be 1.
pub(super) fn digits(n: usize, count: usize) -> Option<Vec<usize>> {
    let (mut rest, mut found) = (n, Vec::new());
    for left in (2..=count).rev() {
        let aim = (rest as f64).powf(1.0 / left as f64);
        let far = |d: &usize| (*d as f64 / aim).ln().abs();
        let divisors = (2..rest).take_while(|d| d * d <= n).flat_map(|d| [d, rest / d]).filter(|d| rest % d == 0);
        let near = divisors.min_by(|a, b| far(a).total_cmp(&far(b)).then(a.cmp(b)))?;
        found.push(near);
        rest /= near;
    }
    found.push(rest);
    found.sort_unstable();
    found.iter().all(|&d| d > 1).then_some(found)
}

impl Mode {
    const fn size(self) -> usize {
        self.input * self.output
    }
}

/// A matrix, `outputs x inputs`, with its digits in pairs, an output and an input; row-major.
pub(super) fn unfolded(weights: MatRef<'_, f64>, modes: &[Mode]) -> Vec<f64> {
    let (outputs, inputs): (Vec<usize>, Vec<usize>) = modes.iter().map(|m| (m.output, m.input)).unzip();
    let paired: Vec<usize> = (0..modes.len()).flat_map(|k| [k, modes.len() + k]).collect();
    permuted(&row_major(weights), &[outputs, inputs].concat(), &paired)
}

/// The largest rank of each bond.
pub(super) fn most(modes: &[Mode]) -> Vec<usize> {
    let size = |modes: &[Mode]| modes.iter().map(|m| m.size()).fold(1, usize::saturating_mul);
    (1..modes.len()).map(|k| modes.split_at_checked(k).map_or(1, |(a, b)| size(a).min(size(b)))).collect()
}

impl Train {
    /// Cuts an [unfolded] matrix into cores. None if its numbers are not finite.
    pub(super) fn cut(unfolded: &[f64], modes: &[Mode], cut: Cut<'_>) -> Option<Train> {
        let count = modes.len();
        let mut rest = Cow::Borrowed(unfolded);
        let (mut cores, mut before) = (Vec::new(), 1);
        for (k, &mode) in modes.iter().enumerate() {
            let rows = before * mode.size();
            let columns = rest.len() / rows.max(1);
            if k + 1 == count {
                cores.push(Core { before, mode, behind: 1, values: rest.into_owned() });
                break;
            }
            let unfolded = MatRef::from_row_major_slice(&rest, rows, columns);
            // The error of all bonds is what is given up.
            let by = |own: Own| match own {
                Own::Energy(share) => Own::Energy(1.0 - (1.0 - share) / (count - 1) as f64),
                own => own,
            };
            let size = rows.min(columns);
            let most = match cut {
                Cut::At(ranks) => ranks.get(k).map_or(size, |r| size.min(*r)),
                Cut::By(own) => by(own).most((rows, columns)),
            };
            let found = principal(unfolded, None, most)?;
            let rank = match cut {
                Cut::At(_) => most,
                Cut::By(own) => {
                    by(own).rank(Spectrum { squares: &found.squares, power: found.power, shape: (rows, columns) })
                }
            };
            let (left, right) = found.factors(unfolded, rank);
            let behind = left.ncols();
            cores.push(Core { before, mode, behind, values: row_major(left.as_ref()) });
            rest = Cow::Owned(row_major(right.as_ref()));
            before = behind;
        }
        Some(Train { cores })
    }

    /// Ranks of the bonds.
    pub(super) fn ranks(&self) -> Vec<usize> {
        self.cores.iter().skip(1).map(|c| c.before).collect()
    }

    pub(super) fn modes(&self) -> Vec<Mode> {
        self.cores.iter().map(|c| c.mode).collect()
    }

    /// The matrix, `outputs x inputs`.
    pub(super) fn matrix(&self) -> Mat<f64> {
        let modes = self.modes();
        let values = apart(&joined(&self.cores), &modes, &[], &[]);
        let size = |of: fn(&Mode) -> usize| modes.iter().map(of).product::<usize>();
        MatRef::from_row_major_slice(&values, size(|m| m.output), size(|m| m.input)).to_owned()
    }

    /// What a layer with these weights loses of the power of its outputs, or of its weights if nothing is known of its inputs.
    pub(super) fn error(&self, weights: MatRef<'_, f64>, moments: Option<&Mat<f64>>) -> f64 {
        let lost = self.matrix() - weights;
        let power = |m: MatRef<'_, f64>| moments.map_or_else(|| dot(m, m), |g| dot((m * g).as_ref(), m));
        let whole = power(weights);
        if whole > 0.0 { power(lost.as_ref()) / whole } else { 0.0 }
    }

    /// Makes the cores lose less of what a matrix makes of inputs with these second moments.
    pub(super) fn fit(&mut self, weights: MatRef<'_, f64>, moments: &Mat<f64>) {
        let (inputs, wanted) = (row_major(moments.as_ref()), row_major((weights * moments).as_ref()));
        for _ in 0..SWEEPS {
            for k in (0..self.cores.len()).rev() {
                if let Some(values) = self.fitted(k, &inputs, &wanted) {
                    self.cores.iter_mut().skip(k).take(1).for_each(|c| c.values.clone_from(&values));
                }
            }
        }
    }

    /// The values of a core that are best beside the others, by second moments of inputs, and of outputs and inputs.
    fn fitted(&self, k: usize, moments: &[f64], wanted: &[f64]) -> Option<Vec<f64>> {
        let (left, others) = self.cores.split_at_checked(k)?;
        let (core, right) = others.split_first()?;
        let (a, b, Mode { input: i, output: o }) = (core.before, core.behind, core.mode);
        let unknowns = a * i * b;
        if unknowns > UNKNOWNS {
            return None;
        }
        let modes = |cores: &[Core]| -> Vec<Mode> { cores.iter().map(|c| c.mode).collect() };
        let sizes = |modes: &[Mode]| modes.iter().fold((1, 1), |(x, y), m| (x * m.output, y * m.input));
        let (left_modes, right_modes) = (modes(left), modes(right));
        let ((lo, li), (ro, ri)) = (sizes(&left_modes), sizes(&right_modes));
        let largest = [a, a, i, i, ri, ri].into_iter().fold(1, usize::saturating_mul);
        if largest > LARGEST {
            return None;
        }
        // Outputs, inputs, rank of what is in front; outputs, rank, inputs of what is behind.
        let front = apart(&joined(left), &left_modes, &[], &[a]);
        let back = apart(&joined(right), &right_modes, &[b], &[]);
        let back_by_output = permuted(&back, &[b, ro, ri], &[1, 0, 2]);

        let squares =
            |m: &[f64], rows, columns| product(&permuted(m, &[rows, columns], &[1, 0]), m, (columns, rows, columns));
        let in_front = permuted(&squares(&front, lo, li * a), &[li, a, li, a], &[1, 3, 0, 2]);
        let behind = permuted(&squares(&back_by_output, ro, b * ri), &[b, ri, b, ri], &[1, 3, 0, 2]);
        let moments = permuted(moments, &[li, i, ri, li, i, ri], &[0, 3, 1, 4, 2, 5]);
        let half = product(&in_front, &moments, (a * a, li * li, i * i * ri * ri));
        let normal = product(&half, &behind, (a * a * i * i, ri * ri, b * b));
        let normal = permuted(&normal, &[a, a, i, i, b, b], &[0, 2, 4, 1, 3, 5]);

        let wanted = permuted(wanted, &[lo, o, ro, li, i, ri], &[0, 3, 1, 4, 2, 5]);
        let front = permuted(&front, &[lo * li, a], &[1, 0]);
        let half = product(&front, &wanted, (a, lo * li, o * i * ro * ri));
        let back = permuted(&back, &[b, ro * ri], &[1, 0]);
        let cross = product(&half, &back, (a * o * i, ro * ri, b));
        let cross = permuted(&cross, &[a, o, i, b], &[0, 2, 3, 1]);

        let normal = MatRef::from_row_major_slice(&normal, unknowns, unknowns).to_owned();
        let lambda = ridge(&normal, RIDGE);
        let solved = Factor::new(normal, lambda)?.solve(MatRef::from_row_major_slice(&cross, unknowns, o).to_owned());
        let values = permuted(&row_major(solved.as_ref()), &[a, i, b, o], &[0, 3, 1, 2]);
        values.iter().all(|v| v.is_finite()).then_some(values)
    }
}

/// The product of cores in a row: before, then outputs and inputs in pairs, then behind.
fn joined(cores: &[Core]) -> Vec<f64> {
    let Some((first, others)) = cores.split_first() else { return vec![1.0] };
    others.iter().fold(first.values.clone(), |values, c| {
        let columns = c.mode.size() * c.behind;
        product(&values, &c.values, (values.len() / c.before.max(1), c.before, columns))
    })
}

/// Pairs of outputs and inputs, with axes before and behind: before, all outputs, all inputs, behind.
fn apart(values: &[f64], modes: &[Mode], before: &[usize], behind: &[usize]) -> Vec<f64> {
    let pairs: Vec<usize> = modes.iter().flat_map(|m| [m.output, m.input]).collect();
    let dims = [before, &pairs, behind].concat();
    let (start, end) = (before.len(), before.len() + pairs.len());
    let every_second = |first: usize| (start + first..end).step_by(2);
    let order: Vec<usize> = (0..start).chain(every_second(0)).chain(every_second(1)).chain(end..dims.len()).collect();
    permuted(values, &dims, &order)
}

/// A product of row-major matrices: rows, inner size, columns.
fn product(a: &[f64], b: &[f64], (rows, inner, columns): (usize, usize, usize)) -> Vec<f64> {
    let mut values = vec![0.0; rows * columns];
    matmul(
        MatMut::from_row_major_slice_mut(&mut values, rows, columns),
        Accum::Replace,
        MatRef::from_row_major_slice(a, rows, inner),
        MatRef::from_row_major_slice(b, inner, columns),
        1.0,
        Par::Seq,
    );
    values
}

/// A row-major tensor with its axes in another order.
pub(super) fn permuted(values: &[f64], dims: &[usize], order: &[usize]) -> Vec<f64> {
    let stride = |axis: usize| dims.iter().skip(axis + 1).product::<usize>();
    let axes: Vec<(usize, usize)> = order.iter().map(|&a| (dims.get(a).copied().unwrap_or(1), stride(a))).collect();
    let mut offsets = vec![0usize];
    for (size, stride) in axes {
        offsets = offsets.iter().flat_map(|o| (0..size).map(move |i| o + i * stride)).collect();
    }
    offsets.iter().map(|&o| values.get(o).copied().unwrap_or(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::svd::Random, *};

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let mut random = Random(seed);
        Mat::from_fn(rows, columns, |_, _| random.normal())
    }

    const MODES: [Mode; 3] = [Mode { input: 2, output: 3 }, Mode { input: 3, output: 2 }, Mode { input: 4, output: 2 }];

    #[test]
    fn digits_are_near_each_other() {
        assert_eq!(digits(384, 2), Some(vec![16, 24]));
        assert_eq!(digits(768, 3), Some(vec![8, 8, 12]));
        assert_eq!(digits(1536, 2), Some(vec![32, 48]));
        assert_eq!((digits(257, 2), digits(1, 2), digits(6, 3)), (None, None, None));
    }

    #[test]
    fn axes_change_places() {
        let values: Vec<f64> = (0..6).map(f64::from).collect();
        assert_eq!(permuted(&values, &[2, 3], &[1, 0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(permuted(&values, &[1, 2, 3], &[2, 0, 1]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn bonds_lose_what_they_discard_at_most() {
        let w = random(12, 24, 3);
        let whole = Train::cut(&unfolded(w.as_ref(), &MODES), &MODES, Cut::At(&most(&MODES))).unwrap();
        assert_eq!(whole.ranks(), most(&MODES));
        assert!(whole.error(w.as_ref(), None) < 1e-20);
        let train = Train::cut(&unfolded(w.as_ref(), &MODES), &MODES, Cut::By(Own::Energy(0.8))).unwrap();
        let error = train.error(w.as_ref(), None);
        assert!((0.01..0.2).contains(&error), "{error}");
    }

    #[test]
    fn what_is_a_train_is_found() {
        let w = Train::cut(&unfolded(random(12, 24, 4).as_ref(), &MODES), &MODES, Cut::At(&[2, 3])).unwrap().matrix();
        let again = Train::cut(&unfolded(w.as_ref(), &MODES), &MODES, Cut::At(&[2, 3])).unwrap();
        assert!(again.error(w.as_ref(), None) < 1e-20);
        let few = Train::cut(&unfolded(w.as_ref(), &MODES), &MODES, Cut::By(Own::Energy(1.0 - 1e-12))).unwrap();
        assert_eq!(few.ranks(), [2, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// One core of two ends has a solution in closed form, and no core makes it worse.
        #[test]
        fn fits_lose_less(first in 1usize..4, second in 1usize..4, seed in 0u64..1000) {
            let (w, x) = (random(12, 24, seed), random(24, 60, seed + 1));
            let moments = &x * x.transpose();
            let mut train = Train::cut(&unfolded(w.as_ref(), &MODES), &MODES, Cut::At(&[first, second])).unwrap();
            let before = train.error(w.as_ref(), Some(&moments));
            for k in [2, 0, 1] {
                let was = train.error(w.as_ref(), Some(&moments));
                let wanted = row_major((&w * &moments).as_ref());
                train.cores[k].values = train.fitted(k, &row_major(moments.as_ref()), &wanted).unwrap();
                let now = train.error(w.as_ref(), Some(&moments));
                prop_assert!(now <= was * (1.0 + 1e-6), "{k}: {was} {now}");
                // At the least, no other value of the core is better.
                for at in [0, train.cores[k].values.len() - 1] {
                    for step in [-1e-3, 1e-3] {
                        let mut other = train.clone();
                        other.cores[k].values[at] += step;
                        prop_assert!(other.error(w.as_ref(), Some(&moments)) >= now * (1.0 - 1e-9));
                    }
                }
            }
            train.fit(w.as_ref(), &moments);
            prop_assert!(train.error(w.as_ref(), Some(&moments)) < before);
        }
    }
}
