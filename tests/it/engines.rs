//! Who runs the models, where the built-in engine cannot.

use std::fs;

use crate::support::{failure, onnxruntime, planish, stdout};

/// tract has no Loop.
const LOOP: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, int64 n) => (float[2] y) <bool go = {1}> {
    y = Loop(n, go, x) <body: graph = body (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
        d = Identity(c)
        same = Identity(v)
        w = Add(same, same)
    }>
}"#;

#[test]
fn onnxruntime_runs_what_tract_cannot_if_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("m.onnxtxt"), folder.path().join("out.onnx"));
    fs::write(&model, LOOP).unwrap();
    let compile = || {
        let mut command = planish();
        command.arg("compile").arg(&model).args(["--preset", "simplify", "-o"]).arg(&out);
        command
    };

    let message = failure(compile().args(["--verify", "tract"]), 4);
    assert!(
        message.contains("tract cannot run the models") && message.contains("(Loop) is not supported"),
        "{message}"
    );
    assert!(!out.exists());

    // Where there is none, the error says how to get it.
    let message = failure(compile().args(["--onnxruntime-lib", "no/such/library.so"]), 4);
    assert!(message.contains("(Loop) is not supported") && message.contains("no/such/library.so"), "{message}");
    assert!(!out.exists());

    if onnxruntime().is_some() {
        let text = stdout(&mut compile());
        assert!(text.contains("verified by onnxruntime"), "{text}");
        assert!(text.contains("note: tract cannot run this (node") && text.contains("so onnxruntime did"), "{text}");
        assert!(out.exists());
    }
}
