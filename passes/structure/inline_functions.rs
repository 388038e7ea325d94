//! Put the bodies of local functions in the place of their calls.
//!
//! Before     y = my.Twice <k = 3> (x)     with a function my.Twice (x) => (y) { ... }
//! After      the nodes of the function, named after the call; functions that nothing calls any more go
//! When       always, also for calls in subgraphs, in other functions and of overloads
//! Refuses    a function that calls itself · one that is written for other versions of the operator sets than the model's,
//!            if one of its operators changed between them · one whose calls would add more than `max_nodes` nodes · a call
//!            with a subgraph as attribute, or without an input that the body needs as such · nesting that no file may have
//! Numerics   Exact
//! Reference  ONNX IR specification, Functions
//!
//! Functions are taken callers first, so that all calls of one are there when its turn comes, and each of its nodes is
//! copied once for each call: the work is that of the result.

use std::collections::{BTreeMap, VecDeque};

use planish_ir::{Function, Graph, GraphPath, Model, NodeId, Numerics, Opsets, Patch, onnx::MAX_DEPTH};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hand_over::{Heir, hand_over};
use crate::{Changes, Context, Pass, PassError, Shape, Skip, Transform, convert::keeps_meaning};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InlineFunctions {
    /// Most nodes that inlining may add. A function whose calls would exceed it stays.
    pub max_nodes: u64,
}

impl Default for InlineFunctions {
    /// More than any network has, few enough for tools to handle.
    fn default() -> InlineFunctions {
        InlineFunctions { max_nodes: 200_000 }
    }
}

impl Pass for InlineFunctions {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

/// The calls of one function: where they are.
type Sites = Vec<(GraphPath, NodeId)>;

impl Transform for InlineFunctions {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        if model.functions.is_empty() {
            return Ok(Changes::default());
        }
        let index = model.functions.iter().enumerate().map(|(i, f)| (&f.op, i)).collect();
        let sites = vec![Sites::new(); model.functions.len()];
        let changes = Changes { remove_uncalled_functions: true, ..Changes::default() };
        // Which calls there are follows from the calls inlined before.
        let (names, opsets) = (BTreeMap::new(), model.opsets.clone());
        let mut work = Work { model: model.clone(), index, sites, names, opsets, changes };
        for path in model.graph_paths() {
            if let Some(graph) = model.graph_at(&path) {
                work.enter_calls(&path, graph.nodes().map(|(id, _)| id).collect());
            }
        }
        let mut budget = self.max_nodes;
        let order = callers_first(&model.functions);
        for (f, function) in model.functions.iter().enumerate().filter(|(f, _)| !order.contains_key(f)) {
            work.refuse(f, &format!("the function {} calls itself, or one that does calls it", function.op));
        }
        let mut turns: Vec<(usize, usize)> = order.into_iter().map(|(f, turn)| (turn, f)).collect();
        turns.sort_unstable();
        for (_, f) in turns {
            let Some(function) = model.functions.get(f) else { continue };
            let mut size = 0u64;
            function.body.walk(&mut |g| size += g.node_count() as u64);
            let added = size.saturating_mul(work.sites.get(f).map_or(0, Vec::len) as u64);
            let outcome = match added > budget {
                true => Err(format!("its calls would add {added} nodes and go beyond max_nodes, {}", self.max_nodes)),
                false => agree(function, &work.opsets),
            };
            match outcome {
                Ok(imports) => {
                    budget -= added;
                    work.inline(f, function, imports);
                }
                Err(reason) => work.refuse(f, &format!("the function {} stays: {reason}", function.op)),
            }
        }
        Ok(work.changes)
    }
}

struct Work<'a> {
    /// With the calls inlined so far.
    model: Model,
    index: BTreeMap<&'a planish_ir::OpName, usize>,
    /// By function: its calls that are still there.
    sites: Vec<Sites>,
    /// How often each name of a call occurred: to find a free one by trying would take long.
    names: BTreeMap<String, usize>,
    /// With what functions import besides.
    opsets: Opsets,
    changes: Changes,
}

