//! What people see.

use insta::assert_snapshot;

use super::{graph, model};
use crate::text::{PrintOptions, print, print_graph, print_with};

#[test]
fn weights_are_summarized() {
    let m = graph(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[4,3,3,3] w, float[20] sparse = {0}, float[4] b = {1, 2, 3, 4.5}, string[17] s = {\"a\"}>
        { [conv1] c = Conv <pads = [1,1,1,1]> (x, w, b)  y = Custom (c, sparse, s) }",
    );
    assert_snapshot!(print(&m), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3,8,8] x) => (float[N,4,8,8] y)
    <
      float[4,3,3,3] w,  # ccff9527f585, 108 elements
      float[20] sparse,  # 85dd8296da0d, 20 elements, 100 % zeros
      float[4] b = {1.0, 2.0, 3.0, 4.5},
      string[17] s  # cbc57512f58e, 17 elements
    >
    {
      [conv1] c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
      y = Custom (c, sparse, s)
    }
    "#);
    let options = PrintOptions { digests: false, ..PrintOptions::default() };
    assert_snapshot!(print_with(&m, options), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3,8,8] x) => (float[N,4,8,8] y)
    <
      float[4,3,3,3] w,
      float[20] sparse,
      float[4] b = {1.0, 2.0, 3.0, 4.5},
      string[17] s
    >
    {
      [conv1] c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
      y = Custom (c, sparse, s)
    }
    "#);
}

#[test]
fn types_are_comments_or_entries() {
    let m = graph("(float[N] x) => (float[N] y) <float[N] a, int64[?] i> { a, i = Op (x)  y = Relu (a) }");
    let options = PrintOptions { types: true, ..PrintOptions::default() };
    assert_snapshot!(print_with(&m, options), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N] x) => (float[N] y) {
      a, i = Op (x)  # float[N], int64[?]
      y = Relu (a)  # float[N]
    }
    "#);
    assert_snapshot!(print_with(&m, PrintOptions::full()), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[N] x) => (float[N] y)
    <
      float[N] a,
      int64[?] i
    >
    {
      a, i = Op (x)
      y = Relu (a)
    }
    "#);
}

#[test]
fn narrow_types_are_readable() {
    let m = graph(
        "() => (h, b, i, u, j, v, f) <
            float16[2] h = {1.5, nan}, bfloat16 b = {-2.0}, int4[3] i = {1, -2, 7}, uint4[3] u = {15, 0, 9},
            int2[5] j = {1, -2, 0, 1, -1}, uint2[2] v = {3, 1}, float8e4m3fn[2] f = {56, 0}
        > {}",
    );
    assert_snapshot!(print_graph(&m.graph), @r#"
    g () => (float16[2] h, bfloat16 b, int4[3] i, uint4[3] u, int2[5] j, uint2[2] v, float8e4m3fn[2] f)
    <
      float16[2] h = {15872, 32256},  # 1.5, nan
      bfloat16 b = {49152},  # -2.0
      int4[3] i = {225, 7},  # 1, -2, 7
      uint4[3] u = {15, 9},  # 15, 0, 9
      int2[5] j = {73, 3},  # 1, -2, 0, 1, -1
      uint2[2] v = {7},  # 3, 1
      float8e4m3fn[2] f = {56, 0}
    >
    {
    }
    "#);
}

#[test]
fn subgraphs_are_indented() {
    let m = graph(
        "(bool c, float[2] x) => (y) {
            y = If (c) <
                then_branch = t () => (a) { a = Neg (x) },
                else_branch = e () => (z) <float[2] k = {1, 2}> {
                    [inner] z = If (c) <then_branch = t () => (b) { b = Add (x, k) }, else_branch = e () => (x) {}>
                }
            >
        }",
    );
    assert_snapshot!(print(&m), @r#"
    <ir_version: 10, opset_import: ["" : 21]>
    g (bool c, float[2] x) => (y) {
      y = If (c) <
        else_branch = e () => (z)
        <
          float[2] k = {1.0, 2.0}
        >
        {
          [inner] z = If (c) <
            else_branch = e () => (float[2] x) {
            },
            then_branch = t () => (b) {
              b = Add (x, k)
            }
          >
        },
        then_branch = t () => (a) {
          a = Neg (x)
        }
      >
    }
    "#);
}

#[test]
fn long_lists_take_a_line_each() {
    let m = model(
        r#"<ir_version: 10, opset_import: ["" : 21], producer_name: "a producer with a long name", producer_version: "1.0",
            metadata_props: ["key": "value"]>
        g (float[batch,sequence,hidden] the_first_input, float[batch,sequence,hidden] the_second_input, int64[2] third = {1, 2})
            => (float[batch,sequence,hidden] the_first_output, "the second output")
        { the_first_output, "the second output" = Custom (the_first_input, the_second_input, third) }
        <domain: "local", opset_import: ["" : 21]> Custom <alpha, beta: float = 1> (a, b, c) => (d, e)
        { d = Foo <x: float = @alpha> (a, b)  e = Neg (c) }"#,
    );
    assert_snapshot!(print(&m), @r#"
    <
      ir_version: 10,
      opset_import: ["" : 21],
      producer_name: "a producer with a long name",
      producer_version: "1.0",
      metadata_props: ["key": "value"]
    >
    g (float[batch,sequence,hidden] the_first_input, float[batch,sequence,hidden] the_second_input, int64[2] third) => (
      float[batch,sequence,hidden] the_first_output,
      "the second output"
    )
    <
      int64[2] third = {1, 2}
    >
    {
      the_first_output, "the second output" = Custom (the_first_input, the_second_input, third)
    }

    <domain: "local", opset_import: ["" : 21]>
    Custom <alpha, beta = 1.0> (a, b, c) => (d, e) {
      d = Foo <x: float = @alpha> (a, b)
      e = Neg (c)
    }
    "#);
}
