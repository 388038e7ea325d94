//! What a model computes on its way, kept for samples, so that a model that differs further down is run from there.
//!
//! Which layer may lose how much is found by changing one after the other, and what is in front of a change was computed before. Places are
//! chosen where few values are alive, as between blocks of a network.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Def, Model, NodeId, Tensor, ValueId, infer};
use rayon::prelude::*;

use super::piece::Piece;
use crate::{Calibration, PassError, Samples, Tensors, clean::attrs_key};

/// Parts that a model is taken in, of as many nodes.
const PARTS: usize = 8;

/// A model, and values of it.
pub(super) struct Checkpoints {
    model: Model,
    order: Vec<NodeId>,
    /// In their order.
    points: Vec<Point>,
}

/// A place between nodes.
struct Point {
    /// Nodes in front of it.
    done: usize,
    /// Values that are computed in front of it and read behind it.
    values: BTreeSet<ValueId>,
    /// Of each sample.
    tensors: Vec<Tensors>,
}

/// A model that is run from a checkpoint.
pub(super) struct Started<'a> {
    piece: Piece,
    /// What is known, by sample.
    known: &'a [Tensors],
}

impl Started<'_> {
    /// Runs it on the sample of this number.
    pub(super) fn run(&self, samples: &dyn Samples, sample: usize) -> Result<Vec<Tensor>, PassError> {
        self.piece.run(samples, sample, self.known.get(sample))
    }
}

impl Checkpoints {
    /// Runs a model on samples, and keeps what so many bytes hold.
    pub(super) fn new(
        model: &Model,
        calibration: &Calibration<'_>,
        samples: &dyn Samples,
        memory: u64,
    ) -> Result<Checkpoints, PassError> {
        let order = model.graph.topological_order().unwrap_or_default();
        let mut points = places(model, &order);
        let keep = |points: &[Point], range: std::ops::Range<usize>| -> Result<Vec<Tensors>, PassError> {
            let values: BTreeSet<ValueId> = points.iter().flat_map(|p| p.values.iter().copied()).collect();
            let names: Vec<String> = values.iter().map(|&v| model.graph.name_of(v)).collect();
            let runnable = calibration.engine.load(model, &names)?;
            let run = |i: usize| Ok(names.iter().cloned().zip(runnable.run(&*samples.get(i)?)?).collect());
            range.into_par_iter().map(run).collect()
        };
        if points.is_empty() {
            return Ok(Checkpoints { model: model.clone(), order, points });
        }
        // The first sample shows how much that is.
        let first = keep(&points, 0..1)?;
        let size =
            |v: &ValueId| first.first().and_then(|t| t.get(&model.graph.name_of(*v))).map_or(0, Tensor::byte_len);
        let bytes = |points: &[Point]| {
            let values: BTreeSet<&ValueId> = points.iter().flat_map(|p| &p.values).collect();
            values.into_iter().map(size).fold(0, u64::saturating_add).saturating_mul(samples.len() as u64)
        };
        while bytes(&points) > memory {
            let mut nth = 0;
            points.retain(|_| {
                nth += 1;
                nth % 2 == 0
            });
        }
        let tensors = if points.is_empty() { Vec::new() } else { keep(&points, 0..samples.len())? };
        for point in &mut points {
            let names: BTreeSet<String> = point.values.iter().map(|&v| model.graph.name_of(v)).collect();
            let own = |t: &Tensors| names.iter().filter_map(|n| Some((n.clone(), t.get(n)?.clone()))).collect();
            point.tensors = tensors.iter().map(own).collect();
        }
        Ok(Checkpoints { model: model.clone(), order, points })
    }

    /// Loads a model that comes from this one by changes, to run it from the last checkpoint in front of them. None if there is none, or
    /// the engine cannot start there.
    pub(super) fn start<'a>(
        &'a self,
        model: &Model,
        calibration: &Calibration<'_>,
        outputs: &[String],
    ) -> Option<Started<'a>> {
        let wanted: Vec<ValueId> = outputs.iter().map(|n| model.graph.value_named(n)).collect::<Option<_>>()?;
        // An output that stands in front of a change is not worth a form of its own.
        let is_same = |id: &NodeId| self.is_same(model, *id) && !made(&self.model, *id).any(|v| wanted.contains(&v));
        let same = self.order.iter().take_while(|id| is_same(id)).count();
        let point = self.points.iter().rev().find(|p| p.done <= same)?;
        let mut typed = model.clone();
        infer::annotate(&mut typed);
        let piece = Piece::between(&typed, &point.values, &wanted, calibration).ok()?;
        Some(Started { piece, known: &point.tensors })
    }

    /// True if another model has a node with the same inputs. What has subgraphs is taken to be different.
    fn is_same(&self, model: &Model, id: NodeId) -> bool {
        let (Some(a), Some(b)) = (self.model.graph.node(id), model.graph.node(id)) else { return false };
        let constants = |&v: &ValueId| self.model.graph.constant(v) == model.graph.constant(v);
        a.op == b.op
            && a.inputs() == b.inputs()
            && a.outputs() == b.outputs()
            && a.captures().is_empty()
            && attrs_key(&a.attrs).is_some_and(|key| Some(key) == attrs_key(&b.attrs))
            && a.inputs().iter().flatten().all(constants)
    }
}

fn made(model: &Model, id: NodeId) -> impl Iterator<Item = ValueId> + '_ {
    model.graph.node(id).into_iter().flat_map(|n| n.outputs()).flatten().copied()
}

/// In each part of a model the place with the fewest values alive.
fn places(model: &Model, order: &[NodeId]) -> Vec<Point> {
    let graph = &model.graph;
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (at, &id) in order.iter().enumerate() {
        let is_made = |v: &ValueId| graph.value(*v).is_some_and(|v| matches!(v.def(), Def::Node { .. }));
        last.extend(graph.node(id).into_iter().flat_map(|n| n.operands()).filter(is_made).map(|v| (v, at)));
    }
    // By the place behind each node.
    let mut ends: BTreeMap<usize, Vec<ValueId>> = BTreeMap::new();
    last.iter().for_each(|(&v, &at)| ends.entry(at).or_default().push(v));
    let mut alive: BTreeSet<ValueId> = BTreeSet::new();
    let mut best: BTreeMap<usize, (usize, BTreeSet<ValueId>)> = BTreeMap::new();
    for (at, &id) in order.iter().enumerate() {
        alive.extend(made(model, id).filter(|v| last.contains_key(v)));
        alive.retain(|v| !ends.get(&at).is_some_and(|e| e.contains(v)));
        let part = at * PARTS / order.len().max(1);
        if !alive.is_empty() && best.get(&part).is_none_or(|b| alive.len() < b.1.len()) {
            best.insert(part, (at + 1, alive.clone()));
        }
    }
    best.into_values().map(|(done, values)| Point { done, values, tensors: Vec::new() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn places_are_where_little_is_alive() {
        let model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y) {
                a = Relu (x)
                b = Neg (a)
                c = Exp (a)
                d = Add (b, c)
                e = Abs (x)
                y = Mul (d, e)
            }"#,
        );
        let order = model.graph.topological_order().unwrap();
        let names = |p: &Point| p.values.iter().map(|&v| model.graph.name_of(v)).collect::<Vec<_>>().join(" ");
        let found: Vec<String> = places(&model, &order).iter().map(|p| format!("{}: {}", p.done, names(p))).collect();
        assert_eq!(found, ["1: a", "2: a b", "3: b c", "4: d", "5: d e"]);
    }
}
