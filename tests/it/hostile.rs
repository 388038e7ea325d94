//! Damaged and malicious files: a clear error that names the place, exit code 3, no panic, and quickly.

use std::{fs, path::Path};

use planish_proto::{
    Sources,
    onnx::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
        ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
    },
};

use crate::support::{failure, fixture, planish};

fn model(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> ModelProto {
    let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(GraphProto {
            name: Some("g".into()),
            node: nodes,
            initializer: initializers,
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(name.into()),
        input: inputs.iter().map(|&s| s.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn floats(name: &str, dims: &[i64], bytes: usize) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: dims.to_vec(),
        raw_data: Some(vec![0; bytes].into()),
        ..Default::default()
    }
}

fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(k, v): &(&str, &str)| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    TensorProto {
        raw_data: None,
        data_location: Some(DataLocation::External.into()),
        external_data: entries.iter().map(entry).collect(),
        ..floats(name, dims, 0)
    }
}

/// The message with which `compile` refuses the file.
fn refusal(path: &Path) -> String {
    let folder = path.parent().unwrap();
    let out = folder.join("never.onnx");
    let mut command = planish();
    command.timeout(std::time::Duration::from_secs(60));
    let message = failure(command.arg("compile").arg(path).args(["--preset", "simplify", "-o"]).arg(&out), 3);
    assert!(!out.exists(), "something was written");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn refused(message: ModelProto, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.onnx");
    planish_proto::save(message, &Sources::default(), &path, &Default::default()).unwrap();
    let error = refusal(&path);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

/// Written by prost itself, as `save` resolves external data.
fn refused_external(entries: &[(&str, &str)], parts: &[&str]) {
    use prost::Message;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.onnx");
    fs::write(folder.path().join("w.bin"), [0u8; 64]).unwrap();
    let mul = node("Mul", "mul", &["x", "w"], "y");
    fs::write(&path, model(vec![mul], vec![external("w", &[4], entries)]).encode_to_vec()).unwrap();
    let error = refusal(&path);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn broken_structure_is_named() {
    let relu = |i: &str, o: &str| node("Relu", o, &[i], o);
    refused(model(vec![relu("nowhere", "y")], vec![]), &["node \"y\" (Relu)", "nowhere"]);
    refused(model(vec![relu("a", "y"), relu("y", "a")], vec![]), &["cycle", "\"a\"", "\"y\""]);
    refused(model(vec![relu("x", "y"), relu("x", "y")], vec![]), &["\"y\"", "twice"]);
    refused(model(vec![relu("x", "y")], vec![floats("w", &[1], 4), floats("w", &[1], 4)]), &["\"w\"", "twice"]);
    refused(model(vec![node("Add", "add", &["x"], "y")], vec![]), &["add", "1 inputs", "Add"]);
}

#[test]
fn broken_tensors_are_named() {
    let relu = || vec![node("Relu", "r", &["x"], "y")];
    refused(model(relu(), vec![floats("w", &[-1, 4], 16)]), &["\"w\"", "negative"]);
    refused(model(relu(), vec![floats("w", &[i64::MAX, i64::MAX], 16)]), &["\"w\"", "overflow"]);
    refused(model(relu(), vec![floats("w", &[50_000, 50_000], 4)]), &["\"w\"", "10000000000"]);
}

#[test]
fn external_data_stays_in_its_folder_and_in_its_file() {
    refused_external(&[("location", "/etc/passwd")], &["\"w\"", "/etc/passwd"]);
    refused_external(&[("location", "../w.bin")], &["\"w\"", "../w.bin"]);
    refused_external(&[("location", "C:\\w.bin")], &["\"w\""]);
    refused_external(&[("location", "missing.bin")], &["\"w\"", "missing.bin"]);
    refused_external(&[("location", "w.bin"), ("offset", "60"), ("length", "16")], &["\"w\"", "w.bin"]);
    refused_external(&[("location", "w.bin"), ("offset", "18446744073709551615"), ("length", "16")], &["\"w\""]);
    refused_external(&[("location", "w.bin"), ("length", "8")], &["\"w\""]);
}

#[cfg(unix)]
#[test]
fn external_data_does_not_follow_links_out_of_its_folder() {
    use prost::Message;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), [0u8; 64]).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("w.bin")).unwrap();
    let path = folder.path().join("bad.onnx");
    let w = external("w", &[4], &[("location", "w.bin"), ("length", "16")]);
    fs::write(&path, model(vec![node("Mul", "mul", &["x", "w"], "y")], vec![w]).encode_to_vec()).unwrap();
    let error = refusal(&path);
    assert!(error.contains("\"w\"") && error.contains("w.bin"), "{error}");
}

#[test]
fn deep_nesting_is_refused() {
    // Length-delimited fields inside each other, without a decoder that would have to build them: graph -> node ->
    // attribute -> graph -> …
    let mut bytes: Vec<u8> = Vec::new();
    for level in 0..10_000 {
        let tag = [0x3a, 0x32, 0x2a][level % 3];
        let mut outer = vec![tag];
        let mut n = bytes.len();
        while n >= 0x80 {
            outer.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        outer.push(n as u8);
        outer.extend(bytes);
        bytes = outer;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep.onnx");
    fs::write(&path, bytes).unwrap();
    refusal(&path);

    let mut inner = model(vec![node("Relu", "r", &["x"], "y")], vec![]).graph.unwrap();
    for _ in 0..33 {
        let attribute = AttributeProto {
            name: Some("body".into()),
            r#type: Some(AttributeType::Graph.into()),
            g: Some(inner),
            ..Default::default()
        };
        let owner = NodeProto { attribute: vec![attribute], ..node("Custom", "n", &["x"], "y") };
        inner = model(vec![owner], vec![]).graph.unwrap();
    }
    let message = ModelProto { graph: Some(inner), ..model(vec![], vec![]) };
    use prost::Message as _;
    fs::write(&path, message.encode_to_vec()).unwrap();
    assert!(refusal(&path).contains("deep"));
}

#[test]
fn damaged_files_never_panic() {
    let bytes = fs::read(fixture("models/mnist_cnn.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.onnx");
    for length in [0, 1, 100, 5000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        refusal(&path);
    }
    fs::write(&path, "<html>not a model</html>").unwrap();
    refusal(&path);
    assert!(refusal(&folder.path().join("missing.onnx")).contains("missing.onnx"));

    // Bits of the structure, in process because there are many: import either refuses or gives a valid model.
    let tail = bytes.len() - 4000;
    for (i, at) in (0..4000).step_by(7).chain((tail..bytes.len()).step_by(7)).enumerate() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (i % 8);
        let Ok(message) = planish_proto::decode(damaged.into()) else { continue };
        let Ok(model) = planish_ir::onnx::import(message, &|_| Err("no external data".into())) else { continue };
        if let Ok(verified) = planish_ir::verify(&model) {
            planish_ir::onnx::export(&verified);
        }
    }
}
