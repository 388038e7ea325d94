//! Spellings of operators, and classes of small models.

use super::*;
use crate::{Model, infer, infer::Bindings, text};

/// The model of some inputs, weights and nodes; the last argument names its outputs.
fn model(opset: i64, inputs: &str, weights: &str, nodes: &str, outputs: &str) -> Model {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}"#
    );
    text::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

/// The spelling of each node.
fn spell(opset: i64, inputs: &str, weights: &str, nodes: &str) -> String {
    let m = model(opset, inputs, weights, nodes, "");
    let inferred = infer::infer(&m, &Bindings::new());
    assert_eq!(inferred.contradictions(), []);
    let facts = inferred.graph();
    let mut text = String::new();
    for (_, node) in m.graph.nodes() {
        let fact = |v: &Option<crate::ValueId>| v.map_or(&infer::Fact::UNKNOWN, |v| facts.fact(v));
        let call = infer::call(node, &m.opsets, node.inputs().iter().map(fact).collect(), Vec::new()).unwrap();
        let outputs: Vec<infer::Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
        text += &format!("{}: {}\n", node.op.name, Axes::of(&call, &outputs));
    }
    text
}

/// The classes of a model, without the ones that only inputs and outputs are in.
fn show(m: &Model) -> String {
    let inferred = infer::infer(m, &Bindings::new());
    assert_eq!(inferred.contradictions(), []);
    let classes = classes(m, &inferred);
    let has_weight =
        |c: &Class| c.members.iter().any(|m2| m.graph_at(&m2.graph).is_some_and(|g| g.constant(m2.value).is_some()));
    classes.show(m, has_weight)
}

