//! Second moments of what weights are multiplied with, from calibration data.

use std::collections::BTreeMap;

use planish_ir::{GraphPath, Model, ValueId};
use rayon::prelude::*;

use super::{Algorithm, QuantizeWeights, forms::Store};
use crate::{
    Context, PassError,
    calibration::{Gram, Rows, Statistic, Want},
    reconstruct::{Second, Settings},
};

/// For each store the moment of its inputs, if there is one.
#[derive(Default)]
pub(in crate::quantize) struct Seconds {
    seconds: Vec<Option<Second>>,
    /// Which one is of which store.
    of: BTreeMap<usize, usize>,
}

impl Seconds {
    pub(in crate::quantize) fn of(&self, store: usize) -> Option<&Second> {
        self.seconds.get(*self.of.get(&store)?)?.as_ref()
    }
}

/// A value and the axis of it that products sum over.
type Input = (ValueId, i64);

/// Runs the calibration data, if there is any and the algorithm has a use for it. Also returns what the report is to say.
pub(in crate::quantize) fn collect(
    config: &QuantizeWeights,
    model: &Model,
    cx: &Context<'_>,
    stores: &[(GraphPath, Store)],
) -> Result<(Seconds, Option<String>), PassError> {
    let calibration = match config.algorithm {
        Algorithm::Gptq => Some(cx.calibrated()?),
        Algorithm::Auto | Algorithm::Mse => cx.calibration,
        Algorithm::Rtn | Algorithm::Hqq => None,
    };
    let Some(calibration) = calibration else { return Ok((Seconds::default(), None)) };

    // The weights that share their inputs, as queries, keys and values do, share the moment.
    let mut sets: BTreeMap<(Vec<Input>, usize), Vec<usize>> = BTreeMap::new();
    let mut too_large = 0;
    for (at, (path, store)) in stores.iter().enumerate() {
        let Some((inputs, width)) = inputs(model, path, store) else { continue };
        match Gram::new(Rows::Axis(0), width).needs() > calibration.memory {
            true => too_large += 1,
            false => sets.entry((inputs, width)).or_default().push(at),
        }
    }
    let mut wanted: BTreeMap<Input, usize> = BTreeMap::new();
    let mut wants = Vec::new();
    for (inputs, width) in sets.keys() {
        for &(value, axis) in inputs {
            wanted.entry((value, axis)).or_insert_with(|| {
                wants.push(Want::of(model.graph.name_of(value), Gram::new(Rows::Axis(axis), *width)));
                wants.len() - 1
            });
        }
    }
    let grams = calibration.collect(&[model], wants)?;

    let settings = Settings { damping: config.damping, act_order: config.act_order };
    let second = |((inputs, width), _): (&(Vec<Input>, usize), &Vec<usize>)| {
        let mut sum = vec![0.0; width * width];
        for gram in inputs.iter().filter_map(|i| grams.get(*wanted.get(i)?)) {
            sum.iter_mut().zip(gram.products(0)).for_each(|(s, p)| *s += p);
        }
        Second::new(&sum, *width, settings)
    };
    let seconds: Vec<_> = sets.par_iter().map(second).collect();
    let of = sets.values().enumerate().flat_map(|(n, stores)| stores.iter().map(move |&s| (s, n))).collect();
    let note = (too_large > 0).then(|| {
        format!("{too_large} weights are rounded without calibration data, for lack of memory for their statistics")
    });
    Ok((Seconds { seconds, of }, note))
}

/// What a weight is multiplied with, and how many columns it has. `None` if it is not multiplied with, or in a subgraph.
fn inputs(model: &Model, path: &GraphPath, store: &Store) -> Option<(Vec<Input>, usize)> {
    if path.steps().next().is_some() {
        return None;
    }
    let width = store.tensor.dims().get(1 - store.outer.min(1)).filter(|_| store.tensor.rank() == 2)?;
    let products = store.readers.iter().filter(|s| s.is_product()).flat_map(|s| s.reader.products(&model.graph));
    let mut inputs: Vec<Input> = products.map(|p| p.activation(&model.graph)).collect::<Option<_>>()?;
    inputs.sort_unstable();
    inputs.dedup();
    (!inputs.is_empty()).then_some((inputs, usize::try_from(*width).ok()?))
}
