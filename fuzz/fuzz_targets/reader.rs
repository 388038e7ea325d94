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
    let mut full = print_with(&model, PrintOptions::full());
    // The first round may move a type to where the value is made, and reorder nodes that no output needs; the second must
    // change nothing.
    for round in 0..2 {
        let again = parse(&full).unwrap_or_else(|e| panic!("the full form is refused: {e}\n{full}"));
        let printed = print_with(&again, PrintOptions::full());
        assert!(round == 0 || printed == full, "the text does not settle:\n{full}\n{printed}");
        full = printed;
    }
    print(&model);

    let Ok(verified) = verify(&model) else { return };
    let written = export(&verified);
    if let Err(e) = import(written, &refuse) {
        panic!("what was written is refused: {e}\n{full}");
    }
});
