//! Files made to break the reader: every one is refused with a message that says why, and none panics or reserves memory.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs::{self, File};
use std::path::Path;

use planish_proto::limits::NEWEST_IR_VERSION;
use planish_proto::onnx::tensor_proto::{DataLocation, DataType};
use planish_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, TypeProto, type_proto,
};
use planish_proto::{Bytes, Sources, decode, open};
use prost::Message;

fn small_model() -> ModelProto {
    let tensor = TensorProto {
        name: Some("w".into()),
        dims: vec![2],
        data_type: Some(DataType::Float.into()),
        raw_data: Some(Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64])),
        ..TensorProto::default()
    };
    let attribute = AttributeProto { name: Some("axis".into()), i: Some(-1), ..AttributeProto::default() };
    let node = NodeProto {
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        op_type: Some("Add".into()),
        attribute: vec![attribute],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node], initializer: vec![tensor], ..GraphProto::default() };
    ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() }
}

/// A tensor of ten floats whose data is elsewhere.
fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |&(key, value): &(&str, &str)| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    TensorProto {
        name: Some("w".into()),
        dims: vec![10],
        data_type: Some(DataType::Float.into()),
        data_location: Some(DataLocation::External.into()),
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

#[track_caller]
fn assert_refused<T>(result: planish_proto::Result<T>, because: &str) {
    let text = result.err().unwrap().to_string();
    assert!(text.contains(because), "{text}");
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    assert_refused(open(file("empty", b"")), "is empty");
    assert_refused(open(file("text", b"<html>404</html>")), "not a valid ONNX model");
    assert_refused(
        open(file("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0")),
        "Git LFS pointer",
    );
    assert_refused(open(file("no-graph", &ModelProto::default().encode_to_vec())), "is empty");
    assert_refused(open(file("no-graph", &[8, 8])), "no graph");
    assert_refused(open(folder.path()), "is a folder");
    assert_refused(open(folder.path().join("missing")), "cannot open");
    #[cfg(unix)]
    assert_refused(open("/dev/zero"), "is a special file");
}

#[test]
fn an_ir_version_from_the_future_is_refused() {
    let version = |version| ModelProto { ir_version: version, ..small_model() }.encode_to_vec().into();
    assert!(decode(version(Some(NEWEST_IR_VERSION))).is_ok());
    assert!(decode(version(None)).is_ok());
    assert_refused(decode(version(Some(NEWEST_IR_VERSION + 1))), "newer than");
}

#[test]
fn truncation_is_noticed_wherever_it_cuts_a_field() {
    let whole = Bytes::from(small_model().encode_to_vec());
    let mut refused = 0;
    for length in 0..whole.len() {
        refused += usize::from(decode(whole.slice(..length)).is_err());
    }
    // The graph is one field and comes last.
    assert_eq!(refused, whole.len());
    assert_refused(decode(whole.slice(..whole.len() - 1)), "truncated");
}

#[test]
fn no_flipped_bit_and_no_flipped_byte_panics() {
    let whole = small_model().encode_to_vec();
    for at in 0..whole.len() {
        for flip in 1..=u8::MAX {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            let Ok(model) = decode(damaged.into()) else { continue };
            for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
                let _ = Sources::default().raw(tensor);
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    // Encoded by hand, as encoding recursively would overflow the stack that decoding must not.
    let mut sequence = Vec::new();
    for _ in 0..10_000 {
        sequence = [&[0x22], length(sequence.len()).as_slice(), &with_tag(0x0a, &sequence)].concat();
    }
    let graph = with_tag(0x3a, &with_tag(0x5a, &with_tag(0x12, &sequence)));
    assert_refused(decode(graph.into()), "nested more than");

    let mut fine = TypeProto::default();
    for _ in 0..20 {
        let value = type_proto::Sequence { elem_type: Some(Box::new(fine)) };
        fine = TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(value))), denotation: None };
    }
    let attribute = AttributeProto { tp: Some(fine), ..AttributeProto::default() };
    let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
    let model = ModelProto { graph: Some(GraphProto { node: vec![node], ..GraphProto::default() }), ..small_model() };
    assert_eq!(decode(model.encode_to_vec().into()).unwrap(), model);
}

fn with_tag(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag], length(content.len()).as_slice(), content].concat()
}

fn length(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encode_length_delimiter(value, &mut bytes).unwrap();
    bytes
}

#[test]
fn external_data_stays_in_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(outside.path().join("secret"), [1; 40]).unwrap();
    fs::write(folder.join("sub/data"), [2; 40]).unwrap();
    let sources = Sources::in_folder(&folder);
    let at = |location: &str| sources.external(&external(&[("location", location)]));

    assert_eq!(at("sub/data").unwrap(), [2; 40].as_slice());
    assert_eq!(at("./sub/./data").unwrap(), [2; 40].as_slice());
    assert_refused(at("../secret"), "\"..\"");
    assert_refused(at("sub/../../secret"), "\"..\"");
    assert_refused(at(outside.path().join("secret").to_str().unwrap()), "absolute");
    assert_refused(at("C:\\secret"), "backslash");
    assert_refused(at("c:secret"), "absolute");
    assert_refused(at("..\\secret"), "backslash");
    assert_refused(at("sub/data\0.txt"), "not a file name");
    assert_refused(at(""), "not a file name");
    assert_refused(at("nothing"), "cannot be found");
    assert_refused(at("sub"), "is a folder");
    assert_refused(Sources::default().external(&external(&[("location", "sub/data")])), "without a folder");
}

