//! A rule, as it was parsed: names are resolved to slots, nothing is checked against the operator table yet.

use planish_ir::{DType, Numerics, OpName};

use super::{error::Span, function::Function};
use crate::Target;

/// Index into [`RuleDef::names`].
pub(super) type Slot = usize;

/// A rule.
#[derive(Debug, Clone)]
pub(super) struct RuleDef {
    pub(super) name: String,
    pub(super) at: Span,
    /// One line for people.
    pub(super) what: String,
    pub(super) reference: String,
    pub(super) numerics: Numerics,
    /// Values: variables and results of lines.
    pub(super) names: Vec<Name>,
    /// Attribute variables, `$a`.
    pub(super) attrs: Vec<(String, Span)>,
    /// The last one is the root.
    pub(super) lines: Vec<Line>,
    /// Values inside of the match that are results as well.
    pub(super) also: Vec<(Slot, Span)>,
    /// Values inside of the match that others may read.
    pub(super) shared: Vec<(Slot, Span)>,
    pub(super) conditions: Vec<Condition>,
    pub(super) lets: Vec<Let>,
    pub(super) emits: Vec<Emit>,
}

/// A name for a value.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) at: Span,
    pub(super) kind: NameKind,
    /// How often it is mentioned after it was introduced.
    pub(super) uses: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    /// An input of the match.
    Variable,
    /// `...rest`: a list of values.
    Rest,
    /// An output of a line.
    Line { line: usize, output: u32 },
}

/// `name = pattern` or `(a, b) = pattern`.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// By output slot; `None` for `_`.
    pub(super) outputs: Vec<Option<Slot>>,
    pub(super) pattern: Pattern,
    pub(super) at: Span,
}

/// What a value has to look like.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Op(Box<OpPattern>),
    /// Any of these, tried in order.
    Any(Vec<Pattern>),
    /// A variable: any value, or any constant.
    Variable {
        slot: Slot,
        constant: bool,
    },
    /// What a line made.
    Line {
        slot: Slot,
    },
    /// A constant all of whose elements are this.
    Number {
        text: String,
        value: f64,
        at: Span,
    },
    /// A constant list of integers.
    Ints(Vec<i64>),
    /// `_`
    Anything,
    /// `-`
    Absent,
    /// `...rest`
    Rest {
        slot: Slot,
        at: Span,
    },
}

/// `Op<attributes>(inputs)`.
#[derive(Debug, Clone)]
pub(super) struct OpPattern {
    pub(super) op: OpName,
    pub(super) at: Span,
    /// `Op?`: this, or directly its first input.
    pub(super) optional: bool,
    pub(super) attrs: Vec<(String, Span, AttrPattern)>,
    /// `<..>`: other attributes may be anything.
    pub(super) open: bool,
    pub(super) inputs: Vec<Pattern>,
}

/// What an attribute has to be.
#[derive(Debug, Clone)]
pub(super) enum AttrPattern {
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    /// `$a`: index into [`RuleDef::attrs`].
    Bind(usize),
}

/// `where condition else "reason"`.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) test: Expr,
    /// As written.
    pub(super) text: String,
    pub(super) reason: Reason,
}

/// A text with expressions in it.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Expr(Expr),
}

pub(super) type Reason = Vec<Piece>;

/// `let name = expression`.
#[derive(Debug, Clone)]
pub(super) struct Let {
    pub(super) name: String,
    pub(super) at: Span,
    pub(super) value: Expr,
    pub(super) uses: usize,
}

/// One block of what the match becomes.
#[derive(Debug, Clone)]
pub(super) struct Emit {
    pub(super) at: Span,
    /// Empty for all.
    pub(super) targets: Vec<Target>,
    pub(super) when: Option<Condition>,
    pub(super) numerics: Option<Numerics>,
    pub(super) lines: Vec<EmitLine>,
}

/// `name = expression` or `(a, b) = Op(...)`.
#[derive(Debug, Clone)]
pub(super) struct EmitLine {
    pub(super) outputs: Vec<Defined>,
    pub(super) value: Expr,
    pub(super) at: Span,
}

/// What a line of an emit defines.
#[derive(Debug, Clone)]
pub(super) enum Defined {
    /// A result of the match.
    Result(Slot),
    /// A new value, known to the rest of the block by this name.
    New { name: String, at: Span },
    /// `_`: left out.
    Nothing,
}

/// An expression. In conditions and `let` operators of a model cannot occur; the parser sees to that.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub(super) at: Span,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Type(DType),
    List(Vec<Expr>),
    Value(Slot),
    Let(usize),
    Attr(usize),
    Opset,
    Target,
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    /// `list[i]`
    At(Box<Expr>, Box<Expr>),
    Call(Function, Vec<Expr>),
    /// `0.5:float`
    Typed(Box<Expr>, Box<Expr>),
    /// A node to add.
    Op(Box<OpExpr>),
    /// What line `.0` of this emit made at output `.1`.
    New(usize, usize),
    /// `-`
    Absent,
}

/// `Op<attributes>(inputs)` in an emit.
#[derive(Debug, Clone)]
pub(super) struct OpExpr {
    pub(super) op: OpName,
    pub(super) attrs: Vec<(String, Span, Expr)>,
    pub(super) inputs: Vec<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    And,
    Or,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}
