//! The operators that an attention becomes.

use planish_ir::{Attrs, Dim, Dims, Graph, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, Type, Use, ValueId};

use super::{
    layout::{Flat, by_head_keys, operand},
    scores::{Choice, Mask, Scores, before_repeat, made_by},
};
use crate::{RuleContext, Skip};

const MICROSOFT: &str = "com.microsoft";

/// The axes of an attention.
#[derive(Debug)]
pub(super) struct Sizes {
    batch: Dim,
    pub heads: Dim,
    queries: Dim,
    keys: Dim,
    pub size: Dim,
    pub value_size: Dim,
}

impl Sizes {
    /// Fails unless nothing is broadcast.
    pub(super) fn of(cx: &RuleContext<'_>, scores: &Scores) -> Result<Sizes, Skip> {
        let shape = |v: ValueId| cx.facts.fact(v).shape();
        let (Some([b, h, s, d]), Some([b2, h2, d2, t]), Some([b3, h3, t2, dv])) =
            (shape(scores.q), shape(scores.k), shape(scores.v))
        else {
            return Err(Skip::NoMatch);
        };
        for (x, y, what) in [
            (b, b2, "batch sizes of queries and keys"),
            (b, b3, "batch sizes of queries and values"),
            (h, h2, "numbers of heads of queries and keys"),
            (h, h3, "numbers of heads of queries and values"),
            (d, d2, "head sizes of queries and keys"),
            (t, t2, "numbers of keys and values"),
        ] {
            if !x.same(y) {
                return Err(Skip::because(format!("not known whether the {what} are equal: {x} and {y}")));
            }
        }
        let [batch, heads, queries, keys, size, value_size] = [b, h, s, t, d, dv].map(Clone::clone);
        Ok(Sizes { batch, heads, queries, keys, size, value_size })
    }

    /// The number of heads as attributes hold it.
    fn heads(&self) -> Result<i64, Skip> {
        number(&self.heads).ok_or_else(|| Skip::because("the number of heads is not fixed"))
    }
}

fn number(dim: &Dim) -> Option<i64> {
    dim.known().and_then(|n| i64::try_from(n).ok()).filter(|n| *n > 0)
}

/// Fails unless the mask is broadcast to the scores and has a column for every key.
pub(super) fn mask_fits(cx: &RuleContext<'_>, scores: &Scores, sizes: &Sizes) -> Result<(), Skip> {
    let Some(mask) = scores.mask.map(|m| m.value) else { return Ok(()) };
    let name = cx.graph.name_of(mask);
    let Some(shape) = cx.facts.fact(mask).shape() else {
        return Err(Skip::because(format!("the shape of the mask {name:?} is not known")));
    };
    let whole = [&sizes.batch, &sizes.heads, &sizes.queries, &sizes.keys];
    let fits = (2..=4).contains(&shape.len())
        && shape.last().is_some_and(|d| d.same(&sizes.keys))
        && shape.iter().rev().zip(whole.iter().rev()).all(|(d, whole)| *d == Dim::Known(1) || d.same(whole));
    match fits {
        true => Ok(()),
        false => Err(Skip::because(format!(
            "not known whether the mask {name:?} has a column for every key, and a row for every query or one"
        ))),
    }
}

/// A patch under construction.
struct Emit<'a, 'b> {
    cx: &'b RuleContext<'a>,
    scores: &'b Scores,
    sizes: &'b Sizes,
    patch: Patch,
    name: String,
    /// Outputs of what was added, so that what serves queries, keys and values is added once.
    made: Vec<(ValueId, Vec<Ref>)>,
    /// A value and its axis that counts the queries.
    counted: (ValueId, i64),
}

impl<'a, 'b> Emit<'a, 'b> {
    fn new(cx: &'b RuleContext<'a>, scores: &'b Scores, sizes: &'b Sizes, what: &str) -> Emit<'a, 'b> {
        let name = cx.graph.name_of(scores.y);
        let patch = Patch::new(Numerics::Reassociated, format!("{what} makes {name:?}"));
        Emit { cx, scores, sizes, patch, name, made: Vec::new(), counted: (scores.q, 2) }
    }

