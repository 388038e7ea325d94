//! What a method of factorization is: how it sees a layer, what it can make of it, and what that costs.
//!
//! A method is one file. It says which weights it can split ([`Method::layer`]), decomposes them ([`Layer::decompose`]), lists what can be
//! had ([`Decomposed::options`]), and emits what was chosen ([`Decomposed::emit`]). Which of the options is taken, in which layer, is decided
//! for all methods alike in `split.rs`.

use faer::{Mat, MatRef};
use planish_ir::{Model, NodeId, Patch, ValueId, infer::GraphFacts};

use super::rank::{Factorization, Rule};
use crate::{Skip, calibration::Rows};

/// What a method sees of a model.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) model: &'a Model,
    /// Of the main graph.
    pub(super) facts: &'a GraphFacts,
    pub(super) settings: &'a Factorization,
    pub(super) rule: Rule,
}

/// A way to write a layer as several smaller ones.
pub(super) trait Method: Sync {
    /// The layer that a constant of the main graph is the weight of, all nodes that read it. `Skip::NoMatch` if the method is not about
    /// such nodes, a reason if it cannot split them.
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip>;

    /// Layers that read the same rows of the same value, a node each, as one; `None` if the method has no use for that.
    fn together<'a>(&self, _: &Scene<'a>, _: &[ValueId], _: &[NodeId]) -> Option<Box<dyn Layer + 'a>> {
        None
    }
}

/// A weight that a method can split, and the nodes that read it.
pub(super) trait Layer: Send + Sync {
    /// What the rows that the weight is multiplied with are; `None` if the method has no use for their moments.
    fn reads(&self) -> Option<Reads>;

    /// What an option has to have less of to be one.
    fn gain(&self) -> Gain {
        Gain::Time
    }

    /// What it costs as it is, where its nodes have these shapes.
    fn cost(&self, places: &[Place]) -> Cost;

    /// Decomposes the weight, as far as the rule for ranks can ask for. Fails with a reason, for weights that are not finite for example.
    fn decompose<'s>(&'s self, known: &Known<'_>) -> Result<Box<dyn Decomposed + 's>, String>;
}

/// What came of decomposing a weight.
pub(super) trait Decomposed: Send + Sync {
    /// What can be had: one option if ranks are chosen for each layer by itself, many for a budget. Those that cost more than what there is
    /// need not be listed.
    fn options(&self) -> &[Choice];

    /// Adds the nodes of the option with these ranks to a patch. They take the names and biases of the nodes that they stand for. The last
    /// of them should be the old node with other weights, so that it can be refitted to what it computed.
    fn emit(&self, ranks: &[usize], patch: &mut Patch) -> Result<(), String>;
}

/// Rows of values, one for each node of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reads {
    pub(super) values: Vec<ValueId>,
    pub(super) rows: Rows,
    pub(super) width: usize,
    /// Moments are taken about the mean, because a bias takes the mean up.
    pub(super) centred: bool,
}

/// Shapes that a node of a layer has on a sample. Open sizes are 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) input: Vec<u64>,
    pub(super) output: Vec<u64>,
}

/// What is known of a layer when it is decomposed.
pub(super) struct Known<'a> {
    pub(super) places: &'a [Place],
    /// Of the rows that it [reads](Layer::reads), if there are samples.
    pub(super) moments: Option<&'a Moments>,
    /// Only the option with these ranks is wanted.
    pub(super) ranks: Option<&'a [usize]>,
    /// What is decomposed instead of the layer as it is.
    pub(super) refitted: Option<&'a Refitted<'a>>,
}

/// A layer with other weights.
pub(super) struct Refitted<'a> {
    /// Of its groups, or of its parts.
    pub(super) weights: &'a [Mat<f64>],
    /// What is added to its biases; nothing if it has no place for them.
    pub(super) shift: &'a [f64],
}

