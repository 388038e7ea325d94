//! The grid of every value that is in codes, from what was seen of it on samples.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use planish_ir::{Model, Operand, Use, ValueId};
use rayon::prelude::*;

use super::{
    place::Placement,
    unit::{Gate, Place, Product, Role, Unit},
};
use crate::{
    Calibration, PassError,
    calibration::{Histogram, Want},
    quantize::{
        clipping::{self, Behind, Observer},
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

/// Where the codes of a value come from: `factor * root + offset`, where the root was rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Source {
    pub(crate) root: ValueId,
    factor: f32,
    offset: f32,
}

impl Source {
    const fn itself(root: ValueId) -> Source {
        Source { root, factor: 1.0, offset: 0.0 }
    }

    /// The number of the root that is 0 here.
    fn zero(&self) -> f32 {
        -self.offset / self.factor
    }
}

/// Where the codes of all values come from.
pub(crate) fn sources(at: Place<'_>, placement: &Placement) -> BTreeMap<ValueId, Source> {
    let mut sources: BTreeMap<ValueId, Source> = BTreeMap::new();
    for id in at.graph.topological_order().unwrap_or_default() {
        let Some(unit) = placement.units.get(&id) else { continue };
        let Some(node) = at.graph.node(id) else { continue };
        for value in unit.reads.iter().filter_map(|&slot| node.input(slot)) {
            sources.entry(value).or_insert(Source::itself(value));
        }
        let of_input = unit.reads.first().and_then(|&s| sources.get(&node.input(s)?)).copied();
        let source = match (&unit.role, of_input) {
            (Role::Passes, Some(source)) => source,
            (Role::Affine { factor, offset }, Some(before)) => {
                Source { factor: before.factor * factor, offset: before.offset.mul_add(*factor, *offset), ..before }
            }
            _ => Source::itself(unit.result),
        };
        if placement.emits.contains(&id) {
            sources.insert(unit.result, source);
        }
    }
    sources
}

/// Looks at what is rounded on all samples; at no more than the ends if only those are asked for.
pub(crate) fn histograms(
    at: Place<'_>,
    model: &Model,
    calibration: &Calibration<'_>,
    fit: Fit,
    values: impl Iterator<Item = ValueId>,
) -> Result<BTreeMap<ValueId, Histogram>, PassError> {
    let values: Vec<ValueId> = values.collect();
    let empty = if clipping::needs_bins(fit.observer, fit.codes) { Histogram::new() } else { Histogram::of_ends() };
    let wants = values.iter().map(|&v| Want::of(at.graph.name_of(v), empty.clone())).collect();
    let histograms = calibration.collect(&[model], wants)?;
    Ok(values.into_iter().zip(histograms).collect())
}

/// All that the range of a value depends on besides what was seen of it.
type Asked = (Observer, Codes, bool, Behind);

/// The ranges of a value that were found.
type Found = Vec<(Asked, (f32, f32))>;

/// Ranges that were found. Assignments that differ in one product ask for nearly the same, and some ranges take a search.
#[derive(Default)]
pub(crate) struct Ranges(Mutex<BTreeMap<ValueId, Found>>);

impl Ranges {
    fn of(&self, root: ValueId, asked: Asked, find: impl FnOnce() -> (f32, f32)) -> (f32, f32) {
        let known = |all: &BTreeMap<ValueId, Found>| all.get(&root)?.iter().find(|(a, _)| *a == asked).map(|(_, r)| *r);
        if let Some(range) = self.0.lock().ok().and_then(|all| known(&all)) {
            return range;
        }
        let range = find();
        if let Ok(mut all) = self.0.lock() {
            all.entry(root).or_default().push((asked, range));
        }
        range
    }
}

/// What grids are made of.
pub(crate) struct Making<'a> {
    pub(crate) at: Place<'a>,
    pub(crate) placement: &'a Placement,
    pub(crate) sources: &'a BTreeMap<ValueId, Source>,
    pub(crate) histograms: &'a BTreeMap<ValueId, Histogram>,
    pub(crate) ranges: &'a Ranges,
    pub(crate) fit: Fit,
    pub(crate) overrides: &'a BTreeMap<ValueId, Override>,
}

