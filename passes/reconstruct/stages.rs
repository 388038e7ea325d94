//! Running two models stage by stage, so that a value is computed once although layers change one after the other.
//!
//! A value's stage is the number of changes before it: the layers of stage `n` are changed once they have been seen, and what they compute
//! is of stage `n + 1`. Between two stages only the values are kept that cross the border, for all samples, as long as memory allows it;
//! otherwise models are run from their inputs again.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Def, Model, NodeId, Tensor, ValueId, op};
use rayon::prelude::*;

use super::piece::Piece;
use crate::{Calibration, PassError, Tensors};

/// The stage of each computed value of a main graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stages {
    of: BTreeMap<ValueId, usize>,
    /// Values that are computed of constants alone, such as dequantized weights. They are the same on all samples, and other ones once a
    /// constant changes.
    fixed: BTreeSet<ValueId>,
}

impl Stages {
    /// Constants and inputs are of stage 0.
    pub(crate) fn of(&self, value: ValueId) -> usize {
        self.of.get(&value).copied().unwrap_or(0)
    }

    /// The highest stage among what a node reads.
    pub(crate) fn before(&self, model: &Model, node: NodeId) -> usize {
        let operands = model.graph.node(node).into_iter().flat_map(|n| n.operands());
        operands.map(|v| self.of(v)).max().unwrap_or(0)
    }

    /// Enters what a node computes, no lower than it is already; nodes in topological order.
    pub(crate) fn enter(&mut self, model: &Model, node: NodeId, stage: usize) {
        let Some(n) = model.graph.node(node) else { return };
        let is_known = |v: ValueId| model.graph.constant(v).is_some() || self.fixed.contains(&v);
        let is_fixed = op::is_pure(n) && n.operands().all(is_known);
        for &output in n.outputs().iter().flatten() {
            let at = self.of.entry(output).or_default();
            *at = stage.max(*at);
            if is_fixed {
                self.fixed.insert(output);
            } else {
                self.fixed.remove(&output);
            }
        }
    }

    /// The stages of another model that shares values with this one.
    pub(crate) fn carried_to(&self, model: &Model) -> Stages {
        let mut stages = self.clone();
        for node in model.graph.topological_order().unwrap_or_default() {
            let stage = stages.before(model, node);
            stages.enter(model, node, stage);
        }
        stages
    }

    /// Values up to a stage that are read by what is of a later one.
    fn border(&self, model: &Model, stage: usize) -> BTreeSet<ValueId> {
        let graph = &model.graph;
        let is_later = |n: &planish_ir::Node| n.outputs().iter().flatten().any(|&v| self.of(v) > stage);
        let read = graph.nodes().filter(|(_, n)| is_later(n)).flat_map(|(_, n)| n.operands());
        read.filter(|&v| self.of(v) <= stage && self.is_computed(model, v)).collect()
    }

    /// True for what a node makes of a sample.
    fn is_computed(&self, model: &Model, value: ValueId) -> bool {
        !self.fixed.contains(&value) && model.graph.value(value).is_some_and(|v| matches!(v.def(), Def::Node { .. }))
    }
}

/// Values of one model at a border, by sample.
#[derive(Default)]
pub(crate) struct Border {
    values: BTreeSet<ValueId>,
    tensors: Vec<Tensors>,
}

impl Border {
    /// True if models can be run from here.
    pub(crate) fn is_known(&self) -> bool {
        !self.values.is_empty()
    }
}

/// What a run of a stage hands out of one model.
pub(crate) struct Wanted<'a> {
    pub(crate) model: &'a Model,
    /// Values that are looked at.
    pub(crate) reads: Vec<ValueId>,
    /// Values that later stages need.
    keeps: BTreeSet<ValueId>,
}

impl<'a> Wanted<'a> {
    /// `later` are values that are looked at in later stages.
    pub(crate) fn new(
        model: &'a Model,
        reads: Vec<ValueId>,
        stages: &Stages,
        stage: usize,
        later: impl Iterator<Item = ValueId>,
    ) -> Wanted<'a> {
        let mut keeps = stages.border(model, stage);
        keeps.extend(later.filter(|&v| stages.of(v) <= stage && stages.is_computed(model, v)));
        Wanted { model, reads, keeps }
    }
}

/// Takes the values that are looked at, of each of some samples.
type Take<'t> = &'t mut dyn FnMut(&[Vec<Tensor>]) -> Result<(), PassError>;

