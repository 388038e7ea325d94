//! The command line: what it prints, what it refuses, and with which code.

use std::fs;

use predicates::prelude::*;
use prost::Message;
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
    assert_eq!(provenance["pipeline"]["calibration"]["npz"], "mnist_calib.npz");
}

/// Exporters used to write models so, and runtimes cannot optimize them.
#[test]
fn weights_that_are_listed_as_inputs_are_constants_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (listed, out) = (folder.path().join("listed.onnx"), folder.path().join("out.onnx"));
    let mut model = planish_proto::open(cnn()).unwrap().model;
    model.ir_version = Some(7);
    let graph = model.graph.as_mut().unwrap();
    for tensor in &graph.initializer {
        let name = tensor.name.clone();
        graph.input.push(planish_proto::onnx::ValueInfoProto { name, ..Default::default() });
    }
    fs::write(&listed, model.encode_to_vec()).unwrap();
    let prunable = stdout(planish().args(["inspect", "--prunable"]).arg(&listed));
    assert_eq!(prunable, stdout(planish().args(["inspect", "--prunable"]).arg(cnn())));
    let text = stdout(planish().args(["compile", "--preset", "simplify"]).arg(&listed).arg("-o").arg(&out));
    assert!(text.contains(" initializers were inputs too") && text.contains("verified by tract"), "{text}");
    let written = planish_proto::open(&out).unwrap().model.graph.unwrap();
    assert_eq!((written.input.len(), written.node.len()), (1, 48));
    stdout(planish().arg("verify").args([&listed, &out]));
    // Other passes leave them alone, and the report says so.
    let pipeline = folder.path().join("p.yaml");
    fs::write(&pipeline, "version: 1\npasses: [no-ops]\n").unwrap();
    let text = stdout(planish().arg("compile").arg(&listed).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out));
    assert!(text.contains("callers may override") && text.contains("freeze-initializers"), "{text}");
}

#[test]
fn a_failed_gate_writes_nothing_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (pipeline, out) = (folder.path().join("p.yaml"), folder.path().join("out.onnx"));
    fs::write(&pipeline, "version: 1\npasses: [{quantize-weights: {bits: 8}}]\nverify: {min_cosine: 0.9999999}\n")
        .unwrap();
    let run = |extra: &[&str]| {
        failure(planish().arg("compile").arg(cnn()).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out).args(extra), 4)
    };
    let message = run(&[]);
    assert!(
        message.contains("cosine") && message.contains("\"logits\"") && message.contains("nothing was written"),
        "{message}"
    );
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
fn a_report_that_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("model.onnx"), folder.path().join("out.onnx"));
    fs::copy(cnn(), &model).unwrap();
    let report = |path: &std::path::Path, code: i32| {
        let mut command = planish();
        command.arg("compile").arg(&model).args(["--preset", "simplify", "-o"]).arg(&out).arg("--report").arg(path);
        let message = failure(&mut command, code);
        assert!(!out.exists());
        message
    };
    let message = report(&out, 2);
    assert!(message.contains("would replace the result"), "{message}");
    let message = report(&folder.path().join("x/../out.onnx"), 3);
    assert!(message.contains("no folder"), "{message}");
    let message = report(&model, 2);
    assert!(message.contains("would replace a file that is read"), "{message}");
    assert_eq!(fs::read(&model).unwrap(), fs::read(cnn()).unwrap());
    assert!(report("-".as_ref(), 3).contains("a file is needed"));
    assert!(report("missing/report.json".as_ref(), 3).contains("there is no folder missing"));
}

#[cfg(unix)]
#[test]
fn devices_and_links_survive_being_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &std::path::Path| {
        let mut command = planish();
        command.arg("init").arg(cnn()).arg("-o").arg(path);
        command
    };
    assert!(failure(&mut write("/dev/null".as_ref()), 3).contains("a special file"));
    assert!(failure(&mut write("/dev/stdout".as_ref()), 3).contains("a special file"));
    let (file, link) = (folder.path().join("p.yaml"), folder.path().join("link.yaml"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write(&link).assert().success();
    assert!(link.is_symlink() && fs::read_to_string(&file).unwrap().contains("version: 1"));
}

#[test]
fn the_result_does_not_depend_on_where_the_pipeline_lies() {
    let folder = tempfile::tempdir().unwrap();
    let sub = folder.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let data = sub.join("calib");
    fs::create_dir(&data).unwrap();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 28, 28), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend(118u16.to_le_bytes());
    npy.extend(format!("{header:117}\n").bytes());
    npy.extend([0; 4 * 28 * 28]);
    let input = planish_proto::open(cnn()).unwrap().model.graph.unwrap().input[0].name().to_owned();
    fs::write(data.join(format!("{input}.npy")), npy).unwrap();
    let text =
        "version: 1\ncalibration: {npy: calib}\npasses: [simplify]\nverify: {engine: off}\nreport: {json: r.json}\n";
    fs::write(sub.join("p.yaml"), text).unwrap();
    let compile = |at: &std::path::Path, pipeline: &str, out: &str| {
        let out = folder.path().join(out);
        let mut command = planish();
        command.current_dir(at).arg("compile").arg(cnn()).args(["--pipeline", pipeline, "-o"]).arg(&out);
        command.assert().success();
        fs::read(out).unwrap()
    };
    let here = compile(&sub, "p.yaml", "a.onnx");
    assert_eq!(here, compile(folder.path(), "sub/p.yaml", "b.onnx"));
    let model = planish_proto::open(folder.path().join("a.onnx")).unwrap().model;
    let provenance = model.metadata_props.iter().find(|p| p.key() == "planish").unwrap().value();
    let provenance: Value = serde_json::from_str(provenance).unwrap();
    assert_eq!(provenance["calibration_blake3"].as_str().unwrap().len(), 64);
    assert_eq!(provenance["pipeline"]["calibration"]["npy"], "calib");
    assert_eq!(provenance["pipeline"]["report"], Value::Null);
}

