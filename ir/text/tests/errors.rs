//! What is said about texts that are wrong.

use insta::assert_snapshot;

use crate::text::{Fill, ParseOptions, parse, parse_with};

/// Line, column and message.
fn error(text: &str) -> String {
    match parse(text) {
        Ok(_) => "accepted".to_owned(),
        Err(e) => format!("{}:{}: {}", e.line, e.column, e.message),
    }
}

#[test]
fn the_place_is_shown() {
    let text = "<ir_version: 8>\ng (float[N] x) => (y)\n{\n  y = Relu (x = 1)\n}\n";
    assert_snapshot!(parse(text).unwrap_err(), @r#"
    line 4, column 15: expected `,` or `)`, found `=`
        y = Relu (x = 1)
                    ^
    "#);
    let long = format!("g () => () <float[9999] w = {{{}}}> {{}}", "1, ".repeat(500) + "oops, " + &"2, ".repeat(500));
    assert_snapshot!(parse(&long).unwrap_err(), @r#"
    line 1, column 1530: expected a number, found `oops`
      …1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, oops, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, …
                                                                   ^
    "#);
    assert_snapshot!(parse("g () => () { é }").unwrap_err(), @r#"
    line 1, column 14: unexpected character 'é'; names with other characters than letters, digits and `_` need quotes
      g () => () { é }
                   ^
    "#);
}

#[test]
fn import_errors_are_located() {
    assert_snapshot!(error("g (x) => (y)\n{\n  y = Add (x, z)\n}"), @r#"3:15: in graph "g": in the node that makes "y" (Add): it reads "z", which no input, initializer or node defines"#);
    assert_snapshot!(error("g (x) => (y)\n{\n  y = Neg (x)\n  y = Abs (x)\n}"), @r#"4:3: in graph "g": in the node that makes "y" (Abs): the name "y" is defined twice; every value must have one definition"#);
    assert_snapshot!(error("g (x) => (y)\n{\n  y = Add (x, z)\n  z = Abs (y)\n}"), @r#"3:3: in graph "g": the nodes "y", "z" form a cycle"#);
    assert_snapshot!(error("g (x) => (y)\n<float w = {1}, float w = {2}> { y = Add (x, w) }"), @r#"2:17: in graph "g": the name "w" is defined twice; every value must have one definition"#);
}

#[test]
fn grammar() {
    let cases = [
        "",
        "g",
        "<ir: 8> g () => () {}",
        "<ir_version: x> g () => () {}",
        "<opset_import: [\"\" : 99999999999999999999]> g () => () {}",
        "g (float[N x) => () {}",
        "g (float[*] x) => () {}",
        "g (float6e2m3 x) => () {}",
        "g (opaque(a) x) => () {}",
        "g (map(seq, float) x) => () {}",
        "g () => () { y Relu (x) }",
        "g () => () { y = Relu x }",
        "g () => () { y = Relu <a> (x) }",
        "g () => () { y = Relu <a = []> () }",
        "g () => () { y = Relu <a: int = [1]> () }",
        "g () => () { y = Relu <a: int = 1.5> () }",
        "g () => () { y = Relu <a: nothing = 1> () }",
        "g () => () { y = Relu <a: 99 = 1> () }",
        "g () => () { y = Relu <a = [1, \"x\"]> () }",
        "g () => () { y = Relu <a = 1e99> () }",
        "g () => () { y = Relu <a = - 1> () }",
        "g () => () { y = Relu <a = \"open> () }",
        "g () => () { y = Relu <a = hex\"f\"> () }",
        "g () => () { y = Relu ()",
        "g () => () {} <domain: \"d\"> f () => () <float w = {1}> {}",
        "g () => () {} }",
        "g () => () {} $",
    ];
    let all: Vec<String> = cases.iter().map(|text| format!("{text}\n    {}", error(text))).collect();
    assert_snapshot!(all.join("\n"), @r#"
        1:1: expected the name of the graph, found the end of the text
    g
        1:2: expected `=>`, found the end of the text
    <ir: 8> g () => () {}
        1:2: expected a key of the model's header: `ir_version`, `opset_import`, `producer_name`, `producer_version`, `domain`, `model_version`, `doc_string` or `metadata_props`, found `ir`
    <ir_version: x> g () => () {}
        1:14: expected an integer, found `x`
    <opset_import: ["" : 99999999999999999999]> g () => () {}
        1:22: `99999999999999999999` does not fit 64 bits
    g (float[N x) => () {}
        1:12: expected `,` or `]`, found `x`
    g (float[*] x) => () {}
        1:10: unexpected character '*'; names with other characters than letters, digits and `_` need quotes
    g (float6e2m3 x) => () {}
        1:15: expected `,` or `)`, found `x`
    g (opaque(a) x) => () {}
        1:4: opaque types are not supported
    g (map(seq, float) x) => () {}
        1:8: expected an element type, such as `float` or `int64`, found `seq`
    g () => () { y Relu (x) }
        1:16: expected the outputs of a node and `=`, or `}`, found `Relu`
    g () => () { y = Relu x }
        1:23: expected `(` and the inputs of the node, found `x`
    g () => () { y = Relu <a> (x) }
        1:25: expected `=`, found `>`
    g () => () { y = Relu <a = []> () }
        1:28: an empty list needs its type, as in `axes: ints = []`
    g () => () { y = Relu <a: int = [1]> () }
        1:33: an attribute of type `int` is no list
    g () => () { y = Relu <a: int = 1.5> () }
        1:33: expected a value of type `int`, found one of type `float`
    g () => () { y = Relu <a: nothing = 1> () }
        1:27: expected the type of an attribute (float, int, string, tensor, graph, sparse_tensor, type_proto, floats, ints, strings, tensors, graphs, sparse_tensors, type_protos), found `nothing`
    g () => () { y = Relu <a: 99 = 1> () }
        1:32: expected `@`, because the type is unknown, found `1`
    g () => () { y = Relu <a = [1, "x"]> () }
        1:32: expected a value of type `int`, found one of type `string`
    g () => () { y = Relu <a = 1e99> () }
        1:28: `1e99` is too large; write `inf` for infinity
    g () => () { y = Relu <a = - 1> () }
        1:28: expected a number after `-`
    g () => () { y = Relu <a = "open> () }
        1:28: this string has no closing quote
    g () => () { y = Relu <a = hex"f"> () }
        1:28: a string in hexadecimal is made of pairs of the digits 0-9 and a-f
    g () => () { y = Relu ()
        1:25: expected the outputs of a node and `=`, or `}`, found the end of the text
    g () => () {} <domain: "d"> f () => () <float w = {1}> {}
        1:41: a function has no weights; make "w" with a `Constant` node
    g () => () {} }
        1:15: expected a function, found `}`
    g () => () {} $
        1:15: unexpected character '$'; names with other characters than letters, digits and `_` need quotes
    "#);
}

#[test]
fn tensors() {
    let cases = [
        "float w = {1, 2}",
        "float[2] w = {x}",
        "float[N] w = {1}",
        "float[] w = {1}",
        "float[-1] w = {1}",
        "seq(float) w = {1}",
        "w = {1}",
        "float[2] w = {1, 1e39}",
        "float[2] w = {1, 2, 3}",
        "float[2,0] w = {1}",
        "int8[2] w = {1, 128}",
        "uint8[2] w = {1, -1}",
        "int64[2] w = {1.0, 2}",
        "bool[2] w = {0, 2}",
        "int4[3] w = {1, 2, 8}",
        "int4[3] w = {1, 300}",
        "complex64[2] w = {1, 2, 3}",
        "string[2] w = {1}",
        "float[2] w = [\"location\": \"w.bin\"]",
        "float[2] w = ...",
        "float[1000000000000] w =",
        "float[1000000000000] w = {1}",
        "string[1000000000000] w = {\"x\"}",
        "float[9000000000000000000, 9000000000000000000] w =",
        "sparse_tensor(float[2]) w =",
        "sparse_tensor(float[2]) w = {float[1] {1}}",
    ];
    let all: Vec<String> =
        cases.iter().map(|t| format!("{t}\n    {}", error(&format!("g () => () <{t}> {{}}")))).collect();
    assert_snapshot!(all.join("\n"), @r#"
    float w = {1, 2}
        1:23: a tensor float takes 1 values here, but 2 are listed
    float[2] w = {x}
        1:27: expected a number, found `x`
    float[N] w = {1}
        1:13: a tensor needs an element type and fixed sizes, as in `float[4,3]`
    float[] w = {1}
        1:13: a tensor needs an element type and fixed sizes, as in `float[4,3]`
    float[-1] w = {1}
        1:13: a tensor needs an element type and fixed sizes, as in `float[4,3]`
    seq(float) w = {1}
        1:13: a tensor needs an element type and fixed sizes, as in `float[4,3]`
    w = {1}
        1:13: the weight "w" needs a type before its name
    float[2] w = {1, 1e39}
        1:30: `1e39` is too large; write `inf` for infinity
    float[2] w = {1, 2, 3}
        1:26: a tensor float[2] takes 2 values here, but 3 are listed
    float[2,0] w = {1}
        1:28: a tensor float[2, 0] takes 0 values here, but 1 are listed
    int8[2] w = {1, 128}
        1:29: `128` does not fit int8
    uint8[2] w = {1, -1}
        1:30: `-1` does not fit uint8
    int64[2] w = {1.0, 2}
        1:27: expected an integer, found `1.0`
    bool[2] w = {0, 2}
        1:29: expected `0` or `1`, found `2`
    int4[3] w = {1, 2, 8}
        1:32: `8` does not fit int4
    int4[3] w = {1, 300}
        1:29: `300` is no byte of packed elements
    complex64[2] w = {1, 2, 3}
        1:30: a tensor complex64[2] takes 4 values here, but 3 are listed
    string[2] w = {1}
        1:28: expected a string in quotes, found `1`
    float[2] w = ["location": "w.bin"]
        1:26: external data has no place in a text; list the values, or leave out everything after `=`
    float[2] w = ...
        1:26: `...` stands for values that were not printed; leave out everything after `=` to fill them
    float[1000000000000] w =
        1:13: the weights that the text does not spell out take more than 268435456 bytes
    float[1000000000000] w = {1}
        1:38: the weights that the text does not spell out take more than 268435456 bytes
    string[1000000000000] w = {"x"}
        1:39: the weights that the text does not spell out take more than 268435456 bytes
    float[9000000000000000000, 9000000000000000000] w =
        1:13: the sizes [9000000000000000000, 9000000000000000000] overflow 64 bits
    sparse_tensor(float[2]) w =
        1:40: expected `{`, the values and the indices of a sparse tensor, found `>`
    sparse_tensor(float[2]) w = {float[1] {1}}
        1:54: expected `,` and the indices of the sparse tensor, found `}`
    "#);
}

#[test]
fn weights_without_value_need_sizes_and_permission() {
    assert_snapshot!(error("g () => (y) <float[N] w> { y = Neg (w) }"), @r#"1:14: "w" is read, but neither an input nor a node makes it; if it is a weight without a value, it needs fixed sizes, as in `float[4,3]`"#);
    assert_snapshot!(error("g () => (y) <w> { y = Neg (w) }"), @r#"1:14: "w" is read, but neither an input nor a node makes it; if it is a weight without a value, it needs fixed sizes, as in `float[4,3]`"#);
    let refuse = ParseOptions { fill: Fill::Refuse, ..ParseOptions::default() };
    let text = "g () => (y)\n<float[2] v = {1}, float[3] w>\n{ y = Neg (w) }";
    assert_snapshot!(parse_with(text, refuse).unwrap_err(), @r#"
    line 2, column 20: the weight "w" has no value
      <float[2] v = {1}, float[3] w>
                         ^
    "#);
}

#[test]
fn depth_is_limited() {
    let graphs = |n: usize| {
        format!("g () => () {}{}", "{ = Op () <a = g () => () ".repeat(n), "{}".to_owned() + &"> }".repeat(n))
    };
    assert_eq!(error(&graphs(31)), "accepted");
    assert!(error(&graphs(32)).ends_with("graphs are nested more than 32 deep"));
    assert!(error(&graphs(100_000)).ends_with("graphs are nested more than 32 deep"));
    let types = |n: usize| format!("g ({}float{} x) => () {{}}", "seq(".repeat(n), ")".repeat(n));
    assert_eq!(error(&types(40)), "accepted");
    assert!(error(&types(100_000)).ends_with("types are nested more than 64 deep"));
}
