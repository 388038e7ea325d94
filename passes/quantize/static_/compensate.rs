//! Weights of 8 bits whose products on the samples keep what they can.
//!
//! Rounded to the nearest code, a weight is off by up to half a step, and what that does to the products depends on what is multiplied:
//! in the first convolutions on an image neighbours are nearly equal, and errors of a whole window add up. So columns are rounded one
//! after another, and those that follow make up for the error, measured by the second moments of the inputs; then single codes
//! are moved while that lowers the error. Weights with few columns have the scale of each channel searched, too.
//!
//! Reference: Frantar et al., GPTQ, ICLR 2023, and as in `quantize-weights` Nair and Suggala, CDQuant, 2024; for convolutions on
//! images Hubara et al., Accurate Post Training Quantization With Small Calibration Sets, ICML 2021.

use std::collections::BTreeMap;

use faer::{Accum, Mat, MatMut, MatRef, Par, linalg::matmul::matmul};
use planish_ir::{Model, NodeId, Tensor, TensorError};
use rayon::prelude::*;

use super::{
    unit::{Place, Role, Unit},
    weights::{self, MOST_OF_PAIRS, Rounding},
};
use crate::{
    Calibration, PassError,
    calibration::{Gram, Samples as _, Selected, Statistic, Want},
    clean,
    linear::Linear,
    quantize::grid::{self, Channels, Codes},
    reconstruct::{CHUNK, Change, Second, Settings, TILE},
};

/// Samples that moments are made of, from all over them.
const SAMPLES: usize = 32;
/// Most columns: beyond, a single error counts little, and moments grow with the square.
const MOST_COLUMNS: usize = 2048;
/// Up to so many columns the scales are searched.
const FEW_COLUMNS: usize = 64;
/// Shares of the scale of a channel that are tried.
const SHARES: [f32; 13] = [1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.81, 0.78, 0.74, 0.7, 0.65];
/// Times that all codes of a row are looked at again.
const TURNS: usize = 3;
const SETTINGS: Settings = Settings { damping: 0.01, act_order: true };

/// The weights of all products in codes of 8-bit integers, as far as there are moments for them.
pub(super) fn weights(
    at: Place<'_>,
    model: &Model,
    calibration: &Calibration<'_>,
    (units, how): (&BTreeMap<NodeId, Unit>, Rounding),
    notes: &mut Vec<String>,
) -> Result<BTreeMap<NodeId, Channels>, PassError> {
    if how.codes != Codes::I8 || !how.per_channel {
        return Ok(BTreeMap::new());
    }
    let (mut wants, mut grams, mut layers, mut wide) = (Vec::new(), BTreeMap::new(), Vec::new(), 0usize);
    for unit in units.values() {
        let Role::Linear(product) = &unit.role else { continue };
        let Some(linear) = Linear::of(at.graph, unit.node) else { continue };
        let Some(weight) = clean::constant_of(at.graph, product.weight) else { continue };
        let Some(width) = linear.width(&weight) else { continue };
        let gram = Gram::new(linear.rows.clone(), width);
        if width > MOST_COLUMNS || gram.needs() > calibration.memory {
            wide += 1;
            continue;
        }
        // Products that read the same value in the same way share its moments.
        let gram = *grams.entry((linear.input, linear.rows.clone(), width)).or_insert_with(|| {
            wants.push(Want::of(at.graph.name_of(linear.input), gram));
            wants.len() - 1
        });
        layers.push(Layer { node: unit.node, product, linear, weight, width, gram });
    }
    let step = calibration.samples.len().div_ceil(SAMPLES).max(1);
    let some = Selected { samples: calibration.samples, first: 0, step, limit: SAMPLES };
    let grams = Calibration { samples: &some, ..*calibration }.collect(&[model], wants)?;
    let rounded = layers.par_iter().map(|layer| {
        let failed = |source| PassError::Tensor { place: at.graph.name_of(layer.product.weight), source };
        let Some(gram) = grams.get(layer.gram) else { return Ok(None) };
        Ok(layer.round(at, gram, how).map_err(failed)?.map(|channels| (layer.node, channels)))
    });
    let rounded: Vec<Option<(NodeId, Channels)>> = rounded.collect::<Result<_, PassError>>()?;
    let rounded: BTreeMap<NodeId, Channels> = rounded.into_iter().flatten().collect();
    notes.push(format!(
        "{} weights are rounded for what they are multiplied with, on {} samples",
        rounded.len(),
        some.len()
    ));
    if wide > 0 {
        notes.push(format!("{wide} weights have more than {MOST_COLUMNS} columns, or too many for the memory, and are rounded to the nearest code"));
    }
    Ok(rounded)
}

