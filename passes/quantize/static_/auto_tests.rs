use planish_ir::{Graph, Node, Tensor, text};

use super::*;
use crate::{
    Calibration, Engine, EngineError, InMemory, Layer, NoObserver, Pass, Runnable, Shape, Target, Tensors, Transform,
    quantize::{
        Quantize, Sensitivity,
        grid::{self, Codes},
    },
    testing::parse,
};

/// Computes with matrices: MatMul, Relu, QuantizeLinear and DequantizeLinear.
struct Matrices;

struct Loaded(Model, Vec<String>);

impl Engine for Matrices {
    fn name(&self) -> &str {
        "matrices"
    }

    fn load(&self, model: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        Ok(Box::new(Loaded(model.clone(), outputs.to_vec())))
    }
}

impl Runnable for Loaded {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        let graph = &self.0.graph;
        let mut values: Tensors = inputs.clone();
        for id in graph.topological_order().unwrap() {
            let node = graph.node(id).unwrap();
            let made = computed(graph, node, &values);
            values.insert(graph.name_of(node.output(0).unwrap()), made);
        }
        Ok(self.1.iter().map(|name| values[name].clone()).collect())
    }
}

fn computed(graph: &Graph, node: &Node, values: &Tensors) -> Tensor {
    let input = |slot: usize| {
        let value = node.input(slot).unwrap();
        graph.constant(value).cloned().unwrap_or_else(|| values[&graph.name_of(value)].clone())
    };
    let numbers = |slot: usize| -> Vec<f64> {
        let t = input(slot);
        t.to_f64().unwrap_or_else(|_| t.to_i64().unwrap().into_iter().map(|v| v as f64).collect())
    };
    let floats = |dims: &[u64], v: Vec<f64>| {
        Tensor::from_f32(dims, &v.into_iter().map(|x| x as f32).collect::<Vec<_>>()).unwrap()
    };
    let x = input(0);
    let per_element = |slot: usize| {
        let list = numbers(slot);
        let width = x.dims().last().copied().unwrap() as usize;
        move |i: usize| if list.len() == 1 { list[0] } else { list[i % width] }
    };
    match node.op.name.as_str() {
        "Relu" => floats(x.dims(), numbers(0).into_iter().map(|v| v.max(0.0)).collect()),
        "MatMul" => {
            let (a, b, w) = (numbers(0), numbers(1), input(1));
            let (rows, inner, columns) = (x.dims()[0], w.dims()[0] as usize, w.dims()[1] as usize);
            let at = |r: usize, c: usize| (0..inner).map(|k| a[r * inner + k] * b[k * columns + c]).sum();
            let all = (0..rows as usize).flat_map(|r| (0..columns).map(move |c| (r, c)));
            floats(&[rows, columns as u64], all.map(|(r, c)| at(r, c)).collect())
        }
        "QuantizeLinear" => {
            let (scale, zero) = (per_element(1), per_element(2));
            let codes = match input(2).dtype() {
                planish_ir::DType::U8 => Codes::U8,
                planish_ir::DType::U16 => Codes::U16,
                other => panic!("{other:?}"),
            };
            let (low, high) = codes.limits();
            let code = |(i, v): (usize, f64)| (((v / scale(i)).round_ties_even() + zero(i)) as f32).clamp(low, high);
            grid::store(codes, x.dims(), &numbers(0).into_iter().enumerate().map(code).collect::<Vec<_>>()).unwrap()
        }
        "DequantizeLinear" => {
            let (scale, zero) = (per_element(1), per_element(2));
            let number = |(i, v): (usize, f64)| (v - zero(i)) * scale(i);
            floats(x.dims(), numbers(0).into_iter().enumerate().map(number).collect())
        }
        other => panic!("{other}"),
    }
}

/// The first product reads one number that is far larger than the others, and does not count.
fn model() -> Model {
    parse(
        r#"<ir_version: 10, opset_import: ["" : 21]> g (float[N,3] x) => (float[N,2] y)
        <float[3,2] v = {0.0, 0.0, 1.0, -0.5, 0.25, 1.0}, float[2,2] w = {1.0, 0.5, -0.25, 2.0}> {
            [first] h = MatMul (x, v)
            r = Relu (h)
            [second] y = MatMul (r, w)
        }"#,
    )
}

