//! tract against ONNX Runtime on whole models, every inner value included.

use std::{collections::BTreeMap, path::Path, time::Instant};

use planish_ir::{Def, Model, Type};
use planish_passes::Engine;

use super::{ort::OnnxRuntime, tract::Tract};
use crate::{
    data::{Options, Source},
    metrics::{Comparison, Tolerance},
};

fn open(path: &Path) -> anyhow::Result<Model> {
    let loaded = planish_proto::open(path)?;
    let sources = loaded.sources;
    let mut model = planish_ir::onnx::import(loaded.model, &|t| Ok(sources.external(t)?))?;
    planish_ir::infer::annotate(&mut model);
    Ok(model)
}

/// `PLANISH_MODELS` is a list of `MODEL` or `MODEL=DATA.npz`, separated by spaces; `PLANISH_DIMS` of `NAME=N`. Run by hand
/// on models too large for the repository; without the list there is nothing to compare.
#[test]
fn tract_agrees_with_onnxruntime() {
    if std::env::var_os("PLANISH_MODELS").is_none() {
        return;
    }
    let ort = OnnxRuntime::open(None).unwrap();
    let list = |name: &str| -> Vec<(String, Option<String>)> {
        let text = std::env::var(name).unwrap_or_default();
        let pair =
            |s: &str| s.split_once('=').map_or((s.to_owned(), None), |(a, b)| (a.to_owned(), Some(b.to_owned())));
        text.split_whitespace().map(pair).collect()
    };
    let dims: BTreeMap<String, u64> =
        list("PLANISH_DIMS").into_iter().filter_map(|(n, v)| Some((n, v?.parse().ok()?))).collect();
    let mut disagreed = Vec::new();
    for (path, data) in list("PLANISH_MODELS") {
        let model = match open(Path::new(&path)) {
            Ok(model) => model,
            Err(e) => {
                println!("{path}: {e:#}");
                continue;
            }
        };
        let source = data.map_or(Source::Random { seed: 1 }, |d| Source::of_path(Path::new(&d)));
        let samples =
            source.load(&model, &Options { samples: Some(2), dims: dims.clone(), ..Options::default() }).unwrap();
        let sample = samples.inputs(0).unwrap().into_owned();
        let g = &model.graph;
        let inner = |v: &planish_ir::Value| {
            matches!(v.def(), Def::Node { .. }) && v.ty().and_then(Type::dtype).is_some_and(|d| d.bits() >= 8)
        };
        let all: Vec<String> = g.values().filter(|(_, v)| inner(v)).map(|(_, v)| v.name().to_owned()).collect();
        let outputs: Vec<String> = g.outputs().iter().map(|&v| g.name_of(v)).collect();
        for (what, names) in [("outputs", outputs), ("all", all)] {
            let mut results = Vec::new();
            let mut times = Vec::new();
            for engine in [&Tract as &dyn Engine, &ort] {
                let start = Instant::now();
                let result = engine.load(&model, &names).and_then(|l| {
                    let first = l.run(&sample)?;
                    let middle = Instant::now();
                    l.run(&sample)?;
                    times.push(format!("{} {:.2?}+{:.2?}", engine.name(), middle - start, middle.elapsed()));
                    Ok(first)
                });
                match result {
                    Ok(r) => results.push(r),
                    Err(e) => println!("{path} {what}: {}: {e}", engine.name()),
                }
            }
            if results.len() < 2 {
                continue;
            }
            let mut total = Comparison::new();
            let mut worst: Vec<(f64, String)> = Vec::new();
            for ((t, o), name) in results[0].iter().zip(&results[1]).zip(&names) {
                let producer =
                    g.value_named(name).and_then(|v| g.producer(v)).map(|(_, n)| n.op.to_string()).unwrap_or_default();
                match Comparison::of(o, t) {
                    Err(e) => worst.push((f64::INFINITY, format!("{name} ({producer}): {e}"))),
                    Ok(c) => {
                        total.add(o, t).unwrap();
                        if let Err(e) = Tolerance::Reassociated.check(&c) {
                            worst.push((c.max_relative(), format!("{name} ({producer}): {e}")));
                        }
                    }
                }
            }
            println!(
                "{path} {what}: {} values, cosine {:.7}, max relative {:.2e}, {}; {} beyond rounding",
                names.len(),
                total.cosine(),
                total.max_relative(),
                times.join(", "),
                worst.len()
            );
            worst.sort_by(|a, b| b.0.total_cmp(&a.0));
            worst.iter().take(6).for_each(|(_, w)| println!("    {w}"));
            if total.cosine() < 0.9999 {
                disagreed.push(path.clone());
            }
        }
    }
    assert!(disagreed.is_empty(), "{disagreed:?}");
}
