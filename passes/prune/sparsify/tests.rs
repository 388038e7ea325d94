use std::collections::BTreeMap;

use faer::Mat;
use planish_ir::{DType, Model, Tensor, text};
use proptest::prelude::*;

use super::{
    compensate::compensate,
    pattern::{Columns, Goal},
    *,
};
use crate::{
    Calibration, NoObserver, Target, Tensors,
    prune::eliminate::loss,
    quantize::{Algorithm, Choice, Quantize, QuantizeWeights},
    reconstruct::Second,
    testing::{Drawn, check_calibrated, check_with, parse, refusals_calibrated, refusals_for},
};

fn half() -> Sparsify {
    Sparsify { sparsity: Some(0.5), min_elements: 1, ..Sparsify::default() }
}

fn two_of_four() -> Sparsify {
    Sparsify { sparsity: None, pattern: Some(Pattern { keep: 2, of: 4 }), ..half() }
}

fn samples(dims: &[u64], count: usize) -> Vec<Tensors> {
    let one = |i| BTreeMap::from([("x".to_owned(), crate::testing::drawn(&format!("sample {i}"), dims))]);
    (0..count).map(one).collect()
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    Mat::from_fn(rows, columns, |_, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    })
}

/// Second moments of inputs that hang together and differ in size.
fn moments(width: usize, seed: u64) -> Mat<f64> {
    let shared = matrix(width, 4, seed + 1) * matrix(4, 3 * width, seed + 2);
    let x = shared + 0.3 * matrix(width, 3 * width, seed + 3);
    let x = Mat::from_fn(width, 3 * width, |r, c| x[(r, c)] * (1 + r % 5) as f64);
    &x * x.transpose()
}

fn compensated(w: &Mat<f64>, h: &Mat<f64>, goal: Goal, columns: &Columns) -> Mat<f64> {
    let n = h.nrows();
    let products: Vec<f64> = (0..n * n).map(|i| h[(i / n, i % n)]).collect();
    let second = Second::ordered(&products, columns.order.clone(), 1e-4).unwrap();
    compensate(w, goal, columns, &second)
}

fn goals() -> impl Strategy<Value = Goal> {
    let patterns = prop::sample::select(vec!["2:4", "1:4", "3:8", "1:2", "2:5"]);
    prop_oneof![
        patterns.prop_map(|p| Goal::Pattern(p.parse().unwrap())),
        prop::sample::select(vec![0.1, 0.5, 0.8]).prop_map(Goal::Share)
    ]
}

