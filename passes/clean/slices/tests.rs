use super::*;
use crate::testing::{check, refusals};

fn at(opset: i64, signature: &str, constants: &str, nodes: &str) -> String {
    format!(r#"<ir_version: 8, opset_import: ["" : {opset}]> g {signature} <{constants}> {{ {nodes} }}"#)
}

/// What follows the declarations.
fn body(text: &str) -> String {
    text.lines().skip(1).collect::<Vec<_>>().join("\n")
}

const NUMBERS: &str = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
    int64[1] four = {4}, int64[1] five = {5}, int64[1] end = {9223372036854775807}, int64[1] last = {-1}";

#[test]
fn a_slice_of_a_slice() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[N,4] x) => (float[A,4] y, float[B,4] z)", NUMBERS,
        "a = Slice (x, one, five, zero)
         y = Slice (a, two, end, zero)
         b = Slice (x, one, last, zero)
         z = Slice (b, two, end, zero)",
    ))), @"
    g (float[N,4] x) => (float[A,4] y, float[B,4] z)
    <
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] y_start = {3},
      int64[1] y_end = {5},
      int64[1] y_axis = {0},
      int64[1] z_start = {3},
      int64[1] z_end = {-1},
      int64[1] z_axis = {0}
    >
    {
      y = Slice (x, y_start, y_end, y_axis)
      z = Slice (x, z_start, z_end, z_axis)
    }
    ");
}

#[test]
fn keeps_slices_that_count_from_the_back() {
    let text = at(
        17,
        "(float[N,4] x) => (float[A,4] y, float[B,2] z)",
        NUMBERS,
        "a = Slice (x, one, last, zero)
         y = Slice (a, two, four, zero)
         b = Slice (x, zero, two, one)
         z = Slice (b, last, end, zero)",
    );
    insta::assert_debug_snapshot!(refusals::<Slices>(&text), @"[]");
}

#[test]
fn one_element_without_its_axis_is_gathered() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[3,N] x, float[2,N] w) => (float[N] a, float[N] b, float[N] c, float[N] d, float[1,N] e)",
        &format!("{NUMBERS}, int64[2] ones = {{1, 1}}, int64 i = {{1}}"),
        "p = Slice (x, zero, one, zero)
         a = Squeeze (p, zero)
         q = Slice (x, last, end, zero)
         b = Squeeze (q, zero)
         r, s = Split <axis = 0> (w, ones)
         c = Squeeze (r, zero)
         d = Squeeze (s, zero)
         t = Gather (w, i)
         e = Unsqueeze (t, zero)",
    ))), @"
    g (float[3,N] x, float[2,N] w) => (float[N] a, float[N] b, float[N] c, float[N] d, float[1,N] e)
    <
      int64[1] two = {2},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] five = {5},
      int64 a_index = {0},
      int64 b_index = {2},
      int64 c_index = {0},
      int64 d_index = {1},
      int64[1] e_index = {1}
    >
    {
      a = Gather <axis = 0> (x, a_index)
      b = Gather <axis = 0> (x, b_index)
      c = Gather <axis = 0> (w, c_index)
      d = Gather <axis = 0> (w, d_index)
      e = Gather (w, e_index)
    }
    ");
}

#[test]
fn keeps_one_element_that_may_not_be_there() {
    let text = at(
        17,
        "(float[M,N] x) => (float[N] a)",
        NUMBERS,
        "p = Slice (x, zero, one, zero)
         a = Squeeze (p, zero)",
    );
    insta::assert_debug_snapshot!(refusals::<Slices>(&text), @"[]");
}

#[test]
fn slices_that_are_the_whole_are_one_split() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[N,4] x) => (float[N,1] a, float[N,3] b)", NUMBERS,
        "a = Slice (x, zero, one, one)
         b = Slice (x, one, end, one)",
    ))), @"
    g (float[N,4] x) => (float[N,1] a, float[N,3] b)
    <
      int64[1] two = {2},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] five = {5},
      int64[1] last = {-1},
      int64[2] x_split = {1, 3}
    >
    {
      a, b = Split <axis = 1> (x, x_split)
    }
    ");
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        11, "(float[N,4] x) => (float[N,1] a, float[N,3] b)", NUMBERS,
        "a = Slice (x, zero, one, one)
         b = Slice (x, one, end, one)",
    ))), @"
    g (float[N,4] x) => (float[N,1] a, float[N,3] b)
    <
      int64[1] two = {2},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] five = {5},
      int64[1] last = {-1}
    >
    {
      a, b = Split <axis = 1, split = [1, 3]> (x)
    }
    ");
}

#[test]
fn keeps_slices_with_gaps_and_overlaps() {
    let text = at(
        17,
        "(float[N,4] x, float[N,4] w) => (float[N,1] a, float[N,2] b, float[N,2] c, float[N,3] d)",
        NUMBERS,
        "a = Slice (x, zero, one, one)
         b = Slice (x, two, end, one)
         c = Slice (w, zero, two, one)
         d = Slice (w, one, end, one)",
    );
    insta::assert_debug_snapshot!(refusals::<Slices>(&text), @"[]");
}