#[test]
fn figures_that_mean_nothing_are_refused() {
    let verify = |args: &[&str]| failure(planish().arg("verify").arg(cnn()).arg(cnn()).args(args), 2);
    assert!(verify(&["--min-cosine", "NaN"]).contains("--min-cosine"));
    assert!(verify(&["--top1-agreement", "1.5"]).contains("from 0 to 1"));
    assert!(verify(&["--max-abs=-1"]).contains("--max-abs"));
    assert!(verify(&["--threads", "1025"]).contains("--threads"));
    assert!(verify(&["--samples", "0"]).contains("--samples"));
    let message = verify(&["--dim", "batch=1000000000000"]);
    assert!(message.contains("GiB") && message.contains("1000000000000"), "{message}");
}

#[test]
fn sizes_of_dims_that_no_model_has_are_refused() {
    let refused = |command: &mut assert_cmd::Command| {
        let message = failure(command.args(["--dim", "bach=2"]), 2);
        assert!(message.contains("\"bach\"") && message.contains("batch"), "{message}");
    };
    refused(planish().arg("inspect").arg(cnn()));
    refused(planish().arg("diff").arg(cnn()).arg(cnn()));
    refused(planish().arg("compile").arg(cnn()).args(["--preset", "simplify", "--verify", "off", "-o", "never.onnx"]));
    planish().arg("inspect").arg(cnn()).args(["--dim", "batch=2"]).assert().success();
}

#[test]
fn weights_of_subgraphs_count_as_files_of_the_model() {
    use planish_proto::onnx as wire;
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("model.onnx"), folder.path().join("out.onnx"));
    let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[600] x) => (float[600] y) {
        y = If (c) <
            then_branch = t () => (float[600] a) { a = Relu (x) },
            else_branch = e () => (float[600] b) { b = Neg (x) }
        >
    }"#;
    let graph = planish_ir::text::parse(text).unwrap();
    let mut message = planish_ir::onnx::export(&planish_ir::verify(&graph).unwrap());
    let branch = message.graph.as_mut().unwrap().node[0].attribute[0].g.as_mut().unwrap();
    fs::write(folder.path().join("w.bin"), [0; 2400]).unwrap();
    let entry = |k: &str, v: &str| wire::StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    branch.initializer.push(wire::TensorProto {
        name: Some("w".into()),
        dims: vec![600],
        data_type: Some(1),
        data_location: Some(1),
        external_data: vec![entry("location", "w.bin")],
        ..Default::default()
    });
    branch.node[0].op_type = Some("Add".into());
    branch.node[0].input.push("w".into());
    let mut bytes = Vec::new();
    prost::Message::encode(&message, &mut bytes).unwrap();
    fs::write(&model, &bytes).unwrap();
    let json = stdout(planish().arg("compile").arg(&model).args(["--preset", "simplify", "--json", "-o"]).arg(&out));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["input_blake3"].as_array().unwrap().len(), 2);
    assert_eq!(json["file_bytes"][0], bytes.len() as u64 + 2400);
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
fn operators_are_listed() {
    let all: Value = serde_json::from_str(&stdout(planish().args(["operators", "--json"]))).unwrap();
    let conv = all.as_array().unwrap().iter().find(|o| o["domain"] == "" && o["name"] == "Conv").unwrap();
    assert_eq!((&conv["axes"], &conv["macs"], &conv["pure"]), (&true.into(), &true.into(), &true.into()));
    assert_eq!(conv["signatures"][0]["inputs"], serde_json::json!([2, 3]));
    assert!(stdout(planish().arg("operators")).contains("com.microsoft::MatMulNBits"));
}

