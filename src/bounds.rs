//! What a bound on the closeness of two models can be. One that no result can miss, or none can keep, is a mistake.

/// The numbers that a bound can be, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    least: f64,
    most: f64,
}

/// A cosine.
pub const COSINE: Bound = Bound { least: -1.0, most: 1.0 };
/// A share of all samples or rows.
pub const SHARE: Bound = Bound { least: 0.0, most: 1.0 };
/// An absolute difference.
pub const DIFFERENCE: Bound = Bound { least: 0.0, most: f64::MAX };
/// A ratio in dB.
pub const DECIBELS: Bound = Bound { least: f64::MIN, most: f64::MAX };

impl Bound {
    /// Fails if `x` cannot be such a bound; the message is the end of a sentence that names what `x` was given for.
    pub fn check(self, x: f64) -> Result<f64, String> {
        if (self.least..=self.most).contains(&x) {
            return Ok(x);
        }
        Err(match (self.least > f64::MIN, self.most < f64::MAX) {
            (true, true) => format!("{x} is no number from {} to {}", self.least, self.most),
            (true, false) => format!("{x} is no finite number from {} on", self.least),
            (false, _) => format!("{x} is no finite number"),
        })
    }

    /// [`Bound::check`] for the text of a number.
    pub fn parse(self, text: &str) -> Result<f64, String> {
        self.check(text.parse().map_err(|_| format!("{text:?} is no number"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_mean_nothing_are_refused() {
        assert_eq!(COSINE.parse("-1"), Ok(-1.0));
        assert_eq!(SHARE.parse("0.5"), Ok(0.5));
        assert_eq!(COSINE.parse("1.01").unwrap_err(), "1.01 is no number from -1 to 1");
        assert_eq!(SHARE.parse("-0.1").unwrap_err(), "-0.1 is no number from 0 to 1");
        assert_eq!(DIFFERENCE.parse("-1").unwrap_err(), "-1 is no finite number from 0 on");
        assert_eq!(DECIBELS.parse("-inf").unwrap_err(), "-inf is no finite number");
        assert_eq!(COSINE.parse("x").unwrap_err(), "\"x\" is no number");
        for bound in [COSINE, SHARE, DIFFERENCE, DECIBELS] {
            assert!(bound.check(f64::NAN).is_err() && bound.check(f64::INFINITY).is_err());
        }
    }
}
