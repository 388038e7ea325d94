//! The command line: what it prints, what it refuses, and with which code.

use std::fs;

use predicates::prelude::*;
use serde_json::Value;

use crate::support::{failure, fixture, planish, stdout};

fn cnn() -> std::path::PathBuf {
    fixture("models/mnist_cnn.onnx")
}

#[test]
fn compile_verifies_writes_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (folder.path().join("out.onnx"), folder.path().join("report.json"));
    let text = stdout(
        planish()
            .args(["compile", "--preset", "simplify", "--calib"])
            .arg(fixture("data/mnist_calib.npz"))
            .arg(cnn())
            .arg("-o")
            .arg(&out)
            .arg("--report")
            .arg(&report),
    );
    assert!(text.contains("bn-into-conv") && text.contains("verified by tract"), "{text}");
    let json: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(json["verification"]["failures"], Value::Array(vec![]));
    assert_eq!(json["passes"][0]["before"]["nodes"], 62);
    assert_eq!(json["size"][1]["nodes"], 48);
    assert_eq!(json["input_blake3"][0].as_str().unwrap().len(), 64);
    let written = planish_proto::open(&out).unwrap().model;
    let provenance = written.metadata_props.iter().find(|p| p.key.as_deref() == Some("planish")).unwrap();
    let provenance: Value = serde_json::from_str(provenance.value.as_deref().unwrap()).unwrap();
    assert_eq!(provenance["input_blake3"], json["input_blake3"]);
    assert_eq!(provenance["pipeline"]["passes"][0], "simplify");
}

#[test]
fn a_failed_gate_writes_nothing_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (pipeline, out) = (folder.path().join("p.yaml"), folder.path().join("out.onnx"));
    fs::write(&pipeline, "version: 1\npasses: [int8-weights]\nverify: {min_cosine: 0.9999999}\n").unwrap();
    let run = |extra: &[&str]| {
        failure(planish().arg("compile").arg(cnn()).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out).args(extra), 4)
    };
    let message = run(&[]);
    assert!(message.contains("cosine") && message.contains("\"logits\"") && message.contains("nothing was written"), "{message}");
    assert!(!out.exists());
    run(&["--keep-failed"]);
    assert!(out.exists());
}

#[test]
fn a_broken_pipeline_is_located() {
    let folder = tempfile::tempdir().unwrap();
    let (pipeline, out) = (folder.path().join("p.yaml"), folder.path().join("out.onnx"));
    let refused = |text: &str| {
        fs::write(&pipeline, text).unwrap();
        failure(planish().arg("compile").arg(cnn()).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out), 2)
    };
    let message = refused("version: 1\npasses:\n  - simplfy\n");
    assert!(message.contains("did you mean `simplify`") && message.contains("line 3"), "{message}");
    let message = refused("version: 1\ntargets: generic\npasses: []\n");
    assert!(message.contains("did you mean `target`") && message.contains("line 2"), "{message}");
    let message = refused("version: 1\npasses:\n  - fold-constants: {max_byte: 3}\n");
    assert!(message.contains("did you mean `max_bytes`"), "{message}");
    assert!(!out.exists());
}

#[test]
fn wrong_arguments_exit_with_two() {
    planish().assert().code(2);
    planish().args(["compile", "a.onnx", "-o", "b.onnx"]).assert().code(2);
    planish().args(["compile", "a.onnx", "--preset", "nosuch", "-o", "b.onnx"]).assert().code(2);
    let message = failure(
        planish().arg("compile").arg(cnn()).args(["--preset", "simplify", "--dim", "bach=2", "-o", "never.onnx"]),
        2,
    );
    assert!(message.contains("bach") && message.contains("batch"), "{message}");
}

#[test]
fn files_that_cannot_be_used_exit_with_three() {
    let compile = |model: &std::path::Path, out: &str| {
        failure(planish().arg("compile").arg(model).args(["--preset", "simplify", "--verify", "off", "-o", out]), 3)
    };
    assert!(compile(&fixture("models/missing.onnx"), "never.onnx").contains("missing.onnx"));
    assert!(compile(&fixture("manifest.toml"), "never.onnx").contains("manifest.toml"));
    assert!(compile(&cnn(), "/no/such/folder/out.onnx").contains("/no/such/folder"));
}

