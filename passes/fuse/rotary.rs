//! Make one operator of a rotary position embedding that turns halves of heads.
//!
//! Before     (a, b) = the halves of x;  y = x * cos + Concat (-b, a) * sin, the halves by Slice or Split
//! After      generic, from opset 23 on, and onnxruntime where batch entries have angles of their own: RotaryEmbedding ·
//!            onnxruntime else: com.microsoft::RotaryEmbedding · tensorrt: stays as it is
//! When       x is [batch, heads, positions, size]; cos and sin are [positions, size], with axes of size 1 before them, or
//!            one table for each batch entry; both halves of either are proven equal: a constant's by its elements, a
//!            computed one's by the Concat (f, f) that it is computed from
//! Refuses    angles whose halves are not known to be equal, or that differ between heads · products with other readers ·
//!            a type that the operator lacks
//! Numerics   Reassociated
//! Reference  Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, §3.4.2; ONNX RotaryEmbedding-23

mod halves;

use planish_ir::{Attrs, DType, Dim, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, ValueId, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip, Target};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotaryHalves {}

impl Pass for RotaryHalves {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for RotaryHalves {
    fn roots(&self) -> &'static [&'static str] {
        &["Add"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, add: &Node) -> Result<Patch, Skip> {
        let y = add.output(0).ok_or(Skip::NoMatch)?;
        let terms = [add.input(0).ok_or(Skip::NoMatch)?, add.input(1).ok_or(Skip::NoMatch)?];
        let found = find(cx, terms).or_else(|| find(cx, [terms[1], terms[0]])).ok_or(Skip::NoMatch)?;
        let shape = |v: ValueId| cx.facts.fact(v).shape();
        let Some([batch, _, positions, size]) = shape(found.x) else {
            return Err(Skip::because(format!("{:?} is not known to have four axes", cx.graph.name_of(found.x))));
        };
        let g = cx.graph;
        for v in terms.into_iter().chain([found.turned]) {
            if g.only_user(v).is_none() {
                let name = g.name_of(v);
                return Err(Skip::because(format!("{name:?} has other readers or is a graph output")));
            }
        }
        let half = size.known().and_then(|n| i64::try_from(n).ok()).map_or(0, |n| n / 2);
        let [cos, sin] = [found.cos, found.sin].map(|v| Table::of(cx, v, batch, positions, size));
        let (cos, sin) = (cos?, sin?);
        let dtype = cx.facts.fact(found.x).dtype();
        if [found.cos, found.sin].iter().any(|v| cx.facts.fact(*v).dtype() != dtype) {
            return Err(Skip::because("its angles are not known to be of its type"));
        }
        let by_batch = cos.by_batch || sin.by_batch;
        let standard = match (cx.target, dtype) {
            (Target::Tensorrt, _) => return Err(Skip::because("TensorRT fuses the products and the sum itself")),
            (Target::Generic, Some(DType::F32 | DType::F16 | DType::BF16)) => true,
            (Target::OnnxruntimeCpu | Target::OnnxruntimeGpu, Some(DType::F32))
            | (Target::OnnxruntimeGpu, Some(DType::F16)) => by_batch,
            (_, Some(other)) => return Err(Skip::because(format!("the operator does not take {other} there"))),
            (_, None) => return Err(Skip::because("its type is not known")),
        };
        if standard && cx.opset() < 23 {
            let reason = "RotaryEmbedding with these angles exists from opset 23 on, and the model has";
            return Err(Skip::because(format!("{reason} {}; raise-opset raises it", cx.opset())));
        }
        if cx.opset() < 10 {
            return Err(Skip::because("it takes Slice of opset 10"));
        }
        let name = g.name_of(y);
        let patch = Patch::new(Numerics::Reassociated, format!("RotaryEmbedding makes {name:?}"));
        let mut e = Emit { cx, patch, name, half };
        let whole = if standard { e.batch(found.x, batch, &[&cos, &sin]) } else { None };
        let [c, s] = [&cos, &sin].map(|t| e.table(t, standard, whole));
        let (c, s) = (c?, s?);
        let (op, inputs) = match standard {
            true => (OpName::onnx("RotaryEmbedding"), vec![Some(found.x.into()), Some(c), Some(s)]),
            false => {
                e.patch.import("com.microsoft", 1);
                let first = e.ints(&[0]);
                let op = OpName::new("com.microsoft", "RotaryEmbedding");
                (op, vec![Some(found.x.into()), Some(first), Some(c), Some(s)])
            }
        };
        let name = e.name.clone();
        let turned = e.patch.node(op, inputs).in_place_of(id).output(name, g.ty(y).cloned());
        e.patch.replace(y, turned);
        Ok(e.patch)
    }
}

/// `x * cos + turned * sin`, with `turned` the halves of `x` exchanged, the second one negative.
struct Found {
    x: ValueId,
    turned: ValueId,
    cos: ValueId,
    sin: ValueId,
}

/// The node that makes a value, if it is this operator of ONNX.
fn made_by<'a>(cx: &RuleContext<'a>, value: ValueId, name: &str) -> Option<&'a Node> {
    let (_, node) = cx.graph.producer(value)?;
    (node.op.is(name) && op::of(node).is_some()).then_some(node)
}