impl Known<'_> {
    /// The matrices of the groups or parts, those given unless there are others.
    pub(super) fn weights(
        &self,
        given: impl FnOnce() -> Result<Vec<Mat<f64>>, String>,
    ) -> Result<Vec<Mat<f64>>, String> {
        self.refitted.map_or_else(given, |r| Ok(r.weights.to_vec()))
    }

    pub(super) fn shift(&self) -> Vec<f64> {
        self.refitted.map(|r| r.shift.to_vec()).unwrap_or_default()
    }
}

/// What is added to biases: what is lost of the mean, if that is known, and more.
pub(super) fn total(lost: Option<Vec<f64>>, shift: &[f64]) -> Option<Vec<f64>> {
    match lost {
        None => shift.iter().any(|&s| s != 0.0).then(|| shift.to_vec()),
        Some(lost) => Some(lost.iter().enumerate().map(|(o, l)| l + shift.get(o).copied().unwrap_or(0.0)).collect()),
    }
}

/// A matrix times a vector.
pub(super) fn times(matrix: MatRef<'_, f64>, vector: &[f64]) -> Vec<f64> {
    let row = |o: usize| vector.iter().enumerate().map(|(i, x)| matrix[(o, i)] * x).sum();
    (0..matrix.nrows()).map(row).collect()
}

/// Second moments of rows.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    /// Mean of `x xᵀ`, or covariance if the layer asked for it; with a small ridge.
    pub(super) matrix: Mat<f64>,
    /// Mean of `x`, if it is taken off.
    pub(super) mean: Option<Vec<f64>>,
}

/// Something that can be had instead of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// Which it is.
    pub(super) ranks: Vec<usize>,
    /// Of all nodes of the layer.
    pub(super) cost: Cost,
    /// Share of the spectrum that is kept.
    pub(super) energy: f64,
    /// Expected squared error of the layer's outputs as a share of their power, or variance; without samples, of the weights.
    pub(super) error: f64,
}

/// What nodes cost on a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    /// Elements of weights.
    pub(super) parameters: u64,
    /// Multiply-accumulates.
    pub(super) macs: u64,
    /// Elements of activations read and written.
    pub(super) moved: u64,
    /// Nodes.
    pub(super) nodes: u64,
}

/// What is gained by splitting a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gain {
    /// Modelled time.
    Time,
    /// Parameters: the layer takes no time to speak of as it is.
    Size,
}

impl Gain {
    /// What is to be less.
    pub(super) const fn of(self, cost: &Cost) -> u64 {
        match self {
            Gain::Time => cost.time(),
            Gain::Size => cost.parameters,
        }
    }

    /// What an option is that gains.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Gain::Time => "faster by the cost model",
            Gain::Size => "smaller",
        }
    }
}

/// Multiply-accumulates that take as long as moving one element: from what a core computes, 20 to 50 billion a second, and what it
/// gets out of its caches, 5 to 10 billion elements a second.
const MOVE: u64 = 4;
/// Multiply-accumulates that take as long as calling a kernel, one to two microseconds.
const LAUNCH: u64 = 50_000;

impl Cost {
    /// Adds the node of a stage.
    pub(super) fn stage(self, parameters: u64, macs: u64, moved: u64) -> Cost {
        self.and(Cost { parameters, macs, moved, nodes: 1 })
    }

    pub(super) const fn and(self, other: Cost) -> Cost {
        Cost {
            parameters: self.parameters.saturating_add(other.parameters),
            macs: self.macs.saturating_add(other.macs),
            moved: self.moved.saturating_add(other.moved),
            nodes: self.nodes.saturating_add(other.nodes),
        }
    }

    /// Modelled time, in multiply-accumulates: arithmetic, traffic of weights and activations, launches.
    pub(super) const fn time(&self) -> u64 {
        let moved = self.moved.saturating_add(self.parameters).saturating_mul(MOVE);
        self.macs.saturating_add(moved).saturating_add(self.nodes.saturating_mul(LAUNCH))
    }

    /// Bytes moved, weights included, if elements have four.
    pub(super) const fn bytes(&self) -> u64 {
        self.moved.saturating_add(self.parameters).saturating_mul(4)
    }
}

/// Elements of a tensor.
pub(super) fn elements(dims: &[u64]) -> u64 {
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}