#[test]
fn what_was_taken_apart_is_put_together() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[N,4] x, float[M,4] w) => (float[N,4] y, float[A,4] z, float[B,4] v)",
        &format!("{NUMBERS}, int64[2] parts = {{1, 3}}"),
        "r = Relu (x)
         a, b = Split <axis = 1> (r, parts)
         c = Concat <axis = -1> (a, b)
         y = Relu (c)
         e = Slice (w, zero, two, zero)
         f = Slice (w, two, five, zero)
         z = Concat <axis = 0> (e, f)
         g = Concat <axis = 0> (x, w)
         v = Concat <axis = 0> (g, x)",
    ))), @"
    g (float[N,4] x, float[M,4] w) => (float[N,4] y, float[A,4] z, float[B,4] v)
    <
      int64[1] one = {1},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] end = {9223372036854775807},
      int64[1] last = {-1},
      int64[1] z_start = {0},
      int64[1] z_end = {5},
      int64[1] z_axis = {0}
    >
    {
      r = Relu (x)
      y = Relu (r)
      z = Slice (w, z_start, z_end, z_axis)
      v = Concat <axis = 0> (x, w, x)
    }
    ");
}

#[test]
fn keeps_parts_in_another_order_and_what_others_read() {
    let text = at(
        17,
        "(float[N,4] x) => (float[N,4] y, float[A,4] z, float[B,4] v)",
        &format!("{NUMBERS}, int64[2] parts = {{1, 3}}"),
        "a, b = Split <axis = 1> (x, parts)
         y = Concat <axis = 1> (b, a)
         z = Concat <axis = 0> (x, x)
         v = Concat <axis = 0> (z, x)",
    );
    insta::assert_debug_snapshot!(refusals::<Slices>(&text), @"[]");
}

#[test]
fn a_slice_of_a_concat_may_be_a_part() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[2,N] x, float[M,N] w) => (float[2,N] y, float[M,N] z)", NUMBERS,
        "r = Relu (x)
         s = Relu (w)
         c = Concat <axis = 0> (r, s)
         a = Slice (c, zero, two, zero)
         b = Slice (c, two, end, zero)
         y = Relu (a)
         z = Relu (b)",
    ))), @"
    g (float[2,N] x, float[M,N] w) => (float[2,N] y, float[M,N] z)
    <
      int64[1] one = {1},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] five = {5},
      int64[1] last = {-1}
    >
    {
      r = Relu (x)
      y = Relu (r)
      s = Relu (w)
      z = Relu (s)
    }
    ");
}

#[test]
fn one_size_is_read_alone() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(float[N,4] x, float[M,4] w) => (int64[1] y, int64[1] z, int64[2] v)", "int64[1] last = {-2}",
        "s = Shape (x)
         y = Gather (s, last)
         v = Shape (w)
         z = Gather (v, last)",
    ))), @"
    g (float[N,4] x, float[M,4] w) => (int64[1] y, int64[1] z, int64[2] v)
    <
      int64[1] last = {-2}
    >
    {
      y = Shape <end = 1, start = 0> (x)
      v = Shape (w)
      z = Gather (v, last)
    }
    ");
}

#[test]
fn the_first_rows_of_a_table_are_sliced() {
    insta::assert_snapshot!(body(&check::<Slices>(&at(
        17, "(int64[N,S] x, int64 k) => (float[S,2] y, float[1,S,2] z, float[M,2] v)",
        &format!("{NUMBERS}, int64 from = {{0}}, int64 step = {{1}}, float[3,2] w = {{0.0, 0.1, 0.2, 0.3, 0.4, 0.5}},
            float[3,2] t = {{0.5, 0.1, 0.2, 0.3, 0.4, 0.5}}"),
        "s = Shape (x)
         n = Gather (s, step)
         r = Range (from, n, step)
         y = Gather (w, r)
         u = Slice (t, zero, two, zero)
         z = Unsqueeze (u, zero)
         q = Range (from, k, step)
         v = Gather (w, q)",
    ))), @"
    g (int64[N,S] x, int64 k) => (float[S,2] y, float[1,S,2] z, float[M,2] v)
    <
      int64[1] zero = {0},
      int64[1] one = {1},
      int64[1] two = {2},
      int64[1] three = {3},
      int64[1] four = {4},
      int64[1] five = {5},
      int64[1] end = {9223372036854775807},
      int64[1] last = {-1},
      int64 from = {0},
      int64 step = {1},
      float[3,2] w = {0.0, 0.1, 0.2, 0.3, 0.4, 0.5},
      int64[1] y_start = {0},
      int64[1] y_axis = {0},
      float[1,3,2] t = {0.5, 0.1, 0.2, 0.3, 0.4, 0.5},
      int64[1] z_axes = {1}
    >
    {
      y_end = Shape <end = 2, start = 1> (x)
      y = Slice (w, y_start, y_end, y_axis)
      z = Slice (t, zero, two, z_axes)
      q = Range (from, k, step)
      v = Gather (w, q)
    }
    ");
}
