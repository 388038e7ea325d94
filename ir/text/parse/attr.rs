//! Attributes.

use bytes::Bytes;
use planish_proto::onnx::{
    AttributeProto, FunctionProto, GraphProto, SparseTensorProto, TensorProto, TypeProto,
    attribute_proto::AttributeType as Kind,
};

use super::{Parser, Result, Token, ty};
use crate::text::is_number_word;

/// The attribute types and their names, with what their lists are.
const KINDS: [(&str, Kind, Option<Kind>); 14] = [
    ("float", Kind::Float, Some(Kind::Floats)),
    ("int", Kind::Int, Some(Kind::Ints)),
    ("string", Kind::String, Some(Kind::Strings)),
    ("tensor", Kind::Tensor, Some(Kind::Tensors)),
    ("graph", Kind::Graph, Some(Kind::Graphs)),
    ("sparse_tensor", Kind::SparseTensor, Some(Kind::SparseTensors)),
    ("type_proto", Kind::TypeProto, Some(Kind::TypeProtos)),
    ("floats", Kind::Floats, None),
    ("ints", Kind::Ints, None),
    ("strings", Kind::Strings, None),
    ("tensors", Kind::Tensors, None),
    ("graphs", Kind::Graphs, None),
    ("sparse_tensors", Kind::SparseTensors, None),
    ("type_protos", Kind::TypeProtos, None),
];

/// One value, or one element of a list.
enum Value<'a> {
    /// An integer as written: where a float is wanted, it is one.
    Int(&'a str),
    Float(f32),
    String(Bytes),
    Tensor(Box<TensorProto>),
    Sparse(Box<SparseTensorProto>),
    Type(Box<TypeProto>),
    Graph(Box<GraphProto>),
}

impl<'a> Parser<'a> {
    /// `<name = value, …>`, if there is one.
    pub(super) fn attributes(&mut self) -> Result<Vec<AttributeProto>> {
        let mut all = Vec::new();
        if !self.eat('<')? {
            return Ok(all);
        }
        loop {
            let name = self.name("an attribute")?;
            all.push(self.attribute(name)?);
            if !self.eat(',')? {
                self.expect('>', "`,` or `>`")?;
                return Ok(all);
            }
        }
    }

    /// The attributes that a function takes: names, or values where they have a default.
    pub(super) fn function_attributes(&mut self, function: &mut FunctionProto) -> Result<()> {
        if !self.eat('<')? {
            return Ok(());
        }
        loop {
            let name = self.name("an attribute")?;
            match self.token {
                Token::Mark(':' | '=') => function.attribute_proto.push(self.attribute(name)?),
                _ => function.attribute.push(name),
            }
            if !self.eat(',')? {
                return self.expect('>', "`,` or `>`");
            }
        }
    }

    /// An attribute after its name.
    fn attribute(&mut self, name: String) -> Result<AttributeProto> {
        let declared = if self.eat(':')? { Some(self.kind()?) } else { None };
        self.expect('=', "`=`")?;
        let mut a = AttributeProto { name: Some(name), ..Default::default() };
        if self.eat('@')? {
            a.ref_attr_name = Some(self.name("an attribute of the function")?);
            a.r#type = declared;
            return Ok(a);
        }
        let declared = match declared.map(Kind::try_from) {
            Some(Ok(Kind::Undefined) | Err(_)) => return Err(self.expected("`@`, because the type is unknown")),
            Some(Ok(kind)) => Some(kind),
            None => None,
        };
        let at = self.start;
        let values = match self.eat('[')? {
            true => self.list()?,
            false => {
                let value = self.value()?;
                let kind = declared.unwrap_or_else(|| value.kind());
                self.store(&mut a, kind, value, at)?;
                single(&mut a);
                a.r#type = Some(kind.into());
                return Ok(a);
            }
        };
        let kind = match (declared, values.first()) {
            (Some(kind), _) => kind,
            (None, None) => {
                return Err(self.error(at, "an empty list needs its type, as in `axes: ints = []`".into()));
            }
            // Integers among floats are floats.
            (None, Some((Value::Int(_), _))) if values.iter().any(|(v, _)| matches!(v, Value::Float(_))) => {
                Kind::Floats
            }
            (None, Some((v, _))) => list_of(v.kind()).unwrap_or(Kind::Undefined),
        };
        let Some(element) = element_of(kind) else {
            return Err(self.error(at, format!("an attribute of type `{}` is no list", kind_name(kind))));
        };
        for (value, at) in values {
            self.store(&mut a, element, value, at)?;
        }
        a.r#type = Some(kind.into());
        Ok(a)
    }

    /// Values up to `]`, and where each starts.
    fn list(&mut self) -> Result<Vec<(Value<'a>, usize)>> {
        let mut values = Vec::new();
        if self.eat(']')? {
            return Ok(values);
        }
        loop {
            let at = self.start;
            values.push((self.value()?, at));
            if !self.eat(',')? {
                self.expect(']', "`,` or `]`")?;
                return Ok(values);
            }
        }
    }

