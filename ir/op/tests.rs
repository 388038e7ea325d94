//! The table as a whole.

use std::collections::BTreeSet;

use super::*;

#[test]
fn it_is_sorted_and_without_duplicates() {
    assert!(TABLE.is_sorted_by(|a, b| (a.domain, a.name) < (b.domain, b.name)));
}

#[test]
fn every_line_is_found_and_nothing_else() {
    for s in TABLE {
        let op = OpName { domain: s.domain.into(), name: s.name.into(), overload: String::new() };
        assert!(spec(&op).is_some_and(|found| std::ptr::eq(found, *s)), "{op}");
        let elsewhere = OpName { domain: "elsewhere".into(), ..op };
        assert!(spec(&elsewhere).is_none());
    }
    assert!(spec(&OpName::onnx("")).is_none());
}

#[test]
fn signatures_ascend_and_are_ranges() {
    for s in TABLE {
        assert!(s.signatures.is_sorted_by(|a, b| a.since < b.since), "{}", s.name);
        for g in s.signatures {
            assert!(g.inputs.0 <= g.inputs.1 && g.outputs.0 <= g.outputs.1, "{}", s.name);
        }
    }
}

/// Operators that a file defines and the table does not list would silently be unknown.
#[test]
fn every_operator_of_every_file_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("op");
    let mut defined = 0;
    let mut listed = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let statics = text.lines().filter(|l| l.starts_with("pub(super) static")).count();
        defined += statics;
        if statics > 0 {
            listed.insert(module);
        }
    }
    assert_eq!(defined, TABLE.len());
    let table = include_str!("table.rs");
    assert!(listed.iter().all(|m| table.contains(&format!("&{m}::"))));
}

#[test]
fn arity_follows_the_opset() {
    let node = |name: &str, inputs: usize, outputs: usize| {
        let mut draft = crate::infer::testing::Draft::new(17);
        let x = draft.input("x", &["1"]);
        let made = draft.nodes(name, &vec![Some(x); inputs], crate::Attrs::new(), outputs);
        draft.model.graph.producer(made[0]).map(|(_, n)| n.clone()).unwrap()
    };
    let check = |name: &str, inputs, outputs, opset| {
        spec(&OpName::onnx(name)).unwrap().check_arity(&node(name, inputs, outputs), opset)
    };
    assert!(check("Clip", 1, 1, 6).is_ok());
    assert!(check("Clip", 3, 1, 6).is_err());
    assert!(check("Clip", 3, 1, 11).is_ok());
    assert!(check("ReduceSum", 2, 1, 12).is_err());
    assert!(check("ReduceSum", 2, 1, 13).is_ok());
    assert!(check("ReduceMean", 2, 1, 17).is_err());
    assert!(check("BatchNormalization", 5, 5, 13).is_ok());
    assert!(check("BatchNormalization", 5, 5, 14).is_err());
    assert!(check("Concat", 500, 1, 13).is_ok());
    assert_eq!(check("Gelu", 1, 1, 17).unwrap_err(), "Gelu exists from opset 20 on, but the model imports 17");
}

#[test]
fn a_node_is_as_pure_as_its_subgraphs() {
    let mut draft = crate::infer::testing::Draft::new(17);
    let c = draft.input_of("c", crate::DType::Bool, &[]);
    let branch = |op: &str| {
        let mut g = crate::Graph::default();
        crate::infer::testing::add(&mut g, op, &[], crate::Attrs::new(), &[], 1);
        crate::Attr::Graph(Box::new(g))
    };
    let branches =
        |other: &str| crate::Attrs::new().with("then_branch", branch("Constant")).with("else_branch", branch(other));
    let pure = draft.node("If", &[c], branches("Constant"));
    let random = draft.node("If", &[c], branches("RandomNormal"));
    let node = |v| draft.model.graph.producer(v).unwrap().1;
    assert!(is_pure(node(pure)));
    assert!(!is_pure(node(random)));
}
