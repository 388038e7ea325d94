//! Writes any assignment of products to codes and floats.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Model, NodeId, Patch, ValueId};

use super::{
    emit::{Noise, Style, Writer},
    grids::{self, Fit, Override},
    place::{self, Placement},
    sensitivity::Level,
    unit::{Place, Unit},
};
use crate::{Calibration, PassError, calibration::Histogram, quantize::grid::Codes};

/// What does not depend on the assignment.
pub(crate) struct Draft<'a> {
    pub(crate) at: Place<'a>,
    pub(crate) model: &'a Model,
    pub(crate) calibration: &'a Calibration<'a>,
    /// Nodes that can compute with codes.
    pub(crate) units: &'a BTreeMap<NodeId, Unit>,
    pub(crate) fit: Fit,
    pub(crate) style: Style,
    /// What was seen of values so far.
    pub(crate) histograms: BTreeMap<ValueId, Histogram>,
}

/// An assignment, written.
pub(crate) struct Written {
    pub(crate) placement: Placement,
    pub(crate) patch: Patch,
    pub(crate) noise: BTreeMap<NodeId, Noise>,
}

impl Draft<'_> {
    /// Writes an assignment, given as the level of each product; others stay in floats.
    pub(crate) fn write(&mut self, levels: &BTreeMap<NodeId, Level>) -> Result<Written, PassError> {
        let products: BTreeSet<NodeId> =
            levels.iter().filter(|(_, l)| **l != Level::Float).map(|(id, _)| *id).collect();
        let placement = place::place(self.at, self.units, &products);
        let sources = grids::sources(self.at, &placement);
        self.see(sources.values().map(|(source, _)| *source).collect())?;
        let mut overrides: BTreeMap<ValueId, Override> = BTreeMap::new();
        for (id, level) in levels {
            let Some(unit) = placement.units.get(id) else { continue };
            let read = self.at.graph.node(*id).and_then(|n| n.input(0)).and_then(|v| sources.get(&v));
            match level {
                Level::Observed(observer) => {
                    overrides.extend(read.map(|(source, _)| (*source, Override::Observer(*observer))));
                }
                Level::Wide => {
                    let made = sources.get(&unit.result);
                    overrides.extend([read, made].into_iter().flatten().map(|(source, _)| (*source, Override::Wide)));
                }
                Level::Codes | Level::Float => {}
            }
        }
        let grids = grids::grids(self.at, &placement, &sources, &self.histograms, self.fit, &overrides);
        let (patch, noise) = Writer::new(self.at, &placement, &grids, self.style).write()?;
        Ok(Written { placement, patch, noise })
    }

    /// Looks at values on all samples. What the first assignment asks for is looked at alone; a second one is followed by many,
    /// so that everything that any of them can ask for is looked at then.
    fn see(&mut self, wanted: BTreeSet<ValueId>) -> Result<(), PassError> {
        let mut missing: BTreeSet<ValueId> = wanted.into_iter().filter(|v| !self.histograms.contains_key(v)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !self.histograms.is_empty() {
            for unit in self.units.values() {
                let read = unit.reads.iter().filter_map(|&slot| self.at.graph.node(unit.node)?.input(slot));
                missing.extend(read.chain([unit.result]).filter(|v| !self.histograms.contains_key(v)));
            }
        }
        self.histograms.extend(grids::histograms(self.at, self.model, self.calibration, missing.into_iter())?);
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
