//! What two fits of the same compressed model leave of the error of its outputs.

use std::fmt;

/// Squared errors of the outputs on held samples as a share of their power, of two fits to the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FitErrors {
    /// Every layer fitted from what it reads in the original.
    pub(crate) at_once: f64,
    /// One after the other, each from what it reads behind those in front of it. None if that was not tried.
    pub(crate) in_turn: Option<f64>,
}

impl FitErrors {
    /// Of the fit that is taken.
    pub(crate) fn least(self) -> f64 {
        self.in_turn.map_or(self.at_once, |e| e.min(self.at_once))
    }

    /// True if the second fit is taken. It needs no margin: what is fitted to half of the samples here gains more than a smaller fit once it
    /// is fitted to all.
    pub(crate) fn prefer_in_turn(self) -> bool {
        self.in_turn.is_some_and(|e| e < self.at_once)
    }
}

impl fmt::Display for FitErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2e} with all layers fitted at once", self.at_once)?;
        match self.in_turn {
            Some(in_turn) => {
                let taken = if self.prefer_in_turn() { "latter" } else { "former" };
                write!(f, ", {in_turn:.2e} one after the other; the {taken} is taken")
            }
            None => Ok(()),
        }
    }
}
