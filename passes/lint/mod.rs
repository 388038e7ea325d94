//! Rules of the targets, held against a model that somebody else may have made.
//!
//! A [`Lint`] looks at one graph and says what a target refuses, computes otherwise than the model means, or runs slower than the
//! model hopes. It changes nothing. The table of rules is [`LINTS`], one file and one line for each; what a rule is for stands in the
//! header of its file, in the sections Rule, Why, Do and Reference, which a test holds it to.
//!
//! A new rule: copy the file of a similar one, add its line, and test it on good and bad graphs.

mod activation_grid;
mod bias;
mod blocks;
mod double;
mod dynamic;
mod float16;
mod granularity;
mod grid_shape;
mod half_quantized;
mod idle_pair;
pub(crate) mod kernel;
mod minimum_opset;
mod mixed_grids;
mod no_kernel;
mod operators;
mod opset_range;
mod quantized_types;
mod registry;
mod scales;
mod split_fusion;
#[cfg(test)]
mod testing;
mod view;
mod weight_types;
mod zero_points;

use planish_ir::{GraphPath, Model, Node, NodeId, ValueId, infer};
use serde::Serialize;

use crate::Target;

pub use registry::{LINTS, LintEntry};
pub use view::View;

/// A rule of one or more targets.
pub trait Lint: Sync {
    /// Looks at one graph of a model.
    fn check(&self, view: &View<'_>, found: &mut Found<'_>);
}

/// What a violation leads to. Ordered: the worst is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The target runs it, but not as fast as it could.
    Slow,
    /// The target does not take the model.
    Refused,
}

/// A place at which a model breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it leads to.
    pub effect: Effect,
    /// Name of the node, or of its first output; empty if the model as a whole is meant.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The tensor that is meant, if it is one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

/// Takes the findings of one rule in one graph.
pub struct Found<'a> {
    entry: &'static LintEntry,
    target: Target,
    view: &'a View<'a>,
    findings: &'a mut Vec<Finding>,
}

impl Found<'_> {
    /// A finding at a node, about a value or about the node as such.
    pub fn at(&mut self, id: NodeId, tensor: Option<ValueId>, problem: impl Into<String>, advice: impl Into<String>) {
        let graph = self.view.graph;
        let node = graph.node(id);
        let label = node.map(|n| label(self.view, n)).unwrap_or_default();
        let op = node.map(|n| n.op.to_string()).unwrap_or_default();
        self.push(label, op, tensor.map(|v| graph.name_of(v)), problem.into(), advice.into());
    }

    /// A finding about the model as a whole.
    pub fn model(&mut self, problem: impl Into<String>, advice: impl Into<String>) {
        self.push(String::new(), String::new(), None, problem.into(), advice.into());
    }

    /// True if the model is held against the rules of this target.
    pub fn is_for(&self, target: Target) -> bool {
        self.target == target
    }

    fn push(&mut self, node: String, op: String, tensor: Option<String>, problem: String, advice: String) {
        let (rule, effect) = (self.entry.name, self.entry.effect);
        self.findings.push(Finding { rule, effect, node, op, tensor, problem, advice });
    }
}

fn label(view: &View<'_>, node: &Node) -> String {
    match node.name.is_empty() {
        false => node.name.clone(),
        true => node.outputs().iter().flatten().next().map(|&v| view.graph.name_of(v)).unwrap_or_default(),
    }
}

/// All findings for a target: by graph, in each by rule, and of each rule in the order of nodes. Bodies of local functions are not
/// looked at; inline them first.
pub fn lint(model: &Model, target: Target) -> Vec<Finding> {
    let facts = infer::infer(model, &infer::Bindings::new());
    let unknown = infer::GraphFacts::default();
    let mut findings = Vec::new();
    for path in model.graph_paths() {
        let Some(graph) = model.graph_at(&path) else { continue };
        let facts = facts.graph().at(&path).unwrap_or(&unknown);
        let view = View { opset: model.opset(), graph, facts, is_main: path == GraphPath::main() };
        for entry in LINTS.iter().filter(|e| e.targets.contains(&target)) {
            entry.lint.check(&view, &mut Found { entry, target, view: &view, findings: &mut findings });
        }
    }
    findings
}
