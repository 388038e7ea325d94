//! Parsing what was printed gives the same model.

use super::{assert_round_trip, graph, model, reprint};
use crate::{
    Attr, DType, Def,
    text::{ParseOptions, parse, parse_with, print},
};

const EVERYTHING: &str = r#"
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "my-domain" : 1], producer_name: "a \"b\" \\ c",
 domain: "org.example", model_version: 3, doc_string: "two
lines", metadata_props: ["k": "v", "x": ""]>
"odd graph" (float[N,3,"n*2 + 1"] x, seq(float[]) s, optional(map(int64, string[?])) o, bool c, float[2] d = {1, -0.5},
             sparse_tensor(float[3,4]) sp, untyped, "float", "ünïcödé")
    => (float[N] y, "out 1", "out 1")
<
  float[2,2] w = {1.5, -0.0, inf, -nan},  # a comment
  int4[3] i4 = {1, -2, 3}, uint4[3] u4 = {33, 3}, int2[5] i2 = {1, -2, 0, 1, 1}, uint2[4] u2 = {228},
  float16[2] f16 = {1.5, 15360}, bfloat16 bf = {16256}, float8e4m3fn[2] f8a = {1, 255}, float8e5m2[1] f8b = {3},
  float8e4m3fnuz[1] f8c = {4}, float8e5m2fnuz[1] f8d = {5}, float8e8m0[1] f8e = {127}, float4e2m1[3] f4 = {33, 1},
  complex64[1] c64 = {1.0, 2.0}, complex128[1] c128 = {1.0, 2e300}, int8[2] i8 = {-128, 127}, uint8 u8 = {255},
  int16 i16 = {-32768}, uint16 u16 = {65535}, int32 i32 = {-2147483648}, uint32 u32 = {4294967295},
  int64 i64 = {-9223372036854775808}, uint64 u64 = {18446744073709551615}, double f64 = {1e-300},
  string[3] strs = {"a\"b", hex"ff00", ""}, bool[3] bools = {1, 0, 1}, float[4,5] splat = {0.25}, float[0,7] none = {},
  sparse_tensor(float[3,4]) sc = {float[2] {1.0, 2.0}, int64[2] {0, 5}},
  float[3,3] filled, int64[20] indices =, float[N] t1, seq(float[N]) t2, float[7] stale
>
{
  [n1] t1 = Op <
    int = 1, float = 1.0, string = "s", ints = [1, -2], floats = [1, 2.5], strings = ["a", hex"ff"], no_ints: ints = [],
    no_graphs: graphs = [], few: floats = [1, 2], tensor = float[2] {1.0, 2.0}, type = float[N], types = [float, seq(int64)],
    tensors = [float {1.0}, int64[1] {3}], special = [nan, -inf], whole: float = 3, "q-r" = 1, no_types: type_protos = [],
    sparse = sparse_tensor(float[3]) {float[1] {1.0}, int64[1] {2}}, large = float[40] left_out,
    list = [sparse_tensor(float) {float[0] {}, int64[0] {}}]
  > (x, "", w,)
  , t2 = com.microsoft.Fused:ov (t1, , filled, indices, splat)
  y, "out 1" = If (c) <
    then_branch = then () => (float[N] a) <float[2] z = {1, 2}> {
      a = Add (t1, z)
      q = Loop () <body = "" () => (w) {}, more = [g1 () => (a) {}, "nan" () => (x) {}]>
    },
    else_branch = "float" () => (t2) { }
  >
  ["node, with [odd] name"] = "my-domain"."weird op" ()
}
<domain: "com.microsoft", overload: "ov", opset_import: ["" : 21], doc_string: "says it">
Fused <alpha, beta: float = 2.0, "odd-one" = [1]> (float[N] a, b) => (r) <float r, int64[N] i>
{
  i = Shape (a)
  r = Foo <int: int = @alpha, floats: floats = @"b c", future: 99 = @q, unknown = @v> (a, i)
}
<domain: "com.microsoft", opset_import: []> Nothing () => () {}
"#;

