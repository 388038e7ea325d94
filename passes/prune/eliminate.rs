//! Which channels to take out first, and how the weights behind them make up for it.
//!
//! For a layer `y = W x` and the second moments `H` of its input, taking columns `S` out of `W` costs `tr(W_S (A_SS)⁻¹ W_Sᵀ)` with
//! `A = (H + λI)⁻¹`, once the other columns are changed so that they make up for it as well as they can: the optimal brain surgeon for
//! groups of weights (Hassibi, Stork, NIPS 1992; LeCun et al., NIPS 1989; for layers: Frantar, Alistarh, "Optimal Brain Compression",
//! NeurIPS 2022). After each step `A` and `W` are those of what is left, so that channels which can stand for each other do not both go.

use std::collections::BTreeSet;

use faer::{
    Accum, Mat, MatRef, Par, Side,
    linalg::{
        matmul::{
            matmul,
            triangular::{self, BlockStructure},
        },
        solvers::Solve,
    },
};

use crate::reconstruct::{Factor, dot, ridge};

/// Squared partial correlation above which two channels do not go in the same step.
const TIE: f64 = 0.02;
/// How many times as many channels as go in a step are looked at.
const CHOICE: usize = 4;

/// A layer that sums over the channels.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    /// `outputs x width`.
    pub(super) weights: Mat<f64>,
    /// Second moments of a row, or covariance if the layer has a bias: `width x width`, symmetric.
    pub(super) moments: Mat<f64>,
    /// The columns of each channel.
    pub(super) columns: Vec<Vec<usize>>,
}

impl Reader {
    /// Root mean square of what is read of a channel times the norm of the weights that read it. None if it has no such column.
    pub(super) fn magnitude(&self, channel: usize) -> Option<f64> {
        let norm = |c: usize| (0..self.weights.nrows()).map(|o| self.weights[(o, c)].powi(2)).sum::<f64>();
        let columns = self.columns.get(channel)?;
        Some(columns.iter().map(|&c| (norm(c) * self.moments[(c, c)].max(0.0)).sqrt()).sum())
    }
}

/// What it costs to take channels out one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Curve {
    /// Channels, the first to go first.
    pub(super) order: Vec<usize>,
    /// Squared error of what the readers compute, as a share of their own power and summed over them, once the channels up to here
    /// are gone.
    pub(super) error: Vec<f64>,
}

impl Curve {
    /// The error once so many channels are gone.
    pub(super) fn error_at(&self, count: u64) -> f64 {
        let last = usize::try_from(count).ok().and_then(|n| n.checked_sub(1));
        last.and_then(|at| self.error.get(at)).copied().unwrap_or(0.0)
    }

    /// The channels that go first.
    pub(super) fn first(&self, count: u64) -> BTreeSet<u64> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.order.iter().take(count).map(|&c| c as u64).collect()
    }
}

/// What is left of a reader while channels go.
struct State {
    weights: Mat<f64>,
    /// Symmetric; what is above the diagonal says nothing.
    inverse: Mat<f64>,
    /// Current columns of each channel.
    columns: Vec<Vec<usize>>,
    /// One over the power of the outputs.
    scale: f64,
}

/// Takes out `limit` of `channels` channels, at most `step` at a time: those that cost least, or as they are given. Nothing if a matrix has
/// no inverse.
pub(super) fn eliminate(
    readers: Vec<Reader>,
    channels: usize,
    limit: usize,
    step: usize,
    damping: f64,
    given: Option<&[usize]>,
) -> Option<Curve> {
    let mut states: Vec<State> = readers.into_iter().map(|r| State::new(r, damping)).collect::<Option<_>>()?;
    let mut left: Vec<usize> = (0..channels).collect();
    let mut curve = Curve::default();
    let mut total = 0.0;
    while curve.order.len() < limit && !left.is_empty() {
        let count = step.max(1).min(limit - curve.order.len());
        let going: Vec<usize> = match given {
            Some(order) => order.iter().copied().skip(curve.order.len()).take(count).collect(),
            None => cheapest(&states, &left, count)?,
        };
        if going.is_empty() {
            break;
        }
        let joint: f64 = states.iter().map(|s| s.cost(&going)).sum::<Option<f64>>()?;
        let each = joint / going.len() as f64;
        for &c in &going {
            total += each.max(0.0);
            curve.order.push(c);
            curve.error.push(total);
        }
        left.retain(|c| !going.contains(c));
        for state in &mut states {
            state.remove(&going)?;
        }
    }
    Some(curve)
}

/// The channels whose going alone costs least, but of those that stand for each other one at a time, as long as there are others.
fn cheapest(states: &[State], left: &[usize], count: usize) -> Option<Vec<usize>> {
    let cost = |&c: &usize| Some((states.iter().map(|s| s.cost(&[c])).sum::<Option<f64>>()?, c));
    let mut scored: Vec<(f64, usize)> = left.iter().map(cost).collect::<Option<_>>()?;
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut going, mut passed): (Vec<usize>, Vec<usize>) = Default::default();
    for (_, c) in scored.into_iter().take(CHOICE * count) {
        if going.len() == count {
            break;
        }
        let is_tied = going.iter().any(|&g| states.iter().any(|s| s.tie(c, g) > TIE));
        if is_tied { passed.push(c) } else { going.push(c) }
    }
    let missing = count - going.len();
    going.extend(passed.into_iter().take(missing));
    Some(going)
}

