//! Shape arithmetic that several operators share.

use super::{Fact, Num};
use crate::{Dim, Shape, Type};

/// The size of two axes that have to be equal. Fails if they provably are not.
pub fn unify(a: &Dim, b: &Dim) -> Result<Dim, String> {
    match (a, b) {
        (Dim::Known(x), Dim::Known(y)) if x != y => Err(format!("the sizes {a} and {b} have to be equal")),
        (Dim::Known(_), _) | (_, Dim::Unknown) => Ok(a.clone()),
        (_, Dim::Known(_)) | (Dim::Unknown, _) => Ok(b.clone()),
        (Dim::Symbolic(_), Dim::Symbolic(_)) => Ok(a.clone()),
    }
}

/// The size of one axis after broadcasting.
fn broadcast_dim(a: &Dim, b: &Dim) -> Result<Dim, String> {
    match (a, b) {
        (Dim::Known(1), d) | (d, Dim::Known(1)) => Ok(d.clone()),
        (Dim::Known(x), Dim::Known(y)) if x != y => Err(format!("{a} and {b} do not broadcast")),
        // The other one has to be this or 1.
        (Dim::Known(_), _) => Ok(a.clone()),
        (_, Dim::Known(_)) => Ok(b.clone()),
        _ if a.same(b) => Ok(a.clone()),
        _ => Ok(Dim::Unknown),
    }
}

/// The shape that two shapes broadcast to.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Shape, String> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let (lead, tail) = long.split_at(long.len() - short.len());
    let mut shape = lead.to_vec();
    for (x, y) in tail.iter().zip(short) {
        shape.push(broadcast_dim(x, y).map_err(|e| format!("{e} in {} and {}", show(a), show(b)))?);
    }
    Ok(shape)
}

/// The product of some sizes; unknown if one is, except that an empty axis makes it 0.
pub fn volume<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    let mut product = Dim::Known(1);
    for d in dims {
        if *d == Dim::Known(0) {
            return Dim::Known(0);
        }
        product = product.mul(d);
    }
    product
}

/// A shape for messages.
pub fn show(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(","))
}

/// The numbers that the sizes of some axes are.
pub fn numbers(dims: &[Dim]) -> Vec<Num> {
    dims.iter().map(Num::from_dim).collect()
}

/// A declared type without the names in it: only for inputs of the main graph does the file decide what a name means,
/// elsewhere two values may carry one name and differ in size.
pub(crate) fn without_names(ty: &Type) -> Type {
    map_dims(ty, &|d| match d {
        Dim::Known(_) => d.clone(),
        Dim::Symbolic(_) | Dim::Unknown => Dim::Unknown,
    })
}

/// The type without the names that inference gave to sizes of which nothing is known; they mean something among the facts
/// of one run only.
pub(crate) fn without_open(ty: &Type) -> Type {
    map_dims(ty, &|d| if d.is_open() { Dim::Unknown } else { d.clone() })
}

/// The type with each dim replaced.
pub(crate) fn map_dims(ty: &Type, f: &dyn Fn(&Dim) -> Dim) -> Type {
    let tensor = |t: &crate::TensorType| crate::TensorType {
        dtype: t.dtype,
        shape: t.shape.as_ref().map(|s| s.iter().map(f).collect()),
    };
    match ty {
        Type::Tensor(t) => Type::Tensor(tensor(t)),
        Type::SparseTensor(t) => Type::SparseTensor(tensor(t)),
        Type::Sequence(t) => Type::Sequence(Box::new(map_dims(t, f))),
        Type::Map(k, t) => Type::Map(*k, Box::new(map_dims(t, f))),
        Type::Optional(t) => Type::Optional(Box::new(map_dims(t, f))),
    }
}

/// Elements of two small tensors combined one by one. Both have the same dims, or one has a single element.
pub fn zip_elements(a: &Fact, b: &Fact, f: impl Fn(&Num, &Num) -> Num) -> Option<Vec<Num>> {
    let (x, y) = (a.elements()?, b.elements()?);
    match (x, y) {
        _ if a.shape()? == b.shape()? => Some(x.iter().zip(y).map(|(x, y)| f(x, y)).collect()),
        ([x], _) => Some(y.iter().map(|y| f(x, y)).collect()),
        (_, [y]) => Some(x.iter().map(|x| f(x, y)).collect()),
        _ => None,
    }
}
