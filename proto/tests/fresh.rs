//! `onnx.rs` is what prost makes of `onnx.proto`: regenerated here and compared. `PLANISH_BLESS=1` rewrites it.

use std::fs;
use std::path::Path;

const NOTE: &str =
    "// Generated from onnx.proto; do not edit. PLANISH_BLESS=1 cargo test -p planish-proto --test fresh\n\n";

#[test]
fn onnx_rs_is_what_onnx_proto_generates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("onnx.proto")], [root]).unwrap();
    let out = tempfile::tempdir().unwrap();
    // Every `bytes` field becomes `Bytes`, which is a slice of the mapped file instead of a copy.
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(descriptors).unwrap();
    let generated = NOTE.to_owned() + &fs::read_to_string(out.path().join("onnx.rs")).unwrap();

    let checked_in = root.join("onnx.rs");
    if std::env::var_os("PLANISH_BLESS").is_some() {
        fs::write(&checked_in, &generated).unwrap();
    }
    let current = fs::read_to_string(&checked_in).unwrap();
    assert!(current == generated, "onnx.rs is stale: PLANISH_BLESS=1 cargo test -p planish-proto --test fresh");
}
