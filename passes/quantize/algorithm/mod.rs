//! Ways to find the codes of a weight.

mod gptq;
mod hqq;
mod lanes;
mod mse;
mod refine;
mod rtn;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::blocks::{Blocks, Format, Matrix};
use crate::reconstruct::Second;

/// How codes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// `gptq` for products whose inputs were calibrated, `mse` for everything else.
    #[default]
    Auto,
    /// Least error of the products on calibration data: rounding errors are passed on to the columns that are rounded later.
    Gptq,
    /// Least absolute error, roughly: outliers count less than in `mse`. Without data.
    Hqq,
    /// Least squared error: the range of each block is searched. Weighted by the sizes of the inputs, if there is data.
    Mse,
    /// Range of each block from its smallest to its largest weight.
    Rtn,
}

/// The codes of a weight. `second` is of its inputs, with as many columns; without it GPTQ is the search for the least squared
/// error.
pub(super) fn quantize(matrix: &Matrix, format: Format, algorithm: Algorithm, second: Option<&Second>) -> Blocks {
    match (algorithm, second) {
        (Algorithm::Rtn, _) => rtn::quantize(matrix, format),
        (Algorithm::Hqq, _) => hqq::quantize(matrix, format),
        (Algorithm::Mse, second) => mse::quantize(matrix, format, second.map(Second::diagonal)),
        (Algorithm::Auto | Algorithm::Gptq, None) => mse::quantize(matrix, format, None),
        (Algorithm::Auto | Algorithm::Gptq, Some(second)) => gptq::quantize(matrix, format, second),
    }
}

#[cfg(test)]
mod tests;
