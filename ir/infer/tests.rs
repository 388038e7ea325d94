//! The rules, family by family, on small models.

use super::{
    Bindings, annotate, infer, node_types,
    testing::{Draft, add},
};
use crate::{Attr, Attrs, DType, Def, Dim, Graph, GraphPath, Model, Numerics, OpName, Patch, Tensor, Type, ValueId};

/// Types of the outputs of one node on float inputs of the given shapes.
fn on(opset: i64, op: &str, shapes: &[&[&str]], attrs: Attrs) -> String {
    let mut d = Draft::new(opset);
    let inputs: Vec<ValueId> = shapes.iter().enumerate().map(|(i, s)| d.input(&format!("x{i}"), s)).collect();
    let y = d.node(op, &inputs, attrs);
    d.ty(y)
}

/// The same, with int64 vectors as further inputs.
fn with_ints(opset: i64, op: &str, shape: &[&str], vectors: &[&[i64]], attrs: Attrs) -> String {
    let mut d = Draft::new(opset);
    let mut inputs = vec![d.input("x", shape)];
    inputs.extend(vectors.iter().map(|v| d.ints(v)).collect::<Vec<_>>());
    let y = d.node(op, &inputs, attrs);
    d.ty(y)
}

fn none() -> Attrs {
    Attrs::new()
}

#[test]
fn elementwise_operators_broadcast() {
    assert_eq!(on(17, "Add", &[&["N", "1", "3"], &["4", "1"]], none()), "float[N,4,3]");
    assert_eq!(on(17, "Mul", &[&["N"], &["N"]], none()), "float[N]");
    assert_eq!(on(17, "Mul", &[&["N"], &["M"]], none()), "float[?]");
    assert_eq!(on(17, "Less", &[&["N", "2"], &[]], none()), "bool[N,2]");
    assert_eq!(on(6, "Add", &[&["2", "3"], &["2"]], none().with("broadcast", 1)), "float[2,3]");
    assert_eq!(on(17, "Max", &[&["3", "1"], &["4"], &["2", "1", "1"]], none()), "float[2,3,4]");
    assert_eq!(on(17, "PRelu", &[&["1", "2"], &["2"]], none()), "float[1,2]");
    assert_eq!(on(17, "Relu", &[&["N", "?"]], none()), "float[N,x0.1]");
    assert_eq!(on(17, "IsNaN", &[&["N"]], none()), "bool[N]");
}

#[test]
fn products_unify_the_inner_axis() {
    assert_eq!(on(17, "MatMul", &[&["B", "S", "8"], &["8", "4"]], none()), "float[B,S,4]");
    assert_eq!(on(17, "MatMul", &[&["5", "1", "2", "8"], &["3", "8", "4"]], none()), "float[5,3,2,4]");
    assert_eq!(on(17, "MatMul", &[&["8"], &["3", "8", "4"]], none()), "float[3,4]");
    assert_eq!(on(17, "MatMul", &[&["8"], &["8"]], none()), "float");
    let transposed = none().with("transA", 1).with("transB", 1);
    assert_eq!(on(17, "Gemm", &[&["8", "N"], &["4", "8"]], transposed), "float[N,4]");
    let equation = |e: &str| none().with("equation", e);
    assert_eq!(
        on(17, "Einsum", &[&["B", "H", "S", "8"], &["B", "H", "T", "8"]], equation("bhid,bhjd->bhij")),
        "float[B,H,S,T]"
    );
    assert_eq!(on(17, "Einsum", &[&["2", "3", "4"], &["4", "5"]], equation("...i,ij")), "float[2,3,5]");
    assert_eq!(
        on(
            17,
            "com.microsoft::MatMulNBits",
            &[&["N", "32"], &["4", "2", "8"], &["8"]],
            none().with("K", 32).with("N", 4)
        ),
        "float[N,4]"
    );
}