fn find(cx: &RuleContext<'_>, [plain, other]: [ValueId; 2]) -> Option<Found> {
    let (plain, other) = (made_by(cx, plain, "Mul")?, made_by(cx, other, "Mul")?);
    [(0, 1), (1, 0)].into_iter().find_map(|(at, angle)| {
        let (turned, sin) = (other.input(at)?, other.input(angle)?);
        let x = unturned(cx, turned)?;
        let cos = match (plain.input(0)?, plain.input(1)?) {
            (a, cos) if a == x => cos,
            (cos, b) if b == x => cos,
            _ => return None,
        };
        Some(Found { x, turned, cos, sin })
    })
}

/// The value whose halves `Concat (-b, a)` exchanges.
fn unturned(cx: &RuleContext<'_>, turned: ValueId) -> Option<ValueId> {
    let concat = made_by(cx, turned, "Concat")?;
    let [Some(negative), Some(a)] = *concat.inputs() else { return None };
    let b = made_by(cx, negative, "Neg")?.input(0)?;
    let ((x, first), (x2, second)) = (half_of(cx, a)?, half_of(cx, b)?);
    let axis = concat.attrs.int("axis")?;
    (x == x2 && first == 0 && second == 1 && matches!(axis, -1 | 3)).then_some(x)
}

/// What a value is a half of along the last of four axes, and which one.
fn half_of(cx: &RuleContext<'_>, value: ValueId) -> Option<(ValueId, usize)> {
    let g = cx.graph;
    let (_, node) = g.producer(value)?;
    let x = node.input(0)?;
    let last = |v: ValueId| match cx.facts.fact(v).shape() {
        Some([_, _, _, size]) => size.known().and_then(|n| i64::try_from(n).ok()),
        _ => None,
    };
    let (whole, half) = (last(x)?, last(value)?);
    if half.checked_mul(2) != Some(whole) || half == 0 {
        return None;
    }
    if made_by(cx, value, "Split").is_some() {
        let slot = node.outputs().iter().position(|o| *o == Some(value))?;
        let axis = node.attrs.int("axis").unwrap_or(0);
        return (node.outputs().len() == 2 && matches!(axis, -1 | 3)).then_some((x, slot));
    }
    let slice = made_by(cx, value, "Slice")?;
    let one = |slot: usize, attr: &str| match slice.input(slot) {
        Some(v) => g.constant(v)?.single_i64(),
        None => slice.attrs.ints(attr).filter(|v| v.len() == 1)?.first().copied(),
    };
    if !matches!(one(3, "axes")?, -1 | 3) || (slice.input(4).is_some() && one(4, "steps") != Some(1)) {
        return None;
    }
    match one(1, "starts")? {
        0 => Some((x, 0)),
        start if start == half || start == half.checked_neg()? => Some((x, 1)),
        _ => None,
    }
}

/// Cosines or sines.
struct Table {
    value: ValueId,
    rank: usize,
    by_batch: bool,
}