/// Runs models on all samples from what is known at the border before, and hands what is looked at, the first model's first, to `take`, of a few
/// samples at a time, in their order. Returns the next borders; empty ones if they would take more than half of the memory.
pub(crate) fn run<const N: usize>(
    calibration: &Calibration<'_>,
    wanted: &[Wanted<'_>; N],
    before: &[Border; N],
    take: Take<'_>,
) -> Result<[Border; N], PassError> {
    let mut runs = Vec::new();
    for (wanted, border) in wanted.iter().zip(before) {
        let mut outputs: Vec<ValueId> = wanted.reads.clone();
        outputs.extend(wanted.keeps.iter().filter(|v| !wanted.reads.contains(v)));
        runs.push(Piece::between(wanted.model, &border.values, &outputs, calibration)?);
    }
    let count = calibration.samples.len();
    let wave = rayon::current_num_threads().max(1);
    let mut next: [Border; N] = std::array::from_fn(|_| Border::default());
    let (mut bytes, mut fits) = (0u64, true);
    for start in (0..count).step_by(wave) {
        let one = |sample: usize| -> Result<Vec<Vec<Tensor>>, PassError> {
            let run =
                |(piece, border): (&Piece, &Border)| piece.run(calibration.samples, sample, border.tensors.get(sample));
            runs.iter().zip(before).map(run).collect()
        };
        let made: Vec<Vec<Vec<Tensor>>> =
            (start..count.min(start + wave)).into_par_iter().map(one).collect::<Result<_, _>>()?;
        let looked_at = |values: &Vec<Vec<Tensor>>| {
            values.iter().zip(wanted).flat_map(|(v, w)| v.iter().take(w.reads.len()).cloned()).collect()
        };
        take(&made.iter().map(looked_at).collect::<Vec<Vec<Tensor>>>())?;
        for values in made {
            for (((values, piece), wanted), next) in values.into_iter().zip(&runs).zip(wanted).zip(&mut next) {
                let kept = wanted.keeps.iter().map(|&v| wanted.model.graph.name_of(v)).collect::<BTreeSet<_>>();
                let kept = piece.outputs.iter().cloned().zip(values).filter(|(n, _)| kept.contains(n));
                let kept: Tensors = if fits { kept.collect() } else { Tensors::new() };
                bytes = kept.values().map(Tensor::byte_len).fold(bytes, u64::saturating_add);
                next.tensors.push(kept);
            }
            if bytes > calibration.memory / 2 {
                fits = false;
                next.iter_mut().for_each(|b| b.tensors.clear());
            }
        }
        calibration.watch.sampled(count.min(start + wave), count);
    }
    for (next, wanted) in next.iter_mut().zip(wanted) {
        match fits {
            true => next.values.clone_from(&wanted.keeps),
            false => *next = Border::default(),
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    /// Names of what is kept at the border of a stage, if each Gemm begins another one.
    fn kept(text: &str, stage: usize) -> Vec<String> {
        let model = parse(text);
        let mut stages = Stages::default();
        for id in model.graph.topological_order().unwrap() {
            let is_layer = model.graph.node(id).is_some_and(|n| n.op.is("Gemm"));
            let stage = stages.before(&model, id) + usize::from(is_layer);
            stages.enter(&model, id, stage);
        }
        stages.border(&model, stage).into_iter().map(|v| model.graph.name_of(v)).collect()
    }

    #[test]
    fn what_is_computed_of_constants_is_not_kept() {
        // The bias of the second product may have changed by the time that its result is computed.
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <float[2,2] w = {1.0, 2.0, 3.0, 4.0}, int32[2] b = {1, 2}, float s = {0.5}> {
                d = DequantizeLinear (b, s)
                a = Gemm (x, w, d)
                r = Relu (a)
                e = Neg (d)
                y = Gemm (r, w, e)
            }"#;
        assert_eq!((kept(text, 0), kept(text, 1)), (vec![], vec!["r".to_owned()]));
    }

    #[test]
    fn numbers_that_are_drawn_are_kept() {
        // Drawn again, they would be others.
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y)
            <float[2,2] w = {1.0, 2.0, 3.0, 4.0}> {
                n = RandomNormal <shape = [2]> ()
                a = Gemm (x, w, n)
                y = Gemm (a, w, n)
            }"#;
        assert_eq!((kept(text, 0), kept(text, 1)), (vec!["n".to_owned()], vec!["n".to_owned(), "a".to_owned()]));
    }
}
