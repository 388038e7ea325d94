use std::sync::Mutex;

use planish_ir::{Model, Tensor};
use proptest::prelude::*;

use super::*;
use crate::{EngineError, NoObserver, testing::parse};

/// Hands out the inputs that are called like what is wanted, and counts how often it runs.
struct Echo(Mutex<usize>);

struct Wanted(Vec<String>);

impl Engine for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn load(&self, _: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        *self.0.lock().unwrap() += 1;
        Ok(Box::new(Wanted(outputs.to_vec())))
    }
}

impl Runnable for Wanted {
    fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        Ok(self.0.iter().map(|name| inputs[name].clone()).collect())
    }
}

fn model() -> Model {
    parse(
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x, float[N,2] y) => (float[N,2] z) { z = Add (x, y) }"#,
    )
}

fn samples(rows: &[u64]) -> Vec<Tensors> {
    let tensor = |n: u64, seed: u64| {
        let values: Vec<f32> = (0..2 * n).map(|i| ((i * 7 + seed * 5) % 11) as f32 - 3.0).collect();
        Tensor::from_f32([n, 2].as_slice(), &values).unwrap()
    };
    let sample = |(i, &n): (usize, &u64)| {
        Tensors::from([("x".to_owned(), tensor(n, i as u64)), ("y".to_owned(), tensor(n, i as u64 + 1))])
    };
    rows.iter().enumerate().map(sample).collect()
}

fn collect<S: Statistic>(samples: &[Tensors], memory: u64, wants: Vec<Want<S>>) -> (Vec<S>, usize) {
    let engine = Echo(Mutex::new(0));
    let calibration = Calibration { engine: &engine, samples: &samples, memory, watch: &NoObserver, store: None };
    let statistics = calibration.collect(&[&model()], wants).unwrap();
    (statistics, *engine.0.lock().unwrap())
}

#[test]
fn little_memory_takes_more_rounds_and_gives_the_same() {
    let samples = samples(&[3, 1, 4, 2]);
    let wants = || ["x", "y", "x"].map(|name| Want::of(name, Gram::new(Rows::Axis(-1), 2))).into();
    let (plenty, once) = collect(&samples, 1 << 30, wants());
    let (scarce, often) = collect(&samples, 1, wants());
    assert_eq!((once, often), (1, 3));
    for (a, b) in plenty.iter().zip(&scarce) {
        assert_eq!((a.count(0), a.mean(0), a.products(0)), (b.count(0), b.mean(0), b.products(0)));
    }
    assert_eq!(plenty[0].count(0), 10);
}

#[test]
fn ranges_are_per_tensor_or_per_channel() {
    let samples = samples(&[2, 1]);
    let wants = vec![Want::of("x", Range::per_tensor()), Want::of("x", Range::per_channel(1))];
    let (ranges, _) = collect(&samples, 1 << 30, wants);
    // -3 4, 0 7 and 2 -2.
    let both = |m: &Moments| (m.min, m.max, m.sum, m.count);
    assert_eq!(both(&ranges[0].all()), (-3.0, 7.0, 8.0, 6));
    assert_eq!(ranges[1].channels().iter().map(both).collect::<Vec<_>>(), [(-3.0, 2.0, -1.0, 3), (-2.0, 7.0, 9.0, 3)]);
    assert_eq!(both(&ranges[1].all()), both(&ranges[0].all()));
}

