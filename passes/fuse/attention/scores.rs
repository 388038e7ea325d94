//! The products, the scale and the mask around a Softmax.

use planish_ir::{DType, Dim, Graph, Node, NodeId, Operand, ValueId, op};

use crate::{RuleContext, Skip};

/// `softmax(scale * q k + mask) v`, all of rank 4.
#[derive(Debug)]
pub(super) struct Scores {
    /// `[batch, heads, queries, size]`.
    pub q: ValueId,
    /// `[batch, heads, size, keys]`.
    pub k: ValueId,
    /// `[batch, heads, keys, size]`.
    pub v: ValueId,
    /// Factor of the product.
    pub scale: f64,
    /// What hides keys from queries.
    pub mask: Option<Mask>,
    /// The result, `[batch, heads, queries, size]`.
    pub y: ValueId,
    /// The node that makes it.
    pub root: NodeId,
}

/// A mask of the scores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask {
    /// What is added, or the condition.
    pub value: ValueId,
    /// Absent if it is added.
    pub choice: Option<Choice>,
}

/// Takes a number instead of the score, by a condition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// The constant number, so far below all scores that adding it to them hides them as well.
    pub hidden: ValueId,
    /// Where the condition is true; else where it is false.
    pub if_true: bool,
}

/// The node that makes a value, if it is this operator of ONNX.
pub(super) fn made_by<'a>(g: &'a Graph, value: ValueId, name: &str) -> Option<&'a Node> {
    let (_, node) = g.producer(value)?;
    (node.op.is(name) && op::of(node).is_some()).then_some(node)
}

/// Reads the surroundings of a Softmax.
pub(super) fn find(cx: &RuleContext<'_>, softmax: &Node) -> Result<Scores, Skip> {
    let g = cx.graph;
    let (input, weights) = (softmax.input(0).ok_or(Skip::NoMatch)?, softmax.output(0).ok_or(Skip::NoMatch)?);
    let rank = cx.facts.fact(input).shape().map(<[Dim]>::len);
    let default = if cx.opset() < 13 { 1 } else { -1 };
    let axis = softmax.attrs.int("axis").unwrap_or(default);
    if rank != Some(4) || !(axis == -1 || axis == 3) {
        return Err(Skip::NoMatch);
    }
    let (root, product) = match g.only_user(weights) {
        Some((id, node, 0)) if node.op.is("MatMul") && op::of(node).is_some() => (id, node),
        Some(_) => return Err(Skip::NoMatch),
        None if read_by_product(g, weights) => {
            let name = g.name_of(weights);
            return Err(Skip::because(format!("the weights {name:?} have other readers or are a graph output")));
        }
        None => return Err(Skip::NoMatch),
    };
    let (v, y) = (product.input(1).ok_or(Skip::NoMatch)?, product.output(0).ok_or(Skip::NoMatch)?);
    let mut scores = Scores { q: v, k: v, v, scale: 1.0, mask: None, y, root };
    scores.operands(cx, input)?;
    scores.q = factor(cx, scores.q, &mut scores.scale);
    scores.k = factor(cx, scores.k, &mut scores.scale);
    // f32 is what the attribute can hold.
    if !(scores.scale > 0.0 && (scores.scale as f32).is_finite() && (scores.scale as f32) > 0.0) {
        return Err(Skip::because(format!("its scale {} is not positive", scores.scale)));
    }
    for value in [scores.q, scores.k, scores.v] {
        if cx.facts.fact(value).shape().map(<[Dim]>::len) != Some(4) {
            return Err(Skip::because(format!("{:?} is not known to have four axes", g.name_of(value))));
        }
    }
    Ok(scores)
}

fn read_by_product(g: &Graph, value: ValueId) -> bool {
    g.users(value).any(|u| match u {
        planish_ir::Use::Node(id, Operand::Input(0)) => g.node(id).is_some_and(|n| n.op.is("MatMul")),
        _ => false,
    })
}

impl Scores {
    fn masked(&mut self, mask: Mask) -> Result<(), Skip> {
        if self.mask.replace(mask).is_some() {
            return Err(Skip::because("more than one mask is laid on the scores"));
        }
        if self.scale != 1.0 {
            return Err(Skip::because("the masked scores are scaled"));
        }
        Ok(())
    }

    /// Follows a value from the Softmax to the product of queries and keys.
    fn operands(&mut self, cx: &RuleContext<'_>, mut value: ValueId) -> Result<(), Skip> {
        let g = cx.graph;
        loop {
            let Some((_, node)) = g.producer(value).filter(|(_, n)| op::of(n).is_some() && n.op.domain.is_empty())
            else {
                return Err(Skip::NoMatch);
            };
            if g.only_user(value).is_none() {
                let reason = format!("the scores {:?} have other readers or are a graph output", g.name_of(value));
                return if leads_to_product(g, value) { Err(Skip::because(reason)) } else { Err(Skip::NoMatch) };
            }
            let (Some(a), b) = (node.input(0), node.input(1)) else { return Err(Skip::NoMatch) };
            value = match (node.op.name.as_str(), b) {
                ("MatMul", Some(b)) => {
                    (self.q, self.k) = (a, b);
                    return Ok(());
                }
                ("Mul" | "Div", Some(b)) => {
                    let scaled = scaled(cx, node, a, b).ok_or(Skip::NoMatch)?;
                    // The mask was added by a node that lies behind this one, so its addend is not scaled.
                    self.scale *= scaled.1;
                    scaled.0
                }
                ("Add", Some(b)) => {
                    let (scores, mask) = match (leads_to_product(g, a), leads_to_product(g, b)) {
                        (true, false) => (a, b),
                        (false, true) => (b, a),
                        (true, true) => return Err(Skip::because("both addends of the scores are products")),
                        (false, false) => return Err(Skip::NoMatch),
                    };
                    self.masked(Mask { value: mask, choice: None })?;
                    scores
                }
                ("Where", Some(b)) => {
                    let c = node.input(2).ok_or(Skip::NoMatch)?;
                    let (hidden, scores, if_true) = match (leads_to_product(g, b), leads_to_product(g, c)) {
                        (true, false) => (c, b, false),
                        (false, true) => (b, c, true),
                        _ => return Err(Skip::NoMatch),
                    };
                    hides(cx, hidden)?;
                    self.masked(Mask { value: a, choice: Some(Choice { hidden, if_true }) })?;
                    scores
                }
                _ => return Err(Skip::NoMatch),
            };
        }
    }
}

