//! How ranks are chosen: one configuration for all methods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::method::Cost;
use crate::{PassError, trust_region::ROUNDS};

/// Configuration of the passes that factorize.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Factorization {
    /// Share of the parameters to keep, of the layers that can be split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<f64>,
    /// Share of the multiply-accumulates to keep, of the layers that can be split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    /// Share of each layer's spectrum to keep: of its outputs' variance if there is calibration data, else of its weights' power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<f64>,
    /// Rank of every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Rank of every layer, as a share of its full rank; for CP, of the largest that saves anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Rank of every layer by empirical variational Bayes, which takes away all that looks like noise.
    pub evbmf: bool,
    /// How a budget (`params`, `macs`) is spread over the layers.
    pub allocation: Allocation,
    /// Use calibration data, if there is any, to lose least of what layers compute, not of their weights.
    pub whiten: bool,
    /// Refit what is behind, layer after layer, to what the original computes, if that is better on samples held out.
    pub refit: bool,
    /// Ranks are multiples of this: runtimes are slow on odd sizes.
    pub round_to: u64,
    /// Weights that are not split, by name. Those behind a split layer are refitted all the same, unless `refit` is false.
    pub protect: Vec<String>,
    /// Samples on which the effect of each layer is measured.
    pub probes: u64,
    /// How often the search measures anew what each layer does, around the best that it has found, as long as that helps. Each time takes
    /// about as long as the first.
    pub rounds: u64,
}

/// How a budget is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// Where a layer's error, times what it does to the model's outputs, is least for what it saves.
    #[default]
    Global,
    /// Where a layer's own error is least for what it saves.
    Local,
    /// The same share in every layer.
    Uniform,
}

impl Default for Factorization {
    fn default() -> Factorization {
        Factorization {
            params: None,
            macs: None,
            energy: None,
            rank: None,
            ratio: None,
            evbmf: false,
            allocation: Allocation::Global,
            whiten: true,
            refit: true,
            round_to: 8,
            protect: Vec::new(),
            probes: 64,
            rounds: ROUNDS,
        }
    }
}

/// Which ranks are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// Those that keep a budget over all layers; every rank is an option.
    Budget(Budget),
    /// Each layer by itself.
    Own(Own),
}

/// What a share of is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    Macs(f64),
    Parameters(f64),
}

impl Budget {
    /// The share that is kept.
    pub(super) const fn share(self) -> f64 {
        match self {
            Budget::Macs(share) | Budget::Parameters(share) => share,
        }
    }

    /// What is counted.
    pub(super) const fn of(self, cost: &Cost) -> u64 {
        match self {
            Budget::Macs(_) => cost.macs,
            Budget::Parameters(_) => cost.parameters,
        }
    }
}

/// So many of ascending ranks, evenly, the last one among them.
pub(super) fn thinned(all: Vec<usize>, count: usize) -> Vec<usize> {
    let step = all.len().div_ceil(count).max(1);
    let mut some: Vec<usize> = all.into_iter().rev().step_by(step).collect();
    some.reverse();
    some
}

/// How a layer's rank follows from the layer alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Own {
    Energy(f64),
    Rank(u64),
    Ratio(f64),
    Evbmf,
}

/// A matrix, as far as its rank is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spectrum<'a> {
    /// Squared singular values, the largest first; all, or those that were found.
    pub(super) squares: &'a [f64],
    /// Sum of all of them.
    pub(super) power: f64,
    /// Rows and columns.
    pub(super) shape: (usize, usize),
}

