//! How large activations get on calibration samples.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use planish_ir::{Def, Model, ValueId};

use super::select::is_f32;
use crate::{
    Context, PassError,
    calibration::{Range, Want},
};

/// Half of the largest number: samples do not show the worst case.
pub(super) fn limit() -> f32 {
    f16::MAX.to_f32() / 2.0
}

/// Float32 values of the main graph that come close to the limit on a sample, with the largest finite magnitude. Values
/// in `except` are not looked at.
pub(super) fn wide(
    model: &Model,
    cx: &Context<'_>,
    except: &BTreeSet<ValueId>,
) -> Result<BTreeMap<ValueId, f32>, PassError> {
    let Some(calibration) = cx.calibration else { return Ok(BTreeMap::new()) };
    let graph = &model.graph;
    let looked_at = |(id, v): &(ValueId, &planish_ir::Value)| {
        matches!(v.def(), Def::Node { .. }) && is_f32(graph, *id) && !except.contains(id)
    };
    let values = graph.values().filter(looked_at).map(|(id, v)| (id, v.name()));
    let (ids, wants): (Vec<ValueId>, Vec<_>) = values.map(|(id, n)| (id, Want::of(n, Range::per_tensor()))).unzip();
    let ranges = calibration.collect(&[model], wants)?;
    let largest = ranges.iter().map(|r| r.all().max_abs());
    Ok(ids.into_iter().zip(largest).filter(|(_, max)| *max > limit()).collect())
}
