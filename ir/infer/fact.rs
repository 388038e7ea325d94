//! What inference knows of one value.

use std::sync::Arc;

use super::{Bindings, Num, shape};
use crate::{DType, Dim, Shape, Tensor, TensorType, Type, ValueId};

/// Longest tensor whose elements are followed. Shapes and axes are far shorter; a bound keeps hostile files cheap.
pub const MAX_ELEMENTS: u64 = 1024;
/// The same for floats, of which only factors of `Resize` matter; a longer one is a weight, and weights are not read.
const MAX_FLOATS: u64 = 16;
/// The same for tensors with expressions in them, which take more room.
const MAX_SYMBOLIC: usize = 64;
/// Largest rank that is followed; no runtime takes more.
pub const MAX_RANK: usize = 64;

/// What is known of one value.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fact {
    /// Its type.
    pub ty: Option<Type>,
    /// Its elements in row-major order; only for tensors with fixed dims and at most [`MAX_ELEMENTS`] elements.
    elements: Option<Arc<[Num]>>,
}

impl Fact {
    /// Nothing is known.
    pub const UNKNOWN: Fact = Fact { ty: None, elements: None };

    /// A value of some type.
    pub fn of(ty: Type) -> Fact {
        Fact { ty: Some(ty), elements: None }
    }

    /// A value of a type that may not be known.
    pub fn typed(ty: Option<Type>) -> Fact {
        Fact { ty, elements: None }
    }

    /// A tensor; nothing is known without an element type.
    pub fn tensor(dtype: Option<DType>, shape: Option<Shape>) -> Fact {
        Fact { ty: dtype.map(|dtype| Type::Tensor(TensorType { dtype, shape })), elements: None }
    }

    /// A scalar.
    pub fn scalar(dtype: DType) -> Fact {
        Fact::tensor(Some(dtype), Some(Vec::new()))
    }

