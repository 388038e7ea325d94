use planish_ir::{Model, axes::classes, infer, text, verify};

use super::*;
use crate::testing::parse;

/// Takes every other channel out of every free class, and returns what is left.
fn halved(model: &Model) -> Model {
    let facts = infer::infer(model, &infer::Bindings::new());
    let classes = classes(model, &facts);
    let units = prunable(model, &facts, &classes, &infer::Bindings::from([("N".into(), 1), ("S".into(), 8)]));
    assert!(!units.free.is_empty());
    let every_other = |u: &Unit| Some((u.class, (0..u.size?).filter(|i| i % 2 == 1).collect()));
    let removed = units.free.iter().filter_map(every_other).collect();
    let mut after = model.clone();
    for (path, patch) in cut(model, &facts, &classes, &removed, &Refit::default()).unwrap() {
        after.apply(&path, patch).unwrap();
    }
    verify(&after).unwrap();
    let inferred = infer::infer(&after, &infer::Bindings::new());
    assert_eq!(inferred.contradictions(), []);
    // Every value has the shape that it was given.
    for (id, value) in after.graph.values() {
        if let (Some(stored), Some(found)) = (value.ty(), inferred.ty(id)) {
            assert!(stored.compatible(found), "{}: {stored} and {found}", value.name());
        }
    }
    after
}

fn check(body: &str) -> String {
    let mut model = parse(&format!("<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> {body}"));
    infer::annotate(&mut model);
    text::print(&halved(&model))
}

#[test]
fn residual_and_depthwise_convolutions() {
    insta::assert_snapshot!(check(
        "g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w0, float[8,8,3,3] w1, float[8,1,3,3] dw, float[4,8,1,1] down, float[8,4,1,1] up, float[5,8,1,1] w2> {
            a = Conv (x, w0)
            b = Conv <pads = [1,1,1,1]> (a, w1)
            c = Add (a, b)
            d = Conv <group = 8, pads = [1,1,1,1]> (c, dw)
            p = GlobalAveragePool (d)
            q = Conv (p, down)
            t = Conv (q, up)
            u = Sigmoid (t)
            e = Mul (d, u)
            y = Conv (e, w2)
        }"
    ));
}

#[test]
fn split_slice_concat_and_flatten() {
    insta::assert_snapshot!(check(
        "g (float[N,3,4,4] x) => (float[N,10] y)
        <float[8,3,1,1] w0, float[4,3,1,1] w1, float[6,6,1,1] w3, float[10,192] fc, int64[2] cut = {6, 6},
         int64[1] from = {-2}, int64[1] to = {9223372036854775807}, int64[1] axis = {1}, int64[1] zero = {0}, int64[1] four = {4}> {
            a = Conv (x, w0)
            b = Conv (x, w1)
            c = Concat <axis = 1> (a, b)
            e, f = Split <axis = 1> (c, cut)
            g = Conv (e, w3)
            back = Slice (f, from, to, axis)
            front = Slice (f, zero, four, axis)
            h = Concat <axis = 1> (g, front, back)
            i = Flatten (h)
            y = Gemm <transB = 1> (i, fc)
        }"
    ));
}

#[test]
fn heads_and_neurons() {
    insta::assert_snapshot!(check(
        "g (float[N,S,16] x) => (float[N,S,16] y)
        <float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16] bv, float[16,16] wo, float[16,32] up, float[32,16] down,
         int64[4] split = {0, 0, 4, 4}, int64[3] merge = {0, 0, 16}, float scale = {0.5}> {
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            v0 = MatMul (x, wv)
            v = Add (v0, bv)
            q1 = Reshape (q, split)
            k1 = Reshape (k, split)
            v1 = Reshape (v, split)
            q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
            k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
            v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
            s = MatMul (q2, k2)
            ss = Mul (s, scale)
            p = Softmax <axis = -1> (ss)
            o = MatMul (p, v2)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            o2 = Reshape (o1, merge)
            a = MatMul (o2, wo)
            h = Add (a, x)
            u = MatMul (h, up)
            g = Gelu (u)
            d = MatMul (g, down)
            y = Add (d, h)
        }"
    ));
}

#[test]
fn what_operators_state_of_heads_and_hidden_units() {
    insta::assert_snapshot!(check(
        "g (float[N,S,16] x) => (float[N,S,16] y, float[S,1,N,6] h)
        <float[16,48] w, float[48] b, float[16,16] wo, float[1,24,16] wi, float[1,24,6] wr, float[6,6] out> {
            a = com.microsoft.Attention <num_heads = 4> (x, w, b)
            o = MatMul (a, wo)
            y = Add (o, x)
            t = Transpose <perm = [1, 0, 2]> (x)
            l = LSTM <hidden_size = 6> (t, wi, wr)
            h = MatMul (l, out)
        }"
    ));
}

#[test]
fn sizes_that_the_graph_puts_together_are_written_down_anew() {
    let model = parse(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,5] y)
        <float[3,8] w, float[8,5] v, int64[1] minus = {-1}, int64[1] eight = {8}> {
            a = MatMul (x, w)
            t = Concat <axis = 0> (minus, eight)
            b = Reshape (a, t)
            y = MatMul (b, v)
        }"#,
    );
    let facts = infer::infer(&model, &infer::Bindings::new());
    let classes = classes(&model, &facts);
    let units = prunable(&model, &facts, &classes, &infer::Bindings::from([("N".into(), 1)]));
    assert_eq!(units.free.len(), 1);
    // The sum of constants is known, so it is written down anew.
    let removed = [(units.free[0].class, [0, 7].into())].into();
    let patches = cut(&model, &facts, &classes, &removed, &Refit::default()).unwrap();
    let mut after = model.clone();
    patches.into_iter().for_each(|(path, patch)| drop(after.apply(&path, patch).unwrap()));
    assert!(text::print(&after).contains("{-1, 6}"), "{}", text::print(&after));
}

#[test]
fn packed_weights_are_refused_and_not_cut_between_bytes() {
    let model = parse(
        r#"<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3] x) => (float[N,5] y)
        <float[3,4] w, int4[4,5] v, float scale = {0.1}> {
            a = MatMul (x, w)
            d = DequantizeLinear (v, scale)
            y = MatMul (a, d)
        }"#,
    );
    let facts = infer::infer(&model, &infer::Bindings::new());
    let classes = classes(&model, &facts);
    let units = prunable(&model, &facts, &classes, &infer::Bindings::from([("N".into(), 1)]));
    let removed = [(units.free[0].class, [1, 3].into())].into();
    let error = cut(&model, &facts, &classes, &removed, &Refit::default()).unwrap_err();
    insta::assert_snapshot!(error);
}