#[test]
fn inspect_counts() {
    let text = stdout(planish().arg("inspect").arg(cnn()));
    for part in ["62 nodes", "dynamic dims: batch", "BatchNormalization", "ai.onnx 17", "14.3 M"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json: Value = serde_json::from_str(&stdout(planish().arg("inspect").arg(cnn()).arg("--json"))).unwrap();
    assert_eq!(json["nodes"], 62);
    let types = stdout(planish().arg("inspect").arg(cnn()).args(["--types", "--json"]));
    let types: Value = serde_json::from_str(&types).unwrap();
    assert!(types.as_array().unwrap().iter().all(|v| v["shape"].is_array()));
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
    assert!(message.contains("different interfaces") && !message.contains("not valid"), "{message}");
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
    let version = &schema["properties"]["version"];
    assert!(version["$ref"].is_string() || version["const"].is_number());
    planish().args(["completions", "bash"]).assert().success().stdout(predicate::str::contains("planish"));
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    for args in [&["completions", "bash"][..], &["schema"], &["passes"]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_planish"))
            .args(args)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success(), "{args:?}");
    }
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
        planish()
            .arg("compile")
            .arg(cnn())
            .args(["--preset", "simplify", "--stop-after", "3", "--json", "-o"])
            .arg(&out),
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

#[test]
fn open_sizes_take_two_values_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (pipeline, out) = (folder.path().join("p.yaml"), folder.path().join("out.onnx"));
    let compile = |what: &[&str]| {
        let mut command = planish();
        command.arg("compile").arg(cnn()).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out).args(what);
        command
    };
    fs::write(&pipeline, "version: 1\npasses: [simplify]\n").unwrap();
    let text = stdout(&mut compile(&[]));
    assert!(
        text.contains("batch is open and was taken as 2 and 3 in turn") && text.contains("10 samples in 4 runs"),
        "{text}"
    );
    let text = stdout(&mut compile(&["--samples", "1", "--dim", "batch=4"]));
    assert!(!text.contains("in turn") && text.contains("4 samples in 1 run"), "{text}");
    fs::write(&pipeline, "version: 1\npasses: [simplify]\nverify: {samples: 1, dims: {batch: [1, 5]}}\n").unwrap();
    let text = stdout(&mut compile(&[]));
    assert!(text.contains("1 and 5 in turn") && text.contains("6 samples in 2 runs"), "{text}");
    let data = fixture("data/mnist_calib.npz");
    assert!(failure(&mut compile(&["--calib", data.to_str().unwrap()]), 2).contains("verify.dims"));
    fs::write(&pipeline, "version: 1\npasses: [simplify]\nverify: {dims: {bach: [1, 5]}}\n").unwrap();
    assert!(failure(&mut compile(&[]), 2).contains("bach"));
}

#[test]
fn sizes_with_which_a_model_cannot_run_are_not_insisted_on() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("m.onnxtxt"), folder.path().join("out.onnx"));
    fs::write(
        &model,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,W] x) => (float[P,32] y) <int64[2] rows = {-1, 32}> {
            i = Identity (x)
            r = Relu (i)
            y = Reshape (r, rows)
        }"#,
    )
    .unwrap();
    let compile = |what: &[&str]| {
        let mut command = planish();
        command.arg("compile").arg(&model).args(["--preset", "simplify", "-o"]).arg(&out).args(what);
        command
    };
    let text = stdout(&mut compile(&[]));
    assert!(text.contains("W is open and was taken as 32 and 64 in turn") && text.contains("verified"), "{text}");
    // Sizes that the user chose are kept to.
    assert!(failure(&mut compile(&["--dim", "W=8"]), 4).contains("--dim"));
}

#[test]
fn explain_tells_what_happened_to_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let explain = |node: &str| {
        let mut command = planish();
        command
            .arg("compile")
            .arg(cnn())
            .args(["--preset", "simplify", "--verify", "off", "--explain", node, "-o"])
            .arg(&out);
        command
    };
    let text = stdout(&mut explain("/net/net.1/BatchNormalization"));
    assert!(text.contains("removed by patch ") && text.contains(" of bn-into-conv"), "{text}");
    // By an output, by a pattern, as JSON.
    let text = stdout(&mut explain("/net/net.0/Conv_output_0"));
    assert!(text.contains("\"/net/net.0/Conv\" (Conv)"), "{text}");
    let json: Value = serde_json::from_str(&stdout(explain("*.1/BatchNorm*").arg("--json"))).unwrap();
    let nodes = json["explained"].as_array().unwrap();
    let gone = nodes.iter().find(|n| n["node"] == "/net/net.1/BatchNormalization").unwrap();
    assert_eq!((&gone["patches"][0]["effect"], &gone["in_result"]), (&"removed".into(), &false.into()));
    fs::remove_file(&out).unwrap();
    let message = failure(&mut explain("/net/net.0/Konv"), 2);
    assert!(message.contains("did you mean \"/net/net.0/Conv\""), "{message}");
    assert!(!out.exists());
}