#[test]
fn windows_slide() {
    let conv = |attrs: Attrs| on(17, "Conv", &[&["N", "3", "224", "W"], &["64", "3", "7", "7"]], attrs);
    let strided = none().with("strides", vec![2, 2]).with("pads", vec![3, 3, 3, 3]);
    assert_eq!(conv(strided), "float[N,64,112,floor((W + 1)/2)]");
    assert_eq!(conv(none()), "float[N,64,218,W - 6]");
    assert_eq!(conv(none().with("auto_pad", "SAME_UPPER")), "float[N,64,224,W]");
    assert_eq!(conv(none().with("dilations", vec![2, 2])), "float[N,64,212,W - 12]");
    let pool = none().with("kernel_shape", vec![3, 3]).with("strides", vec![2, 2]).with("ceil_mode", 1);
    assert_eq!(on(17, "MaxPool", &[&["1", "8", "112", "6"]], pool), "float[1,8,56,3]");
    // The last window would start behind the input.
    let padded =
        none().with("kernel_shape", vec![1]).with("strides", vec![2]).with("pads", vec![0, 1]).with("ceil_mode", 1);
    assert_eq!(on(17, "MaxPool", &[&["1", "1", "4"]], padded), "float[1,1,2]");
    let up = none().with("strides", vec![2, 2]).with("output_padding", vec![1, 0]).with("group", 2);
    assert_eq!(on(17, "ConvTranspose", &[&["N", "8", "H", "5"], &["8", "3", "3", "3"]], up), "float[N,6,2*H + 2,11]");
    assert_eq!(on(17, "GlobalAveragePool", &[&["N", "8", "H", "W"]], none()), "float[N,8,1,1]");
}

#[test]
fn shapes_are_rearranged() {
    assert_eq!(with_ints(17, "Reshape", &["N", "4", "6"], &[&[0, -1, 3]], none()), "float[N,8,3]");
    assert_eq!(with_ints(17, "Reshape", &["N", "4", "?"], &[&[-1, 0, 3]], none()), "float[floor((N*x.2)/3),4,3]");
    assert_eq!(with_ints(17, "Reshape", &["N", "?", "6"], &[&[-1, 0, 2]], none()), "float[3*N,x.1,2]");
    assert_eq!(with_ints(17, "Reshape", &["0", "4"], &[&[4, 0]], none().with("allowzero", 1)), "float[4,0]");
    assert_eq!(on(4, "Reshape", &[&["2", "3"]], none().with("shape", vec![3, -1])), "float[3,2]");
    assert_eq!(on(17, "Transpose", &[&["N", "2", "3"]], none()), "float[3,2,N]");
    assert_eq!(on(17, "Flatten", &[&["N", "2", "H"]], none()), "float[N,2*H]");
    assert_eq!(on(11, "Squeeze", &[&["1", "N", "1"]], none().with("axes", vec![-1])), "float[1,N]");
    assert_eq!(with_ints(13, "Unsqueeze", &["N"], &[&[0, -1]], none()), "float[1,N,1]");
    assert_eq!(with_ints(13, "Expand", &["N", "1"], &[&[2, 1, 5]], none()), "float[2,N,5]");
    assert_eq!(with_ints(13, "Tile", &["N", "3"], &[&[2, 2]], none()), "float[2*N,6]");
    assert_eq!(with_ints(13, "Pad", &["N", "3"], &[&[0, 1, 0, -2]], none()), "float[N,2]");
    assert_eq!(on(17, "Concat", &[&["N", "3"], &["?", "M"]], none().with("axis", -1)), "float[N,M + 3]");
    assert_eq!(on(17, "DepthToSpace", &[&["N", "8", "H", "3"]], none().with("blocksize", 2)), "float[N,2,2*H,6]");
    assert_eq!(
        on(9, "Slice", &[&["N", "9"]], none().with("starts", vec![1, 2]).with("ends", vec![i64::MAX, -1])),
        "float[max(0, N - 1),6]"
    );
    assert_eq!(with_ints(13, "Slice", &["N", "9"], &[&[8], &[-100], &[1], &[-2]], none()), "float[N,5]");
}

