//! Codes of weights.

use planish_ir::{DType, Dims, Graph, Node, NodeId, Numerics, Patch, Tensor};

use crate::{RuleContext, Skip};

/// A weight in 8 bits: codes, scales and zero points, those of one element standing for all.
struct Weight {
    codes: Vec<i64>,
    dims: Dims,
    scales: Vec<f64>,
    scale_type: DType,
    scale_dims: Dims,
    zeros: Vec<i64>,
    /// Elements behind the axis.
    inner: usize,
}

impl Weight {
    fn read(graph: &Graph, node: &Node) -> Result<Weight, Skip> {
        let unread = |e: planish_ir::TensorError| Skip::because(e.to_string());
        let codes = graph.constant_input(node, 0).ok_or(Skip::NoMatch)?;
        if !matches!(codes.dtype(), DType::U8 | DType::I8) {
            return Err(Skip::NoMatch);
        }
        if node.attrs.int("block_size").unwrap_or(0) != 0 {
            return Err(Skip::because("its scales are those of blocks"));
        }
        let scale = graph.constant_input(node, 1).ok_or(Skip::because("its scale is computed"))?;
        let scales = scale.to_f64().map_err(unread)?;
        let zeros = match node.input(2) {
            None => vec![0; scales.len()],
            Some(z) => {
                graph.constant(z).ok_or(Skip::because("its zero point is computed"))?.to_i64().map_err(unread)?
            }
        };
        let axis = planish_ir::infer::axis(node.attrs.int("axis").unwrap_or(1), codes.rank());
        let inner = match (scales.len(), axis) {
            (1, _) => 1,
            (n, Ok(axis)) if codes.dims().get(axis).copied() == Some(n as u64) => {
                codes.dims().iter().skip(axis + 1).map(|&d| d as usize).product()
            }
            _ => return Err(Skip::because("its scales do not fit the axis")),
        };
        if zeros.len() != scales.len() {
            return Err(Skip::because("its zero point has another shape than its scale"));
        }
        Ok(Weight {
            codes: codes.to_i64().map_err(unread)?,
            dims: codes.dims().into(),
            scale_type: scale.dtype(),
            scale_dims: scale.dims().into(),
            scales,
            zeros,
            inner,
        })
    }

    fn channel(&self, element: usize) -> usize {
        if self.scales.len() == 1 { 0 } else { element / self.inner.max(1) % self.scales.len() }
    }

    /// Codes minus zero points, with a coarser step for channels that reach beyond int8. The class is Exact if there is none.
    fn centre(&mut self) -> Numerics {
        let shifted: Vec<i64> = self.codes.iter().enumerate().map(|(i, c)| c - self.zeros[self.channel(i)]).collect();
        let mut reach = vec![(0i64, 0i64); self.scales.len()];
        for (i, c) in shifted.iter().enumerate() {
            let r = &mut reach[self.channel(i)];
            *r = (r.0.min(*c), r.1.max(*c));
        }
        // Steps in the old one.
        let steps: Vec<f64> = reach
            .iter()
            .map(|&(low, high)| if low >= -128 && high <= 127 { 1.0 } else { high.max(-low) as f64 / 127.0 })
            .collect();
        self.codes = shifted
            .iter()
            .enumerate()
            .map(|(i, &c)| (c as f64 / steps[self.channel(i)]).round_ties_even() as i64)
            .collect();
        self.scales.iter_mut().zip(&steps).for_each(|(s, step)| *s *= step);
        self.zeros = vec![0; self.zeros.len()];
        if steps.iter().all(|s| *s == 1.0) { Numerics::Exact } else { Numerics::Lossy }
    }

    /// The same numbers in int8: 128 less in codes and zero points.
    fn sign(&mut self) {
        self.codes.iter_mut().chain(&mut self.zeros).for_each(|c| *c -= 128);
    }

    /// Lets a DequantizeLinear read it.
    fn write(self, graph: &Graph, id: NodeId, node: &Node, patch: &mut Patch) -> Result<(), Skip> {
        let failed = |e: planish_ir::TensorError| Skip::because(e.to_string());
        let bytes = |values: &[i64]| -> bytes::Bytes { values.iter().map(|&c| (c as i8).cast_unsigned()).collect() };
        let name = |slot: usize, other: &str| node.input(slot).map_or_else(|| other.to_owned(), |v| graph.name_of(v));
        let codes = Tensor::from_raw(DType::I8, self.dims, bytes(&self.codes)).map_err(failed)?;
        let scales = Tensor::from_f64_as(self.scale_type, self.scale_dims.clone(), &self.scales).map_err(failed)?;
        let zeros = Tensor::from_raw(DType::I8, self.scale_dims, bytes(&self.zeros)).map_err(failed)?;
        let codes = patch.constant(format!("{}_int8", name(0, "weight")), codes);
        patch.set_input(id, 0, Some(codes));
        if graph.constant_input(node, 1) != Some(&scales) {
            let scales = patch.constant(format!("{}_symmetric", name(1, "scale")), scales);
            patch.set_input(id, 1, Some(scales));
        }
        let zeros = patch.constant(format!("{}_int8", name(2, "zero_point")), zeros);
        patch.set_input(id, 2, Some(zeros));
        Ok(())
    }
}

/// A constant that is dequantized gets int8 and a zero point of 0.
pub(super) fn symmetric(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let mut weight = match Weight::read(g, node) {
        Err(Skip::NoMatch) => return Err(not_constant(cx, node)),
        other => other?,
    };
    let is_int8 = g.constant_input(node, 0).is_some_and(|t| t.dtype() == DType::I8);
    if is_int8 && weight.zeros.iter().all(|z| *z == 0) {
        return Err(Skip::NoMatch);
    }
    let numerics = weight.centre();
    let mut patch = Patch::new(numerics, "a weight on a symmetric grid");
    weight.write(g, id, node, &mut patch)?;
    Ok(patch)
}

/// Codes that no QuantizeLinear of the graph made are an input, or come from an integer operator.
fn not_constant(cx: &RuleContext<'_>, node: &Node) -> Skip {
    let quantized = node.input(0).and_then(|v| cx.graph.producer(v)).is_some_and(|(_, n)| n.op.is("QuantizeLinear"));
    let zero = match node.input(2) {
        None => Some(0),
        Some(z) => cx.graph.constant(z).and_then(Tensor::single_i64),
    };
    let dtype = node.input(0).and_then(|v| cx.facts.fact(v).dtype());
    match quantized || (zero == Some(0) && dtype == Some(DType::I8)) || dtype == Some(DType::I32) {
        true => Skip::NoMatch,
        false => Skip::because(
            "its codes are an input of the model, or come from an operator on integers, so their type has to stay",
        ),
    }
}

/// The uint8 weight of an operator whose activation is int8 becomes int8, with the same numbers.
pub(super) fn signed_like_activation(cx: &RuleContext<'_>, _: NodeId, node: &Node) -> Result<Patch, Skip> {
    let g = cx.graph;
    let dequantize = |slot: usize| {
        let (id, n) = g.producer(node.input(slot)?).filter(|(_, n)| n.op.is("DequantizeLinear") && !n.is_local())?;
        Some((id, n, cx.facts.fact(n.input(0)?).dtype()?))
    };
    let (Some((_, _, DType::I8)), Some((id, weight, DType::U8))) = (dequantize(0), dequantize(1)) else {
        return Err(Skip::NoMatch);
    };
    let mut read = Weight::read(g, weight)?;
    read.sign();
    let mut patch = Patch::new(Numerics::Exact, "a weight as int8, like its activation");
    read.write(g, id, weight, &mut patch)?;
    Ok(patch)
}
