//! Writes any assignment of products to codes and floats.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Model, NodeId, Patch, ValueId};

use super::{
    compensate,
    emit::{Noise, Style, Writer},
    grids::{self, Fit, Making, Override, Ranges},
    place::{self, Placement},
    sensitivity::Level,
    unit::{Place, Role, Unit},
    weights,
};
use crate::{
    Calibration, PassError,
    calibration::Histogram,
    quantize::grid::{Channels, Codes},
};

/// What does not depend on the assignment.
pub(crate) struct Draft<'a> {
    pub(crate) at: Place<'a>,
    pub(crate) model: &'a Model,
    pub(crate) calibration: &'a Calibration<'a>,
    /// Nodes that can compute with codes.
    pub(crate) units: BTreeMap<NodeId, Unit>,
    pub(crate) fit: Fit,
    pub(crate) style: Style,
    /// What was seen of values so far.
    pub(crate) histograms: BTreeMap<ValueId, Histogram>,
    /// Ranges that were found of them, for all that assignments asked for.
    pub(crate) ranges: Ranges,
    /// Codes of the weights of products, as far as they were asked for.
    pub(crate) weights: BTreeMap<NodeId, Channels>,
}

/// An assignment, written.
pub(crate) struct Written {
    pub(crate) placement: Placement,
    pub(crate) patch: Patch,
    pub(crate) noise: BTreeMap<NodeId, Noise>,
}

impl<'a> Draft<'a> {
    /// Writes an assignment, given as the level of each product; others stay in floats.
    pub(crate) fn write(&mut self, levels: &BTreeMap<NodeId, Level>) -> Result<Written, PassError> {
        let products: BTreeSet<NodeId> =
            levels.iter().filter(|(_, l)| **l != Level::Float).map(|(id, _)| *id).collect();
        loop {
            let placement = place::place(self.at, &self.units, &products);
            let sources = grids::sources(self.at, &placement);
            self.see(sources.values().map(|s| s.root).collect())?;
            let overrides = self.overrides(levels, &placement, &sources);
            let (at, fit) = (self.at, self.fit);
            let (histograms, ranges) = (&self.histograms, &self.ranges);
            let making =
                Making { at, placement: &placement, sources: &sources, histograms, ranges, fit, overrides: &overrides };
            let (grids, misfits) = grids::grids(&making);
            if !misfits.is_empty() {
                // Sums of these need a kernel of their own. Only what is moved by a sum can be a misfit, so each round has fewer.
                let roots: BTreeSet<ValueId> = misfits.iter().filter_map(|v| sources.get(v)).map(|s| s.root).collect();
                let is_of_one = |u: &Unit| sources.get(&u.result).is_some_and(|s| roots.contains(&s.root));
                for unit in self.units.values_mut().filter(|u| is_of_one(u)) {
                    if matches!(unit.role, Role::Affine { offset, .. } if offset != 0.0) {
                        unit.role = Role::Kernel("QLinearAdd");
                    }
                }
                continue;
            }
            let missing = products.iter().filter(|id| !self.weights.contains_key(id)).copied().collect();
            let rounded = weights::nearest(at, &self.units, self.style.rounding, missing)?;
            self.weights.extend(rounded);
            let (patch, noise) = Writer::new(at, &placement, &grids, (self.style, &self.weights)).write()?;
            return Ok(Written { placement, patch, noise });
        }
    }

    /// What is different for some values. Of two products that read the same codes, the one that asks for more decides.
    fn overrides(
        &self,
        levels: &BTreeMap<NodeId, Level>,
        placement: &Placement,
        sources: &BTreeMap<ValueId, grids::Source>,
    ) -> BTreeMap<ValueId, Override> {
        let mut overrides: BTreeMap<ValueId, Override> = BTreeMap::new();
        let mut add = |root: ValueId, asked: Override| {
            let entry = overrides.entry(root).or_insert(asked);
            if asked == Override::Wide {
                *entry = asked;
            }
        };
        for (id, level) in levels {
            let Some(unit) = placement.units.get(id) else { continue };
            let read = self.at.graph.node(*id).and_then(|n| n.input(0)).and_then(|v| sources.get(&v));
            match level {
                Level::Observed(observer) => {
                    read.into_iter().for_each(|s| add(s.root, Override::Observer(*observer)));
                }
                Level::Wide => {
                    let made = sources.get(&unit.result);
                    read.into_iter().chain(made).for_each(|s| add(s.root, Override::Wide));
                }
                Level::Codes | Level::Float => {}
            }
        }
        overrides
    }

    /// Rounds all weights so that their products on the samples keep what they can. Returns the codes that there were.
    pub(crate) fn compensate(&mut self, notes: &mut Vec<String>) -> Result<BTreeMap<NodeId, Channels>, PassError> {
        let rounding = self.style.rounding;
        let rounded = compensate::weights(self.at, self.model, self.calibration, (&self.units, rounding), notes)?;
        let before = self.weights.clone();
        self.weights.extend(rounded);
        Ok(before)
    }

    /// Looks at values on all samples. What the first assignment asks for is looked at alone, with what it asks for if numbers that are
    /// added turn out to need a kernel of their own; a second one is followed by many, so that everything that any of them can ask for is
    /// looked at then.
    fn see(&mut self, wanted: BTreeSet<ValueId>) -> Result<(), PassError> {
        let mut missing: BTreeSet<ValueId> = wanted.into_iter().filter(|v| !self.histograms.contains_key(v)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let is_first = self.histograms.is_empty();
        let moves = |u: &&Unit| matches!(u.role, Role::Affine { offset, .. } if offset != 0.0);
        for unit in self.units.values().filter(|u| !is_first || moves(u)) {
            let read = unit.reads.iter().filter_map(|&slot| self.at.graph.node(unit.node)?.input(slot));
            missing.extend(read.chain([unit.result]).filter(|v| !self.histograms.contains_key(v)));
        }
        let seen = grids::histograms(self.at, self.model, self.calibration, self.fit, missing.into_iter())?;
        self.histograms.extend(seen);
        Ok(())
    }
}

/// The same codes in 16 bits.
pub(crate) const fn wide(codes: Codes) -> Codes {
    match codes {
        Codes::U8 => Codes::U16,
        Codes::I8 => Codes::I16,
        other => other,
    }
}
