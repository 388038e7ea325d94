//! Remove outputs of If, Loop and Scan that nobody reads, with what only they need.
//!
//! Before     y, z = If (c) <then_branch = { p = Neg (x); q = Exp (x) }, else_branch = { p = x; q = Abs (x) }>  (z unread)
//! After      y = If (c) <then_branch = { p = Neg (x) }, else_branch = { p = x }>
//! When       an output of If, a stacked output of Loop or Scan, or a carried value is not read: outside, and inside for
//!            anything that is still needed
//! Refuses    the last output · Scan before opset 9 · what an operator with an effect needs
//! Numerics   Exact
//! Reference  liveness analysis, with the carried values' way from one round to the next

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Attr, Graph, Keep, Node, NodeId, Numerics, Patch, ValueId, op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Rule, RuleContext, Shape, Skip};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrimSubgraphs {}

impl Pass for TrimSubgraphs {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(self)
    }
}

impl Rule for TrimSubgraphs {
    fn roots(&self) -> &'static [&'static str] {
        &["If", "Loop", "Scan"]
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let read = |v: &Option<ValueId>| v.is_some_and(|v| cx.graph.users(v).len() > 0);
        let mut live: Vec<usize> =
            (0..node.outputs().len()).filter(|&i| node.outputs().get(i).is_some_and(read)).collect();
        // What has no reader at all is for `dead-code`.
        if node.is_local() || live.is_empty() || live.len() == node.outputs().len() {
            return Err(Skip::NoMatch);
        }
        let form = Form::of(cx, node)?;
        if form.carried > 0 {
            let body = node.attrs.graphs().next().ok_or(Skip::NoMatch)?;
            live = live_results(body, &form, live);
        }
        if live.len() == node.outputs().len() {
            return Err(Skip::because("its unread outputs are carried values that others depend on"));
        }
        let dead = |slot: usize| slot < form.carried && live.binary_search(&slot).is_err();
        let keep = Keep {
            inputs: (0..node.inputs().len()).filter(|&i| i < form.lead || !dead(i - form.lead)).collect(),
            body_inputs: (0..form.body_inputs).filter(|&i| i < form.body_lead || !dead(i - form.body_lead)).collect(),
            body_outputs: (0..form.body_lead_out).chain(live.iter().map(|&i| i + form.body_lead_out)).collect(),
            outputs: live.clone(),
        };
        let name = node.output(0).map(|v| cx.graph.name_of(v)).unwrap_or_default();
        let count = node.outputs().len() - live.len();
        let mut patch = Patch::new(Numerics::Exact, format!("{count} unread outputs of the {} {name:?}", node.op));
        let mut attrs = node.attrs.clone();
        for list in ["scan_output_axes", "scan_output_directions"] {
            if let Some(Attr::Ints(v)) = node.attrs.get(list).filter(|_| node.op.is("Scan")) {
                let kept = live.iter().filter_map(|&slot| v.get(slot.checked_sub(form.carried)?).copied());
                attrs.set(list, Attr::Ints(kept.collect()));
                patch.set_attrs(id, attrs.clone());
            }
        }
        patch.narrow(id, keep);
        Ok(patch)
    }
}

/// Where the operands of a node are found in its subgraphs.
struct Form {
    /// Carried values, which are the first outputs.
    carried: usize,
    /// Inputs of the node before the carried values.
    lead: usize,
    /// Inputs of the subgraph before the carried values.
    body_lead: usize,
    /// Outputs of the subgraph before those that are outputs of the node.
    body_lead_out: usize,
    body_inputs: usize,
}

impl Form {
    fn of(cx: &RuleContext<'_>, node: &Node) -> Result<Form, Skip> {
        let bodies: Vec<&Graph> = node.attrs.graphs().collect();
        let body_inputs = bodies.first().map_or(0, |b| b.inputs().len());
        let form = match node.op.name.as_str() {
            "If" => Form { carried: 0, lead: 0, body_lead: 0, body_lead_out: 0, body_inputs },
            "Loop" => {
                let carried = node.inputs().len().saturating_sub(2);
                Form { carried, lead: 2, body_lead: 2, body_lead_out: 1, body_inputs }
            }
            "Scan" if cx.opset() < 9 => return Err(Skip::because("Scan before opset 9 has other operands")),
            "Scan" => {
                let scanned = node.attrs.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok());
                let carried = scanned.and_then(|n| node.inputs().len().checked_sub(n)).ok_or(Skip::NoMatch)?;
                Form { carried, lead: 0, body_lead: 0, body_lead_out: 0, body_inputs }
            }
            _ => return Err(Skip::NoMatch),
        };
        let fits = |b: &&Graph| {
            b.outputs().len() == node.outputs().len() + form.body_lead_out
                && b.inputs().len() == body_inputs
                && b.inputs().len() >= form.body_lead + form.carried
        };
        match bodies.iter().all(fits) && node.outputs().len() >= form.carried {
            true => Ok(form),
            false => Err(Skip::because("its operands do not fit its subgraphs")),
        }
    }
}

