//! A transpose that goes up to the one above it, also past the Reshape pairs around a product of matrices.

use planish_ir::{Attrs, Dim, Node, OpName, Patch, Ref, Tensor};

use super::{
    super::{
        operands::{as_ints, dims, perm},
        reshape_chains::{Size, target},
    },
    across::{Between, class, commutes, way},
    compose, is_identity,
};
use crate::RuleContext;

/// Where the transpose stands on its way up: how the value there is to be ordered, and its sizes as they are now. While the
/// leading axes are one, they are still listed.
struct Place {
    shape: Vec<Dim>,
    perm: Vec<usize>,
    joined: bool,
}

/// Takes the second transpose out and lets the first one do the work of both.
pub(super) fn patch(cx: &RuleContext<'_>, second: &Node) -> Option<Patch> {
    let output = second.output(0)?;
    let (way, first) = way(cx, second)?;
    let shape = dims(cx, second.input(0)?)?.to_vec();
    let perm_of_second = perm(second, shape.len())?;
    let mut place = Place { perm: perm_of_second, shape, joined: false };
    let mut targets = Vec::with_capacity(way.len());
    for between in way.iter().rev() {
        targets.push(place.pass(cx, between)?);
    }
    let source = first.input(0)?;
    if place.joined {
        return None;
    }
    let both = compose(&perm(first, place.perm.len())?, &place.perm)?;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(class(&way), format!("Transpose {name:?} goes up"));
    let mut last: Ref = source.into();
    if !is_identity(&both) {
        let name = format!("{}_moved", cx.graph.name_of(first.output(0)?));
        last = patch.node(OpName::onnx("Transpose"), [Some(last)]).attr("perm", as_ints(&both)).output(name, None);
    }
    for (&(between, node, slot), target) in way.iter().zip(targets.into_iter().rev()) {
        let mut inputs: Vec<Option<Ref>> = node.inputs().iter().map(|v| v.map(Ref::from)).collect();
        *inputs.get_mut(slot)? = Some(last);
        let name = cx.graph.name_of(node.output(0)?);
        let mut attrs = node.attrs.clone();
        if let Some(target) = target {
            *inputs.get_mut(1)? = Some(patch.constant(format!("{name}_shape"), Tensor::ints(&target)));
            attrs = Attrs::new();
        }
        last =
            patch.node(node.op.clone(), inputs).in_place_of(between).attrs(attrs).output(format!("{name}_moved"), None);
    }
    patch.replace(output, last);
    Some(patch)
}

impl Place {
    /// Goes up past a node. Gives the target that a Reshape needs then.
    fn pass(&mut self, cx: &RuleContext<'_>, &(_, node, slot): &Between<'_>) -> Option<Option<Vec<i64>>> {
        let (from, made) = (dims(cx, node.input(slot)?)?, dims(cx, node.output(0)?)?);
        if node.op.is("Reshape") {
            return self.reshape(from, made).map(Some);
        }
        let passes = match self.joined {
            false => made.len() == self.perm.len() && from.len() == made.len() && commutes(cx, node, slot, &self.perm),
            // Each row on its own.
            true => from.len() == 2 && (commutes(cx, node, slot, &[0, 1]) || is_product_of_rows(cx, node, slot)),
        };
        let size = from.last().cloned();
        match self.shape.last_mut().zip(size) {
            Some((last, size)) if passes && self.joined => *last = size,
            _ if passes => self.shape = from.to_vec(),
            _ => return None,
        }
        Some(None)
    }

    fn reshape(&mut self, from: &[Dim], made: &[Dim]) -> Option<Vec<i64>> {
        let lead = self.perm.len().checked_sub(1)?;
        if self.perm.last() != Some(&lead) {
            return None;
        }
        let ordered =
            |dims: &[Dim], perm: &[usize]| -> Option<Vec<Dim>> { perm.iter().map(|&a| dims.get(a).cloned()).collect() };
        let is = |dims: Vec<Dim>| dims.into_iter().map(Size::Is).collect::<Vec<_>>();
        if !self.joined && from.len() == 2 && made.len() > 2 {
            // The rows are taken apart here; the last axis stays.
            if !made.last()?.same(from.last()?) {
                return None;
            }
            self.joined = true;
            return target(&is(ordered(made, &self.perm)?), from).ok();
        }
        // The last axes are put together here, and the others too while they are one.
        let kept =
            from.get(..lead).zip(self.shape.get(..lead)).is_some_and(|(a, b)| a.iter().zip(b).all(|(a, b)| a.same(b)));
        let product = from.get(lead..)?.iter().fold(Dim::Known(1), |n, d| n.mul(d));
        let fits = if self.joined { made.len() == 2 } else { made.len() == self.perm.len() };
        if !kept || !fits || from.len() <= lead || !made.last()?.same(&product) {
            return None;
        }
        let above: Vec<usize> = self.perm.get(..lead)?.iter().copied().chain(lead..from.len()).collect();
        let sizes = if self.joined { made.to_vec() } else { ordered(made, &self.perm)? };
        let target = target(&is(sizes), &ordered(from, &above)?).ok()?;
        *self = Place { shape: from.to_vec(), perm: above, joined: false };
        Some(target)
    }
}

/// A Gemm of rows with a constant matrix and at most a bias per column.
fn is_product_of_rows(cx: &RuleContext<'_>, node: &Node, slot: usize) -> bool {
    let bias = match node.input(2) {
        Some(c) => cx.graph.constant(c).is_some_and(|t| t.rank() <= 1 || t.rank() == 2 && t.dims().first() == Some(&1)),
        None => true,
    };
    let weight = node.input(1).is_some_and(|w| cx.graph.constant(w).is_some());
    slot == 0 && node.op.is("Gemm") && node.attrs.int("transA").unwrap_or(0) == 0 && weight && bias
}
