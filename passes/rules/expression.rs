//! Tokens to expressions: conditions, definitions, and what a match becomes.

use planish_ir::DType;

use super::{
    ast::{Expr, Kind, OpExpr, Operator},
    error::{RuleError, Span, hint},
    function::FUNCTIONS,
    lexer::Token,
    parser::{Parsed, Parser},
};

/// Binary operators by how loosely they bind.
const LEVELS: &[&[(&str, Operator)]] = &[
    &[("or", Operator::Or)],
    &[("and", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::LessEqual),
        (">=", Operator::GreaterEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ],
    &[("+", Operator::Add), ("-", Operator::Sub)],
    &[("*", Operator::Mul), ("/", Operator::Div), ("%", Operator::Rem)],
];
/// The first level that `>` at the end of attributes cannot be mistaken for.
const ARITHMETIC: usize = 3;

/// Parts of all expressions of a rule.
const MAX_PARTS: usize = 1000;
/// Levels of one expression: evaluation calls itself for each, and each link of a chain is one.
const MAX_LEVELS: usize = 100;

fn boxed(e: Expr) -> Box<Expr> {
    Box::new(e)
}

impl Parser<'_> {
    /// An expression without operators of a model.
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        let e = self.level(0)?;
        match find_op(&e) {
            Some(at) => Err(RuleError::new(at, "operators of a model stand in `match` and `emit` only")),
            None => Ok(e),
        }
    }

    /// What a line of an emit makes.
    pub(super) fn replacement(&mut self) -> Parsed<Expr> {
        self.level(ARITHMETIC)
    }

    fn level(&mut self, level: usize) -> Parsed<Expr> {
        let Some(operators) = LEVELS.get(level) else { return self.nested(Self::unary) };
        let mut left =
            if level == 2 && self.is_word("not") { self.nested(Self::negation)? } else { self.level(level + 1)? };
        loop {
            let found = operators.iter().find(|(sign, _)| self.is_sign(sign) || self.is_word(sign));
            let Some(&(_, operator)) = found else { return Ok(left) };
            let at = self.at();
            self.advance();
            let right = self.level(level + 1)?;
            left = Expr { at, kind: Kind::Binary(operator, boxed(left), boxed(right)) };
            self.part(&left)?;
        }
    }

    fn negation(&mut self) -> Parsed<Expr> {
        let at = self.at();
        self.advance();
        let inner = self.level(2)?;
        Ok(Expr { at, kind: Kind::Not(boxed(inner)) })
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        if self.is_sign("-") {
            self.advance();
            if self.is_sign(",") || self.is_sign(")") {
                return Ok(Expr { at, kind: Kind::Absent });
            }
            let inner = self.nested(Self::unary)?;
            let kind = match inner.kind {
                Kind::Int(i) => Kind::Int(i.wrapping_neg()),
                Kind::Float(x) => Kind::Float(-x),
                _ => Kind::Neg(boxed(inner)),
            };
            return Ok(Expr { at, kind });
        }
        let mut e = self.primary()?;
        loop {
            self.part(&e)?;
            if self.eat("[") {
                let index = self.level(ARITHMETIC)?;
                self.expect("]")?;
                e = Expr { at, kind: Kind::At(boxed(e), boxed(index)) };
            } else if self.eat(":") {
                let ty = self.primary()?;
                e = Expr { at, kind: Kind::Typed(boxed(e), boxed(ty)) };
            } else {
                return Ok(e);
            }
        }
    }

    /// Counts the parts of a rule's expressions, which bounds how deep one can be.
    fn part(&mut self, e: &Expr) -> Parsed<()> {
        self.parts += 1;
        if self.parts <= MAX_PARTS && levels(e) <= MAX_LEVELS {
            Ok(())
        } else {
            Err(RuleError::new(self.at(), "the expressions are too long"))
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        let kind = match self.peek().clone() {
            Token::Number(n) => {
                let float = n.contains(['.', 'e', 'E']);
                let kind = match (float, n.parse::<i64>(), n.parse::<f64>()) {
                    (false, Ok(i), _) => Kind::Int(i),
                    (true, _, Ok(x)) if x.is_finite() => Kind::Float(x),
                    _ => return Err(self.wanted("a number in the range of its type")),
                };
                self.advance();
                kind
            }
            Token::Text(t) => {
                self.advance();
                Kind::Text(t)
            }
            Token::Sign("$") => {
                self.advance();
                let at = self.at();
                let name = self.word("the name of an attribute")?;
                let Some(i) = self.rule.attrs.iter().position(|(n, _)| *n == name) else {
                    let like = hint(&name, self.rule.attrs.iter().map(|(n, _)| n.as_str()));
                    return Err(RuleError::new(at, format!("no attribute is bound to `${name}`{like}")));
                };
                Kind::Attr(i)
            }
            Token::Sign("[") => {
                self.advance();
                Kind::List(self.list("]")?)
            }
            Token::Sign("(") => {
                self.advance();
                let e = self.level(0)?;
                self.expect(")")?;
                return Ok(e);
            }
            Token::Sign("...") => {
                self.advance();
                let at = self.at();
                let name = self.word("a list of values")?;
                Kind::Value(self.known(&name, at)?)
            }
            Token::Name(_) if self.is_operator() => self.operator_expr()?,
            Token::Name(n) if matches!(self.ahead(1), Token::Sign("(")) => self.call(&n, at)?,
            Token::Name(n) => {
                self.advance();
                self.named(&n, at)?
            }
            _ => return Err(self.wanted("an expression")),
        };
        Ok(Expr { at, kind })
    }

    fn list(&mut self, end: &str) -> Parsed<Vec<Expr>> {
        let mut list = Vec::new();
        while !self.eat(end) {
            list.push(self.level(0)?);
            if !self.is_sign(end) {
                self.expect(",")?;
            }
        }
        Ok(list)
    }

    fn call(&mut self, name: &str, at: Span) -> Parsed<Kind> {
        let Some(&(_, function, least, most)) = FUNCTIONS.iter().find(|f| f.0 == name) else {
            let like = hint(name, FUNCTIONS.iter().map(|f| f.0));
            return Err(RuleError::new(at, format!("there is no function `{name}`{like}")));
        };
        self.advance();
        self.advance();
        let arguments = self.list(")")?;
        if arguments.len() < least || arguments.len() > most {
            let takes = if least == most { least.to_string() } else { format!("{least} to {most}") };
            let message = format!("`{name}` takes {takes} arguments, not {}", arguments.len());
            return Err(RuleError::new(at, message));
        }
        Ok(Kind::Call(function, arguments))
    }

    fn named(&mut self, name: &str, at: Span) -> Parsed<Kind> {
        match name {
            "true" => return Ok(Kind::Bool(true)),
            "false" => return Ok(Kind::Bool(false)),
            "opset" => return Ok(Kind::Opset),
            "target" => return Ok(Kind::Target),
            _ => {}
        }
        if let Some((line, output, _)) = self.new.iter().find(|(_, _, n)| n == name) {
            return Ok(Kind::New(*line, *output));
        }
        if let Some(i) = self.rule.lets.iter().position(|l| l.name == name) {
            if let Some(l) = self.rule.lets.get_mut(i) {
                l.uses += 1;
            }
            return Ok(Kind::Let(i));
        }
        if !self.rule.names.iter().any(|n| n.text == name)
            && let Some(dtype) = DType::from_name(name)
        {
            return Ok(Kind::Type(dtype));
        }
        Ok(Kind::Value(self.known(name, at)?))
    }

    fn operator_expr(&mut self) -> Parsed<Kind> {
        let op = self.operator_name()?;
        let mut attrs = Vec::new();
        if self.eat("<") {
            while !self.eat(">") {
                let at = self.at();
                let name = self.word("an attribute")?;
                self.expect("=")?;
                attrs.push((name, at, self.level(ARITHMETIC)?));
                if !self.is_sign(">") {
                    self.expect(",")?;
                }
            }
        }
        self.expect("(")?;
        let mut inputs = Vec::new();
        while !self.eat(")") {
            inputs.push(self.replacement()?);
            if !self.is_sign(")") {
                self.expect(",")?;
            }
        }
        Ok(Kind::Op(Box::new(OpExpr { op, attrs, inputs })))
    }
}

/// How deep an expression is.
fn levels(e: &Expr) -> usize {
    let inner = match &e.kind {
        Kind::List(l) | Kind::Call(_, l) => l.iter().map(levels).max(),
        Kind::Not(a) | Kind::Neg(a) => Some(levels(a)),
        Kind::Binary(_, a, b) | Kind::At(a, b) | Kind::Typed(a, b) => Some(levels(a).max(levels(b))),
        Kind::Op(o) => o.attrs.iter().map(|(_, _, e)| e).chain(&o.inputs).map(levels).max(),
        _ => None,
    };
    inner.unwrap_or(0) + 1
}

/// Where an operator of a model, or a left-out input, is in an expression.
fn find_op(e: &Expr) -> Option<Span> {
    match &e.kind {
        Kind::Op(_) | Kind::New(..) | Kind::Absent => Some(e.at),
        Kind::List(l) | Kind::Call(_, l) => l.iter().find_map(find_op),
        Kind::Not(a) | Kind::Neg(a) => find_op(a),
        Kind::Binary(_, a, b) | Kind::At(a, b) | Kind::Typed(a, b) => find_op(a).or_else(|| find_op(b)),
        _ => None,
    }
}
