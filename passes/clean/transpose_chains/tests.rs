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
fn transposes_in_a_row_merge_or_cancel() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[A,B,C] x) => (float[C,B,A] y, float[A,B,C] z, float[] w)", "float s = {2.0}",
        "a = Transpose <perm = [1, 2, 0]> (x)
         y = Transpose <perm = [1, 0, 2]> (a)
         r = Relu (x)
         b = Transpose <perm = [1, 2, 0]> (r)
         c = Transpose <perm = [2, 0, 1]> (b)
         z = Relu (c)
         d = Transpose (x)
         e = Transpose (d)
         w = Relu (e)",
    ))), @"
    g (float[A,B,C] x) => (float[C,B,A] y, float[A,B,C] z, float[A,B,C] w)
    <
      float s = {2.0}
    >
    {
      y = Transpose <perm = [2, 1, 0]> (x)
      r = Relu (x)
      z = Relu (r)
      w = Relu (x)
    }
    ");
}

#[test]
fn keeps_a_cancelled_pair_between_the_names_of_the_interface() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[A,B] x) => (float[A,B] y)", "float s = {2.0}",
        "a = Transpose <perm = [1, 0]> (x)
         y = Transpose <perm = [1, 0]> (a)",
    ))), @"
    g (float[A,B] x) => (float[A,B] y)
    <
      float s = {2.0}
    >
    {
      y = Transpose <perm = [0, 1]> (x)
    }
    ");
}

#[test]
fn moving_axes_of_one_is_a_reshape() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[N,1,4] x) => (float[N,4,1] y, float[1,N,4] z)", "float s = {2.0}",
        "y = Transpose <perm = [0, 2, 1]> (x)
         z = Transpose <perm = [1, 0, 2]> (x)",
    ))), @"
    g (float[N,1,4] x) => (float[N,4,1] y, float[1,N,4] z)
    <
      float s = {2.0},
      int64[3] y_shape = {0, 4, 1},
      int64[3] z_shape = {1, -1, 4}
    >
    {
      y = Reshape (x, y_shape)
      z = Reshape (x, z_shape)
    }
    ");
}

#[test]
fn keeps_what_a_reshape_cannot_say_for_every_size() {
    let text =
        at(17, "(float[N,1,M] x) => (float[N,M,1] y)", "float s = {2.0}", "y = Transpose <perm = [0, 2, 1]> (x)");
    assert!(refusals::<TransposeChains>(&text).is_empty());
}

#[test]
fn a_squeeze_goes_before_a_transpose_to_meet_the_unsqueeze() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[197,N,3,768] x) => (float[3,197,N,768] y)", "int64[1] a = {0}, int64[1] b = {3}",
        "u = Unsqueeze (x, a)
         t = Transpose <perm = [3, 1, 2, 0, 4]> (u)
         y = Squeeze (t, b)",
    ))), @"
    g (float[197,N,3,768] x) => (float[3,197,N,768] y)
    <
      int64[1] a = {0},
      int64[1] y_axes = {0}
    >
    {
      u = Unsqueeze (x, a)
      y_squeezed = Squeeze (u, y_axes)
      y = Transpose <perm = [2, 0, 1, 3]> (y_squeezed)
    }
    ");
}

#[test]
fn one_reshape_before_instead_of_two_around() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[197,N,768] x) => (float[N,12,197,64] y)", "int64[3] s = {197, -1, 64}, int64[4] t = {-1, 12, 197, 64}",
        "a = Reshape (x, s)
         b = Transpose <perm = [1, 0, 2]> (a)
         y = Reshape (b, t)",
    ))), @"
    g (float[197,N,768] x) => (float[N,12,197,64] y)
    <
      int64[4] y_shape = {197, 0, 12, 64}
    >
    {
      y_apart = Reshape (x, y_shape)
      y = Transpose <perm = [1, 2, 0, 3]> (y_apart)
    }
    ");
}

#[test]
fn keeps_reshapes_that_do_not_take_apart_and_what_is_read_half_way() {
    let text = at(
        17,
        "(float[4,6] x) => (float[3,8] y, float[6,2,2] z, float[6,4] b)",
        "int64[2] s = {6, 4}, int64[2] t = {3, 8}, int64[3] u = {6, 2, 2}",
        "a = Reshape (x, s)
         c = Transpose <perm = [1, 0]> (a)
         d = Relu (c)
         e = Reshape (d, s)
         f = Transpose <perm = [1, 0]> (e)
         y = Reshape (f, t)
         b = Transpose <perm = [1, 0]> (x)
         z = Reshape (b, u)",
    );
    insta::assert_debug_snapshot!(refusals::<TransposeChains>(&text), @"[]");
}