impl Factorization {
    /// The one rule that is given. Fails if there is none, or several.
    pub(super) fn rule(&self) -> Result<Rule, PassError> {
        let share = |name: &str, x: f64| match x > 0.0 && x <= 1.0 {
            true => Ok(x),
            false => Err(PassError::Precondition(format!("`{name}: {x}` is no share to keep, from above 0 to 1"))),
        };
        let mut given = Vec::new();
        given.extend(self.params.map(|x| Ok(Rule::Budget(Budget::Parameters(share("params", x)?)))));
        given.extend(self.macs.map(|x| Ok(Rule::Budget(Budget::Macs(share("macs", x)?)))));
        given.extend(self.energy.map(|x| Ok(Rule::Own(Own::Energy(share("energy", x)?)))));
        given.extend(self.ratio.map(|x| Ok(Rule::Own(Own::Ratio(share("ratio", x)?)))));
        given.extend(self.rank.map(|r| match r {
            0 => Err(PassError::Precondition("`rank: 0` leaves nothing of a layer".to_owned())),
            r => Ok(Rule::Own(Own::Rank(r))),
        }));
        given.extend(self.evbmf.then_some(Ok(Rule::Own(Own::Evbmf))));
        match (given.pop(), given.is_empty()) {
            (Some(rule), true) => rule,
            _ => Err(PassError::Precondition(
                "say in one way how ranks are chosen: {params: 0.8} or {macs: 0.8} (the share that is kept), {energy: 0.95}, {rank: 32}, \
                 {ratio: 0.5}, or {evbmf: true}"
                    .to_owned(),
            )),
        }
    }

    /// Ranks of a matrix of this size that are tried for a budget: at most 64, ascending.
    pub(super) fn grid(&self, most: usize) -> Vec<usize> {
        let quantum = self.quantum(most);
        let step = quantum * (most / quantum).div_ceil(64).max(1);
        (1..).map(|k| k * step).take_while(|&r| r <= most).collect()
    }

    /// A multiple of `round_to`, at least one; for small matrices a smaller one.
    pub(super) fn rounded(&self, rank: usize, most: usize) -> usize {
        let quantum = self.quantum(most);
        (rank.div_ceil(quantum) * quantum).clamp(1, most.max(1))
    }

    fn quantum(&self, most: usize) -> usize {
        let mut quantum = usize::try_from(self.round_to).unwrap_or(usize::MAX).max(1);
        while quantum > 1 && most < 4 * quantum {
            quantum /= 2;
        }
        quantum
    }
}

impl Own {
    /// The rank of a matrix, not rounded.
    pub(super) fn rank(self, spectrum: Spectrum<'_>) -> usize {
        let most = spectrum.shape.0.min(spectrum.shape.1);
        let rank = match self {
            Own::Energy(share) => {
                let mut left = share * spectrum.power;
                let kept = spectrum.squares.iter().take_while(|&&s| {
                    let needed = left > 0.0;
                    left -= s;
                    needed
                });
                kept.count()
            }
            Own::Rank(rank) => usize::try_from(rank).unwrap_or(usize::MAX),
            Own::Ratio(share) => (share * most as f64).round() as usize,
            Own::Evbmf => evbmf(spectrum),
        };
        rank.clamp(1, most.max(1))
    }

    /// The largest rank that it can ask for of a matrix whose spectrum is not known yet.
    pub(super) fn most(self, shape: (usize, usize)) -> usize {
        match self {
            Own::Energy(_) | Own::Evbmf => shape.0.min(shape.1),
            own => own.rank(Spectrum { squares: &[], power: 0.0, shape }),
        }
    }
}

