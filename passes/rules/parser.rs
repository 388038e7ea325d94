//! Tokens to rules: the parts of a rule. Patterns and expressions are in files of their own.
//!
//! Names are resolved while they are read: what a rule mentions was introduced before.

use planish_ir::Numerics;

use super::{
    ast::{Condition, Defined, Emit, EmitLine, Let, Line, Name, NameKind, Pattern, Piece, Reason, RuleDef, Slot},
    error::{RuleError, Span, hint},
    lexer::{Lexeme, Token, tokens},
};
use crate::Target;

pub(super) type Parsed<T> = Result<T, RuleError>;

/// Names that cannot be those of values.
const KEYWORDS: &[&str] = &[
    "also",
    "and",
    "const",
    "else",
    "emit",
    "false",
    "for",
    "let",
    "match",
    "not",
    "numerics",
    "opset",
    "or",
    "reference",
    "rule",
    "shared",
    "target",
    "true",
    "what",
    "when",
    "where",
];

/// Deepest nesting of patterns and expressions: the parser calls itself for each level.
const MAX_DEPTH: usize = 48;

/// The rules of a file, and everything that is wrong with it.
pub(super) fn parse(text: &str) -> (Vec<RuleDef>, Vec<RuleError>) {
    let (lexemes, mut errors) = tokens(text);
    let mut rules = Vec::new();
    let mut p = Parser { text, lexemes, next: 0, depth: 0, parts: 0, rule: empty(), new: Vec::new() };
    while *p.peek() != Token::End {
        match p.rule() {
            Ok(rule) => rules.push(rule),
            Err(e) => {
                errors.push(e);
                while !matches!(p.peek(), Token::End) && !p.is_word("rule") {
                    p.advance();
                }
            }
        }
    }
    (rules, errors)
}

pub(super) struct Parser<'a> {
    text: &'a str,
    lexemes: Vec<Lexeme>,
    next: usize,
    depth: usize,
    /// Parts of expressions in the rule so far.
    pub(super) parts: usize,
    /// What is known of the rule so far.
    pub(super) rule: RuleDef,
    /// What the lines of the emit so far define: line, output, name.
    pub(super) new: Vec<(usize, usize, String)>,
}

fn empty() -> RuleDef {
    RuleDef {
        name: String::new(),
        at: Span { line: 1, column: 1 },
        what: String::new(),
        reference: String::new(),
        numerics: Numerics::Reassociated,
        names: Vec::new(),
        attrs: Vec::new(),
        lines: Vec::new(),
        also: Vec::new(),
        shared: Vec::new(),
        conditions: Vec::new(),
        lets: Vec::new(),
        emits: Vec::new(),
    }
}