#[test]
fn elements_are_picked() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["V", "8"]);
    let i = d.input_of("i", DType::I64, &["B", "S"]);
    let rows = d.node("Gather", &[x, i], none());
    assert_eq!(d.ty(rows), "float[B,S,8]");
    let k = d.ints(&[3]);
    let top = d.nodes("TopK", &[Some(rows), Some(k)], none(), 2);
    assert_eq!((d.ty(top[0]), d.ty(top[1])), ("float[B,S,3]".into(), "int64[B,S,3]".into()));
    let best = d.node("ArgMax", &[rows], none().with("axis", -1).with("keepdims", 0));
    assert_eq!(d.ty(best), "int64[B,S]");
    let found = d.node("NonZero", &[rows], none());
    assert_eq!(d.ty(found), "int64[3,?]");
}

#[test]
fn parts_add_up_to_the_whole() {
    let mut d = Draft::new(18);
    let x = d.input("x", &["N", "7"]);
    let equal = d.nodes("Split", &[Some(x)], none().with("axis", 1).with("num_outputs", 2), 2);
    assert_eq!((d.ty(equal[0]), d.ty(equal[1])), ("float[N,4]".into(), "float[N,3]".into()));
    let sizes = d.ints(&[1, 5]);
    d.nodes("Split", &[Some(x), Some(sizes)], none().with("axis", 1), 2);
    assert_eq!(d.contradiction(), "its parts add up to 6, but axis 1 has size 7");
}

#[test]
fn reductions_and_normalizations() {
    assert_eq!(on(11, "ReduceMean", &[&["N", "C", "H"]], none().with("axes", vec![-1])), "float[N,C,1]");
    assert_eq!(with_ints(18, "ReduceMean", &["N", "C", "H"], &[&[1]], none().with("keepdims", 0)), "float[N,H]");
    assert_eq!(on(18, "ReduceMax", &[&["N", "C"]], none().with("keepdims", 0)), "float");
    assert_eq!(on(18, "ReduceMax", &[&["N", "C"]], none().with("noop_with_empty_axes", 1)), "float[N,C]");
    let mut d = Draft::new(17);
    let (x, w) = (d.input("x", &["N", "S", "8"]), d.weights(&[8]));
    let y = d.nodes("LayerNormalization", &[Some(x), Some(w)], none(), 3);
    assert_eq!((d.ty(y[0]), d.ty(y[1])), ("float[N,S,8]".into(), "float[N,S,1]".into()));
}

#[test]
fn quantized_types_come_from_the_zero_point() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["N", "3"]);
    let scale = d.constant(Tensor::scalar_f32(0.5));
    let zero = d.constant(Tensor::from_raw(DType::I8, [].as_slice(), bytes::Bytes::from_static(&[0])).unwrap());
    let q = d.node("QuantizeLinear", &[x, scale, zero], none());
    let back = d.node("DequantizeLinear", &[q, scale, zero], none());
    assert_eq!((d.ty(q), d.ty(back)), ("int8[N,3]".into(), "float[N,3]".into()));
}

#[test]
fn recurrent_outputs_have_directions() {
    let mut d = Draft::new(17);
    let (x, w, r) = (d.input("x", &["T", "B", "5"]), d.weights(&[2, 16, 5]), d.weights(&[2, 16, 4]));
    let y = d.nodes("LSTM", &[Some(x), Some(w), Some(r)], none().with("direction", "bidirectional"), 3);
    assert_eq!((d.ty(y[0]), d.ty(y[2])), ("float[T,2,B,4]".into(), "float[2,B,4]".into()));
}

#[test]
fn resizing_takes_sizes_or_scales() {
    let scales = |values: &[f32]| {
        let mut d = Draft::new(13);
        let x = d.input("x", &["N", "3", "H", "7"]);
        let s = d.constant(Tensor::from_f32([4].as_slice(), values).unwrap());
        let y = d.nodes("Resize", &[Some(x), None, Some(s)], none(), 1)[0];
        d.ty(y)
    };
    assert_eq!(scales(&[1.0, 1.0, 2.0, 1.5]), "float[N,3,2*H,10]");
    assert_eq!(scales(&[1.0, 1.0, 0.5, 0.3]), "float[N,3,floor((H)/2),2]");
}

