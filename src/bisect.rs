//! The first patch of a pipeline after which something is wrong.
//!
//! Binary search over the number of the patch, which asks for about log2 of the number of patches runs. It finds the first one
//! only if no later patch mends what an earlier one broke; the neighbours are asked too, and if they disagree, it is said.

use planish_ir::Model;
use planish_passes::Observer;

use crate::trial::{Attempt, Complaint, PatchLine, Trial};

/// What a search came to.
#[derive(Debug)]
pub enum Bisection {
    /// The whole pipeline is all right.
    Fine(Box<Attempt>),
    /// Nothing has been changed, and something is wrong already: the fault is not in the passes.
    WrongFromTheStart(Complaint),
    /// A patch is to blame.
    Found(Box<Found>),
}

/// The patch that is to blame.
#[derive(Debug)]
pub struct Found {
    /// Before it.
    pub before: Attempt,
    /// After it.
    pub after: Attempt,
    /// What is wrong after it.
    pub complaint: Complaint,
    /// Where its neighbours disagree: another patch may be to blame as well.
    pub doubts: Vec<String>,
    /// How often the pipeline was run.
    pub runs: u64,
}

impl Found {
    /// The patch, and how many come with it because a pass applies them in one; `None` if something fails before the next patch
    /// could be applied.
    pub fn patch(&self) -> Option<(&PatchLine, u64)> {
        let count = self.after.patches.saturating_sub(self.before.patches);
        self.after.last.as_ref().filter(|_| count > 0).map(|p| (p, count))
    }

    /// The model before it and, unless a pass ended the run, after it.
    pub fn models(&self) -> (&Model, Option<&Model>) {
        (&self.before.model, self.patch().map(|_| &self.after.model))
    }
}

/// How far from the patch neighbours are asked.
const NEIGHBOURS: u64 = 2;

/// Searches. `say` is told what is being done.
pub fn bisect(trial: &Trial<'_>, say: &dyn Fn(String), observer: &dyn Observer) -> Bisection {
    let mut runs = 0;
    let mut run = |stop_after: Option<u64>| {
        runs += 1;
        trial.run(stop_after, observer)
    };
    say("running the whole pipeline".to_owned());
    let whole = run(None);
    let Some(complaint) = whole.complaint.clone() else { return Bisection::Fine(Box::new(whole)) };
    let mut before = run(Some(0));
    if let Some(complaint) = before.complaint {
        return Bisection::WrongFromTheStart(complaint);
    }
    // A pass may fail without making a patch: the run that goes on after the last patch fails, the one that ends there may not.
    let last = whole.patches + u64::from(whole.verdict.is_none());
    let (mut good, mut bad) = (0, last);
    let (mut after, mut complaint) = (whole, complaint);
    while good + 1 < bad {
        let middle = good + (bad - good) / 2;
        say(format!("the patch is among {} to {bad}: trying {middle}", good + 1));
        let attempt = run(Some(middle));
        match attempt.complaint.clone() {
            Some(wrong) => (bad, after, complaint) = (middle, attempt, wrong),
            // A pass that applies several patches in one does not end between them.
            None => (good, before) = (middle.max(attempt.patches.min(bad - 1)), attempt),
        }
    }
    let mut doubts = Vec::new();
    for distance in 1..=NEIGHBOURS {
        if let Some(earlier) = good.checked_sub(distance).filter(|&n| n > 0) {
            say(format!("asking the neighbour {earlier}"));
            if run(Some(earlier)).complaint.is_some() {
                doubts.push(format!("it is wrong after patch {earlier} too, but not after patch {good}"));
            }
        }
        if let Some(later) = Some(bad + distance).filter(|&n| n < last) {
            say(format!("asking the neighbour {later}"));
            if run(Some(later)).complaint.is_none() {
                doubts.push(format!("after patch {later} it is all right again"));
            }
        }
    }
    Bisection::Found(Box::new(Found { before, after, complaint, doubts, runs }))
}
