//! Types.

use planish_proto::onnx::{
    TensorShapeProto, TypeProto,
    tensor_shape_proto::{Dimension, dimension},
    type_proto::{Map, Optional, Sequence, SparseTensor, Tensor, Value as Kind},
};

use super::{Parser, Result, Token};
use crate::{DType, text::is_type_word};

/// Types nested deeper than this are refused. A file cannot nest them deeper either: the protobuf decoder stops at 100
/// messages, and a type is made of two.
const MAX_DEPTH: usize = 64;

const TYPE: &str = "a type, such as `float[N,3]`, `int64`, `seq(float)`, `map(string,float)`, `optional(float)` or \
                    `sparse_tensor(float)`";

impl Parser<'_> {
    /// True if a type is at hand and not a name.
    pub(super) fn at_type(&self) -> bool {
        matches!(self.token, Token::Word(w) if is_type_word(w))
    }

    pub(super) fn ty(&mut self) -> Result<TypeProto> {
        self.nested_type(0)
    }

    fn nested_type(&mut self, depth: usize) -> Result<TypeProto> {
        if depth >= MAX_DEPTH {
            return Err(self.error(self.start, format!("types are nested more than {MAX_DEPTH} deep")));
        }
        let Token::Word(word) = self.token else { return Err(self.expected(TYPE)) };
        if let Some(dtype) = DType::from_name(word) {
            self.advance()?;
            let shape = self.shape()?;
            return Ok(of(Kind::TensorType(Tensor { elem_type: Some(dtype.code()), shape })));
        }
        if word == "opaque" {
            return Err(self.error(self.start, "opaque types are not supported".into()));
        }
        if !is_type_word(word) {
            return Err(self.expected(TYPE));
        }
        self.advance()?;
        self.expect('(', "`(`")?;
        let kind = match word {
            "sparse_tensor" => {
                let dtype = self.dtype()?;
                Kind::SparseTensorType(SparseTensor { elem_type: Some(dtype.code()), shape: self.shape()? })
            }
            "map" => {
                let key_type = Some(self.dtype()?.code());
                self.expect(',', "`,`")?;
                let value_type = Some(Box::new(self.nested_type(depth + 1)?));
                Kind::MapType(Box::new(Map { key_type, value_type }))
            }
            "optional" => {
                let elem_type = Some(Box::new(self.nested_type(depth + 1)?));
                Kind::OptionalType(Box::new(Optional { elem_type }))
            }
            _ => {
                let elem_type = Some(Box::new(self.nested_type(depth + 1)?));
                Kind::SequenceType(Box::new(Sequence { elem_type }))
            }
        };
        self.expect(')', "`)`")?;
        Ok(of(kind))
    }

    fn dtype(&mut self) -> Result<DType> {
        let dtype = match self.token {
            Token::Word(w) => DType::from_name(w),
            _ => None,
        };
        let dtype = dtype.ok_or_else(|| self.expected("an element type, such as `float` or `int64`"))?;
        self.advance()?;
        Ok(dtype)
    }

    /// `[N,3,?]`; `[]` is an unknown rank, and nothing a scalar.
    fn shape(&mut self) -> Result<Option<TensorShapeProto>> {
        let mut dim = Vec::new();
        if !self.eat('[')? {
            return Ok(Some(TensorShapeProto { dim }));
        }
        if self.eat(']')? {
            return Ok(None);
        }
        loop {
            let value = match self.token {
                Token::Int(_) => Some(dimension::Value::DimValue(self.int()?)),
                Token::Mark('?') => {
                    self.advance()?;
                    None
                }
                _ => Some(dimension::Value::DimParam(self.name("a size: an integer, a name or `?`")?)),
            };
            dim.push(Dimension { value, denotation: None });
            if !self.eat(',')? {
                self.expect(']', "`,` or `]`")?;
                return Ok(Some(TensorShapeProto { dim }));
            }
        }
    }
}

/// Element type and dims, if a type is that of a tensor with fixed sizes.
pub(super) fn fixed(ty: &TypeProto) -> Option<(DType, Vec<u64>)> {
    let (elem_type, shape) = match ty.value.as_ref()? {
        Kind::TensorType(t) => (t.elem_type, &t.shape),
        Kind::SparseTensorType(t) => (t.elem_type, &t.shape),
        _ => return None,
    };
    let size = |d: &Dimension| match d.value {
        Some(dimension::Value::DimValue(n)) => u64::try_from(n).ok(),
        _ => None,
    };
    let dims: Option<Vec<u64>> = shape.as_ref()?.dim.iter().map(size).collect();
    Some((DType::from_code(elem_type?)?, dims?))
}

/// True for the type of a tensor in coordinate form.
pub(super) const fn is_sparse(ty: &TypeProto) -> bool {
    matches!(ty.value, Some(Kind::SparseTensorType(_)))
}

const fn of(kind: Kind) -> TypeProto {
    TypeProto { value: Some(kind), denotation: None }
}
