//! How large activations get on calibration samples.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use planish_ir::{Def, Model, Tensor, ValueId};

use super::select::is_f32;
use crate::{Context, EngineError};

/// Half of the largest number: samples do not show the worst case.
pub(super) fn limit() -> f32 {
    f16::MAX.to_f32() / 2.0
}

/// Float32 values of the main graph that come close to the limit on a sample, with the largest finite magnitude. Values
/// in `except` are not looked at. One sample is run at a time, and only the maxima are kept.
pub(super) fn wide(
    model: &Model,
    cx: &Context<'_>,
    except: &BTreeSet<ValueId>,
) -> Result<BTreeMap<ValueId, f32>, EngineError> {
    let Some(engine) = cx.engine.filter(|_| !cx.samples.is_empty()) else { return Ok(BTreeMap::new()) };
    let graph = &model.graph;
    let (ids, names): (Vec<ValueId>, Vec<String>) = graph
        .values()
        .filter(|(id, v)| matches!(v.def(), Def::Node { .. }) && is_f32(graph, *id) && !except.contains(id))
        .map(|(id, v)| (id, v.name().to_owned()))
        .unzip();
    let runnable = engine.load(model, &names)?;
    let mut largest = vec![0.0f32; ids.len()];
    for sample in cx.samples {
        for (max, tensor) in largest.iter_mut().zip(runnable.run(sample)?) {
            *max = max.max(largest_finite(&tensor));
        }
    }
    Ok(ids.into_iter().zip(largest).filter(|(_, max)| *max > limit()).collect())
}

fn largest_finite(tensor: &Tensor) -> f32 {
    let numbers = tensor.iter_f32().into_iter().flatten();
    numbers.map(f32::abs).filter(|v| v.is_finite()).fold(0.0, f32::max)
}