#[cfg(unix)]
#[test]
fn links_are_followed_inside_the_folder_only() {
    use std::os::unix::fs::symlink;

    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(outside.path().join("secret"), [1; 40]).unwrap();
    fs::write(folder.join("data"), [2; 40]).unwrap();
    symlink("data", folder.join("inside")).unwrap();
    symlink("../secret", folder.join("file")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    symlink("loop", folder.join("loop")).unwrap();
    let sources = Sources::in_folder(&folder);
    let at = |location: &str| sources.external(&external(&[("location", location)]));

    assert_eq!(at("inside").unwrap(), [2; 40].as_slice());
    assert_refused(at("file"), "outside of the model's folder");
    assert_refused(at("up/secret"), "outside of the model's folder");
    assert_refused(at("loop"), "cannot be found");
}

#[test]
fn offsets_and_lengths_are_numbers_within_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), [1; 100]).unwrap();
    let sources = Sources::in_folder(folder.path());
    let at = |offset: &str, length: &str| {
        sources.external(&external(&[("location", "data"), ("offset", offset), ("length", length)]))
    };

    assert_eq!(at("60", "40").unwrap().len(), 40);
    assert_refused(at("61", "40"), "has only 100");
    assert_refused(at("18446744073709551615", "40"), "has only 100");
    assert_refused(at("0", "44"), "need 40 bytes, but it has 44");
    assert_refused(at("0", "0"), "need 40 bytes, but it has 0");
    for bad in ["", "-1", "+1", "0x10", "1e2", " 1", "18446744073709551616"] {
        assert_refused(at(bad, "40"), "\"offset\"");
        assert_refused(at("0", bad), "\"length\"");
    }
    assert_refused(sources.external(&external(&[])), "\"location\" is missing");
    assert_refused(sources.external(&external(&[("location", "data"), ("location", "data")])), "given twice");
}

#[test]
fn sizes_are_checked_before_anything_is_reserved() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), [1; 1000]).unwrap();
    let sources = Sources::in_folder(folder.path());
    let shaped = |data_type: i32, dims: &[i64], length: &str| {
        let tensor = external(&[("location", "data"), ("length", length)]);
        sources.external(&TensorProto { dims: dims.to_vec(), data_type: Some(data_type), ..tensor })
    };
    let float = DataType::Float.into();

    assert_refused(shaped(float, &[2_500_000_000], "10000000000"), "has only 1000");
    assert_refused(shaped(float, &[1 << 40, 1 << 40], "1000"), "overflows");
    assert_refused(shaped(float, &[5, -1], "1000"), "must not be negative");
    assert_refused(shaped(DataType::String.into(), &[5], "1000"), "strings");
    assert_refused(shaped(77, &[5], "5"), "data type 77 is unknown");
    assert_eq!(shaped(DataType::Uint4.into(), &[5, 3], "8").unwrap().len(), 8);
    assert!(shaped(float, &[0, i64::MAX], "0").unwrap().is_empty());
}

#[test]
fn inline_data_must_fit_type_and_shape() {
    let sources = Sources::default();
    let mut tensor = small_model().graph.unwrap().initializer.remove(0);
    assert_eq!(sources.raw(&tensor).unwrap().unwrap().len(), 8);
    tensor.dims = vec![3];
    assert_refused(sources.raw(&tensor), "tensor \"w\": its data type and shape need 12 bytes, but it has 8");
    tensor.dims = vec![i64::MAX, 3];
    assert_refused(sources.raw(&tensor), "overflows");
    tensor.raw_data = None;
    assert_eq!(sources.raw(&tensor).unwrap(), None);
}

#[test]
fn an_empty_data_file_holds_empty_tensors() {
    let folder = tempfile::tempdir().unwrap();
    File::create(folder.path().join("data")).unwrap();
    let tensor = TensorProto { dims: vec![0], ..external(&[("location", "data"), ("offset", "0"), ("length", "0")]) };
    assert!(Sources::in_folder(folder.path()).external(&tensor).unwrap().is_empty());
}

#[test]
fn large_weights_are_slices_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut model = small_model();
    let content: Vec<u8> = (0..40_000).map(|i| (i % 251) as u8).collect();
    let large = TensorProto { dims: vec![10_000], raw_data: Some(content.clone().into()), ..external(&[]) };
    model.graph.as_mut().unwrap().initializer.push(TensorProto { data_location: None, ..large });
    fs::write(&path, model.encode_to_vec()).unwrap();
    let loaded = open(&path).unwrap();
    assert!(loaded.model == model);
    assert_eq!(loaded.path, path);
    assert_eq!(loaded.sources.folder(), Some(folder.path() as &Path));

    let graph = loaded.model.graph.unwrap();
    let [small, large] = [0, 1].map(|i| loaded.sources.raw(&graph.initializer[i]).unwrap().unwrap());
    assert!(loaded.sources.locate(&small).is_none());
    let (file, offset) = loaded.sources.locate(&large).unwrap();
    assert_eq!(file.path(), path);
    let offset = usize::try_from(offset).unwrap();
    assert!(fs::read(&path).unwrap()[offset..offset + large.len()] == large);
    let (_, inner) = loaded.sources.locate(&large.slice(100..200)).unwrap();
    assert_eq!(inner, offset as u64 + 100);

    loaded.sources.release(&large);
    assert!(large == content);
    let mut read = Vec::new();
    loaded.sources.read(&large, |piece| read.extend_from_slice(piece)).unwrap();
    assert!(read == content);
    // The mapping lives as long as a slice of it.
    drop(loaded.sources);
    assert!(large == content);
}
