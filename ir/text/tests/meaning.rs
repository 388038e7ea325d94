//! What a text means where it could mean several things.

use super::{graph, model};
use crate::{Attr, Def, Model};

fn is_constant(m: &Model, name: &str) -> bool {
    m.graph.value_named(name).is_some_and(|v| m.graph.constant(v).is_some())
}

#[test]
fn an_entry_without_value_is_a_weight_if_only_that_makes_sense() {
    let m = graph(
        "(x) => (y) <float[2] x, float[2] w, float[2] t, float[2] stale, float[2] kept => { t = Add (x, w) y = Neg (t) }",
    );
    assert!(is_constant(&m, "w"));
    assert!(is_constant(&m, "kept"));
    assert!(m.graph.value_named("stale").is_none());
    let t = m.graph.value_named("t").unwrap();
    assert!(matches!(m.graph.value(t).unwrap().def(), Def::Node { .. }));
    assert_eq!(m.graph.ty(t).unwrap().to_string(), "float[2]");
    assert_eq!(m.graph.ty(m.graph.inputs()[0]).unwrap().to_string(), "float[2]");
}

#[test]
fn a_weight_may_have_its_type_declared() {
    let m = graph("() => (y) <float[2] a, float[2] a = {1, 2}, float[2] b = {3, 4}, float[2] b> { y = Add (a, b) }");
    assert_eq!(m.graph.constant(m.graph.value_named("a").unwrap()).unwrap().to_f64().unwrap(), [1.0, 2.0]);
    assert!(is_constant(&m, "b"));
}

#[test]
fn a_weight_may_be_read_in_a_subgraph_only() {
    let m = graph("(bool c) => (y) <float[2] w> { y = If (c) <t = t () => (w) <float[2] w> {}> }");
    assert!(is_constant(&m, "w"));
    let (_, node) = m.graph.nodes().next().unwrap();
    assert_eq!(node.captures(), [m.graph.value_named("w").unwrap()]);
}

#[test]
fn defaults_make_no_constants() {
    let m = graph("(float[2] a = {1, 2}, float[2] b) => (a) <float[2] b = {3}> {}");
    for name in ["a", "b"] {
        let v = m.graph.value(m.graph.value_named(name).unwrap()).unwrap();
        assert!(matches!(v.def(), Def::Input { default: Some(_) }));
    }
    // Files of older versions list constants as inputs.
    let m = model("<ir_version: 3> g (float[2] a, float[2] w) => (a) <float[2] w = {3, 4}> {}");
    assert_eq!(m.graph.inputs().len(), 1);
    assert!(is_constant(&m, "w"));
}

#[test]
fn constants_keep_their_order() {
    let m = graph("() => (b) <float c = {1}, float b, float a = {1}, float d = {2}> { = Op (b) }");
    let names: Vec<&str> = m.graph.values().map(|(_, v)| v.name()).collect();
    assert_eq!(names, ["c", "b", "a", "d"]);
}

#[test]
fn packed_types_take_elements_or_bytes() {
    let m = graph("() => () <int4[3] e = {1, -2, 3}, int4[3] b = {225, 3}, int4[1] n = {-1}, int4[1] m = {247}> {}");
    let raw = |name| m.graph.constant(m.graph.value_named(name).unwrap()).unwrap().raw().unwrap().to_vec();
    assert_eq!(raw("e"), [0xe1, 0x03]);
    assert_eq!(raw("e"), raw("b"));
    assert_eq!(raw("n"), [0x0f]);
    assert_eq!(raw("m"), [0xf7]);
}

#[test]
fn nodes_may_stand_in_any_order() {
    let a = graph("(x) => (y) { y = Relu (t)  t = Neg (x) }");
    let b = graph("(x) => (y) { t = Neg (x)  y = Relu (t) }");
    assert_eq!(crate::text::print(&a), crate::text::print(&b));
}

#[test]
fn values_of_attributes_have_the_type_that_they_look_like() {
    let m = graph(
        r#"() => (y) { y = Op <
            a = 1, b = 1e3, c = inf, d = "x" , e = float, f = float {1}, g = "x" () => () {}, h = sub () => () {},
            i = [1, 2.0], j: float = -0, k = float[2] name = {1, 2}
        > () }"#,
    );
    let (_, node) = m.graph.nodes().next().unwrap();
    let get = |name| node.attrs.get(name).unwrap();
    assert!(matches!(get("a"), Attr::Int(1)));
    assert!(matches!(get("b"), Attr::Float(x) if *x == 1000.0));
    assert!(matches!(get("c"), Attr::Float(x) if *x == f32::INFINITY));
    assert!(matches!(get("d"), Attr::String(_)));
    assert!(matches!(get("e"), Attr::Type(_)));
    assert!(matches!(get("f"), Attr::Tensor(_)));
    assert!(matches!(get("g"), Attr::Graph(_)));
    assert!(matches!(get("h"), Attr::Graph(_)));
    assert!(matches!(get("i"), Attr::Floats(v) if v == &[1.0, 2.0]));
    assert!(matches!(get("j"), Attr::Float(x) if x.is_sign_negative()));
    assert!(matches!(get("k"), Attr::Tensor(_)));
}

#[test]
fn operands_may_be_left_out() {
    let m = graph(r#"(x) => (b) { , b = Op (x, , "", x,)  = Op ()  "" = Op (,) }"#);
    let shape: Vec<(usize, usize)> = m.graph.nodes().map(|(_, n)| (n.inputs().len(), n.outputs().len())).collect();
    assert_eq!(shape, [(4, 2), (0, 0), (1, 1)]);
}