impl Work<'_> {
    /// Notes which of the nodes of a graph are calls.
    fn enter_calls(&mut self, path: &GraphPath, nodes: Vec<NodeId>) {
        let Some(graph) = self.model.graph_at(path) else { return };
        for id in nodes {
            let called = graph.node(id).filter(|n| n.is_local()).and_then(|n| self.index.get(&n.op));
            if let Some(sites) = called.and_then(|&f| self.sites.get_mut(f)) {
                sites.push((path.clone(), id));
            }
        }
    }

    fn refuse(&mut self, f: usize, reason: &str) {
        let sites = self.sites.get_mut(f).map(std::mem::take).unwrap_or_default();
        if !sites.is_empty() {
            self.changes.notes.push(reason.to_owned());
        }
        let skip = |(path, id)| (path, id, Skip::because(reason.to_owned()));
        self.changes.skipped.extend(sites.into_iter().map(skip));
    }

    fn inline(&mut self, f: usize, function: &Function, imports: Opsets) {
        let sites = self.sites.get_mut(f).map(std::mem::take).unwrap_or_default();
        if sites.is_empty() {
            return;
        }
        for (domain, version) in imports {
            if self.opsets.insert(domain.clone(), version).is_none() {
                self.changes.opsets.push((domain, version));
            }
        }
        let depth = depth(&function.body);
        for (path, id) in sites {
            let outcome = match path.steps().count() + depth > MAX_DEPTH {
                true => Err(Skip::because(format!("subgraphs would be nested more than {MAX_DEPTH} deep"))),
                false => self.call(function, &path, id),
            };
            match outcome {
                Ok(added) => {
                    self.enter_calls(&path, added.clone());
                    for id in added {
                        let inner =
                            self.model.graph_at(&path).and_then(|g| g.node(id)).map_or(0, |n| n.attrs.graphs().count());
                        (0..inner).for_each(|i| self.enter_inner(path.inner(id, i)));
                    }
                }
                Err(skip) => self.changes.skipped.push((path, id, skip)),
            }
        }
    }

    /// Notes the calls in a subgraph that came with a body, and in those inside it.
    fn enter_inner(&mut self, path: GraphPath) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            let Some(graph) = self.model.graph_at(&path) else { continue };
            for (id, node) in graph.nodes() {
                paths.extend((0..node.attrs.graphs().count()).map(|i| path.inner(id, i)));
            }
            let nodes = graph.nodes().map(|(id, _)| id).collect();
            self.enter_calls(&path, nodes);
        }
    }

    /// Inlines one call; returns the nodes that came.
    fn call(&mut self, function: &Function, path: &GraphPath, id: NodeId) -> Result<Vec<NodeId>, Skip> {
        /// Names of calls in calls grow with each level; beyond this the function's name does as well.
        const LONG: usize = 200;
        let graph = self.model.graph_at(path).ok_or(Skip::NoMatch)?;
        let node = graph.node(id).ok_or(Skip::NoMatch)?;
        let fits = |given: usize, known: &[_], what: &str| match given <= known.len() {
            true => Ok(()),
            false => Err(Skip::because(format!("it has {given} {what}, but the function has {}", known.len()))),
        };
        fits(node.inputs().len(), function.body.inputs(), "inputs")?;
        fits(node.outputs().len(), function.body.outputs(), "outputs")?;
        let body = function.instantiate(node).map_err(Skip::because)?;
        let mut name = match (node.name.as_str(), node.output(0)) {
            ("", Some(v)) => graph.name_of(v),
            (name, _) => name.to_owned(),
        };
        if name.is_empty() || name.len() > LONG {
            name.clone_from(&function.op.name);
        }
        let count = self.names.entry(name.clone()).or_default();
        if *count > 0 {
            name = format!("{name}_{count}");
        }
        *count += 1;
        let mut patch = Patch::new(Numerics::Exact, format!("call of {} {name:?}", function.op));
        let inputs = node.inputs().iter().map(|v| v.map(Into::into)).collect();
        let results = patch.inline(body.clone(), name, inputs, Vec::new());
        let opset = self.opsets.get("").copied().unwrap_or(1);
        hand_over(&mut patch, (graph, opset), id, node, &Heir::of(&body, results))?;
        let applied = self.model.apply(path, patch.clone()).map_err(|e| Skip::because(e.to_string()))?;
        self.changes.patches.push((path.clone(), patch));
        Ok(applied.added)
    }
}

