//! Tests that what methods emit computes what the convolution did: exactly as far as ranks go, whatever its strides, pads and groups.

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, Node, Numerics, Patch, Tensor, infer};
use proptest::prelude::*;

use super::{
    cp::Products,
    method::{Known, Method, Place, Scene},
    rank::{Factorization, Own, Rule},
    spatial_svd::Axes,
    tucker::Cores,
};
use crate::{
    Skip,
    testing::{drawn, parse},
};

/// All places of a box, row-major.
fn places(sizes: &[i64]) -> Vec<Vec<i64>> {
    sizes.iter().fold(vec![Vec::new()], |all, &n| {
        all.iter().flat_map(|p| (0..n).map(move |i| p.iter().copied().chain([i]).collect())).collect()
    })
}

fn offset(dims: &[i64], at: &[i64]) -> usize {
    at.iter().zip(dims).fold(0, |sum, (i, n)| sum * n + i) as usize
}

/// A convolution as its definition has it.
fn convolved(node: &Node, x: &(Vec<i64>, Vec<f64>), w: &Tensor, bias: Option<Vec<f64>>) -> (Vec<i64>, Vec<f64>) {
    let axes = x.0.len() - 2;
    let list = |name: &str, default: i64, n: usize| node.attrs.ints(name).map_or(vec![default; n], <[i64]>::to_vec);
    let (strides, dilations, mut pads) =
        (list("strides", 1, axes), list("dilations", 1, axes), list("pads", 0, 2 * axes));
    let dims: Vec<i64> = w.dims().iter().map(|&d| d as i64).collect();
    let extent: Vec<i64> = (0..axes).map(|a| (dims[a + 2] - 1) * dilations[a] + 1).collect();
    for a in 0..axes {
        let missing = (((x.0[a + 2] - 1) / strides[a]) * strides[a] + extent[a] - x.0[a + 2]).max(0);
        match node.attrs.str("auto_pad") {
            Some("SAME_UPPER") => (pads[a], pads[a + axes]) = (missing / 2, missing - missing / 2),
            Some("SAME_LOWER") => (pads[a], pads[a + axes]) = (missing - missing / 2, missing / 2),
            _ => {}
        }
    }
    let group = node.attrs.int("group").unwrap_or(1);
    let mut out = vec![x.0[0], dims[0]];
    out.extend((0..axes).map(|a| (x.0[a + 2] + pads[a] + pads[a + axes] - extent[a]) / strides[a] + 1));
    let weights = w.to_f64().unwrap();
    let value = |at: &Vec<i64>| -> f64 {
        let first = at[1] / (dims[0] / group) * dims[1];
        let term = |tap: &Vec<i64>| {
            let mut from = vec![at[0], first + tap[0]];
            from.extend((0..axes).map(|a| at[a + 2] * strides[a] + tap[a + 1] * dilations[a] - pads[a]));
            let inside = (2..axes + 2).all(|a| (0..x.0[a]).contains(&from[a]));
            let weight: Vec<i64> = std::iter::once(at[1]).chain(tap.iter().copied()).collect();
            if inside { x.1[offset(&x.0, &from)] * weights[offset(&dims, &weight)] } else { 0.0 }
        };
        places(&dims[1..]).iter().map(term).sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[at[1] as usize])
    };
    let values = places(&out).iter().map(value).collect();
    (out, values)
}

/// What a graph of convolutions computes.
fn computed(model: &Model) -> Vec<f64> {
    let graph = &model.graph;
    let x = graph.inputs()[0];
    let dims: Vec<u64> =
        infer::infer(model, &Default::default()).shape(x).unwrap().iter().map(|d| d.known().unwrap()).collect();
    let input = (dims.iter().map(|&d| d as i64).collect(), drawn("x", &dims).to_f64().unwrap());
    let mut values = BTreeMap::from([(x, input)]);
    for id in graph.topological_order().unwrap() {
        let node = graph.node(id).unwrap();
        let bias = node.input(2).map(|b| graph.constant(b).unwrap().to_f64().unwrap());
        let weight = graph.constant(node.input(1).unwrap()).unwrap();
        let y = convolved(node, &values[&node.input(0).unwrap()], weight, bias);
        values.insert(node.output(0).unwrap(), y);
    }
    values[&graph.outputs()[0]].1.clone()
}

