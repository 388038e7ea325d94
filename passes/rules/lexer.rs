//! Characters to tokens.

use super::error::{RuleError, Span};

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name or a keyword.
    Name(String),
    /// A number as written, without a sign.
    Number(String),
    /// What is between quotes; `\"`, `\\` and `\n` are replaced.
    Text(String),
    /// One of [`SIGNS`].
    Sign(&'static str),
    /// The end of the file.
    End,
}

/// A token, where it is, and the byte range of its text.
#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) at: Span,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Longest first.
const SIGNS: &[&str] = &[
    "...", "::", "..", "==", "!=", "<=", ">=", "(", ")", "{", "}", "[", "]", "<", ">", "=", ",", "|", "+", "-", "*",
    "/", "%", "?", "$", ":", ".",
];

/// Tokens of a file, the end included, and what could not be read.
pub(super) fn tokens(text: &str) -> (Vec<Lexeme>, Vec<RuleError>) {
    let mut lexer = Lexer { text, at: 0, place: Span { line: 1, column: 1 } };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    loop {
        lexer.skip_blank();
        let (at, start) = (lexer.place, lexer.at);
        match lexer.token() {
            Ok(token) => {
                let is_end = token == Token::End;
                found.push(Lexeme { token, at, start, end: lexer.at });
                if is_end {
                    return (found, errors);
                }
            }
            Err(message) => {
                errors.push(RuleError::new(at, message));
                lexer.take(1);
            }
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    place: Span,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// Goes on by some characters and returns them.
    fn take(&mut self, characters: usize) -> &'a str {
        let rest = self.rest();
        let end = rest.char_indices().nth(characters).map_or(rest.len(), |(i, _)| i);
        let taken = rest.get(..end).unwrap_or("");
        for c in taken.chars() {
            match c {
                '\n' => self.place = Span { line: self.place.line.saturating_add(1), column: 1 },
                _ => self.place.column = self.place.column.saturating_add(1),
            }
        }
        self.at += end;
        taken
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let count = self.rest().chars().take_while(|&c| belongs(c)).count();
        self.take(count)
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest().starts_with('#') {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, String> {
        let Some(first) = self.rest().chars().next() else { return Ok(Token::End) };
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(Token::Name(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_').to_owned()));
        }
        if first.is_ascii_digit() {
            return Ok(Token::Number(self.number()));
        }
        if first == '"' {
            return self.quoted();
        }
        match SIGNS.iter().find(|s| self.rest().starts_with(**s)) {
            Some(sign) => {
                self.take(sign.len());
                Ok(Token::Sign(sign))
            }
            None => Err(format!("{first:?} means nothing here")),
        }
    }

    /// `12`, `0.5`, `1e-5`. A dot belongs to it only before a digit, so that `0..` is a number and a sign.
    fn number(&mut self) -> String {
        let mut number = self.take_while(|c| c.is_ascii_digit()).to_owned();
        let mut ahead = self.rest().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            number += self.take(1);
            number += self.take_while(|c| c.is_ascii_digit());
        }
        let mut ahead = self.rest().chars();
        if ahead.next().is_some_and(|c| matches!(c, 'e' | 'E')) {
            let sign = ahead.clone().next().filter(|c| matches!(c, '-' | '+'));
            if sign.is_some() {
                ahead.next();
            }
            if ahead.next().is_some_and(|c| c.is_ascii_digit()) {
                number += self.take(1 + usize::from(sign.is_some()));
                number += self.take_while(|c| c.is_ascii_digit());
            }
        }
        number
    }

    fn quoted(&mut self) -> Result<Token, String> {
        self.take(1);
        let mut text = String::new();
        loop {
            match self.take(1) {
                "\"" => return Ok(Token::Text(text)),
                "" | "\n" => return Err("the text has no closing quote on its line".into()),
                "\\" => match self.take(1) {
                    "n" => text.push('\n'),
                    other => text += other,
                },
                other => text += other,
            }
        }
    }
}
