//! Types of values: what ONNX's `TypeProto` says.

use std::fmt;

use crate::{DType, Dim};

/// The shape of a tensor: one dim per axis, or nothing known, not even the rank.
pub type Shape = Vec<Dim>;

/// Type of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sparse tensor in coordinate form.
    SparseTensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A dictionary with keys of an integer or string type.
    Map(DType, Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
}

/// Element type and shape of a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorType {
    /// Type of the elements.
    pub dtype: DType,
    /// One dim per axis; `None` if the rank is unknown.
    pub shape: Option<Shape>,
}

impl Type {
    /// A dense tensor with a known rank.
    pub fn tensor(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Type {
        Type::Tensor(TensorType { dtype, shape: Some(shape.into_iter().collect()) })
    }

    /// Element type and shape, if this is a dense tensor.
    pub const fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            Type::SparseTensor(_) | Type::Sequence(_) | Type::Map(..) | Type::Optional(_) => None,
        }
    }

    /// Element type of a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor().map(|t| t.dtype)
    }

    /// Shape of a dense tensor, if its rank is known.
    pub fn shape(&self) -> Option<&[Dim]> {
        self.as_tensor().and_then(|t| t.shape.as_deref())
    }

    /// False if no value can have both types: the element types, ranks or fixed dims differ.
    pub fn compatible(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Tensor(a), Type::Tensor(b)) | (Type::SparseTensor(a), Type::SparseTensor(b)) => {
                a.dtype == b.dtype && shapes_compatible(a.shape.as_deref(), b.shape.as_deref())
            }
            (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => a.compatible(b),
            (Type::Map(k, a), Type::Map(l, b)) => k == l && a.compatible(b),
            _ => false,
        }
    }

    /// The more precise of two compatible types, dim by dim; `self` wins where both name a symbol.
    pub fn merge(&self, other: &Type) -> Type {
        match (self, other) {
            (Type::Tensor(a), Type::Tensor(b)) => Type::Tensor(a.merge(b)),
            (Type::SparseTensor(a), Type::SparseTensor(b)) => Type::SparseTensor(a.merge(b)),
            (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(a.merge(b))),
            (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(a.merge(b))),
            (Type::Map(k, a), Type::Map(_, b)) => Type::Map(*k, Box::new(a.merge(b))),
            _ => self.clone(),
        }
    }
}

impl TensorType {
    /// Number of elements, if every dim is fixed and the product fits.
    pub fn elements(&self) -> Option<u64> {
        self.shape.as_ref()?.iter().try_fold(1u64, |n, d| n.checked_mul(d.known()?))
    }

    fn merge(&self, other: &TensorType) -> TensorType {
        let shape = match (&self.shape, &other.shape) {
            (Some(a), Some(b)) if a.len() == b.len() => Some(a.iter().zip(b).map(|(x, y)| merge_dim(x, y)).collect()),
            (Some(a), _) => Some(a.clone()),
            (None, b) => b.clone(),
        };
        TensorType { dtype: self.dtype, shape }
    }
}

fn merge_dim(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(_), _) => a.clone(),
        (_, Dim::Known(_)) | (Dim::Unknown, _) => b.clone(),
        (Dim::Symbolic(_), _) => a.clone(),
    }
}

fn shapes_compatible(a: Option<&[Dim]>, b: Option<&[Dim]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.compatible(y)),
        _ => true,
    }
}

/// As in ONNX's textual syntax: `float[N,3,8]`, `float[]` for unknown rank, `float` for a scalar, `seq(int64[?])`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => write!(f, "{t}"),
            Type::SparseTensor(t) => write!(f, "sparse_tensor({t})"),
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Map(k, t) => write!(f, "map({k},{t})"),
            Type::Optional(t) => write!(f, "optional({t})"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        match self.shape.as_deref() {
            None => f.write_str("[]"),
            Some([]) => Ok(()),
            Some(dims) => {
                for (i, d) in dims.iter().enumerate() {
                    write!(f, "{}{d}", if i == 0 { "[" } else { "," })?;
                }
                f.write_str("]")
            }
        }
    }
}