    fn node(&mut self, op: &str, inputs: &[Option<Ref>], attrs: Attrs, ty: Option<Type>) -> Ref {
        let name = format!("{}_{op}", self.name);
        self.patch.node(OpName::onnx(op), inputs.iter().copied()).attrs(attrs).output(name, ty)
    }

    fn ints(&mut self, values: &[i64]) -> Ref {
        self.patch.constant(format!("{}_sizes", self.name), Tensor::ints(values))
    }

    fn transpose(&mut self, value: Ref, perm: &[i64]) -> Ref {
        self.node("Transpose", &[Some(value)], Attrs::new().with("perm", perm.to_vec()), None)
    }

    /// `[batch, seq, heads * size]`.
    fn whole(&mut self, f: Flat) -> Result<Ref, Skip> {
        let Flat { source, sequence_first, piece, heads, size, rotary } = f;
        if let (Some((_, pieces)), Some((_, made))) = (piece, self.made.iter().find(|(v, _)| *v == source))
            && made.len() as u64 != pieces
        {
            return Err(Skip::because("its operands are pieces of different sizes of one value"));
        }
        if !self.made.iter().any(|(v, _)| *v == source) {
            let mut base = Ref::from(source);
            if sequence_first {
                base = self.transpose(base, &[1, 0, 2]);
            }
            let made = match piece {
                None => vec![base],
                Some((_, pieces)) => self.split(base, pieces, heads.saturating_mul(size))?,
            };
            self.made.push((source, made));
        }
        let index = piece.map_or(0, |(i, _)| i);
        let made = self.made.iter().find(|(v, _)| *v == source).map_or(&[][..], |(_, made)| made);
        let found = usize::try_from(index).ok().and_then(|i| made.get(i)).copied();
        let whole = found.ok_or_else(|| Skip::because("its operands are pieces of different sizes of one value"))?;
        let Some(node) = rotary.and_then(|id| self.cx.graph.node(id)) else { return Ok(whole) };
        let heads = i64::try_from(heads).map_err(|_| Skip::because("it has too many heads"))?;
        let inputs = std::iter::once(Some(whole)).chain(node.inputs().iter().skip(1).map(|v| v.map(Ref::from)));
        let name = format!("{}_{}", self.name, node.op.name);
        let attrs = node.attrs.clone().with("num_heads", heads);
        Ok(self.patch.node(node.op.clone(), inputs.collect::<Vec<_>>()).attrs(attrs).output(name, None))
    }

    /// As [`Emit::whole`], each head several times in a row.
    fn repeated(&mut self, f: Flat, times: u64) -> Result<Ref, Skip> {
        let whole = self.whole(f)?;
        let heads = match f.heads {
            1 => vec![whole],
            n => self.split(whole, n, f.size)?,
        };
        let all: Vec<Option<Ref>> = heads.iter().flat_map(|h| (0..times).map(|_| Some(*h))).collect();
        Ok(self.node("Concat", &all, Attrs::new().with("axis", 2), None))
    }

    fn split(&mut self, base: Ref, pieces: u64, size: u64) -> Result<Vec<Ref>, Skip> {
        let too_large = || Skip::because("its operands are too many pieces of one value");
        let count = usize::try_from(pieces).ok().filter(|n| *n <= 16).ok_or_else(too_large)?;
        let lengths = vec![i64::try_from(size).map_err(|_| too_large())?; count];
        let attrs = Attrs::new().with("axis", 2);
        let (inputs, attrs) = match self.cx.opset() < 13 {
            true => (vec![Some(base)], attrs.with("split", lengths)),
            false => (vec![Some(base), Some(self.ints(&lengths))], attrs),
        };
        let outputs = (0..count).map(|i| (format!("{}_piece{i}", self.name), None)).collect();
        Ok(self.patch.node(OpName::onnx("Split"), inputs).attrs(attrs).outputs(outputs))
    }

