//! How a command fails, and the exit code that says so.

use std::{fmt, process::ExitCode};

/// Kinds of failure. The numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A bug in planish.
    Internal = 1,
    /// A command line, pipeline or calibration file that cannot be used.
    Config = 2,
    /// A model that cannot be read, or a file that cannot be written.
    File = 3,
    /// The result is worse than asked for, or could not be verified as asked. Nothing was written.
    Gate = 4,
}

/// An error with its kind.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// The message, with its causes.
    pub error: anyhow::Error,
}

/// What commands return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of a kind from a message or an error.
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Failure {
        Failure { kind, error: error.into() }
    }

    /// A failure of a kind from a message.
    pub fn message(kind: Kind, message: impl fmt::Display) -> Failure {
        Failure { kind, error: anyhow::anyhow!("{message}") }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

/// The message with its causes. Some errors repeat their cause in their own text; it is then not said again.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for cause in self.error.chain().map(ToString::to_string).filter(|c| !c.is_empty()) {
            if text.is_empty() {
                text = cause;
            } else if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        f.write_str(&text)
    }
}

/// Sorts errors into kinds where they arise.
pub trait OrFail<T> {
    /// The error means this kind of failure.
    fn or_fail(self, kind: Kind) -> Result<T>;

    /// The error means this kind of failure, in this context.
    fn or_fail_with<C: fmt::Display>(self, kind: Kind, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, kind: Kind) -> Result<T> {
        self.map_err(|e| Failure::new(kind, e))
    }

    fn or_fail_with<C: fmt::Display>(self, kind: Kind, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| Failure { kind, error: e.into().context(context().to_string()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("pass: {source}")]
    struct Repeats {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = Repeats { source: std::io::Error::other("no room") };
        assert_eq!(Failure::new(Kind::File, error).to_string(), "pass: no room");
        let error = anyhow::anyhow!("no room").context("cannot write x");
        assert_eq!(Failure { kind: Kind::File, error }.to_string(), "cannot write x: no room");
    }
}
