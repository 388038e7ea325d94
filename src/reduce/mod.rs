//! Shrinking a model that fails to a small one that still fails, written as text.
//!
//! Whether a model fails is asked of a function, so the steps know nothing of pipelines. Each step makes a smaller candidate and
//! keeps it if it fails too:
//!
//! 1. one output instead of all, or as few as will do;
//! 2. the shortest beginning of the graph, and its shortest end, by binary search in the order of nodes: what is cut off in
//!    front becomes an input;
//! 3. nodes out of the middle, chunk by chunk and ever smaller chunks (Zeller, Hildebrandt: Simplifying and isolating
//!    failure-inducing input, TSE 2002): what they made becomes an input;
//! 4. nodes whose output has the type of one of their inputs are bridged;
//! 5. weights whose values do not matter are left out of the text, which is read with seeded random ones in their place.
//!
//! Nothing is drawn at random and nothing depends on time, so equal models give equal texts. A small model can fail for another
//! reason than the large one does; the function decides what counts as the same failure.

mod graph;

use std::collections::BTreeSet;

use planish_ir::{Def, GraphPath, Model, NodeId, ValueId, infer, text, verify};

pub use graph::minimize;

/// The result.
#[derive(Debug)]
pub struct Reduced {
    /// The model in ONNX's textual syntax. It fails as it is read from here.
    pub text: String,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Weights whose values the text had to keep, of those that are long enough to be left out.
    pub kept: usize,
    /// How many models were tried.
    pub tests: u64,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// There is nothing to keep.
    #[error("the model does not fail")]
    DoesNotFail,
    /// Documentation, metadata and the like are not part of the text.
    #[error("the model does not fail any more once it is written as text and read again")]
    NotAsText,
}

/// Elements from which on the text can leave the values of a weight out.
const SMALL: u64 = 16;

/// Shrinks a model. `fails` says of a valid model whether it fails; `say` is told how far the search is.
pub fn reduce(
    model: &Model,
    fails: &mut dyn FnMut(&Model) -> bool,
    say: &dyn Fn(String),
) -> Result<Reduced, ReduceError> {
    let mut r = Reducer { model: model.clone(), fails, say, tests: 0 };
    if !r.fails_as(&model.clone()) {
        return Err(ReduceError::DoesNotFail);
    }
    infer::annotate(&mut r.model);
    r.outputs();
    r.beginning();
    r.outputs();
    r.end();
    r.middle();
    r.bridges();
    // What a node in between had kept apart may now be cut.
    r.middle();
    r.outputs();
    r.text()
}

struct Reducer<'a> {
    /// The smallest model that fails, so far.
    model: Model,
    fails: &'a mut dyn FnMut(&Model) -> bool,
    say: &'a dyn Fn(String),
    tests: u64,
}

