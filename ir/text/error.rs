//! What is wrong with a text, and where.

/// Longest part of a line that a message shows on either side of the error; a tensor may be one line of megabytes.
const SHOWN: usize = 60;

/// Why a text is no model. Shows the line and points into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}\n  {excerpt}\n  {}^", " ".repeat(*caret))]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What was expected, or what is wrong.
    pub message: String,
    /// The line, or the part of it around the error.
    pub excerpt: String,
    /// Characters of the excerpt in front of the error.
    caret: usize,
}

impl ParseError {
    /// An error at a byte of the text.
    pub(super) fn at(text: &str, offset: usize, message: String) -> ParseError {
        let offset = text.floor_char_boundary(offset);
        let before = &text[..offset];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let end = text[offset..].find('\n').map_or(text.len(), |i| offset + i);
        let line = before.matches('\n').count() + 1;
        let column = text[start..offset].chars().count() + 1;

        let skipped = (column - 1).saturating_sub(SHOWN);
        let mut excerpt = String::from(if skipped > 0 { "…" } else { "" });
        let mut rest = text[start..end].chars().skip(skipped);
        // The caret has to stay below its character, and a terminal must not obey a stranger's text.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        excerpt.extend(rest.by_ref().take(column - 1 - skipped + SHOWN).map(shown));
        if rest.next().is_some() {
            excerpt.push('…');
        }
        let caret = column - 1 - skipped + usize::from(skipped > 0);
        ParseError { line, column, message, excerpt, caret }
    }
}
