//! ONNX's textual syntax, printed and parsed.
//!
//! It is for people, tests and bug reports; the file form is the lossless one. What [`print()`] writes, `onnx.parser`
//! reads, and what `onnx.printer` writes, [`parse()`] reads, with the exceptions below. The grammar is ONNX's
//! `docs/Syntax.md`.
//!
//! ```text
//! <ir_version: 8, opset_import: ["" : 17]>
//! g (float[N,3,8,8] x) => (float[N,4,8,8] y)
//! <
//!   float[4,3,3,3] w  # 9f2c01ab34cd, 108 elements, 37 % zeros
//! >
//! {
//!   [conv1] c = Conv <pads = [1, 1, 1, 1]> (x, w)
//!   y = Relu (c)
//! }
//! ```
//!
//! **Entries without a value** in the `<…>` of a graph mean one of two things, as they do for ONNX. If a node, an
//! input, a weight with a value or an enclosing graph has the name, or nothing reads it, they declare a type.
//! Otherwise they are a weight whose value is left out; [`Fill`] says what becomes of it. `float[8] w =` is always a
//! weight; for an input, it is a default whose value is left out.
//!
//! **Numbers of narrow types** are what `TensorProto.int32_data` would hold: the bit pattern of `float16`, `bfloat16`
//! and the 8-bit floats, and packed bytes below 8 bits.
//!
//! Extensions, which `onnx.parser` refuses or, where noted, takes for something else:
//!
//! * One number for a tensor of more elements stands for all of them (ONNX keeps a tensor that is too short).
//! * `float16` and `bfloat16` take numbers with a decimal point as values, not as bit patterns.
//! * Types below 8 bits take one number per element as well as packed bytes (ONNX takes the numbers for bytes).
//! * Operators, domains, overloads, attributes and subgraphs may have quoted names, as everything else has in ONNX.
//! * `hex"c3ff"` is a string that is not UTF-8.
//! * `sparse_tensor(float[3,4]) s = {float[2] {1.0, 2.0}, int64[2] {0, 5}}` is a sparse tensor: values, then indices.
//! * Lists of tensors, graphs and types hold what they list (ONNX drops it). `a: 99 = @b` is a reference of unknown
//!   type.
//!
//! What the syntax has no place for, and the text hence does not carry: documentation and metadata of graphs, nodes,
//! values and functions (a model's are in its header, a function's documentation too), the payload of NaNs,
//! bytes of `bool` other than 0 and 1, quantization annotations, training methods, and multi-device placement.

mod error;
mod fill;
mod lexer;
mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use error::ParseError;
pub use parse::{Fill, ParseOptions, parse, parse_with};
pub use print::{PrintOptions, print, print_graph, print_graph_with, print_showing, print_with};

/// True for what the syntax takes as a name without quotes.
fn is_identifier(s: &str) -> bool {
    let mut bytes = s.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// True for words that begin a type.
fn is_type_word(s: &str) -> bool {
    crate::DType::from_name(s).is_some() || matches!(s, "seq" | "map" | "optional" | "sparse_tensor" | "opaque")
}

/// True for words that are numbers.
fn is_number_word(s: &str) -> bool {
    ["nan", "inf", "infinity"].iter().any(|w| s.eq_ignore_ascii_case(w))
}
