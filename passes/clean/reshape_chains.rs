//! Give Reshape a constant target, and make one node of Reshape, Flatten, Squeeze and Unsqueeze in a row.
//!
//! Before     t = Concat (Gather (Shape (x), 0), Gather (Shape (x), 1), 12, 64);  y = Reshape (x, t)
//!            u = Unsqueeze (x, 1);  y = Squeeze (u, 1) · r = Reshape (x, s);  y = Reshape (r, t)
//! After      y = Reshape (x, [0, 0, 12, 64]) · readers of y read x · y = Reshape (x, t)
//! When       shapes prove that each size of the result is a number, or the size at the same place of the input (0), or
//!            what is left (-1, at most once), or that axes of size 1 are put in or taken out
//! Refuses    -1 beside a size that may be 0, unless the original has that -1 too: what is left of nothing is not defined,
//!            while the computed target is · more than one size that is neither
//! Numerics   Exact
//! Reference  ONNX Reshape-21, Flatten-21, Squeeze-21, Unsqueeze-21

use planish_ir::{Attrs, Def, Dim, Node, NodeId, Numerics, OpName, Patch, Tensor, ValueId, infer::Num};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{as_ints, dims, from_front, ints, is_plain, same_dims, set_ints};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReshapeChains {}

impl Pass for ReshapeChains {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

static ROOTS: &[&str] = &["Flatten", "Reshape", "Squeeze", "Unsqueeze"];
/// Nodes of a chain that are looked at together. Longer ones shrink step by step, as the walk goes down.
const LONGEST: usize = 8;

impl Rule for ReshapeChains {
    fn roots(&self) -> &'static [&'static str] {
        ROOTS
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let output = node.output(0).ok_or(Skip::NoMatch)?;
        let chain = chain(cx, node);
        let mut reason = Skip::NoMatch;
        // The longest part first.
        for (at, first) in chain.iter().enumerate() {
            let part = chain.get(at..).unwrap_or(&[]);
            let Some(source) = first.input(0) else { continue };
            if part.len() == 1 && !has_computed_target(cx, node) {
                continue;
            }
            match form(cx, part, source, output) {
                Ok(form) => return Ok(patch(cx, id, node, (source, output), &form)),
                Err(skip) => reason = skip,
            }
        }
        Err(reason)
    }
}

fn has_computed_target(cx: &RuleContext<'_>, node: &Node) -> bool {
    node.op.is("Reshape") && node.input(1).is_some_and(|t| cx.graph.constant(t).is_none())
}

/// The nodes that only rename axes, down to this one.
fn chain<'a>(cx: &RuleContext<'a>, last: &'a Node) -> Vec<&'a Node> {
    let mut chain = Vec::new();
    let mut next = Some(last);
    while let Some(node) = next.filter(|n| chain.len() < LONGEST && is_plain(n)) {
        chain.push(node);
        let before = node.input(0).and_then(|v| cx.graph.producer(v)).map(|(_, n)| n);
        next = before.filter(|n| n.op.domain.is_empty() && ROOTS.contains(&n.op.name.as_str()));
    }
    chain.reverse();
    chain
}

/// What does the work of a chain.
enum Form {
    Nothing,
    Reshape(Vec<i64>),
    Squeeze(Vec<usize>),
    Unsqueeze(Vec<usize>),
}

/// One size of a result.
#[derive(Clone)]
pub(super) enum Size {
    Is(Dim),
    /// What is left; the original says -1 here.
    Rest(Dim),
}

impl Size {
    const fn dim(&self) -> &Dim {
        match self {
            Size::Is(d) | Size::Rest(d) => d,
        }
    }
}

