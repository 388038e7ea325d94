//! Finding the heads of attention: which rows of which weights are multiplied with each other.
//!
//! From a product of two activations the way leads back, through views and splits, to the layers that make them. What the views do to
//! channels is found by sending the numbers of the channels through them, so that every way of writing heads is read alike.

use std::collections::BTreeSet;

use planish_ir::{
    Graph, Model, Node, NodeId, Operand, Use, ValueId,
    infer::{self, GraphFacts},
    op,
};

use crate::{Linear, calibration::Rows};

/// A matrix product of activations that are both, or of which the second is, made by a layer.
pub(crate) struct Product {
    pub(crate) kind: Kind,
    pub(crate) node: NodeId,
    /// What the product sums over, or what it hands on: the axis of a value.
    pub(crate) axis: (ValueId, usize),
    /// Queries and keys, or values and the layer that reads what comes of them.
    pub(crate) sides: [Side; 2],
    /// Nodes that the channels go through.
    pub(crate) path: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    QueryKey {
        /// A softmax follows that does not see what is added to all keys alike.
        softmax: bool,
    },
    ValueOutput,
}

/// A layer, and where its weights have the channels of each head.
pub(crate) struct Side {
    pub(crate) linear: Linear,
    /// For each head its channels: rows of the matrix; columns for the layer that reads.
    pub(crate) heads: Vec<Vec<usize>>,
}

/// The numbers of channels, and how they lie.
struct Numbers {
    dims: Vec<usize>,
    values: Vec<u32>,
}

/// Elements of a tensor that is followed.
const MOST: usize = 1 << 24;

/// What a look at the model needs. Facts have no open sizes.
pub(super) struct Heads<'a> {
    pub(super) model: &'a Model,
    pub(super) facts: &'a GraphFacts,
}

