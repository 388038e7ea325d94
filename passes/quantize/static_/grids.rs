//! The grid of every value that is in codes, from what was seen of it on samples.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Model, ValueId};
use rayon::prelude::*;

use super::{
    place::Placement,
    unit::{Place, Product, Role},
};
use crate::{
    Calibration, PassError,
    calibration::{Histogram, Want},
    quantize::{
        clipping::{self, Observer},
        grid::{Codes, Grid},
    },
};

/// How ranges become grids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fit {
    pub(crate) codes: Codes,
    pub(crate) symmetric: bool,
    pub(crate) observer: Observer,
    pub(crate) percentile: f64,
}

/// What is different for one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Override {
    /// Another observer.
    Observer(Observer),
    /// 16 bits.
    Wide,
}

/// Where the codes of values come from: the value that was rounded, and the factor since.
pub(crate) fn sources(at: Place<'_>, placement: &Placement) -> BTreeMap<ValueId, (ValueId, f32)> {
    let mut sources: BTreeMap<ValueId, (ValueId, f32)> = BTreeMap::new();
    for id in at.graph.topological_order().unwrap_or_default() {
        let Some(unit) = placement.units.get(&id) else { continue };
        let Some(node) = at.graph.node(id) else { continue };
        for value in unit.reads.iter().filter_map(|&slot| node.input(slot)) {
            sources.entry(value).or_insert((value, 1.0));
        }
        let of_input = unit.reads.first().and_then(|&s| sources.get(&node.input(s)?)).copied();
        let source = match (&unit.role, of_input) {
            (Role::Passes, Some(source)) => source,
            (Role::Scales(factor), Some((source, before))) => (source, before * factor),
            _ => (unit.result, 1.0),
        };
        if placement.emits.contains(&id) {
            sources.insert(unit.result, source);
        }
    }
    sources
}

/// Looks at what is rounded on all samples.
pub(crate) fn histograms(
    at: Place<'_>,
    model: &Model,
    calibration: &Calibration<'_>,
    values: impl Iterator<Item = ValueId>,
) -> Result<BTreeMap<ValueId, Histogram>, PassError> {
    let values: Vec<ValueId> = values.collect();
    let wants = values.iter().map(|&v| Want::of(at.graph.name_of(v), Histogram::new())).collect();
    let histograms = calibration.collect(&[model], wants)?;
    Ok(values.into_iter().zip(histograms).collect())
}

/// The grid of each value in codes.
pub(crate) fn grids(
    at: Place<'_>,
    placement: &Placement,
    sources: &BTreeMap<ValueId, (ValueId, f32)>,
    histograms: &BTreeMap<ValueId, Histogram>,
    fit: Fit,
    overrides: &BTreeMap<ValueId, Override>,
) -> BTreeMap<ValueId, Grid> {
    let makers: BTreeMap<ValueId, _> = placement.units.values().map(|u| (u.result, u)).collect();
    // Sources that a matrix product reads, on whatever way.
    let at_products: BTreeSet<ValueId> = placement
        .units
        .values()
        .filter(|u| matches!(&u.role, Role::Linear(l) if l.op == Product::MatMul))
        .filter_map(|u| Some(sources.get(&at.graph.node(u.node)?.input(0)?)?.0))
        .collect();
    let of_source = |source: ValueId| {
        let maker = makers.get(&source).filter(|u| placement.emits.contains(&u.node));
        if let Some(Role::HardGate { .. }) = maker.map(|u| &u.role) {
            return super::emit::GATE;
        }
        let bounds = maker.and_then(|u| u.bounds);
        let fit = match overrides.get(&source) {
            Some(Override::Observer(observer)) => Fit { observer: *observer, ..fit },
            Some(Override::Wide) => Fit { codes: super::draft::wide(fit.codes), ..fit },
            None => fit,
        };
        let observer = match fit.observer {
            Observer::Auto if at_products.contains(&source) => Observer::MinMax,
            other => other,
        };
        let range = histograms
            .get(&source)
            .map_or((0.0, 0.0), |h| clipping::range(h, observer, fit.percentile, fit.codes, fit.symmetric));
        grid(range, bounds, fit)
    };
    let distinct: BTreeSet<ValueId> = sources.values().map(|(source, _)| *source).collect();
    let roots: BTreeMap<ValueId, Grid> = distinct.into_par_iter().map(|s| (s, of_source(s))).collect();
    let scaled = |(source, factor): (ValueId, f32)| roots.get(&source).map(|g| Grid { scale: g.scale * factor, ..*g });
    sources.iter().filter_map(|(v, s)| Some((*v, scaled(*s)?))).collect()
}

/// The grid of a range. Behind a rectifier no code may stand for a number that it would change, or the runtime keeps it.
fn grid((low, high): (f32, f32), bounds: Option<(f32, f32)>, fit: Fit) -> Grid {
    if fit.symmetric {
        return Grid::symmetric(fit.codes, high.max(-low));
    }
    let Some((least, most)) = bounds else { return Grid::covering(fit.codes, low, high) };
    let mut grid = Grid::covering(fit.codes, low.max(least), high.min(most));
    // The ends may lie half a step outside of the range.
    let (first, last) = grid.ends();
    let fits = |end: f32, bound: f32| if end.abs() > bound.abs() { bound / end } else { 1.0 };
    let shrink = fits(first, least).min(fits(last, most));
    if shrink < 1.0 {
        grid.scale *= shrink * (1.0 - f32::EPSILON);
    }
    grid
}
