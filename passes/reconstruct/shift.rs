//! What a bias makes up for.

use faer::Mat;

use crate::Bias;

/// A sum whose terms may cancel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shift {
    pub(crate) value: f64,
    /// Sum of the magnitudes of the terms.
    pub(crate) magnitude: f64,
}

/// Below this share of its terms a sum is their rounding, and what the smallest ridge leaves.
const ROUNDING: f64 = 1e-5;

impl Shift {
    pub(crate) fn of(terms: impl Iterator<Item = f64>) -> Shift {
        let zero = Shift { value: 0.0, magnitude: 0.0 };
        terms.fold(zero, |s, t| Shift { value: s.value + t, magnitude: s.magnitude + t.abs() })
    }

    /// False if a layer that has no bias would get one that is nothing but rounding.
    pub(crate) fn are_worth_adding(shifts: &[Shift], bias: Bias) -> bool {
        let counts = |s: &Shift| s.value.abs() > ROUNDING * s.magnitude;
        !matches!(bias, Bias::Absent(_)) || shifts.iter().any(counts)
    }
}

/// The terms that an output of a layer sums up.
pub(crate) fn products(weights: &Mat<f64>, output: usize, input: &[f64]) -> impl Iterator<Item = f64> {
    input.iter().enumerate().take(weights.ncols()).map(move |(i, x)| weights[(output, i)] * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cancels_up_to_rounding_is_no_reason_for_a_bias() {
        let cancels = Shift::of([1.0, 2.0, -3.0 + 1e-6].into_iter());
        let stays = Shift::of([1.0, 2.0, -2.9].into_iter());
        assert!(!Shift::are_worth_adding(&[cancels, cancels], Bias::Absent(2)));
        assert!(Shift::are_worth_adding(&[cancels, stays], Bias::Absent(2)));
        // One that is there costs nothing.
        assert!(Shift::are_worth_adding(&[cancels], Bias::None));
        assert!(!Shift::are_worth_adding(&[Shift::of(std::iter::empty())], Bias::Absent(2)));
    }
}