impl State {
    fn new(reader: Reader, damping: f64) -> Option<State> {
        let Reader { weights, moments, columns } = reader;
        let power = power(&weights, &moments);
        let scale = if power > 0.0 { 1.0 / power } else { 0.0 };
        let lambda = ridge(&moments, damping);
        let inverse = Factor::new(moments, lambda)?.inverse();
        Some(State { weights, inverse, columns, scale })
    }

    fn columns_of(&self, channels: &[usize]) -> Vec<usize> {
        let mut columns: Vec<usize> = channels.iter().filter_map(|&c| self.columns.get(c)).flatten().copied().collect();
        columns.sort_unstable();
        columns
    }

    /// How much of one channel the other could make up for once all others stay: the largest squared partial correlation of their columns.
    fn tie(&self, a: usize, b: usize) -> f64 {
        let columns = |c: usize| self.columns.get(c).map_or(&[][..], Vec::as_slice);
        let pairs = columns(a).iter().flat_map(|&i| columns(b).iter().map(move |&j| (i, j)));
        let squared = |(i, j)| {
            self.inverse[below(i, j)].powi(2) / (self.inverse[(i, i)] * self.inverse[(j, j)]).max(f64::MIN_POSITIVE)
        };
        pairs.map(squared).fold(0.0, f64::max)
    }

    /// What it costs to take channels out together.
    fn cost(&self, channels: &[usize]) -> Option<f64> {
        let s = self.columns_of(channels);
        if s.is_empty() {
            return Some(0.0);
        }
        if let &[c] = s.as_slice() {
            let norm: f64 = (0..self.weights.nrows()).map(|o| self.weights[(o, c)].powi(2)).sum();
            return Some(self.scale * norm / self.inverse[(c, c)]);
        }
        let block = pick_below(self.inverse.as_ref(), &s, &s);
        let weights = Mat::from_fn(s.len(), self.weights.nrows(), |i, o| self.weights[(o, s[i])]);
        let solved = block.llt(Side::Lower).ok()?.solve(&weights);
        Some(self.scale * dot(&weights, &solved))
    }

    fn remove(&mut self, channels: &[usize]) -> Option<()> {
        let s = self.columns_of(channels);
        let gone = |c: &usize| s.binary_search(c).is_ok();
        let k: Vec<usize> = (0..self.inverse.nrows()).filter(|c| !gone(c)).collect();
        if !s.is_empty() {
            let block = pick_below(self.inverse.as_ref(), &s, &s);
            let side = pick_below(self.inverse.as_ref(), &s, &k);
            let solved = block.llt(Side::Lower).ok()?.solve(&side);
            let lost = Mat::from_fn(self.weights.nrows(), s.len(), |o, i| self.weights[(o, s[i])]);
            keep_columns(&mut self.weights, &k);
            matmul(self.weights.as_mut(), Accum::Add, &lost, &solved, -1.0, Par::Seq);
            keep_both(&mut self.inverse, &k);
            let (lower, all) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            let into = self.inverse.as_mut();
            triangular::matmul(into, lower, Accum::Add, side.transpose(), all, &solved, all, -1.0, Par::Seq);
        }
        let mut place = vec![None; k.len() + s.len()];
        k.iter().enumerate().for_each(|(new, &old)| place[old] = Some(new));
        for columns in &mut self.columns {
            *columns = columns.iter().filter_map(|&c| place.get(c).copied().flatten()).collect();
        }
        Some(())
    }
}

/// Leaves some columns of a matrix, ascending, where it lies: a copy of a large one is dear.
fn keep_columns(m: &mut Mat<f64>, columns: &[usize]) {
    for (new, &old) in columns.iter().enumerate() {
        (0..m.nrows()).for_each(|i| m[(i, new)] = m[(i, old)]);
    }
    m.truncate(m.nrows(), columns.len());
}

/// Leaves some rows and the same columns of a symmetric matrix that is known up to the diagonal.
fn keep_both(m: &mut Mat<f64>, kept: &[usize]) {
    for (new, &old) in kept.iter().enumerate() {
        kept.iter().enumerate().skip(new).for_each(|(to, &from)| m[(to, new)] = m[(from, old)]);
    }
    m.truncate(kept.len(), kept.len());
}

/// `tr(W H Wᵀ)`: power of the outputs.
pub(super) fn power(weights: &Mat<f64>, moments: &Mat<f64>) -> f64 {
    dot(&(weights * moments), weights)
}

fn pick(m: MatRef<'_, f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), columns.len(), |i, j| m[(rows[i], columns[j])])
}