/// What the model has to import in addition, if nodes of the body mean the same in the main graph.
fn agree(function: &Function, model: &Opsets) -> Result<Opsets, String> {
    let mut imports = Opsets::new();
    let mut outcome = Ok(());
    function.body.walk(&mut |g| {
        for (_, node) in g.nodes() {
            let domain = &node.op.domain;
            let Some(&from) = function.opsets.get(domain) else { continue };
            match model.get(domain) {
                None => {
                    imports.insert(domain.clone(), from);
                }
                // What a domain of the model's own functions is versioned as changes nothing.
                Some(&to) if node.is_local() || from == to => {}
                Some(&to) if domain.is_empty() && keeps_meaning(&node.op.name, from, to) => {}
                Some(&to) => {
                    let set = if domain.is_empty() { "ai.onnx" } else { domain };
                    let advice = match domain.is_empty() && from > to {
                        true => format!("; raise the opset of the model to {from} first"),
                        false => String::new(),
                    };
                    let op = &node.op.name;
                    outcome = Err(format!("its {op} is written for {set} {from}, but the model imports {to}{advice}"));
                }
            }
        }
    });
    outcome.map(|()| imports)
}

/// For each function that does not call itself in any way: its turn, such that all its callers come before it.
fn callers_first(functions: &[Function]) -> BTreeMap<usize, usize> {
    let index: BTreeMap<_, _> = functions.iter().enumerate().map(|(i, f)| (&f.op, i)).collect();
    let calls = |f: &Function| {
        let mut called = Vec::new();
        f.body.walk(&mut |g| {
            called.extend(g.nodes().filter(|(_, n)| n.is_local()).filter_map(|(_, n)| index.get(&n.op).copied()));
        });
        called.sort_unstable();
        called.dedup();
        called
    };
    let calls: Vec<Vec<usize>> = functions.iter().map(calls).collect();
    let mut callers = vec![0usize; functions.len()];
    calls.iter().flatten().for_each(|&f| callers[f] += 1);
    let mut ready: VecDeque<usize> = (0..functions.len()).filter(|&f| callers[f] == 0).collect();
    let mut turns = BTreeMap::new();
    while let Some(f) = ready.pop_front() {
        turns.insert(f, turns.len());
        for &called in &calls[f] {
            callers[called] -= 1;
            if callers[called] == 0 {
                ready.push_back(called);
            }
        }
    }
    turns
}

