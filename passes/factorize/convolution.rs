//! Convolutions as the methods see them: one weight, the nodes that read it, and the smaller convolutions that stand for them.

use std::ops::Range;

use faer::Mat;
use planish_ir::{Attr, Attrs, Node, NodeId, OpName, Patch, Ref, Tensor, TensorError, ValueId};

use super::method::{Cost, Place, Reads, Scene, elements};
use crate::{Bias, Linear, Skip};

/// A weight, and the convolutions that read it.
pub(super) struct Convolution<'a> {
    pub(super) scene: Scene<'a>,
    linears: Vec<Linear>,
    weight: ValueId,
    like: &'a Tensor,
    pub(super) groups: usize,
    /// Outputs of a group.
    pub(super) outputs: usize,
    /// Inputs of a group.
    pub(super) inputs: usize,
    /// Sizes of the window.
    pub(super) window: Vec<usize>,
}

/// One of the convolutions that stand for another: its channels, and the spatial axes that it slides along, with the window, strides,
/// dilations and pads of the original. Along the others it is of size 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    /// All outputs.
    pub(super) outputs: usize,
    /// Inputs of a group.
    pub(super) inputs: usize,
    pub(super) groups: usize,
    pub(super) axes: Range<usize>,
}

/// A stage, what its weights are called, and their elements, row-major.
pub(super) struct Filled {
    pub(super) stage: Stage,
    pub(super) name: &'static str,
    pub(super) values: Vec<f64>,
}

impl<'a> Convolution<'a> {
    /// Fails with the reason if there is nothing to split between channels, or the nodes are of different kinds.
    pub(super) fn of(scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Convolution<'a>, Skip> {
        let graph = &scene.model.graph;
        let linear = |&id: &NodeId| {
            let is_conv = graph.node(id).is_some_and(|n| n.op.is("Conv"));
            Linear::of(graph, id).filter(|l| is_conv && l.weight == weight)
        };
        let linears: Vec<Linear> = nodes.iter().map(linear).collect::<Option<_>>().ok_or(Skip::NoMatch)?;
        let (Some(first), Some(like)) = (linears.first(), graph.constant(weight)) else { return Err(Skip::NoMatch) };
        let dims: Option<Vec<usize>> = like.dims().iter().map(|&d| usize::try_from(d).ok()).collect();
        let dims = dims.ok_or(Skip::NoMatch)?;
        let Some((&[all, inputs], window)) = dims.split_first_chunk::<2>() else { return Err(Skip::NoMatch) };
        let groups = first.groups();
        if linears.iter().any(|l| l.groups() != groups) {
            return Err(Skip::because("the convolutions that read its weights have different numbers of groups"));
        }
        if groups == 0 || !all.is_multiple_of(groups) {
            return Err(Skip::because("its outputs do not divide into its groups"));
        }
        if inputs == 1 && groups > 1 {
            return Err(Skip::because(
                "a depthwise convolution has one channel in a group, and nothing to compress between channels",
            ));
        }
        let window = window.to_vec();
        Ok(Convolution { scene: *scene, weight, like, groups, outputs: all / groups, inputs, window, linears })
    }

    /// Places of the window.
    pub(super) fn taps(&self) -> usize {
        self.window.iter().product()
    }

    /// The weights of each group, `outputs x (inputs, taps)`.
    pub(super) fn matrices(&self) -> Result<Vec<Mat<f64>>, String> {
        let first = self.linears.first().ok_or("nothing reads it")?;
        first.matrices(self.like).map_err(|e| e.to_string())
    }

    /// The windows that the nodes read, if there is one matrix of them, and not one for each group.
    pub(super) fn reads(&self) -> Option<Reads> {
        let first = self.linears.first().filter(|l| l.groups() == 1)?;
        let is_same = |l: &Linear| l.rows == first.rows;
        self.linears.iter().all(is_same).then(|| Reads {
            values: self.linears.iter().map(|l| l.input).collect(),
            rows: first.rows.clone(),
            width: self.inputs * self.taps(),
            // Nodes that share a weight read rows of different means.
            centred: matches!(self.linears.as_slice(), [l] if l.bias != Bias::None),
        })
    }

    /// What the nodes cost as they are.
    pub(super) fn whole_cost(&self, places: &[Place]) -> Cost {
        self.cost(places, std::slice::from_ref(&self.whole()))
    }

    /// The convolution itself.
    pub(super) fn whole(&self) -> Stage {
        let (outputs, groups) = (self.outputs * self.groups, self.groups);
        Stage { outputs, inputs: self.inputs, groups, axes: 0..self.window.len() }
    }