    /// The mask with a row for every query, as kernels want it; with four axes if that is asked for.
    fn mask(&mut self, four_axes: bool) -> Option<Ref> {
        let Mask { value, choice } = self.scores.mask?;
        let shape = self.cx.facts.fact(value).shape()?;
        let rows = shape.len().checked_sub(2).and_then(|i| shape.get(i))?;
        let missing = 4usize.saturating_sub(shape.len());
        let mask = match choice {
            None => value.into(),
            Some(choice) => self.chosen(value, choice)?,
        };
        if rows.same(&self.sizes.queries) {
            let axes: Vec<i64> = (0..missing as i64).collect();
            return Some(match (four_axes && missing > 0, self.cx.opset() < 13) {
                (false, _) => mask,
                (true, true) => self.node("Unsqueeze", &[Some(mask)], Attrs::new().with("axes", axes), None),
                (true, false) => {
                    let axes = self.ints(&axes);
                    self.node("Unsqueeze", &[Some(mask), Some(axes)], Attrs::new(), None)
                }
            });
        }
        let target = match number(&self.sizes.queries) {
            Some(n) => self.ints(&[1, 1, n, 1]),
            None => {
                let rows = self.queries(value, shape);
                let (before, after) = (self.ints(&[1, 1]), self.ints(&[1]));
                self.node("Concat", &[Some(before), Some(rows), Some(after)], Attrs::new().with("axis", 0), None)
            }
        };
        Some(self.node("Expand", &[Some(mask), Some(target)], Attrs::new(), None))
    }

    /// What a choice adds to the scores. Its size is that of the condition, which all heads and often all layers share.
    fn chosen(&mut self, condition: ValueId, choice: Choice) -> Option<Ref> {
        let dtype = self.cx.facts.fact(choice.hidden).dtype()?;
        let zero = Tensor::from_f64_as(dtype, Dims::default(), &[0.0]).ok()?;
        let zero = self.patch.constant(format!("{}_seen", self.name), zero);
        let [yes, no] = if choice.if_true { [choice.hidden.into(), zero] } else { [zero, choice.hidden.into()] };
        Some(self.node("Where", &[Some(condition.into()), Some(yes), Some(no)], Attrs::new(), None))
    }

    /// The number of queries, as a list of one. Where a self-attention lets it be asked of the mask, all layers ask the same.
    fn queries(&mut self, mask: ValueId, shape: &[Dim]) -> Ref {
        let (of, axis) = match self.sizes.queries.same(&self.sizes.keys) {
            true => (mask, shape.len().saturating_sub(1) as i64),
            false => self.counted,
        };
        if self.cx.opset() >= 15 {
            let attrs = Attrs::new().with("start", axis).with("end", axis.saturating_add(1));
            return self.node("Shape", &[Some(of.into())], attrs, None);
        }
        let all = self.node("Shape", &[Some(of.into())], Attrs::new(), None);
        let index = self.ints(&[axis]);
        self.node("Gather", &[Some(all), Some(index)], Attrs::new().with("axis", 0), None)
    }

    fn scale(&self) -> Option<f32> {
        let usual = number(&self.sizes.size).map(|d| (d as f64).sqrt().recip());
        let is_usual = usual.is_some_and(|u| (u - self.scores.scale).abs() <= u * f64::from(f32::EPSILON));
        (!is_usual).then_some(self.scores.scale as f32)
    }

    /// The operator, in the place of the product with the values.
    fn operator(&mut self, op: OpName, inputs: Vec<Option<Ref>>, mut attrs: Attrs, ty: Option<Type>) -> Ref {
        if let Some(scale) = self.scale() {
            attrs.set("scale", scale.into());
        }
        if !op.domain.is_empty() {
            self.patch.import(op.domain.clone(), 1);
        }
        let mut inputs = inputs;
        while inputs.pop_if(|i| i.is_none()).is_some() {}
        let name = self.name.clone();
        self.patch.node(op, inputs).in_place_of(self.scores.root).attrs(attrs).output(name, ty)
    }

