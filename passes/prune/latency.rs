//! How many multiply-accumulates a model may keep that is to take so long.
//!
//! Time does not add up over layers as MACs do: runtimes fuse nodes, and a narrow layer uses a core less well than a wide one. So it is
//! not modelled. Models with the shapes that a budget of MACs leads to are timed beside the original, as they are deployed.

use planish_ir::Model;

use crate::{Context, EngineError, PassError, Stopwatch, Tensors};

/// Budgets that are tried are multiples of one over this, so that they can be written down.
const PARTS: u32 = 200;

/// A share of the time that the model takes now.
pub(super) struct Latency<'a> {
    /// The share that is asked for.
    pub(super) share: f64,
    pub(super) tool: String,
    stopwatch: &'a dyn Stopwatch,
    original: &'a Model,
    sample: Tensors,
}

/// Where a search for a budget ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    /// Share of the MACs that are kept.
    pub(super) macs: f64,
    /// Share of the time that this takes.
    pub(super) time: f64,
}

impl<'a> Latency<'a> {
    /// Fails, with what to do, if time cannot be measured.
    pub(super) fn new(share: f64, original: &'a Model, cx: &Context<'a>) -> Result<Latency<'a>, PassError> {
        let stopwatch = cx.stopwatch.ok_or_else(|| {
            let why = "a latency is measured anew each time, and what is done here has to give the same each time; give the budget of \
                       MACs that `planish compile` reported for it: `- prune: {macs: SHARE}`";
            PassError::Precondition(why.to_owned())
        })?;
        let tool = stopwatch.tool().map_err(|e: EngineError| {
            PassError::Precondition(format!(
                "a latency is measured in onnxruntime: {e}. Or give another budget: `- prune: {{macs: {share}}}`"
            ))
        })?;
        let sample = cx.calibrated()?.samples.get(0)?.into_owned();
        Ok(Latency { share, tool, stopwatch, original, sample })
    }

    /// The largest budget with which the model that it leads to takes no longer than asked; the smallest there is, if even that takes
    /// longer.
    pub(super) fn budget(&self, shaped: impl Fn(f64) -> Result<Model, PassError>) -> Result<Found, PassError> {
        let mut timing = self.stopwatch.beside(self.original, &self.sample)?;
        largest(self.share, |macs| Ok(timing.share(&shaped(macs)?)?))
    }

    /// The share of the time that a model takes.
    pub(super) fn of(&self, model: &Model) -> Result<f64, PassError> {
        Ok(self.stopwatch.beside(self.original, &self.sample)?.share(model)?)
    }
}

/// Halves what is in question again and again: time is taken to grow with the MACs, which it does but for what disturbs it.
fn largest(wanted: f64, mut time: impl FnMut(f64) -> Result<f64, PassError>) -> Result<Found, PassError> {
    let share = |parts: u32| f64::from(parts) / f64::from(PARTS);
    let (mut enough, mut too_many) = (0, PARTS + 1);
    let mut best = None;
    while too_many - enough > 1 {
        let middle = enough.midpoint(too_many);
        let found = Found { macs: share(middle), time: time(share(middle))? };
        if found.time <= wanted {
            (enough, best) = (middle, Some(found));
        } else {
            too_many = middle;
        }
    }
    match best {
        Some(found) => Ok(found),
        None => Ok(Found { macs: share(1), time: time(share(1))? }),
    }
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
        assert_eq!(found.unwrap(), Found { macs: 0.5, time: 0.625 });
        assert!(asked <= 8, "{asked}");
        // Everything may stay, and nothing can be fast enough.
        assert_eq!(largest(1.0, |_| Ok(1.0)).unwrap().macs, 1.0);
        assert_eq!(largest(0.1, |_| Ok(0.3)).unwrap(), Found { macs: 0.005, time: 0.3 });
    }
}
