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

/// onnxruntime stores constant weights of an LSTM for another kernel, which rounds differently; asked to verify, it may not.
#[test]
fn weights_that_become_constants_change_no_bit_in_onnxruntime() {
    const COMPUTED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[4,1,128] x, float[1,1,128] h, float[1,1,128] c) => (float[4,1,1,128] y)
        <float[512,128] w, float[512,128] r, float[1024] b, int64[1] first = {0}> {
            w1 = Unsqueeze (w, first)
            r1 = Unsqueeze (r, first)
            b1 = Unsqueeze (b, first)
            y = LSTM <hidden_size = 128> (x, w1, r1, b1, , h, c)
        }"#;
    if onnxruntime().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("m.onnxtxt"), folder.path().join("out.onnx"));
    fs::write(&model, COMPUTED).unwrap();
    let mut command = planish();
    command.arg("compile").arg(&model).args(["--preset", "simplify", "--verify", "onnxruntime", "-o"]).arg(&out);
    let text = stdout(&mut command);
    assert!(text.contains("bit equality"), "{text}");
}

/// onnxruntime 1.32 divides by zero in a Scan without steps. If another one does not, there is nothing to be said.
#[test]
#[cfg(unix)]
fn a_crash_of_onnxruntime_is_an_error_that_says_what_to_do() {
    const NO_STEPS: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2,N] x) => (float[2,N] y, float[?,?,?] z)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[3] shape = {0, -1, 160}> {
            none = Slice (x, zero, zero, one)
            steps = Reshape (none, shape)
            y, z = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                body = b (float[2,n] p, float[2,160] e) => (float[2,n] q, float[2,160] o) { q = Identity (p) o = Identity (e) }
            > (x, steps)
        }"#;
    if onnxruntime().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("m.onnxtxt"), folder.path().join("out.onnx"));
    fs::write(&model, NO_STEPS).unwrap();
    let mut command = planish();
    command.arg("compile").arg(&model).args(["--preset", "simplify", "--verify", "onnxruntime", "-o"]).arg(&out);
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => {}
        Some(4) => {
            assert!(message.contains("ONNX Runtime divided by zero") && message.contains("--dim"), "{message}");
            assert!(!out.exists());
        }
        code => panic!("{code:?}: {message}"),
    }
}