    /// What stages cost, one after the other, in place of each of the nodes.
    pub(super) fn cost(&self, places: &[Place], stages: &[Stage]) -> Cost {
        places.iter().fold(Cost::default(), |mut cost, p| {
            let (Some(before), Some(behind)) = (p.input.get(2..), p.output.get(2..)) else { return cost };
            let batch = p.output.first().copied().unwrap_or(1);
            let mut sizes: Vec<u64> = before.to_vec();
            for s in stages {
                let read = elements(&sizes).saturating_mul(batch).saturating_mul((s.inputs * s.groups) as u64);
                for axis in s.axes.clone() {
                    if let (Some(size), Some(&new)) = (sizes.get_mut(axis), behind.get(axis)) {
                        *size = new;
                    }
                }
                let written = elements(&sizes).saturating_mul(batch).saturating_mul(s.outputs as u64);
                let width = (s.inputs as u64).saturating_mul(self.places_of(s) as u64);
                cost = cost.stage(
                    width.saturating_mul(s.outputs as u64),
                    written.saturating_mul(width),
                    read.saturating_add(written),
                );
            }
            cost
        })
    }

    fn places_of(&self, stage: &Stage) -> usize {
        self.window.get(stage.axes.clone()).map_or(1, |w| w.iter().product())
    }

    /// Puts stages in the place of each node. The last one becomes the weights of the nodes that there are, with their biases, to which
    /// `lost` is added: what the stages make less of the mean than the original did.
    pub(super) fn emit(&self, stages: &[Filled], lost: Option<&[f64]>, patch: &mut Patch) -> Result<(), String> {
        let graph = &self.scene.model.graph;
        let name = graph.name_of(self.weight);
        let Some((last, firsts)) = stages.split_last() else { return Ok(()) };
        let mut constants = Vec::new();
        for s in firsts {
            let tensor = self.tensor(s).map_err(|e| e.to_string())?;
            constants.push(patch.constant(format!("{name}_{}", s.name), tensor));
        }
        for linear in &self.linears {
            let node = graph.node(linear.node).ok_or("a node is missing")?;
            let output = node.output(0).map(|y| graph.name_of(y)).unwrap_or_default();
            let mut value = Ref::from(linear.input);
            for (s, &constant) in firsts.iter().zip(&constants) {
                let attrs = self.attrs(node, &s.stage);
                let mut made = patch.node(OpName::onnx("Conv"), [value, constant]).attrs(attrs);
                if !node.name.is_empty() {
                    made = made.name(format!("{}_{}", node.name, s.name));
                }
                value = made.output(format!("{output}_{}", s.name), None);
            }
            patch.set_input(linear.node, 0, Some(value));
            patch.set_attrs(linear.node, self.attrs(node, &last.stage));
            if let Some(lost) = lost {
                linear.shift_bias(&self.scene.model.graph, patch, lost).map_err(|e| e.to_string())?;
            }
        }
        patch.set_tensor(self.weight, self.tensor(last).map_err(|e| e.to_string())?);
        Ok(())
    }

    fn tensor(&self, filled: &Filled) -> Result<Tensor, TensorError> {
        let s = &filled.stage;
        let mut dims = vec![s.outputs as u64, s.inputs as u64];
        dims.extend(self.window.iter().enumerate().map(|(a, &k)| if s.axes.contains(&a) { k as u64 } else { 1 }));
        Tensor::from_f64_as(self.like.dtype(), dims.as_slice(), &filled.values)
    }

    /// Attributes of a node, along the axes of a stage.
    fn attrs(&self, node: &Node, stage: &Stage) -> Attrs {
        let rank = self.window.len();
        let along = |name: &str, other: i64| -> Option<Vec<i64>> {
            let values = node.attrs.ints(name)?;
            let kept: Vec<i64> = values
                .iter()
                .enumerate()
                .map(|(i, &v)| if stage.axes.contains(&(i % rank.max(1))) { v } else { other })
                .collect();
            kept.iter().any(|&v| v != other).then_some(kept)
        };
        let mut attrs = Attrs::default();
        // Padding by the size of the input works axis by axis, and adds nothing where the window is of size 1.
        if let Some(pad) = node.attrs.get("auto_pad").filter(|_| !stage.axes.is_empty()) {
            attrs.set("auto_pad", pad.clone());
        }
        for (name, other) in [("dilations", 1), ("pads", 0), ("strides", 1)] {
            if let Some(values) = along(name, other) {
                attrs.set(name, Attr::from(values));
            }
        }
        if stage.groups > 1 {
            attrs.set("group", Attr::from(stage.groups as i64));
        }
        if node.attrs.ints("kernel_shape").is_some() {
            let size = |(a, &k): (usize, &usize)| if stage.axes.contains(&a) { k as i64 } else { 1 };
            attrs.set("kernel_shape", Attr::from(self.window.iter().enumerate().map(size).collect::<Vec<i64>>()));
        }
        attrs
    }
}
