//! Models and texts drawn at random.

use bytes::Bytes;
use planish_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType as Kind,
    tensor_shape_proto::{Dimension, dimension::Value as Size},
    type_proto,
};
use proptest::prelude::*;

use super::assert_settles;
use crate::{
    DType,
    onnx::import,
    text::{ParseOptions, parse_with, print},
};

/// Random decisions; once they run out, everything is as simple as it can be, which is how proptest shrinks.
struct Tape(std::vec::IntoIter<u8>);

impl Tape {
    fn pick(&mut self, n: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % n
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.pick(all.len())]
    }

    fn name(&mut self) -> String {
        let names =
            ["a", "b", "c", "d", "e", "_1", "float", "nan", "seq", "hex", "x y", "\"q\\", "ü", "1", "a.b", "then#"];
        self.of(&names).to_owned()
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.pick(256) as u8).collect()
    }

    fn tensor(&mut self) -> TensorProto {
        let dtype = DType::ALL[self.pick(DType::ALL.len())];
        let dims: Vec<i64> = (0..self.pick(3)).map(|_| self.pick(6) as i64).collect();
        let elements = dims.iter().product::<i64>() as u64;
        let mut t = TensorProto { dims, data_type: Some(dtype.code()), ..Default::default() };
        match dtype.byte_len(elements) {
            Some(n) => t.raw_data = Some(self.bytes(n as usize).into()),
            None => t.string_data = (0..elements).map(|_| self.string()).collect(),
        }
        t
    }

    fn string(&mut self) -> Bytes {
        match self.pick(2) {
            0 => self.name().into(),
            _ => self.bytes(3).into(),
        }
    }

    fn ty(&mut self, depth: usize) -> TypeProto {
        let kind = match self.pick(if depth > 2 { 2 } else { 5 }) {
            0 | 1 => {
                let shape = match self.pick(4) {
                    0 => None,
                    n => Some(planish_proto::onnx::TensorShapeProto { dim: (1..n).map(|_| self.dim()).collect() }),
                };
                let elem_type = Some(self.pick(26) as i32 + 1);
                match self.pick(2) {
                    0 => type_proto::Value::TensorType(type_proto::Tensor { elem_type, shape }),
                    _ => type_proto::Value::SparseTensorType(type_proto::SparseTensor { elem_type, shape }),
                }
            }
            2 => type_proto::Value::SequenceType(Box::new(type_proto::Sequence {
                elem_type: Some(self.ty(depth + 1).into()),
            })),
            3 => type_proto::Value::OptionalType(Box::new(type_proto::Optional {
                elem_type: Some(self.ty(depth + 1).into()),
            })),
            _ => type_proto::Value::MapType(Box::new(type_proto::Map {
                key_type: Some(7),
                value_type: Some(self.ty(depth + 1).into()),
            })),
        };
        TypeProto { value: Some(kind), denotation: None }
    }

    fn dim(&mut self) -> Dimension {
        let value = match self.pick(3) {
            0 => None,
            1 => Some(Size::DimValue(self.pick(9) as i64)),
            _ => Some(Size::DimParam(self.name())),
        };
        Dimension { value, denotation: None }
    }

    fn info(&mut self, name: String) -> ValueInfoProto {
        let r#type = (self.pick(3) > 0).then(|| self.ty(0));
        ValueInfoProto { name: Some(name), r#type, ..Default::default() }
    }

    fn attribute(&mut self, scope: &[String], depth: usize) -> AttributeProto {
        let mut a = AttributeProto { name: Some(self.name()), ..Default::default() };
        let n = self.pick(3);
        let number = |t: &mut Tape| f32::from_bits(u32::from_le_bytes(t.bytes(4).try_into().unwrap()));
        let kind = match self.pick(11) {
            0 => Kind::Int,
            1 => {
                a.i = Some(i64::from_le_bytes(self.bytes(8).try_into().unwrap()));
                Kind::Int
            }
            2 => {
                a.f = Some(number(self));
                Kind::Float
            }
            3 => {
                a.s = Some(self.string());
                Kind::String
            }
            4 => {
                a.t = Some(self.tensor());
                Kind::Tensor
            }
            5 => {
                a.ints = (0..n).map(|_| self.pick(256) as i64 - 128).collect();
                Kind::Ints
            }
            6 => {
                a.floats = (0..n).map(|_| number(self)).collect();
                Kind::Floats
            }
            7 => {
                a.strings = (0..n).map(|_| self.string()).collect();
                Kind::Strings
            }
            8 => {
                a.type_protos = (0..n).map(|_| self.ty(0)).collect();
                Kind::TypeProtos
            }
            9 => {
                a.ref_attr_name = Some(self.name());
                Kind::Float
            }
            _ if depth < 3 => {
                a.graphs = (0..n).map(|_| self.graph(scope, depth + 1)).collect();
                Kind::Graphs
            }
            _ => {
                a.tensors = (0..n).map(|_| self.tensor()).collect();
                Kind::Tensors
            }
        };
        a.r#type = Some(kind.into());
        a
    }

    fn graph(&mut self, outer: &[String], depth: usize) -> GraphProto {
        let mut g = GraphProto { name: Some(self.name()), ..Default::default() };
        let mut scope = outer.to_vec();
        for _ in 0..self.pick(3) {
            let name = self.name();
            g.input.push(self.info(name.clone()));
            scope.push(name);
        }
        for _ in 0..self.pick(3) {
            let name = self.name();
            g.initializer.push(TensorProto { name: Some(name.clone()), ..self.tensor() });
            scope.push(name);
        }
        for _ in 0..self.pick(4) {
            let mut node = NodeProto { op_type: Some(self.name()), domain: Some(self.name()), ..Default::default() };
            node.name = (self.pick(2) > 0).then(|| self.name());
            node.overload = (self.pick(4) > 2).then(|| self.name());
            for _ in 0..self.pick(3) {
                let at = self.pick(scope.len() + 1);
                node.input.push(scope.get(at).cloned().unwrap_or_default());
            }
            node.attribute = (0..self.pick(3)).map(|_| self.attribute(&scope, depth)).collect();
            for _ in 0..self.pick(3) {
                let name = if self.pick(5) == 4 { String::new() } else { self.name() };
                node.output.push(name.clone());
                if !name.is_empty() {
                    g.value_info.push(self.info(name.clone()));
                    scope.push(name);
                }
            }
            g.node.push(node);
        }
        for _ in 0..self.pick(3) {
            let at = self.pick(scope.len() + 1);
            if let Some(name) = scope.get(at).cloned() {
                g.output.push(self.info(name));
            }
        }
        g
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_global_rejects: 1 << 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn models_survive(tape in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut tape = Tape(tape.into_iter());
        let graph = Some(tape.graph(&[], 0));
        let message = ModelProto { ir_version: Some(10), graph, ..Default::default() };
        // Names are drawn from few, so that many models define one twice.
        let imported = import(message, &|_| Err("not here".into()));
        prop_assume!(imported.is_ok());
        let model = imported.unwrap();
        assert_settles(&model);
        prop_assert!(parse_with(&print(&model), ParseOptions::default()).is_ok(), "{}", print(&model));
    }

    #[test]
    fn no_text_does_harm(words in prop::collection::vec(0usize..WORDS.len(), 0..60), prefix in 0usize..3) {
        let start = ["", "g (x) => (y) <", "g (x) => (y) { y = Op <a = "][prefix];
        let text = words.iter().fold(start.to_owned(), |text, &w| text + WORDS[w] + " ");
        let options = ParseOptions { max_filled: 1 << 16, ..ParseOptions::default() };
        if let Ok(model) = parse_with(&text, options) {
            assert_settles(&model);
        }
    }

    #[test]
    fn no_string_does_harm(text in "\\PC{0,60}") {
        let _ = parse_with(&text, ParseOptions::default());
    }
}

const WORDS: [&str; 42] = [
    "<",
    ">",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "=",
    "?",
    "@",
    ".",
    "=>",
    "\"\"",
    "\"x\"",
    "hex\"00\"",
    "x",
    "y",
    "g",
    "w",
    "Op",
    "1",
    "-1",
    "1.5",
    "nan",
    "-inf",
    "99999999999",
    "float",
    "int4",
    "string",
    "seq",
    "map",
    "sparse_tensor",
    "float[2]",
    "ints",
    "tensor",
    "graph",
    "ir_version",
    "opset_import",
    "\"é\\\"\"",
];