/// Levels of graphs, this one included.
fn depth(graph: &Graph) -> usize {
    let inner = graph.nodes().flat_map(|(_, n)| n.attrs.graphs()).map(depth).max();
    1 + inner.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_with, refusals};

    #[test]
    fn attributes_come_from_the_call_or_the_default_and_names_stay_apart() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[N,4] x) => (float[?,?] y, float[?,?] z) {
                [first] a = my.F <axis = 1> (x)
                b = my.F <axis = 0, beta = 2.5> (a)
                y = Relu (b)
                z = my.F <axis = 1> (y)
            }
            <domain: "my", opset_import: ["" : 18]>
            F <axis, beta: float = 0.5> (p) => (r) {
                c = Constant <value_float: float = @beta> ()
                [soft] s = Softmax <axis: int = @axis> (p)
                r = Mul (s, c)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
          ["first/soft"] "first/s" = Softmax <axis = 1> (x)
          "first/c" = Constant <value_float = 0.5> ()
          a = Mul ("first/s", "first/c")
          ["b/soft"] "b/s" = Softmax <axis = 0> (a)
          "b/c" = Constant <value_float = 2.5> ()
          b = Mul ("b/s", "b/c")
          y = Relu (b)
          ["z/soft"] "z/s" = Softmax <axis = 1> (y)
          "z/c" = Constant <value_float = 0.5> ()
          z = Mul ("z/s", "z/c")
        }
        "#);
    }

    #[test]
    fn calls_of_one_name() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y) { [c] a = my.F (x) [c] y = my.F (a) }
            <domain: "my", opset_import: ["" : 18]>
            F (p) => (r) { [n] q = Neg (p) r = Exp (q) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[2] x) => (float[2] y) {
          ["c/n"] "c/q" = Neg (x)
          a = Exp ("c/q")
          ["c_1/n"] "c_1/q" = Neg (a)
          y = Exp ("c_1/q")
        }
        "#);
    }

    #[test]
    fn nested_calls_overloads_and_subgraphs() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (bool u, float[2] x) => (float[2] y) {
                y = If (u) <
                    then_branch = t () => (float[2] p) { [outer] p = my.F <k = 2.0> (x) },
                    else_branch = e () => (float[2] q) { q = Neg (x) }
                >
            }
            <domain: "my", opset_import: ["" : 18, "my" : 1]>
            F <k> (p) => (r) {
                t = Greater (p, p)
                c = ReduceMax <keepdims = 0> (t)
                d = Cast <to = 9> (c)
                r = If (d) <
                    then_branch = t () => (v) { [in] v = my.G <alpha: float = @k> (p) },
                    else_branch = e () => (w) { w = LeakyRelu <alpha: float = @k> (p) }
                >
            }
            <domain: "my", opset_import: ["" : 18]>
            G <alpha> (p) => (r) { r = Elu <alpha: float = @alpha> (p) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (bool u, float[2] x) => (float[2] y) {
          y = If (u) <
            else_branch = e () => (float[2] q) {
              q = Neg (x)
            },
            then_branch = t () => (float[2] p) {
              "outer/t" = Greater (x, x)
              "outer/c" = ReduceMax <keepdims = 0> ("outer/t")
              "outer/d" = Cast <to = 9> ("outer/c")
              p = If ("outer/d") <
                else_branch = e () => (float[2] w) {
                  w = LeakyRelu <alpha = 2.0> (x)
                },
                then_branch = t () => (float[2] v) {
                  v = Elu <alpha = 2.0> (x)
                }
              >
            }
          >
        }
        "#);
    }

    #[test]
    fn a_left_out_input_and_output() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x, float hi) => (float[2] y) {
                y = my.F (x, "", hi)
            }
            <domain: "my", opset_import: ["" : 18]>
            F (p, lo, hi) => (r, s) {
                r = Clip (p, lo, hi)
                s = Exp (p)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[2] x, float hi) => (float[2] y) {
          y = Clip (x, "", hi)
          "y/s" = Exp (x)
        }
        "#);
    }

    #[test]
    fn what_a_function_imports_comes_along() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y) { y = my.F (x) }
            <domain: "my", opset_import: ["" : 17, "com.microsoft" : 1]>
            F (p) => (r) { q = Relu (p) r = com.microsoft.Gelu (q) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1, "my" : 1]>
        g (float[2] x) => (float[2] y) {
          "y/q" = Relu (x)
          y = com.microsoft.Gelu ("y/q")
        }
        "#);
    }

    #[test]
    fn a_function_that_hands_through() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y, float[2] z) { y, z = my.F (x) }
            <domain: "my", opset_import: ["" : 18]>
            F (p) => (p, p) { q = Relu (p) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[2] x) => (float[2] y, float[2] z) {
          y = Identity (x)
          z = Identity (x)
          "y/q" = Relu (x)
        }
        "#);
    }

    #[test]
    fn one_that_hides_an_operator() {
        insta::assert_snapshot!(check::<InlineFunctions>(
            r#"<ir_version: 10, opset_import: ["" : 18]>
            g (float[2] x) => (float[2] y) { y = Relu (x) }
            <domain: "", opset_import: ["" : 18]>
            Relu (p) => (r) { r = Neg (p) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[2] x) => (float[2] y) {
          y = Neg (x)
        }
        "#);
    }

    #[test]
    fn a_limit_is_told() {
        let text = r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y) { a = my.F (x) b = my.F (a) y = my.G (b) }
            <domain: "my", opset_import: ["" : 18]>
            F (p) => (r) { q = Neg (p) r = Exp (q) }
            <domain: "my", opset_import: ["" : 18]>
            G (p) => (r) { r = Exp (p) }"#;
        insta::assert_snapshot!(check_with(InlineFunctions { max_nodes: 3 }, text), @r#"
        <ir_version: 10, opset_import: ["" : 18, "my" : 1]>
        g (float[2] x) => (float[2] y) {
          a = my.F (x)
          b = my.F (a)
          y = Exp (b)
        }

        <domain: "my", opset_import: ["" : 18]>
        F (p) => (r) {
          q = Neg (p)
          r = Exp (q)
        }
        "#);
        let changes =
            InlineFunctions { max_nodes: 3 }.transform(&planish_ir::text::parse(text).unwrap(), &Context::bare());
        assert_eq!(
            changes.unwrap().notes,
            ["the function my::F stays: its calls would add 4 nodes and go beyond max_nodes, 3"]
        );
    }

    #[test]
    fn doubling_calls_end_at_the_limit() {
        let mut text = String::from(
            r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y) { y = my.F0 (x) }"#,
        );
        for i in 0..60 {
            text += &format!(
                r#"<domain: "my", opset_import: ["" : 18, "my" : 1]> F{i} (p) => (r) {{ a = my.F{n} (p) r = my.F{n} (a) }}"#,
                n = i + 1
            );
        }
        text += r#"<domain: "my", opset_import: ["" : 18]> F60 (p) => (r) { r = Neg (p) }"#;
        let model = planish_ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let changes = InlineFunctions { max_nodes: 1000 }.transform(&model, &Context::bare()).unwrap();
        assert_eq!(changes.patches.len(), 1 + 2 + 4 + 8 + 16 + 32 + 64 + 128);
    }

    #[test]
    fn refuses_recursion() {
        let text = r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y) { y = my.F (x) }
            <domain: "my", opset_import: ["" : 18, "my" : 1]>
            F (p) => (r) { r = my.G (p) }
            <domain: "my", opset_import: ["" : 18, "my" : 1]>
            G (p) => (r) { r = my.F (p) }"#;
        assert_eq!(refusals::<InlineFunctions>(text), ["the function my::F calls itself, or one that does calls it"]);
    }

    #[test]
    fn refuses_other_versions() {
        let model = |opset: i64| {
            format!(
                r#"<ir_version: 10, opset_import: ["" : {opset}, "my" : 1]>
                g (float[2,3] x) => (float[2,1] y) {{ y = my.F (x) }}
                <domain: "my", opset_import: ["" : 12]>
                F (p) => (r) {{ r = ReduceSum <axes = [1]> (p) }}"#
            )
        };
        assert_eq!(
            refusals::<InlineFunctions>(&model(18)),
            ["the function my::F stays: its ReduceSum is written for ai.onnx 12, but the model imports 18"]
        );
        assert_eq!(
            refusals::<InlineFunctions>(&model(11)),
            [
                "the function my::F stays: its ReduceSum is written for ai.onnx 12, but the model imports 11; raise the opset of the model to 12 first"
            ]
        );
    }

    #[test]
    fn refuses_a_call_without_what_the_body_needs() {
        let text = r#"<ir_version: 10, opset_import: ["" : 18, "my" : 1]>
            g (float[2] x) => (float[2] y, float[2] z) { y, z = my.F (x) }
            <domain: "my", opset_import: ["" : 18]>
            F (p, q) => (r, q) { r = Neg (p) }"#;
        assert_eq!(
            refusals::<InlineFunctions>(text),
            [r#""q" of the graph to inline stands for nothing, but is needed"#]
        );
    }
}
