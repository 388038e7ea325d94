//! Small models for tests.

use smallvec::SmallVec;

use crate::{Attrs, DType, Def, Dim, Graph, Model, Node, OpName, Tensor, Type, ValueId};

/// A model under construction.
pub(crate) struct Draft {
    pub(crate) model: Model,
}

impl Draft {
    /// An empty model of that opset.
    pub(crate) fn new(opset: i64) -> Draft {
        let opsets = [(String::new(), opset), ("com.microsoft".into(), 1)].into();
        Draft { model: Model { ir_version: 8, opsets, ..Model::default() } }
    }

    /// A float input. Each dim is a number, a name, or `?`.
    pub(crate) fn input(&mut self, name: &str, dims: &[&str]) -> ValueId {
        self.input_of(name, DType::F32, dims)
    }

    /// An input.
    pub(crate) fn input_of(&mut self, name: &str, dtype: DType, dims: &[&str]) -> ValueId {
        self.model.graph.add_input(name.into(), Some(Type::tensor(dtype, dims.iter().map(|d| dim(d)))), None)
    }

    /// A vector of int64.
    pub(crate) fn ints(&mut self, values: &[i64]) -> ValueId {
        self.constant(Tensor::ints(values))
    }

    /// An int64 scalar.
    pub(crate) fn int(&mut self, value: i64) -> ValueId {
        self.constant(Tensor::from_i64([].as_slice(), &[value]).unwrap())
    }

    /// A float tensor of zeros.
    pub(crate) fn weights(&mut self, dims: &[u64]) -> ValueId {
        let count = dims.iter().product::<u64>() as usize;
        self.constant(Tensor::from_f32(dims, &vec![0.0; count]).unwrap())
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.model.graph.fresh_name("c");
        self.model.graph.add_constant(name, tensor)
    }

    /// A node with one output.
    pub(crate) fn node(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        self.nodes(op, &inputs.iter().copied().map(Some).collect::<Vec<_>>(), attrs, 1)[0]
    }

    /// A node.
    pub(crate) fn nodes(&mut self, op: &str, inputs: &[Option<ValueId>], attrs: Attrs, outputs: usize) -> Vec<ValueId> {
        add(&mut self.model.graph, op, inputs, attrs, &[], outputs)
    }

    /// The inferred type of a value, as text, with `?` for sizes of which nothing is known.
    pub(crate) fn ty(&self, value: ValueId) -> String {
        let inferred = super::infer(&self.model, &super::Bindings::new());
        assert_eq!(inferred.contradictions(), []);
        inferred.ty(value).map_or_else(|| "?".into(), |ty| super::shape::without_open(ty).to_string())
    }

    /// The first contradiction.
    pub(crate) fn contradiction(&self) -> String {
        super::infer(&self.model, &super::Bindings::new()).contradictions()[0].message.clone()
    }
}

/// A node in any graph; `Domain::Name` names an operator outside of ai.onnx.
pub(crate) fn add(
    g: &mut Graph,
    op: &str,
    inputs: &[Option<ValueId>],
    attrs: Attrs,
    captures: &[ValueId],
    outputs: usize,
) -> Vec<ValueId> {
    let (domain, name) = op.split_once("::").unwrap_or(("", op));
    let made: Vec<ValueId> = (0..outputs)
        .map(|_| {
            let name = g.fresh_name(name);
            g.add_value(name, None, Def::Captured(0))
        })
        .collect();
    g.add_node(Node {
        is_local: false,
        name: String::new(),
        op: OpName::new(domain, name),
        attrs,
        doc: String::new(),
        metadata: Default::default(),
        inputs: SmallVec::from_slice(inputs),
        outputs: made.iter().copied().map(Some).collect(),
        captures: captures.to_vec(),
        devices: Vec::new(),
    });
    made
}

fn dim(text: &str) -> Dim {
    text.parse().map_or_else(|_| Dim::symbol(text), Dim::Known)
}