#[test]
fn everything_survives() {
    let m = model(EVERYTHING);
    assert_round_trip(&m);
    assert_eq!(m.graph.inputs().len(), 9);
    assert_eq!(m.functions.len(), 2);
    // The form for reading is valid, too.
    assert!(parse(&print(&m)).is_ok());
}

#[test]
fn every_number_of_16_bit_floats_survives() {
    for dtype in ["float16", "bfloat16", "uint16"] {
        let all: Vec<String> = (0..=u16::MAX).map(|i| i.to_string()).collect();
        let text = format!("g () => (w) <{dtype}[65536] w = {{{}}}> {{}}", all.join(", "));
        assert_round_trip(&model(&text));
    }
}

#[test]
fn values_are_bitwise_the_same() {
    let values = [0.1f32, 1e-45, f32::MIN_POSITIVE, f32::MAX, -0.0, 16_777_216.0, 1e16, 123_456.79, f32::NEG_INFINITY];
    let mut m = graph("() => (w) <float[9] w> {}");
    let id = m.graph.value_named("w").unwrap();
    let tensor = crate::Tensor::from_f32([9].as_slice(), &values).unwrap();
    m.graph.value_mut(id).unwrap().def = Def::Constant(tensor.clone());
    let back = model(&reprint(&crate::text::print_with(&m, crate::text::PrintOptions::full())));
    assert_eq!(back.graph.constant(back.graph.value_named("w").unwrap()), Some(&tensor));
}

#[test]
fn a_name_that_hides_an_outer_one_is_changed() {
    let m = graph(
        "(bool c, float x) => (y, z) {
            z = Neg (x)
            y = If (c) <then_branch = t () => (x_2) { z = Abs (x)  x_2 = Add (z, x) }, else_branch = e () => (x) {}>
        }",
    );
    assert_round_trip(&m);
    assert!(print(&m).contains("z_1 = Abs (x)"));
}

#[test]
fn every_type_is_filled_the_same_each_time() {
    for dtype in DType::ALL {
        let text = format!("g () => (w, v) <{dtype}[3,5] w, {dtype}[2] v> {{}}");
        assert_eq!(reprint(&text), reprint(&text));
        assert_round_trip(&model(&text));
    }
}

#[test]
fn filled_weights_are_tame() {
    let m = graph("() => (w, i) <float[64,32,3,3] w, int64[100] i> {}");
    let tensor = |name| m.graph.constant(m.graph.value_named(name).unwrap()).unwrap();
    let w: Vec<f32> = tensor("w").iter_f32().unwrap().collect();
    let variance = w.iter().map(|v| v * v).sum::<f32>() / w.len() as f32;
    assert!((variance * 288.0 - 1.0).abs() < 0.05, "{variance}");
    assert!(w.iter().sum::<f32>().abs() / (w.len() as f32) < 1e-3);
    assert!(tensor("i").to_i64().unwrap().iter().all(|i| (0..4).contains(i)));
}

#[test]
fn the_budget_for_filled_weights_holds() {
    let options = ParseOptions { max_filled: 80, ..ParseOptions::default() };
    let fits = "g () => (w, v) <float[10] w, float[10] v = {1}> {}";
    assert!(parse_with(fits, options).is_ok());
    let options = ParseOptions { max_filled: 79, ..options };
    assert!(parse_with(fits, options).is_err());
}

#[test]
fn references_keep_their_type() {
    let m = model(EVERYTHING);
    let (_, node) = m.functions[0].body.nodes().find(|(_, n)| n.op.is("Foo")).unwrap();
    assert!(matches!(node.attrs.get("future"), Some(Attr::Ref { kind: 99, .. })));
    assert!(matches!(node.attrs.get("unknown"), Some(Attr::Ref { kind: 0, .. })));
    assert!(matches!(node.attrs.get("floats"), Some(Attr::Ref { kind: 6, .. })));
}