fn form(cx: &RuleContext<'_>, chain: &[&Node], source: ValueId, output: ValueId) -> Result<Form, Skip> {
    let from = dims(cx, source);
    // A graph output that is an input or constant needs a node between the two names.
    let removable = !cx.graph.is_output(output)
        || cx.graph.value(source).is_some_and(|v| matches!(v.def(), Def::Node { .. }) && !v.is_output());
    if let (Some(a), Some(b)) = (from, dims(cx, output))
        && removable
        && same_dims(a, b)
    {
        return Ok(Form::Nothing);
    }
    if let Some(axes) = from.and_then(|d| renamed(cx, chain, d.len())) {
        let rank = from.map_or(0, <[Dim]>::len);
        let added: Vec<usize> = axes.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(i, _)| i).collect();
        let gone: Vec<usize> = (0..rank).filter(|i| !axes.contains(&Some(*i))).collect();
        match (added.is_empty(), gone.is_empty()) {
            (true, true) if removable => return Ok(Form::Nothing),
            (false, true) => return Ok(Form::Unsqueeze(added)),
            (true, false) => return Ok(Form::Squeeze(gone)),
            _ => {}
        }
    }
    if cx.opset() < 5 {
        return Err(Skip::NoMatch);
    }
    let made = sizes(cx, chain).ok_or_else(|| Skip::because("a size of the result is not known, not even by name"))?;
    target(&made, from.unwrap_or(&[])).map(Form::Reshape).or_else(|skip| {
        // What is only put in or taken out needs no sizes at all.
        let to: Vec<Dim> = made.iter().map(|s| s.dim().clone()).collect();
        let from = from.ok_or_else(|| skip.clone())?;
        inserted(from, &to)
            .map(Form::Unsqueeze)
            .or_else(|| inserted(&to, from).map(Form::Squeeze))
            .filter(|_| chain.len() > 1 || chain.iter().all(|n| n.op.is("Reshape")))
            .ok_or(skip)
    })
}

/// The axes of size 1 that make one shape the other, if nothing else does.
fn inserted(from: &[Dim], to: &[Dim]) -> Option<Vec<usize>> {
    let mut rest = from;
    let mut axes = Vec::new();
    for (i, d) in to.iter().enumerate() {
        match rest.split_first() {
            Some((first, others)) if first.same(d) => rest = others,
            _ if *d == Dim::Known(1) => axes.push(i),
            _ => return None,
        }
    }
    rest.is_empty().then_some(axes)
}

/// Where each axis of the result comes from, `None` for one that was put in; for chains that only put in and take out.
fn renamed(cx: &RuleContext<'_>, chain: &[&Node], rank: usize) -> Option<Vec<Option<usize>>> {
    let mut axes: Vec<Option<usize>> = (0..rank).map(Some).collect();
    for node in chain {
        let listed = ints(cx, node, 1, "axes").ok()?;
        match node.op.name.as_str() {
            "Squeeze" => {
                let out = match listed {
                    Some(listed) => from_front(&listed, axes.len())?,
                    None => ones(dims(cx, node.input(0)?)?)?,
                };
                for a in out.into_iter().rev() {
                    (a < axes.len()).then(|| axes.remove(a))?;
                }
            }
            "Unsqueeze" => {
                let listed = listed?;
                for a in from_front(&listed, axes.len().checked_add(listed.len())?)? {
                    (a <= axes.len()).then(|| axes.insert(a, None))?;
                }
            }
            _ => return None,
        }
    }
    Some(axes)
}

/// The axes of size 1, if all sizes are numbers.
fn ones(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().all(|d| d.known().is_some()).then(|| (0..dims.len()).filter(|&i| dims[i] == Dim::Known(1)).collect())
}

/// The sizes of what a chain makes.
fn sizes(cx: &RuleContext<'_>, chain: &[&Node]) -> Option<Vec<Size>> {
    let (last, before) = chain.split_last()?;
    let shape = dims(cx, last.output(0)?);
    let proven = || shape.map(|s| s.iter().cloned().map(Size::Is).collect::<Vec<_>>());
    match last.op.name.as_str() {
        "Reshape" => reshaped(cx, last, shape),
        // They keep the sizes, and which of them is what is left.
        "Squeeze" | "Unsqueeze" if !before.is_empty() => match sizes(cx, before) {
            Some(mut sizes) => {
                let listed = ints(cx, last, 1, "axes").ok().flatten();
                let Some(listed) = listed else { return proven() };
                if last.op.is("Squeeze") {
                    for a in from_front(&listed, sizes.len())?.into_iter().rev() {
                        (a < sizes.len()).then(|| sizes.remove(a))?;
                    }
                } else {
                    for a in from_front(&listed, sizes.len().checked_add(listed.len())?)? {
                        (a <= sizes.len()).then(|| sizes.insert(a, Size::Is(Dim::Known(1))))?;
                    }
                }
                Some(sizes)
            }
            None => proven(),
        },
        _ => proven(),
    }
}