struct Layer<'a> {
    node: NodeId,
    product: &'a super::unit::Linear,
    linear: Linear,
    weight: Tensor,
    width: usize,
    gram: usize,
}

impl Layer<'_> {
    /// The weight in codes; `None` if there is no moment.
    fn round(&self, at: Place<'_>, gram: &Gram, how: Rounding) -> Result<Option<Channels>, TensorError> {
        let (Some(node), width) = (at.graph.node(self.node), self.width) else { return Ok(None) };
        let (mut scales, limit) = weights::scales(&self.weight, self.product, node, how)?;
        let partners = weights::partners(&self.weight, self.product, node, how);
        let groups = self.linear.matrices(&self.weight)?;
        let outputs = groups.first().map_or(0, Mat::nrows);
        if width == 0 || outputs == 0 || outputs * groups.len() != scales.len() {
            return Ok(None);
        }
        let mut codes = Vec::with_capacity(scales.len() * width);
        for (group, (matrix, scales)) in groups.iter().zip(scales.chunks_mut(outputs)).enumerate() {
            let Some(second) = Second::new(&gram.products(group), width, SETTINGS) else { return Ok(None) };
            let values: Vec<f32> = (0..outputs).flat_map(|o| (0..width).map(move |i| matrix[(o, i)] as f32)).collect();
            let tiles = values.par_chunks(TILE * width).zip(scales.par_chunks_mut(TILE));
            let rounded: Vec<Vec<f32>> = tiles
                .map(|(values, scales)| {
                    Rows { second: &second, width, limit, partners: partners.as_deref(), values, scales }.round()
                })
                .collect();
            codes.extend(rounded.into_iter().flatten());
        }
        let rows = scales.len();
        // In the order of the tensor.
        let codes: Vec<f32> = match self.linear.is_out_in() {
            true => codes,
            false => {
                (0..width).flat_map(|i| (0..rows).map(move |o| (o, i))).map(|(o, i)| codes[o * width + i]).collect()
            }
        };
        let (mut signal, mut noise) = (0.0f64, 0.0f64);
        let values = self.weight.as_f32()?;
        let channels = grid::runs(&values, self.weight.dims(), self.product.axis).map(|(c, run)| (scales[c], run));
        let mut at = 0;
        for (scale, run) in channels {
            for (v, code) in run.iter().zip(&codes[at..]) {
                signal += f64::from(*v).powi(2);
                noise += (f64::from(*v) - f64::from(code * scale)).powi(2);
            }
            at += run.len();
        }
        let codes = grid::store(Codes::I8, self.weight.dims(), &codes)?;
        Ok(Some(Channels { codes, scales, power: (signal, noise) }))
    }
}

/// Some rows of a weight.
struct Rows<'a> {
    second: &'a Second,
    width: usize,
    limit: f32,
    partners: Option<&'a [usize]>,
    values: &'a [f32],
    scales: &'a mut [f32],
}

