//! Progress on a terminal: a spinner that says what is being done. Nothing in a pipe.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use planish_passes::{Forecast, Observer, PassReport, Patched, calibration::Watch};

/// Shows what is being done.
pub struct Progress {
    bar: ProgressBar,
    calibrating: Mutex<Calibrating>,
}

/// What was last said of calibration.
#[derive(Default)]
struct Calibrating {
    pass: String,
    /// What samples are run for; "calibrating" if nothing else is said.
    purpose: Option<String>,
    /// Bytes of the largest forecast so far.
    forecast: u64,
}

impl Progress {
    /// A spinner on standard error, or nothing if that is not a terminal.
    pub fn start() -> Progress {
        // indicatif draws nothing if standard error is not a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress { bar, calibrating: Mutex::default() }
    }

    fn calibrating(&self) -> std::sync::MutexGuard<'_, Calibrating> {
        self.calibrating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is being done now.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn pass_begins(&self, name: &str) {
        let mut calibrating = self.calibrating();
        name.clone_into(&mut calibrating.pass);
        calibrating.purpose = None;
        self.say(name);
    }

    fn patch(&self, patch: &Patched<'_>) {
        // Rules make thousands of patches a second.
        if patch.number.is_multiple_of(64) {
            self.say(format!("{}: patch {}", patch.pass, patch.number));
        }
    }

    fn pass_ends(&self, report: &PassReport) {
        log::info!("{}: {} patches, {} refusals", report.name, report.patches, report.refusals);
    }
}

impl Watch for Progress {
    fn forecast(&self, f: &Forecast) {
        let rounds = if f.rounds > 1 { format!(", {} times", f.rounds) } else { String::new() };
        let open = if f.open > 0 { format!(" and {} values of open size", f.open) } else { String::new() };
        let mut calibrating = self.calibrating();
        let line = format!(
            "{}: calibration on {} samples{rounds}, {} at a time; it will take {}{open}",
            calibrating.pass,
            f.samples,
            f.parallel,
            crate::report::bytes(f.peak()),
        );
        log::info!("{line}");
        // A pass may collect something many times; only the peak matters, and it is told also where there is no terminal.
        if f.peak() > calibrating.forecast {
            calibrating.forecast = f.peak();
            // There is no one to tell if standard error is closed.
            self.bar.suspend(|| writeln!(io::stderr(), "{line}").ok());
        }
    }

    fn sampled(&self, done: usize, of: usize) {
        let calibrating = self.calibrating();
        let purpose = calibrating.purpose.as_deref().unwrap_or("calibrating");
        self.say(format!("{}: {purpose}: {done}/{of} samples", calibrating.pass));
    }

    fn says(&self, what: &str) {
        let mut calibrating = self.calibrating();
        calibrating.purpose = Some(what.to_owned());
        self.say(format!("{}: {what}", calibrating.pass));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_are_run_for_a_search_are_said_with_it() {
        let progress = Progress::start();
        let said = |of: usize| {
            progress.sampled(1, of);
            progress.bar.message()
        };
        progress.pass_begins("prune");
        assert_eq!(said(8), "prune: calibrating: 1/8 samples");
        progress.says("search, round 2 of at most 8");
        assert_eq!(progress.bar.message(), "prune: search, round 2 of at most 8");
        assert_eq!(said(4), "prune: search, round 2 of at most 8: 1/4 samples");
        progress.pass_begins("quantize");
        assert_eq!(said(8), "quantize: calibrating: 1/8 samples");
    }
}
