//! Pick rows of a matrix instead of multiplying it by rows with a single 1.
//!
//! Before     h = Cast (Equal (x, [0, 1, … n - 1]));  y = MatMul (h, w)     x has a last axis of 1
//!            h = OneHot <axis = -1> (x, n, [0, 1]);  y = MatMul (h, w)
//! After      y = Gather (w', Clip (Squeeze (x, -1), -1, n))                w' is w with a row of zeros at its end
//!            y = Gather (w', Clip (Where (x < 0, x + n, x), -1, n))
//! When       w is a constant matrix of finite float32 numbers that nobody else reads, x of int32 or int64; opset 12 or later
//! Refuses    numbers outside of the list are no error, but give zeros: so a row of zeros stands at n, and at -1 from the end
//! Numerics   Exact: a sum of zeros and one number is that number
//! Reference  –

use planish_ir::{DType, Dim, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, TensorType, Type, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{dims, producer};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OneHotMatmul {}

impl Pass for OneHotMatmul {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

/// Numbers that rows of zeros with a single 1 stand for.
struct Picked {
    ids: ValueId,
    ty: TensorType,
    /// How they come.
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// With a last axis of 1.
    Column,
    /// As they are; those below 0 count from the end.
    Signed,
}

impl Rule for OneHotMatmul {
    fn roots(&self) -> &'static [&'static str] {
        &["MatMul"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let (Some(x), Some(w), Some(y)) = (node.input(0), node.input(1), node.output(0)) else {
            return Err(Skip::NoMatch);
        };
        let Some(table) = cx.graph.constant(w).filter(|t| t.rank() == 2) else { return Err(Skip::NoMatch) };
        let rows = table.dims().first().copied().unwrap_or(0);
        let picked = compared(cx, x, rows).or_else(|| listed(cx, x, rows)).ok_or(Skip::NoMatch)?;
        if table.dtype() != DType::F32 || !matches!(picked.ty.dtype, DType::I32 | DType::I64) || cx.opset() < 12 {
            return Err(Skip::because("it takes float32 rows, int32 or int64 numbers, and opset 12"));
        }
        if cx.graph.users(w).len() > 1 {
            return Err(Skip::because("the matrix has other readers, and would be stored twice"));
        }
        let table = with_zeros(table).ok_or_else(|| Skip::because("the matrix holds numbers that are not finite"))?;
        let name = cx.graph.name_of(y);
        let mut patch = Patch::new(Numerics::Exact, format!("{name:?} picks rows of {:?}", cx.graph.name_of(w)));
        let index = index(cx, &mut patch, &picked, rows, &name).ok_or(Skip::NoMatch)?;
        let table = patch.constant(format!("{}_rows", cx.graph.name_of(w)), table);
        let gather = patch.node(OpName::onnx("Gather"), [table, index]).attr("axis", 0i64).in_place_of(id);
        let made = gather.output(name, cx.graph.ty(y).cloned());
        patch.replace(y, made);
        Ok(patch)
    }
}

/// `Cast (Equal (ids, [0, 1, … n - 1]))`.
fn compared(cx: &RuleContext<'_>, x: ValueId, rows: u64) -> Option<Picked> {
    let (_, cast) = producer(cx, x, "Cast")?;
    let (_, equal) = producer(cx, cast.input(0)?, "Equal")?;
    let (a, b) = (equal.input(0)?, equal.input(1)?);
    let is_list = |v: ValueId| {
        let t = cx.graph.constant(v).filter(|t| t.dims().last() == Some(&rows) && t.elements() == rows)?;
        t.to_i64().ok()?.into_iter().eq(0..i64::try_from(rows).ok()?).then_some(t.rank())
    };
    let (ids, rank) = is_list(b).map(|rank| (a, rank)).or_else(|| is_list(a).map(|rank| (b, rank)))?;
    let shape = dims(cx, ids)?;
    // The list adds no axis of its own.
    let is_column = shape.last() == Some(&Dim::Known(1)) && shape.len() >= rank.max(2);
    let ty = cx.facts.ty(ids)?.as_tensor()?.clone();
    is_column.then_some(Picked { ids, ty, form: Form::Column })
}

/// `OneHot (ids, n, [0, 1])`.
fn listed(cx: &RuleContext<'_>, x: ValueId, rows: u64) -> Option<Picked> {
    let (_, node) = producer(cx, x, "OneHot")?;
    let ids = node.input(0)?;
    let values = cx.graph.constant(node.input(2)?)?.to_f64().ok()?;
    let depth = cx.graph.constant(node.input(1)?)?;
    let depth = depth.single_i64().map(|n| n as f64).or_else(|| depth.single_f64())?;
    let rank = i64::try_from(dims(cx, ids)?.len()).ok()?;
    let axis = node.attrs.int("axis").unwrap_or(-1);
    let is_last = axis == -1 || axis == rank;
    let ty = cx.facts.ty(ids)?.as_tensor()?.clone();
    (is_last && depth == rows as f64 && values == [0.0, 1.0]).then_some(Picked { ids, ty, form: Form::Signed })
}

/// The matrix with a row of zeros behind the others; `None` if a product with 0 would not be 0.
fn with_zeros(table: &Tensor) -> Option<Tensor> {
    let &[rows, columns] = table.dims() else { return None };
    // A sum that begins with 0 is never -0.
    let mut values: Vec<f32> = table.iter_f32().ok()?.map(|v| v + 0.0).collect();
    if values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    values.resize(values.len().checked_add(usize::try_from(columns).ok()?)?, 0.0);
    Tensor::from_f32([rows.checked_add(1)?, columns].as_slice(), &values).ok()
}

/// The rows to pick, as nodes.
fn index(cx: &RuleContext<'_>, patch: &mut Patch, picked: &Picked, rows: u64, name: &str) -> Option<Ref> {
    let Picked { ids, ty, form } = picked;
    let dtype = ty.dtype;
    let number = |patch: &mut Patch, what: &str, value: i64| {
        let raw = match dtype {
            DType::I32 => i32::try_from(value).ok()?.to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        Some(patch.constant(format!("{name}_{what}"), Tensor::from_raw(dtype, [].as_slice(), raw.into()).ok()?))
    };
    let shape: Vec<Dim> = ty.shape.clone()?.into_iter().collect();
    let count = i64::try_from(rows).ok()?;
    let (index, shape) = match form {
        Form::Column => {
            let shape = shape.split_last()?.1.to_vec();
            let squeeze = match cx.opset() {
                13.. => {
                    let axes = patch.constant(format!("{name}_axes"), Tensor::ints(&[-1]));
                    patch.node(OpName::onnx("Squeeze"), [Ref::from(*ids), axes])
                }
                _ => patch.node(OpName::onnx("Squeeze"), [Ref::from(*ids)]).attr("axes", vec![-1i64]),
            };
            (squeeze.output(format!("{name}_ids"), Some(Type::tensor(dtype, shape.clone()))), shape)
        }
        Form::Signed => {
            let (zero, depth) = (number(patch, "first", 0)?, number(patch, "depth", count)?);
            let (typed, flags) = (Type::tensor(dtype, shape.clone()), Type::tensor(DType::Bool, shape.clone()));
            let below = patch.node(OpName::onnx("Less"), [Ref::from(*ids), zero]);
            let below = below.output(format!("{name}_below"), Some(flags));
            let moved = patch.node(OpName::onnx("Add"), [Ref::from(*ids), depth]);
            let moved = moved.output(format!("{name}_moved"), Some(typed.clone()));
            let ids = patch.node(OpName::onnx("Where"), [below, moved, Ref::from(*ids)]);
            (ids.output(format!("{name}_ids"), Some(typed)), shape)
        }
    };
    let (least, most) = (number(patch, "least", -1)?, number(patch, "most", count)?);
    let clip = patch.node(OpName::onnx("Clip"), [index, least, most]);
    Some(clip.output(format!("{name}_rows"), Some(Type::tensor(dtype, shape))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    fn model(constants: &str, nodes: &str) -> String {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (int32[N,3,1] x, int64[N,3] i) => (float[N,3,2] y)
            <float[3,2] w = {{1, 2, 3, 4, 5, 6}}, int32[1,1,3] list = {{0, 1, 2}}{constants}> {{ {nodes} }}"#
        )
    }

    #[test]
    fn a_comparison_with_all_numbers() {
        insta::assert_snapshot!(check::<OneHotMatmul>(&model(
            "", "e = Equal (x, list)  h = Cast <to = 1> (e)  y = MatMul (h, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int32[N,3,1] x, int64[N,3] i) => (float[N,3,2] y)
        <
          int64[1] y_axes = {-1},
          int32 y_least = {-1},
          int32 y_most = {3},
          float[4,2] w_rows = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0}
        >
        {
          y_ids = Squeeze (x, y_axes)
          y_rows = Clip (y_ids, y_least, y_most)
          y = Gather <axis = 0> (w_rows, y_rows)
        }
        "#);
    }

    #[test]
    fn an_operator() {
        insta::assert_snapshot!(check::<OneHotMatmul>(&model(
            ", int64 n = {3}, float[2] v = {0, 1}", "h = OneHot (i, n, v)  y = MatMul (h, w)",
        )), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int32[N,3,1] x, int64[N,3] i) => (float[N,3,2] y)
        <
          int32[1,1,3] list = {0, 1, 2},
          int64 y_first = {0},
          int64 y_depth = {3},
          int64 y_least = {-1},
          int64 y_most = {3},
          float[4,2] w_rows = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0}
        >
        {
          y_below = Less (i, y_first)
          y_moved = Add (i, y_depth)
          y_ids = Where (y_below, y_moved, i)
          y_rows = Clip (y_ids, y_least, y_most)
          y = Gather <axis = 0> (w_rows, y_rows)
        }
        "#);
    }

    #[test]
    fn refuses() {
        let reasons = |constants: &str, nodes: &str| refusals::<OneHotMatmul>(&model(constants, nodes)).join("\n");
        let hot = "e = Equal (x, list)  h = Cast <to = 1> (e)";
        insta::assert_snapshot!(reasons("", &format!("{hot} a = MatMul (h, w)  b = MatMul (h, w)  y = Add (a, b)")), @r"
        the matrix has other readers, and would be stored twice
        the matrix has other readers, and would be stored twice
        ");
        // Others than all numbers from 0 on, in their order, are no match.
        let same = |constants: &str, nodes: &str| {
            let text = model(constants, nodes);
            assert_eq!(check::<OneHotMatmul>(&text), planish_ir::text::print(&crate::testing::parse(&text)));
        };
        same(", int32[3] other = {0, 2, 1}", "e = Equal (x, other)  h = Cast <to = 1> (e)  y = MatMul (h, w)");
        same(", int64 n = {3}, float[2] v = {0, 2}", "h = OneHot (i, n, v)  y = MatMul (h, w)");
        same(", int64 n = {3}, float[2] v = {0, 1}", "h = OneHot <axis = 1> (i, n, v)  y = MatMul (h, w)");
    }
}