/// `x.reshape(x.shape[0], -1, 4)`, `x[:, :, -1]`-like index arithmetic, and masks, as exporters write them.
#[test]
fn computed_shapes_are_followed() {
    let mut d = Draft::new(13);
    let x = d.input("x", &["batch", "seq", "32"]);
    let shape = d.node("Shape", &[x], none());
    let (zero, one, axis) = (d.int(0), d.int(1), d.ints(&[0]));
    let batch = d.node("Gather", &[shape, zero], none());
    let seq = d.node("Gather", &[shape, one], none());
    let (batch1, seq1) = (d.node("Unsqueeze", &[batch, axis], none()), d.node("Unsqueeze", &[seq, axis], none()));
    let (heads, size) = (d.ints(&[4]), d.ints(&[-1]));
    let target = d.node("Concat", &[batch1, seq1, heads, size], none().with("axis", 0));
    let split = d.node("Reshape", &[x, target], none());
    assert_eq!(d.ty(split), "float[batch,seq,4,8]");

    let two = d.int(2);
    let half = d.node("Div", &[seq, two], none());
    let steps = d.node("Range", &[zero, half, one], none());
    assert_eq!(d.ty(steps), "int64[floor((seq)/2)]");

    // Exporters replace -1 in the target of an Expand.
    let minus = d.ints(&[-1, -1, 5]);
    let wanted = d.node("Concat", &[batch1, seq1, heads], none().with("axis", 0));
    let same = d.node("Equal", &[wanted, minus], none());
    let chosen = d.node("Where", &[same, minus, wanted], none());
    let mask = d.node("ConstantOfShape", &[chosen], none());
    assert_eq!(d.ty(mask), "float[batch,seq,4]");
}

/// How torch writes the pads of `F.pad`.
#[test]
fn pads_are_followed_through_a_matrix() {
    let mut d = Draft::new(13);
    let x = d.input("x", &["N", "C", "H", "W"]);
    let (given, fill, rows) = (d.ints(&[1, 2, 3, 4]), d.ints(&[4]), d.ints(&[-1, 2]));
    let zeros = d.node("ConstantOfShape", &[fill], none().with("value", Tensor::ints(&[0])));
    let all = d.node("Concat", &[given, zeros], none().with("axis", 0));
    let pairs = d.node("Reshape", &[all, rows], none());
    let (from, to, axis, step) = (d.ints(&[-1]), d.ints(&[i64::MIN + 1]), d.ints(&[0]), d.ints(&[-1]));
    let flipped = d.node("Slice", &[pairs, from, to, axis, step], none());
    let turned = d.node("Transpose", &[flipped], none().with("perm", vec![1, 0]));
    let flat = d.ints(&[-1]);
    let pads = d.node("Reshape", &[turned, flat], none());
    let cast = d.node("Cast", &[pads], none().with("to", 7));
    let y = d.node("Pad", &[x, cast], none());
    assert_eq!(d.ty(y), "float[N,C,H + 7,W + 3]");
}

#[test]
fn ranges_of_floats_are_counted_as_runtimes_do() {
    let range = |start: f32, limit: f32, delta: f32| {
        let mut d = Draft::new(17);
        let slots = [start, limit, delta].map(|v| d.constant(Tensor::scalar_f32(v)));
        let y = d.node("Range", &slots, none());
        d.ty(y)
    };
    assert_eq!(range(0.0, 1.0, 0.25), "float[4]");
    assert_eq!(range(1.0, 0.0, 0.25), "float[0]");
    assert_eq!(range(0.0, f32::NAN, 1.0), "float[?]");
    assert_eq!(range(0.0, 1.0, 0.0), "float[?]");
}

#[test]
fn contradictions_name_the_node_and_do_not_stop_the_rest() {
    let mut d = Draft::new(17);
    let (a, b) = (d.input("a", &["2", "3"]), d.input("b", &["4", "5"]));
    let product = d.node("MatMul", &[a, b], none());
    let after = d.node("Shape", &[a], none());
    let inferred = infer(&d.model, &Bindings::new());
    assert_eq!(
        inferred.contradictions()[0].to_string(),
        "node making \"MatMul\" (MatMul): the inner sizes of [2,3] and [4,5] differ"
    );
    assert_eq!(inferred.ty(product), None);
    assert!(inferred.ty(after).is_some());
}

