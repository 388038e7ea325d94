//! The official operator tests, as far as the engine takes them on. What it takes on, it must get right.
//!
//! ONNX generates them (`onnx.backend.test.case.node.collect_testcases`), and `tests/operators.py --write FOLDER` writes
//! them down. The test wants a folder for each, named like it, with `model.onnx`, `test_data_set_N/input_K.pb` and `output_K.pb` (tensors), and `tol.txt` (relative and
//! absolute tolerance), all of them in the folder that PLANISH_NODE_TESTS names. PLANISH_NODE_ONLY selects by a part of
//! the name, and PLANISH_NODE_REPORT names a file for the outcome of each.

use std::{collections::BTreeMap, path::Path};

use planish_ir::{DType, Model, Tensor};
use planish_passes::{Engine, EngineError, Tensors};
use prost::Message;

use super::Tract;

/// What became of one test.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Pass,
    Refused(String),
    Failed(String),
    Wrong(String),
    /// The harness has no way to express it (sequences, strings and the like).
    Outside(String),
}

/// `tests/run.sh` writes the folder and names it; without one there is nothing to run.
#[test]
fn official_operator_tests() {
    let Ok(root) = std::env::var("PLANISH_NODE_TESTS") else { return };
    let only = std::env::var("PLANISH_NODE_ONLY").unwrap_or_default();
    let mut names: Vec<_> =
        std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| n.contains(&only));
    names.sort();
    use rayon::prelude::*;
    let fates: Vec<(String, Fate)> = names
        .into_par_iter()
        .map(|n| {
            let fate = run(&Path::new(&root).join(&n));
            (n, fate)
        })
        .collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lines = String::new();
    for (name, fate) in &fates {
        let (kind, text) = match fate {
            Fate::Pass => ("pass", ""),
            Fate::Refused(t) => ("refused", t.as_str()),
            Fate::Failed(t) => ("failed", t.as_str()),
            Fate::Wrong(t) => ("wrong", t.as_str()),
            Fate::Outside(t) => ("outside", t.as_str()),
        };
        *counts.entry(kind).or_default() += 1;
        lines.push_str(&format!("{kind}\t{name}\t{}\n", text.replace('\n', " ").chars().take(300).collect::<String>()));
    }
    if let Ok(path) = std::env::var("PLANISH_NODE_REPORT") {
        std::fs::write(path, lines).unwrap();
    }
    let wrong: Vec<_> = fates.iter().filter(|(_, f)| matches!(f, Fate::Wrong(_))).collect();
    assert!(wrong.is_empty(), "{counts:?} {} wrong", wrong.len());
    assert!(counts["pass"] > 1, "{counts:?}");
}

fn tensor(path: &Path) -> Option<Tensor> {
    let bytes = std::fs::read(path).ok()?;
    let message = planish_proto::onnx::TensorProto::decode(&*bytes).ok()?;
    planish_ir::onnx::import_tensor(message, &|_| Err("no external data here".into())).ok()
}

fn run(folder: &Path) -> Fate {
    let bytes = bytes::Bytes::from(std::fs::read(folder.join("model.onnx")).unwrap());
    let model: Model = match planish_proto::decode(bytes)
        .map_err(|e| e.to_string())
        .and_then(|m| planish_ir::onnx::import(m, &|_| Err("no external data here".into())).map_err(|e| e.to_string()))
    {
        Ok(m) => m,
        Err(e) => return Fate::Outside(e),
    };
    let tolerance = std::fs::read_to_string(folder.join("tol.txt")).unwrap();
    let tolerance: Vec<f64> = tolerance.split_whitespace().map(|t| t.parse().unwrap()).collect();
    let names = |ids: &[planish_ir::ValueId]| ids.iter().map(|&v| model.graph.name_of(v)).collect::<Vec<_>>();
    let outputs = names(model.graph.outputs());
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.is_dir() {
            break;
        }
        let mut inputs = Tensors::new();
        for (i, name) in names(model.graph.inputs()).into_iter().enumerate() {
            match tensor(&data.join(format!("input_{i}.pb"))) {
                Some(t) if t.dtype() != DType::String => inputs.insert(name, t),
                _ => return Fate::Outside(format!("input {name}")),
            };
        }
        let loaded = match Tract.load(&model, &outputs) {
            Ok(l) => l,
            Err(e @ EngineError::Failed { .. }) => return Fate::Failed(e.to_string()),
            Err(e) => return Fate::Refused(e.to_string()),
        };
        let actual = match loaded.run(&inputs) {
            Ok(a) => a,
            Err(e @ EngineError::Failed { .. }) => return Fate::Failed(e.to_string()),
            Err(e) => return Fate::Refused(e.to_string()),
        };
        for (i, name) in outputs.iter().enumerate() {
            let Some(wanted) = tensor(&data.join(format!("output_{i}.pb"))) else {
                return Fate::Outside(format!("output {name}"));
            };
            if let Err(e) = compare(&wanted, &actual[i], tolerance[0], tolerance[1]) {
                return Fate::Wrong(format!("{name}: {e}"));
            }
        }
    }
    Fate::Pass
}

/// What floats stand for; `None` if the elements are no floats. As for wider ones, zeros and NaN are told apart by no sign.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    let Some(format) = planish_ir::SmallFloat::of(tensor.dtype()) else { return tensor.to_f64().ok() };
    let codes =
        tensor.raw()?.iter().flat_map(|&b| if tensor.dtype().bits() == 4 { vec![b & 15, b >> 4] } else { vec![b] });
    Some(codes.take(tensor.elements() as usize).map(|c| f64::from(format.decode(c))).collect())
}

/// The tests' own tolerance, but not below what the element type and f32 kernels in another order can hold: two units
/// of the last place of a float16, and a millionth of the largest element or of 1 (some ask for 1e-7 where sums
/// cancel).
fn compare(wanted: &Tensor, actual: &Tensor, relative: f64, absolute: f64) -> Result<(), String> {
    if wanted.dtype() != actual.dtype() || wanted.dims() != actual.dims() {
        return Err(format!("{actual:?} instead of {wanted:?}"));
    }
    let (Some(w), Some(a)) = (numbers(wanted), numbers(actual)) else {
        return if wanted == actual {
            Ok(())
        } else {
            Err(format!("{:?} instead of {:?}", actual.to_i64(), wanted.to_i64()))
        };
    };
    let largest = w.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    let relative = match wanted.dtype() {
        DType::F16 => relative.max(2e-3),
        // The engine computes in f32 and rounds once, the tests after every step.
        DType::BF16 => relative.max(1.6e-2),
        _ => relative,
    };
    let absolute = absolute.max(1e-6 * largest.max(1.0));
    for (i, (w, a)) in w.into_iter().zip(a).enumerate() {
        let same = w == a || (w.is_nan() && a.is_nan()) || (w - a).abs() <= absolute + relative * w.abs();
        if !same {
            return Err(format!("element {i} is {a} instead of {w}"));
        }
    }
    Ok(())
}
