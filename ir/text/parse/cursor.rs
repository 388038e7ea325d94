//! The cursor over tokens, and the small things that every part of the grammar is made of.

use super::{ParseError, Parser, Result, Token};

impl<'a> Parser<'a> {
    /// Moves on; returns the token that was at hand.
    pub(super) fn advance(&mut self) -> Result<Token<'a>> {
        let (token, start) = self.lexer.next()?;
        self.start = start;
        Ok(std::mem::replace(&mut self.token, token))
    }

    /// Passes a punctuation mark if it is at hand.
    pub(super) fn eat(&mut self, mark: char) -> Result<bool> {
        let found = self.token == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Passes a punctuation mark that has to be at hand; `what` is for the message.
    pub(super) fn expect(&mut self, mark: char, what: &str) -> Result<()> {
        match self.eat(mark)? {
            true => Ok(()),
            false => Err(self.expected(what)),
        }
    }

    /// A name, in quotes or not.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        match self.optional_name()? {
            Some(name) => Ok(name),
            None => Err(self.expected(what)),
        }
    }

    /// A name, in quotes or not, if there is one.
    pub(super) fn optional_name(&mut self) -> Result<Option<String>> {
        let name = match &mut self.token {
            Token::Word(w) => (*w).to_owned(),
            Token::Text(t) => std::mem::take(t).into_owned(),
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(name))
    }

    /// A string in quotes.
    pub(super) fn string(&mut self) -> Result<String> {
        match self.token {
            Token::Text(_) => self.name("a string"),
            _ => Err(self.expected("a string in quotes")),
        }
    }

    /// A 64-bit integer.
    pub(super) fn int(&mut self) -> Result<i64> {
        let Token::Int(digits) = self.token else { return Err(self.expected("an integer")) };
        let n = digits.parse().map_err(|_| self.error(self.start, format!("`{digits:.40}` does not fit 64 bits")))?;
        self.advance()?;
        Ok(n)
    }

    /// An error about the token at hand.
    pub(super) fn expected(&self, what: &str) -> ParseError {
        self.error(self.start, format!("expected {what}, found {}", self.token))
    }

    /// An error about a place.
    pub(super) fn error(&self, at: usize, message: String) -> ParseError {
        ParseError::at(self.text, at, message)
    }
}