fn reshaped(cx: &RuleContext<'_>, node: &Node, shape: Option<&[Dim]>) -> Option<Vec<Size>> {
    let input = node.input(0).and_then(|v| dims(cx, v));
    let allow_zero = node.attrs.int("allowzero").unwrap_or(0) != 0;
    let listed: Option<Vec<Num>> = match node.input(1) {
        Some(t) => match cx.graph.constant(t) {
            Some(t) => t.to_i64().ok().map(|v| v.into_iter().map(Num::Int).collect()),
            None => cx.facts.value(t).map(<[Num]>::to_vec),
        },
        None => None,
    };
    let Some(listed) = listed else { return Some(shape?.iter().cloned().map(Size::Is).collect()) };
    let proven = |i: usize| shape.and_then(|s| s.get(i)).cloned().unwrap_or(Dim::Unknown);
    let size = |(i, n): (usize, &Num)| match n {
        Num::Int(0) if !allow_zero => Size::Is(input.and_then(|s| s.get(i)).cloned().unwrap_or(Dim::Unknown)),
        Num::Int(-1) => Size::Rest(proven(i)),
        Num::Int(_) | Num::Symbolic(_) => Size::Is(n.dim()),
        Num::Float(_) | Num::Quotient(..) | Num::Unknown => Size::Is(proven(i)),
    };
    Some(listed.iter().enumerate().map(size).collect())
}

/// The constant that asks for these sizes, given the input's.
pub(super) fn target(sizes: &[Size], from: &[Dim]) -> Result<Vec<i64>, Skip> {
    let mut target = Vec::with_capacity(sizes.len());
    let mut open: Option<(usize, bool)> = None;
    let mut may_be_empty = false;
    for (i, size) in sizes.iter().enumerate() {
        let copied = from.get(i).is_some_and(|d| d.same(size.dim()));
        let number = size.dim().known().filter(|&n| n != 0).and_then(|n| i64::try_from(n).ok());
        target.push(match (number, copied) {
            (Some(n), _) => n,
            (None, true) => {
                may_be_empty = true;
                0
            }
            (None, false) => {
                if open.is_some() || size.dim() == &Dim::Known(0) {
                    return Err(Skip::because("more than one size is neither a number nor the input's at that place"));
                }
                open = Some((i, matches!(size, Size::Rest(_))));
                -1
            }
        });
    }
    match open {
        Some((i, false)) if may_be_empty || sizes.get(i).is_some_and(|s| *s.dim() == Dim::Unknown) => {
            Err(Skip::because(
                "a size would have to be what is left beside one that may be 0, which is not defined if it is",
            ))
        }
        _ => Ok(target),
    }
}

fn patch(cx: &RuleContext<'_>, id: NodeId, node: &Node, ends: (ValueId, ValueId), form: &Form) -> Patch {
    let (source, output) = ends;
    let name = cx.graph.name_of(output);
    let mut patch = Patch::new(Numerics::Exact, format!("{} {name:?}", node.op));
    if matches!(form, Form::Nothing) {
        patch.replace(output, source);
        return patch;
    }
    patch.set_input(id, 0, Some(source.into()));
    let (op, attrs) = match form {
        Form::Nothing => return patch,
        Form::Reshape(target) => {
            let old = node.input(1).filter(|_| node.op.is("Reshape"));
            let constant = old.map_or_else(|| format!("{name}_shape"), |t| cx.graph.name_of(t));
            let constant = patch.constant(constant, Tensor::ints(target));
            patch.set_input(id, 1, Some(constant));
            ("Reshape", Attrs::new())
        }
        Form::Squeeze(axes) | Form::Unsqueeze(axes) => {
            if cx.opset() < 13 {
                patch.set_input(id, 1, None);
            }
            let op = if matches!(form, Form::Squeeze(_)) { "Squeeze" } else { "Unsqueeze" };
            (op, set_ints(&mut patch, cx, id, (1, "axes", 13), format!("{name}_axes"), &as_ints(axes)))
        }
    };
    patch.set_attrs(id, attrs);
    patch.set_op(id, OpName::onnx(op));
    patch
}

#[cfg(test)]
mod tests;