impl Reducer<'_> {
    fn fails_as(&mut self, candidate: &Model) -> bool {
        self.tests += 1;
        let failed = verify(candidate).is_ok() && (self.fails)(candidate);
        (self.say)(format!("{} nodes left, {} models tried", self.model.graph.node_count(), self.tests));
        failed
    }

    /// Takes the candidate if it fails.
    fn take(&mut self, candidate: Option<Model>) -> bool {
        let Some(mut candidate) = candidate else { return false };
        graph::drop_unused_functions(&mut candidate);
        // What becomes an input later needs a type.
        infer::annotate(&mut candidate);
        let failed = self.fails_as(&candidate);
        if failed {
            self.model = candidate;
        }
        failed
    }

    fn between(&self, cut: &BTreeSet<ValueId>, outputs: &[ValueId]) -> Option<Model> {
        self.model.extract_between(&GraphPath::main(), cut, outputs)
    }

    fn outputs(&mut self) {
        let all = self.model.graph.outputs().to_vec();
        for &one in &all {
            if self.take(self.between(&BTreeSet::new(), &[one])) {
                return;
            }
        }
        let base = self.model.clone();
        minimize(all.len(), &mut |keep| {
            let outputs: Vec<ValueId> = keep.iter().filter_map(|&i| all.get(i).copied()).collect();
            !outputs.is_empty() && self.take(base.extract_between(&GraphPath::main(), &BTreeSet::new(), &outputs))
        });
    }

    /// The nodes in a topological order.
    fn order(&self) -> Vec<NodeId> {
        // A verified graph has no cycle.
        self.model.graph.topological_order().unwrap_or_default()
    }

    /// The shortest beginning of the graph that fails.
    fn beginning(&mut self) {
        let (base, order) = (self.model.clone(), self.order());
        // `bad` is known to fail: it is everything.
        let (mut good, mut bad) = (0, order.len());
        while good + 1 < bad {
            let middle = good + (bad - good) / 2;
            let outputs = graph::frontier(&base.graph, order.get(..middle).unwrap_or_default());
            let candidate = base.extract_between(&GraphPath::main(), &BTreeSet::new(), &outputs);
            match !outputs.is_empty() && self.take(candidate) {
                true => bad = middle,
                false => good = middle,
            }
        }
    }

    /// The shortest end of the graph that fails.
    fn end(&mut self) {
        let (base, order) = (self.model.clone(), self.order());
        let outputs = base.graph.outputs().to_vec();
        let (mut bad, mut good) = (0, order.len());
        while bad + 1 < good {
            let middle = bad + (good - bad) / 2;
            let cut = graph::made_by(&base.graph, order.get(..middle).unwrap_or_default());
            match self.take(base.extract_between(&GraphPath::main(), &cut, &outputs)) {
                true => bad = middle,
                false => good = middle,
            }
        }
    }

    /// Nodes that can be cut out.
    fn middle(&mut self) {
        let (base, order) = (self.model.clone(), self.order());
        let outputs = base.graph.outputs().to_vec();
        minimize(order.len(), &mut |keep| {
            let keep: BTreeSet<NodeId> = keep.iter().filter_map(|&i| order.get(i).copied()).collect();
            let gone: Vec<NodeId> = order.iter().filter(|id| !keep.contains(id)).copied().collect();
            let cut = graph::made_by(&base.graph, &gone);
            // An output that is an input says nothing.
            !outputs.iter().any(|v| cut.contains(v))
                && self.take(base.extract_between(&GraphPath::main(), &cut, &outputs))
        });
    }

    /// Nodes whose readers can read one of the node's inputs instead.
    fn bridges(&mut self) {
        loop {
            let before = self.model.graph.node_count();
            for id in self.order().into_iter().rev() {
                let candidates = graph::bridged(&self.model, id);
                for candidate in candidates {
                    if self.take(Some(candidate)) {
                        break;
                    }
                }
            }
            if self.model.graph.node_count() >= before {
                return;
            }
        }
    }

    /// The text, with as few values of weights as will do.
    fn text(mut self) -> Result<Reduced, ReduceError> {
        let long = |t: &planish_ir::Tensor| t.elements() > SMALL;
        let weights: Vec<String> = self
            .model
            .graph
            .values()
            .filter(|(_, v)| match v.def() {
                Def::Constant(t) | Def::Input { default: Some(t) } => long(t),
                Def::SparseConstant(_) | Def::Input { default: None } | Def::Node { .. } | Def::Captured(_) => false,
            })
            .map(|(_, v)| v.name().to_owned())
            .collect();
        let options = text::PrintOptions { digests: false, ..Default::default() };
        let printed = |model: &Model, keep: &[usize]| {
            let shown = keep.iter().filter_map(|&i| weights.get(i).cloned()).collect();
            text::print_showing(model, options, shown)
        };
        let model = self.model.clone();
        let mut try_text = |text: &str| text::parse(text).is_ok_and(|m| self.fails_as(&m));
        let all: Vec<usize> = (0..weights.len()).collect();
        let none = printed(&model, &[]);
        let (text, kept) = if try_text(&none) {
            (none, 0)
        } else if try_text(&printed(&model, &all)) {
            let keep = minimize(weights.len(), &mut |keep| try_text(&printed(&model, keep)));
            (printed(&model, &keep), keep.len())
        } else {
            // Values inside attributes and subgraphs matter.
            let full = text::print_with(&model, text::PrintOptions::full());
            match try_text(&full) {
                true => (full, weights.len()),
                false => return Err(ReduceError::NotAsText),
            }
        };
        Ok(Reduced { text, nodes: model.graph.node_count(), kept, tests: self.tests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,24] x, float[N,24] u) => (float[N,24] y, float[N,24] z, float[N,24] q)
    <float[24] w, float[24,24] m> {
        a = Relu (x)
        b = MatMul (a, m)
        c = Add (b, w)
        d = Tanh (c)
        e = Mul (d, a)
        y = Neg (e)
        z = Sigmoid (u)
        f = Exp (u)
        q = Abs (f)
    }"#;

    fn reduced(fails: impl Fn(&Model) -> bool) -> Reduced {
        let model = text::parse(MODEL).unwrap();
        let run = || reduce(&model, &mut |m| fails(m), &|_| {}).unwrap();
        let first = run();
        assert_eq!(first.text, run().text, "not deterministic");
        first
    }

    fn has(model: &Model, op: &str) -> bool {
        model.graph.nodes().any(|(_, n)| n.op.is(op))
    }

    #[test]
    fn one_node_is_left_of_a_failure_in_one_node() {
        let r = reduced(|m| has(m, "MatMul"));
        insta::assert_snapshot!(r.text, @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,24] a) => (float[N,24] b)
        <
          float[24,24] m
        >
        {
          b = MatMul (a, m)
        }
        "#);
        assert_eq!((r.nodes, r.kept), (1, 0));
    }

    #[test]
    fn what_lies_between_is_bridged() {
        insta::assert_snapshot!(reduced(|m| has(m, "Relu") && has(m, "Neg")).text, @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,24] x) => (float[N,24] y) {
          a = Relu (x)
          y = Neg (a)
        }
        "#);
    }

    #[test]
    fn failures_that_need_two_outputs_keep_them() {
        insta::assert_snapshot!(reduced(|m| has(m, "Sigmoid") && has(m, "Neg")).text, @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,24] e, float[N,24] u) => (float[N,24] y, float[N,24] z) {
          y = Neg (e)
          z = Sigmoid (u)
        }
        "#);
    }

    #[test]
    fn values_that_matter_are_kept() {
        let mut model = text::parse(MODEL).unwrap();
        let weight = model.graph.value_named("w").unwrap();
        let mut patch = planish_ir::Patch::new(planish_ir::Numerics::Lossy, "other values");
        patch.set_tensor(weight, planish_ir::Tensor::from_f32([24].as_slice(), &[0.5; 24]).unwrap());
        model.apply(&GraphPath::main(), patch).unwrap();
        let mut fails = |m: &Model| {
            let w =
                m.graph.value_named("w").and_then(|v| m.graph.constant(v)).map(|t| t.iter_f32().unwrap().sum::<f32>());
            has(m, "MatMul") && w == Some(12.0)
        };
        let r = reduce(&model, &mut fails, &|_| {}).unwrap();
        assert_eq!((r.nodes, r.kept), (2, 1));
        assert!(r.text.contains("float[24] w = {0.5,") && r.text.contains("float[24,24] m,"), "{}", r.text);
    }

    #[test]
    fn a_model_that_does_not_fail_is_refused() {
        let model = text::parse(MODEL).unwrap();
        assert_eq!(reduce(&model, &mut |_| false, &|_| {}).unwrap_err(), ReduceError::DoesNotFail);
    }
}
