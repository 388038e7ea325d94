//! What is written is what was meant, byte for byte, and appears complete or not at all.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

use planish_proto::onnx::StringStringEntryProto;
use planish_proto::onnx::attribute_proto::AttributeType;
use planish_proto::onnx::tensor_proto::{DataLocation, DataType};
use planish_proto::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TrainingInfoProto,
};
use planish_proto::{Bytes, External, Known, Late, SaveOptions, Sources, open, save, save_with};
use prost::Message;

/// A byte tensor of `len` elements that differ from those of other names.
fn tensor(name: &str, len: usize) -> TensorProto {
    let seed = name.bytes().map(usize::from).sum::<usize>();
    let raw: Vec<u8> = (0..len).map(|i| ((i * 31 + seed) % 251) as u8).collect();
    TensorProto {
        name: Some(name.into()),
        dims: vec![i64::try_from(len).unwrap()],
        data_type: Some(DataType::Uint8.into()),
        raw_data: Some(raw.into()),
        doc_string: Some("after the data".into()),
        ..TensorProto::default()
    }
}

fn node_with(attribute: AttributeProto) -> NodeProto {
    NodeProto {
        op_type: Some("Op".into()),
        output: vec!["y".into()],
        attribute: vec![attribute],
        ..NodeProto::default()
    }
}

/// A model with large tensors in every place that can hold one.
fn model_with_everything() -> ModelProto {
    let sparse = |name: &str| SparseTensorProto {
        values: Some(tensor(name, 70_000)),
        indices: Some(tensor("indices", 5_000)),
        dims: vec![1 << 20],
    };
    let subgraph = GraphProto {
        initializer: vec![tensor("inner", 100_000), tensor("tiny", 3)],
        node: vec![node_with(AttributeProto { tensors: vec![tensor("list", 66_000)], ..AttributeProto::default() })],
        ..GraphProto::default()
    };
    let everything = AttributeProto {
        name: Some("everything".into()),
        r#type: Some(AttributeType::Graph.into()),
        t: Some(tensor("t", 80_000)),
        g: Some(subgraph.clone()),
        graphs: vec![subgraph.clone()],
        sparse_tensor: Some(sparse("s1")),
        sparse_tensors: vec![sparse("s2")],
        s: Some(vec![b'a'; 70_000].into()),
        ..AttributeProto::default()
    };
    let graph = GraphProto {
        name: Some("main".into()),
        initializer: vec![tensor("a", 300_000), tensor("b", 1024), tensor("c", 1023), tensor("d", 0)],
        sparse_initializer: vec![sparse("s3")],
        node: vec![node_with(everything.clone())],
        ..GraphProto::default()
    };
    let function = FunctionProto {
        node: vec![node_with(everything.clone())],
        attribute_proto: vec![everything],
        ..FunctionProto::default()
    };
    ModelProto {
        ir_version: Some(10),
        graph: Some(graph),
        functions: vec![function],
        training_info: vec![TrainingInfoProto { algorithm: Some(subgraph), ..TrainingInfoProto::default() }],
        ..ModelProto::default()
    }
}

fn external(data_name: Option<&str>) -> SaveOptions {
    SaveOptions { external: External::Always, data_name: data_name.map(str::to_owned), ..SaveOptions::default() }
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Open what is at `path` and take all external data inline.
fn reopened(path: &Path) -> ModelProto {
    let loaded = open(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let inline = folder.path().join("inline.onnx");
    save(loaded.model, &loaded.sources, &inline, &SaveOptions::default()).unwrap();
    open(inline).unwrap().model
}

#[test]
fn bytes_equal_those_of_prost_whether_from_memory_or_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.onnx"), folder.path().join("second.onnx"));
    let model = model_with_everything();
    let expected = model.encode_to_vec();

    let written = save(model, &Sources::default(), &first, &SaveOptions::default()).unwrap();
    assert_eq!((written.bytes, written.files), (expected.len() as u64, vec![first.clone()]));
    assert!(fs::read(&first).unwrap() == expected);

    let loaded = open(&first).unwrap();
    save(loaded.model, &loaded.sources, &second, &SaveOptions { sync: true, ..SaveOptions::default() }).unwrap();
    assert!(fs::read(&second).unwrap() == expected);
    assert_eq!(files_in(folder.path()), ["first.onnx", "second.onnx"]);
}

#[test]
fn external_data_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.onnx"), folder.path().join("two.onnx"));
    let written = save(model_with_everything(), &Sources::default(), &one, &external(None)).unwrap();
    assert_eq!(written.files.len(), 2);
    let sizes: u64 = written.files.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(written.bytes, sizes);
    assert!(reopened(&one) == model_with_everything());

    // From external data to external data, under a chosen name.
    let loaded = open(&one).unwrap();
    save(loaded.model, &loaded.sources, &two, &external(Some("two.weights"))).unwrap();
    assert!(reopened(&two) == model_with_everything());
    let data = |file: &str| fs::read(folder.path().join(file)).unwrap();
    assert!(data("two.weights") == fs::read(&written.files[1]).unwrap());

    let model = open(&two).unwrap().model;
    let graph = model.graph.unwrap();
    let is_external: Vec<bool> =
        graph.initializer.iter().map(|tensor| tensor.data_location() == DataLocation::External).collect();
    assert_eq!(is_external, [true, true, false, false]);
    for tensor in &graph.initializer[..2] {
        assert_eq!(tensor.external_data[0].value(), "two.weights");
        assert_eq!(tensor.external_data[1].value().parse::<u64>().unwrap() % 4096, 0);
        assert_eq!(tensor.external_data[2].value(), tensor.dims[0].to_string());
    }
}

