//! What the outputs of a quantized model are held to.

use crate::metrics::{Comparison, Tolerance};

/// Bounds, each of which every output has to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Bound {
    pub(crate) min_cosine: Option<f64>,
    pub(crate) min_sqnr_db: Option<f64>,
    pub(crate) top1_agreement: Option<f64>,
}

/// An output beside that of the original, and what there was before a squashing function at its end.
#[derive(Debug, Clone)]
pub(crate) struct Compared<'a> {
    pub(crate) name: &'a str,
    pub(crate) output: Result<&'a Comparison, &'a String>,
    pub(crate) before: Option<&'a Comparison>,
}

/// How near the outputs of a quantized model are to those of the original.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Power of the error as a share of that of the output (before a squashing function), summed over outputs.
    pub(crate) error: f64,
    /// What is not as it has to be.
    pub(crate) failures: Vec<String>,
    /// The figures in words.
    pub(crate) summary: String,
}

impl Figures {
    pub(crate) const fn holds(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Bound {
    /// Judges outputs. The SQNR is that before a squashing function.
    pub(crate) fn judge<'a>(&self, outputs: impl Iterator<Item = Compared<'a>>) -> Figures {
        let min_cosine = self.min_cosine.unwrap_or(f64::NEG_INFINITY);
        let tolerance = Tolerance::Lossy { min_cosine, min_top1: self.top1_agreement };
        let (mut figures, mut lines) = (Figures::default(), Vec::new());
        for Compared { name, output, before } in outputs {
            let output = match output {
                Ok(output) => output,
                // Detections, for example, of which there are more or fewer now.
                Err(why) => {
                    figures.error = f64::INFINITY;
                    figures.failures.push(format!("output {name:?} cannot be compared: {why}"));
                    lines.push(format!("{name:?} cannot be compared"));
                    continue;
                }
            };
            let signal = before.unwrap_or(output);
            let sqnr = if signal.non_finite_mismatches() == 0 { signal.sqnr_db() } else { f64::NEG_INFINITY };
            figures.error += 10f64.powf(-sqnr / 10.0);
            let missed = self.min_sqnr_db.filter(|&bound| sqnr.is_nan() || sqnr < bound);
            let missed = missed.map(|bound| format!("the SQNR is {sqnr:.2} dB, below {bound}"));
            let failed = tolerance.check(output).err().into_iter().chain(missed);
            figures.failures.extend(failed.map(|f| format!("output {name:?}: {f}")));
            let top1 = output.top1_agreement().map_or_else(String::new, |t| format!(", top-1 agreement {t:.4}"));
            lines.push(format!("{name:?} has SQNR {sqnr:.1} dB, cosine {:.6}{top1}", output.cosine()));
        }
        figures.summary = lines.join("; ");
        figures
    }
}
