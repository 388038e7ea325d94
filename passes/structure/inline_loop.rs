//! Put the body of a Loop that runs once in its place, and what it starts with in the place of one that never runs.
//!
//! Before     r, s = Loop (1, , v) <body = (i, c, x) => (c, y, z) { y = Add (x, x); z = Relu (x) }>
//! After      r = Add (v, v);  s = Unsqueeze (Relu (v), 0)
//! When       the trip count and the condition are constants, or inference proves them; or the body ends the loop in its
//!            first round
//! Refuses    a trip count that is not known or above 1: repeating a body makes the model larger · a stacked output of no
//!            rounds whose shape is not known
//! Numerics   Exact
//! Reference  the operator's definition

use planish_ir::{
    Attr, Attrs, DType, Dims, Graph, Node, NodeId, Numerics, OpName, Patch, Ref, Tensor, Type, ValueId, infer::Num,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    hand_over::{Heir, hand_over},
    inline_if::known_bool,
};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InlineLoop {}

impl Pass for InlineLoop {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for InlineLoop {
    fn roots(&self) -> &'static [&'static str] {
        &["Loop"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let Some(Attr::Graph(body)) = node.attrs.get("body").filter(|_| !node.is_local()) else {
            return Err(Skip::NoMatch);
        };
        let carried = node.inputs().len().saturating_sub(2);
        let fits = body.inputs().len() == carried + 2
            && body.outputs().len() == node.outputs().len() + 1
            && node.outputs().len() >= carried
            && node.inputs().iter().skip(2).all(Option::is_some);
        if !fits {
            return Err(Skip::because("its operands do not fit its body"));
        }
        let name = node.output(0).map(|v| cx.graph.name_of(v)).unwrap_or_default();
        let runs = runs(cx, id, node, body)?;
        let mut patch = Patch::new(
            Numerics::Exact,
            format!("the loop of {name:?} {}", if runs { "runs once" } else { "never runs" }),
        );
        let heirs = if runs { once(cx, node, body, &mut patch)? } else { never(cx, node, carried, &mut patch)? };
        hand_over(&mut patch, (cx.graph, cx.opset()), id, node, &heirs)?;
        Ok(patch)
    }
}

/// True if the body runs exactly once, false if it never does.
fn runs(cx: &RuleContext<'_>, id: NodeId, node: &Node, body: &Graph) -> Result<bool, Skip> {
    let condition = match node.input(1) {
        None => Some(true),
        Some(v) => known_bool(cx, v),
    };
    let trips = match node.input(0) {
        None => Some(i64::MAX),
        Some(v) => match cx.graph.constant(v).and_then(Tensor::single_i64) {
            None => match cx.facts.value(v) {
                Some([Num::Int(n)]) => Some(*n),
                _ => None,
            },
            known => known,
        },
    };
    // Whether a second round follows is the body's first output.
    let goes_on = || {
        let end = *body.outputs().first()?;
        let proven = || cx.facts.subgraph(id, 0)?.value(end)?.first()?.int();
        body.constant(end).and_then(Tensor::single_i64).or_else(proven)
    };
    match (condition, trips) {
        (Some(false), _) | (_, Some(i64::MIN..=0)) => Ok(false),
        (None, _) => Err(Skip::because("its condition is not known")),
        (Some(true), Some(1)) => Ok(true),
        (Some(true), Some(_)) if goes_on() == Some(0) => Ok(true),
        (Some(true), None) => Err(Skip::because("its trip count is not known")),
        (Some(true), Some(_)) => Err(Skip::because("it runs more than once, or until the body ends it")),
    }
}

fn once(cx: &RuleContext<'_>, node: &Node, body: &Graph, patch: &mut Patch) -> Result<Vec<Heir>, Skip> {
    let scalar = |v: ValueId| body.ty(v).and_then(Type::shape).is_none_or(<[_]>::is_empty);
    if !body.inputs().iter().take(2).all(|&v| scalar(v)) {
        return Err(Skip::because(
            "its body declares the iteration number or the condition as a tensor that is no scalar",
        ));
    }
    let read = |i: usize| body.inputs().get(i).is_some_and(|&v| body.users(v).len() > 0);
    let tensor = |dtype, bytes: &'static [u8]| {
        Tensor::from_raw(dtype, Dims::new(), bytes.into()).map_err(|e| Skip::because(e.to_string()))
    };
    let mut inputs = vec![None, None];
    if read(0) {
        inputs[0] = Some(patch.constant("iteration", tensor(DType::I64, &[0; 8])?));
    }
    if read(1) {
        inputs[1] = Some(patch.constant("condition", tensor(DType::Bool, &[1])?));
    }
    inputs.extend(node.inputs().iter().skip(2).map(|v| v.map(Ref::Value)));
    let carried = inputs.len() - 2;
    let results = patch.inline(body.clone(), "", inputs, node.captures().to_vec());
    let mut heirs: Vec<Heir> = Heir::of(body, results.clone()).split_off(1);
    for (slot, result) in results.into_iter().skip(1).enumerate().skip(carried) {
        let Some(output) = node.output(slot) else { continue };
        heirs[slot] = Heir::own(stacked(cx, patch, output, result));
    }
    Ok(heirs)
}

