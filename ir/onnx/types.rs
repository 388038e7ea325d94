//! `TypeProto` to and from [`Type`].

use planish_proto::onnx::{
    self, TensorShapeProto, TypeProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto::{self, Value as Kind},
};

use super::WireError;
use crate::{DType, Dim, Shape, TensorType, Type};

pub(super) fn dtype_in(code: Option<i32>) -> Result<DType, WireError> {
    let code = code.unwrap_or(0);
    DType::from_code(code).ok_or(WireError::ElementType(code))
}

/// `None` for a message that says nothing, as files have for intermediate values.
pub(super) fn type_in(message: &TypeProto) -> Result<Option<Type>, WireError> {
    let boxed = |t: &Option<Box<TypeProto>>| -> Result<Box<Type>, WireError> {
        let inner = t.as_deref().ok_or(WireError::Type)?;
        Ok(Box::new(type_in(inner)?.ok_or(WireError::Type)?))
    };
    let tensor = |elem: Option<i32>, shape: &Option<TensorShapeProto>| -> Result<TensorType, WireError> {
        Ok(TensorType { dtype: dtype_in(elem)?, shape: shape.as_ref().map(shape_in) })
    };
    Ok(match &message.value {
        None => None,
        // Exporters write value_info with a shape and no element type; that is no information to rely on.
        Some(Kind::TensorType(t)) if t.elem_type.unwrap_or(0) == 0 => None,
        Some(Kind::TensorType(t)) => Some(Type::Tensor(tensor(t.elem_type, &t.shape)?)),
        Some(Kind::SparseTensorType(t)) => Some(Type::SparseTensor(tensor(t.elem_type, &t.shape)?)),
        Some(Kind::SequenceType(s)) => Some(Type::Sequence(boxed(&s.elem_type)?)),
        Some(Kind::OptionalType(o)) => Some(Type::Optional(boxed(&o.elem_type)?)),
        Some(Kind::MapType(m)) => Some(Type::Map(dtype_in(m.key_type)?, boxed(&m.value_type)?)),
        Some(Kind::OpaqueType(_)) => return Err(WireError::Type),
    })
}

fn shape_in(shape: &TensorShapeProto) -> Shape {
    let dim = |d: &Dimension| match &d.value {
        // Negative sizes are how some exporters write "unknown".
        Some(dimension::Value::DimValue(n)) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        // Paddle names every open size "?", which does not make them equal.
        Some(dimension::Value::DimParam(name)) if name == "?" => Dim::Unknown,
        Some(dimension::Value::DimParam(name)) => Dim::symbol(name),
        None => Dim::Unknown,
    };
    shape.dim.iter().map(dim).collect()
}

pub(super) fn type_out(ty: &Type) -> TypeProto {
    let boxed = |t: &Type| Some(Box::new(type_out(t)));
    let kind = match ty {
        Type::Tensor(t) => {
            Kind::TensorType(type_proto::Tensor { elem_type: Some(t.dtype.code()), shape: shape_out(t.shape.as_ref()) })
        }
        Type::SparseTensor(t) => Kind::SparseTensorType(type_proto::SparseTensor {
            elem_type: Some(t.dtype.code()),
            shape: shape_out(t.shape.as_ref()),
        }),
        Type::Sequence(t) => Kind::SequenceType(Box::new(type_proto::Sequence { elem_type: boxed(t) })),
        Type::Optional(t) => Kind::OptionalType(Box::new(type_proto::Optional { elem_type: boxed(t) })),
        Type::Map(k, t) => Kind::MapType(Box::new(type_proto::Map { key_type: Some(k.code()), value_type: boxed(t) })),
    };
    TypeProto { value: Some(kind), denotation: None }
}

fn shape_out(shape: Option<&Shape>) -> Option<onnx::TensorShapeProto> {
    let dim = |d: &Dim| Dimension {
        value: match d {
            // Beyond the range of int64 no tensor exists; "unknown" is the honest thing to write.
            Dim::Known(n) => i64::try_from(*n).ok().map(dimension::Value::DimValue),
            Dim::Symbolic(_) => Some(dimension::Value::DimParam(d.to_string())),
            Dim::Unknown => None,
        },
        denotation: None,
    };
    Some(TensorShapeProto { dim: shape?.iter().map(dim).collect() })
}
