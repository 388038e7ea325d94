use planish_ir::DType;
use proptest::prelude::*;

use super::{
    super::blocks::{Blocks, Format, Matrix},
    *,
};
use crate::reconstruct::Settings;

const SETTINGS: Settings = Settings { damping: 0.01, act_order: false };

fn format(bits: u32, block: usize, symmetric: bool) -> Format {
    Format { levels: 1 << bits, block, symmetric, scale: DType::F32 }
}

/// Numbers with a few outliers, reproducibly.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let bell = |next: &mut dyn FnMut() -> f32| next() + next() + next() + next();
    (0..n).map(|i| bell(&mut next) * if i % 37 == 5 { 6.0 } else { 1.0 }).collect()
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Matrix {
    Matrix { rows, columns, values: numbers(rows * columns, seed) }
}

/// `Σ x xᵀ` of inputs that hang together and differ in size.
fn products(columns: usize, seed: u64) -> Vec<f64> {
    let hidden = numbers(columns * 4, seed + 1);
    let mut sum = vec![0.0; columns * columns];
    for sample in 0..2 * columns {
        let code = numbers(4, seed + 2 + sample as u64);
        let noise = numbers(columns, seed + 5000 + sample as u64);
        let x: Vec<f64> = (0..columns)
            .map(|i| {
                let shared: f32 = (0..4).map(|k| hidden[i * 4 + k] * code[k]).sum();
                f64::from((shared + 0.3 * noise[i]) * (1.0 + (i % 7) as f32))
            })
            .collect();
        for i in 0..columns {
            for j in 0..columns {
                sum[i * columns + j] += x[i] * x[j];
            }
        }
    }
    sum
}

fn dequantized(blocks: &Blocks) -> Vec<f32> {
    (0..blocks.rows).flat_map(|r| blocks.row(r).collect::<Vec<_>>()).collect()
}

/// Error of the products.
fn gram_error(matrix: &Matrix, blocks: &Blocks, products: &[f64]) -> f64 {
    let n = matrix.columns;
    let errors: Vec<f64> = matrix.values.iter().zip(dequantized(blocks)).map(|(w, q)| f64::from(w - q)).collect();
    let row =
        |e: &[f64]| -> f64 { (0..n).map(|i| e[i] * (0..n).map(|j| products[i * n + j] * e[j]).sum::<f64>()).sum() };
    errors.chunks(n).map(row).sum()
}

