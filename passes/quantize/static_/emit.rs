//! Writes QuantizeLinear and DequantizeLinear into the graph.

use std::collections::BTreeMap;

use planish_ir::{DType, Graph, NodeId, Numerics, OpName, Operand, Patch, Ref, Tensor, TensorType, Type, Use, ValueId};

use super::{
    place::Placement,
    unit::{Gate, Linear, Place, Role, Unit},
    weights::{self, Rounding},
};
use crate::{
    PassError, clean,
    quantize::grid::{self, Channels, Codes, Grid},
};

/// How to write.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    /// Of the weights.
    pub(crate) rounding: Rounding,
    /// Biases are 32-bit integers, with the scale of the products; otherwise they stay floats.
    pub(crate) integer_bias: bool,
}

/// What came of a weight.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noise {
    pub(crate) signal: f64,
    pub(crate) noise: f64,
}

/// The gate of a unit between 0 and 1.
pub(crate) const GATE: Grid = Grid { scale: 1.0 / 255.0, zero_point: 0, codes: Codes::U8 };

pub(crate) struct Writer<'a> {
    at: Place<'a>,
    placement: &'a Placement,
    grids: &'a BTreeMap<ValueId, Grid>,
    style: Style,
    /// Weights of products, rounded.
    weights: &'a BTreeMap<NodeId, Channels>,
    patch: Patch,
    /// Codes of values, and the numbers that they stand for.
    codes: BTreeMap<ValueId, Ref>,
    numbers: BTreeMap<ValueId, Ref>,
    /// Scales and zero points that there are already.
    parameters: BTreeMap<(u32, i32, Codes), (Ref, Ref)>,
    /// What came of the weights, by unit.
    pub(crate) noise: BTreeMap<NodeId, Noise>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        at: Place<'a>,
        placement: &'a Placement,
        grids: &'a BTreeMap<ValueId, Grid>,
        (style, weights): (Style, &'a BTreeMap<NodeId, Channels>),
    ) -> Self {
        let note = format!("{} nodes compute with codes", placement.units.len());
        Writer {
            at,
            placement,
            grids,
            style,
            weights,
            patch: Patch::new(Numerics::Lossy, note),
            codes: BTreeMap::new(),
            numbers: BTreeMap::new(),
            parameters: BTreeMap::new(),
            noise: BTreeMap::new(),
        }
    }

    /// The patch for all units.
    pub(crate) fn write(mut self) -> Result<(Patch, BTreeMap<NodeId, Noise>), PassError> {
        for id in self.at.graph.topological_order().unwrap_or_default() {
            if let Some(unit) = self.placement.units.get(&id) {
                self.unit(unit)?;
            }
        }
        Ok((self.patch, self.noise))
    }

    fn unit(&mut self, unit: &Unit) -> Result<(), PassError> {
        let Some(node) = self.at.graph.node(unit.node) else { return Ok(()) };
        let input = unit.reads.first().and_then(|&s| node.input(s));
        match (&unit.role, input) {
            (Role::Affine { .. }, Some(x)) => {
                let codes = self.codes(x)?;
                self.codes.insert(unit.result, codes);
            }
            (Role::HardGate { alpha, beta }, Some(x)) => {
                let name = self.label(unit.node);
                let codes = self.hard_gate(x, *alpha, *beta, (&name, Some(unit.node)))?;
                self.codes.insert(unit.result, codes);
            }
            (Role::SelfGated(gate), Some(x)) => self.self_gated(unit, *gate, x)?,
            (role, _) => {
                if let Role::Linear(linear) = role {
                    self.weight(unit, linear)?;
                }
                for &slot in &unit.reads {
                    // What other units make reaches all of its readers at once.
                    if let Some(v) = node.input(slot).filter(|v| !self.is_emitted(*v)) {
                        let number = self.number(v)?;
                        self.patch.set_input(unit.node, slot, Some(number));
                    }
                }
                if matches!(role, Role::Kernel(_)) {
                    self.constants(unit)?;
                }
            }
        }
        if self.placement.emits.contains(&unit.node) && self.is_read_as_number(unit.result) {
            let number = self.number(unit.result)?;
            self.patch.replace(unit.result, number);
        }
        Ok(())
    }

    /// True for the result of a unit that is codes.
    fn is_emitted(&self, value: ValueId) -> bool {
        let maker = |u: &&Unit| u.result == value;
        self.at.graph.producer(value).is_some_and(|(id, node)| {
            let behind = node.input(0).and_then(|v| self.at.graph.producer(v)).map(|(id, _)| id);
            [Some(id), behind]
                .into_iter()
                .flatten()
                .any(|id| self.placement.emits.contains(&id) && self.placement.units.get(&id).filter(maker).is_some())
        })
    }

    /// True if anybody reads the value itself, and not only its codes.
    fn is_read_as_number(&self, value: ValueId) -> bool {
        self.at.graph.users(value).any(|user| match user {
            Use::Node(id, Operand::Input(_)) => !self
                .placement
                .units
                .get(&id)
                .is_some_and(|u| matches!(u.role, Role::Affine { .. } | Role::HardGate { .. } | Role::SelfGated(_))),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => true,
        })
    }

    /// `clamp(alpha * x + beta, 0, 1)`: a sum whose codes end at 0 and 1.
    fn hard_gate(
        &mut self,
        x: ValueId,
        alpha: f32,
        beta: f32,
        (name, origin): (&str, Option<NodeId>),
    ) -> Result<Ref, PassError> {
        let scaled = self.rescaled(x, alpha, name)?;
        let one = Grid { scale: beta, zero_point: 0, codes: Codes::U8 };
        let code = self.patch.constant(format!("{name}_one"), store(Codes::U8, &[], &[1.0], name)?);
        let shift = self.dequantize(code, one, &format!("{name}_shift"), Some(Type::tensor(DType::F32, [])))?;
        let ty = self.at.graph.ty(x).cloned();
        let sum = self.patch.node(OpName::onnx("Add"), [scaled, shift]).name(name.to_owned());
        let sum = match origin {
            Some(node) => sum.in_place_of(node),
            None => sum,
        };
        let sum = sum.output(format!("{name}_sum"), ty.clone());
        self.quantize(sum, GATE, &format!("{name}_quantized"), ty.as_ref())
    }

    /// `x` times a gate of itself.
    fn self_gated(&mut self, unit: &Unit, gate: Gate, x: ValueId) -> Result<(), PassError> {
        let label = self.label(unit.node);
        let name = format!("{label}_gate");
        let ty = self.at.graph.ty(x).cloned();
        let gate = match gate {
            Gate::Hard => self.hard_gate(x, 1.0 / 6.0, 0.5, (&name, None))?,
            Gate::Sigmoid(alpha) => {
                let scaled = self.rescaled(x, alpha, &name)?;
                let sigmoid = self.patch.node(OpName::onnx("Sigmoid"), [scaled]).name(name.clone());
                let sigmoid = sigmoid.output(format!("{name}_sigmoid"), ty.clone());
                self.quantize(sigmoid, GATE, &format!("{name}_quantized"), ty.as_ref())?
            }
        };
        let gate = self.dequantize(gate, GATE, &format!("{name}_dequantized"), ty.clone())?;
        let x = self.number(x)?;
        let product = self.patch.node(OpName::onnx("Mul"), [x, gate]).name(label.clone()).in_place_of(unit.node);
        let product = product.output(format!("{label}_product"), ty.clone());
        let grid = self.grid(unit.result)?;
        let codes = self.quantize(product, grid, &format!("{label}_quantized"), ty.as_ref())?;
        self.codes.insert(unit.result, codes);
        Ok(())
    }

    /// A positive multiple of a value: its codes, on another grid.
    fn rescaled(&mut self, x: ValueId, factor: f32, name: &str) -> Result<Ref, PassError> {
        let (codes, grid) = (self.codes(x)?, self.grid(x)?);
        let grid = Grid { scale: grid.scale * factor, ..grid };
        self.dequantize(codes, grid, &format!("{name}_scaled"), self.at.graph.ty(x).cloned())
    }

    /// Weight and bias of a product.
    fn weight(&mut self, unit: &Unit, linear: &Linear) -> Result<(), PassError> {
        let graph = self.at.graph;
        let Some(node) = graph.node(unit.node) else { return Ok(()) };
        let (Some(x), Some(weight)) = (node.input(0), clean::constant_of(graph, linear.weight)) else { return Ok(()) };
        let name = graph.name_of(linear.weight);
        let failed = |source| PassError::Tensor { place: name.clone(), source };
        let activation = self.grid(x)?.scale;
        let bias: Option<Vec<f32>> = match linear.bias.filter(|_| self.style.integer_bias) {
            Some(b) => {
                clean::constant_of(graph, b).map(|t| t.iter_f32().map(Iterator::collect)).transpose().map_err(failed)?
            }
            None => None,
        };
        let least =
            |c: usize| bias.as_ref().and_then(|b| b.get(c)).map_or(0.0, |b| weights::least_scale(*b, activation));
        // With a scale that is too small for the bias, the weight is rounded anew.
        let fits = |c: &&Channels| c.scales.iter().enumerate().all(|(channel, scale)| *scale >= least(channel));
        let rounded = match self.weights.get(&unit.node).filter(fits) {
            Some(rounded) => rounded.clone(),
            None => weights::round(&weight, linear, node, self.style.rounding, least).map_err(failed)?,
        };
        let (signal, noise) = rounded.power;
        self.noise.insert(unit.node, Noise { signal, noise });
        let scales = rounded.scales.clone();
        let ty = graph.ty(linear.weight).cloned();
        let codes = self.patch.constant(format!("{name}_quantized"), rounded.codes);
        let number = self.channels(codes, &scales, linear.axis, &format!("{name}_dequantized"), ty).map_err(failed)?;
        self.patch.set_input(unit.node, 1, Some(number));
        if let (Some(bias), Some(b)) = (bias, linear.bias) {
            let name = graph.name_of(b);
            let bias = weights::bias(&bias, activation, &scales).map_err(failed)?;
            let codes = self.patch.constant(format!("{name}_quantized"), bias.codes);
            let scales = self.patch.constant(format!("{name}_scale"), bias.scales);
            let number = self.patch.node(OpName::onnx("DequantizeLinear"), [codes, scales]).attr("axis", 0i64);
            let number = number.output(format!("{name}_dequantized"), graph.ty(b).cloned());
            self.patch.set_input(unit.node, 2, Some(number));
        }
        Ok(())
    }

    /// Numbers of the codes of a weight; the zero point is 0 and tells the type.
    fn channels(
        &mut self,
        codes: Ref,
        scales: &[f32],
        axis: usize,
        name: &str,
        ty: Option<Type>,
    ) -> Result<Ref, planish_ir::TensorError> {
        let kind = self.style.rounding.codes;
        let (dims, scales) = match self.style.rounding.per_channel {
            true => (vec![scales.len() as u64], scales),
            false => (Vec::new(), scales.get(..1).unwrap_or_default()),
        };
        let zeros = grid::store(kind, &dims, &vec![0.0; scales.len()])?;
        let scales = self.patch.constant(format!("{name}_scale"), Tensor::from_f32(dims.as_slice(), scales)?);
        let zeros = self.patch.constant(format!("{name}_zero_point"), zeros);
        let node = self.patch.node(OpName::onnx("DequantizeLinear"), [codes, scales, zeros]);
        let node = if dims.is_empty() { node } else { node.attr("axis", axis as i64) };
        Ok(node.output(name, ty))
    }

    /// Constant operands between products.
    fn constants(&mut self, unit: &Unit) -> Result<(), PassError> {
        let graph = self.at.graph;
        let Some(node) = graph.node(unit.node) else { return Ok(()) };
        for (slot, value) in node.inputs().iter().enumerate().filter(|(slot, _)| !unit.reads.contains(slot)) {
            let Some((value, tensor)) = value.and_then(|v| Some((v, clean::constant_of(graph, v)?))) else { continue };
            let name = graph.name_of(value);
            let failed = |source| PassError::Tensor { place: name.clone(), source };
            let numbers: Vec<f32> = tensor.iter_f32().map_err(failed)?.collect();
            let (low, high) = numbers.iter().fold((0.0f32, 0.0f32), |(l, h), v| (l.min(*v), h.max(*v)));
            let kind = self.grid(unit.result)?.codes;
            let grid = match kind {
                Codes::U8 | Codes::U16 => Grid::covering(kind, low, high),
                Codes::I8 | Codes::I16 | Codes::F8 => Grid::symmetric(kind, high.max(-low)),
            };
            let codes: Vec<f32> = numbers.iter().map(|&v| grid.code(v)).collect();
            let codes = self.patch.constant(format!("{name}_quantized"), store(kind, tensor.dims(), &codes, &name)?);
            let ty = graph.ty(value).cloned();
            let number = self.dequantize(codes, grid, &format!("{name}_dequantized"), ty)?;
            self.patch.set_input(unit.node, slot, Some(number));
        }
        Ok(())
    }

    /// The codes of a value.
    fn codes(&mut self, value: ValueId) -> Result<Ref, PassError> {
        if let Some(codes) = self.codes.get(&value) {
            return Ok(*codes);
        }
        let (grid, name) = (self.grid(value)?, self.at.graph.name_of(value));
        let codes = self.quantize(value.into(), grid, &format!("{name}_quantized"), self.at.graph.ty(value))?;
        self.codes.insert(value, codes);
        Ok(codes)
    }

    /// The numbers that the codes of a value stand for.
    fn number(&mut self, value: ValueId) -> Result<Ref, PassError> {
        if let Some(number) = self.numbers.get(&value) {
            return Ok(*number);
        }
        let (codes, grid) = (self.codes(value)?, self.grid(value)?);
        let name = format!("{}_dequantized", self.at.graph.name_of(value));
        let number = self.dequantize(codes, grid, &name, self.at.graph.ty(value).cloned())?;
        self.numbers.insert(value, number);
        Ok(number)
    }

    fn quantize(&mut self, number: Ref, grid: Grid, name: &str, ty: Option<&Type>) -> Result<Ref, PassError> {
        let (scale, zero) = self.parameters(grid, name)?;
        let ty = ty.and_then(Type::as_tensor).map(|t| coded(grid.codes.dtype(), t));
        Ok(self.patch.node(OpName::onnx("QuantizeLinear"), [number, scale, zero]).output(name, ty))
    }

    fn dequantize(&mut self, codes: Ref, grid: Grid, name: &str, ty: Option<Type>) -> Result<Ref, PassError> {
        let (scale, zero) = self.parameters(grid, name)?;
        Ok(self.patch.node(OpName::onnx("DequantizeLinear"), [codes, scale, zero]).output(name, ty))
    }

    /// Scale and zero point as constants; equal ones are shared.
    fn parameters(&mut self, grid: Grid, name: &str) -> Result<(Ref, Ref), PassError> {
        let key = (grid.scale.to_bits(), grid.zero_point, grid.codes);
        if let Some(found) = self.parameters.get(&key) {
            return Ok(*found);
        }
        let zero = grid.zero_point_tensor().map_err(|source| PassError::Tensor { place: name.to_owned(), source })?;
        let scale = self.patch.constant(format!("{name}_scale"), grid.scale_tensor());
        let zero = self.patch.constant(format!("{name}_zero_point"), zero);
        self.parameters.insert(key, (scale, zero));
        Ok((scale, zero))
    }

    fn grid(&self, value: ValueId) -> Result<Grid, PassError> {
        self.grids.get(&value).copied().ok_or_else(|| {
            PassError::Precondition(format!("the range of {:?} is not known", self.at.graph.name_of(value)))
        })
    }

    fn label(&self, node: NodeId) -> String {
        label(self.at.graph, node)
    }
}

fn store(codes: Codes, dims: &[u64], values: &[f32], name: &str) -> Result<Tensor, PassError> {
    grid::store(codes, dims, values).map_err(|source| PassError::Tensor { place: name.to_owned(), source })
}

fn coded(dtype: DType, ty: &TensorType) -> Type {
    Type::Tensor(TensorType { dtype, shape: ty.shape.clone() })
}

/// The name of a node, or of its first output.
pub(crate) fn label(graph: &Graph, id: NodeId) -> String {
    graph.node(id).map_or_else(
        || id.to_string(),
        |n| match (n.name.as_str(), n.output(0)) {
            ("", Some(v)) => graph.name_of(v),
            (name, _) => name.to_owned(),
        },
    )
}
