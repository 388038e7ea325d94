use super::*;
use crate::testing::{check, refusals};

fn at(opset: i64, signature: &str, constants: &str, nodes: &str) -> String {
    format!(r#"<ir_version: 8, opset_import: ["" : {opset}]> g {signature} <{constants}> {{ {nodes} }}"#)
}

/// What follows the declarations.
fn body(text: &str) -> String {
    text.lines().skip(1).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_computed_target_becomes_constant() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,S,768] x) => (float[N,S,12,64] y)",
        "int64 zero = {0}, int64 one = {1}, int64[1] ax = {0}, int64[1] h = {12}, int64[1] d = {64}",
        "s = Shape (x)
         n = Gather (s, zero)
         n1 = Unsqueeze (n, ax)
         m = Gather (s, one)
         m1 = Unsqueeze (m, ax)
         t = Concat <axis = 0> (n1, m1, h, d)
         y = Reshape (x, t)",
    ))), @"
    g (float[N,S,768] x) => (float[N,S,12,64] y)
    <
      int64[4] t = {0, 0, 12, 64}
    >
    {
      y = Reshape (x, t)
    }
    ");
}

#[test]
fn one_size_may_be_what_is_left_if_no_other_can_be_empty() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,S,768] x) => (float[M,768] y)", "int64[1] d = {768}, int64[1] a = {0}, int64[1] b = {1}",
        "s = Shape (x)
         n = Gather (s, a)
         m = Gather (s, b)
         p = Mul (n, m)
         t = Concat <axis = 0> (p, d)
         y = Reshape (x, t)",
    ))), @"
    g (float[N,S,768] x) => (float[M,768] y)
    <
      int64[2] t = {-1, 768}
    >
    {
      y = Reshape (x, t)
    }
    ");
}

#[test]
fn a_rest_of_the_original_stays_a_rest() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,8,H,W] x) => (float[N,8,P] y)", "int64[1] a = {0}, int64[1] b = {2}, int64[1] rest = {-1}",
        "s = Shape (x)
         n = Slice (s, a, b)
         t = Concat <axis = 0> (n, rest)
         y = Reshape (x, t)",
    ))), @"
    g (float[N,8,H,W] x) => (float[N,8,P] y)
    <
      int64[3] t = {0, 8, -1}
    >
    {
      y = Reshape (x, t)
    }
    ");
}

#[test]
fn refuses_a_rest_beside_what_may_be_empty() {
    let text = at(
        17,
        "(float[N,8,H,W] x) => (float[N,8,P] y)",
        "int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {3}, int64[1] eight = {8}",
        "s = Shape (x)
         n = Gather (s, a)
         h = Gather (s, b)
         w = Gather (s, c)
         p = Mul (h, w)
         t = Concat <axis = 0> (n, eight, p)
         y = Reshape (x, t)",
    );
    insta::assert_debug_snapshot!(refusals::<ReshapeChains>(&text), @r#"
    [
        "a size would have to be what is left beside one that may be 0, which is not defined if it is",
    ]
    "#);
}

#[test]
fn refuses_two_open_sizes() {
    let text = at(
        17,
        "(float[N,S,768] x, int64[2] k) => (float[A,B,64] y)",
        "int64[1] d = {64}",
        "t = Concat <axis = 0> (k, d)
         y = Reshape (x, t)",
    );
    insta::assert_debug_snapshot!(refusals::<ReshapeChains>(&text), @r#"
    [
        "more than one size is neither a number nor the input's at that place",
    ]
    "#);
}

#[test]
fn keeps_an_overridable_target_and_unknown_ranks() {
    let text = at(
        17,
        "(float[N,4] x, float[] q, int64[2] t) => (float[A,B] y, float[] z)",
        "int64[2] t = {0, 4}, int64[1] a = {0}, int64[1] none = {-1}",
        "y = Reshape (x, t)
         u = Unsqueeze (q, a)
         z = Squeeze (u, a)",
    );
    insta::assert_debug_snapshot!(refusals::<ReshapeChains>(&text), @r#"
    [
        "more than one size is neither a number nor the input's at that place",
        "a size of the result is not known, not even by name",
    ]
    "#);
}

#[test]
fn chains_become_one_node() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,S] x) => (float[N,1,1,S] y, float[N,S] z, float[N,S] w, float[S] v)",
        "int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-2}, int64[1] a = {0}",
        "u = Unsqueeze (x, one)
         y = Unsqueeze (u, two)
         r = Relu (x)
         p = Unsqueeze (r, two)
         q = Squeeze (p, two)
         z = Relu (q)
         m = Unsqueeze (x, one)
         w = Squeeze (m, last)
         o = Unsqueeze (x, two)
         v = Squeeze (o, a)",
    ))), @"
    g (float[N,S] x) => (float[N,1,1,S] y, float[N,S] z, float[N,S] w, float[S] v)
    <
      int64[2] y_axes = {1, 2},
      int64[2] w_shape = {0, 0},
      int64[2] v_shape = {-1, 1}
    >
    {
      y = Unsqueeze (x, y_axes)
      r = Relu (x)
      z = Relu (r)
      w = Reshape (x, w_shape)
      v = Reshape (x, v_shape)
    }
    ");
}