/// Tokens.
impl Parser<'_> {
    pub(super) fn ahead(&self, by: usize) -> &Token {
        self.lexemes.get(self.next + by).map_or(&Token::End, |l| &l.token)
    }

    pub(super) fn peek(&self) -> &Token {
        self.ahead(0)
    }

    pub(super) fn at(&self) -> Span {
        self.lexemes.get(self.next).or(self.lexemes.last()).map_or(Span { line: 1, column: 1 }, |l| l.at)
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(n) if n == word)
    }

    pub(super) fn eat(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.next += usize::from(found);
        found
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.next += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.eat(sign) { Ok(()) } else { Err(self.wanted(&format!("`{sign}`"))) }
    }

    pub(super) fn wanted(&self, what: &str) -> RuleError {
        let found = match self.peek() {
            Token::Name(n) => format!("`{n}`"),
            Token::Number(n) => format!("`{n}`"),
            Token::Text(_) => "a text".to_owned(),
            Token::Sign(s) => format!("`{s}`"),
            Token::End => "the end of the file".to_owned(),
        };
        RuleError::new(self.at(), format!("expected {what}, found {found}"))
    }

    /// Runs a part of the parser that may call itself.
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(RuleError::new(self.at(), format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    pub(super) fn word(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Token::Name(n) => {
                let n = n.clone();
                self.advance();
                Ok(n)
            }
            _ => Err(self.wanted(what)),
        }
    }

    fn quoted(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Token::Text(t) => {
                let t = t.clone();
                self.advance();
                Ok(t)
            }
            _ => Err(self.wanted(what)),
        }
    }

    /// `onnxruntime-cpu`: names and numbers that touch, with `-` between them.
    fn dashed(&mut self, what: &str) -> Parsed<String> {
        let start = self.lexemes.get(self.next).map_or(0, |l| l.start);
        self.word(what)?;
        loop {
            let end = |i: usize| self.lexemes.get(i).map(|l| (l.start, l.end));
            let (Some(before), Some(dash), Some(after)) = (end(self.next - 1), end(self.next), end(self.next + 1))
            else {
                break;
            };
            let part = matches!(self.ahead(1), Token::Name(_) | Token::Number(_));
            if !(self.is_sign("-") && part && before.1 == dash.0 && dash.1 == after.0) {
                break;
            }
            self.next += 2;
        }
        let end = self.lexemes.get(self.next - 1).map_or(start, |l| l.end);
        Ok(self.text.get(start..end).unwrap_or("").to_owned())
    }

    /// The text from a token up to the one before the next.
    fn source(&self, from: usize) -> String {
        let start = self.lexemes.get(from).map_or(0, |l| l.start);
        let end = self.lexemes.get(self.next.saturating_sub(1)).map_or(start, |l| l.end);
        self.text.get(start..end).unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Rules and their parts.
impl Parser<'_> {
    fn rule(&mut self) -> Parsed<RuleDef> {
        let at = self.at();
        if !self.eat_word("rule") {
            return Err(self.wanted("`rule`"));
        }
        (self.depth, self.parts) = (0, 0);
        self.rule = RuleDef { at, name: self.dashed("the name of the rule")?, ..empty() };
        let mut said_numerics = false;
        loop {
            if self.eat_word("what") {
                self.rule.what = self.quoted("a text that says what the rule is for")?;
            } else if self.eat_word("reference") {
                self.rule.reference = self.quoted("a text that says where the identity is from")?;
            } else if self.eat_word("numerics") {
                self.rule.numerics = self.numerics()?;
                said_numerics = true;
            } else {
                break;
            }
        }
        if !said_numerics {
            return Err(self.wanted("`numerics exact`, `numerics reassociated` or `numerics lossy`"));
        }
        if self.rule.what.is_empty() {
            return Err(self.wanted("`what \"...\"`"));
        }
        if !self.eat_word("match") {
            return Err(self.wanted("`match {`"));
        }
        self.expect("{")?;
        while !self.eat("}") {
            if !self.claims()? {
                self.line()?;
            }
        }
        loop {
            if self.eat_word("where") {
                let condition = self.condition("else")?;
                self.rule.conditions.push(condition);
            } else if self.is_word("let") {
                self.definition()?;
            } else if self.is_word("emit") {
                let emit = self.emit()?;
                self.rule.emits.push(emit);
            } else if !self.claims()? {
                break;
            }
        }
        if !matches!(self.peek(), Token::End) && !self.is_word("rule") {
            return Err(self.wanted("`where`, `let`, `emit`, `also`, `shared` or the next `rule`"));
        }
        Ok(std::mem::replace(&mut self.rule, empty()))
    }

    fn numerics(&mut self) -> Parsed<Numerics> {
        let at = self.at();
        let known = ["exact", "reassociated", "lossy"];
        match self.word("`exact`, `reassociated` or `lossy`")?.as_str() {
            "exact" => Ok(Numerics::Exact),
            "reassociated" => Ok(Numerics::Reassociated),
            "lossy" => Ok(Numerics::Lossy),
            other => Err(RuleError::new(at, format!("`{other}` is no class of numerics{}", hint(other, known)))),
        }
    }

    /// `also a, b` and `shared a, b`; false if neither is next.
    fn claims(&mut self) -> Parsed<bool> {
        let is_also = self.is_word("also");
        if !is_also && !self.is_word("shared") {
            return Ok(false);
        }
        self.advance();
        loop {
            let at = self.at();
            let name = self.word("the name of a value inside of the match")?;
            let slot = self.known(&name, at)?;
            let list = if is_also { &mut self.rule.also } else { &mut self.rule.shared };
            list.push((slot, at));
            if !self.eat(",") {
                return Ok(true);
            }
        }
    }

    /// A value that was introduced before.
    pub(super) fn known(&mut self, name: &str, at: Span) -> Parsed<Slot> {
        match self.rule.names.iter().position(|n| n.text == name) {
            Some(slot) => {
                if let Some(n) = self.rule.names.get_mut(slot) {
                    n.uses += 1;
                }
                Ok(slot)
            }
            None => {
                let names = self.rule.names.iter().map(|n| n.text.as_str());
                let lets = self.rule.lets.iter().map(|l| l.name.as_str());
                let message = format!("`{name}` is not bound by the match{}", hint(name, names.chain(lets)));
                Err(RuleError::new(at, message))
            }
        }
    }

    pub(super) fn introduce(&mut self, text: &str, at: Span, kind: NameKind) -> Parsed<Slot> {
        if KEYWORDS.contains(&text) {
            return Err(RuleError::new(at, format!("`{text}` is a word of the language and cannot name a value")));
        }
        if let Some(old) = self.rule.names.iter().find(|n| n.text == text) {
            let place = old.at;
            let message =
                format!("`{text}` has a meaning already, from line {}; lines come before what uses them", place.line);
            return Err(RuleError::new(at, message));
        }
        self.rule.names.push(Name { text: text.to_owned(), at, kind, uses: 0 });
        Ok(self.rule.names.len() - 1)
    }

    fn line(&mut self) -> Parsed<()> {
        let at = self.at();
        let outputs = self.outputs("a line `name = pattern`")?;
        let pattern = self.pattern()?;
        let line = self.rule.lines.len();
        let mut slots = Vec::new();
        for (i, output) in outputs.into_iter().enumerate() {
            slots.push(match output {
                Some((name, at)) => Some(self.introduce(&name, at, NameKind::Line { line, output: i as u32 })?),
                None => None,
            });
        }
        if let (Pattern::Variable { .. } | Pattern::Line { .. } | Pattern::Rest { .. }, _) = (&pattern, ()) {
            return Err(RuleError::new(at, "a line that only gives another name to a value says nothing"));
        }
        self.rule.lines.push(Line { outputs: slots, pattern, at });
        Ok(())
    }

    /// `name =` or `(a, _) =`.
    fn outputs(&mut self, what: &str) -> Parsed<Vec<Option<(String, Span)>>> {
        let mut outputs = Vec::new();
        let is_list = self.eat("(");
        loop {
            let at = self.at();
            let name = self.word(what)?;
            outputs.push((name != "_").then_some((name, at)));
            if !is_list || !self.eat(",") {
                break;
            }
        }
        if is_list {
            self.expect(")")?;
        }
        self.expect("=")?;
        Ok(outputs)
    }

    /// `condition else "reason"`; the reason can be left out where `otherwise` is empty.
    fn condition(&mut self, otherwise: &str) -> Parsed<Condition> {
        let start = self.next;
        let test = self.expression()?;
        let text = self.source(start);
        let reason = match self.eat_word("else") {
            true => {
                let at = self.at();
                let quoted = self.quoted("the reason, a text")?;
                self.reason(&quoted, at)?
            }
            false if otherwise.is_empty() => vec![Piece::Text(format!("{text} does not hold"))],
            false => return Err(self.wanted("`else \"reason\"`")),
        };
        Ok(Condition { test, text, reason })
    }

    /// Expressions in braces are read by a parser of their own.
    fn reason(&mut self, text: &str, at: Span) -> Parsed<Reason> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((inside, after)) = after.split_once('}') else {
                return Err(RuleError::new(at, "a brace in the reason is not closed"));
            };
            pieces.push(Piece::Text(before.to_owned()));
            let (mut lexemes, errors) = tokens(inside);
            if let Some(e) = errors.first() {
                return Err(RuleError::new(at, format!("in the braces of the reason: {}", e.message)));
            }
            lexemes.iter_mut().for_each(|l| l.at = at);
            let outer = std::mem::replace(&mut self.lexemes, lexemes);
            let next = std::mem::take(&mut self.next);
            let read = self.expression().and_then(|e| match self.peek() {
                Token::End => Ok(e),
                _ => Err(self.wanted("the end of the expression in the reason")),
            });
            (self.lexemes, self.next) = (outer, next);
            pieces.push(Piece::Expr(read?));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(pieces)
    }

    fn definition(&mut self) -> Parsed<()> {
        self.advance();
        let at = self.at();
        let name = self.word("a name")?;
        self.expect("=")?;
        let value = self.expression()?;
        let taken = self.rule.names.iter().any(|n| n.text == name) || self.rule.lets.iter().any(|l| l.name == name);
        if taken || KEYWORDS.contains(&name.as_str()) {
            return Err(RuleError::new(at, format!("`{name}` has a meaning already")));
        }
        self.rule.lets.push(Let { name, at, value, uses: 0 });
        Ok(())
    }

    fn emit(&mut self) -> Parsed<Emit> {
        let at = self.at();
        self.advance();
        let mut emit = Emit { at, targets: Vec::new(), when: None, numerics: None, lines: Vec::new() };
        loop {
            if self.eat_word("for") {
                loop {
                    let at = self.at();
                    let name = self.dashed("a target")?;
                    let wrong = || {
                        let like = hint(&name, Target::ALL.map(Target::name));
                        RuleError::new(at, format!("`{name}` is no target{like}"))
                    };
                    emit.targets.push(name.parse().map_err(|_| wrong())?);
                    if !self.eat(",") {
                        break;
                    }
                }
            } else if self.eat_word("when") {
                emit.when = Some(self.condition("")?);
            } else if self.eat_word("numerics") {
                emit.numerics = Some(self.numerics()?);
            } else {
                break;
            }
        }
        self.expect("{")?;
        self.new.clear();
        while !self.eat("}") {
            let at = self.at();
            let outputs = self.outputs("a line `name = expression`")?;
            let value = self.replacement()?;
            let line = emit.lines.len();
            let mut defined = Vec::new();
            for (i, output) in outputs.into_iter().enumerate() {
                defined.push(match output {
                    None => Defined::Nothing,
                    Some((name, at)) => self.defined(name, at, line, i),
                });
            }
            emit.lines.push(EmitLine { outputs: defined, value, at });
        }
        self.new.clear();
        Ok(emit)
    }

    /// A name that the match has is a result; any other one is new.
    fn defined(&mut self, name: String, at: Span, line: usize, output: usize) -> Defined {
        match self.rule.names.iter().position(|n| n.text == name) {
            Some(slot) => {
                self.new.push((line, output, name));
                Defined::Result(slot)
            }
            None => {
                self.new.push((line, output, name.clone()));
                Defined::New { name, at }
            }
        }
    }
}
