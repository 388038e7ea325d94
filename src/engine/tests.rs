//! What every engine has to do.

use planish_ir::{Model, Tensor};
use planish_passes::{Engine, EngineError, Tensors};
use planish_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto,
};

/// A model of these nodes, `op(inputs) -> outputs`, whose inputs are float and whose first output is `y`.
pub(super) fn model(opset: i64, inputs: &[&str], nodes: Vec<NodeProto>, constants: &[(&str, Tensor)]) -> Model {
    let float = type_proto::Tensor { elem_type: Some(1), shape: None };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(float)), ..Default::default() };
    let info = |name: &&str, ty| ValueInfoProto { name: Some((*name).to_owned()), r#type: ty, ..Default::default() };
    let graph = GraphProto {
        name: Some("g".to_owned()),
        input: inputs.iter().map(|n| info(n, Some(ty.clone()))).collect(),
        output: vec![info(&"y", Some(ty.clone()))],
        initializer: constants.iter().map(|(n, t)| planish_ir::onnx::export_tensor(n, t)).collect(),
        node: nodes,
        ..Default::default()
    };
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    let message = ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", opset), import("com.microsoft", 1), import("my.domain", 1)],
        graph: Some(graph),
        ..Default::default()
    };
    planish_ir::onnx::import(message, &|_| Err("nothing is stored elsewhere".into())).unwrap()
}

/// A node of any domain: `domain::Op` or `Op`.
pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let (domain, name) = op.split_once("::").unwrap_or(("", op));
    let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    NodeProto {
        domain: Some(domain.to_owned()),
        op_type: Some(name.to_owned()),
        input: own(inputs),
        output: own(outputs),
        attribute,
        ..Default::default()
    }
}

/// The outputs for inputs that are all vectors.
pub(super) fn run(engine: &dyn Engine, model: &Model, inputs: &[(&str, &[f32])]) -> Result<Vec<f64>, EngineError> {
    let inputs: Tensors = inputs
        .iter()
        .map(|(n, v)| ((*n).to_owned(), Tensor::from_f32([v.len() as u64].as_slice(), v).unwrap()))
        .collect();
    let outputs = engine.load(model, &["y".to_owned()])?.run(&inputs)?;
    Ok(outputs[0].to_f64().unwrap())
}

pub(super) fn runs_and_hands_out_inner_values(engine: &dyn Engine) {
    let two = Tensor::from_f32([1].as_slice(), &[2.0]).unwrap();
    let nodes = vec![node("Mul", &["x", "two"], &["inner"], vec![]), node("Neg", &["inner"], &["y"], vec![])];
    let m = model(17, &["x"], nodes, &[("two", two.clone())]);
    let wanted = ["y", "two", "inner", "x", "y"].map(str::to_owned);
    let loaded = engine.load(&m, &wanted).unwrap();
    let sample =
        |v: &[f32]| Tensors::from([("x".to_owned(), Tensor::from_f32([v.len() as u64].as_slice(), v).unwrap())]);
    let results = loaded.run_many(&[sample(&[1.0, 3.0]), sample(&[5.0])]);
    let results: Vec<Vec<Vec<f64>>> =
        results.into_iter().map(|r| r.unwrap().iter().map(|t| t.to_f64().unwrap()).collect()).collect();
    assert_eq!(results[0], [vec![-2.0, -6.0], vec![2.0], vec![2.0, 6.0], vec![1.0, 3.0], vec![-2.0, -6.0]]);
    assert_eq!(results[1][0], [-10.0]);

    let missing = loaded.run(&Tensors::new()).unwrap_err();
    assert_eq!(missing.to_string(), "the input \"x\" of the model was not given");
    let int = Tensors::from([("x".to_owned(), Tensor::ints(&[1]))]);
    assert_eq!(loaded.run(&int).unwrap_err().to_string(), "the input \"x\" is float[], but was given as int64[1]");
    let unknown = engine.load(&m, &["z".to_owned()]).err().unwrap();
    assert!(unknown.to_string().contains("no value \"z\""));
}
