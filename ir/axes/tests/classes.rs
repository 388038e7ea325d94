//! Classes of small models.

use super::{model, show};

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

#[test]
fn a_depthwise_chain_and_a_squeeze_and_excite_branch() {
    insta::assert_snapshot!(show(&model(17, "float[N,3,8,8] x", "
        float[16,3,1,1] w0, float[16,1,3,3] dw, float[4,16,1,1] down, float[16,4,1,1] up, float[5,16,1,1] w1, float[16] s, float[16] o, float[16] m, float[16] v", "
        a = Conv (x, w0)
        b = BatchNormalization (a, s, o, m, v)
        c = Conv <group = 16, pads = [1,1,1,1]> (b, dw)
        p = GlobalAveragePool (c)
        q = Conv (p, down)
        r = Relu (q)
        t = Conv (r, up)
        u = Sigmoid (t)
        e = Mul (c, u)
        y = Conv (e, w1)", "float[N,5,8,8] y")), @r#"
    3: x@1, w0@1; summed by "a"; blocked by input "x"
    16: w0@0, dw@0, down@1, up@0, w1@1, s@0, o@0, m@0, v@0, a@1, b@1, c@1, p@1, t@1, u@1, e@1; summed by "q", "y"
    3: dw@2; blocked by "c" (a window slides along it)
    3: dw@3; blocked by "c" (a window slides along it)
    4: down@0, up@1, q@1, r@1; summed by "t"
    5: w1@0, y@1; blocked by output "y"
    "#);
}

#[test]
fn concat_split_and_flatten_have_offsets_and_blocks() {
    insta::assert_snapshot!(show(&model(17, "float[N,3,4,4] x", "
        float[8,3,1,1] w0, float[4,3,1,1] w1, float[7,12,1,1] w2, float[6,6,1,1] w3, float[10,192] fc, float[10] bias, int64[2] cut = {6, 6}", "
        a = Conv (x, w0)
        b = Conv (x, w1)
        c = Concat <axis = 1> (a, b)
        d = Conv (c, w2)
        e, f = Split <axis = 1> (c, cut)
        g = Conv (e, w3)
        h = Concat <axis = 1> (g, f)
        i = Flatten (h)
        y = Gemm <transB = 1> (i, fc, bias)
        z = ReduceMean <keepdims = 0> (d)", "float[N,10] y, float z")), @r#"
    3: x@1, w0@1, w1@1; summed by "a", "b"; blocked by input "x"
    4: x@2, fc@1*4x12/16, a@2, b@2, c@2, e@2, f@2, g@2, h@2, i@1*4x12/16, d@2; summed by "y"; mixed by "z"; blocked by input "x"
    4: x@3, fc@1x48/4, a@3, b@3, c@3, e@3, f@3, g@3, h@3, i@1x48/4, d@3; summed by "y"; mixed by "z"; blocked by input "x"
    6: w0@0, w2@1, w3@1, a@1, c@1, e@1; summed by "g", "d"
    2: w0@0+6, w2@1+6, fc@1+96*16, a@1+6, c@1+6, f@1, h@1+6, i@1+96*16; summed by "y", "d"
    4: w1@0, w2@1+8, fc@1+128*16, b@1, c@1+8, f@1+2, h@1+8, i@1+128*16; summed by "y", "d"
    7: w2@0, d@1; mixed by "z"
    6: w3@0, fc@1*16, g@1, h@1, i@1*16; summed by "y"
    10: fc@0, bias@0, y@1; blocked by output "y"
    "#);
}

#[test]
fn heads_are_factors_of_the_projections() {
    insta::assert_snapshot!(show(&model(17, "float[B,S,32] x", "
        float[32,48] wqkv, float[48] bqkv, float[16,32] wo, int64[5] split = {0, 0, 3, 4, 4}, int64[3] merge = {0, 0, 16}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, float scale = {0.5}", "
        p = MatMul (x, wqkv)
        p1 = Add (p, bqkv)
        r = Reshape (p1, split)
        t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
        q = Gather (t, i0)
        k = Gather (t, i1)
        v = Gather (t, i2)
        kt = Transpose <perm = [0, 1, 3, 2]> (k)
        s = MatMul (q, kt)
        ss = Mul (s, scale)
        pr = Softmax <axis = -1> (ss)
        o = MatMul (pr, v)
        ot = Transpose <perm = [0, 2, 1, 3]> (o)
        m = Reshape (ot, merge)
        u = MatMul (m, wo)
        y = Add (u, x)", "float[B,S,32] y")), @r#"
    32: x@2, wqkv@0, wo@1, u@2, y@2; summed by "p"; blocked by input "x", output "y"
    3: wqkv@1*16, bqkv@0*16, p@2*16, p1@2*16, r@2, t@0; blocked by "q" (indices address it), "k" (indices address it), "v" (indices address it)
    4: wqkv@1*4x3/16, bqkv@0*4x3/16, wo@0*4, p@2*4x3/16, p1@2*4x3/16, r@3, t@2, q@1, k@1, kt@1, s@1, ss@1, pr@1, v@1, o@1, ot@2, m@2*4; summed by "u"
    4: wqkv@1x12/4, bqkv@0x12/4, wo@0x4/4, p@2x12/4, p1@2x12/4, r@4, t@4, q@3, k@3, kt@2, v@3, o@3, ot@3, m@2x4/4; summed by "s", "u"
    "#);
}

#[test]
fn grouped_queries_share_keys_and_values() {
    insta::assert_snapshot!(show(&model(17, "float[B,S,32] x", "
        float[32,32] wq, float[32,16] wk, float[32,16] wv, float[32,32] wo, int64[4] hq = {0, 0, 8, 4}, int64[4] hk = {0, 0, 4, 4}, int64[1] two = {2},
        int64[5] wide = {1, 1, 2, 1, 1}, int64[4] joined = {0, 8, -1, 4}, int64[3] merge = {0, 0, 32}", "
        q = MatMul (x, wq)
        q1 = Reshape (q, hq)
        q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
        k = MatMul (x, wk)
        k1 = Reshape (k, hk)
        k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
        k3 = Unsqueeze (k2, two)
        k4 = Expand (k3, wide)
        k5 = Reshape (k4, joined)
        k6 = Transpose <perm = [0, 1, 3, 2]> (k5)
        v = MatMul (x, wv)
        v1 = Reshape (v, hk)
        v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
        v3 = Unsqueeze (v2, two)
        v4 = Expand (v3, wide)
        v5 = Reshape (v4, joined)
        s = MatMul (q2, k6)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, v5)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o)
        o2 = Reshape (o1, merge)
        y = MatMul (o2, wo)", "float[B,S,32] y")), @r#"
    32: x@2, wq@0, wk@0, wv@0; summed by "q", "k", "v"; blocked by input "x"
    4: wq@1*8, wk@1*4, wv@1*4, wo@0*8, q@2*8, q1@2*2, q2@1*2, k@2*4, k1@2, k2@1, k3@1, k4@1, k5@1*2, k6@1*2, s@1*2, p@1*2, v@2*4, v1@2, v2@1, v3@1, v4@1, v5@1*2, o@1*2, o1@2*2, o2@2*8; summed by "y"
    2: wq@1*4x4/8, wo@0*4x4/8, q@2*4x4/8, q1@2x4/2, q2@1x4/2, k4@2, k5@1x4/2, k6@1x4/2, s@1x4/2, p@1x4/2, v4@2, v5@1x4/2, o@1x4/2, o1@2x4/2, o2@2*4x4/8; summed by "y"
    4: wq@1x8/4, wk@1x4/4, q@2x8/4, q1@3, q2@3, k@2x4/4, k1@3, k2@3, k3@4, k4@4, k5@3, k6@2; summed by "s"
    4: wv@1x4/4, wo@0x8/4, v@2x4/4, v1@3, v2@3, v3@4, v4@4, v5@3, o@3, o1@3, o2@2x8/4; summed by "y"
    32: wo@1, y@2; blocked by output "y"
    "#);
}

#[test]
fn a_gated_feed_forward_with_tied_weights() {
    insta::assert_snapshot!(show(&model(17, "int64[B,S] ids", "
        float[100,32] table, float[32] g, float[32,96] up, float[48,32] down, int64[2] halves = {48, 48}", "
        x = Gather (table, ids)
        n = LayerNormalization (x, g)
        u = MatMul (n, up)
        a, b = Split <axis = -1> (u, halves)
        s = Sigmoid (a)
        f = Mul (s, b)
        d = MatMul (f, down)
        r = Add (x, d)
        t = Transpose (table)
        y = MatMul (r, t)", "float[B,S,100] y")), @r#"
    100: table@0, t@1, y@2; blocked by output "y", "x" (indices address it)
    32: table@1, g@0, up@0, down@1, x@2, n@2, d@2, r@2, t@0; summed by "u", "y"; mixed by "n"
    48: up@1, up@1+48, down@0, u@2, u@2+48, a@2, b@2, s@2, f@2; summed by "d"
    "#);
}

#[test]
fn hidden_units_of_a_gru() {
    insta::assert_snapshot!(show(&model(17, "float[T,N,6] x", "
        float[2,24,6] w, float[2,24,8] r, float[2,48] b, float[16,10] fc, int64[3] merge = {0, 0, -1}", "
        a, h = GRU <hidden_size = 8, direction = \"bidirectional\"> (x, w, r, b)
        t = Transpose <perm = [0, 2, 1, 3]> (a)
        m = Reshape (t, merge)
        y = MatMul (m, fc)", "float[T,N,10] y")), @r#"
    6: x@2, w@2; summed by "a"; blocked by input "x"
    2: w@0, r@0, b@0, fc@0*8, a@1, h@0, t@2, m@2*8; summed by "y"; blocked by "a" (directions are counted)
    3: w@1*8, r@1*8, b@1*8x2/24; blocked by "a" (gates are counted)
    8: w@1x3/8, r@1x3/8, r@2, b@1x6/8, fc@0x2/8, a@3, h@2, t@3, m@2x2/8; summed by "a", "y"
    2: b@1*24; blocked by "a" (biases are counted)
    10: fc@1, y@2; blocked by output "y"
    "#);
}

#[test]
fn subgraphs_are_followed_through_captures_and_branches() {
    insta::assert_snapshot!(show(&model(17, "float[N,3] x, bool c", "float[3,8] w0, float[8,4] w1, float[8,8] w2", "
        a = MatMul (x, w0)
        b = If (c) <
            then_branch = t () => (p) { p = Relu (a) },
            else_branch = e () => (q) { q = Identity (a) }>
        y = MatMul (b, w1)", "float[N,4] y")), @r#"
    3: x@1, w0@0; summed by "a"; blocked by input "x"
    8: w0@1, w1@0, a@1, b@1, a@1, q@1, a@1, p@1; summed by "y"
    4: w1@1, y@1; blocked by output "y"
    "#);
}

#[test]
fn what_is_unknown_blocks_what_it_touches() {
    insta::assert_snapshot!(show(&model(17, "float[N,3] x", "float[3,8] w0, float[8,4] w1, float[4,2] w2", "
        a = MatMul (x, w0)
        b = com.microsoft.Mystery (a)
        d = MatMul (a, w1)
        y = MatMul (d, w2)", "float[N,2] y")), @r#"
    3: x@1, w0@0; summed by "a"; blocked by input "x"
    8: w0@1, w1@0, a@1; summed by "d"; blocked by "b" (the operator is not known)
    4: w1@1, w2@0, d@1; summed by "y"
    2: w2@1, y@1; blocked by output "y"
    "#);
}