#[test]
fn names_are_bound_and_unnamed_sizes_are_addressed_by_place() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["N", "?", "4"]);
    let y = d.node("Flatten", &[x], none());
    let bindings = Bindings::from([("N".into(), 2), ("x.1".into(), 3)]);
    assert_eq!(infer(&d.model, &bindings).ty(y).unwrap().to_string(), "float[2,12]");
}

#[test]
fn declared_types_fill_gaps_but_their_names_are_no_evidence() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["N"]);
    let y = d.nodes("acme::Mystery", &[Some(x)], none(), 1)[0];
    d.model.graph.set_type(y, Type::tensor(DType::F32, [Dim::symbol("N"), Dim::Known(4)]));
    assert_eq!(d.ty(y), "float[?,4]");
    annotate(&mut d.model);
    assert_eq!(d.model.graph.ty(y).unwrap().to_string(), "float[N,4]");
}

#[test]
fn annotate_keeps_declared_names() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["2", "H"]);
    let y = d.node("Relu", &[x], none());
    let z = d.node("Relu", &[y], none());
    d.model.graph.set_type(y, Type::tensor(DType::F32, [Dim::symbol("batch"), Dim::Unknown]));
    annotate(&mut d.model);
    assert_eq!(d.model.graph.ty(y).unwrap().to_string(), "float[batch,H]");
    assert_eq!(d.model.graph.ty(z).unwrap().to_string(), "float[2,H]");
    let node = d.model.graph.producer(z).unwrap().0;
    assert_eq!(node_types(&d.model.graph, node, &d.model.opsets)[0].as_ref().unwrap().to_string(), "float[batch,H]");
}

/// A graph with inputs of unknown type, one node on them, and a capture in front if asked for.
fn body(inputs: usize, capture: bool, op: &str) -> Graph {
    let mut g = Graph::default();
    let mut operands: Vec<Option<ValueId>> =
        (0..inputs).map(|i| Some(g.add_input(format!("in{i}"), None, None))).collect();
    if capture {
        operands.insert(0, Some(g.add_value("outer".into(), None, Def::Captured(0))));
    }
    let y = add(&mut g, op, &operands, none(), &[], 1)[0];
    g.add_output(y);
    g
}

#[test]
fn branches_are_joined() {
    let mut d = Draft::new(17);
    let (c, x) = (d.input_of("c", DType::Bool, &[]), d.input("x", &["N", "3"]));
    let mut other = body(0, true, "Relu");
    let outer = other.value_named("outer").unwrap();
    let pooled = add(&mut other, "Transpose", &[Some(outer)], none(), &[], 1)[0];
    other.add_output(pooled);
    let mut first = body(0, true, "Relu");
    let out = first.outputs()[0];
    first.add_output(out);
    let attrs =
        none().with("then_branch", Attr::Graph(Box::new(first))).with("else_branch", Attr::Graph(Box::new(other)));
    let y = add(&mut d.model.graph, "If", &[Some(c)], attrs, &[x], 2);
    assert_eq!((d.ty(y[0]), d.ty(y[1])), ("float[N,3]".into(), "float[?,?]".into()));
    let inferred = infer(&d.model, &Bindings::new());
    let node = d.model.graph.producer(y[0]).unwrap().0;
    assert_eq!(inferred.graph().subgraph(node, 1).unwrap().ty(outer).unwrap().to_string(), "float[N,3]");
}

