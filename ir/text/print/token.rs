//! The small things: names, strings, numbers, types.

use std::fmt;

use bytes::Bytes;

use crate::{
    Dim, OpName, TensorType, Type,
    text::{is_identifier, is_number_word, is_type_word},
};

/// A name where the syntax also takes types or numbers; quoted if it is no identifier, or could be taken for one of
/// them.
#[derive(Clone, Copy)]
pub(super) struct Id<'a>(pub(super) &'a str);

/// A name where nothing else can stand; quoted if it is no identifier.
pub(super) struct Word<'a>(pub(super) &'a str);

/// A string in quotes.
pub(super) struct Quoted<'a>(pub(super) &'a str);

/// A string in quotes, or in hexadecimal if it is not UTF-8.
pub(super) struct QuotedBytes<'a>(pub(super) &'a Bytes);

/// A number that reads back as the same one and never looks like an integer. NaNs keep their sign only.
pub(super) struct Float<T>(pub(super) T);

/// A type; sizes that are no identifiers are quoted.
pub(super) struct Ty<'a>(pub(super) &'a Type);

/// An operator with its domain.
pub(super) struct Op<'a>(pub(super) &'a OpName);

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match is_identifier(self.0) && !is_type_word(self.0) && !is_number_word(self.0) {
            true => f.write_str(self.0),
            false => Quoted(self.0).fmt(f),
        }
    }
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match is_identifier(self.0) {
            true => f.write_str(self.0),
            false => Quoted(self.0).fmt(f),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for part in self.0.split_inclusive(['"', '\\']) {
            // The mark at the end of a part is what needs the backslash.
            let mark = if part.ends_with(['"', '\\']) { part.len() - 1 } else { part.len() };
            f.write_str(&part[..mark])?;
            if mark < part.len() {
                write!(f, "\\{}", &part[mark..])?;
            }
        }
        f.write_str("\"")
    }
}

impl fmt::Display for QuotedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return Quoted(text).fmt(f);
        }
        f.write_str("hex\"")?;
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Display for Float<f64> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_nan() {
            true => f.write_str(if self.0.is_sign_negative() { "-nan" } else { "nan" }),
            false => write!(f, "{:?}", self.0),
        }
    }
}

impl fmt::Display for Float<f32> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_nan() {
            true => f.write_str(if self.0.is_sign_negative() { "-nan" } else { "nan" }),
            false => write!(f, "{:?}", self.0),
        }
    }
}

impl fmt::Display for Ty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Tensor(t) => tensor_type(f, t),
            Type::SparseTensor(t) => {
                f.write_str("sparse_tensor(")?;
                tensor_type(f, t)?;
                f.write_str(")")
            }
            Type::Sequence(t) => write!(f, "seq({})", Ty(t)),
            Type::Map(k, t) => write!(f, "map({k}, {})", Ty(t)),
            Type::Optional(t) => write!(f, "optional({})", Ty(t)),
        }
    }
}

fn tensor_type(f: &mut fmt::Formatter<'_>, t: &TensorType) -> fmt::Result {
    write!(f, "{}", t.dtype)?;
    let Some(dims) = &t.shape else { return f.write_str("[]") };
    for (i, d) in dims.iter().enumerate() {
        f.write_str(if i == 0 { "[" } else { "," })?;
        match d {
            Dim::Symbolic(_) => write!(f, "{}", Word(&d.to_string()))?,
            Dim::Known(_) | Dim::Unknown => write!(f, "{d}")?,
        }
    }
    f.write_str(if dims.is_empty() { "" } else { "]" })
}

impl fmt::Display for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OpName { domain, name, overload } = self.0;
        match domain.as_str() {
            "" => {}
            // A domain is words between dots, or one quoted whole.
            d if d.split('.').all(is_identifier) => write!(f, "{d}.")?,
            d => write!(f, "{}.", Quoted(d))?,
        }
        write!(f, "{}", Word(name))?;
        match overload.as_str() {
            "" => Ok(()),
            o => write!(f, ":{}", Word(o)),
        }
    }
}