fn samples() -> Vec<Tensors> {
    let sample = |i: u8| {
        let (a, b) = ((f32::from(i) * 0.7).sin() + 1.0, (f32::from(i) * 1.3).cos() + 1.0);
        Tensors::from([("x".to_owned(), Tensor::from_f32([1, 3].as_slice(), &[900.0, a, b]).unwrap())])
    };
    (0..12).map(sample).collect()
}

fn run(pass: &Quantize, target: Target) -> Result<(crate::Changes, String), String> {
    let (model, samples) = (model(), samples());
    let all = samples.as_slice();
    let calibration =
        Calibration { engine: &Matrices, samples: &all, memory: 1 << 30, watch: &NoObserver, store: None };
    let facts = planish_ir::infer::infer(&model, &Default::default());
    let cx = crate::Context {
        calibration: Some(&calibration),
        facts: &facts,
        target,
        weights: &InMemory,
        ..crate::Context::bare()
    };
    let Shape::Transform(transform) = pass.shape() else { panic!("a transform") };
    let changes = Transform::transform(transform, &model, &cx).map_err(|e| e.to_string())?;
    let mut after = model.clone();
    for (_, patch) in &changes.patches {
        patch.clone().apply(&mut after.graph).unwrap();
    }
    Ok((changes, text::print(&after)))
}

fn auto() -> Quantize {
    Quantize { sensitivity: Sensitivity::Auto, ..Quantize::default() }
}

fn precisions(layers: &[Layer]) -> Vec<(&str, &str)> {
    layers.iter().filter(|l| l.op == "MatMul").map(|l| (l.node.as_str(), l.precision)).collect()
}

#[test]
fn what_breaks_the_bound_stays_in_floats() {
    let (changes, after) = run(&auto(), Target::OnnxruntimeCpu).unwrap();
    assert_eq!(precisions(&changes.layers), [("first", "float32"), ("second", "int8")]);
    let first = &changes.layers[0];
    assert!(first.reason.as_ref().unwrap().contains("of the error of all"), "{first:?}");
    assert!(first.output_sqnr_db.unwrap() < 18.0 && changes.layers[1].output_sqnr_db.unwrap() > 18.0);
    assert!((first.share - 0.6).abs() < 1e-9);
    assert!(after.contains("h = MatMul (x, v)"), "{after}");
    // The same again, to the byte.
    assert_eq!(run(&auto(), Target::OnnxruntimeCpu).unwrap().1, after);
}

#[test]
fn sixteen_bits_come_before_floats_where_the_target_has_them() {
    let (changes, after) = run(&auto(), Target::Generic).unwrap();
    assert_eq!(precisions(&changes.layers), [("first", "int16"), ("second", "int8")]);
    assert!(after.contains("uint16"), "{after}");
}

#[test]
fn a_bound_that_holds_changes_nothing() {
    let plain = run(&Quantize::default(), Target::OnnxruntimeCpu).unwrap().1;
    let (changes, after) = run(&Quantize { min_sqnr_db: Some(-20.0), ..auto() }, Target::OnnxruntimeCpu).unwrap();
    assert_eq!(after, plain);
    assert!(changes.notes[0].starts_with("everything in codes, on 12 samples: \"y\" has SQNR"), "{:?}", changes.notes);
}

#[test]
fn a_bound_that_nothing_holds_says_how_near_it_came() {
    let error = run(&Quantize { min_sqnr_db: Some(200.0), ..auto() }, Target::OnnxruntimeCpu).unwrap_err();
    assert!(error.starts_with("with everything in codes, output \"y\": the SQNR is"), "{error}");
    assert!(error.contains("No assignment that leaves a product in codes was found to keep the bound"), "{error}");
    let error = run(&Quantize { least_share: 0.5, ..auto() }, Target::OnnxruntimeCpu).unwrap_err();
    assert!(error.contains("The bound holds with 40.0 % of the multiply-accumulates in codes, below"), "{error}");
}
