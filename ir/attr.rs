//! Attributes of nodes.

use crate::{Graph, SparseTensor, Tensor, Type};
use bytes::Bytes;

/// The value of an attribute.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each variant is the ONNX attribute type of that name")]
pub enum Attr {
    Int(i64),
    Float(f32),
    String(Bytes),
    Tensor(Tensor),
    Graph(Box<Graph>),
    SparseTensor(Box<SparseTensor>),
    Type(Box<Type>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<Bytes>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Graph>),
    SparseTensors(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// Inside a function: the attribute of that name of the calling node, of the attribute type with this code.
    Ref {
        name: String,
        kind: i32,
    },
}

/// The attributes of one node, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Attrs(Vec<(String, Attr)>);

impl Attrs {
    /// No attributes.
    pub const fn new() -> Attrs {
        Attrs(Vec::new())
    }

    /// The attribute of that name.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.position(name).ok().map(|i| &self.0[i].1)
    }

    /// Adds or replaces an attribute; returns the old one.
    pub fn set(&mut self, name: impl Into<String>, value: Attr) -> Option<Attr> {
        let name = name.into();
        match self.position(&name) {
            Ok(i) => Some(std::mem::replace(&mut self.0[i].1, value)),
            Err(i) => {
                self.0.insert(i, (name, value));
                None
            }
        }
    }

    /// The same attributes and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Attr>) -> Attrs {
        self.set(name, value.into());
        self
    }

    /// Takes an attribute out.
    pub fn remove(&mut self, name: &str) -> Option<Attr> {
        self.position(name).ok().map(|i| self.0.remove(i).1)
    }

    /// An integer; `None` if it is absent or of another type.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Attr::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A float; `None` if it is absent or of another type.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name)? {
            Attr::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// A string; `None` if it is absent, of another type, or not UTF-8.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Attr::String(s) => std::str::from_utf8(s).ok(),
            _ => None,
        }
    }

    /// A list of integers; `None` if it is absent or of another type.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name)? {
            Attr::Ints(v) => Some(v),
            _ => None,
        }
    }

    /// A tensor; `None` if it is absent or of another type.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.get(name)? {
            Attr::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(n, a)| (n.as_str(), a))
    }

    /// In the order of names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Attr)> {
        self.0.iter_mut().map(|(n, a)| (n.as_str(), a))
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The subgraphs, in the order of attribute names, then of their place in a list.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.0.iter().flat_map(|(_, a)| match a {
            Attr::Graph(g) => std::slice::from_ref(&**g),
            Attr::Graphs(gs) => gs.as_slice(),
            _ => &[],
        })
    }

    /// The subgraphs, in the order of [`Attrs::graphs`].
    pub fn graphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        self.0.iter_mut().flat_map(|(_, a)| match a {
            Attr::Graph(g) => std::slice::from_mut(&mut **g),
            Attr::Graphs(gs) => gs.as_mut_slice(),
            _ => &mut [],
        })
    }

    /// True if the node owns a subgraph.
    pub fn has_graphs(&self) -> bool {
        self.graphs().next().is_some()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(n, _)| n.as_str().cmp(name))
    }
}

impl FromIterator<(String, Attr)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (String, Attr)>>(iter: I) -> Attrs {
        let mut attrs = Attrs::new();
        for (name, value) in iter {
            attrs.set(name, value);
        }
        attrs
    }
}

impl From<i64> for Attr {
    fn from(v: i64) -> Attr {
        Attr::Int(v)
    }
}

impl From<f32> for Attr {
    fn from(v: f32) -> Attr {
        Attr::Float(v)
    }
}

impl From<&str> for Attr {
    fn from(v: &str) -> Attr {
        Attr::String(Bytes::copy_from_slice(v.as_bytes()))
    }
}

impl From<Vec<i64>> for Attr {
    fn from(v: Vec<i64>) -> Attr {
        Attr::Ints(v)
    }
}

impl From<Tensor> for Attr {
    fn from(v: Tensor) -> Attr {
        Attr::Tensor(v)
    }
}