fn square_error(matrix: &Matrix, blocks: &Blocks) -> f64 {
    matrix.values.iter().zip(dequantized(blocks)).map(|(w, q)| f64::from(w - q).powi(2)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn round_to_nearest_moves_nothing_by_more_than_half_a_step(
        (rows, columns) in (1usize..5, 1usize..70), block in 1usize..40, seed in 0u64..1000, symmetric: bool,
        bits in prop::sample::select(vec![2u32, 4, 8])
    ) {
        let w = matrix(rows, columns, seed);
        let blocks = quantize(&w, format(bits, block, symmetric), Algorithm::Rtn, None);
        let per_row = columns.div_ceil(block);
        for (i, (w, q)) in w.values.iter().zip(dequantized(&blocks)).enumerate() {
            let scale = blocks.grids[i / columns * per_row + i % columns / block].scale;
            // A zero point is rounded too, which costs up to half a step at the ends.
            let bound = if symmetric { 0.5001 } else { 1.0001 };
            prop_assert!((w - q).abs() <= bound * scale, "{w} became {q}, scale {scale}");
        }
        prop_assert!(blocks.codes.iter().all(|&c| u32::from(c) < 1 << bits));
    }

    #[test]
    fn a_search_is_never_worse_than_none(
        (rows, columns) in (1usize..5, 1usize..70), block in 8usize..40, seed in 0u64..1000, symmetric: bool,
        bits in prop::sample::select(vec![2u32, 4, 8])
    ) {
        let w = matrix(rows, columns, seed);
        let by = |algorithm| square_error(&w, &quantize(&w, format(bits, block, symmetric), algorithm, None));
        prop_assert!(by(Algorithm::Mse) <= by(Algorithm::Rtn) * 1.0001 + 1e-9);
    }

    #[test]
    fn gptq_has_the_least_error_in_the_damped_products(
        rows in 1usize..70, columns in 4usize..70, block in prop::sample::select(vec![8usize, 16, 32, 200]), seed in 0u64..1000,
        symmetric: bool, act_order: bool
    ) {
        gptq_is_best(rows, columns, block, seed, symmetric, act_order);
    }
}

/// In what GPTQ minimizes, which is damped, it is at least as good as the others for any weight.
fn gptq_is_best(rows: usize, columns: usize, block: usize, seed: u64, symmetric: bool, act_order: bool) {
    let w = matrix(rows, columns, seed);
    let second = Second::new(&products(columns, seed), columns, Settings { act_order, ..SETTINGS }).unwrap();
    let damped: Vec<f64> = second.moment().iter().copied().map(f64::from).collect();
    let by = |algorithm| gram_error(&w, &quantize(&w, format(4, block, symmetric), algorithm, Some(&second)), &damped);
    let (gptq, mse, rtn) = (by(Algorithm::Gptq), by(Algorithm::Mse), by(Algorithm::Rtn));
    // It compares sums in single precision.
    assert!(gptq <= mse.min(rtn) * 1.0001, "gptq {gptq}, mse {mse}, rtn {rtn}");
}

/// Rounded column by column only, few weights can end worse than rounded each to the nearest.
#[test]
fn gptq_starts_from_the_nearest_codes_where_greed_loses() {
    gptq_is_best(2, 5, 8, 634, false, false);
    gptq_is_best(1, 6, 8, 241, false, false);
}

#[test]
fn gptq_has_far_less_error_in_the_products_of_a_layer() {
    for (seed, symmetric, act_order) in [(1, false, false), (2, true, false), (3, false, true), (4, true, true)] {
        let (w, products) = (matrix(64, 64, seed), products(64, seed));
        let second = Second::new(&products, 64, Settings { act_order, ..SETTINGS }).unwrap();
        let by =
            |algorithm| gram_error(&w, &quantize(&w, format(4, 32, symmetric), algorithm, Some(&second)), &products);
        let (gptq, mse, rtn) = (by(Algorithm::Gptq), by(Algorithm::Mse), by(Algorithm::Rtn));
        assert!(gptq < 0.5 * mse.min(rtn), "seed {seed}: gptq {gptq}, mse {mse}, rtn {rtn}");
    }
}

#[test]
fn half_quadratic_search_gives_up_outliers() {
    let w = matrix(16, 64, 7);
    let by = |algorithm| {
        let blocks = quantize(&w, format(4, 32, false), algorithm, None);
        let errors = w.values.iter().zip(dequantized(&blocks)).map(|(w, q)| f64::from((w - q).abs()).powf(0.75));
        errors.sum::<f64>()
    };
    assert!(by(Algorithm::Hqq) < by(Algorithm::Rtn));
    assert!(by(Algorithm::Hqq) < by(Algorithm::Mse));
}

#[test]
fn the_result_is_the_same_for_any_number_of_threads() {
    let (w, products) = (matrix(100, 96, 3), products(96, 3));
    let second = Second::new(&products, 96, SETTINGS).unwrap();
    for algorithm in [Algorithm::Rtn, Algorithm::Mse, Algorithm::Hqq, Algorithm::Gptq] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quantize(&w, format(4, 32, false), algorithm, Some(&second)))
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn moments_of_few_samples_are_damped_until_they_can_be_factored() {
    // One sample: all directions but one have no input.
    let x = [1.0, -2.0, 0.5, 0.0];
    let products: Vec<f64> = (0..16).map(|i| x[i / 4] * x[i % 4]).collect();
    let settings = Settings { damping: 0.0, act_order: true };
    assert!(Second::new(&products, 4, settings).is_some());
    assert!(Second::new(&[0.0; 16], 4, settings).is_none());
    assert!(Second::new(&[f64::NAN; 16], 4, settings).is_none());
}

#[test]
fn whatever_is_finite_has_a_scale_that_is_no_zero_and_no_infinity() {
    let values = vec![1e-44, -1e-44, f32::MAX, f32::MIN, 0.0, 0.0, 1.0, -0.0];
    let w = Matrix { rows: 4, columns: 2, values };
    let second = Second::new(&[1.0, 0.5, 0.5, 1.0], 2, SETTINGS).unwrap();
    for algorithm in [Algorithm::Rtn, Algorithm::Mse, Algorithm::Hqq, Algorithm::Gptq] {
        for (symmetric, scale) in [(true, DType::F32), (false, DType::F32), (true, DType::F16), (false, DType::F16)] {
            let blocks = quantize(&w, Format { scale, ..format(4, 16, symmetric) }, algorithm, Some(&second));
            assert!(blocks.grids.iter().all(|g| g.scale > 0.0 && g.scale.is_finite()), "{blocks:?}");
        }
    }
}