    /// Hands the merged heads, `[batch, seq, heads * size]`, to whoever read the result.
    fn merged(mut self, y: Ref, heads: i64) -> Result<Patch, Skip> {
        let g = self.cx.graph;
        let size = number(&self.sizes.value_size).ok_or_else(|| Skip::because("the size of a head is not fixed"))?;
        let width = heads.checked_mul(size).ok_or_else(|| Skip::because("its heads are too large"))?;
        if let Some((perm, out)) = merge(self.cx, self.scores.y) {
            let shape = self.cx.facts.fact(out).shape().unwrap_or(&[]);
            let is_width = shape.last().is_some_and(|d| number(d) == Some(width));
            match (perm, shape) {
                ([0, 2, 1, 3], [b, s, _]) if is_width && b.same(&self.sizes.batch) && s.same(&self.sizes.queries) => {
                    self.patch.replace(out, y);
                    return Ok(self.patch);
                }
                ([0, 2, 1, 3], [_, _]) if is_width => {
                    let target = self.ints(&[-1, width]);
                    let ty = g.ty(out).cloned();
                    let rows = self.node("Reshape", &[Some(y), Some(target)], Attrs::new(), ty);
                    self.patch.replace(out, rows);
                    return Ok(self.patch);
                }
                ([2, 0, 1, 3], [s, b, _]) if is_width && b.same(&self.sizes.batch) && s.same(&self.sizes.queries) => {
                    let moved = self.transpose(y, &[1, 0, 2]);
                    self.patch.replace(out, moved);
                    return Ok(self.patch);
                }
                ([2, 0, 1, 3], [_, _]) if is_width => {
                    let moved = self.transpose(y, &[1, 0, 2]);
                    let target = self.ints(&[-1, width]);
                    let ty = g.ty(out).cloned();
                    let rows = self.node("Reshape", &[Some(moved), Some(target)], Attrs::new(), ty);
                    self.patch.replace(out, rows);
                    return Ok(self.patch);
                }
                _ => {}
            }
        }
        let target = self.ints(&[0, 0, heads, size]);
        let apart = self.node("Reshape", &[Some(y), Some(target)], Attrs::new(), None);
        let attrs = Attrs::new().with("perm", vec![0, 2, 1, 3]);
        let by_head = self.node("Transpose", &[Some(apart)], attrs, g.ty(self.scores.y).cloned());
        self.patch.replace(self.scores.y, by_head);
        Ok(self.patch)
    }

    /// The type of a result of three axes.
    fn merged_type(&self) -> Option<Type> {
        let width = self.sizes.heads.mul(&self.sizes.value_size);
        let dims = [self.sizes.batch.clone(), self.sizes.queries.clone(), width];
        self.cx.facts.fact(self.scores.q).dtype().map(|dtype| Type::tensor(dtype, dims))
    }
}

/// The order of axes of the Transpose, and the result of the Reshape, that are the only readers of a value.
fn merge<'a>(cx: &RuleContext<'a>, y: ValueId) -> Option<(&'a [i64], ValueId)> {
    let g = cx.graph;
    let (_, transpose, _) = g.only_user(y).filter(|(_, n, _)| n.op.is("Transpose"))?;
    let (_, reshape, _) = g.only_user(transpose.output(0)?).filter(|(_, n, slot)| *slot == 0 && n.op.is("Reshape"))?;
    Some((transpose.attrs.ints("perm")?, reshape.output(0)?))
}

/// From operands of three axes.
pub(super) fn flat(cx: &RuleContext<'_>, scores: &Scores, sizes: &Sizes, qkv: [Flat; 3]) -> Result<Patch, Skip> {
    let heads = sizes.heads()?;
    let is_standard = cx.opset() >= 23;
    let op = if is_standard { OpName::onnx("Attention") } else { OpName::new(MICROSOFT, "MultiHeadAttention") };
    let mut e = Emit::new(cx, scores, sizes, &op.name);
    let [q, k, v] = qkv;
    e.counted = (q.source, if q.sequence_first { 0 } else { 1 });
    let (q, k, v) = (Some(e.whole(q)?), Some(e.whole(k)?), Some(e.whole(v)?));
    let mask = e.mask(!is_standard);
    let ty = e.merged_type();
    let y = match is_standard {
        true => {
            let attrs = Attrs::new().with("q_num_heads", heads).with("kv_num_heads", heads);
            e.operator(op, vec![q, k, v, mask], attrs, ty)
        }
        false => e.operator(op, vec![q, k, v, None, None, mask], Attrs::new().with("num_heads", heads), ty),
    };
    e.merged(y, heads)
}

