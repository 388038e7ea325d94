//! Where the elements of a value with heads lie in the value that it is a view of.
//!
//! Exporters split `[batch, seq, heads * size]` into heads in many ways: by Reshape and Transpose; with queries, keys and
//! values in one tensor and Gather, Slice or Split to take them apart; with the sequence first, as torch's
//! MultiheadAttention has it. All are views: nodes that move elements and compute nothing. Following which part of which axis
//! goes where tells them apart without knowing any of their spellings.

use planish_ir::{Dim, Graph, Node, NodeId, ValueId, op};

use super::scores::made_by;
use crate::RuleContext;

/// Views that are followed from one value.
const MAX_VIEWS: usize = 12;

/// `[batch, seq, pieces * heads * size]`, or with the first two axes exchanged, of which one piece is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flat {
    /// The value of rank 3.
    pub source: ValueId,
    /// The sequence comes first.
    pub sequence_first: bool,
    /// Which piece, and of how many; absent if the value is used as a whole.
    pub piece: Option<(u64, u64)>,
    /// Heads.
    pub heads: u64,
    /// Elements of a head.
    pub size: u64,
    /// A RotaryEmbedding that heads of four axes go through, which takes them merged as well.
    pub rotary: Option<NodeId>,
}

/// As [`flat`], also of what a RotaryEmbedding makes of such a view.
pub(super) fn operand(cx: &RuleContext<'_>, value: ValueId, swapped: bool) -> Option<Flat> {
    flat(cx, value, swapped).or_else(|| {
        let by_head = if swapped { by_head_keys(cx, value)? } else { value };
        let (id, node) = cx.graph.producer(by_head)?;
        let is_rotary = op::of(node).is_some() && node.op.name == "RotaryEmbedding";
        let inner = if is_rotary { flat(cx, node.input(0)?, false)? } else { return None };
        // Without positions of their own, the angles are one per position and batch entry in either form.
        Some(Flat { rotary: Some(id), ..inner })
    })
}

/// `[batch, heads, keys, size]` of what was transposed to `[batch, heads, size, keys]` last.
pub(super) fn by_head_keys(cx: &RuleContext<'_>, k: ValueId) -> Option<ValueId> {
    let transpose = made_by(cx.graph, k, "Transpose")?;
    (transpose.attrs.ints("perm") == Some(&[0, 1, 3, 2])).then(|| transpose.input(0)).flatten()
}

/// What a value of the axes `[batch, heads, seq, size]` is a view of; with `swapped`, of `[batch, heads, size, seq]`.
pub(super) fn flat(cx: &RuleContext<'_>, value: ValueId, swapped: bool) -> Option<Flat> {
    let mut views = Vec::new();
    let mut at = value;
    while let Some((slot, node)) = view(cx.graph, at).filter(|_| views.len() < MAX_VIEWS) {
        at = node.input(0)?;
        views.push((slot, node));
    }
    // The furthest value that fits leaves the fewest nodes.
    (1..=views.len()).rev().find_map(|n| {
        let views = views.get(..n)?;
        let source = views.last()?.1.input(0)?;
        let mut layout = Layout::of(cx.facts.fact(source).shape()?);
        for (slot, node) in views.iter().rev() {
            layout.step(cx, node, *slot)?;
        }
        if swapped && layout.axes.len() == 4 {
            layout.axes.swap(2, 3);
        }
        layout.flat(source)
    })
}

/// The node that makes a value, if it only moves elements, and which of its outputs the value is.
fn view(g: &Graph, value: ValueId) -> Option<(usize, &Node)> {
    let (_, node) = g.producer(value)?;
    let is_view = op::of(node).is_some()
        && node.op.domain.is_empty()
        && matches!(
            node.op.name.as_str(),
            "Gather" | "Reshape" | "Slice" | "Split" | "Squeeze" | "Transpose" | "Unsqueeze" | "Flatten"
        );
    let slot = node.outputs().iter().position(|o| *o == Some(value))?;
    is_view.then_some((slot, node))
}

/// A factor of an axis of the source.
struct Part {
    size: Dim,
    /// Its only element that is used, if it is one.
    taken: Option<u64>,
}

/// Axes as products of parts of the source's axes. An axis without parts has the size 1.
struct Layout {
    parts: Vec<Part>,
    /// Parts of each axis of the source, outer ones first.
    source: Vec<Vec<usize>>,
    /// Parts of each axis of the view.
    axes: Vec<Vec<usize>>,
}

impl Layout {
    fn of(shape: &[Dim]) -> Layout {
        let parts = shape.iter().map(|size| Part { size: size.clone(), taken: None }).collect();
        let axes: Vec<Vec<usize>> =
            shape.iter().enumerate().map(|(i, d)| if *d == Dim::Known(1) { vec![] } else { vec![i] }).collect();
        Layout { parts, source: axes.clone(), axes }
    }

