//! Put the branch that an If always takes in its place.
//!
//! Before     c = Equal (rank, 3);  y = If (c) <then_branch = { y = Squeeze (x) }, else_branch = { y = Identity (x) }>
//! After      y = Squeeze (x)
//! When       the condition is a constant, or inference proves it (ranks, sizes); or both branches compute the same
//! Refuses    a condition that is not known · a result whose type the declared one excludes
//! Numerics   Exact
//! Reference  the operator's definition

use std::collections::HashMap;

use planish_ir::{Attr, Def, Graph, Node, NodeId, Numerics, Patch, ValueId, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hand_over::{Heir, hand_over};
use crate::{Pass, Rule, RuleContext, Shape, Skip, clean::attrs_key};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InlineIf {}

impl Pass for InlineIf {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for InlineIf {
    fn roots(&self) -> &'static [&'static str] {
        &["If"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let branch = |name: &str| match node.attrs.get(name) {
            Some(Attr::Graph(g)) if !node.is_local() => Ok(&**g),
            _ => Err(Skip::NoMatch),
        };
        let (yes, no) = (branch("then_branch")?, branch("else_branch")?);
        let condition = node.input(0).ok_or(Skip::NoMatch)?;
        let (taken, why) = match known_bool(cx, condition) {
            Some(true) => (yes, "always true"),
            Some(false) => (no, "always false"),
            None if same(yes, no) => (yes, "without influence"),
            None => return Err(Skip::because("its condition is not known")),
        };
        if taken.outputs().len() != node.outputs().len() {
            return Err(Skip::because("the branch has another number of outputs than the node"));
        }
        let name = node.output(0).map(|v| cx.graph.name_of(v)).unwrap_or_default();
        let mut patch = Patch::new(Numerics::Exact, format!("condition of {name:?} is {why}"));
        let results = patch.inline(taken.clone(), "", Vec::new(), node.captures().to_vec());
        hand_over(&mut patch, (cx.graph, cx.opset()), id, node, &Heir::of(taken, results))?;
        Ok(patch)
    }
}

/// A boolean that is a constant, or that inference proves.
pub(super) fn known_bool(cx: &RuleContext<'_>, value: ValueId) -> Option<bool> {
    let constant = || cx.graph.constant(value)?.to_i64().ok();
    let proven = || cx.facts.value(value)?.iter().map(planish_ir::infer::Num::int).collect();
    match constant().or_else(proven)?.as_slice() {
        [b] => Some(*b != 0),
        _ => None,
    }
}

/// True if two branches of one node make the same outputs of the same operands: both are walked in canonical order, in
/// which equal graphs agree. Only pure nodes without subgraphs count as equal.
fn same(a: &Graph, b: &Graph) -> bool {
    if a.outputs().len() != b.outputs().len() || a.node_count() != b.node_count() {
        return false;
    }
    let (Ok(order), Ok(other)) = (a.topological_order(), b.topological_order()) else { return false };
    // Only for look-ups: results of nodes in `a`, and what they are in `b`.
    let mut pairs: HashMap<ValueId, ValueId> = HashMap::new();
    for (m, n) in order.into_iter().zip(other) {
        let (Some(m), Some(n)) = (a.node(m), b.node(n)) else { return false };
        let slots = |n: &Node| n.outputs().iter().map(Option::is_some).collect::<Vec<_>>();
        let (ours, theirs) = (attrs_key(&m.attrs), attrs_key(&n.attrs));
        let alike = m.op == n.op && op::is_pure(m) && op::is_pure(n) && ours.is_some() && ours == theirs;
        if !alike || m.inputs().len() != n.inputs().len() || slots(m) != slots(n) {
            return false;
        }
        if !m.inputs().iter().zip(n.inputs()).all(|(&x, &y)| same_operand(a, x, b, y, &pairs)) {
            return false;
        }
        pairs.extend(m.outputs().iter().flatten().copied().zip(n.outputs().iter().flatten().copied()));
    }
    a.outputs().iter().zip(b.outputs()).all(|(&x, &y)| same_operand(a, Some(x), b, Some(y), &pairs))
}

fn same_operand(
    a: &Graph,
    x: Option<ValueId>,
    b: &Graph,
    y: Option<ValueId>,
    pairs: &HashMap<ValueId, ValueId>,
) -> bool {
    let (Some(x), Some(y)) = (x, y) else { return x == y };
    let (Some(v), Some(w)) = (a.value(x), b.value(y)) else { return false };
    match (v.def(), w.def()) {
        (Def::Captured(k), Def::Captured(l)) => k == l,
        (Def::Constant(t), Def::Constant(u)) => {
            t.dtype() == u.dtype() && t.dims() == u.dims() && t.digest() == u.digest()
        }
        (Def::Node { .. }, Def::Node { .. }) => pairs.get(&x) == Some(&y),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn a_constant_condition_chooses_and_names_stay_apart() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}> {
                a = Neg (x)
                p = Abs (a)
                y, z = If (c) <
                    then_branch = t () => (float[2] p, float[2] q) <float w = {2.0}> { [inner] b = Exp (a)
                        p = Mul (b, w)
                        q = Add (b, a) },
                    else_branch = e () => (float[2] p, float[2] q) { p = Identity (x) q = Relu (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[2] z)
        <
          float w = {2.0}
        >
        {
          a = Neg (x)
          [inner] b = Exp (a)
          y = Mul (b, w)
          z = Add (b, a)
          p = Abs (a)
        }
        "#);
    }

    #[test]
    fn a_rank_chooses() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,4] x) => (float[?,?] y) <int64 three = {3}> {
                s = Shape (x)
                r = Size (s)
                c = Equal (r, three)
                i = If (c) <
                    then_branch = t () => (b) { b = Squeeze (x) },
                    else_branch = e () => (b) { b = Identity (x) }
                >
                y = Relu (i)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) {
          i = Identity (x)
          y = Relu (i)
        }
        "#);
    }

    #[test]
    fn nested_and_in_a_subgraph() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool u, float[2] x) => (float[2] y) <bool yes = {1}, bool no = {0}> {
                y = If (u) <
                    then_branch = t () => (float[2] p) {
                        p = If (yes) <
                            then_branch = tt () => (float[2] k) {
                                j = If (no) <
                                    then_branch = ttt () => (float[2] o) { o = Exp (x) },
                                    else_branch = tte () => (float[2] o) { o = Neg (x) }
                                >
                                k = Abs (j)
                            },
                            else_branch = te () => (float[2] k) { k = Exp (x) }
                        >
                    },
                    else_branch = e () => (float[2] q) { q = Relu (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool u, float[2] x) => (float[2] y)
        <
          bool yes = {1},
          bool no = {0}
        >
        {
          y = If (u) <
            else_branch = e () => (float[2] q) {
              q = Relu (x)
            },
            then_branch = t () => (float[2] p) {
              j = Neg (x)
              p = Abs (j)
            }
          >
        }
        "#);
    }

    #[test]
    fn what_the_interface_names_gets_an_identity() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y, float[2] z, float[2] w, float[2] v) <bool c = {0}> {
                v = Neg (x)
                y, z, w = If (c) <
                    then_branch = t () => (float[2] p, float[2] q, float[2] r) { p = Exp (x) q = Exp (x) r = Exp (x) },
                    else_branch = e () => (float[2] p, float[2] p, float[2] v) { p = Neg (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y, float[2] z, float[2] w, float[2] v) {
          p = Neg (x)
          y = Identity (p)
          z = Identity (p)
          v = Neg (x)
          w = Identity (v)
        }
        "#);
    }

    #[test]
    fn a_subgraph_moves_with_what_it_captures() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool u, float[2] x) => (float[2] y) <bool yes = {1}> {
                a = Neg (x)
                y = If (yes) <
                    then_branch = t () => (float[2] p) {
                        b = Exp (a)
                        p = If (u) <
                            then_branch = tt () => (float[2] k) { k = Add (a, b) },
                            else_branch = te () => (float[2] k) { k = Mul (x, b) }
                        >
                    },
                    else_branch = e () => (float[2] q) { q = Relu (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool u, float[2] x) => (float[2] y) {
          a = Neg (x)
          b = Exp (a)
          y = If (u) <
            else_branch = te () => (float[2] k) {
              k = Mul (x, b)
            },
            then_branch = tt () => (float[2] k) {
              k = Add (a, b)
            }
          >
        }
        "#);
    }

    #[test]
    fn equal_branches_need_no_condition() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[2] x) => (float[2] y) {
                a = Neg (x)
                y = If (c) <
                    then_branch = t () => (float[2] p) <float w = {2.0}> { b = Mul (a, w) p = Add (b, x) },
                    else_branch = e () => (float[2] p) <float v = {2.0}> { d = Mul (a, v) p = Add (d, x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y)
        <
          float w = {2.0}
        >
        {
          a = Neg (x)
          b = Mul (a, w)
          y = Add (b, x)
        }
        "#);
    }

    #[test]
    fn effects_of_the_branch_not_taken_do_not_keep_it() {
        insta::assert_snapshot!(check::<InlineIf>(
            r#"<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (float[2] x) => (float[2] y) <bool c = {1}> {
                y = If (c) <
                    then_branch = t () => (float[2] p) { p = my.Print (x) },
                    else_branch = e () => (float[2] p) { p = my.Other (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[2] x) => (float[2] y) {
          y = my.Print (x)
        }
        "#);
    }

    #[test]
    fn refuses_an_open_condition() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[2] x) => (float[2] y) <bool d = {1}> {
                n = And (c, d)
                y = If (n) <
                    then_branch = t () => (float[2] p) <float w = {2.0}> { p = Mul (x, w) },
                    else_branch = e () => (float[2] p) <float w = {-2.0}> { p = Mul (x, w) }
                >
            }"#;
        assert_eq!(refusals::<InlineIf>(text), ["its condition is not known"]);
    }

    #[test]
    fn refuses_a_condition_that_the_caller_can_override() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x, bool c = {1}) => (float[2] y) {
                y = If (c) <
                    then_branch = t () => (float[2] p) { p = Neg (x) },
                    else_branch = e () => (float[2] p) { p = Abs (x) }
                >
            }"#;
        assert_eq!(refusals::<InlineIf>(text), ["its condition is not known"]);
    }

    #[test]
    fn refuses_random_branches_that_look_alike() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <
                    then_branch = t () => (float[2] p) { p = RandomNormalLike (x) },
                    else_branch = e () => (float[2] p) { p = RandomNormalLike (x) }
                >
            }"#;
        assert_eq!(refusals::<InlineIf>(text), ["its condition is not known"]);
    }
}