#[test]
fn before_opset_13_axes_are_attributes() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        11, "(float[N,4] x) => (float[N,1,1,4] y, float[N,2,1,2] z)", "int64[3] t = {0, 2, 2}",
        "u = Unsqueeze <axes = [1]> (x)
         y = Unsqueeze <axes = [2]> (u)
         r = Reshape (x, t)
         z = Unsqueeze <axes = [2]> (r)",
    ))), @"
    g (float[N,4] x) => (float[N,1,1,4] y, float[N,2,1,2] z)
    <
      int64[4] z_shape = {0, 2, 1, 2}
    >
    {
      y = Unsqueeze <axes = [1, 2]> (x)
      z = Reshape (x, z_shape)
    }
    ");
}

#[test]
fn reshapes_and_flattens_merge() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,2,3,4] x) => (float[N,24] y, float[N,2,3,4] z)",
        "int64[3] t = {0, 6, 4}, int64[2] rest = {0, -1}, int64[4] back = {0, 2, 3, 4}",
        "a = Reshape (x, t)
         b = Reshape (a, rest)
         y = Flatten (b)
         c = Relu (x)
         d = Flatten (c)
         e = Reshape (d, back)
         z = Relu (e)",
    ))), @"
    g (float[N,2,3,4] x) => (float[N,24] y, float[N,2,3,4] z)
    <
      int64[2] y_shape = {0, 24}
    >
    {
      y = Reshape (x, y_shape)
      c = Relu (x)
      z = Relu (c)
    }
    ");
}

#[test]
fn sizes_of_zero() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[0,S,4] x) => (float[0,S,2,2] y)", "int64[1] two = {2}, int64[2] a = {0, 1}",
        "s = Shape (x)
         n = Gather (s, a)
         t = Concat <axis = 0> (n, two, two)
         y = Reshape (x, t)",
    ))), @"
    g (float[0,S,4] x) => (float[0,S,2,2] y)
    <
      int64[4] t = {0, 0, 2, 2}
    >
    {
      y = Reshape (x, t)
    }
    ");
    let empty = at(
        17,
        "(float[N,S,0] x, int64[1] k) => (float[A,B] y)",
        "int64[1] none = {0}",
        "t = Concat <axis = 0> (k, none)
         y = Reshape <allowzero = 1> (x, t)",
    );
    insta::assert_debug_snapshot!(refusals::<ReshapeChains>(&empty), @r#"
    [
        "more than one size is neither a number nor the input's at that place",
    ]
    "#);
}

#[test]
fn an_axis_that_is_only_put_in_or_taken_out_needs_no_sizes() {
    insta::assert_snapshot!(body(&check::<ReshapeChains>(&at(
        17, "(float[N,S,8] x, float[N,1,S,8] w) => (float[N,1,S,8] y, float[N,S,8] z)",
        "int64[1] a = {0}, int64[1] b = {1}, int64[1] c = {2}, int64[1] one = {1}, int64[1] eight = {8}",
        "s = Shape (x)
         m = Gather (s, b)
         t = Concat <axis = 0> (a, one, m, eight)
         y = Reshape (x, t)
         q = Shape (w)
         r = Gather (q, c)
         u = Concat <axis = 0> (a, r, eight)
         z = Reshape (w, u)",
    ))), @"
    g (float[N,S,8] x, float[N,1,S,8] w) => (float[N,1,S,8] y, float[N,S,8] z)
    <
      int64[1] y_axes = {1},
      int64[1] z_axes = {1}
    >
    {
      y = Unsqueeze (x, y_axes)
      z = Squeeze (w, z_axes)
    }
    ");
}