#[test]
fn one_memory_is_written_once_and_equal_content_gets_an_equal_name() {
    let folder = tempfile::tempdir().unwrap();
    let shared = tensor("shared", 10_000);
    let copy =
        TensorProto { raw_data: shared.raw_data.as_ref().map(|raw| Bytes::copy_from_slice(raw)), ..shared.clone() };
    let model = |tensors: Vec<TensorProto>| {
        let graph = GraphProto { initializer: tensors, ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    };
    let save_as = |name: &str, tensors| {
        save(model(tensors), &Sources::default(), folder.path().join(name), &external(None)).unwrap().files.remove(1)
    };
    let tied = save_as("m.onnx", vec![shared.clone(), shared.clone()]);
    assert_eq!(tied.metadata().unwrap().len(), 10_000);
    let other = save_as("n.onnx", vec![shared.clone(), copy.clone()]);
    assert_eq!(other.metadata().unwrap().len(), 3 * 4096 + 10_000);
    let again = save_as("m.onnx", vec![copy.clone()]);
    assert_eq!(tied, again);
}

#[test]
fn a_replaced_model_takes_its_own_data_file_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let changed = || {
        let mut model = model_with_everything();
        model.graph.as_mut().unwrap().initializer[0].raw_data = Some(vec![1; 300_000].into());
        model
    };
    fs::write(folder.path().join("m.0123456789ab.data"), "not referred to").unwrap();

    let first = save(model_with_everything(), &Sources::default(), &path, &external(None)).unwrap();
    let second = save(changed(), &Sources::default(), &path, &external(None)).unwrap();
    assert_ne!(first.files[1], second.files[1]);
    assert_eq!(files_in(folder.path()).len(), 3);
    assert!(!first.files[1].exists() && second.files[1].exists());

    // Over itself: the old files stay mapped while the new ones are written from them.
    let loaded = open(&path).unwrap();
    let third = save(loaded.model, &loaded.sources, &path, &external(None)).unwrap();
    assert_eq!(third.files, second.files);
    assert!(reopened(&path) == changed());

    // A name of the user's choice is not ours to remove.
    save(changed(), &Sources::default(), &path, &external(Some("mine.data"))).unwrap();
    save(changed(), &Sources::default(), &path, &SaveOptions::default()).unwrap();
    assert_eq!(files_in(folder.path()), ["m.0123456789ab.data", "m.onnx", "mine.data"]);
}

#[test]
fn the_input_can_be_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    save(model_with_everything(), &Sources::default(), &path, &SaveOptions::default()).unwrap();
    let mut loaded = open(&path).unwrap();
    loaded.model.producer_name = Some("planish".into());
    let expected = loaded.model.encode_to_vec();
    save(loaded.model, &loaded.sources, &path, &SaveOptions::default()).unwrap();
    assert!(fs::read(&path).unwrap() == expected);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    let (real, link) = (store.join("blob.onnx"), folder.path().join("m.onnx"));
    save(ModelProto::default(), &Sources::default(), &real, &SaveOptions::default()).unwrap();
    std::os::unix::fs::symlink("store/blob.onnx", &link).unwrap();

    let written = save(model_with_everything(), &Sources::default(), &link, &external(None)).unwrap();
    assert!(link.is_symlink());
    assert_eq!(written.files[0], fs::canonicalize(&real).unwrap());
    assert_eq!(files_in(&store).len(), 2);
    // Its data is found through the link as well.
    assert!(reopened(&link) == model_with_everything());

    let dangling = folder.path().join("dangling.onnx");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let error = save(ModelProto::default(), &Sources::default(), &dangling, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("target does not exist"), "{error}");
}

#[cfg(unix)]
#[test]
fn files_have_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ordinary, path) = (folder.path().join("ordinary"), folder.path().join("m.onnx"));
    fs::write(&ordinary, "").unwrap();
    let written = save(model_with_everything(), &Sources::default(), path, &external(None)).unwrap();
    for file in written.files {
        assert_eq!(file.metadata().unwrap().permissions().mode(), ordinary.metadata().unwrap().permissions().mode());
    }
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: PathBuf| {
        save(ModelProto::default(), &Sources::default(), path, &SaveOptions::default()).unwrap_err().to_string()
    };
    assert!(refused(folder.path().join("missing/m.onnx")).contains("create it first"));
    assert!(refused(folder.path().to_owned()).contains("is a folder"));
    assert!(refused(PathBuf::new()).contains("no folder") || refused(PathBuf::new()).contains("cannot write"));
    #[cfg(unix)]
    assert!(refused("/dev/null".into()).contains("is a special file"));
    assert!(files_in(folder.path()).is_empty());
}