#[test]
fn products_and_convolutions() {
    insta::assert_snapshot!(spell(17, "float[N,4,8,8] x, float[N,6] m, float[6] v, float[B,3,N,6] t", "
        float[10,2,3,3] grouped, float[10] bias, float[4,1,3,3] depthwise, float[5,4,1,1] pointwise, float[4,3,2,2] transposed,
        float[10,6] g, float[10] gb, float[6,7] mw, float[3,6,7] tw", "
        a = Conv <group = 2> (x, grouped, bias)
        b = Conv <group = 4> (x, depthwise)
        c = Conv (x, pointwise)
        d = ConvTranspose <group = 2> (x, transposed)
        e = Gemm <transB = 1> (m, g, gb)
        f = MatMul (m, mw)
        h = MatMul (v, mw)
        i = MatMul (t, tw)
        j = MatMul (t, v)
    "), @"
    Conv: 0[a,b*c+,d!,e!] 1[b*f,c+,g!,h!] 2[b*f] -> 0[a,b*f,i!,j!]
    Conv: 0[a,b,c!,d!] 1[b,1,e!,f!] -> 0[a,b,g!,h!]
    Conv: 0[a,b+,c,d] 1[e,b+,1,1] -> 0[a,e,c,d]
    ConvTranspose: 0[a,b*c+,d!,e!] 1[b*c+,f,g!,h!] -> 0[a,b*f,i!,j!]
    Gemm: 0[a,b+] 1[c,b+] 2[c] -> 0[a,c]
    MatMul: 0[a,b+] 1[b+,c] -> 0[a,c]
    MatMul: 0[a+] 1[a+,b] -> 0[b]
    MatMul: 0[a,b,c,d+] 1[b,d+,e] -> 0[a,b,c,e]
    MatMul: 0[a,b,c,d+] 1[d+] -> 0[a,b,c]
    ");
}

#[test]
fn moves() {
    insta::assert_snapshot!(spell(17, "float[B,S,12] x, float[N,4,7,7] f, float[6,4,5] u, float[B,S,5] z", "
        int64[4] heads = {0, 0, 3, 4}, int64[3] odd = {2, 4, 15}, int64[2] worse = {8, 15}, int64[1] one = {1}, int64[2] two = {4, 8}", "
        a = Reshape (x, heads)
        b = Transpose <perm = [0, 2, 1, 3]> (a)
        c = Flatten (f)
        d = Reshape (u, odd)
        e = Reshape (u, worse)
        g = Unsqueeze (x, one)
        h = Squeeze (g, one)
        i = Concat <axis = -1> (x, z)
        j, k = Split <axis = 2> (x, two)
    "), @"
    Reshape: 0[a,b,c*d] 1[e!] -> 0[a,b,c,d]
    Transpose: 0[a,b,c,d] -> 0[a,c,b,d]
    Flatten: 0[a,b,c,d] -> 0[a,b*c*d]
    Reshape: 0[a*b!,c!,d] 1[e!] -> 0[a,f!,g!*d]
    Reshape: 0[a!,b!,c] 1[d!] -> 0[e!,f!*c]
    Unsqueeze: 0[a,b,c] 1[1] -> 0[a,1,b,c]
    Squeeze: 0[a,1,b,c] 1[1] -> 0[a,b,c]
    Concat: 0[a,b,c] 1[a,b,d] -> 0[a,b,c|d]
    Split: 0[a,b,c|d] 1[e!] -> 0[a,b,c] 1[a,b,d]
    ");
}

#[test]
fn elementwise_and_norms() {
    insta::assert_snapshot!(spell(18, "float[N,4,8,8] x, float[N,M,6] t, float[?,6] u", "
        float[4,1,1] s, float[4] c, float[2] g, float[6] l", "
        a = Mul (x, s)
        b = Relu (x)
        d = BatchNormalization (x, c, c, c, c)
        e = GroupNormalization <num_groups = 2> (x, g, g)
        f = InstanceNormalization (x, c, c)
        h, mean, dev = LayerNormalization <axis = -1> (t, l, l)
        i = Softmax <axis = 1> (t)
        j = Add (t, u)
        k = GlobalAveragePool (x)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    "), @"
    Mul: 0[a,b,c,d] 1[b,1,1] -> 0[a,b,c,d]
    Relu: 0[a,b,c,d] -> 0[a,b,c,d]
    BatchNormalization: 0[a,b,c,d] 1[b] 2[b] 3[b] 4[b] -> 0[a,b,c,d]
    GroupNormalization: 0[a,b*c~,d~,e~] 1[b] 2[b] -> 0[a,b*c~,d~,e~]
    InstanceNormalization: 0[a,b,c~,d~] 1[b] 2[b] -> 0[a,b,c~,d~]
    LayerNormalization: 0[a,b,c~] 1[c~] 2[c~] -> 0[a,b,c~] 1[a,b,1] 2[a,b,1]
    Softmax: 0[a,b~,c] -> 0[a,b~,c]
    Add: 0[a,b!,c] 1[d!,c] -> 0[a,e!,c]
    GlobalAveragePool: 0[a,b,c~,d~] -> 0[a,b,1,1]
    MaxPool: 0[a,b,c!,d!] -> 0[a,b,e!,f!]
    ");
}

#[test]
fn a_residual_block_is_one_class() {
    insta::assert_snapshot!(show(&model(17, "float[N,3,8,8] x", "
        float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[8,16,1,1] w2, float[16,8,1,1] w3, float[5,16,1,1] w4", "
        a = Conv <pads = [1,1,1,1]> (x, w0, b0)
        b = Relu (a)
        c = Conv <pads = [1,1,1,1]> (b, w1)
        d = Add (b, c)
        e = Conv (d, w2)
        f = Relu (e)
        g = Conv (f, w3)
        h = Add (g, d)
        y = Conv (h, w4)", "float[N,5,8,8] y")), @r#"
    3: x@1, w0@1; summed by "a"; blocked by input "x"
    16: w0@0, b0@0, w1@0, w1@1, w2@1, w3@0, w4@1, a@1, b@1, c@1, d@1, g@1, h@1; summed by "c", "e", "y"
    3: w0@2; blocked by "a" (a window slides along it)
    3: w0@3; blocked by "a" (a window slides along it)
    3: w1@2; blocked by "c" (a window slides along it)
    3: w1@3; blocked by "c" (a window slides along it)
    8: w2@0, w3@1, e@1, f@1; summed by "g"
    5: w4@0, y@1; blocked by output "y"
    "#);
}