#[test]
fn two_transposes_meet_across_what_works_on_either_side() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[A,B,4] x) => (float[A,B,6] y, float[B,A,4] z)",
        "float[4,6] w = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0},
         float[6] b = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0}, float s = {2.0}",
        "a = Transpose <perm = [1, 0, 2]> (x)
         c = MatMul (a, w)
         d = Add (b, c)
         y = Transpose <perm = [1, 0, 2]> (d)
         e = Transpose <perm = [1, 2, 0]> (x)
         f = Mul (e, s)
         z = Transpose <perm = [0, 2, 1]> (f)",
    ))), @"
    g (float[A,B,4] x) => (float[A,B,6] y, float[B,A,4] z)
    <
      float[4,6] w,  # 5e6e04b5de4c, 24 elements, 100 % zeros
      float[6] b = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0},
      float s = {2.0}
    >
    {
      c_unmoved = MatMul (x, w)
      y = Add (b, c_unmoved)
      f_unmoved = Mul (x, s)
      z = Transpose <perm = [1, 0, 2]> (f_unmoved)
    }
    ");
}

#[test]
fn a_reshape_of_the_last_axis_is_no_obstacle() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[N,197,12] x) => (float[3,N,197,4] y)", "int64[4] s = {197, -1, 3, 4}",
        "a = Transpose <perm = [1, 0, 2]> (x)
         r = Reshape (a, s)
         y = Transpose <perm = [2, 1, 0, 3]> (r)",
    ))), @"
    g (float[N,197,12] x) => (float[3,N,197,4] y)
    <
      int64[4] r_shape = {0, 197, 3, 4}
    >
    {
      r_unmoved = Reshape (x, r_shape)
      y = Transpose <perm = [2, 0, 1, 3]> (r_unmoved)
    }
    ");
}

#[test]
fn a_transpose_goes_up_past_a_product_of_rows() {
    insta::assert_snapshot!(body(&check::<TransposeChains>(&at(
        17, "(float[N,2,5,3] x, float[N,2,5,3] k) => (float[N,5,4] y, float[N,5,6] z)",
        "int64[2] rows = {-1, 6}, int64[3] apart = {5, -1, 4}, int64[3] heads = {5, -1, 6}, float s = {2.0},
         float[6,4] w = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0}",
        "a = Transpose <perm = [2, 0, 1, 3]> (x)
         b = Reshape (a, rows)
         c = Gemm (b, w)
         d = Reshape (c, apart)
         y = Transpose <perm = [1, 0, 2]> (d)
         e = Transpose <perm = [2, 0, 1, 3]> (k)
         f = Reshape (e, heads)
         g = Mul (f, s)
         z = Transpose <perm = [1, 0, 2]> (g)",
    ))), @"
    g (float[N,2,5,3] x, float[N,2,5,3] k) => (float[N,5,4] y, float[N,5,6] z)
    <
      float s = {2.0},
      float[6,4] w,  # 7d3e2e5700c6, 24 elements, 100 % zeros
      int64[2] b_shape = {-1, 6},
      int64[3] d_shape = {-1, 5, 4},
      int64[3] f_shape = {0, 5, 6}
    >
    {
      a_moved = Transpose <perm = [0, 2, 1, 3]> (x)
      b_moved = Reshape (a_moved, b_shape)
      c_moved = Gemm (b_moved, w)
      y = Reshape (c_moved, d_shape)
      e_moved = Transpose <perm = [0, 2, 1, 3]> (k)
      f_moved = Reshape (e_moved, f_shape)
      z = Mul (f_moved, s)
    }
    ");
}

#[test]
fn keeps_transposes_around_what_depends_on_the_axis() {
    let text = at(
        17,
        "(float[A,B,4] x, float[B,A,4] k) => (float[A,4,B] y, float[A,B,4] z, float[A,B,4] v, float[A,B,4] u)",
        "float[4] b = {0.0, 0.0, 0.0, 0.0}",
        "a = Transpose <perm = [0, 2, 1]> (x)
         c = Softmax <axis = 1> (a)
         y = Transpose <perm = [0, 1, 2]> (c)
         d = Transpose <perm = [1, 0, 2]> (x)
         e = Add (d, k)
         z = Transpose <perm = [1, 0, 2]> (e)
         f = Transpose <perm = [0, 2, 1]> (x)
         g = Relu (f)
         h = Add (g, g)
         v = Transpose <perm = [0, 2, 1]> (h)
         i = Transpose <perm = [2, 1, 0]> (k)
         j = Add (i, b)
         u = Transpose <perm = [1, 0, 2]> (x)",
    );
    insta::assert_debug_snapshot!(refusals::<TransposeChains>(&text), @"[]");
}

#[test]
fn a_scalar_in_between_keeps_the_rank() {
    let text = at(
        17,
        "(float[1] x) => (float[1] y)",
        "int64[0] e = {}, int64[1] o = {1}",
        "a = Reshape (x, e)
         b = Transpose (a)
         y = Reshape (b, o)",
    );
    let after = check::<TransposeChains>(&text);
    assert!(after.contains("y = Reshape (b, o)"), "{after}");
}