#[test]
fn loops_keep_element_types_and_scans_keep_shapes() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["T", "4"]);
    let trips = d.int(5);
    let mut g = Graph::default();
    let ids: Vec<ValueId> = (0..3).map(|i| g.add_input(format!("in{i}"), None, None)).collect();
    let y = add(&mut g, "Relu", &[Some(ids[2])], none(), &[], 1)[0];
    [ids[1], y, y].into_iter().for_each(|v| g.add_output(v));
    let attrs = none().with("body", Attr::Graph(Box::new(g)));
    let out = d.nodes("Loop", &[Some(trips), None, Some(x)], attrs, 2);
    assert_eq!((d.ty(out[0]), d.ty(out[1])), ("float[]".into(), "float[]".into()));

    let mut d = Draft::new(17);
    let (state, x) = (d.input("s", &["4"]), d.input("x", &["T", "4"]));
    let mut g = body(2, false, "Add");
    let sum = g.outputs()[0];
    g.add_output(sum);
    let attrs = none().with("body", Attr::Graph(Box::new(g))).with("num_scan_inputs", 1);
    let out = d.nodes("Scan", &[Some(state), Some(x)], attrs, 2);
    assert_eq!((d.ty(out[0]), d.ty(out[1])), ("float[4]".into(), "float[T,4]".into()));
}

#[test]
fn hostile_attributes_are_refused_or_ignored() {
    let refused = |op: &str, shape: &[&str], attrs: Attrs| {
        let mut d = Draft::new(9);
        let x = d.input("x", shape);
        d.node(op, &[x], attrs);
        !infer(&d.model, &Bindings::new()).contradictions().is_empty()
    };
    assert!(refused("Transpose", &["2", "3"], none().with("perm", vec![0, 0])));
    assert!(refused("Concat", &["2"], none().with("axis", i64::MIN)));
    assert!(refused("DepthToSpace", &["1", "4", "2", "2"], none().with("blocksize", 0)));
    assert!(refused("MaxPool", &["1", "1", "4"], none().with("kernel_shape", vec![1]).with("strides", vec![0])));
    let huge = none().with("kernel_shape", vec![i64::MAX]).with("pads", vec![i64::MAX, i64::MAX]);
    assert!(!refused("MaxPool", &["1", "1", "4"], huge));
    let blocks = none().with("blocksize", i64::MAX);
    assert!(!refused("SpaceToDepth", &["1", "4", "2", "2"], blocks));
    assert!(!refused("Unsqueeze", &["2"], none().with("axes", (0..5000).collect::<Vec<i64>>())));
}

#[test]
fn an_update_finds_what_inference_from_the_start_finds() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, bool c) => (float[?,?] y) <int64[2] shape = {-1, 8}, int64[2] other = {-1, 2}> {
            a = Relu (x)
            b = Reshape (a, shape)
            n = Shape (b)
            d = If (c) <
                then_branch = t () => (float[?,?] p) { p = Neg (b) },
                else_branch = e () => (float[?,?] q) { q = Abs (b) }
            >
            z = ConstantOfShape (n)
            y = Add (z, d)
        }"#;
    let mut model = crate::text::parse(text).unwrap();
    let mut known = infer(&model, &Bindings::new());
    let id = |m: &Model, name: &str| m.graph.value_named(name).unwrap();
    // Another target shape, so that everything after it changes; and a new node before.
    let mut patch = Patch::new(Numerics::Exact, "");
    let (a, b, other) = (id(&model, "a"), id(&model, "b"), id(&model, "other"));
    let reshape = model.graph.value(b).unwrap().producer().unwrap();
    let flat = patch.node(OpName::onnx("Flatten"), [Some(a.into())]).output("flat", None);
    patch.set_input(reshape, 0, Some(flat));
    patch.set_input(reshape, 1, Some(other.into()));
    let applied = model.apply(&GraphPath::main(), patch).unwrap();
    assert!(!applied.retyped);
    known.update(&model, &applied.touched);
    let fresh = infer(&model, &Bindings::new());
    for (v, value) in model.graph.values() {
        assert_eq!(known.graph().fact(v), fresh.graph().fact(v), "{}", value.name());
    }
    assert_eq!(known.ty(id(&model, "y")).unwrap().to_string(), "float[2*N,2]");
    let owner = model.graph.value(id(&model, "d")).unwrap().producer().unwrap();
    let inner = model.graph.node(owner).unwrap().attrs.graphs().next().unwrap().outputs()[0];
    assert_eq!(known.graph().subgraph(owner, 0).unwrap().ty(inner).unwrap().to_string(), "float[2*N,2]");
}

