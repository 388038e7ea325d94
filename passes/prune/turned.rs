//! A model whose heads are in the bases in which their last channels matter least, so that channels of heads can go as others do.

use std::collections::BTreeMap;

use planish_ir::{Model, ValueId};

use super::{eliminate::Curve, fitting::Removed};
use crate::{
    Calibration, PassError,
    heads::{Bases, ROUNDING, Turning, Unit, lost},
    reconstruct::{Fold, Held},
};

pub(super) struct Turned<'a> {
    turning: Turning<'a>,
    units: &'a [Unit],
    /// As the first half of the samples has them.
    bases: Vec<Option<Bases>>,
    /// With all units in these bases.
    pub(super) model: Model,
}

impl<'a> Turned<'a> {
    /// Fails with a precondition if the model is then another one.
    pub(super) fn new(
        model: &'a Model,
        calibration: &Calibration<'_>,
        units: &'a [Unit],
        held: &Held,
    ) -> Result<Turned<'a>, PassError> {
        let turning = Turning::new(model, calibration, units)?;
        let bases = turning.bases(Fold::First)?;
        let model = turning.with(&turning.constants(&bases, |_| true)?)?;
        let error = held.error(&model, calibration)?;
        // A channel on two sides of a product, for example, would be turned twice.
        match error <= ROUNDING {
            true => Ok(Turned { turning, units, bases, model }),
            false => Err(PassError::Precondition(format!(
                "channels of heads stay: the change of basis alone changes the outputs by {error:.2e}, which it must not"
            ))),
        }
    }

    /// The last channels go first. None for a class whose bases are not finite.
    pub(super) fn curves(&self, min_keep: f64) -> BTreeMap<usize, Option<Curve>> {
        let curve = |unit: &Unit, bases: &Bases| {
            let least = ((unit.size as f64 * min_keep).ceil() as usize).clamp(1, unit.size);
            let order: Vec<usize> = (least..unit.size).rev().collect();
            let error = order.iter().map(|&kept| lost(bases, kept)).collect();
            Curve { order, error }
        };
        let of = |(unit, bases): (&Unit, &Option<Bases>)| (unit.class, bases.as_ref().map(|b| curve(unit, b)));
        self.units.iter().zip(&self.bases).map(of).collect()
    }

    /// The model in the bases that all samples have, as far as classes lose channels. None if no class of heads does.
    pub(super) fn whole(&self, removed: &Removed) -> Result<Option<Model>, PassError> {
        if !self.units.iter().any(|u| removed.contains_key(&u.class)) {
            return Ok(None);
        }
        let bases = self.turning.bases(Fold::Both)?;
        let constants: BTreeMap<ValueId, _> = self.turning.constants(&bases, |u| removed.contains_key(&u.class))?;
        self.turning.with(&constants).map(Some)
    }
}
