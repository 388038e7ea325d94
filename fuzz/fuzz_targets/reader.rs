//! A file is refused, or it goes through import, verifier and export, and its text form is valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use planish_ir::{
    onnx::{export, import},
    text::{PrintOptions, parse, print, print_with},
    verify,
};
use planish_proto::{Bytes, decode, onnx::TensorProto};

fn refuse(_: &TensorProto) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Err("no file but this one".into())
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = decode(Bytes::copy_from_slice(bytes)) else { return };
    let Ok(model) = import(message, &refuse) else { return };
    let full = print_with(&model, PrintOptions::full());
    let again = parse(&full).unwrap_or_else(|e| panic!("the full form is refused: {e}\n{full}"));
    assert_eq!(print_with(&again, PrintOptions::full()), full);
    print(&model);

    let Ok(verified) = verify(&model) else { return };
    let written = export(&verified);
    if let Err(e) = import(written, &refuse) {
        panic!("what was written is refused: {e}\n{full}");
    }
});