/// Of a symmetric matrix that is known up to the diagonal.
fn pick_below(m: MatRef<'_, f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), columns.len(), |i, j| m[below(rows[i], columns[j])])
}

fn below(i: usize, j: usize) -> (usize, usize) {
    (i.max(j), i.min(j))
}

/// The weights of what stays, changed so that they make up for the columns that go: the least squares fit to what the layer computed
/// before, with a ridge toward the weights that it had. The columns that go are zero. Nothing if the matrix has no inverse.
pub(super) fn refit(weights: &Mat<f64>, moments: &Mat<f64>, gone: &[usize], damping: f64) -> Option<Mat<f64>> {
    let is_gone = |c: &usize| gone.binary_search(c).is_ok();
    let kept: Vec<usize> = (0..weights.ncols()).filter(|c| !is_gone(c)).collect();
    let cross = pick(moments.as_ref(), &kept, gone);
    let lost = Mat::from_fn(weights.nrows(), gone.len(), |o, i| weights[(o, gone[i])]);
    let factor = Factor::new(pick(moments.as_ref(), &kept, &kept), ridge(moments, damping))?;
    // Solved for what there are fewer of.
    let change = match gone.len() < weights.nrows() {
        true => &lost * factor.solve(cross).transpose(),
        false => factor.solve(&cross * lost.transpose()).transpose().to_owned(),
    };
    let mut new = Mat::zeros(weights.nrows(), weights.ncols());
    for (i, &c) in kept.iter().enumerate() {
        (0..weights.nrows()).for_each(|o| new[(o, c)] = weights[(o, c)] + change[(o, i)]);
    }
    Some(new)
}

/// Share of the layer's power that is lost with new weights, on rows with these moments.
#[cfg(test)]
pub(super) fn loss(old: &Mat<f64>, new: &Mat<f64>, moments: &Mat<f64>) -> f64 {
    let change = new - old;
    power(&change, moments) / power(old, moments).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let mut state = seed.wrapping_mul(2654435761) | 1;
        Mat::from_fn(rows, columns, |_, _| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
        })
    }

    fn reader(outputs: usize, width: usize, seed: u64) -> Reader {
        let x = matrix(width, 3 * width, seed + 1);
        let columns = (0..width).map(|c| vec![c]).collect();
        Reader { weights: matrix(outputs, width, seed), moments: &x * x.transpose(), columns }
    }

    #[test]
    fn a_copy_of_another_channel_goes_first_and_costs_nothing() {
        let mut r = reader(3, 5, 7);
        // Channel 3 is twice channel 1.
        let x = matrix(5, 40, 3);
        let copied = Mat::from_fn(5, 40, |i, j| if i == 3 { 2.0 * x[(1, j)] } else { x[(i, j)] });
        r.moments = &copied * copied.transpose();
        let curve = eliminate(vec![r.clone()], 5, 2, 1, 1e-9, None).unwrap();
        assert!([1, 3].contains(&curve.order[0]) && curve.error[0] < 1e-6 && curve.error[1] > 1e-3, "{curve:?}");
        let new = refit(&r.weights, &r.moments, &[3], 1e-9).unwrap();
        assert!(loss(&r.weights, &new, &r.moments) < 1e-6);
        assert!((new[(0, 1)] - (r.weights[(0, 1)] + 2.0 * r.weights[(0, 3)])).abs() < 1e-3);
    }

    proptest! {
        /// Step by step or at once, it is the same least squares problem.
        #[test]
        fn the_curve_is_the_loss_of_the_refit(seed in 0u64..500, gone in 1usize..5) {
            let r = reader(4, 6, seed);
            let curve = eliminate(vec![r.clone()], 6, gone, 1, 1e-7, None).unwrap();
            let mut s = curve.order.clone();
            s.sort_unstable();
            let new = refit(&r.weights, &r.moments, &s, 1e-7).unwrap();
            let lost = loss(&r.weights, &new, &r.moments);
            prop_assert!((curve.error[gone - 1] - lost).abs() <= 1e-4 * lost.max(1e-3), "{} {}", curve.error[gone - 1], lost);
            // No other choice of the first one is better.
            for c in 0..6 {
                let other = refit(&r.weights, &r.moments, &[c], 1e-7).unwrap();
                prop_assert!(loss(&r.weights, &other, &r.moments) >= curve.error[0] * (1.0 - 1e-4));
            }
        }

        #[test]
        fn channels_of_several_columns_go_whole(seed in 0u64..200) {
            let mut r = reader(3, 6, seed);
            r.columns = vec![vec![0, 3], vec![1, 4], vec![2, 5]];
            let curve = eliminate(vec![r.clone()], 3, 2, 2, 1e-7, None).unwrap();
            let mut s: Vec<usize> = curve.order.iter().flat_map(|&c| r.columns[c].clone()).collect();
            s.sort_unstable();
            let new = refit(&r.weights, &r.moments, &s, 1e-7).unwrap();
            let lost = loss(&r.weights, &new, &r.moments);
            prop_assert!((curve.error[1] - lost).abs() <= 1e-4 * lost.max(1e-3));
        }
    }
}