#[test]
fn a_failure_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    save(model_with_everything(), &Sources::default(), &path, &SaveOptions::default()).unwrap();
    let before = fs::read(&path).unwrap();

    // External data that is not there.
    let mut missing = model_with_everything();
    let broken = &mut missing.graph.as_mut().unwrap().initializer[0];
    broken.data_location = Some(DataLocation::External.into());
    save(missing, &Sources::default(), &path, &SaveOptions::default()).unwrap_err();

    // A data file's name that is taken by a folder, noticed only when it is renamed.
    fs::create_dir(folder.path().join("taken")).unwrap();
    save(model_with_everything(), &Sources::default(), &path, &external(Some("taken"))).unwrap_err();

    // A data file's name that leads elsewhere.
    save(model_with_everything(), &Sources::default(), &path, &external(Some("../m.data"))).unwrap_err();

    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(files_in(folder.path()), ["m.onnx", "taken"]);
}

#[cfg(unix)]
#[test]
fn a_source_that_shrinks_is_an_error_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
    save(model_with_everything(), &Sources::default(), &input, &SaveOptions::default()).unwrap();
    let loaded = open(&input).unwrap();
    fs::OpenOptions::new().write(true).open(&input).unwrap().set_len(1000).unwrap();
    let mut model = ModelProto::default();
    let graph = loaded.model.graph.unwrap();
    model.graph = Some(GraphProto { initializer: graph.initializer, ..GraphProto::default() });
    let error = save(model, &loaded.sources, &output, &SaveOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ended early"), "{error}");
    assert_eq!(files_in(folder.path()), ["in.onnx"]);
}

#[test]
fn more_than_two_gigabytes_need_a_data_file() {
    // One piece of memory many times over: the data file holds it once, so that the test writes 64 MB.
    let block = Bytes::from(vec![1_u8; 1 << 26]);
    let large = |name: usize| TensorProto {
        name: Some(format!("w{name}")),
        dims: vec![1 << 26],
        data_type: Some(DataType::Uint8.into()),
        raw_data: Some(block.clone()),
        ..TensorProto::default()
    };
    let graph = GraphProto { initializer: (0..32).map(large).collect(), ..GraphProto::default() };
    let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let never = SaveOptions { external: External::Never, ..SaveOptions::default() };

    let error = save(model.clone(), &Sources::default(), &path, &never).unwrap_err();
    assert!(error.to_string().contains("allow external data"), "{error}");
    assert!(files_in(folder.path()).is_empty());
    let high = SaveOptions { threshold_bytes: 1 << 27, ..SaveOptions::default() };
    let error = save(model.clone(), &Sources::default(), &path, &high).unwrap_err();
    assert!(error.to_string().contains("fold constants"), "{error}");
    let written = save(model, &Sources::default(), &path, &SaveOptions::default()).unwrap();
    assert_eq!(written.files[1].metadata().unwrap().len(), 1 << 26);
}

#[test]
fn a_late_value_takes_the_place_of_its_placeholder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let with = |hash: &str| {
        let entry = StringStringEntryProto { key: Some("hash".into()), value: Some(hash.into()) };
        ModelProto { metadata_props: vec![entry], ..model_with_everything() }
    };
    let known = || Known { value: "known".into(), data_name: "model.weights".into() };
    let late = |placeholder: &'static str| Some(Late { placeholder, known: &known });
    let save = |options: &SaveOptions, placeholder| {
        save_with(with("later"), &Sources::default(), &path, options, late(placeholder))
    };
    save(&SaveOptions::default(), "later").unwrap();
    assert_eq!(open(&path).unwrap().model, with("known"));

    // So does the name of a data file.
    let written = save(&external(None), "later").unwrap();
    assert_eq!(written.files, [path.clone(), folder.path().join("model.weights")]);
    assert_eq!(reopened(&path), with("known"));

    // A place that is not there, or does not fit, leaves the files as they were.
    for options in [SaveOptions::default(), external(None)] {
        for placeholder in ["", "never", "late"] {
            save(&options, placeholder).unwrap_err();
        }
    }
    assert_eq!(reopened(&path), with("known"));
    assert_eq!(files_in(folder.path()), ["model.onnx", "model.weights"]);
}

#[test]
fn a_late_name_is_as_plain_as_any() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let known = || Known { value: String::new(), data_name: "../escaped".into() };
    let late = Some(Late { placeholder: "", known: &known });
    let error = save_with(model_with_everything(), &Sources::default(), &path, &external(None), late).unwrap_err();
    assert!(error.to_string().contains("../escaped"), "{error}");
    assert!(files_in(folder.path()).is_empty());
}