impl Heads<'_> {
    fn graph(&self) -> &Graph {
        &self.model.graph
    }

    fn dims(&self, v: ValueId) -> Option<Vec<usize>> {
        let shape = self.facts.fact(v).shape()?;
        let dims: Vec<usize> = shape.iter().map(|d| usize::try_from(d.known()?).ok()).collect::<Option<_>>()?;
        let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (elements > 0 && elements <= MOST).then_some(dims)
    }

    /// The products of heads at a node: queries with keys, and values with what reads them. Nothing for other nodes; a reason for what
    /// looks like one and is none that can be treated.
    pub(super) fn product(&self, id: NodeId) -> Option<Result<Product, String>> {
        let node = self.graph().node(id).filter(|n| n.op.is("MatMul") && op::of(n).is_some())?;
        let (a, b) = (node.input(0)?, node.input(1)?);
        if [a, b].iter().any(|&v| self.graph().constant(v).is_some()) || self.dims(a)?.len() < 3 {
            return None;
        }
        match self.follows_softmax(a) {
            true => Some(self.value_output(id, node, b)),
            false => Some(self.query_key(id, node, a, b)),
        }
    }

    fn query_key(&self, id: NodeId, node: &Node, a: ValueId, b: ValueId) -> Result<Product, String> {
        let mut path = BTreeSet::from([id]);
        let (queries, numbers_q) = self.source(a, &mut path)?;
        let (keys, numbers_k) = self.source(b, &mut path)?;
        let rank = numbers_q.dims.len();
        let axis = rank.checked_sub(1).ok_or("it has no axes")?;
        let q = heads(&numbers_q, axis).ok_or("its queries are not of equal heads")?;
        let k = heads(&numbers_k, axis.saturating_sub(1)).ok_or("its keys are not of equal heads")?;
        if numbers_k.dims.len() != rank || q.len() != k.len() || q.iter().zip(&k).any(|(q, k)| q.len() != k.len()) {
            return Err(
                "queries and keys have not the same heads; a key that several queries share is not treated".to_owned()
            );
        }
        let softmax = node.output(0).is_some_and(|v| self.leads_to_softmax(v));
        let sides = [Side { linear: queries, heads: q }, Side { linear: keys, heads: k }];
        Ok(Product { kind: Kind::QueryKey { softmax }, node: id, axis: (a, axis), sides, path })
    }

    fn value_output(&self, id: NodeId, node: &Node, b: ValueId) -> Result<Product, String> {
        let mut path = BTreeSet::from([id]);
        let (values, numbers) = self.source(b, &mut path)?;
        let axis = numbers.dims.len().checked_sub(1).ok_or("it has no axes")?;
        let v = heads(&numbers, axis).ok_or("its values are not of equal heads")?;
        let result = node.output(0).ok_or("it has no output")?;
        let dims = self.dims(result).ok_or("its shape is not known")?;
        let size = v.first().map_or(0, Vec::len);
        let (outer, places) =
            (dims.len().saturating_sub(2), dims.get(dims.len().saturating_sub(2)).copied().unwrap_or(1));
        // The channel of the head, wherever it is.
        let channel = |i: usize| {
            let head = i / (places * size).max(1) % v.len().max(1);
            (head * size + i % size.max(1)) as u32
        };
        let heads_first = dims.get(..outer).map_or(1, |d| d.iter().product::<usize>());
        if heads_first % v.len().max(1) != 0 || dims.last() != Some(&size) {
            return Err("what it gives has not the heads of its values".to_owned());
        }
        let count = dims.iter().product();
        let start = Numbers { values: (0..count).map(channel).collect(), dims };
        let (output, numbers) = self.sink(result, start, &mut path)?;
        let last = numbers.dims.len().saturating_sub(1);
        let row: Vec<u32> = numbers.values.iter().copied().take(numbers.dims.get(last).copied().unwrap_or(0)).collect();
        let mut columns = vec![vec![usize::MAX; size]; v.len()];
        for (column, &number) in row.iter().enumerate() {
            let head = columns.get_mut(number as usize / size.max(1));
            *head
                .and_then(|h| h.get_mut(number as usize % size.max(1)))
                .ok_or("its channels are not those of values")? = column;
        }
        if columns.iter().flatten().any(|&c| c == usize::MAX) {
            return Err("the layer behind does not read every channel".to_owned());
        }
        let sides = [Side { linear: values, heads: v }, Side { linear: output, heads: columns }];
        Ok(Product { kind: Kind::ValueOutput, node: id, axis: (b, axis), sides, path })
    }

    /// The layer that makes a value, and the numbers of its rows as they lie in the value.
    fn source(&self, value: ValueId, path: &mut BTreeSet<NodeId>) -> Result<(Linear, Numbers), String> {
        let mut way = Vec::new();
        let mut at = value;
        let linear = loop {
            let (id, node) = self.graph().producer(at).ok_or("it does not come from a layer with constant weights")?;
            path.insert(id);
            if let Some(linear) = Linear::of(self.graph(), id) {
                break linear;
            }
            way.push((id, at));
            at = self.passed(node).ok_or_else(|| {
                format!("{} between a layer and the product of heads does more than move channels", node.op)
            })?;
        };
        if linear.groups() != 1 || linear.rows != Rows::Axis(-1) {
            return Err("the layer that makes it is no matrix product along the last axis".to_owned());
        }
        let dims = self.dims(at).ok_or("its shape is not known")?;
        let channels = dims.last().copied().unwrap_or(1).max(1);
        let count: usize = dims.iter().product();
        let mut numbers = Numbers { dims, values: (0..count).map(|i| (i % channels) as u32).collect() };
        for (id, out) in way.into_iter().rev() {
            let node = self.graph().node(id).ok_or("a node is missing")?;
            numbers = self.step(node, numbers, out)?;
        }
        Ok((linear, numbers))
    }

    /// The layer that reads a value, and the numbers as they lie in what it reads.
    fn sink(
        &self,
        value: ValueId,
        mut numbers: Numbers,
        path: &mut BTreeSet<NodeId>,
    ) -> Result<(Linear, Numbers), String> {
        let mut at = value;
        loop {
            let mut readers = self.graph().users(at).filter_map(|u| match u {
                Use::Node(id, Operand::Input(0)) if !self.reads_shape(id) => Some(id),
                _ => None,
            });
            let (Some(id), None) = (readers.next(), readers.next()) else {
                return Err("what comes of its values is not read by one layer".to_owned());
            };
            path.insert(id);
            if let Some(linear) = Linear::of(self.graph(), id) {
                return match linear.rows {
                    Rows::Axis(-1) => Ok((linear, numbers)),
                    _ => Err("the layer behind is no matrix product along the last axis".to_owned()),
                };
            }
            let node = self.graph().node(id).ok_or("a node is missing")?;
            let out = node.output(0).ok_or("a node has no output")?;
            if self.passed(node) != Some(at) {
                return Err(format!("{} behind the product of heads does more than move channels", node.op));
            }
            numbers = self.step(node, numbers, out)?;
            at = out;
        }
    }

    /// True if a node looks at the shape of its input only.
    pub(super) fn reads_shape(&self, id: NodeId) -> bool {
        self.graph().node(id).is_some_and(|n| n.op.is("Shape") || n.op.is("Size"))
    }

    /// The input whose channels a node hands on, moved but not changed except by a common factor or a constant per channel.
    fn passed(&self, node: &Node) -> Option<ValueId> {
        op::of(node)?;
        let constant = |v: ValueId| self.graph().constant(v);
        match node.op.name.as_str() {
            "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Identity" | "Flatten" | "Split" | "Slice"
            | "Gather" => node.input(0).filter(|&v| constant(v).is_none()),
            "Mul" | "Div" => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                let is_scalar = |v: ValueId| constant(v).is_some_and(|t| t.elements() == 1);
                match (is_scalar(a), is_scalar(b)) {
                    (false, true) => Some(a),
                    (true, false) if node.op.is("Mul") => Some(b),
                    _ => None,
                }
            }
            "Add" => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                // The bias that belongs to a matrix product, and no other.
                let is_bias = |y: ValueId, bias: ValueId| {
                    let linear = self.graph().producer(y).and_then(|(id, _)| Linear::of(self.graph(), id));
                    linear.is_some_and(|l| l.bias == crate::Bias::Constant(bias))
                };
                if is_bias(a, b) { Some(a) } else { is_bias(b, a).then_some(b) }
            }
            _ => None,
        }
    }

    /// Sends numbers through a node.
    fn step(&self, node: &Node, numbers: Numbers, out: ValueId) -> Result<Numbers, String> {
        let dims = self.dims(out).ok_or_else(|| format!("the shape behind {} is not known", node.op))?;
        let count: usize = dims.iter().product();
        let moved = match node.op.name.as_str() {
            "Transpose" => transposed(node, &numbers),
            "Split" => {
                let axis = infer::axis(node.attrs.int("axis").unwrap_or(0), numbers.dims.len())?;
                let size = |v: &ValueId| self.dims(*v).and_then(|d| d.get(axis).copied());
                let before = node.outputs().iter().flatten().take_while(|&&v| v != out);
                let start = before.map(size).sum::<Option<usize>>().ok_or("the sizes of a Split are not known")?;
                part(&numbers, axis, start, dims.get(axis).copied().unwrap_or(0))
            }
            "Slice" => self.sliced(node, &numbers, &dims),
            "Gather" => {
                let axis = infer::axis(node.attrs.int("axis").unwrap_or(0), numbers.dims.len())?;
                let index = node.input(1).and_then(|v| self.graph().constant(v)).filter(|t| t.elements() == 1);
                let index = index.and_then(|t| t.to_i64().ok()?.first().copied());
                let index = index.ok_or("a Gather picks more than one constant index")?;
                let start = infer::axis(index, numbers.dims.get(axis).copied().unwrap_or(0))?;
                part(&numbers, axis, start, 1)
            }
            _ => Some(numbers),
        };
        let moved = moved.filter(|m| m.values.len() == count);
        moved.map(|m| Numbers { dims, values: m.values }).ok_or_else(|| format!("a {} is not followed", node.op))
    }

    fn sliced(&self, node: &Node, numbers: &Numbers, out: &[usize]) -> Option<Numbers> {
        let list = |slot: usize| self.graph().constant(node.input(slot)?)?.to_i64().ok();
        let (starts, steps) = (list(1)?, list(4));
        let &[start] = starts.as_slice() else { return None };
        if steps.is_some_and(|s| s != [1]) {
            return None;
        }
        let axis = match list(3).as_deref() {
            Some(&[axis]) => infer::axis(axis, numbers.dims.len()).ok()?,
            None if node.input(3).is_none() => 0,
            _ => return None,
        };
        let size = i64::try_from(*numbers.dims.get(axis)?).ok()?;
        let start = if start < 0 { start.checked_add(size)? } else { start };
        part(numbers, axis, usize::try_from(start.clamp(0, size)).ok()?, *out.get(axis)?)
    }

    fn follows_softmax(&self, value: ValueId) -> bool {
        let mut at = value;
        for _ in 0..4 {
            let Some((_, node)) = self.graph().producer(at) else { return false };
            match node.op.name.as_str() {
                "Softmax" => return true,
                "Where" => match node.input(2) {
                    Some(v) => at = v,
                    None => return false,
                },
                "Dropout" | "Identity" | "Cast" | "Mul" => match node.input(0) {
                    Some(v) => at = v,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }

    /// True if all that becomes of a score is a softmax over the last axis, after scaling and masking.
    fn leads_to_softmax(&self, value: ValueId) -> bool {
        let mut at = value;
        for _ in 0..8 {
            let mut users = self.graph().users(at).filter(|u| !matches!(u, Use::Node(id, _) if self.reads_shape(*id)));
            let (Some(Use::Node(id, Operand::Input(_))), None) = (users.next(), users.next()) else { return false };
            let Some(node) = self.graph().node(id).filter(|n| op::of(n).is_some()) else { return false };
            match node.op.name.as_str() {
                "Softmax" => {
                    let rank = self.dims(at).map_or(0, |d| d.len());
                    let axis = node.attrs.int("axis").unwrap_or(-1);
                    return infer::axis(axis, rank).is_ok_and(|a| a + 1 == rank);
                }
                // A factor that is the same for all keys, and what is added whatever the score is.
                "Mul" | "Div" if self.scales(node, at) => {}
                "Add" | "Where" | "Identity" | "Cast" => {}
                _ => return false,
            }
            let Some(out) = node.output(0) else { return false };
            at = out;
        }
        false
    }

    /// True if a node multiplies a value by one number.
    fn scales(&self, node: &Node, value: ValueId) -> bool {
        let others = node.inputs().iter().flatten().filter(|v| **v != value);
        let one = |v: &ValueId| self.dims(*v).is_some_and(|d| d.iter().product::<usize>() == 1);
        node.input(0) == Some(value) && others.clone().count() == 1 && others.clone().all(one)
            || node.op.is("Mul") && others.clone().count() == 1 && others.clone().all(one)
    }
}

/// For each head the numbers along an axis, at the first place of the axis beside it. Heads are what is in front of these two.
fn heads(numbers: &Numbers, axis: usize) -> Option<Vec<Vec<usize>>> {
    let rank = numbers.dims.len();
    let (outer, size) = (numbers.dims.get(..rank.checked_sub(2)?)?, *numbers.dims.get(axis)?);
    let area: usize = numbers.dims.get(rank - 2..)?.iter().product();
    let inner: usize = numbers.dims.get(axis + 1..)?.iter().product();
    let row = |head: usize| -> Option<Vec<usize>> {
        (0..size).map(|c| numbers.values.get(head * area + c * inner).map(|&n| n as usize)).collect()
    };
    let all: Vec<Vec<usize>> = (0..outer.iter().product()).map(row).collect::<Option<_>>()?;
    // Samples of a batch have the same heads.
    let mut distinct: Vec<Vec<usize>> = Vec::new();
    for head in all {
        if distinct.first() == Some(&head) {
            break;
        }
        distinct.push(head);
    }
    let mut seen = BTreeSet::new();
    distinct.iter().flatten().all(|n| seen.insert(*n)).then_some(distinct)
}

fn transposed(node: &Node, numbers: &Numbers) -> Option<Numbers> {
    let rank = numbers.dims.len();
    let perm: Vec<usize> = match node.attrs.ints("perm") {
        Some(perm) => perm.iter().map(|&p| usize::try_from(p).ok().filter(|p| *p < rank)).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let strides: Vec<usize> = (0..rank).map(|a| numbers.dims.get(a + 1..).map_or(1, |d| d.iter().product())).collect();
    let dims: Vec<usize> = perm.iter().map(|&p| numbers.dims.get(p).copied()).collect::<Option<_>>()?;
    let count = numbers.values.len();
    let value = |mut i: usize| {
        let mut from = 0;
        for (&p, &d) in perm.iter().zip(&dims).rev() {
            from += i % d * strides.get(p)?;
            i /= d;
        }
        numbers.values.get(from).copied()
    };
    let values = (0..count).map(value).collect::<Option<_>>()?;
    Some(Numbers { dims, values })
}

/// The numbers from `start` on along an axis.
fn part(numbers: &Numbers, axis: usize, start: usize, count: usize) -> Option<Numbers> {
    let size = *numbers.dims.get(axis)?;
    let inner: usize = numbers.dims.get(axis + 1..)?.iter().product();
    if start.checked_add(count)? > size {
        return None;
    }
    let rows = numbers.values.chunks((size * inner).max(1));
    let values =
        rows.flat_map(|r| r.get(start * inner..(start + count) * inner).unwrap_or_default()).copied().collect();
    let mut dims = numbers.dims.clone();
    *dims.get_mut(axis)? = count;
    Some(Numbers { dims, values })
}
