//! Every operator on generated inputs and attributes, most of them nonsense: nothing panics, and what is said of named
//! sizes holds for numbers in their place.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Bindings, infer, testing::Draft};
use crate::{Attr, Attrs, DType, Dim, Graph, Tensor, ValueId, axes, cost, op};

/// Names of attributes that rules read as integers, and as lists.
const INTS: &[&str] = &[
    "allowzero",
    "axis",
    "batch_dims",
    "block_size",
    "blocksize",
    "broadcast",
    "ceil_mode",
    "end",
    "fmod",
    "group",
    "hidden_size",
    "k",
    "K",
    "keepdims",
    "kv_num_heads",
    "layout",
    "N",
    "new_axis",
    "noop_with_empty_axes",
    "num_outputs",
    "num_scan_inputs",
    "onesided",
    "output_height",
    "output_width",
    "q_num_heads",
    "sample_size",
    "start",
    "to",
    "transA",
    "transB",
];
const LISTS: &[&str] = &[
    "axes",
    "dilations",
    "ends",
    "kernel_shape",
    "ngram_indexes",
    "output_padding",
    "output_shape",
    "paddings",
    "pads",
    "perm",
    "pooled_shape",
    "qkv_hidden_sizes",
    "repeats",
    "scan_input_axes",
    "scan_output_axes",
    "shape",
    "split",
    "starts",
    "strides",
];
const TEXTS: &[(&str, &str)] = &[
    ("auto_pad", "SAME_UPPER"),
    ("auto_pad", "VALID"),
    ("direction", "bidirectional"),
    ("equation", "ab,bc->ac"),
    ("equation", "...a,a...->..."),
    ("equation", "ii->i"),
    ("keep_aspect_ratio_policy", "not_larger"),
    ("reduction", "none"),
];

#[derive(Debug, Clone)]
enum Input {
    Tensor(DType, Vec<&'static str>),
    Ints(Vec<i64>),
    Int(i64),
    Floats(Vec<f32>),
    Missing,
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => -3i64..6,
        1 => select(vec![i64::MIN, i64::MIN + 1, i64::from(i32::MAX), i64::MAX, 1 << 40]),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let dim = select(vec!["0", "1", "2", "3", "4", "6", "12", "N", "N", "M", "?", "18446744073709551615"]);
    let dtype = select(vec![DType::F32, DType::F32, DType::I64, DType::Bool]);
    prop_oneof![
        6 => (dtype, vec(dim, 0..6)).prop_map(|(t, d)| Input::Tensor(t, d)),
        3 => vec(number(), 0..6).prop_map(Input::Ints),
        1 => number().prop_map(Input::Int),
        1 => vec(select(vec![0.0f32, 0.5, 1.0, 2.0, -1.0, f32::NAN, f32::INFINITY]), 0..5).prop_map(Input::Floats),
        1 => Just(Input::Missing),
    ]
}

fn attrs() -> impl Strategy<Value = Attrs> {
    let ints = vec((select(INTS), number().prop_map(Attr::Int)), 0..6);
    let lists = vec((select(LISTS), vec(number(), 0..5).prop_map(Attr::Ints)), 0..6);
    let texts = vec(select(TEXTS), 0..3);
    (ints, lists, texts).prop_map(|(ints, lists, texts)| {
        let mut all = Attrs::new();
        ints.into_iter().chain(lists).for_each(|(name, value)| drop(all.set(name, value)));
        texts.into_iter().for_each(|(name, value)| drop(all.set(name, Attr::from(value))));
        all
    })
}

/// One node of any operator, and a `Shape` and a `Reshape` behind it, so that what it says is put to use.
fn draft(index: usize, opset: i64, inputs: &[Input], attrs: Attrs) -> Draft {
    let spec = op::TABLE[index % op::TABLE.len()];
    let mut d = Draft::new(opset);
    let slots: Vec<Option<ValueId>> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| match input {
            Input::Tensor(dtype, dims) => Some(d.input_of(&format!("x{i}"), *dtype, dims)),
            Input::Ints(v) => Some(d.ints(v)),
            Input::Int(n) => Some(d.int(*n)),
            Input::Floats(v) => Some(d.constant(Tensor::from_f32([v.len() as u64].as_slice(), v).unwrap())),
            Input::Missing => None,
        })
        .collect();
    let mut attrs = attrs;
    if ["If", "Loop", "Scan", "SequenceMap"].contains(&spec.name) {
        let mut body = Graph::default();
        let taken: Vec<ValueId> = (0..slots.len()).map(|i| body.add_input(format!("b{i}"), None, None)).collect();
        taken.iter().rev().for_each(|&v| body.add_output(v));
        attrs.set("body", Attr::Graph(Box::new(body)));
    }
    let name = if spec.domain.is_empty() { spec.name.to_owned() } else { format!("{}::{}", spec.domain, spec.name) };
    let made = d.nodes(&name, &slots, attrs, 3);
    let shape = d.node("Shape", &[made[0]], Attrs::new());
    d.node("Reshape", &[made[0], shape], Attrs::new());
    d.node("Add", &[made[0], made[1]], Attrs::new());
    d
}

/// Axes whose letters do not multiply and add up to their size.
fn spelling_errors(d: &Draft, inferred: &super::Inferred) -> Vec<String> {
    let mut errors = Vec::new();
    for (_, node) in d.model.graph.nodes() {
        let fact = |v: &Option<ValueId>| v.map_or(&super::Fact::UNKNOWN, |v| inferred.graph().fact(v));
        let inputs = node.inputs().iter().map(fact).collect();
        let Some(call) = super::call(node, &d.model.opsets, inputs, Vec::new()) else { continue };
        let outputs: Vec<super::Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
        let axes = axes::Axes::of(&call, &outputs);
        for s in &axes.spelled {
            let shape = match s.port {
                axes::Port::In(slot) => call.shape(slot),
                axes::Port::Out(slot) => outputs.get(slot).and_then(super::Fact::shape),
            };
            let size = shape.and_then(|d| d.get(s.axis)).unwrap_or(&Dim::Unknown);
            let spelled = axes.volume(&s.parts);
            if !size.compatible(&spelled) {
                errors.push(format!("{}: {:?} {} has size {size}, spelled {spelled}: {axes}", node.op, s.port, s.axis));
            }
        }
    }
    errors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn nothing_panics_and_names_stand_for_numbers(
        index in 0usize..1 << 16,
        opset in select(vec![1i64, 5, 6, 7, 9, 10, 11, 13, 17, 18, 21, 28]),
        inputs in vec(input(), 0..6),
        attrs in attrs(),
    ) {
        let d = draft(index, opset, &inputs, attrs);
        // Large, because slices with constant bounds are taken to stay within a named size.
        let bindings = Bindings::from([("N".into(), 24), ("M".into(), 36)]);
        let (open, bound) = (infer(&d.model, &Bindings::new()), infer(&d.model, &bindings));
        cost::cost(&d.model, &bindings);
        axes::classes(&d.model, &open);
        for message in spelling_errors(&d, &bound) {
            prop_assert!(false, "{message}");
        }
        for (id, value) in d.model.graph.values() {
            if let (Some(a), Some(b)) = (open.ty(id), bound.ty(id)) {
                let a = super::shape::map_dims(a, &|d| d.bind(&bindings));
                prop_assert!(a.compatible(b), "{}: {a} is {b}", value.name());
            }
        }
        prop_assert!(open.contradictions().len() <= bound.contradictions().len());
    }
}