    /// The same with values for names of sizes; elements stay as they are.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Fact {
        let ty = self.ty.as_ref().map(|ty| shape::map_dims(ty, &|d: &Dim| d.bind(bindings)));
        Fact { ty, elements: self.elements.clone() }
    }

    /// The same without what would let a hostile file take much time or memory.
    pub(crate) fn bounded(self) -> Fact {
        if self.shape().is_some_and(|s| s.len() > MAX_RANK) {
            return Fact::tensor(self.dtype(), None);
        }
        match self.elements {
            Some(e)
                if e.len() > MAX_SYMBOLIC && e.iter().any(|n| matches!(n, Num::Symbolic(_) | Num::Quotient(..))) =>
            {
                Fact { ty: self.ty, elements: None }
            }
            elements => Fact { ty: self.ty, elements },
        }
    }

    /// The same with a name for each size that is not known, so that what has the same size can be told from it.
    pub(crate) fn named(self, scope: &str, value: ValueId) -> Fact {
        let Some(Type::Tensor(TensorType { dtype, shape: Some(dims) })) = &self.ty else { return self };
        if !dims.contains(&Dim::Unknown) {
            return self;
        }
        let name = |(axis, d): (usize, &Dim)| match d {
            Dim::Unknown => Dim::open(scope, value, axis),
            Dim::Known(_) | Dim::Symbolic(_) => d.clone(),
        };
        Fact::tensor(Some(*dtype), Some(dims.iter().enumerate().map(name).collect()))
    }

    /// What holds of the value outside of the graph that makes it, where the sizes that got names in it have none.
    pub(crate) fn outside(&self, scope: &str) -> Fact {
        let outer = |d: &Dim| if d.is_open_in(scope) { Dim::Unknown } else { d.clone() };
        let ty = self.ty.as_ref().map(|t| shape::map_dims(t, &outer));
        let elements = self.elements().map(|e| {
            let outer = |n: &Num| match n {
                Num::Symbolic(d) | Num::Quotient(d, _) if d.is_open_in(scope) => Num::Unknown,
                _ => n.clone(),
            };
            e.iter().map(outer).collect::<Vec<_>>()
        });
        Fact::typed(ty).with(elements)
    }

    /// What is known of a constant.
    pub fn constant(t: &Tensor) -> Fact {
        let ty = Type::tensor(t.dtype(), t.dims().iter().map(|&d| d.into()));
        let elements = if t.elements() <= MAX_FLOATS && t.dtype().is_float() {
            t.to_f64().ok().map(|v| v.into_iter().map(Num::Float).collect())
        } else if t.elements() <= MAX_ELEMENTS {
            t.to_i64().ok().map(|v| v.into_iter().map(Num::Int).collect())
        } else {
            None
        };
        Fact { ty: Some(ty), elements }
    }

    /// The same tensor with known elements. They are dropped if nothing is known of any, there are too many, or their
    /// number does not fit the type.
    #[must_use]
    pub fn with(self, elements: Option<impl Into<Arc<[Num]>>>) -> Fact {
        let elements = elements.map(Into::into).filter(|e: &Arc<[Num]>| {
            let fits =
                self.ty.as_ref().and_then(Type::as_tensor).and_then(TensorType::elements) == Some(e.len() as u64);
            fits && e.len() as u64 <= MAX_ELEMENTS && (e.is_empty() || e.iter().any(|n| *n != Num::Unknown))
        });
        Fact { ty: self.ty, elements }
    }

    /// Its elements in row-major order, if they are followed.
    pub fn elements(&self) -> Option<&[Num]> {
        self.elements.as_deref()
    }

    /// The same elements, to be shared with another fact.
    pub(crate) fn shared(&self) -> Option<Arc<[Num]>> {
        self.elements.clone()
    }

    /// Its element type, if it is a dense tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.ty.as_ref().and_then(Type::dtype)
    }

    /// Its shape, if it is a dense tensor of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        self.ty.as_ref().and_then(Type::shape)
    }

    /// Number of elements, if every dim is fixed.
    pub fn count(&self) -> Option<u64> {
        self.ty.as_ref()?.as_tensor()?.elements()
    }

    /// Number of elements, if it is so small that they are followed.
    pub fn small_count(&self) -> Option<usize> {
        self.count().filter(|&n| n <= MAX_ELEMENTS).and_then(|n| usize::try_from(n).ok())
    }

    /// What holds of a value that is either of the two.
    pub(crate) fn join(&self, other: &Fact) -> Fact {
        let (Some(a), Some(b)) = (&self.ty, &other.ty) else { return Fact::UNKNOWN };
        let Some(ty) = join_types(a, b) else { return Fact::UNKNOWN };
        let elements = match (self.elements(), other.elements()) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                Some(a.iter().zip(b).map(|(x, y)| if x.same(y) { x.clone() } else { Num::Unknown }).collect::<Vec<_>>())
            }
            _ => None,
        };
        Fact::of(ty).with(elements)
    }
}

fn join_types(a: &Type, b: &Type) -> Option<Type> {
    let tensors = |a: &TensorType, b: &TensorType| {
        let shape = match (&a.shape, &b.shape) {
            (Some(x), Some(y)) if x.len() == y.len() => Some(x.iter().zip(y).map(|(x, y)| join_dims(x, y)).collect()),
            _ => None,
        };
        (a.dtype == b.dtype).then_some(TensorType { dtype: a.dtype, shape })
    };
    Some(match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) => Type::Tensor(tensors(a, b)?),
        (Type::SparseTensor(a), Type::SparseTensor(b)) => Type::SparseTensor(tensors(a, b)?),
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join_types(a, b)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join_types(a, b)?)),
        (Type::Map(k, a), Type::Map(l, b)) if k == l => Type::Map(*k, Box::new(join_types(a, b)?)),
        _ => return None,
    })
}

fn join_dims(a: &Dim, b: &Dim) -> Dim {
    if a.same(b) { a.clone() } else { Dim::Unknown }
}
