//! Text to tokens.

use std::{borrow::Cow, fmt};

use super::{ParseError, is_number_word};

/// One token; words and numbers are slices of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name or keyword without quotes.
    Word(&'a str),
    /// What is between quotes, with escapes undone.
    Text(Cow<'a, str>),
    /// `hex"…"`.
    Bytes(Vec<u8>),
    /// An integer with its sign, of any length.
    Int(&'a str),
    /// A number with a decimal point or an exponent, or an infinity or NaN with a sign. Without a sign they are words.
    Float(&'a str),
    /// A punctuation mark.
    Mark(char),
    /// The end of the text.
    End,
}

/// A cursor over the text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// The next token and the byte at which it starts.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), ParseError> {
        self.skip_blanks();
        let start = self.at;
        let token = match self.peek(0) {
            None => Token::End,
            Some(b'"') => self.string()?,
            Some(b) if is_word_start(b) => self.word()?,
            Some(b) if b.is_ascii_digit() => self.number(start),
            Some(b'-') => self.negative()?,
            Some(
                b @ (b'<' | b'>' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b',' | b':' | b'=' | b'?' | b'@' | b'.'),
            ) => {
                self.at += 1;
                Token::Mark(char::from(b))
            }
            Some(_) => {
                let c = self.text[start..].chars().next().unwrap_or_default();
                let hint = "names with other characters than letters, digits and `_` need quotes";
                return Err(self.error(start, format!("unexpected character {c:?}; {hint}")));
            }
        };
        Ok((token, start))
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, accept: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&accept) {
            self.at += 1;
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            self.skip_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r'));
            if self.peek(0) != Some(b'#') {
                return;
            }
            self.skip_while(|b| b != b'\n');
        }
    }

    /// A backslash takes the meaning from the character after it; there are no other escapes.
    fn string(&mut self) -> Result<Token<'a>, ParseError> {
        let open = self.at;
        self.at += 1;
        let mut unescaped: Option<String> = None;
        let mut from = self.at;
        loop {
            // Both marks are ASCII, so that the slices below start and end between characters.
            self.skip_while(|b| b != b'"' && b != b'\\');
            match self.peek(0) {
                None => return Err(self.error(open, "this string has no closing quote".into())),
                Some(b'\\') => {
                    unescaped.get_or_insert_default().push_str(&self.text[from..self.at]);
                    from = self.at + 1;
                    let escaped = self.text[from..].chars().next().map_or(0, char::len_utf8);
                    self.at = from + escaped;
                }
                Some(_) => break,
            }
        }
        let tail = &self.text[from..self.at];
        self.at += 1;
        Ok(Token::Text(match unescaped {
            Some(s) => Cow::Owned(s + tail),
            None => Cow::Borrowed(tail),
        }))
    }

    fn word(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        self.skip_while(|b| is_word_start(b) || b.is_ascii_digit());
        let word = &self.text[start..self.at];
        match (word, self.peek(0)) {
            ("hex", Some(b'"')) => self.hex(start),
            _ => Ok(Token::Word(word)),
        }
    }

    fn hex(&mut self, start: usize) -> Result<Token<'a>, ParseError> {
        let malformed = "a string in hexadecimal is made of pairs of the digits 0-9 and a-f";
        let Token::Text(digits) = self.string()? else { return Err(self.error(start, malformed.into())) };
        let pairs = digits.as_bytes().chunks(2);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?) as u8),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        bytes.map(Token::Bytes).ok_or_else(|| self.error(start, malformed.into()))
    }

    fn negative(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        self.at += 1;
        match self.peek(0) {
            Some(b) if b.is_ascii_digit() => return Ok(self.number(start)),
            Some(b) if is_word_start(b) => {
                self.skip_while(|b| is_word_start(b) || b.is_ascii_digit());
                if is_number_word(&self.text[start + 1..self.at]) {
                    return Ok(Token::Float(&self.text[start..self.at]));
                }
            }
            _ => {}
        }
        Err(self.error(start, "expected a number after `-`".into()))
    }

    fn number(&mut self, start: usize) -> Token<'a> {
        self.skip_while(|b| b.is_ascii_digit());
        let mut float = false;
        if self.peek(0) == Some(b'.') {
            float = true;
            self.at += 1;
            self.skip_while(|b| b.is_ascii_digit());
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(0), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.skip_while(|b| b.is_ascii_digit());
        }
        let number = &self.text[start..self.at];
        if float { Token::Float(number) } else { Token::Int(number) }
    }

    fn error(&self, offset: usize, message: String) -> ParseError {
        ParseError::at(self.text, offset, message)
    }
}

const fn is_word_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}

/// As a message shows it after "found".
impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(s) | Token::Int(s) | Token::Float(s) => write!(f, "`{s:.40}`"),
            Token::Text(s) => write!(f, "the string \"{:.40}\"", s.escape_debug().to_string()),
            Token::Bytes(_) => f.write_str("a hexadecimal string"),
            Token::Mark(c) => write!(f, "`{c}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}
