//! Models survive being imported, exported and printed.

use std::fs;

use planish_ir::{onnx, text, verify};
use planish_proto::{
    Sources,
    onnx::{TypeProto, ValueInfoProto, tensor_shape_proto::dimension::Value as Size, type_proto::Value as Kind},
};

use crate::support::models;

fn import(message: planish_proto::onnx::ModelProto) -> planish_ir::Model {
    onnx::import(message, &|_| Err("no external data".into())).unwrap()
}

#[test]
fn a_second_round_trip_changes_nothing() {
    for path in models() {
        let once = onnx::export(&verify(&import(planish_proto::open(&path).unwrap().model)).unwrap());
        let twice = onnx::export(&verify(&import(once.clone())).unwrap());
        assert!(once == twice, "{}", path.display());
    }
}

#[test]
fn nothing_is_lost_on_the_way() {
    for path in models() {
        let before = planish_proto::open(&path).unwrap().model;
        let after = onnx::export(&verify(&import(before.clone())).unwrap());
        let (a, b) = (before.graph.unwrap(), after.graph.unwrap());
        let names = |g: &planish_proto::onnx::GraphProto| {
            let mut n: Vec<_> = g.node.iter().map(|n| (n.name.clone(), n.op_type.clone(), n.attribute.len())).collect();
            n.sort();
            n
        };
        assert_eq!(names(&a), names(&b), "{}", path.display());
        let interface = |values: Vec<ValueInfoProto>| values.into_iter().map(open_sizes).collect::<Vec<_>>();
        assert_eq!(interface(a.input), interface(b.input), "{}", path.display());
        assert_eq!(interface(a.output), interface(b.output), "{}", path.display());
        assert_eq!(a.initializer.len(), b.initializer.len());
        assert_eq!(before.metadata_props, after.metadata_props);
    }
}

/// Paddle writes -1 and "?" for sizes that are open; ONNX's way is to write nothing.
fn open_sizes(mut value: ValueInfoProto) -> ValueInfoProto {
    if let Some(TypeProto { value: Some(Kind::TensorType(t)), .. }) = &mut value.r#type {
        for d in t.shape.iter_mut().flat_map(|s| &mut s.dim) {
            let open = |v: &Size| matches!(v, Size::DimValue(-1)) || matches!(v, Size::DimParam(p) if p == "?");
            d.value = d.value.take().filter(|v| !open(v));
        }
    }
    value
}

#[test]
fn the_text_form_is_stable() {
    for path in models() {
        let model = import(planish_proto::open(&path).unwrap().model);
        let printed = text::print(&model);
        let parsed = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        verify(&parsed).unwrap();
        assert_eq!(parsed.graph.node_count(), model.graph.node_count());
    }
}

#[test]
fn external_data_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for path in models() {
        let loaded = planish_proto::open(&path).unwrap();
        let out = folder.path().join(path.file_name().unwrap());
        let options = planish_proto::SaveOptions { external: planish_proto::External::Always, ..Default::default() };
        planish_proto::save(loaded.model.clone(), &loaded.sources, &out, &options).unwrap();
        // Paddle's weights are attributes of Constant nodes, which stay inside.
        let smaller = fs::metadata(&out).unwrap().len() < fs::metadata(&path).unwrap().len();
        assert_eq!(smaller, !path.ends_with("ppocr_cls.onnx"), "{}", path.display());
        let again = planish_proto::open(&out).unwrap();
        let external = |t: &planish_proto::onnx::TensorProto| Ok(again.sources.external(t)?);
        let model = onnx::import(again.model, &external).unwrap();
        let original = import(loaded.model);
        let constants = |m: &planish_ir::Model| -> Vec<_> {
            m.graph.values().filter_map(|(_, v)| Some((v.name().to_owned(), v.constant()?.clone()))).collect()
        };
        assert_eq!(constants(&original), constants(&model), "{}", path.display());
    }
    assert!(Sources::default().folder().is_none());
}