#[test]
fn bisect_names_the_patch_and_keeps_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let (pipeline, kept) = (folder.path().join("p.yaml"), folder.path().join("kept"));
    fs::write(
        &pipeline,
        "version: 1\npasses: [bn-into-conv, {quantize-weights: {bits: 8}}]\nverify: {max_abs: 1e-9}\n",
    )
    .unwrap();
    let bisect = |what: &[&str]| {
        let mut command = planish();
        command.arg("bisect").arg(cnn()).args(what);
        command
    };
    let pipeline = pipeline.to_str().unwrap();
    let text = stdout(&mut bisect(&["--pipeline", pipeline, "--keep", kept.to_str().unwrap()]));
    assert!(
        text.contains("the first wrong patch is 1 of bn-into-conv") && text.contains("difference <= 0.000000001"),
        "{text}"
    );
    planish().arg("verify").arg(cnn()).arg(kept.join("before.onnx")).args(["--max-abs", "0"]).assert().success();
    failure(planish().arg("verify").arg(cnn()).arg(kept.join("after.onnx")).args(["--max-abs", "1e-9"]), 4);
    let json: Value = serde_json::from_str(&stdout(&mut bisect(&["--pipeline", pipeline, "--json"]))).unwrap();
    assert_eq!((&json["fails"], &json["patch"]["number"]), (&true.into(), &1.into()));
    let text = stdout(&mut bisect(&["--preset", "simplify"]));
    assert!(text.contains("nothing fails: all "), "{text}");
    assert!(failure(&mut bisect(&["--preset", "simplify", "--verify", "off"]), 2).contains("--verify"));
}

#[cfg(unix)]
#[test]
fn reduce_shrinks_a_model_on_which_a_command_fails() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small.onnxtxt");
    let reduce = |what: &[&str]| {
        let mut command = planish();
        command.arg("reduce").arg(cnn()).args(what).arg("-o").arg(&out);
        command
    };
    let text = stdout(&mut reduce(&["--test", "! grep -q HardSwish"]));
    assert!(text.contains(": 1 of 62 nodes, no weight needs its values"), "{text}");
    let small = fs::read_to_string(&out).unwrap();
    assert!(small.contains("= HardSwish"), "{small}");
    // Commands take such a file for a model.
    assert!(stdout(planish().arg("inspect").arg(&out)).contains("1 nodes"));
    let compiled = folder.path().join("small.onnx");
    let text = stdout(planish().arg("compile").arg(&out).args(["--preset", "simplify", "-o"]).arg(&compiled));
    assert!(text.contains("verified by tract"), "{text}");
    planish().arg("verify").arg(&out).arg(&compiled).assert().success();

    let message = failure(&mut reduce(&["--test", "true"]), 2);
    assert!(message.contains("the command succeeds"), "{message}");
    assert!(failure(&mut reduce(&["--preset", "simplify"]), 2).contains("nothing fails"));
    assert_eq!(fs::read_to_string(&out).unwrap(), small);
    reduce(&[]).assert().code(2);
    reduce(&["--test", "false", "--preset", "simplify"]).assert().code(2);
}

#[test]
fn lint_finds_what_a_target_refuses_and_legalize_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out, pipeline) =
        (folder.path().join("m.onnxtxt"), folder.path().join("out.onnx"), folder.path().join("p.yaml"));
    fs::write(
        &model,
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float s = {0.5}, uint8 z = {128}> { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
    )
    .unwrap();
    let lint = |model: &std::path::Path, extra: &[&str]| {
        let mut command = planish();
        command.args(["lint", "--target", "tensorrt"]).args(extra).arg(model);
        command
    };
    let message = failure(&mut lint(&model, &[]), 4);
    assert!(message.contains("tensorrt refuses 4 places"), "{message}");
    let text = lint(&model, &["--json"]).output().unwrap().stdout;
    let findings: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((findings[0]["rule"].as_str(), findings[0]["tensor"].as_str()), (Some("quantized-types"), Some("q")));
    stdout(&mut lint(&model, &["--allow", "quantized-types", "--allow", "zero-points"]));
    fs::write(&pipeline, "version: 1\ntarget: tensorrt\npasses: [legalize]\n").unwrap();
    stdout(planish().arg("compile").arg(&model).arg("--pipeline").arg(&pipeline).arg("-o").arg(&out));
    stdout(&mut lint(&out, &[]));
    let rules = stdout(planish().args(["lint", "--target", "onnxruntime-cpu", "--rules"]));
    assert!(rules.contains("mixed-grids (slow)") && !rules.contains("zero-points"), "{rules}");
}
