//! Attribute messages.

use planish_proto::onnx::{AttributeProto, attribute_proto::AttributeType as Kind};

use super::{ImportError, Importer, Problem, Result, tensor, types};
use crate::{Attr, ValueId, onnx::WireError};

impl Importer<'_> {
    /// Name and value. Subgraphs extend `captures`, those of the node they belong to.
    pub(super) fn attribute(&mut self, a: AttributeProto, captures: &mut Vec<ValueId>) -> Result<(String, Attr)> {
        let name = a.name.clone().unwrap_or_default();
        let bad = || ImportError::from(Problem::Attribute(WireError::Attribute(name.clone())));
        let wire = |source| ImportError::from(Problem::Tensor { name: name.clone(), source });
        if let Some(of) = a.ref_attr_name.as_deref().filter(|r| !r.is_empty()) {
            return Ok((name, Attr::Ref { name: of.to_owned(), kind: a.r#type.unwrap_or(0) }));
        }
        let kind = match a.r#type {
            Some(code) => Kind::try_from(code).map_err(|_| bad())?,
            // Files of IR version 1 had no type field: the field that is set tells.
            None => guess(&a).ok_or_else(bad)?,
        };
        let value = match kind {
            Kind::Undefined => return Err(bad()),
            // Writers of proto3 leave out zeros and empty strings.
            Kind::Float => Attr::Float(a.f.unwrap_or(0.0)),
            Kind::Int => Attr::Int(a.i.unwrap_or(0)),
            Kind::String => Attr::String(a.s.unwrap_or_default()),
            Kind::Floats => Attr::Floats(a.floats),
            Kind::Ints => Attr::Ints(a.ints),
            Kind::Strings => Attr::Strings(a.strings),
            Kind::Tensor => Attr::Tensor(tensor::import_tensor(a.t.ok_or_else(bad)?, self.external).map_err(wire)?),
            Kind::Tensors => {
                let convert = |t| tensor::import_tensor(t, self.external);
                Attr::Tensors(a.tensors.into_iter().map(convert).collect::<std::result::Result<_, _>>().map_err(wire)?)
            }
            Kind::SparseTensor => {
                let t = a.sparse_tensor.ok_or_else(bad)?;
                Attr::SparseTensor(Box::new(tensor::import_sparse(t, self.external).map_err(wire)?))
            }
            Kind::SparseTensors => {
                let convert = |t| tensor::import_sparse(t, self.external);
                let tensors: std::result::Result<_, _> = a.sparse_tensors.into_iter().map(convert).collect();
                Attr::SparseTensors(tensors.map_err(wire)?)
            }
            Kind::TypeProto => {
                let ty = types::type_in(a.tp.as_ref().ok_or_else(bad)?).map_err(wire)?;
                Attr::Type(Box::new(ty.ok_or_else(bad)?))
            }
            Kind::TypeProtos => {
                let convert = |t| types::type_in(t).and_then(|t| t.ok_or(WireError::Type));
                let types: std::result::Result<_, _> = a.type_protos.iter().map(convert).collect();
                Attr::Types(types.map_err(wire)?)
            }
            Kind::Graph => Attr::Graph(Box::new(self.subgraph(&name, a.g.ok_or_else(bad)?, captures)?)),
            Kind::Graphs => {
                let graphs: Result<Vec<_>> = a.graphs.into_iter().map(|g| self.subgraph(&name, g, captures)).collect();
                Attr::Graphs(graphs?)
            }
        };
        Ok((name, value))
    }

    fn subgraph(
        &mut self,
        attribute: &str,
        message: planish_proto::onnx::GraphProto,
        captures: &mut Vec<ValueId>,
    ) -> Result<crate::Graph> {
        let (graph, all) = self
            .graph(message, std::mem::take(captures))
            .map_err(|e| e.inside(|| format!("subgraph {attribute:?}")))?;
        *captures = all;
        Ok(graph)
    }
}

fn guess(a: &AttributeProto) -> Option<Kind> {
    let found = [
        (a.f.is_some(), Kind::Float),
        (a.i.is_some(), Kind::Int),
        (a.s.is_some(), Kind::String),
        (a.t.is_some(), Kind::Tensor),
        (a.g.is_some(), Kind::Graph),
        (!a.floats.is_empty(), Kind::Floats),
        (!a.ints.is_empty(), Kind::Ints),
        (!a.strings.is_empty(), Kind::Strings),
        (!a.tensors.is_empty(), Kind::Tensors),
        (!a.graphs.is_empty(), Kind::Graphs),
    ];
    found.into_iter().find_map(|(set, kind)| set.then_some(kind))
}