/// MultiHeadAttention from keys and values that serve several query heads each, repeated where they have three axes: that
/// copies whole heads and moves no axes.
pub(super) fn grouped(
    cx: &RuleContext<'_>,
    scores: &Scores,
    sizes: &Sizes,
    q: Option<Flat>,
) -> Result<Option<Patch>, Skip> {
    let heads = sizes.heads()?;
    let below = |by_head: Option<ValueId>| operand(cx, before_repeat(cx, by_head?)?, false);
    let (Some(q), Some(k), Some(v)) = (q, below(by_head_keys(cx, scores.k)), below(Some(scores.v))) else {
        return Ok(None);
    };
    let times = sizes.heads.known().and_then(|h| h.checked_div(k.heads)).unwrap_or(0);
    let fits = |f: &Flat, size: &Dim, heads: u64| *size == Dim::Known(f.size) && f.heads == heads && f.size > 0;
    if times.checked_mul(k.heads) != sizes.heads.known()
        || !(1..=16).contains(&k.heads)
        || !(2..=16).contains(&times)
        || !fits(&q, &sizes.size, k.heads.saturating_mul(times))
        || !fits(&k, &sizes.size, k.heads)
        || !fits(&v, &sizes.value_size, k.heads)
    {
        return Ok(None);
    }
    let mut e = Emit::new(cx, scores, sizes, "MultiHeadAttention");
    e.counted = (q.source, if q.sequence_first { 0 } else { 1 });
    let query = e.whole(q)?;
    let (k, v) = (e.repeated(k, times)?, e.repeated(v, times)?);
    let mask = e.mask(true);
    let ty = e.merged_type();
    let op = OpName::new(MICROSOFT, "MultiHeadAttention");
    let inputs = vec![Some(query), Some(k), Some(v), None, None, mask];
    let y = e.operator(op, inputs, Attrs::new().with("num_heads", heads), ty);
    e.merged(y, heads).map(Some)
}

/// From operands of four axes, of which keys and values need not be repeated.
pub(super) fn standard(cx: &RuleContext<'_>, scores: &Scores, sizes: &Sizes, q: Option<Flat>) -> Result<Patch, Skip> {
    let heads = sizes.heads()?;
    let mut e = Emit::new(cx, scores, sizes, "Attention");
    let by_head = by_head_keys(cx, scores.k);
    let (mut k, mut v, mut kv_heads) = (by_head, scores.v, heads);
    if let (Some(k2), Some(v2)) = (by_head.and_then(|k| before_repeat(cx, k)), before_repeat(cx, scores.v)) {
        let count = |v: ValueId| cx.facts.fact(v).shape().and_then(|s| s.get(1)).and_then(number);
        if let (Some(n), true) = (count(k2), count(k2) == count(v2)) {
            (k, v, kv_heads) = (Some(k2), v2, n);
        }
    }
    let mask = e.mask(false);
    // Three axes if queries, keys and values all have them below the repetition.
    let below = [q, k.and_then(|k| operand(cx, k, false)), operand(cx, v, false)];
    if let [Some(q), Some(k), Some(v)] = below
        && number(&Dim::Known(q.heads)) == Some(heads)
        && [k.heads, v.heads].iter().all(|h| number(&Dim::Known(*h)) == Some(kv_heads))
    {
        let (q, k, v) = (Some(e.whole(q)?), Some(e.whole(k)?), Some(e.whole(v)?));
        let attrs = Attrs::new().with("q_num_heads", heads).with("kv_num_heads", kv_heads);
        let ty = e.merged_type();
        let y = e.operator(OpName::onnx("Attention"), vec![q, k, v, mask], attrs, ty);
        return e.merged(y, heads);
    }
    let k = match k {
        Some(k) => k.into(),
        None => e.transpose(scores.k.into(), &[0, 1, 3, 2]),
    };
    let inputs = vec![Some(scores.q.into()), Some(k), Some(v.into()), mask];
    let ty = cx.graph.ty(scores.y).cloned();
    let y = e.operator(OpName::onnx("Attention"), inputs, Attrs::new(), ty);
    e.patch.replace(scores.y, y);
    Ok(e.patch)
}

