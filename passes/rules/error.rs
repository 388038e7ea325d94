//! What is wrong with a rule file, and where.

use std::fmt;

/// A place in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// One mistake in a rule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Where.
    pub at: Span,
    /// What, and what was probably meant.
    pub message: String,
}

impl RuleError {
    pub(super) fn new(at: Span, message: impl Into<String>) -> RuleError {
        RuleError { at, message: message.into() }
    }
}

/// `12:5: message`.
impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.at.line, self.at.column, self.message)
    }
}

impl std::error::Error for RuleError {}

/// `; did you mean ...?`, or nothing.
pub(super) fn hint<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    crate::suggest(wrong, known).map_or_else(String::new, |like| format!("; did you mean `{like}`?"))
}