/// The grid of each value in codes, and values that are moved by a number that the grid of their root has no place for.
pub(crate) fn grids(making: &Making<'_>) -> (BTreeMap<ValueId, Grid>, BTreeSet<ValueId>) {
    let Making { at, placement, sources, .. } = *making;
    let makers: BTreeMap<ValueId, &Unit> = placement.units.values().map(|u| (u.result, u)).collect();
    // Sources that a matrix product reads, on whatever way.
    let at_products: BTreeSet<ValueId> = placement
        .units
        .values()
        .filter(|u| matches!(&u.role, Role::Linear(l) if l.op == Product::MatMul))
        .filter_map(|u| Some(sources.get(&at.graph.node(u.node)?.input(0)?)?.root))
        .collect();
    let mut moved: BTreeMap<ValueId, Vec<Source>> = BTreeMap::new();
    for source in sources.values().filter(|s| s.offset != 0.0) {
        moved.entry(source.root).or_default().push(*source);
    }
    let of_root = |root: ValueId| {
        let maker = makers.get(&root).filter(|u| placement.emits.contains(&u.node));
        if let Some(Role::HardGate { .. }) = maker.map(|u| &u.role) {
            return super::emit::GATE;
        }
        let (fit, range) = making.range(root, at_products.contains(&root));
        let bounds = maker.and_then(|u| u.bounds);
        let zero = moved.get(&root).and_then(|all| all.first()).map(Source::zero).filter(|_| bounds.is_none());
        zero.and_then(|zero| with_zero(range, zero, fit)).unwrap_or_else(|| grid(range, bounds, fit))
    };
    let distinct: BTreeSet<ValueId> = sources.values().map(|s| s.root).collect();
    let roots: BTreeMap<ValueId, Grid> = distinct.into_par_iter().map(|s| (s, of_root(s))).collect();
    let (mut grids, mut misfits) = (BTreeMap::new(), BTreeSet::new());
    for (value, source) in sources {
        let Some(root) = roots.get(&source.root) else { continue };
        match on(*root, source) {
            Some(grid) => drop(grids.insert(*value, grid)),
            None => drop(misfits.insert(*value)),
        }
    }
    (grids, misfits)
}

impl Making<'_> {
    /// The range of a root, and how it becomes a grid.
    fn range(&self, root: ValueId, at_product: bool) -> (Fit, (f32, f32)) {
        let fit = match self.overrides.get(&root) {
            Some(Override::Observer(observer)) => Fit { observer: *observer, ..self.fit },
            Some(Override::Wide) => Fit { codes: super::draft::wide(self.fit.codes), ..self.fit },
            None => self.fit,
        };
        let observer = match fit.observer {
            Observer::Auto if at_product => Observer::MinMax,
            other => other,
        };
        let behind = self.behind(root);
        let asked = (observer, fit.codes, fit.symmetric, behind);
        let range = self.histograms.get(&root).map_or((0.0, 0.0), |h| {
            let find = || clipping::range(h, observer, fit.percentile, (fit.codes, fit.symmetric), behind);
            self.ranges.of(root, asked, find)
        });
        (fit, range)
    }

    /// What all readers of a root compute of it first.
    fn behind(&self, root: ValueId) -> Behind {
        let one = |user: Use| match user {
            Use::Node(id, Operand::Input(_)) => self.placement.units.get(&id).map(|u| match u.role {
                Role::SelfGated(Gate::Hard) => Behind::HardSwish,
                Role::SelfGated(Gate::Sigmoid(alpha)) => Behind::Swish(alpha),
                Role::Kernel("QLinearSigmoid") => Behind::Sigmoid,
                Role::HardGate { alpha, beta } => Behind::Ramp { alpha, beta },
                _ => Behind::Itself,
            }),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => None,
        };
        let mut users = self.at.graph.users(root).map(|u| one(u).unwrap_or_default());
        let first = users.next().unwrap_or_default();
        if users.all(|u| u == first) { first } else { Behind::Itself }
    }
}

/// Fewest steps by which codes are moved to stand for a sum. The step grows until the number that is added is a whole number of
/// them, by one over this at most.
const LEAST_STEPS: f32 = 6.0;
/// By how much a range may grow to reach what is 0 after a number was added, as a share of it.
const MOST_GROWTH: f32 = 0.125;

/// The grid of a range on which `zero` is a code, so that what is 0 there can be padded with.
fn with_zero((low, high): (f32, f32), zero: f32, fit: Fit) -> Option<Grid> {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let most = (high - low) * MOST_GROWTH;
    if fit.symmetric || !(low - most..=high + most).contains(&zero) {
        return None;
    }
    let grid = Grid::covering(fit.codes, low.min(zero), high.max(zero));
    let steps = (zero.abs() / grid.scale).floor();
    let scale = zero.abs() / steps;
    if steps < LEAST_STEPS || !scale.is_normal() {
        return None;
    }
    let (first, last) = fit.codes.limits();
    // Both zeros are codes.
    let other = steps.copysign(zero);
    let (least, most) = (first - other.min(0.0), last - other.max(0.0));
    let zero_point = (first - low.min(zero) / scale).round_ties_even().clamp(first, last);
    (least <= most).then(|| Grid { scale, zero_point: zero_point.max(least).min(most) as i32, ..grid })
}

/// The grid of a value from that of its root; `None` if 0 is no code of it.
fn on(root: Grid, source: &Source) -> Option<Grid> {
    let scale = root.scale * source.factor;
    if source.offset == 0.0 {
        return Some(Grid { scale, ..root });
    }
    let steps = source.zero() / root.scale;
    let (first, last) = root.codes.limits();
    let zero_point = root.zero_point as f32 + steps.round();
    let is_whole = (steps - steps.round()).abs() < 0.02;
    (is_whole && (first..=last).contains(&zero_point)).then_some(Grid { scale, zero_point: zero_point as i32, ..root })
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
