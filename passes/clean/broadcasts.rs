//! Leave broadcasting to the operators that broadcast by themselves, and give Expand and Slice constant bounds.
//!
//! Before     e = Expand (x, t);  y = Add (e, z)
//!            y = Expand (x, Concat (Shape (x)[0], 8, 4))       x of shape [N,1,4]
//!            y = Slice (x, 1, Shape (x)[0])
//! After      y = Add (x, z) · y = Expand (x, [1, 8, 1]) · y = Slice (x, 1, 9223372036854775807)
//! When       shapes prove that x and z broadcast to what e and z do; that each size of the target is a number or the
//!            size that x has there; that the end is the size of the axis
//! Refuses    a target with a size that x does not have
//! Numerics   Exact
//! Reference  ONNX, Broadcasting in ONNX; Expand-13; Slice-13

use planish_ir::{
    Node, NodeId, Numerics, Patch, Tensor,
    infer::{Num, axis, shape::broadcast},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operands::{dims, is_plain, producer, same_dims};
use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Broadcasts {}

impl Pass for Broadcasts {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for Broadcasts {
    /// Expand and Slice, and everything that broadcasts all its inputs in both directions.
    fn roots(&self) -> &'static [&'static str] {
        &[
            "Add",
            "And",
            "Div",
            "Equal",
            "Expand",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Mean",
            "Min",
            "Mod",
            "Mul",
            "Or",
            "Pow",
            "Slice",
            "Sub",
            "Sum",
            "Where",
            "Xor",
        ]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        // Before version 7 an attribute asked for broadcasting, and before 8 not everything broadcast.
        if !is_plain(node) || cx.opset() < 8 {
            return Err(Skip::NoMatch);
        }
        match node.op.name.as_str() {
            "Expand" => constant_target(cx, id, node),
            "Slice" => constant_ends(cx, id, node),
            _ => without_expand(cx, id, node),
        }
    }
}

fn without_expand(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let expand = |slot: usize| node.input(slot).and_then(|v| producer(cx, v, "Expand"));
    let (slot, source) =
        (0..node.inputs().len()).find_map(|slot| Some((slot, expand(slot)?.1.input(0)?))).ok_or(Skip::NoMatch)?;
    let shape = |i: usize| if i == slot { dims(cx, source) } else { node.input(i).and_then(|v| dims(cx, v)) };
    let together = (0..node.inputs().len()).try_fold(Vec::new(), |all, i| broadcast(&all, shape(i)?).ok());
    let unchanged =
        together.is_some_and(|d| node.output(0).and_then(|v| dims(cx, v)).is_some_and(|o| same_dims(&d, o)));
    if !unchanged {
        return Err(Skip::NoMatch);
    }
    let mut patch = Patch::new(Numerics::Exact, format!("{} {:?}", node.op, node.name));
    patch.set_input(id, slot, Some(source.into()));
    Ok(patch)
}

fn constant_target(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let (x, target) = node.input(0).zip(node.input(1)).ok_or(Skip::NoMatch)?;
    if cx.graph.constant(target).is_some() {
        return Err(Skip::NoMatch);
    }
    let (shape, elements) = dims(cx, x).zip(cx.facts.value(target)).ok_or(Skip::NoMatch)?;
    let sizes = elements.iter().enumerate().map(|(i, n)| match n {
        Num::Int(n) => Some(*n),
        // What the input has there anyway; if that is a number above 1, nothing else would do.
        Num::Symbolic(d) => (i + shape.len())
            .checked_sub(elements.len())
            .and_then(|i| shape.get(i))
            .is_some_and(|have| have.same(d) || have.known().is_some_and(|n| n > 1))
            .then_some(1),
        Num::Float(_) | Num::Quotient(..) | Num::Unknown => None,
    });
    let Some(sizes) = sizes.collect::<Option<Vec<i64>>>() else {
        return Err(Skip::because("a size of the target is neither a number nor the input's at that place"));
    };
    let mut patch = Patch::new(Numerics::Exact, format!("Expand {:?}", node.name));
    let constant = patch.constant(cx.graph.name_of(target), Tensor::ints(&sizes));
    patch.set_input(id, 1, Some(constant));
    Ok(patch)
}

fn constant_ends(cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
    let (x, ends) = node.input(0).zip(node.input(2)).ok_or(Skip::NoMatch)?;
    if cx.graph.constant(ends).is_some() {
        return Err(Skip::NoMatch);
    }
    let listed = |slot: usize| cx.graph.constant_input(node, slot).and_then(|t| t.to_i64().ok());
    let (shape, elements) = dims(cx, x).zip(cx.facts.value(ends)).ok_or(Skip::NoMatch)?;
    let axes = match node.input(3) {
        Some(_) => listed(3).ok_or(Skip::NoMatch)?,
        None => (0i64..).take(elements.len()).collect(),
    };
    let forward = node.input(4).is_none() || listed(4).is_some_and(|s| s.iter().all(|&step| step > 0));
    if !forward || axes.len() != elements.len() {
        return Err(Skip::NoMatch);
    }
    let end = |(n, &a): (&Num, &i64)| match n {
        Num::Int(n) => Some(*n),
        Num::Symbolic(d) => shape.get(axis(a, shape.len()).ok()?).is_some_and(|have| have.same(d)).then_some(i64::MAX),
        Num::Float(_) | Num::Quotient(..) | Num::Unknown => None,
    };
    let ends_are: Option<Vec<i64>> = elements.iter().zip(&axes).map(end).collect();
    let mut patch = Patch::new(Numerics::Exact, format!("Slice {:?}", node.name));
    let wide = cx.graph.ty(ends).and_then(planish_ir::Type::dtype) == Some(planish_ir::DType::I64);
    let tensor = ends_are.filter(|_| wide).map(|e| Tensor::ints(&e)).ok_or(Skip::NoMatch)?;
    let constant = patch.constant(cx.graph.name_of(ends), tensor);
    patch.set_input(id, 2, Some(constant));
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn operators_broadcast_by_themselves() {
        insta::assert_snapshot!(check::<Broadcasts>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,4] x, float[N,4] z, bool[N,4] c) => (float[N,4] y, float[N,4] w, float[N,4] v)
            <int64[1] one = {1}, int64[1] four = {4}, int64[1] a = {0}, float zero = {0}> {
                s = Shape (z)
                e = Expand (x, s)
                y = Add (z, e)
                w = Where (c, e, zero)
                v = Mul (e, zero)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x, float[N,4] z, bool[N,4] c) => (float[N,4] y, float[N,4] w, float[N,4] v)
        <
          int64[1] one = {1},
          int64[1] four = {4},
          int64[1] a = {0},
          float zero = {0.0}
        >
        {
          y = Add (z, x)
          w = Where (c, x, zero)
          s = Shape (z)
          e = Expand (x, s)
          v = Mul (e, zero)
        }
        "#);
    }

    #[test]
    fn targets_and_ends_that_the_input_has_are_constant() {
        insta::assert_snapshot!(check::<Broadcasts>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,1,4] x) => (float[N,8,4] y, float[P,1,4] z, float[2,N,1,4] w)
            <int64[2] t = {8, 1}, int64[2] two = {2, 1}, int64[1] one = {1}, int64[1] a = {0}> {
                s = Shape (x)
                n = Gather (s, a)
                u = Concat <axis = 0> (n, t)
                y = Expand (x, u)
                z = Slice (x, one, n, a)
                v = Concat <axis = 0> (one, n, one, one)
                q = Mul (v, v)
                w = Expand (x, v)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,1,4] x) => (float[N,8,4] y, float[P,1,4] z, float[2,N,1,4] w)
        <
          int64[2] two = {2, 1},
          int64[1] one = {1},
          int64[1] a = {0},
          int64[3] u = {1, 8, 1},
          int64[1] n_1 = {9223372036854775807},
          int64[4] v_1 = {1, 1, 1, 1}
        >
        {
          y = Expand (x, u)
          z = Slice (x, one, n_1, a)
          w = Expand (x, v_1)
          s = Shape (x)
          n = Gather (s, a)
          v = Concat <axis = 0> (one, n, one, one)
          q = Mul (v, v)
        }
        "#);
    }

    #[test]
    fn refuses_what_the_input_does_not_have() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x, float[1,4] b) => (float[N,4] y, float[M,4] z) <int64[1] one = {1}, int64[1] a = {0}> {
                s = Shape (x)
                y = Expand (b, s)
                n = Gather (s, a)
                m = Sub (n, one)
                z = Slice (x, a, m, a)
            }"#;
        insta::assert_debug_snapshot!(refusals::<Broadcasts>(text), @r#"
        [
            "a size of the target is neither a number nor the input's at that place",
        ]
        "#);
    }
}