/// At most so many of each group are not zero: channels that are neighbours, at one tap.
fn holds(row: &[f64], pattern: Pattern, taps: usize) -> bool {
    let channels = row.len() / taps;
    (0..taps).all(|tap| {
        (0..channels).step_by(pattern.of).all(|first| {
            let group = first..channels.min(first + pattern.of);
            group.filter(|c| row[c * taps + tap] != 0.0).count() <= pattern.keep
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_asked_for_is_zero_at_any_width(
        goal in goals(), rows in 1usize..40, channels in 2usize..70, taps in 1usize..4, seed in 0u64..1000
    ) {
        let columns = Columns::new(goal, channels, taps);
        let width = channels * taps;
        let mut order = columns.order.clone();
        order.sort_unstable();
        prop_assert_eq!(order, (0..width).collect::<Vec<_>>());
        let (w, h) = (matrix(rows, width, seed), moments(width, seed));
        let scores: Vec<f64> = (0..rows * width).map(|i| w[(i / width, i % width)].abs()).collect();
        let by_size: Vec<f64> = goal.kept(&scores, &columns, false).iter().map(|k| f64::from(u8::from(*k))).collect();
        let new = compensated(&w, &h, goal, &columns);
        let new: Vec<f64> = (0..rows * width).map(|i| new[(i / width, i % width)]).collect();
        for values in [&new, &by_size] {
            prop_assert!(goal.is_met(values, &columns));
            if let Goal::Pattern(pattern) = goal {
                prop_assert!(values.chunks(width).all(|row| holds(row, pattern, taps)));
            }
        }
        let zeros = new.iter().filter(|v| **v == 0.0).count();
        if let Goal::Share(share) = goal {
            // Rounded up for each chunk of columns and tile of rows.
            let units = rows.div_ceil(32) * width.div_ceil(128);
            prop_assert!((zeros as f64 - share * new.len() as f64) <= units as f64, "{zeros} of {}", new.len());
        }
    }

    #[test]
    fn making_up_for_zeros_never_loses_more_than_the_zeros_alone(
        goal in goals(), rows in 1usize..40, width in 2usize..150, seed in 0u64..1000
    ) {
        let columns = Columns::new(goal, width, 1);
        let (w, h) = (matrix(rows, width, seed), moments(width, seed));
        let new = compensated(&w, &h, goal, &columns);
        let zeroed = Mat::from_fn(rows, width, |r, c| if new[(r, c)] == 0.0 { 0.0 } else { w[(r, c)] });
        let (found, plain) = (loss(&w, &new, &h), loss(&w, &zeroed, &h));
        prop_assert!(found <= plain * 1.001 + 1e-6, "{found} {plain}");
    }
}

/// Where the best mask is known, it is found, and the fit is the least squares fit.
#[test]
fn a_copy_of_another_input_goes_and_the_other_one_takes_its_weight() {
    // Inputs 0 and 1 are the same, so are 2 and 3.
    let x = matrix(2, 40, 5);
    let x = Mat::from_fn(4, 40, |r, c| x[(r / 2, c)]);
    let w = matrix(3, 4, 9);
    let goal = Goal::Pattern(Pattern { keep: 2, of: 4 });
    let columns = Columns::new(goal, 4, 1);
    let h = &x * x.transpose();
    let products: Vec<f64> = (0..16).map(|i| h[(i / 4, i % 4)]).collect();
    let second = Second::ordered(&products, columns.order.clone(), 1e-6).unwrap();
    let new = compensate(&w, goal, &columns, &second);
    assert!(loss(&w, &new, &h) < 1e-6, "{new:?}");
}

#[test]
fn patterns_are_read_and_written() {
    let read = |text: &str| text.parse::<Pattern>();
    assert_eq!(read("2:4").unwrap().to_string(), "2:4");
    insta::assert_snapshot!(read("4:2").unwrap_err());
    for text in ["", "2", "0:4", "4:4", "a:b", "2:4:8", "1:65", "-1:4"] {
        assert!(read(text).is_err(), "{text}");
    }
    let config: Sparsify = serde_json::from_value(serde_json::json!({"pattern": "1:2"})).unwrap();
    assert_eq!(config.pattern, Some(Pattern { keep: 1, of: 2 }));
}

#[test]
fn two_of_four_by_size() {
    insta::assert_snapshot!(check_with(
        Sparsify { method: Method::Magnitude, ..two_of_four() },
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1.0, 5.0, 2.0, -6.0, -3.0, 7.0, 4.0, 8.0}> { y = MatMul (x, w) }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,2] y)
    <
      float[4,2] w = {0.0, 0.0, 0.0, 0.0, -3.0, 7.0, 4.0, 8.0}
    >
    {
      y = MatMul (x, w)
    }
    "#);
}

#[test]
fn half_of_a_convolution_in_groups_and_of_what_follows() {
    insta::assert_snapshot!(check_calibrated(
        half(),
        Target::Generic,
        &samples(&[1, 4, 3, 3], 4),
        r#"<ir_version: 8, opset_import: ["" : 17]> 
        g (float[1,4,3,3] x) => (float[1,2,3,3] y) <float[4,2,3,3] w, float[2,4,1,1] v> {
            h = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)
            y = Conv (h, v)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,4,3,3] x) => (float[1,2,3,3] y)
    <
      float[4,2,3,3] w,  # ab63abb0009e, 72 elements, 50 % zeros
      float[2,4,1,1] v = {0.7875869, 0.0, -0.6725294, -0.6728555, 0.0, 0.0, 0.0, 0.48756027},
      float[4] w_bias = {0.0036542579, -0.011644861, -0.0025586036, 0.033082467},
      float[2] v_bias = {-0.13705325, -0.17240544}
    >
    {
      h = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w, w_bias)
      y = Conv (h, v, v_bias)
    }
    "#);
}

#[test]
fn two_of_four_by_calibration() {
    for method in [Method::Wanda, Method::Sparsegpt] {
        let text = check_calibrated(
            Sparsify { method, ..two_of_four() },
            Target::Generic,
            &samples(&[16, 10], 4),
            r#"<ir_version: 8, opset_import: ["" : 17]> 
            g (float[16,10] x) => (float[16,3] y) <float[3,10] w, float[3] b> { y = Gemm <transB = 1> (x, w, b) }"#,
        );
        match method {
            Method::Wanda => insta::assert_snapshot!(text, @r#"
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[16,10] x) => (float[16,3] y)
            <
              float[3,10] w,  # 1c5a49af2ff7, 30 elements, 40 % zeros
              float[3] b = {0.5791523, -0.68649244, -0.99834424}
            >
            {
              y = Gemm <transB = 1> (x, w, b)
            }
            "#),
            _ => insta::assert_snapshot!(text, @r#"
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[16,10] x) => (float[16,3] y)
            <
              float[3,10] w,  # 1c5a49af2ff7, 30 elements, 40 % zeros
              float[3] b = {0.5436175, -0.66711664, -0.9810435}
            >
            {
              y = Gemm <transB = 1> (x, w, b)
            }
            "#),
        }
    }
}

/// Codes of 4 bits, two in a byte, or others.
fn numbers(tensor: &Tensor) -> Vec<f64> {
    let halves = |b: &u8| [b & 15, b >> 4];
    match tensor.dtype() {
        DType::U4 => tensor.raw().unwrap().iter().flat_map(halves).map(f64::from).collect(),
        DType::I4 => {
            let signed = |c: u8| f64::from((c << 4) as i8 >> 4);
            tensor.raw().unwrap().iter().flat_map(halves).map(signed).collect()
        }
        DType::F32 => tensor.to_f64().unwrap(),
        _ => tensor.to_i64().unwrap().into_iter().map(|c| c as f64).collect(),
    }
}

const LINEAR: &str = r#"<ir_version: 10, opset_import: ["" : 21]> g (float[8,64] x) => (float[8,32] y) <float[64,32] w> { y = MatMul (x, w) }"#;

#[test]
fn quantization_keeps_zeros() {
    let samples = samples(&[8, 64], 4);
    let samples = samples.as_slice();
    let calibration =
        Calibration { engine: &Drawn, samples: &samples, memory: 1 << 30, watch: &NoObserver, store: None };
    let apply = |model: &mut Model, pass: &dyn Transform| {
        let facts = planish_ir::infer::infer(model, &Default::default());
        let cx = Context { calibration: Some(&calibration), facts: &facts, ..Context::bare() };
        let changes = pass.transform(model, &cx).unwrap();
        assert!(!changes.patches.is_empty());
        changes.patches.into_iter().for_each(|(path, patch)| drop(model.apply(&path, patch).unwrap()));
    };
    let constant = |model: &Model, is: &dyn Fn(&str, &Tensor) -> bool| -> Option<Vec<f64>> {
        let found =
            model.graph.values().find_map(|(v, value)| value.constant().filter(|t| is(&model.graph.name_of(v), t)));
        found.map(numbers)
    };
    let mut sparse = parse(LINEAR);
    apply(&mut sparse, &two_of_four());
    let weights = constant(&sparse, &|name, _| name == "w").unwrap();
    assert_eq!(weights.iter().filter(|w| **w == 0.0).count(), 64 * 32 / 2);

    let in_blocks =
        [Algorithm::Rtn, Algorithm::Mse, Algorithm::Hqq, Algorithm::Gptq].into_iter().flat_map(|algorithm| {
            [(4, true), (4, false), (8, true), (8, false)].map(|(bits, symmetric)| {
                let pass = QuantizeWeights {
                    bits,
                    algorithm,
                    symmetric: Some(symmetric),
                    min_elements: 1,
                    ..Default::default()
                };
                Box::new(pass) as Box<dyn Transform>
            })
        });
    let computed: Box<dyn Transform> = Box::new(Quantize { symmetric: Choice::Always, ..Quantize::default() });
    for pass in in_blocks.chain([computed]) {
        let mut model = sparse.clone();
        apply(&mut model, &*pass);
        let codes = constant(&model, &|_, t| t.dims() == [64, 32] && t.dtype() != DType::F32).unwrap();
        // One for each column, and in blocks one for each 32 rows.
        let zero_points =
            constant(&model, &|name, t| name.contains("w") && name.contains("zero_point") && t.rank() > 0);
        let zero = |i: usize| {
            zero_points.as_ref().map_or(0.0, |z| z[if z.len() > 32 { i / 1024 * 32 + i % 32 } else { i % 32 }])
        };
        for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w == 0.0) {
            assert!(codes[i] == zero(i), "{w} at {i} became {}\n{}", codes[i], text::print(&model));
        }
    }
}

#[test]
fn refuses() {
    let reasons = |inputs: &str, outputs: &str, weights: &str, nodes: &str, pass: Sparsify| {
        let text = format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <{weights}> {{ {nodes} }}"#
        );
        refusals_for(pass, Target::Generic, &text).join("\n")
    };
    let (x, y) = ("float[2,8] x", "float[2,4] y");
    insta::assert_snapshot!(reasons(x, y, "float[8,4] w", "y = MatMul (x, w)", Sparsify { min_elements: 33, ..half() }), @r#""w": it has 32 elements, and `min_elements` is 33"#);
    insta::assert_snapshot!(reasons(x, y, "float[8,4] w", "y = MatMul (x, w)", Sparsify { protect: vec!["w".into()], ..half() }), @r#""w": it is protected"#);
    insta::assert_snapshot!(reasons(x, y, "float[8,4] w = {nan}", "y = MatMul (x, w)", half()), @r#""w": it holds NaN or infinity"#);
    insta::assert_snapshot!(reasons(x, y, "float[8,4] w", "a = MatMul (x, w)\n b = Relu (w)\n c = ReduceSum <keepdims = 0> (b)\n y = Add (a, c)", half()), @r#""w": it is also read where it is not multiplied with, or is an output"#);
    insta::assert_snapshot!(reasons("float[1,8,4,4] x", "float[1,8,4,4] y", "float[8,1,3,3] w", "y = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w)", half()), @r#""w": each output reads one channel only, as in a depthwise convolution"#);
    insta::assert_snapshot!(reasons("float[1,3,4,4] x", "float[1,8,4,4] y", "float[8,3,1,1] w", "y = Conv (x, w)", two_of_four()), @r#""w": each output reads 3 channels, fewer than the pattern 2:4 has"#);
    insta::assert_snapshot!(reasons(x, "float[2,8] y", "float[8,8] w", "a = MatMul (x, w)\n y = Gemm <transB = 1> (a, w)", half()), @r#""w": its readers disagree on what they sum over"#);
    insta::assert_snapshot!(refusals_calibrated(half(), Target::Generic, &samples(&[2, 8], 2),
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2,8] x, bool c) => (float[2,4] y) <float[8,4] w> {
            y = If (c) <then_branch = t () => (float[2,4] a) { a = MatMul (x, w) }, else_branch = e () => (float[2,4] b) <float[8,4] v> { b = MatMul (x, v) }>
        }"#).join("\n"), @r#""v" is in a subgraph, whose activations are not seen"#);
}

#[test]
fn settings_that_contradict_each_other() {
    let error = |pass: Sparsify| pass.transform(&parse(LINEAR), &Context::bare()).unwrap_err().to_string();
    insta::assert_snapshot!(error(Sparsify::default()), @r#"give one goal: `- sparsify: {sparsity: 0.5}` or `- sparsify: {pattern: "2:4"}`"#);
    insta::assert_snapshot!(error(Sparsify { sparsity: Some(1.0), ..half() }), @"`sparsity` is 1, and it is a share between 0 and 1");
    insta::assert_snapshot!(error(Sparsify { method: Method::Wanda, ..half() }), @"it looks at activations, and there is no calibration data; add `calibration: {npz: FILE}` to the pipeline, or give --calibration FILE");
    insta::assert_snapshot!(error(Sparsify { damping: Some(-1.0), ..half() }), @"`damping` is -1, and it is a share from 0 on");
}
