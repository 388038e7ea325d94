//! Shapes and types of quantized operators. What onnxruntime gives is compared by `tests/contrib.py`.

use crate::{
    infer::{self, Bindings},
    text,
};

/// Types of the outputs of the nodes.
fn types(inputs: &str, nodes: &str) -> String {
    let source = format!(
        r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g ({inputs}) => () <float s = {{0.5}}, uint8 z = {{128}}, int8 i = {{0}}> {{ {nodes} }}"#
    );
    let model = text::parse(&source).unwrap_or_else(|e| panic!("{e}"));
    let inferred = infer::infer(&model, &Bindings::new());
    let mut lines: Vec<String> = inferred.contradictions().iter().map(|c| format!("{c}\n")).collect();
    for (_, node) in model.graph.nodes() {
        let ty = |v: &crate::ValueId| inferred.ty(*v).map_or_else(|| "?".into(), |t| t.to_string());
        let outputs: Vec<String> = node.outputs().iter().flatten().map(ty).collect();
        lines.push(format!("{}: {}\n", node.op.name, outputs.join(", ")));
    }
    lines.concat()
}

#[test]
fn operands_with_scale_and_zero_point() {
    insta::assert_snapshot!(types("uint8[N,4,9] x, uint8[4,1] y, bool[N,1,9] c, uint8[N,2,9] w, uint8[N,8,10,3] h, uint8[4] r", "
        a = com.microsoft.QLinearAdd (x, s, z, y, s, z, s, z)
        b = com.microsoft.QLinearMul (y, s, z, x, s, z, s)
        d = com.microsoft.QLinearSigmoid (x, s, z, s, z)
        e = com.microsoft.QLinearLeakyRelu (x, s, z, s)
        f = com.microsoft.QLinearSoftmax <opset = 13> (x, s, z, s, z)
        g = com.microsoft.QLinearWhere (c, y, s, z, y, s, z, s, z)
        j = com.microsoft.QLinearConcat <axis = -2> (s, z, x, s, z, w, s, z)
        k = com.microsoft.QLinearAveragePool <kernel_shape = [2], strides = [2]> (x, s, z, s, z)
        l = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2], channels_last = 1> (h, s, z, s, z)
        m = com.microsoft.QLinearGlobalAveragePool (x, s, z, s, z)
        n = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (h, s, z, s, z)
        o = com.microsoft.QLinearAdd (x, s, z, w, s, z, s, z)
        p = com.microsoft.QLinearConcat <axis = 0> (s, z, x, s, z, w, s, z)
    "), @r#"
    node making "o" (com.microsoft::QLinearAdd): 4 and 2 do not broadcast in [N,4,9] and [N,2,9]
    node making "p" (com.microsoft::QLinearConcat): axis 1 of operand 1: the sizes 4 and 2 have to be equal
    QLinearAdd: uint8[N,4,9]
    QLinearMul: uint8[N,4,9]
    QLinearSigmoid: uint8[N,4,9]
    QLinearLeakyRelu: uint8[N,4,9]
    QLinearSoftmax: uint8[N,4,9]
    QLinearWhere: uint8[N,4,9]
    QLinearConcat: uint8[N,6,9]
    QLinearAveragePool: uint8[N,4,4]
    QLinearAveragePool: uint8[N,7,9,3]
    QLinearGlobalAveragePool: uint8[N,4,1]
    QLinearGlobalAveragePool: uint8[N,1,1,3]
    QLinearAdd: ?
    QLinearConcat: ?
    "#);
}

#[test]
fn products_and_convolutions() {
    insta::assert_snapshot!(types("uint8[N,4,9] x, uint8[9,5] w, float s0, uint8[7,9] m, uint8[5,9] t, int32[5] c, float[N,4,9] f, float[9,4] g, float[4,9] h, uint8[N,9,8,8] i, uint8[6,9,3,3] k, int8[6] kz, uint8[N,8,8,9] l", "
        a = com.microsoft.MatMulIntegerToFloat (x, w, s0, s, z, z)
        b = com.microsoft.DynamicQuantizeMatMul (f, w, s)
        d = com.microsoft.QGemm (m, s, z, w, s, z)
        e = com.microsoft.QGemm <transB = 1, alpha = 2.0> (m, s, z, t, s, z, c, s, z)
        j = com.microsoft.FusedGemm <transA = 1, transB = 1, activation = \"Relu\"> (g, h)
        n = com.microsoft.FusedMatMul <transB = 1> (f, f)
        o = com.microsoft.FusedMatMul <transA = 1, transBatchA = 1> (f, f)
        p = com.microsoft.QLinearConv <strides = [2, 2]> (i, s, z, k, s, z, s, z)
        q = com.microsoft.QLinearConv <channels_last = 1> (l, s, z, k, s, z, s, z)
        r = com.microsoft.QGemm (m, s, z, t, s, z)
    "), @r#"
    node making "r" (com.microsoft::QGemm): inner axis: the sizes 9 and 5 have to be equal
    MatMulIntegerToFloat: float[N,4,5]
    DynamicQuantizeMatMul: float[N,4,5]
    QGemm: float[7,5]
    QGemm: uint8[7,5]
    FusedGemm: float[4,4]
    FusedMatMul: float[N,4,4]
    FusedMatMul: float[4,9,9]
    QLinearConv: uint8[N,6,3,3]
    QLinearConv: uint8[N,6,6,6]
    QGemm: ?
    "#);
}

#[test]
fn other_quantized_operators() {
    insta::assert_snapshot!(types("float[N,4] f, uint8[5,64] u, uint4[5,64] v, int64[B,S] j, float16[5,2] hs, uint8[100] p, float[T,N,6] x, uint8[1,6,16] w, uint8[1,4,16] r, float[1] d, uint8[1] dz, uint8[B,S,12] q, uint8[12,24] qw, float[24] qb, float[2,B,2,P,4] past", "
        a = com.microsoft.QuantizeLinear (f, s, i)
        b = com.microsoft.DequantizeLinear (a, s, i)
        c = com.microsoft.GatherBlockQuantized <block_size = 32> (v, j, hs)
        e = com.microsoft.GatherBlockQuantized <block_size = 32, bits = 4> (u, j, hs)
        g = com.microsoft.GatherBlockQuantized <block_size = 32, bits = 8> (u, j, hs)
        h = com.microsoft.MatMulBnb4 <K = 4, N = 7, block_size = 16, quant_type = 1> (f, p, s)
        k, l, m = com.microsoft.DynamicQuantizeLSTM <hidden_size = 4> (x, w, r, , , , , , d, dz, d, dz)
        n, o = com.microsoft.QAttention <num_heads = 2> (q, qw, qb, s, s, , z, z, past)
    "), @"
    QuantizeLinear: int8[N,4]
    DequantizeLinear: float[N,4]
    GatherBlockQuantized: float16[B,S,64]
    GatherBlockQuantized: float16[B,S,128]
    GatherBlockQuantized: float16[B,S,64]
    MatMulBnb4: float[N,7]
    DynamicQuantizeLSTM: float[T,1,N,4], float[1,N,4], float[1,N,4]
    QAttention: float[B,S,8], float[2,B,2,S + P,4]
    ");
}
