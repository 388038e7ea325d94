//! The same input and pipeline give the same bytes.

use std::{fs, path::Path};

use planish_proto::{Sources, onnx};
use prost_order::shuffle;

use crate::support::{fixture, models, planish};

fn compile(model: &Path, out: &Path, preset: &str, threads: &str) -> Vec<u8> {
    planish()
        .args(["compile", "--preset", preset, "--verify", "off", "--threads", threads])
        .arg(model)
        .arg("-o")
        .arg(out)
        .assert()
        .success();
    fs::read(out).unwrap()
}

#[test]
fn threads_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    for model in models() {
        for preset in ["simplify", "fp16", "int4-weights", "int8-weights"] {
            let one = compile(&model, &out, preset, "1");
            let many = compile(&model, &out, preset, "4");
            assert!(one == many, "{} {preset}", model.display());
        }
    }
}

#[test]
fn threads_do_not_matter_to_factors() {
    let folder = tempfile::tempdir().unwrap();
    let (out, pipeline) = (folder.path().join("out.onnx"), folder.path().join("pipeline.yaml"));
    for pass in ["tucker: {ratio: 0.4}", "low-rank: {ratio: 0.3}"] {
        fs::write(&pipeline, format!("version: 1\npasses:\n  - {pass}\n")).unwrap();
        let compiled = |threads: &str| {
            let mut command = planish();
            command.args(["compile", "--verify", "off", "--threads", threads, "--pipeline"]);
            command.arg(&pipeline).arg(fixture("models/mnist_cnn.onnx")).arg("-o").arg(&out).assert().success();
            fs::read(&out).unwrap()
        };
        assert!(compiled("1") == compiled("4"), "{pass}");
    }
}

#[test]
fn the_order_of_nodes_in_the_file_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let (shuffled, out) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
    let mut shuffled_models = 0;
    for model in models() {
        let mut moved = 0;
        let reference = without_provenance(&compile(&model, &out, "simplify", "0"));
        for seed in 1..=3u64 {
            let mut message = planish_proto::open(&model).unwrap().model;
            moved += shuffle(message.graph.as_mut().unwrap(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            planish_proto::save(message, &Sources::default(), &shuffled, &Default::default()).unwrap();
            let other = without_provenance(&compile(&shuffled, &out, "simplify", "0"));
            assert!(reference == other, "{} seed {seed}", model.display());
        }
        shuffled_models += usize::from(moved > 0);
    }
    // The small CNN is one chain of nodes; the others have several valid orders.
    assert!(shuffled_models >= 3, "the test would pass on anything");
}

#[test]
fn compiling_a_result_again_gives_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let (once, twice) = (folder.path().join("once.onnx"), folder.path().join("twice.onnx"));
    for model in models() {
        for preset in ["simplify", "fp16"] {
            let first = without_provenance(&compile(&model, &once, preset, "0"));
            let second = without_provenance(&compile(&once, &twice, preset, "0"));
            assert!(first == second, "{} {preset}", model.display());
        }
    }
}

/// The model without the hash of its input, which differs because the input file does.
fn without_provenance(bytes: &[u8]) -> onnx::ModelProto {
    let mut message = planish_proto::decode(bytes.to_vec().into()).unwrap();
    message.metadata_props.clear();
    message
}

mod prost_order {
    //! Another valid order of a graph's nodes.

    use std::collections::BTreeSet;

    use planish_proto::onnx::{GraphProto, NodeProto};

    /// Draws a random topological order; returns how many nodes changed their place.
    pub(super) fn shuffle(graph: &mut GraphProto, mut seed: u64) -> usize {
        let produced: BTreeSet<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
        let mut ready: BTreeSet<String> = BTreeSet::new();
        let mut waiting: Vec<(usize, NodeProto)> = std::mem::take(&mut graph.node).into_iter().enumerate().collect();
        let mut moved = 0;
        while !waiting.is_empty() {
            let can_run = |n: &NodeProto| n.input.iter().all(|i| !produced.contains(i) || ready.contains(i));
            let candidates: Vec<usize> = (0..waiting.len()).filter(|&i| can_run(&waiting[i].1)).collect();
            // xorshift64: https://www.jstatsoft.org/article/view/v008i14
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let (place, node) = waiting.remove(candidates[(seed % candidates.len() as u64) as usize]);
            moved += usize::from(place != graph.node.len());
            ready.extend(node.output.iter().cloned());
            graph.node.push(node);
        }
        moved
    }
}