impl Rows<'_> {
    fn round(self) -> Vec<f32> {
        let width = self.width;
        let (mut codes, mut least) = self.with_scales(self.scales);
        if width > FEW_COLUMNS {
            return codes;
        }
        let all = self.scales.to_vec();
        for share in SHARES.iter().skip(1) {
            let tried: Vec<f32> = all.iter().map(|s| s * share).collect();
            let (other, errors) = self.with_scales(&tried);
            for (row, (error, least)) in errors.iter().zip(&mut least).enumerate() {
                if error < least {
                    *least = *error;
                    self.scales[row] = tried[row];
                    codes[row * width..(row + 1) * width].copy_from_slice(&other[row * width..(row + 1) * width]);
                }
            }
        }
        codes
    }

    /// Codes, and the error of each row in the products.
    fn with_scales(&self, scales: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (width, rows) = (self.width, scales.len());
        let mut sweep = Sweep { rows: self, scales, codes: vec![f32::NAN; rows * width] };
        self.second.sweep(self.values, CHUNK, &mut sweep);
        let mut codes = sweep.codes;
        let mut errors: Vec<f32> = (0..rows * width).map(|i| self.values[i] - codes[i] * scales[i / width]).collect();
        // e H, half of the slope of the error at each column.
        let mut slopes = vec![0.0f32; rows * width];
        matmul(
            MatMut::from_row_major_slice_mut(&mut slopes, rows, width),
            Accum::Replace,
            MatRef::from_row_major_slice(&errors, rows, width),
            MatRef::from_row_major_slice(self.second.moment(), width, width),
            1.0,
            Par::Seq,
        );
        for _ in 0..TURNS {
            let rows = codes.chunks_mut(width).zip(errors.chunks_mut(width)).zip(slopes.chunks_mut(width));
            for (((codes, errors), slopes), scale) in rows.zip(scales) {
                self.improve(codes, errors, slopes, *scale);
            }
        }
        let error = |row: usize| {
            let of_row = row * width..(row + 1) * width;
            errors[of_row.clone()].iter().zip(&slopes[of_row]).map(|(e, s)| e * s).sum()
        };
        let errors = (0..rows).map(error).collect();
        (codes, errors)
    }

    /// Moves each code of a row to where the error is least.
    fn improve(&self, codes: &mut [f32], errors: &mut [f32], slopes: &mut [f32], scale: f32) {
        let (moment, diagonal) = (self.second.moment(), self.second.diagonal());
        for column in 0..self.width {
            let old = codes[column];
            let wanted = old + slopes[column] / (diagonal[column] * scale);
            let new = self.code(wanted, codes, column);
            // Zeros were pruned.
            if new == old || new.is_nan() || errors[column] + old * scale == 0.0 {
                continue;
            }
            let by = (new - old) * scale;
            codes[column] = new;
            errors[column] -= by;
            let moment = &moment[column * self.width..(column + 1) * self.width];
            slopes.iter_mut().zip(moment).for_each(|(s, m)| *s -= by * m);
        }
    }

    /// The code next to a number, so that its sum with the one that it is added to does not saturate.
    fn code(&self, wanted: f32, codes: &[f32], column: usize) -> f32 {
        let code = wanted.round_ties_even().clamp(-self.limit, self.limit);
        match self.partners.and_then(|p| p.get(column)).filter(|&&p| p != column).and_then(|&p| codes.get(p)) {
            // NaN if it has none yet.
            Some(other) if !other.is_nan() => {
                code.clamp(-MOST_OF_PAIRS - other.min(0.0), MOST_OF_PAIRS - other.max(0.0))
            }
            _ => code,
        }
    }
}

/// Rounds columns one after another.
struct Sweep<'a, 'b> {
    rows: &'a Rows<'b>,
    scales: &'a [f32],
    codes: Vec<f32>,
}

impl Change for Sweep<'_, '_> {
    fn change(&mut self, row: usize, i: usize, wanted: &[f32]) -> f32 {
        let (width, column) = (self.rows.width, self.rows.second.order()[i]);
        let of_row = &mut self.codes[row * width..(row + 1) * width];
        let is_pruned = self.rows.values[row * width + column] == 0.0;
        let scale = self.scales[row];
        let code = if is_pruned { 0.0 } else { self.rows.code(wanted[i] / scale, of_row, column) };
        of_row[column] = code;
        code * scale
    }
}
