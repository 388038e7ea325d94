//! What expressions evaluate to.

use planish_ir::{DType, Dim, Tensor, ValueId};

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Val {
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A size that is known by name only.
    Dim(Dim),
    Text(String),
    Type(DType),
    List(Vec<Val>),
    /// A constant that the rule computed.
    Tensor(Tensor),
    /// A value of the graph.
    Value(Option<ValueId>),
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Trouble {
    /// It depends on something that is not known.
    Unknown,
    /// It makes no sense for what the match found.
    Wrong(String),
}

pub(super) type Evaluated<T> = Result<T, Trouble>;

pub(super) fn wrong<T>(message: impl Into<String>) -> Evaluated<T> {
    Err(Trouble::Wrong(message.into()))
}

impl Val {
    /// A size.
    pub(super) fn size(d: &Dim) -> Evaluated<Val> {
        match d {
            Dim::Known(n) => i64::try_from(*n).map(Val::Int).map_err(|_| Trouble::Unknown),
            Dim::Symbolic(_) => Ok(Val::Dim(d.clone())),
            Dim::Unknown => Err(Trouble::Unknown),
        }
    }

    pub(super) fn ints(list: impl IntoIterator<Item = i64>) -> Val {
        Val::List(list.into_iter().map(Val::Int).collect())
    }

    pub(super) fn bool(&self) -> Evaluated<bool> {
        match self {
            Val::Bool(b) => Ok(*b),
            _ => wrong(format!("{self} is neither true nor false")),
        }
    }

    pub(super) fn int(&self) -> Evaluated<i64> {
        match self {
            Val::Int(i) => Ok(*i),
            Val::Dim(_) => Err(Trouble::Unknown),
            _ => wrong(format!("{self} is no integer")),
        }
    }

    pub(super) fn float(&self) -> Evaluated<f64> {
        match self {
            Val::Float(x) => Ok(*x),
            Val::Int(i) => Ok(*i as f64),
            Val::Dim(_) => Err(Trouble::Unknown),
            _ => wrong(format!("{self} is no number")),
        }
    }

    pub(super) fn list(&self) -> Evaluated<&[Val]> {
        match self {
            Val::List(l) => Ok(l),
            _ => wrong(format!("{self} is no list")),
        }
    }

    /// Integers of a list, or a single one.
    pub(super) fn int_list(&self) -> Evaluated<Vec<i64>> {
        match self {
            Val::List(l) => l.iter().map(Val::int).collect(),
            _ => Ok(vec![self.int()?]),
        }
    }

    /// As a size, if it is one.
    pub(super) fn dim(&self) -> Option<Dim> {
        match self {
            Val::Dim(d) => Some(d.clone()),
            Val::Int(i) => u64::try_from(*i).ok().map(Dim::Known),
            _ => None,
        }
    }
}

/// As a reader of a refusal wants to see it.
impl std::fmt::Display for Val {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Val::Bool(b) => write!(f, "{b}"),
            Val::Int(i) => write!(f, "{i}"),
            Val::Float(x) => write!(f, "{x}"),
            Val::Dim(d) => write!(f, "{d}"),
            Val::Text(t) => f.write_str(t),
            Val::Type(t) => write!(f, "{t}"),
            Val::List(l) => {
                f.write_str("[")?;
                for (i, v) in l.iter().enumerate() {
                    write!(f, "{}{v}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Val::Tensor(t) => write!(f, "a constant {}{:?}", t.dtype(), t.dims()),
            Val::Value(_) => f.write_str("a value"),
        }
    }
}