#[test]
fn what_does_not_fit_is_named() {
    let samples = samples(&[2]);
    let samples = samples.as_slice();
    let calibration =
        Calibration { engine: &Echo(Mutex::new(0)), samples: &samples, memory: 0, watch: &NoObserver, store: None };
    let error = calibration.collect(&[&model()], vec![Want::of("y", Gram::new(Rows::Axis(-1), 3))]).unwrap_err();
    insta::assert_snapshot!(error, @r#"the value "y" cannot be calibrated: its rows have 2 values, and 3 were expected"#);
}

#[test]
fn the_forecast_knows_the_sizes_of_a_sample() {
    let samples = samples(&[5]);
    let facts = [infer::infer(&model(), &bindings(&model(), &samples[0]))];
    let wants = vec![Want::of("x", Range::per_tensor()), Want::of("z", Range::per_tensor())];
    let list = samples.as_slice();
    let engine = Echo(Mutex::new(0));
    let calibration = Calibration { engine: &engine, samples: &list, memory: 1 << 20, watch: &NoObserver, store: None };
    let plan = Plan::new(&calibration, &[&model()], &facts, &wants, 1, None);
    assert_eq!((plan.forecast.activations, plan.forecast.open, plan.forecast.rounds), (2 * 5 * 2 * 4, 0, 1));
    // What a search keeps: of the outputs as much as it says, and four values on the borders of layers.
    let searched = Plan::new(&calibration, &[&model()], &facts, &wants, 1, Some(30)).forecast;
    assert_eq!((plan.forecast.kept, searched.kept), (0, 30 + 4 * 5 * 2 * 4));
    assert_eq!(searched.peak(), plan.forecast.peak() + searched.kept);
}

#[test]
fn the_forecast_counts_the_statistics_of_all_rounds() {
    let samples = samples(&[5]);
    let facts = [infer::infer(&model(), &bindings(&model(), &samples[0]))];
    let wants = || ["x", "y"].map(|name| Want::of(name, Gram::new(Rows::Axis(-1), 2)));
    let (engine, list) = (Echo(Mutex::new(0)), samples.as_slice());
    let forecast = |memory: u64| {
        let calibration = Calibration { engine: &engine, samples: &list, memory, watch: &NoObserver, store: None };
        Plan::new(&calibration, &[&model()], &facts, &wants(), 1, None).forecast
    };
    // Three products of each.
    assert_eq!([1, 1 << 30].map(forecast).map(|f| (f.rounds, f.statistics)), [(2, 2 * 3 * 8), (1, 2 * 3 * 8)]);
}

#[test]
fn a_gram_matrix_needs_the_half_that_it_keeps_and_the_whole_that_is_read() {
    let gram = Gram::new(Rows::Axis(-1), 4096);
    assert_eq!((gram.bytes(), gram.needs()), (8 * 4096 * 4097 / 2, 8 * 4096 * 4097 / 2 + 8 * 4096 * 4096));
}

/// The definition: every window, tap by tap.
fn naive_windows(
    x: &[f32],
    (channels, h, w): (usize, usize, usize),
    kernel: usize,
    stride: usize,
    pad: i64,
) -> Vec<Vec<f32>> {
    let at = |c: usize, i: i64, j: i64| {
        let inside = (0..h as i64).contains(&i) && (0..w as i64).contains(&j);
        if inside { x[(c * h + i as usize) * w + j as usize] } else { 0.0 }
    };
    let count = |size: usize| (size + 2 * pad as usize - kernel) / stride + 1;
    let mut rows = Vec::new();
    for i in 0..count(h) {
        for j in 0..count(w) {
            let mut row = Vec::new();
            for c in 0..channels {
                for a in 0..kernel {
                    for b in 0..kernel {
                        row.push(at(c, (i * stride + a) as i64 - pad, (j * stride + b) as i64 - pad));
                    }
                }
            }
            rows.push(row);
        }
    }
    rows
}

/// Sums of products of rows, in float64.
fn naive_products(rows: &[Vec<f32>], width: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| rows.iter().map(|r| f64::from(r[i]) * f64::from(r[j])).sum();
    (0..width * width).map(|k| entry(k / width, k % width)).collect()
}

proptest! {
    #[test]
    fn windows_are_those_of_the_definition(
        (channels, h, w) in (1usize..4, 3usize..7, 3usize..7), kernel in 1usize..4, stride in 1usize..3, pad in 0i64..2, seed in 0u32..99
    ) {
        let x: Vec<f32> = (0..channels * h * w).map(|i| ((i as u32 * 31 + seed * 17) % 23) as f32 - 11.0).collect();
        let tensor = Tensor::from_f32([1, channels as u64, h as u64, w as u64].as_slice(), &x).unwrap();
        let attrs = planish_ir::Attrs::new().with("pads", vec![pad; 4]).with("strides", vec![stride as i64; 2]);
        let unfold = Unfold::of_conv(&attrs, &[1, channels as u64, kernel as u64, kernel as u64]).unwrap();
        let width = channels * kernel * kernel;
        let mut rows = Vec::new();
        Rows::Windows(unfold).each(&tensor, width, 5, |_, r| rows.extend(r.chunks(width).map(<[f32]>::to_vec))).unwrap();
        prop_assert_eq!(rows, naive_windows(&x, (channels, h, w), kernel, stride, pad));
    }

    #[test]
    fn gram_matrices_are_sums_of_products(
        rows in prop::collection::vec(prop::collection::vec(-4.0f32..4.0, 3), 1..40), offset in -1000i32..1000
    ) {
        let rows: Vec<Vec<f32>> = rows.into_iter().map(|r| r.into_iter().map(|x| x + offset as f32).collect()).collect();
        let mut gram = Gram::new(Rows::Axis(0), 3);
        // In pieces, with the channels in front.
        for piece in rows.chunks(7) {
            let values: Vec<f32> = (0..3).flat_map(|c| piece.iter().map(move |r| r[c])).collect();
            gram.add(&[&Tensor::from_f32([3, piece.len() as u64].as_slice(), &values).unwrap()]).unwrap();
        }
        let n = rows.len() as f64;
        let near = |a: &[f64], b: &[f64], scale: f64| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale);
        let expected = naive_products(&rows, 3);
        let size = f64::from(offset).abs() + 4.0;
        prop_assert!(near(&gram.products(0), &expected, n * size * size));
        // Centred, the offset must not cost digits.
        let mean: Vec<f64> = (0..3).map(|c| rows.iter().map(|r| f64::from(r[c])).sum::<f64>() / n).collect();
        let entry = |k: usize| rows.iter().map(|r| (f64::from(r[k / 3]) - mean[k / 3]) * (f64::from(r[k % 3]) - mean[k % 3])).sum();
        let centred: Vec<f64> = (0..9).map(entry).collect();
        prop_assert!(near(&gram.covariance(0), &centred, n * 16.0));
        prop_assert!(near(&gram.mean(0), &mean, size));
    }
}

