//! How each operator spells its axes.

use super::spell;

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
fn reductions_and_cuts() {
    insta::assert_snapshot!(spell(18, "float[N,6,8] x, float[M,16] s, float[N,4,H,W] f", "
        int64[1] last = {-1}, int64[1] from = {2}, int64[1] to = {5}, int64[1] one = {1}, int64[1] end = {9223372036854775807}, int64[1] two = {2},
        int64[6] pads = {0, 1, 0, 0, 2, 0}, int64[3] target = {5, 1, 1}, int64[3] repeats = {1, 2, 3}, int64[3] b = {2, 2, 2}", "
        a = ReduceSum <keepdims = 0> (x, last)
        b1 = ReduceMean (x, last)
        c = ArgMax <axis = 1, keepdims = 0> (x)
        d = Slice (x, from, to, one)
        e = Slice (s, one, end, one, two)
        f1 = Slice (x, one, end, last)
        g1 = Pad (x, pads)
        h = Tile (x, repeats)
        i = CumSum (x, last)
        j, k = TopK <axis = 1> (x, two)
        l = Shape <start = 1> (x)
        m = DepthToSpace <blocksize = 2> (f)
        n = DepthToSpace <blocksize = 2, mode = \"CRD\"> (f)
        o = SpaceToDepth <blocksize = 2> (f)
    "), @"
    ReduceSum: 0[a,b,c+] 1[1] -> 0[a,b]
    ReduceMean: 0[a,b,c~] 1[1] -> 0[a,b,1]
    ArgMax: 0[a,b!,c] -> 0[a,c]
    Slice: 0[a,b|c|1,d] 1[1] 2[1] 3[1] -> 0[a,c,d]
    Slice: 0[a,b!] 1[1] 2[1] 3[1] 4[1] -> 0[a,c!]
    Slice: 0[a,b,1|c] 1[1] 2[1] 3[1] -> 0[a,b,c]
    Pad: 0[a,b,c] 1[d!] -> 0[a,1|b|e,c]
    Tile: 0[a,b,c] 1[d!] -> 0[a,e*b,f*c]
    CumSum: 0[a,b,c~] 1[1] -> 0[a,b,c~]
    TopK: 0[a,b!,c] 1[1] -> 0[a,d!,c] 1[a,d!,c]
    Shape: 0[a,b~,c~] -> 0[d!]
    DepthToSpace: 0[a,b*c,d,e] -> 0[a,1,d*b,e*c]
    DepthToSpace: 0[a,b*c,d,e] -> 0[a,1,d*b,e*c]
    SpaceToDepth: 0[a,b,c*d,e*f] -> 0[a,d*f*b,c,e]
    ");
}

#[test]
fn indices() {
    insta::assert_snapshot!(spell(18, "int64[B,S] ids, float[N,6,8] x, int64[3,2] nd, float[3,8] rows, int64[N,6,2] el, float[N,6,2] up, int64[B] hot", "
        float[100,16] table, float[7,6,8] data, int64 first = {0}, int64 depth = {5}, float[2] values, float[1,1,8] e, int64[3] target = {5, 6, 8}", "
        a = Gather (table, ids)
        b = Gather <axis = 1> (x, first)
        c = GatherND (data, nd)
        d = GatherElements <axis = 2> (x, el)
        f = ScatterND (data, nd, rows)
        g = ScatterElements <axis = 2> (x, el, up)
        h = OneHot (hot, depth, values)
        i = Expand (e, target)
    "), @"
    Gather: 0[a!,b] 1[c,d] -> 0[c,d,b]
    Gather: 0[a,b!,c] -> 0[a,c]
    GatherND: 0[a!,b!,c] 1[d,e!] -> 0[d,c]
    GatherElements: 0[a,b,c!] 1[a,b,d] -> 0[a,b,d]
    ScatterND: 0[a!,b!,c] 1[d,e!] 2[d,c] -> 0[a!,b!,c]
    ScatterElements: 0[a,b,c!] 1[a,b,d] 2[a,b,d] -> 0[a,b,c!]
    OneHot: 0[a] 2[b!] -> 0[a,c!]
    Expand: 0[1,1,a] 1[b!] -> 0[c,d,a]
    ");
}

#[test]
fn equations() {
    insta::assert_snapshot!(spell(18, "float[B,H,S,D] q, float[B,H,T,D] k, float[B,S,6] x", "float[6,7] w", "
        a = Einsum <equation = \"bhsd,bhtd->bhst\"> (q, k)
        b = Einsum <equation = \"...i,io->...o\"> (x, w)
        c = Einsum <equation = \"bsi->bs\"> (x)
        d = Einsum <equation = \"bsi,io\"> (x, w)
    "), @"
    Einsum: 0[a,b,c,d+] 1[a,b,e,d+] -> 0[a,b,c,e]
    Einsum: 0[a,b,c+] 1[c+,d] -> 0[a,b,d]
    Einsum: 0[a,b,c+] -> 0[a,b]
    Einsum: 0[a!,b!,c!] 1[d!,e!] -> 0[f!,g!,h!]
    ");
}

#[test]
fn recurrent_cells() {
    insta::assert_snapshot!(spell(18, "float[T,N,6] x, float[N,T,6] y", "
        float[2,12,6] w, float[2,12,4] r, float[2,24] b, float[1,16,6] lw, float[1,16,4] lr, float[1,12] p, float[1,3,6] nw, float[1,3,3] nr", "
        a, c = GRU <hidden_size = 4, direction = \"bidirectional\"> (x, w, r, b)
        d, e, f = LSTM <hidden_size = 4> (x, lw, lr, , , , , p)
        g, h = RNN <hidden_size = 3, layout = 1> (y, nw, nr)
    "), @"
    GRU: 0[a~,b,c+] 1[d!,e!*f+,c+] 2[d!,e!*f+,f+] 3[d!,g!*e!*f+] -> 0[a~,d!,b,f+] 1[d!,b,f+]
    LSTM: 0[a~,b,c+] 1[1,d!*e+,c+] 2[1,d!*e+,e+] 7[1,f!*e+] -> 0[a~,1,b,e+] 1[1,b,e+] 2[1,b,e+]
    RNN: 0[a,b~,c+] 1[1,d+,c+] 2[1,d+,d+] -> 0[a,b~,1,d+] 1[a,1,d+]
    ");
}

#[test]
fn attention() {
    insta::assert_snapshot!(spell(24, "float[B,S,32] q, float[B,T,16] k, float[B,8,S,4] q4, float[B,4,P,4] past, float[B,4,S,4] k4, float[S,T] mask, float[B,S,64] h", "
        float[64,96] w, float[96] wb, float[100,2] cos", "
        a = Attention <q_num_heads = 8, kv_num_heads = 4> (q, k, k)
        b, c, d = Attention (q4, k4, k4, , past, past)
        e = RotaryEmbedding (q4, cos, cos)
        f = RotaryEmbedding <interleaved = 1, num_heads = 8> (q, cos, cos)
        g = com.microsoft.Attention <num_heads = 8> (h, w, wb)
    "), @"
    Attention: 0[a,b,c*d*e+] 1[a,f~,c*e+] 2[a,f~,c*g] -> 0[a,b,c*d*g]
    Attention: 0[a,b*c,d,e+] 1[a,b,f~,e+] 2[a,b,f~,g] 4[a,b,h~,e+] 5[a,b,h~,g] -> 0[a,b*c,d,g] 1[a,b,h~|f~,e+] 2[a,b,h~|f~,g]
    RotaryEmbedding: 0[a,b,c,d!*e] 1[f!,e] 2[g!,e] -> 0[a,b,c,d!*e]
    RotaryEmbedding: 0[a,b,c*d*e!] 1[f!,d] 2[g!,d] -> 0[a,b,c*d*e!]
    Attention: 0[a,b~,c+] 1[c+,d*e+|d*e+|d*f] 2[d*e+|d*e+|d*f] -> 0[a,b~,d*f]
    ");
}

#[test]
fn quantized() {
    insta::assert_snapshot!(spell(21, "float[N,64] x", "
        int8[16,64] w, float[16] s, int8[16] z, int8[16,64] wb, float[16,2] sb, uint8[16,2,16] n, float[32] ns, uint8[16] nz", "
        a = DequantizeLinear <axis = 0> (w, s, z)
        b = DequantizeLinear <axis = 1, block_size = 32> (wb, sb)
        c, d, e = DynamicQuantizeLinear (x)
        f = com.microsoft.MatMulNBits <K = 64, N = 16, bits = 4, block_size = 32> (x, n, ns, nz)
    "), @"
    DequantizeLinear: 0[a,b] 1[a] 2[a] -> 0[a,b]
    DequantizeLinear: 0[a,b*c] 1[a,b] -> 0[a,b*c]
    DynamicQuantizeLinear: 0[a~,b~] -> 0[a~,b~]
    MatMulNBits: 0[a,b!*c!] 1[d!,b!,e!] 2[d!*b!] 3[f!] -> 0[a,d!]
    ");
}

#[test]
fn quantized_operands() {
    insta::assert_snapshot!(spell(17, "uint8[N,4,8] x, uint8[N,2,8] y, bool[N,1,8] c, uint8[N,8,8,3] h", "float s, uint8 z, uint8[4,1] p", "
        a = com.microsoft.QLinearAdd (x, s, z, p, s, z, s, z)
        b = com.microsoft.QLinearMul (x, s, z, p, s, z, s)
        d = com.microsoft.QLinearSigmoid (x, s, z, s, z)
        e = com.microsoft.QLinearLeakyRelu <alpha = 0.1> (x, s, z, s, z)
        f = com.microsoft.QLinearSoftmax <axis = 2, opset = 13> (x, s, z, s, z)
        g = com.microsoft.QLinearSoftmax <axis = 1, opset = 12> (x, s, z, s, z)
        i = com.microsoft.QLinearWhere (c, x, s, z, p, s, z, s, z)
        j = com.microsoft.QLinearConcat <axis = 1> (s, z, x, s, z, y, s, z)
        k = com.microsoft.QLinearAveragePool <kernel_shape = [2]> (x, s, z, s, z)
        l = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2], channels_last = 1> (h, s, z, s, z)
        m = com.microsoft.QLinearGlobalAveragePool (x, s, z, s, z)
        n = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (h, s, z, s, z)
    "), @"
    QLinearAdd: 0[a,b,c] 3[b,1] -> 0[a,b,c]
    QLinearMul: 0[a,b,c] 3[b,1] -> 0[a,b,c]
    QLinearSigmoid: 0[a,b,c] -> 0[a,b,c]
    QLinearLeakyRelu: 0[a,b,c] -> 0[a,b,c]
    QLinearSoftmax: 0[a,b,c~] -> 0[a,b,c~]
    QLinearSoftmax: 0[a,b~,c~] -> 0[a,b~,c~]
    QLinearWhere: 0[a,1,b] 1[a,c,b] 4[c,1] -> 0[a,c,b]
    QLinearConcat: 2[a,b,c] 5[a,d,c] -> 0[a,b|d,c]
    QLinearAveragePool: 0[a,b,c!] -> 0[a,b,d!]
    QLinearAveragePool: 0[a,b!,c!,d] -> 0[a,e!,f!,d]
    QLinearGlobalAveragePool: 0[a,b,c~] -> 0[a,b,1]
    QLinearGlobalAveragePool: 0[a,b~,c~,d] -> 0[a,1,1,d]
    ");
}

#[test]
fn quantized_products() {
    insta::assert_snapshot!(spell(17, "uint8[N,4,9] x, uint8[7,9] m, float[N,4,9] f, uint8[N,8,6,6] i, uint8[B,S,12] q, int64[B,S] j", "
        float s, uint8 z, uint8[9,5] w, float[5] ws, uint8[5] wz, float[5] bias, int32[5] c, uint8[5,9] t, uint8[6,4,3,3] k, float[6] ks, uint8[6] kz, int32[6] kc,
        float[9] scale, uint8[30] packed, uint8[12,24] qw, float[24] qb, uint4[5,3,64] table, float[5,3,2] ts", "
        a = com.microsoft.MatMulIntegerToFloat (x, w, s, ws, z, wz, bias)
        b = com.microsoft.DynamicQuantizeMatMul (f, w, ws, wz, bias)
        d = com.microsoft.QGemm <transB = 1> (m, s, z, t, ws, wz, c, s, z)
        e = com.microsoft.FusedGemm <activation = \"Relu\"> (m, w, bias)
        g = com.microsoft.FusedMatMul <transA = 1> (f, f)
        h = com.microsoft.QLinearConv <group = 2> (i, s, z, k, ks, kz, s, z, kc)
        l = com.microsoft.DequantizeLinear <axis = 2> (x, scale)
        n = com.microsoft.MatMulBnb4 <K = 9, N = 5, block_size = 16, quant_type = 1> (f, packed, s)
        o = com.microsoft.QAttention <num_heads = 2> (q, qw, qb, s, s, , z, z)
        p = com.microsoft.GatherBlockQuantized <block_size = 32, quantize_axis = 2> (table, j, ts)
    "), @"
    MatMulIntegerToFloat: 0[a,b,c+] 1[c+,d] 3[d] 5[d] 6[d] -> 0[a,b,d]
    DynamicQuantizeMatMul: 0[a~,b~,c~] 1[c~,d] 2[d] 3[d] 4[d] -> 0[a~,b~,d]
    QGemm: 0[a,b+] 3[c,b+] 4[c] 5[c] 6[c] -> 0[a,c]
    FusedGemm: 0[a,b+] 1[b+,c] 2[c] -> 0[a,c]
    FusedMatMul: 0[a,b+,c] 1[a,b+,d] -> 0[a,c,d]
    QLinearConv: 0[a,b*c+,d!,e!] 3[b*f,c+,g!,h!] 4[b*f] 5[b*f] 8[b*f] -> 0[a,b*f,i!,j!]
    DequantizeLinear: 0[a,b,c] 1[c] -> 0[a,b,c]
    MatMulBnb4: 0[a,b,c!] 1[d!] -> 0[a,b,e!]
    QAttention: 0[a,b~,c+] 1[c+,d*e+|d*e+|d*f] 2[d*e+|d*e+|d*f] -> 0[a,b~,d*f]
    GatherBlockQuantized: 0[a!,b,c!] 1[d,e] 2[a!,b,f!] -> 0[d,e,b,g!]
    ");
}

#[test]
fn what_is_not_known_stays_whole() {
    insta::assert_snapshot!(spell(18, "float[N,4,8] x, float[] r, int64[3] t", "float[4] s", "
        a = Reshape (x, t)
        b = Relu (r)
        c = NonZero (x)
        d = Add (x, r)
    "), @"
    Reshape: 0[a!,b!,c!] 1[d!] -> 0[e!,f!,g!]
    Relu: 
    NonZero: 0[a!,b!,c!] -> 0[d!,e!]
    Add: 0[a!,b!,c!]
    ");
}
