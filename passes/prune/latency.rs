//! How many multiply-accumulates a model may keep that is to take so long.
//!
//! Time does not add up over layers as MACs do: runtimes fuse nodes, and a narrow layer uses a core less well than a wide one. So it is
//! not modelled. Models with the shapes that a budget of MACs leads to are timed beside the original, as they are deployed.

use planish_ir::Model;

use crate::{Context, PassError, Stopwatch, Tensors, Timing};

/// Budgets that are tried are multiples of one over this, so that they can be written down.
const PARTS: f64 = 200.0;

/// How many budgets are gone through with, at most: the factors that are measured on the way lead to other shapes than the first ones.
pub(super) const TRIES: usize = 4;

/// A share of the time that the model takes now.
pub(super) struct Latency<'a> {
    /// The share that is asked for.
    pub(super) share: f64,
    tool: String,
    stopwatch: &'a dyn Stopwatch,
    original: &'a Model,
    sample: Tensors,
}

impl<'a> Latency<'a> {
    /// Fails, with what to do, if time cannot be measured.
    pub(super) fn new(share: f64, original: &'a Model, cx: &Context<'a>) -> Result<Latency<'a>, PassError> {
        let stopwatch = cx.stopwatch.ok_or_else(|| {
            let why = "a latency is measured anew each time, and what is done here has to give the same each time; give the budget of \
                       MACs that `planish compile` reported for it: `- prune: {macs: SHARE}`";
            PassError::Precondition(why.to_owned())
        })?;
        let tool = stopwatch.tool().map_err(|e| {
            PassError::Precondition(format!(
                "a latency is measured in onnxruntime: {e}. Or give another budget: `- prune: {{macs: {share}}}`"
            ))
        })?;
        let sample = cx.calibrated()?.samples.get(0)?.into_owned();
        Ok(Latency { share, tool, stopwatch, original, sample })
    }

    /// Times models beside the original.
    pub(super) fn beside(&self) -> Result<Box<dyn Timing>, PassError> {
        Ok(self.stopwatch.beside(self.original, &self.sample)?)
    }

    /// What the report says of a model that takes such a share of the time, and came of such a budget of MACs.
    pub(super) fn said(&self, time: f64, macs: f64) -> String {
        let missed = if time > self.share { ", which were not reached" } else { "" };
        format!(
            "it takes {:.1} % of the time that the model took before, by {} on the first sample, for the {:.1} % that were asked for{missed}; \
             times are not the same in each run: for the same model, ask for its MACs, `prune: {{macs: {macs}}}`",
            100.0 * time,
            self.tool,
            100.0 * self.share,
        )
    }
}

/// The largest budget of MACs whose model takes no longer than a share of the time; the smallest there is, if even that takes longer.
/// Halves what is in question again and again: time is taken to grow with the MACs, which it does but for what disturbs it.
pub(super) fn largest(wanted: f64, mut time: impl FnMut(f64) -> Result<f64, PassError>) -> Result<f64, PassError> {
    let (mut enough, mut too_many) = (0.0, PARTS + 1.0);
    while too_many - enough > 1.0 {
        let middle = f64::midpoint(enough, too_many).floor();
        let fits = time(middle / PARTS)? <= wanted;
        *(if fits { &mut enough } else { &mut too_many }) = middle;
    }
    Ok(enough.max(1.0) / PARTS)
}

/// A budget that is smaller by a factor, and by a step at least; the smallest stays.
pub(super) fn less(macs: f64, factor: f64) -> f64 {
    let parts = (macs * PARTS).round();
    (parts * factor).floor().min(parts - 1.0).max(1.0) / PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_largest_budget_that_takes_no_longer() {
        let mut asked = 0;
        let found = largest(0.625, |macs| {
            asked += 1;
            Ok(0.25 + 0.75 * macs)
        });
        assert_eq!(found.unwrap(), 0.5);
        assert!(asked <= 8, "{asked}");
        // Everything may stay, and nothing can be fast enough.
        assert_eq!(largest(1.0, |_| Ok(1.0)).unwrap(), 1.0);
        assert_eq!(largest(0.1, |_| Ok(0.3)).unwrap(), 0.005);
    }

    #[test]
    fn a_smaller_budget_can_be_written_down() {
        assert_eq!([less(0.5, 0.75), less(0.5, 0.999), less(0.5, 2.0), less(0.005, 0.5)], [0.375, 0.495, 0.495, 0.005]);
    }
}