/// Rank of the signal in a noisy matrix (Nakajima, Sugiyama, Babacan, Tomioka: Global analytic solution of fully-observed variational
/// Bayesian matrix factorization, JMLR 2013), with the variance of the noise that has the smallest free energy.
fn evbmf(spectrum: Spectrum<'_>) -> usize {
    let (rows, columns) = spectrum.shape;
    let (few, many) = (rows.min(columns) as f64, rows.max(columns) as f64);
    if spectrum.power <= 0.0 || few < 1.0 {
        return 1;
    }
    let ratio = few / many;
    let tau = 2.5129 * ratio.sqrt();
    let threshold = (1.0 + tau) * (1.0 + ratio / tau);
    let energy = |variance: f64| -> f64 {
        let term = |&square: &f64| {
            let x = (square / (many * variance)).max(1e-30);
            if x <= threshold {
                return x - x.ln();
            }
            let shifted = x - (1.0 + ratio);
            let tau = 0.5 * (shifted + (shifted * shifted - 4.0 * ratio).max(0.0).sqrt());
            x - tau + ((tau + 1.0) / x).ln() + ratio * (tau / ratio + 1.0).ln()
        };
        spectrum.squares.iter().map(term).sum()
    };
    // The signal has fewer dimensions than this, so what follows is noise.
    let signal = ((few / (1.0 + ratio)).ceil() as usize).saturating_sub(1).min(spectrum.squares.len());
    let noise = spectrum.squares.get(signal..).unwrap_or_default();
    let mean = noise.iter().sum::<f64>() / noise.len().max(1) as f64 / many;
    let largest = noise.first().copied().unwrap_or(0.0) / (many * threshold);
    let (mut low, mut high) =
        (mean.max(largest).max(1e-12 * spectrum.power / (few * many)), spectrum.power / (few * many));
    // Golden section, on a logarithmic scale.
    let inverse = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..64 {
        let at = |share: f64| (low.ln() + share * (high.ln() - low.ln())).exp();
        let (a, b) = (at(1.0 - inverse), at(inverse));
        if energy(a) <= energy(b) { high = b } else { low = a }
    }
    let cut = many * low * threshold;
    spectrum.squares.iter().take_while(|&&s| s > cut).count()
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::{super::svd, *};

    fn spectrum(squares: &[f64], shape: (usize, usize)) -> Spectrum<'_> {
        Spectrum { squares, power: squares.iter().sum(), shape }
    }

    #[test]
    fn one_rule_is_given() {
        let of = |text: &str| serde_json::from_str::<Factorization>(text).unwrap().rule();
        assert_eq!(of(r#"{"params": 0.8}"#).unwrap(), Rule::Budget(Budget::Parameters(0.8)));
        assert_eq!(of(r#"{"evbmf": true}"#).unwrap(), Rule::Own(Own::Evbmf));
        for wrong in ["{}", r#"{"rank": 0}"#, r#"{"macs": 1.5}"#, r#"{"macs": 0.5, "rank": 4}"#, r#"{"energy": -1.0}"#]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranks_of_a_layer() {
        let squares = [8.0, 4.0, 2.0, 1.0, 1.0];
        let s = spectrum(&squares, (5, 9));
        assert_eq!(Own::Energy(0.75).rank(s), 2);
        assert_eq!(Own::Energy(0.76).rank(s), 3);
        assert_eq!(Own::Energy(1.0).rank(s), 5);
        assert_eq!((Own::Rank(3).rank(s), Own::Rank(99).rank(s)), (3, 5));
        assert_eq!(Own::Ratio(0.4).rank(s), 2);
        assert_eq!(Own::Energy(0.5).rank(spectrum(&[0.0; 5], (5, 9))), 1);
    }

    #[test]
    fn ranks_are_rounded() {
        let f = Factorization::default();
        assert_eq!(f.grid(40), [8, 16, 24, 32, 40]);
        assert_eq!(f.grid(10), [2, 4, 6, 8, 10]);
        assert_eq!(f.grid(3), [1, 2, 3]);
        assert_eq!(f.grid(0), [0usize; 0]);
        assert!(f.grid(4000).len() <= 64);
        assert_eq!((f.rounded(33, 384), f.rounded(3, 10), f.rounded(384, 380)), (40, 4, 380));
    }

    #[test]
    fn bayes_finds_the_signal_in_noise() {
        let mut random = svd::Random(5);
        let (a, b) = (Mat::from_fn(60, 6, |_, _| random.normal()), Mat::from_fn(6, 100, |_, _| random.normal()));
        let noise = Mat::from_fn(60, 100, |_, _| 0.5 * random.normal());
        let found = svd::principal((a * b + noise).as_ref(), None, 60).unwrap();
        assert_eq!(evbmf(spectrum(&found.squares, (60, 100))), 6);
        assert_eq!(evbmf(spectrum(&[0.0; 4], (4, 4))), 1);
    }
}