/// Splits the only convolution of a model at a rank, and returns the relative error of what the model computes, and how many nodes it has.
fn split(method: &dyn Method, text: &str, rank: u64) -> Result<(f64, usize), Skip> {
    let mut model = parse(text);
    let before = computed(&model);
    let facts = infer::infer(&model, &Default::default());
    let settings = Factorization { round_to: 1, ..Factorization::default() };
    let mut patch = Patch::new(Numerics::Lossy, "split");
    let scene = Scene { model: &model, facts: facts.graph(), settings: &settings, rule: Rule::Own(Own::Rank(rank)) };
    let (id, node) = model.graph.nodes().next().unwrap();
    let dims = |v: Option<planish_ir::ValueId>| {
        let shape = facts.shape(v.unwrap()).unwrap();
        shape.iter().map(|d| d.known().unwrap()).collect()
    };
    let place = Place { input: dims(node.input(0)), output: dims(node.output(0)) };
    let layer = method.layer(&scene, node.input(1).unwrap(), &[id])?;
    let decomposed = layer.decompose(&Known { places: &[place], moments: None, ranks: None, refitted: None }).unwrap();
    decomposed.emit(&decomposed.options()[0].ranks, &mut patch).unwrap();
    drop(decomposed);
    drop(layer);
    model.apply(&GraphPath::main(), patch).unwrap();
    let after = computed(&model);
    let lost: f64 = before.iter().zip(&after).map(|(a, b)| (a - b).powi(2)).sum();
    assert_eq!(before.len(), after.len());
    Ok(((lost / before.iter().map(|a| a * a).sum::<f64>()).sqrt(), model.graph.nodes().count()))
}

fn list(values: &[u64]) -> String {
    let values: Vec<String> = values.iter().map(u64::to_string).collect();
    format!("[{}]", values.join(", "))
}

prop_compose! {
    /// A model of one convolution.
    fn convolution()(axes in 1usize..4)(
        group in 1u64..3, inputs in 2u64..4, outputs in 1u64..4,
        kernel in prop::collection::vec(1u64..4, axes), strides in prop::collection::vec(1u64..3, axes),
        dilations in prop::collection::vec(1u64..3, axes), pads in prop::collection::vec(0u64..3, 2 * axes), padding in 0usize..4,
    ) -> (String, usize) {
        let many = kernel.iter().filter(|&&k| k > 1).count();
        let size = vec![7; kernel.len()];
        let dims = |first: &[u64], rest: &[u64]| [first, rest].concat().iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let pads = match padding {
            0 => "auto_pad = \"SAME_UPPER\"".to_owned(),
            1 => "auto_pad = \"SAME_LOWER\"".to_owned(),
            _ => format!("pads = {}", list(&pads)),
        };
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,{}] x) => (float[1,{},{}] y) <float[{}] w, float[{}] b> {{
                y = Conv <group = {group}, strides = {}, dilations = {}, {pads}> (x, w, b)
            }}",
            dims(&[group * inputs], &size), group * outputs, vec!["?"; kernel.len()].join(","),
            dims(&[group * outputs, inputs], &kernel), group * outputs, list(&strides), list(&dilations),
        );
        (text, many)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn full_rank_computes_the_same((text, windows) in convolution()) {
        if windows > 0 {
            let (error, _) = split(&Cores, &text, 1000).unwrap();
            prop_assert!(error < 1e-5, "{error} {text}");
        }
        if windows > 1 {
            let (error, nodes) = split(&Axes, &text, 1000).unwrap();
            prop_assert!(error < 1e-5 && nodes == 2, "{error} {text}");
        }
    }
}

#[test]
fn lower_ranks_have_three_nodes_and_come_near_and_terms_converge() {
    let text =
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[1,16,9,7] x) => (float[1,12,?,?] y) <float[12,8,3,2] w> {
        y = Conv <group = 2, strides = [2, 1], pads = [0, 1, 2, 0]> (x, w)
    }";
    let (low, nodes) = split(&Cores, text, 1).unwrap();
    assert!((0.1..1.0).contains(&low) && nodes == 3, "{low} {nodes}");
    let errors: Vec<f64> = [2, 8].map(|rank| split(&Products, text, rank).unwrap().0).to_vec();
    assert!(errors[1] < errors[0] && errors[0] < 1.0, "{errors:?}");
}