/// One round of a stacked output.
fn stacked(cx: &RuleContext<'_>, patch: &mut Patch, output: ValueId, round: Ref) -> Ref {
    let (name, ty) = (cx.graph.name_of(output), cx.graph.ty(output).cloned());
    let op = OpName::onnx("Unsqueeze");
    if cx.opset() < 13 {
        return patch.node(op, [Some(round)]).attrs(Attrs::new().with("axes", vec![0])).output(name, ty);
    }
    let axes = patch.constant(format!("{name}_axes"), Tensor::ints(&[0]));
    patch.node(op, [Some(round), Some(axes)]).output(name, ty)
}

fn never(cx: &RuleContext<'_>, node: &Node, carried: usize, patch: &mut Patch) -> Result<Vec<Heir>, Skip> {
    let mut heirs = Vec::new();
    for (slot, output) in node.outputs().iter().enumerate() {
        if slot < carried {
            let start = node.input(slot + 2).ok_or_else(|| Skip::because("a carried value has no start"))?;
            heirs.push(Heir::shared(start.into()));
            continue;
        }
        let name = output.map(|v| cx.graph.name_of(v)).unwrap_or_default();
        let ty = output.and_then(|v| cx.facts.ty(v)).and_then(Type::as_tensor);
        let dims =
            ty.and_then(|t| t.shape.as_ref()?.iter().skip(1).map(planish_ir::Dim::known).collect::<Option<Vec<u64>>>());
        let (Some(ty), Some(dims)) = (ty, dims) else {
            return Err(Skip::because(format!(
                "it never runs, but the shape of the stacked output {name:?} is not known"
            )));
        };
        let dims: Dims = std::iter::once(0).chain(dims).collect();
        let empty = Tensor::from_raw(ty.dtype, dims, Default::default()).map_err(|e| Skip::because(e.to_string()))?;
        heirs.push(Heir::own(patch.constant(name, empty)));
    }
    Ok(heirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn one_round() {
        insta::assert_snapshot!(check::<InlineLoop>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y, float[1,2] s) <int64 n = {1}> {
                v = Neg (x)
                r, s = Loop (n, , v) <body = b (int64 i, bool c, float[2] p) => (bool c, float[2] q, float[2] t) {
                    f = Cast <to = 1> (i)
                    q = Add (p, f)
                    t = Mul (q, x)
                }>
                y = Relu (r)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[1,2] s)
        <
          int64 iteration = {0},
          bool condition = {1},
          int64[1] s_axes = {0}
        >
        {
          v = Neg (x)
          f = Cast <to = 1> (iteration)
          r = Add (v, f)
          y = Relu (r)
          t = Mul (r, x)
          s = Unsqueeze (t, s_axes)
        }
        "#);
    }

    #[test]
    fn a_body_that_ends_itself() {
        insta::assert_snapshot!(check::<InlineLoop>(
            r#"<ir_version: 8, opset_import: ["" : 12]>
            g (float[2] x) => (float[2] y, float[1,2] s) <bool yes = {1}> {
                y, s = Loop (, yes, x) <body = b (int64 i, bool c, float[2] p) => (bool stop, float[2] q, float[2] p)
                <bool no = {0}> {
                    stop = Identity (no)
                    q = Exp (p)
                }>
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 12]>
        g (float[2] x) => (float[2] y, float[1,2] s)
        <
          bool no = {0}
        >
        {
          y = Exp (x)
          s = Unsqueeze <axes = [0]> (x)
          stop = Identity (no)
        }
        "#);
    }

    #[test]
    fn no_round() {
        insta::assert_snapshot!(check::<InlineLoop>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x, int64 n) => (float[2] y, float[0,2] s) <bool no = {0}> {
                y, s = Loop (n, no, x) <body = b (int64 i, bool c, float[2] p) => (bool c, float[2] q, float[2] r) {
                    q = Exp (p)
                    r = Neg (p)
                }>
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, int64 n) => (float[2] y, float[0,2] s)
        <
          float[0,2] s = {}
        >
        {
          y = Identity (x)
        }
        "#);
    }

    #[test]
    fn refuses_what_runs_more_often_or_who_knows() {
        let model = |n: &str, c: &str| {
            format!(
                r#"<ir_version: 8, opset_import: ["" : 17]>
                g (float[2] x, int64 k, bool u) => (float[2] y) <int64 two = {{2}}, int64 one = {{1}}> {{
                    y = Loop ({n}, {c}, x) <body = b (int64 i, bool c, float[2] p) => (bool c, float[2] q) {{ q = Exp (p) }}>
                }}"#
            )
        };
        assert_eq!(refusals::<InlineLoop>(&model("two", "")), ["it runs more than once, or until the body ends it"]);
        assert_eq!(refusals::<InlineLoop>(&model("", "")), ["it runs more than once, or until the body ends it"]);
        assert_eq!(refusals::<InlineLoop>(&model("k", "")), ["its trip count is not known"]);
        assert_eq!(refusals::<InlineLoop>(&model("one", "u")), ["its condition is not known"]);
    }

    #[test]
    fn refuses_an_empty_stack_of_unknown_shape() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N] x) => (float[N] y, float[0,?] s) <int64 n = {0}> {
                y, s = Loop (n, , x) <body = b (int64 i, bool c, float[?] p) => (bool c, float[?] q, float[?] r) {
                    q = Exp (p)
                    r = Neg (p)
                }>
            }"#;
        assert_eq!(
            refusals::<InlineLoop>(text),
            ["it never runs, but the shape of the stacked output \"s\" is not known"]
        );
    }
}