/// The results of a body that are needed if those in `read` are: a carried value is needed too if something needed reads it
/// in the next round. Ascending.
fn live_results(body: &Graph, form: &Form, read: Vec<usize>) -> Vec<usize> {
    let carried = body.inputs().iter().skip(form.body_lead).take(form.carried);
    let carried: BTreeMap<ValueId, usize> = carried.enumerate().map(|(i, &v)| (v, i)).collect();
    let mut live: BTreeSet<usize> = read.into_iter().collect();
    let mut seen: BTreeSet<ValueId> = BTreeSet::new();
    let results = body.outputs().get(form.body_lead_out..).unwrap_or_default();
    let mut next: Vec<ValueId> = body.outputs().iter().take(form.body_lead_out).copied().collect();
    next.extend(live.iter().filter_map(|&i| results.get(i).copied()));
    let stays = |n: &Node| !op::has_no_effect(n) || n.outputs().iter().all(Option::is_none);
    next.extend(body.nodes().filter(|(_, n)| stays(n)).flat_map(|(_, n)| n.operands()));
    while let Some(v) = next.pop() {
        if !seen.insert(v) {
            continue;
        }
        match body.producer(v) {
            Some((_, node)) => next.extend(node.operands()),
            None => {
                let again = carried.get(&v).copied().filter(|&i| live.insert(i));
                next.extend(again.and_then(|i| results.get(i).copied()));
            }
        }
    }
    live.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, refusals};

    #[test]
    fn both_branches_lose_what_nobody_reads() {
        insta::assert_snapshot!(check::<TrimSubgraphs>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (bool c, float[2] x) => (float[2] y) {
                a = Sin (x)
                u, y, v = If (c) <
                    then_branch = t () => (float[2] p, float[2] q, float[2] r) {
                        h = Exp (a)
                        p = Neg (h)
                        q = Abs (x)
                        r = Cos (h)
                        unread = Tan (h) },
                    else_branch = e () => (float[2] q, float[2] q, float[2] x) { q = Relu (x) }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) {
          a = Sin (x)
          y = If (c) <
            else_branch = e () => (float[2] q) {
              q = Relu (x)
            },
            then_branch = t () => (float[2] q) {
              q = Abs (x)
            }
          >
        }
        "#);
    }

    #[test]
    fn carried_values_and_stacks_of_a_loop() {
        insta::assert_snapshot!(check::<TrimSubgraphs>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64 n, float[2] x, float[2] w) => (float[?,2] y) {
                s = Sin (w)
                a, b, d, y, z = Loop (n, , x, s, w) <
                    body = b (int64 i, bool c, float[2] p, float[2] q, float[2] r)
                        => (bool c, float[2] pp, float[2] qq, float[2] rr, float[2] t, float[2] u) {
                        pp = Add (p, r)
                        qq = Mul (q, q)
                        rr = Neg (r)
                        t = Exp (pp)
                        u = Exp (qq)
                    }
                >
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64 n, float[2] x, float[2] w) => (float[?,2] y) {
          a, d, y = Loop (n, "", x, w) <
            body = b (int64 i, bool c, float[2] p, float[2] r) => (bool c, float[2] pp, float[2] rr, float[2] t) {
              pp = Add (p, r)
              rr = Neg (r)
              t = Exp (pp)
            }
          >
        }
        "#);
    }

    #[test]
    fn a_scan_keeps_its_attributes_in_step() {
        insta::assert_snapshot!(check::<TrimSubgraphs>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] h, float[5,2] x) => (float[2,5] y) {
                f, z, y = Scan <num_scan_inputs = 1, scan_output_axes = [0, 1], scan_output_directions = [1, 0],
                    body = b (float[2] p, float[2] e) => (float[2] p, float[2] t, float[2] u) {
                        t = Exp (e)
                        u = Neg (e)
                    }
                > (h, x)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] h, float[5,2] x) => (float[2,5] y) {
          y = Scan (x) <
            body = b (float[2] e) => (float[2] u) {
              u = Neg (e)
            },
            num_scan_inputs = 1,
            scan_output_axes = [1],
            scan_output_directions = [0]
          >
        }
        "#);
    }

    #[test]
    fn refuses_what_others_depend_on() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (int64 n, float[2] x) => (float[2] y) {
                y, z = Loop (n, , x, x) <
                    body = b (int64 i, bool c, float[2] p, float[2] q) => (bool c, float[2] pp, float[2] qq) {
                        pp = Add (p, q)
                        qq = Neg (q)
                    }
                >
            }"#;
        assert_eq!(refusals::<TrimSubgraphs>(text), ["its unread outputs are carried values that others depend on"]);
    }

    #[test]
    fn an_effect_keeps_what_it_reads() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (int64 n, float[2] x) => (float[2] y) {
                y, z = Loop (n, , x, x) <
                    body = b (int64 i, bool c, float[2] p, float[2] q) => (bool c, float[2] pp, float[2] qq) {
                        pp = Neg (p)
                        qq = Neg (q)
                        e = my.Print (qq)
                    }
                >
            }"#;
        assert_eq!(refusals::<TrimSubgraphs>(text), ["its unread outputs are carried values that others depend on"]);
    }

    #[test]
    fn a_loop_without_condition_keeps_the_empty_place_of_it() {
        let after = check::<TrimSubgraphs>(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[L,N] y) <int64 m = {2}> {
                u, y = Loop (m, , x) <body = b (int64 it, bool ci, float[N] v) => (bool co, float[N] p, float[N] q) {
                    co = Identity (ci)
                    p = Neg (v)
                    q = Abs (x)
                }>
            }"#,
        );
        assert!(!after.contains("Neg"), "{after}");
    }
}
