//! ONNX's textual syntax.