/// MultiHeadAttention from keys and values of four axes, which it takes beside queries of three.
pub(super) fn by_head(cx: &RuleContext<'_>, scores: &Scores, sizes: &Sizes, q: Option<Flat>) -> Result<Patch, Skip> {
    let heads = sizes.heads()?;
    if sizes.size != sizes.value_size {
        return Err(Skip::because(
            "MultiHeadAttention takes keys and values of four axes only if their sizes are equal",
        ));
    }
    if q.is_none() && merge(cx, scores.y).is_none() {
        return Err(Skip::because("splitting and merging heads for MultiHeadAttention takes more nodes than it saves"));
    }
    let mut e = Emit::new(cx, scores, sizes, "MultiHeadAttention");
    let q = match q {
        Some(q) => e.whole(q)?,
        None => {
            let size = number(&sizes.size).ok_or_else(|| Skip::because("the size of a head is not fixed"))?;
            let width = heads.checked_mul(size).ok_or_else(|| Skip::because("its heads are too large"))?;
            let by_sequence = e.transpose(scores.q.into(), &[0, 2, 1, 3]);
            let target = e.ints(&[0, 0, width]);
            e.node("Reshape", &[Some(by_sequence), Some(target)], Attrs::new(), None)
        }
    };
    let k = match by_head_keys(cx, scores.k) {
        Some(k) => k.into(),
        None => e.transpose(scores.k.into(), &[0, 1, 3, 2]),
    };
    let mask = e.mask(true);
    let inputs = vec![Some(q), Some(k), Some(scores.v.into()), None, None, mask];
    let ty = e.merged_type();
    let op = OpName::new(MICROSOFT, "MultiHeadAttention");
    let y = e.operator(op, inputs, Attrs::new().with("num_heads", heads), ty);
    e.merged(y, heads)
}

/// com.microsoft::Attention, if queries, keys and values are one input times constant weights, and nobody else reads these
/// products.
pub(super) fn projected(
    cx: &RuleContext<'_>,
    scores: &Scores,
    sizes: &Sizes,
    qkv: [Flat; 3],
) -> Result<Option<Patch>, Skip> {
    let heads = sizes.heads()?;
    if sizes.size != sizes.value_size || !sizes.queries.same(&sizes.keys) {
        return Ok(None);
    }
    let Some(found) = together(cx, &qkv).or_else(|| apart(cx, &qkv)) else { return Ok(None) };
    let mut e = Emit::new(cx, scores, sizes, "com.microsoft::Attention");
    let [weight, bias] = [found.weight, found.bias].map(|c| match c {
        Some(Given::Value(v)) => Some(Ref::from(v)),
        Some(Given::New(name, tensor)) => Some(e.patch.constant(name, tensor)),
        None => None,
    });
    let mask = e.mask(true);
    let ty = e.merged_type();
    let inputs = vec![Some(found.x.into()), weight, bias, None, None, mask];
    let y = e.operator(OpName::new(MICROSOFT, "Attention"), inputs, Attrs::new().with("num_heads", heads), ty);
    e.merged(y, heads).map(Some)
}

/// Weights for queries, keys and values beside each other.
struct Projection {
    x: ValueId,
    weight: Option<Given>,
    bias: Option<Given>,
}

enum Given {
    Value(ValueId),
    New(String, Tensor),
}

/// One product, which is taken apart in equal thirds.
fn together(cx: &RuleContext<'_>, qkv: &[Flat; 3]) -> Option<Projection> {
    let g = cx.graph;
    let [q, k, v] = qkv;
    let source = match (q.piece, k.piece, v.piece) {
        (Some((0, 3)), Some((1, 3)), Some((2, 3))) if q.source == k.source && q.source == v.source => q.source,
        (None, None, None) => {
            let (id, split) = g.producer(q.source).filter(|(_, n)| n.op.is("Split"))?;
            let thirds = [q.source, k.source, v.source].map(Some);
            let axis = split.attrs.int("axis").unwrap_or(0);
            if split.outputs() != thirds || !(axis == 2 || axis == -1) || g.node(id).is_none() {
                return None;
            }
            split.input(0)?
        }
        _ => return None,
    };
    if qkv.iter().any(|f| f.rotary.is_some() || f.sequence_first || f.heads != q.heads || f.size != q.size) {
        return None;
    }
    let linear = Linear::of(cx, source, 3u64.checked_mul(q.heads)?.checked_mul(q.size)?)?;
    let Linear { x, weight, bias } = linear;
    Some(Projection { x, weight: Some(Given::Value(weight)), bias: bias.map(Given::Value) })
}

