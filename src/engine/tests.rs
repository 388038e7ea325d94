//! What every engine has to do, and help for the tests of single engines.

use planish_ir::{Model, Tensor, text};
use planish_passes::{Engine, EngineError, Tensors};

/// A model in ONNX's textual syntax, without its header: `g (float[n] x) => (float[n] y) { y = Relu(x) }`.
pub(super) fn model(opset: i64, body: &str) -> Model {
    let header = format!("<ir_version: 10, opset_import: [\"\" : {opset}, \"com.microsoft\" : 1, \"my.domain\" : 1]>");
    text::parse(&format!("{header}\n{body}")).unwrap()
}

/// The elements of the output `y`.
pub(super) fn run(engine: &dyn Engine, model: &Model, inputs: &[(&str, Tensor)]) -> Result<Vec<f64>, EngineError> {
    let inputs: Tensors = inputs.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    let outputs = engine.load(model, &["y".to_owned()])?.run(&inputs)?;
    let y = &outputs[0];
    Ok(y.to_f64().unwrap_or_else(|_| y.to_i64().unwrap().into_iter().map(|v| v as f64).collect()))
}

/// A tensor of floats.
pub(super) fn floats(dims: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(dims, values).unwrap()
}

pub(super) fn runs_and_hands_out_inner_values(engine: &dyn Engine) {
    let m = model(
        17,
        "g (float[n] x) => (float[n] y) <float[1] two = {2.0}> {
            inner = Mul(x, two)
            y = Neg(inner)
        }",
    );
    let wanted = ["y", "two", "inner", "x", "y"].map(str::to_owned);
    let loaded = engine.load(&m, &wanted).unwrap();
    let sample = |v: &[f32]| Tensors::from([("x".to_owned(), floats(&[v.len() as u64], v))]);
    let results: Vec<Vec<Vec<f64>>> = loaded
        .run_many(&[sample(&[1.0, 3.0]), sample(&[5.0])])
        .into_iter()
        .map(|r| r.unwrap().iter().map(|t| t.to_f64().unwrap()).collect())
        .collect();
    assert_eq!(results[0], [vec![-2.0, -6.0], vec![2.0], vec![2.0, 6.0], vec![1.0, 3.0], vec![-2.0, -6.0]]);
    assert_eq!(results[1][0], [-10.0]);

    let missing = loaded.run(&Tensors::new()).unwrap_err();
    assert_eq!(missing.to_string(), "the input \"x\" of the model was not given");
    let int = Tensors::from([("x".to_owned(), Tensor::ints(&[1]))]);
    assert_eq!(loaded.run(&int).unwrap_err().to_string(), "the input \"x\" is float[n], but was given as int64[1]");
    let unknown = engine.load(&m, &["z".to_owned()]).err().unwrap();
    assert!(unknown.to_string().contains("no value \"z\""));
}
