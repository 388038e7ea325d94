//! Tokens to patterns.

use planish_ir::OpName;

use super::{
    ast::{AttrPattern, NameKind, OpPattern, Pattern, Slot},
    error::{RuleError, Span},
    lexer::Token,
    parser::{Parsed, Parser},
};

impl Parser<'_> {
    /// `a | b | c`
    pub(super) fn pattern(&mut self) -> Parsed<Pattern> {
        self.nested(|p| {
            let first = p.single()?;
            if !p.is_sign("|") {
                return Ok(first);
            }
            let mut all = vec![first];
            while p.eat("|") {
                all.push(p.single()?);
            }
            Ok(Pattern::Any(all))
        })
    }

    fn single(&mut self) -> Parsed<Pattern> {
        let at = self.at();
        match self.peek().clone() {
            Token::Number(_) => self.number(),
            Token::Sign("-") if matches!(self.ahead(1), Token::Number(_)) => self.number(),
            Token::Sign("-") => {
                self.advance();
                Ok(Pattern::Absent)
            }
            Token::Sign("[") => Ok(Pattern::Ints(self.ints()?)),
            Token::Sign("(") => {
                self.advance();
                let inner = self.pattern()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("...") => {
                self.advance();
                let at = self.at();
                let name = self.word("a name for the other inputs")?;
                let slot = self.variable(&name, at, NameKind::Rest)?;
                Ok(Pattern::Rest { slot, at })
            }
            Token::Name(n) if n == "_" => {
                self.advance();
                Ok(Pattern::Anything)
            }
            Token::Name(n) if n == "const" => {
                self.advance();
                let at = self.at();
                let name = self.word("a name for the constant")?;
                let slot = self.variable(&name, at, NameKind::Variable)?;
                Ok(Pattern::Variable { slot, constant: true })
            }
            Token::Name(_) if self.is_operator() => self.operator_pattern(),
            Token::Name(n) => {
                self.advance();
                let slot = self.variable(&n, at, NameKind::Variable)?;
                match self.rule.names.get(slot).map(|n| n.kind) {
                    Some(NameKind::Line { .. }) => Ok(Pattern::Line { slot }),
                    _ => Ok(Pattern::Variable { slot, constant: false }),
                }
            }
            _ => Err(self.wanted("a pattern")),
        }
    }

    /// Introduces a name, or finds the one that is there.
    fn variable(&mut self, name: &str, at: Span, kind: NameKind) -> Parsed<Slot> {
        let found = self.rule.names.iter().position(|n| n.text == name);
        let Some(slot) = found else { return self.introduce(name, at, kind) };
        if let Some(n) = self.rule.names.get_mut(slot) {
            n.uses += 1;
            if (n.kind == NameKind::Rest) != (kind == NameKind::Rest) {
                return Err(RuleError::new(at, format!("`{name}` is a list in one place and a value in another")));
            }
        }
        Ok(slot)
    }

    /// True before `Op(`, `Op?(`, `Op<a=` and `domain::Op`.
    pub(super) fn is_operator(&self) -> bool {
        let mut i = 1;
        while matches!(self.ahead(i), Token::Sign(".")) && matches!(self.ahead(i + 1), Token::Name(_)) {
            i += 2;
        }
        if matches!(self.ahead(i), Token::Sign("::")) {
            return true;
        }
        let Token::Name(n) = self.peek() else { return false };
        if i > 1 || !n.starts_with(|c: char| c.is_ascii_uppercase()) {
            return false;
        }
        match self.ahead(1) {
            Token::Sign("(" | "?") => true,
            Token::Sign("<") => {
                let assigns = matches!(self.ahead(2), Token::Name(_)) && matches!(self.ahead(3), Token::Sign("="));
                assigns || matches!(self.ahead(2), Token::Sign(".." | ">"))
            }
            _ => false,
        }
    }

    /// `Op` or `domain.of.it::Op`.
    pub(super) fn operator_name(&mut self) -> Parsed<OpName> {
        let mut name = self.word("an operator")?;
        while self.eat(".") {
            name = format!("{name}.{}", self.word("the rest of the domain")?);
        }
        if self.eat("::") {
            let op = self.word("an operator")?;
            return Ok(OpName::new(&name, &op));
        }
        Ok(OpName::onnx(&name))
    }

    fn operator_pattern(&mut self) -> Parsed<Pattern> {
        let at = self.at();
        let op = self.operator_name()?;
        let optional = self.eat("?");
        let (mut attrs, mut open) = (Vec::new(), false);
        if self.eat("<") {
            while !self.eat(">") {
                if self.eat("..") {
                    open = true;
                } else {
                    let at = self.at();
                    let name = self.word("an attribute")?;
                    self.expect("=")?;
                    attrs.push((name, at, self.attribute()?));
                }
                if !self.is_sign(">") {
                    self.expect(",")?;
                }
            }
        }
        self.expect("(")?;
        let mut inputs = Vec::new();
        while !self.eat(")") {
            inputs.push(self.pattern()?);
            if !self.is_sign(")") {
                self.expect(",")?;
            }
        }
        Ok(Pattern::Op(Box::new(OpPattern { op, at, optional, attrs, open, inputs })))
    }

    fn attribute(&mut self) -> Parsed<AttrPattern> {
        match self.peek().clone() {
            Token::Sign("$") => {
                self.advance();
                let at = self.at();
                let name = self.word("a name for the attribute")?;
                let index = self.rule.attrs.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
                    self.rule.attrs.push((name, at));
                    self.rule.attrs.len() - 1
                });
                Ok(AttrPattern::Bind(index))
            }
            Token::Sign("[") => Ok(AttrPattern::Ints(self.ints()?)),
            Token::Text(t) => {
                self.advance();
                Ok(AttrPattern::Text(t))
            }
            _ => match self.number()? {
                Pattern::Number { text, value, at } => match text.parse::<i64>() {
                    Ok(i) => Ok(AttrPattern::Int(i)),
                    Err(_) if text.chars().all(|c| c.is_ascii_digit() || c == '-') => {
                        Err(RuleError::new(at, format!("{text} is no 64-bit integer")))
                    }
                    Err(_) => Ok(AttrPattern::Float(value)),
                },
                _ => Err(self.wanted("a number, a text, a list or `$name`")),
            },
        }
    }

    /// A number with its sign.
    fn number(&mut self) -> Parsed<Pattern> {
        let at = self.at();
        let sign = if self.eat("-") { "-" } else { "" };
        let Token::Number(digits) = self.peek().clone() else { return Err(self.wanted("a number")) };
        let text = format!("{sign}{digits}");
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.advance();
                Ok(Pattern::Number { text, value, at })
            }
            _ => Err(self.wanted("a finite number")),
        }
    }

    /// `[1, -1]`
    fn ints(&mut self) -> Parsed<Vec<i64>> {
        self.expect("[")?;
        let mut list = Vec::new();
        while !self.eat("]") {
            let at = self.at();
            match self.number()? {
                Pattern::Number { text, .. } => match text.parse() {
                    Ok(i) => list.push(i),
                    Err(_) => return Err(RuleError::new(at, format!("{text} is no 64-bit integer"))),
                },
                _ => return Err(self.wanted("an integer")),
            }
            if !self.is_sign("]") {
                self.expect(",")?;
            }
        }
        Ok(list)
    }
}