/// Fails unless a value is one constant number, beside which scores of usual size are lost to rounding: then a query that sees
/// no key sees all of them equally, whether the number takes the place of the scores or is added to them.
fn hides(cx: &RuleContext<'_>, value: ValueId) -> Result<(), Skip> {
    let name = cx.graph.name_of(value);
    let number = cx.graph.constant(value).filter(|t| t.elements() == 1 && t.rank() <= 2).and_then(|t| t.single_f64());
    let enough = match cx.facts.fact(value).dtype() {
        Some(DType::F16) => -6e4,
        _ => -1e9,
    };
    match number {
        Some(n) if n <= enough => Ok(()),
        Some(n) => Err(Skip::because(format!("Where puts {n} for scores, which does not hide them if added"))),
        None => Err(Skip::because(format!("Where puts {name:?} for scores, which is no constant number"))),
    }
}

/// True for a product of two computed values, scaled or masked or not.
fn leads_to_product(g: &Graph, mut value: ValueId) -> bool {
    for _ in 0..4 {
        let Some((_, node)) = g.producer(value) else { return false };
        let computed = |slot: usize| node.input(slot).filter(|v| g.constant(*v).is_none());
        match (node.op.name.as_str(), computed(0), computed(1)) {
            ("MatMul", Some(_), Some(_)) => return true,
            ("Mul" | "Div" | "Add", Some(one), None) | ("Mul" | "Add", None, Some(one)) => value = one,
            ("Add", Some(a), Some(b)) => value = if leads_to_shallow_product(g, a) { a } else { b },
            _ => return false,
        }
    }
    false
}

fn leads_to_shallow_product(g: &Graph, value: ValueId) -> bool {
    let Some((_, node)) = g.producer(value) else { return false };
    match node.op.name.as_str() {
        "MatMul" => true,
        "Mul" | "Div" => node.inputs().iter().flatten().any(|v| g.producer(*v).is_some_and(|(_, n)| n.op.is("MatMul"))),
        _ => false,
    }
}

/// The other operand and the factor of a product with, or quotient by, one constant number.
fn scaled(cx: &RuleContext<'_>, node: &Node, a: ValueId, b: ValueId) -> Option<(ValueId, f64)> {
    let number = |v: ValueId| {
        // Of rank 4 at most, so that it adds no axes.
        cx.graph.constant(v).filter(|t| t.elements() == 1 && t.rank() <= 4 && t.dtype().is_float())?.single_f64()
    };
    match (node.op.is("Div"), number(a), number(b)) {
        (true, _, Some(n)) => Some((a, n.recip())),
        (false, _, Some(n)) => Some((a, n)),
        (false, Some(n), None) => Some((b, n)),
        _ => None,
    }
}

/// The value that is scaled on its way into the product, if it is.
fn factor(cx: &RuleContext<'_>, value: ValueId, scale: &mut f64) -> ValueId {
    let found = ["Mul", "Div"].into_iter().find_map(|name| {
        let node = made_by(cx.graph, value, name)?;
        scaled(cx, node, node.input(0)?, node.input(1)?)
    });
    match found {
        Some((inner, n)) => {
            *scale *= n;
            inner
        }
        None => value,
    }
}

/// Keys or values that serve several query heads each, before they were repeated: `[batch, heads / n, keys, size]`, as
/// `Reshape (Expand (Unsqueeze (k)))`.
pub(super) fn before_repeat(cx: &RuleContext<'_>, value: ValueId) -> Option<ValueId> {
    let g = cx.graph;
    let expand = made_by(g, made_by(g, value, "Reshape")?.input(0)?, "Expand")?;
    let apart = expand.input(0)?;
    let inner = ["Unsqueeze", "Reshape"].into_iter().find_map(|op| made_by(g, apart, op))?.input(0)?;
    let shape = |v: ValueId| cx.facts.fact(v).shape();
    let (Some([b, h, t, d]), Some([b2, k2, one, t2, d2])) = (shape(inner), shape(apart)) else { return None };
    let (Some([b3, k3, n3, t3, d3]), Some([b4, h4, t4, d4])) = (shape(expand.output(0)?), shape(value)) else {
        return None;
    };
    let same = [(b, b2), (b, b3), (b, b4), (h, k2), (h, k3), (t, t2), (t, t3), (t, t4), (d, d2), (d, d3), (d, d4)];
    let total = h.known()?.checked_mul(n3.known()?)?;
    (same.iter().all(|(x, y)| x.same(y)) && *one == Dim::Known(1) && *h4 == Dim::Known(total)).then_some(inner)
}