#[test]
fn a_known_condition_takes_a_branch() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["N", "3"]);
    let (yes, no) =
        (d.constant(Tensor::from_raw(DType::Bool, [].as_slice(), bytes::Bytes::from_static(&[1])).unwrap()), {
            let (size, zero) = (d.node("Size", &[x], none()), d.int(-1));
            d.node("Equal", &[size, zero], none())
        });
    for (condition, expected) in [(yes, "float[N,3]"), (no, "float[3,N]")] {
        let attrs = none()
            .with("then_branch", Attr::Graph(Box::new(body(0, true, "Relu"))))
            .with("else_branch", Attr::Graph(Box::new(body(0, true, "Transpose"))));
        let y = add(&mut d.model.graph, "If", &[Some(condition)], attrs, &[x], 1);
        assert_eq!(d.ty(y[0]), expected);
    }
}

/// `F.interpolate(x, scale_factor=(2, 0.5))` as exporters write it, on sizes that are not known.
#[test]
fn sizes_are_followed_through_floats() {
    let mut d = Draft::new(13);
    let x = d.input("x", &["N", "C", "H", "W"]);
    let shape = d.node("Shape", &[x], none());
    let scale = d.constant(Tensor::from_f32([2].as_slice(), &[2.0, 0.5]).unwrap());
    let [from, middle, to] = [0, 2, 4].map(|v| d.ints(&[v]));
    let spatial = d.node("Slice", &[shape, middle, to], none());
    let floats = d.node("Cast", &[spatial], none().with("to", 1));
    let scaled = d.node("Mul", &[floats, scale], none());
    let floor = d.node("Floor", &[scaled], none());
    let sizes = d.node("Cast", &[floor], none().with("to", 7));
    let kept = d.node("Slice", &[shape, from, middle], none());
    let target = d.node("Concat", &[kept, sizes], none().with("axis", 0));
    let y = d.nodes("Resize", &[Some(x), None, None, Some(target)], none(), 1)[0];
    assert_eq!(d.ty(y), "float[N,C,2*H,floor((W)/2)]");
}

#[test]
fn names_of_inputs_are_not_mistaken_for_those_of_inference() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["?v0.0", "min(2, N)", "max(2, N)", "floor((N)/2)", "M"]);
    assert_eq!(d.ty(x), "float[x.0,x.1,x.2,x.3,M]");
    let x = d.input("what?", &["?"]);
    assert_eq!(d.ty(x), "float[?]");
}

#[test]
fn declared_sizes_fill_what_data_decides() {
    let mut d = Draft::new(17);
    let x = d.input("x", &["N"]);
    let places = d.node("NonZero", &[x], none());
    let y = d.node("Neg", &[places], none());
    d.model.graph.set_type(y, Type::tensor(DType::I64, [Dim::Known(1), Dim::Known(7)]));
    assert_eq!((d.ty(places), d.ty(y)), ("int64[1,?]".into(), "int64[1,7]".into()));
}

#[test]
fn sizes_that_a_body_decides_have_no_name_outside() {
    let mut d = Draft::new(17);
    let (c, x) = (d.input_of("c", DType::Bool, &[]), d.input("x", &["N", "3"]));
    let branch = || Attr::Graph(Box::new(body(0, true, "NonZero")));
    let attrs = none().with("then_branch", branch()).with("else_branch", branch());
    let y = add(&mut d.model.graph, "If", &[Some(c)], attrs, &[x], 1)[0];
    assert_eq!(d.ty(y), "int64[2,?]");
    let inferred = infer(&d.model, &Bindings::new());
    let node = d.model.graph.producer(y).unwrap().0;
    for i in [0, 1] {
        let branch = d.model.graph.node(node).unwrap().attrs.graphs().nth(i).unwrap();
        let made = inferred.graph().subgraph(node, i).unwrap().fact(branch.outputs()[0]);
        assert!(made.shape().unwrap()[1].is_open());
        assert!(!made.shape().unwrap()[1].same(&inferred.shape(y).unwrap()[1]));
    }
}