/// Three products of one input.
fn apart(cx: &RuleContext<'_>, qkv: &[Flat; 3]) -> Option<Projection> {
    let g = cx.graph;
    let width = qkv[0].heads.checked_mul(qkv[0].size)?;
    let linear = |f: &Flat| {
        let whole =
            f.piece.is_none() && f.rotary.is_none() && !f.sequence_first && f.heads.checked_mul(f.size) == Some(width);
        if whole { Linear::of(cx, f.source, width) } else { None }
    };
    let [Some(q), Some(k), Some(v)] = [linear(&qkv[0]), linear(&qkv[1]), linear(&qkv[2])] else { return None };
    if q.x != k.x || q.x != v.x {
        return None;
    }
    let name = g.name_of(q.weight);
    let weight = Given::New(format!("{name}_qkv"), beside(g, [q.weight, k.weight, v.weight])?);
    let bias = match [q.bias, k.bias, v.bias] {
        [None, None, None] => None,
        [Some(a), Some(b), Some(c)] => Some(Given::New(format!("{}_qkv", g.name_of(a)), beside(g, [a, b, c])?)),
        _ => return None,
    };
    Some(Projection { x: q.x, weight: Some(weight), bias })
}

/// Constants of equal rows beside each other, along the last axis.
fn beside(g: &Graph, parts: [ValueId; 3]) -> Option<Tensor> {
    let tensors: Vec<&Tensor> = parts.iter().map(|v| g.constant(*v)).collect::<Option<_>>()?;
    let first = tensors.first()?;
    let (&columns, outer) = first.dims().split_last()?;
    let bytes: Vec<&[u8]> = tensors.iter().map(|t| t.raw().map(|b| b.as_ref())).collect::<Option<_>>()?;
    if columns == 0
        || !first.dtype().is_float()
        || tensors.iter().any(|t| t.dims() != first.dims() || t.dtype() != first.dtype())
    {
        return None;
    }
    let rows = usize::try_from(outer.iter().product::<u64>()).ok().filter(|n| *n > 0)?;
    let row = bytes.first()?.len().checked_div(rows).filter(|n| *n > 0)?;
    let mut joined = Vec::with_capacity(row.checked_mul(rows)?.checked_mul(parts.len())?);
    for r in 0..rows {
        let at = r.checked_mul(row)?;
        for b in &bytes {
            joined.extend_from_slice(b.get(at..at.checked_add(row)?)?);
        }
    }
    let mut dims = outer.to_vec();
    dims.push(columns.checked_mul(3)?);
    Tensor::from_raw(first.dtype(), Dims::from(dims), joined.into()).ok()
}

/// `x * weight + bias` of one reader, with `x` of three axes and constants.
struct Linear {
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
}

impl Linear {
    fn of(cx: &RuleContext<'_>, value: ValueId, width: u64) -> Option<Linear> {
        let g = cx.graph;
        let served = |v: ValueId| g.users(v).all(|u| matches!(u, Use::Node(..))) && readers(g, v) == 1;
        let (product, bias) = match made_by(g, value, "Add") {
            Some(add) => {
                let (a, b) = (add.input(0)?, add.input(1)?);
                let (product, bias) = if g.constant(b).is_some() { (a, b) } else { (b, a) };
                if g.constant(bias)?.dims() != [width] || !served(product) {
                    return None;
                }
                (product, Some(bias))
            }
            None => (value, None),
        };
        let node: &Node = made_by(g, product, "MatMul")?;
        let (x, weight) = (node.input(0)?, node.input(1)?);
        let fits = matches!(g.constant(weight)?.dims(), [_, columns] if *columns == width);
        let rank = cx.facts.fact(x).shape().map(<[Dim]>::len);
        (fits && rank == Some(3) && takes_apart(g, value)).then_some(Linear { x, weight, bias })
    }
}

/// Nodes that read a value.
fn readers(g: &Graph, value: ValueId) -> usize {
    let nodes: std::collections::BTreeSet<NodeId> = g
        .users(value)
        .filter_map(|u| match u {
            Use::Node(id, _) => Some(id),
            Use::Output(_) => None,
        })
        .collect();
    nodes.len()
}

/// True if all readers are views: what they hand on is read by nothing but the attention, or else computed twice.
fn takes_apart(g: &Graph, value: ValueId) -> bool {
    g.users(value).all(|u| match u {
        Use::Node(id, _) => g.node(id).is_some_and(|n| matches!(n.op.name.as_str(), "Reshape" | "Split")),
        Use::Output(_) => false,
    })
}