    /// Follows one node.
    fn step(&mut self, cx: &RuleContext<'_>, node: &Node, slot: usize) -> Option<()> {
        let output = cx.facts.fact(node.output(slot)?).shape()?;
        match node.op.name.as_str() {
            "Transpose" => {
                let rank = self.axes.len();
                let perm: Vec<usize> = match node.attrs.ints("perm") {
                    Some(p) => p.iter().map(|&a| usize::try_from(a).ok()).collect::<Option<_>>()?,
                    None => (0..rank).rev().collect(),
                };
                self.axes = perm.into_iter().map(|a| self.axes.get(a).cloned()).collect::<Option<_>>()?;
            }
            "Gather" => {
                let axis = self.axis(node.attrs.int("axis").unwrap_or(0))?;
                let index = cx.graph.constant_input(node, 1).filter(|t| t.rank() == 0)?.single_i64()?;
                self.take(axis, index)?;
                self.axes.remove(axis);
            }
            "Slice" | "Split" => {
                let (axis, index) = single(cx, node, slot, self)?;
                self.take(axis, index)?;
            }
            // Squeeze and Unsqueeze are reshapes whose sizes inference knows.
            _ => self.reshape(output)?,
        }
        // What was followed must be what inference says, or one of the two is wrong.
        let fits = self.axes.len() == output.len()
            && self.axes.iter().zip(output).all(|(parts, d)| match parts.as_slice() {
                [] => d.compatible(&Dim::Known(1)),
                [one] => self.parts.get(*one).is_some_and(|p| p.size.compatible(d)),
                _ => true,
            });
        fits.then_some(())
    }

    fn axis(&self, axis: i64) -> Option<usize> {
        let rank = i64::try_from(self.axes.len()).ok()?;
        usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&a| a < self.axes.len())
    }

    /// Leaves one element of an axis, which must be one part of known size.
    fn take(&mut self, axis: usize, index: i64) -> Option<()> {
        let parts = self.axes.get_mut(axis)?;
        let [part] = parts[..] else { return None };
        let part = self.parts.get_mut(part)?;
        let size = i64::try_from(part.size.known()?).ok()?;
        let index = if index < 0 { index.checked_add(size)? } else { index };
        if !(0..size).contains(&index) {
            return None;
        }
        part.taken = u64::try_from(index).ok();
        parts.clear();
        Some(())
    }

    fn reshape(&mut self, target: &[Dim]) -> Option<()> {
        let mut rest: std::collections::VecDeque<usize> = self.axes.concat().into();
        let mut axes = Vec::with_capacity(target.len());
        for dim in target {
            let (mut axis, mut left) = (Vec::new(), dim.clone());
            while left != Dim::Known(1) {
                let part = rest.pop_front()?;
                let size = self.parts.get(part)?.size.clone();
                if left.same(&size) {
                    axis.push(part);
                    left = Dim::Known(1);
                } else if let Some(more) = left.div_exact(&size) {
                    axis.push(part);
                    left = more;
                } else {
                    let inner = size.div_exact(&left)?;
                    rest.push_front(self.split(part, left, inner)?);
                    axis.push(part);
                    left = Dim::Known(1);
                }
            }
            axes.push(axis);
        }
        self.axes = axes;
        rest.is_empty().then_some(())
    }

    /// Splits a part into an outer one, which keeps its number, and an inner one.
    fn split(&mut self, part: usize, outer: Dim, inner: Dim) -> Option<usize> {
        let new = self.parts.len();
        self.parts.push(Part { size: inner, taken: None });
        self.parts.get_mut(part)?.size = outer;
        let axis = self.source.iter_mut().find(|a| a.contains(&part))?;
        let at = axis.iter().position(|p| *p == part)?;
        axis.insert(at.checked_add(1)?, new);
        Some(new)
    }

    /// The form of the source, if the view's axes are `[batch, heads, seq, size]`.
    fn flat(&self, source: ValueId) -> Option<Flat> {
        let ([batch, heads, seq, size], [first, second, last]) = (self.axes.as_slice(), self.source.as_slice()) else {
            return None;
        };
        let known = |parts: &[usize]| match parts {
            [] => Some(1),
            [one] => self.parts.get(*one)?.size.known(),
            _ => None,
        };
        let sequence_first = match (first == batch && second == seq, first == seq && second == batch) {
            (true, _) => false,
            (_, true) => true,
            _ => return None,
        };
        let inner = [heads.as_slice(), size].concat();
        let piece = match last.strip_suffix(inner.as_slice())? {
            [] => None,
            [one] => {
                let part = self.parts.get(*one)?;
                Some((part.taken?, part.size.known()?))
            }
            _ => return None,
        };
        // Whole axes only: whatever is taken is taken of the piece.
        let taken = self.parts.iter().filter(|p| p.taken.is_some()).count();
        let (heads, size) = (known(heads)?, known(size)?);
        (taken == usize::from(piece.is_some())).then_some(Flat {
            source,
            sequence_first,
            piece,
            heads,
            size,
            rotary: None,
        })
    }
}

/// Axis and index of a Slice or Split that leaves one element of one axis.
fn single(cx: &RuleContext<'_>, node: &Node, slot: usize, layout: &Layout) -> Option<(usize, i64)> {
    if node.op.is("Split") {
        let axis = layout.axis(node.attrs.int("axis").unwrap_or(0))?;
        let every = node
            .outputs()
            .iter()
            .flatten()
            .all(|o| cx.facts.fact(*o).shape().and_then(|s| s.get(axis)).is_some_and(|d| *d == Dim::Known(1)));
        return every.then_some((axis, i64::try_from(slot).ok()?));
    }
    let bounds = |input: usize, attr: &str| -> Option<i64> {
        match cx.graph.constant_input(node, input) {
            Some(t) => t.single_i64(),
            None => node.attrs.ints(attr).filter(|v| v.len() == 1).and_then(|v| v.first().copied()),
        }
    };
    let (start, axis) = (bounds(1, "starts")?, layout.axis(bounds(3, "axes")?)?);
    let steps = node.input(4).is_none() || bounds(4, "steps") == Some(1);
    let output = cx.facts.fact(node.output(0)?).shape()?.get(axis)?;
    (steps && *output == Dim::Known(1)).then_some((axis, start))
}
