//! Who runs the models, where the built-in engine cannot.

use std::fs;

use crate::support::{failure, fixture, onnxruntime, planish, stdout};

/// tract has no Loop.
const LOOP: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, int64 n) => (float[2] y) <bool go = {1}> {
    y = Loop(n, go, x) <body: graph = body (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
        d = Identity(c)
        same = Identity(v)
        w = Add(same, same)
    }>
}"#;

/// Nine of ten weights are zero, and so is most of the file saved. Tolerance: none, as all engines make the constants dense again.
#[test]
fn sparse_constants_are_run_as_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("models/mnist_cnn.onnx");
    let compile = |name: &str, last: &str| {
        let (recipe, out) = (folder.path().join("p.yaml"), folder.path().join(name));
        let passes =
            format!("version: 1\npasses: [simplify, {{sparsify: {{sparsity: 0.9, method: magnitude}}}}{last}]\n");
        fs::write(&recipe, passes + "verify: {engine: off}\n").unwrap();
        planish().arg("compile").arg(&model).arg("--pipeline").arg(&recipe).arg("-o").arg(&out).assert().success();
        out
    };
    let (dense, sparse) = (compile("dense.onnx", ""), compile("sparse.onnx", ", sparse-initializers"));
    let size = |path: &std::path::Path| fs::metadata(path).unwrap().len();
    assert!(size(&sparse) * 10 < size(&dense) * 5, "{} of {} bytes", size(&sparse), size(&dense));
    for engine in ["tract", "onnxruntime"].into_iter().take(1 + usize::from(onnxruntime().is_some())) {
        stdout(planish().arg("verify").arg(&dense).arg(&sparse).args(["--engine", engine, "--max-abs", "0"]));
    }
}

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