#[test]
fn groups_have_matrices_of_their_own() {
    // Two channels in two groups, 1x1: each matrix is the sum of squares of one channel.
    let unfold = Unfold::of_conv(&planish_ir::Attrs::new().with("group", 2), &[2, 1, 1, 1]).unwrap();
    let mut gram = Gram::new(Rows::Windows(unfold), 1);
    gram.add(&[&Tensor::from_f32([1, 2, 1, 2].as_slice(), &[1.0, 2.0, 3.0, 4.0]).unwrap()]).unwrap();
    assert_eq!((gram.groups(), gram.products(0), gram.products(1)), (2, vec![5.0], vec![25.0]));
    assert_eq!((gram.covariance(0), gram.mean(1)), (vec![0.5], vec![3.5]));
}

/// Keeps records in memory, under one key per list of statistics.
#[derive(Default)]
struct Shelf(Mutex<std::collections::BTreeMap<String, Vec<Vec<u8>>>>);

impl Store for Shelf {
    fn key(&self, asked: &Asked<'_>) -> Option<String> {
        Some(format!("{} {:?}", asked.engine.name(), asked.statistics))
    }

    fn load(&self, key: &str, count: usize, take: &mut dyn FnMut(usize, &[u8]) -> Result<(), String>) -> bool {
        let kept = self.0.lock().unwrap();
        let records = kept.get(key).filter(|r| r.len() == count);
        records.is_some_and(|r| r.iter().enumerate().all(|(at, bytes)| take(at, bytes).is_ok()))
    }

    fn save(&self, key: &str, count: usize, record: &mut dyn FnMut(usize) -> Vec<u8>) {
        self.0.lock().unwrap().insert(key.to_owned(), (0..count).map(record).collect());
    }
}

#[test]
fn kept_statistics_are_as_if_they_had_been_collected() {
    fn twice<S: Statistic + std::fmt::Debug>(wants: impl Fn() -> Vec<Want<S>>) {
        let (runs, shelf) = (samples(&[3, 1, 4, 2]), Shelf::default());
        let engine = Echo(Mutex::new(0));
        let samples = runs.as_slice();
        let calibration = Calibration {
            engine: &engine,
            samples: &samples,
            memory: 1 << 30,
            watch: &NoObserver,
            store: Some(&shelf),
        };
        let collected = format!("{:?}", calibration.collect(&[&model()], wants()).unwrap());
        let loads = *engine.0.lock().unwrap();
        assert_eq!(format!("{:?}", calibration.collect(&[&model()], wants()).unwrap()), collected);
        assert_eq!(*engine.0.lock().unwrap(), loads, "it ran again");
        // A record that is damaged is no statistic.
        for change in
            [|r: &mut Vec<u8>| r.truncate(r.len() - 1), |r: &mut Vec<u8>| r.push(0), |r: &mut Vec<u8>| r.clear()]
        {
            shelf.0.lock().unwrap().values_mut().flatten().next().map(change);
            assert_eq!(format!("{:?}", calibration.collect(&[&model()], wants()).unwrap()), collected);
        }
        assert_eq!(*engine.0.lock().unwrap(), 4 * loads);
    }
    twice(|| vec![Want::of("x", Range::per_tensor()), Want::of("y", Range::per_channel(1))]);
    twice(|| vec![Want::of("x", Histogram::new())]);
    twice(|| vec![Want::of("x", Gram::new(Rows::Axis(-1), 2)), Want::of("y", Gram::new(Rows::Axis(0), 0))]);
}
