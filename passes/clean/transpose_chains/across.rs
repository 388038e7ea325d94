//! Two transposes with operators between them that can work on either side.

use planish_ir::{Attrs, Dim, Node, NodeId, Numerics, Patch, Ref, Tensor, Type, op};

use super::{
    super::{
        operands::{as_ints, dims, perm},
        reshape_chains::{Size, target},
    },
    compose, is_identity, is_plain,
};
use crate::RuleContext;

/// Longest way between two transposes that is walked.
const LONGEST: usize = 6;

/// A node between the transposes, and at which slot the moved value goes in.
pub(super) type Between<'a> = (NodeId, &'a Node, usize);

/// Takes the first transpose out and lets the second one do the work of both.
pub(super) fn patch(cx: &RuleContext<'_>, id: NodeId, second: &Node) -> Option<Patch> {
    let output = second.output(0)?;
    let (way, first) = way(cx, second)?;
    let source = first.input(0)?;
    let mut shape = dims(cx, source)?.to_vec();
    let mut perm = perm(first, shape.len())?;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(class(&way), format!("Transpose {name:?}"));
    let mut last: Ref = source.into();
    for &(between, node, slot) in &way {
        let made = node.output(0)?;
        let moved = dims(cx, made)?;
        let mut inputs: Vec<Option<Ref>> = node.inputs().iter().map(|v| v.map(Ref::from)).collect();
        *inputs.get_mut(slot)? = Some(last);
        let mut attrs = node.attrs.clone();
        if node.op.is("Reshape") {
            let split = split(&shape, &perm, moved)?;
            let sizes: Vec<Size> = split.shape.iter().cloned().map(Size::Is).collect();
            let target = Tensor::ints(&target(&sizes, &shape).ok()?);
            *inputs.get_mut(1)? = Some(patch.constant(format!("{}_shape", cx.graph.name_of(made)), target));
            attrs = Attrs::new();
            (shape, perm) = (split.shape, split.perm);
        } else {
            if !commutes(cx, node, slot, &perm) || moved.len() != perm.len() {
                return None;
            }
            shape = inverse(&perm)?.iter().map(|&a| moved.get(a).cloned()).collect::<Option<_>>()?;
        }
        let ty = cx.graph.ty(made).and_then(Type::dtype).map(|d| Type::tensor(d, shape.iter().cloned()));
        let name = format!("{}_unmoved", cx.graph.name_of(made));
        last = patch.node(node.op.clone(), inputs).in_place_of(between).attrs(attrs).output(name, ty);
    }
    let both = compose(&perm, &super::perm(second, perm.len())?)?;
    if is_identity(&both) {
        patch.replace(output, last);
    } else {
        patch.set_input(id, 0, Some(last));
        patch.set_attrs(id, Attrs::new().with("perm", as_ints(&both)));
    }
    Some(patch)
}

/// The nodes between a transpose and the one above it, in the order in which they run.
pub(super) fn way<'a>(cx: &RuleContext<'a>, second: &'a Node) -> Option<(Vec<Between<'a>>, &'a Node)> {
    let mut way = Vec::new();
    let mut value = second.input(0)?;
    loop {
        cx.graph.only_user(value)?;
        let (id, node) = cx.graph.producer(value).filter(|(_, n)| is_plain(n) && n.op.domain.is_empty())?;
        if node.op.is("Transpose") {
            way.reverse();
            return (!way.is_empty()).then_some((way, node));
        }
        if way.len() == LONGEST || node.outputs().len() != 1 {
            return None;
        }
        let slot = moving_slot(cx, node)?;
        way.push((id, node, slot));
        value = node.input(slot)?;
    }
}

/// The one input that is no constant.
fn moving_slot(cx: &RuleContext<'_>, node: &Node) -> Option<usize> {
    let mut moving =
        (0..node.inputs().len()).filter(|&i| node.input(i).is_some_and(|v| cx.graph.constant(v).is_none()));
    let slot = moving.next()?;
    moving.next().is_none().then_some(slot)
}

/// True if an operator gives the same with its input transposed, but for the order.
pub(super) fn commutes(cx: &RuleContext<'_>, node: &Node, slot: usize, perm: &[usize]) -> bool {
    let Some(spec) = op::of(node) else { return false };
    let keeps_last = perm.last().is_some_and(|&a| a + 1 == perm.len());
    let other = |ok: &dyn Fn(&Tensor) -> bool| {
        (0..node.inputs().len()).filter(|&i| i != slot).all(|i| match node.input(i) {
            Some(v) => cx.graph.constant(v).is_some_and(ok),
            None => true,
        })
    };
    match node.op.name.as_str() {
        // The slope of PRelu broadcasts in one direction only, which makes no difference here.
        _ if spec.traits.elementwise => {
            other(&|t| t.rank() == 0 || t.rank() <= perm.len() && t.elements() == 1 || t.rank() == 1 && keeps_last)
        }
        "MatMul" => slot == 0 && keeps_last && other(&|t| t.rank() == 2),
        _ => false,
    }
}

pub(super) fn class(way: &[Between<'_>]) -> Numerics {
    let exact = |node: &Node| op::of(node).is_some_and(|s| s.traits.folding == op::Folding::Exact);
    if way.iter().all(|(_, n, _)| exact(n)) { Numerics::Exact } else { Numerics::Reassociated }
}

fn inverse(perm: &[usize]) -> Option<Vec<usize>> {
    let mut inverse = vec![0; perm.len()];
    for (i, &a) in perm.iter().enumerate() {
        *inverse.get_mut(a)? = i;
    }
    Some(inverse)
}

/// A Reshape that leaves all axes but the last as they are.
struct Split {
    shape: Vec<Dim>,
    perm: Vec<usize>,
}

/// `shape` is what the Reshape now gets, `perm` how it got that before, and `made` what it made of it.
fn split(shape: &[Dim], perm: &[usize], made: &[Dim]) -> Option<Split> {
    let lead = perm.len().checked_sub(1)?;
    let keeps_last = perm.last() == Some(&lead);
    let kept = perm.get(..lead)?.iter().enumerate().all(|(i, &a)| match (shape.get(a), made.get(i)) {
        (Some(a), Some(b)) => a.same(b),
        _ => false,
    });
    let parts = made.get(lead..)?;
    let product = parts.iter().fold(Dim::Known(1), |n, d| n.mul(d));
    if !keeps_last || !kept || !shape.get(lead)?.same(&product) {
        return None;
    }
    let shape = shape.get(..lead)?.iter().chain(parts).cloned().collect();
    let perm = perm.get(..lead)?.iter().copied().chain(lead..made.len()).collect();
    Some(Split { shape, perm })
}