#[test]
fn calibration_that_does_not_fit_is_refused() {
    let message = failure(
        planish()
            .arg("compile")
            .arg(fixture("models/magika.onnx"))
            .args(["--preset", "simplify", "-o", "never.onnx", "--calib"])
            .arg(fixture("data/mnist_calib.npz")),
        2,
    );
    assert!(message.contains("bytes"), "{message}");
}

#[test]
fn inspect_counts() {
    let text = stdout(planish().arg("inspect").arg(cnn()));
    for part in ["62 nodes", "dynamic dims: batch", "BatchNormalization", "ai.onnx 17", "14.3 M"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json: Value = serde_json::from_str(&stdout(planish().arg("inspect").arg(cnn()).arg("--json"))).unwrap();
    assert_eq!(json["nodes"], 62);
    let text = stdout(planish().arg("inspect").arg(cnn()).arg("--text"));
    assert!(planish_ir::text::parse(&text).is_ok());
}

#[test]
fn verify_tells_equal_from_different() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    planish().arg("compile").arg(cnn()).args(["--preset", "int8-weights", "-o"]).arg(&out).assert().success();
    let text = stdout(planish().arg("verify").arg(cnn()).arg(cnn()));
    assert!(text.contains("equality within float rounding"), "{text}");
    failure(planish().arg("verify").arg(cnn()).arg(&out), 4);
    planish().arg("verify").arg(cnn()).arg(&out).args(["--min-cosine", "0.99"]).assert().success();
    let message = failure(planish().arg("verify").arg(cnn()).arg(fixture("models/magika.onnx")), 4);
    assert!(message.contains("different interfaces"), "{message}");
}

#[test]
fn diff_shows_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    planish().arg("compile").arg(cnn()).args(["--preset", "simplify", "-o"]).arg(&out).assert().success();
    let text = stdout(planish().arg("diff").arg(cnn()).arg(&out));
    assert!(text.contains("BatchNormalization"), "{text}");
    let json: Value = serde_json::from_str(&stdout(planish().arg("diff").arg(cnn()).arg(&out).arg("--json"))).unwrap();
    assert_eq!((&json["before"]["nodes"], &json["after"]["nodes"]), (&62.into(), &48.into()));
}

#[test]
fn passes_schema_and_completions_are_printed() {
    let list = stdout(planish().arg("passes"));
    assert_eq!(list.lines().count(), planish_passes::PASSES.len());
    let text = stdout(planish().args(["passes", "explain", "bn-into-conv"]));
    assert!(text.contains("Before") && text.contains("Reference"), "{text}");
    assert!(failure(planish().args(["passes", "explain", "bn-into-con"]), 2).contains("bn-into-conv"));
    let schema: Value = serde_json::from_str(&stdout(planish().arg("schema"))).unwrap();
    assert_eq!(schema["properties"]["version"]["$ref"].as_str().or(schema["properties"]["version"]["const"].as_str()).is_some(), true);
    planish().args(["completions", "bash"]).assert().success().stdout(predicate::str::contains("planish"));
}

#[test]
fn init_writes_a_pipeline_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    for model in crate::support::models() {
        let (pipeline, out) = (folder.path().join("p.yaml"), folder.path().join("out.onnx"));
        planish().arg("init").arg(&model).arg("-o").arg(&pipeline).assert().success();
        let mut command = planish();
        command.arg("compile").arg(&model).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out);
        command.args(crate::support::dims(&model)).assert().success();
    }
}

#[test]
fn stopping_after_a_patch_stops() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let text = stdout(
        planish().arg("compile").arg(cnn()).args(["--preset", "simplify", "--stop-after", "3", "--json", "-o"]).arg(&out),
    );
    let json: Value = serde_json::from_str(&text).unwrap();
    let patches: u64 = json["passes"].as_array().unwrap().iter().map(|p| p["patches"].as_u64().unwrap()).sum();
    assert_eq!(patches, 3);
    assert_eq!(json["size"][1]["nodes"], 59);
}

#[test]
fn the_output_may_replace_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::copy(cnn(), &path).unwrap();
    planish().arg("compile").arg(&path).args(["--preset", "simplify", "-o"]).arg(&path).assert().success();
    assert_eq!(planish_proto::open(&path).unwrap().model.graph.unwrap().node.len(), 48);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
}

#[test]
fn external_data_is_written_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    planish()
        .arg("compile")
        .arg(cnn())
        .args(["--preset", "simplify", "--external-data", "always", "-o"])
        .arg(&out)
        .assert()
        .success();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    planish().arg("verify").arg(cnn()).arg(&out).assert().success();
}