impl Table {
    fn of(cx: &RuleContext<'_>, value: ValueId, batch: &Dim, positions: &Dim, size: &Dim) -> Result<Table, Skip> {
        let name = cx.graph.name_of(value);
        let shape = cx.facts.fact(value).shape().unwrap_or(&[]);
        let one = |d: &Dim| *d == Dim::Known(1);
        let (of, s, d) = match shape {
            [s, d] => (&Dim::Known(1), s, d),
            [of, s, d] if one(of) => (of, s, d),
            [of, heads, s, d] if one(heads) => (of, s, d),
            _ => return Err(Skip::because(format!("the angles {name:?} are no table for all heads"))),
        };
        if !s.same(positions) || !d.same(size) || !(one(of) || of.same(batch)) {
            return Err(Skip::because(format!("the angles {name:?} are not known to be one for each element")));
        }
        if !halves::are_equal(cx, value) {
            return Err(Skip::because(format!("the halves of the angles {name:?} are not known to be equal")));
        }
        Ok(Table { value, rank: shape.len(), by_batch: !one(of) })
    }
}

/// A patch under construction.
struct Emit<'a, 'b> {
    cx: &'b RuleContext<'a>,
    patch: Patch,
    name: String,
    half: i64,
}

impl Emit<'_, '_> {
    fn ints(&mut self, values: &[i64]) -> Ref {
        self.patch.constant(format!("{}_sizes", self.name), Tensor::ints(values))
    }

    fn node(&mut self, op: &str, inputs: &[Ref], attrs: Attrs) -> Ref {
        let name = format!("{}_{op}", self.name);
        self.patch.node(OpName::onnx(op), inputs.iter().copied()).attrs(attrs).output(name, None)
    }

    /// Sizes to which tables without an entry for each batch entry are expanded, if one is such.
    fn batch(&mut self, x: ValueId, batch: &Dim, tables: &[&Table]) -> Option<Ref> {
        let fits = |t: &Table| t.by_batch || (t.rank > 2 && *batch == Dim::Known(1));
        if tables.iter().all(|t| fits(t)) {
            return None;
        }
        if let Some(n) = batch.known().and_then(|n| i64::try_from(n).ok()) {
            return Some(self.ints(&[n, 1, 1]));
        }
        let attrs = Attrs::new().with("start", 0).with("end", 1);
        let (of, ones) = (self.node("Shape", &[x.into()], attrs), self.ints(&[1, 1]));
        Some(self.node("Concat", &[of, ones], Attrs::new().with("axis", 0)))
    }

    /// The first halves: `[batch, positions, size / 2]` if that is asked for, else `[positions, size / 2]`.
    fn table(&mut self, table: &Table, by_batch: bool, whole: Option<Ref>) -> Result<Ref, Skip> {
        let squeezed: &[i64] = match (table.rank, by_batch) {
            (4, true) => &[1],
            (4, false) => &[0, 1],
            (3, false) => &[0],
            _ => &[],
        };
        let mut half = match self.cx.graph.constant(table.value) {
            Some(t) => {
                let t = halves::first(t, squeezed).ok_or_else(|| Skip::because("its angles have no bytes"))?;
                self.patch.constant(format!("{}_half", self.cx.graph.name_of(table.value)), t)
            }
            None => {
                let (start, end, axis) = (self.ints(&[0]), self.ints(&[self.half]), self.ints(&[-1]));
                let half = self.node("Slice", &[table.value.into(), start, end, axis], Attrs::new());
                match (squeezed, self.cx.opset() < 13) {
                    ([], _) => half,
                    (axes, true) => self.node("Squeeze", &[half], Attrs::new().with("axes", axes.to_vec())),
                    (axes, false) => {
                        let axes = self.ints(axes);
                        self.node("Squeeze", &[half, axes], Attrs::new())
                    }
                }
            }
        };
        if let Some(whole) = whole.filter(|_| !table.by_batch) {
            half = self.node("Expand", &[half, whole], Attrs::new());
        }
        Ok(half)
    }
}

#[cfg(test)]
mod tests;
