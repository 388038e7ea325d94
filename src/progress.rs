//! Progress on a terminal: a spinner that says what is being done. Nothing in a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use planish_passes::{Forecast, Observer, PassReport, Patched, calibration::Watch};

/// Shows what is being done.
pub struct Progress {
    bar: ProgressBar,
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
        Progress { bar }
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
        log::info!(
            "calibration: {} samples{rounds}, {} at a time; forecast at the peak {}{open}",
            f.samples,
            f.parallel,
            crate::report::bytes(f.peak()),
        );
    }

    fn sampled(&self, done: usize, of: usize) {
        self.say(format!("calibrating: {done} of {of} samples"));
    }
}
