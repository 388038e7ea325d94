//! Folding an affine function into the linear operator before or behind it: what two passes share.

use planish_ir::{Node, NodeId, Numerics, Patch, ValueId};

use super::{
    affine::{self, Affine},
    linear::Linear,
};
use crate::{RuleContext, Skip};

/// How many operators may stand between an affine function and the linear operator that takes it up.
const MAX_BETWEEN: usize = 4;

/// What can take up an affine function of its output.
pub(super) trait Target {
    /// Whether the node is one, as far as that is cheap to tell.
    fn is_one(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> bool;

    /// Makes `node` compute `affine` of what it computes now. [`Skip::NoMatch`] if it is no target, or has no room for it.
    fn take(
        &self,
        cx: &RuleContext<'_>,
        id: NodeId,
        node: &Node,
        affine: &Affine,
        patch: &mut Patch,
    ) -> Result<(), Skip>;
}

/// Linear operators with constant weights.
pub(super) struct Weights;

impl Target for Weights {
    fn is_one(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> bool {
        Linear::of(cx, id, node).is_ok()
    }

    fn take(
        &self,
        cx: &RuleContext<'_>,
        id: NodeId,
        node: &Node,
        affine: &Affine,
        patch: &mut Patch,
    ) -> Result<(), Skip> {
        Linear::of(cx, id, node)?.take_after(cx, affine, patch)
    }
}

/// Into the linear operator before `node`. Refusals are of a match only: an operator that is there and cannot take it up.
pub(super) fn into_linear(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    match Affine::of(cx, node) {
        Ok(affine) => into_producer(cx, id, node, &affine, &Weights),
        // Why a constant is missing matters only where folding comes into question.
        Err(skip) => {
            let before = node.input(0).and_then(|v| cx.graph.producer(v));
            Err(if before.is_some_and(|(_, n)| is_linear(n)) { skip } else { Skip::NoMatch })
        }
    }
}

/// Into a target before `node`, over operators that let `affine`, which is what the node computes, pass.
pub(super) fn into_producer(
    cx: &RuleContext<'_>,
    id: NodeId,
    node: &Node,
    affine: &Affine,
    target: &dyn Target,
) -> Result<Patch, Skip> {
    let g = cx.graph;
    let mut moved = affine.clone();
    let mut reader = id;
    let mut operands = Vec::new();
    for _ in 0..=MAX_BETWEEN {
        let (producer_id, producer) = g.producer(moved.x).ok_or(Skip::NoMatch)?;
        let shared = g.only_user(moved.x).is_none_or(|(user, _, _)| user != reader);
        if shared {
            let name = g.name_of(moved.x);
            return Err(match target.is_one(cx, producer_id, producer) {
                true => Skip::because(format!("{name:?} has other readers or is a graph output")),
                false => Skip::NoMatch,
            });
        }
        let note = format!("{} {:?} takes {} {:?}", producer.op, producer.name, node.op, node.name);
        let mut patch = Patch::new(Numerics::Reassociated, note);
        match target.take(cx, producer_id, producer, &moved, &mut patch) {
            Ok(()) => {
                for (owner, slot, tensor, old) in operands {
                    let new = patch.constant(g.name_of(old), tensor);
                    patch.set_input(owner, slot, Some(new));
                }
                patch.replace(affine.output, affine.x);
                return Ok(patch);
            }
            Err(Skip::NoMatch) => {}
            Err(skip) => return Err(skip),
        }
        let step = affine::move_up(cx, producer, &moved).ok_or(Skip::NoMatch)?;
        operands.extend(step.operands.into_iter().map(|(slot, tensor, old)| (producer_id, slot, tensor, old)));
        moved = step.moved;
        reader = producer_id;
    }
    Err(Skip::NoMatch)
}

/// True for the operators that take up what is before them.
pub(super) fn is_linear(node: &Node) -> bool {
    ["Conv", "ConvTranspose", "Gemm", "MatMul"].iter().any(|op| node.op.is(op))
}

/// Into `reader`, a linear operator, what makes its first input. Looked at from there, since folding one of a chain brings
/// the next one before it.
pub(super) fn into_reader(cx: &RuleContext<'_>, reader_id: NodeId, reader: &Node, of: &[&str]) -> Result<Patch, Skip> {
    let g = cx.graph;
    let input = reader.input(0).ok_or(Skip::NoMatch)?;
    let (_, node) = g.producer(input).filter(|(_, n)| of.iter().any(|op| n.op.is(op))).ok_or(Skip::NoMatch)?;
    let affine = Affine::of(cx, node).map_err(|_| Skip::NoMatch)?;
    let linear = Linear::of(cx, reader_id, reader)?;
    if g.only_user(input).is_none() || !affine.keeps_shape(cx) {
        return Err(Skip::NoMatch);
    }
    if ends_normalization(cx, affine.x) {
        return Err(Skip::because("it is the end of a normalization, which is worth more in one piece"));
    }
    if ends_gelu(cx, affine.x) {
        return Err(Skip::because("it is the end of a Gelu, which is worth more in one piece"));
    }
    let note = format!("{} {:?} takes {} {:?}", reader.op, reader.name, node.op, node.name);
    let mut patch = Patch::new(Numerics::Reassociated, note);
    linear.take_before(cx, &affine, &mut patch)?;
    patch.set_input(reader_id, 0, Some(affine.x.into()));
    Ok(patch)
}

/// True for a quotient or product with a computed root or reciprocal, perhaps scaled: a normalization that is spelled out,
/// which runtimes and other passes know by its whole form.
fn ends_normalization(cx: &RuleContext<'_>, x: ValueId) -> bool {
    let g = cx.graph;
    let made_by = |v: ValueId, ops: &[&str]| g.producer(v).is_some_and(|(_, n)| ops.iter().any(|op| n.op.is(op)));
    let mut x = x;
    for _ in 0..2 {
        let Some((_, node)) = g.producer(x).filter(|(_, n)| n.op.is("Mul") || n.op.is("Div")) else { return false };
        if node.inputs().iter().flatten().any(|&v| made_by(v, &["Sqrt", "Reciprocal", "Pow"])) {
            return true;
        }
        if node.op.is("Mul") && node.inputs().iter().flatten().any(|&v| made_by(v, &["Div"])) {
            return true;
        }
        match node.inputs().iter().flatten().find(|&&v| g.constant(v).is_none()) {
            Some(&inner) => x = inner,
            None => return false,
        }
    }
    false
}

/// True for a product with 1 + erf or 1 + tanh of something: a Gelu of which only the factor one half is to come.
fn ends_gelu(cx: &RuleContext<'_>, x: ValueId) -> bool {
    let g = cx.graph;
    let producer = |v: ValueId, op: &str| g.producer(v).map(|(_, n)| n).filter(|n| n.op.is(op));
    let is_sigmoid = |v: ValueId| producer(v, "Erf").or_else(|| producer(v, "Tanh")).is_some();
    let is_gate = |v: ValueId| producer(v, "Add").is_some_and(|n| n.inputs().iter().flatten().any(|&v| is_sigmoid(v)));
    producer(x, "Mul").is_some_and(|n| n.inputs().iter().flatten().any(|&v| is_gate(v)))
}