    /// The type of an attribute; a number is a type that this version of ONNX does not know.
    fn kind(&mut self) -> Result<i32> {
        let code = match self.token {
            Token::Word(w) => KINDS.iter().find(|(name, ..)| *name == w).map(|(_, kind, _)| i32::from(*kind)),
            Token::Int(digits) => digits.parse().ok(),
            _ => None,
        };
        let Some(code) = code else {
            let names: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
            return Err(self.expected(&format!("the type of an attribute ({})", names.join(", "))));
        };
        self.advance()?;
        Ok(code)
    }

    fn value(&mut self) -> Result<Value<'a>> {
        match &self.token {
            Token::Int(digits) => {
                let digits = *digits;
                self.advance()?;
                Ok(Value::Int(digits))
            }
            Token::Float(_) => Ok(Value::Float(self.float(str::parse, f32::is_infinite)?)),
            Token::Word(w) if is_number_word(w) => Ok(Value::Float(self.float(str::parse, f32::is_infinite)?)),
            Token::Bytes(_) => Ok(Value::String(self.bytes()?)),
            Token::Text(_) => {
                let text = self.string()?;
                match self.token {
                    // A graph whose name needs quotes.
                    Token::Mark('(') => Ok(Value::Graph(Box::new(self.graph(text)?))),
                    _ => Ok(Value::String(text.into())),
                }
            }
            Token::Word(_) if self.at_type() => self.type_or_tensor(),
            Token::Word(_) => {
                let name = self.name("a graph")?;
                Ok(Value::Graph(Box::new(self.graph(name)?)))
            }
            Token::Mark(_) | Token::End => Err(self.expected("the value of an attribute")),
        }
    }

    /// A type that a name, `=` or values follow begins a tensor.
    fn type_or_tensor(&mut self) -> Result<Value<'a>> {
        let at = self.start;
        let ty = self.ty()?;
        let name = self.optional_name()?;
        let assigned = self.eat('=')?;
        if name.is_none() && !assigned && self.token != Token::Mark('{') {
            return Ok(Value::Type(Box::new(ty)));
        }
        let name = name.unwrap_or_default();
        Ok(match ty::is_sparse(&ty) {
            true => Value::Sparse(Box::new(self.sparse(&name, &ty, at)?)),
            false => Value::Tensor(Box::new(self.tensor(&name, &ty, at)?)),
        })
    }

    /// Appends a value, which has to be of type `kind`, to the list for its type.
    fn store(&self, a: &mut AttributeProto, kind: Kind, value: Value<'_>, at: usize) -> Result<()> {
        match (kind, value) {
            (Kind::Int, Value::Int(digits)) => {
                let fits = digits.parse().map_err(|_| self.error(at, format!("`{digits:.40}` does not fit 64 bits")));
                a.ints.push(fits?);
            }
            (Kind::Float, Value::Int(digits)) => {
                let number: f32 = digits.parse().unwrap_or(f32::INFINITY);
                if number.is_infinite() {
                    return Err(self.error(at, format!("`{digits:.40}` is too large; write `inf` for infinity")));
                }
                a.floats.push(number);
            }
            (Kind::Float, Value::Float(f)) => a.floats.push(f),
            (Kind::String, Value::String(s)) => a.strings.push(s),
            (Kind::Tensor, Value::Tensor(t)) => a.tensors.push(*t),
            (Kind::SparseTensor, Value::Sparse(t)) => a.sparse_tensors.push(*t),
            (Kind::TypeProto, Value::Type(t)) => a.type_protos.push(*t),
            (Kind::Graph, Value::Graph(g)) => a.graphs.push(*g),
            (kind, value) => {
                let (wanted, found) = (kind_name(kind), kind_name(value.kind()));
                return Err(self.error(at, format!("expected a value of type `{wanted}`, found one of type `{found}`")));
            }
        }
        Ok(())
    }
}

/// Moves what was stored to the fields for single values.
fn single(a: &mut AttributeProto) {
    a.i = a.ints.pop();
    a.f = a.floats.pop();
    a.s = a.strings.pop();
    a.t = a.tensors.pop();
    a.sparse_tensor = a.sparse_tensors.pop();
    a.tp = a.type_protos.pop();
    a.g = a.graphs.pop();
}

impl Value<'_> {
    const fn kind(&self) -> Kind {
        match self {
            Value::Int(_) => Kind::Int,
            Value::Float(_) => Kind::Float,
            Value::String(_) => Kind::String,
            Value::Tensor(_) => Kind::Tensor,
            Value::Sparse(_) => Kind::SparseTensor,
            Value::Type(_) => Kind::TypeProto,
            Value::Graph(_) => Kind::Graph,
        }
    }
}

/// The name of an attribute type.
pub(in crate::text) fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, k, _)| *k == kind).map_or("undefined", |(name, ..)| name)
}

fn list_of(kind: Kind) -> Option<Kind> {
    KINDS.iter().find(|(_, k, _)| *k == kind)?.2
}

fn element_of(list: Kind) -> Option<Kind> {
    KINDS.iter().find(|(.., l)| *l == Some(list)).map(|(_, kind, _)| *kind)
}
