//! What happened to a node: which passes looked at it, why each left it alone, and which patches changed it.
//!
//! Nodes are told apart by their name, or where they have none by the name of their first output, because these outlive the
//! rewriting of a node: a fused node has the name of the one whose place it takes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use planish_ir::{Graph, Model, Node};
use planish_passes::{Observer, PassReport, Patched, Refusal, suggest};
use serde::Serialize;

/// What happened to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Name of the node, or of its first output.
    pub node: String,
    /// Its operator; several if patches changed it.
    pub ops: Vec<String>,
    /// It is in the model as it was given.
    pub in_input: bool,
    /// It is in the result.
    pub in_result: bool,
    /// Patches that made, changed or removed it, in order.
    pub patches: Vec<PatchOfNode>,
    /// Why passes left it alone, each reason once.
    pub refusals: Vec<Reason>,
    /// Passes that looked at it and found that it is not what they are about.
    pub no_match: Vec<&'static str>,
}

/// What a patch did to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatchOfNode {
    /// Number of the patch.
    pub number: u64,
    /// The pass that made it.
    pub pass: &'static str,
    /// `made`, `removed`, `rewritten` if a new node has its name since, or `changed` if it, or what it reads, is another.
    pub effect: &'static str,
    /// What the patch was for.
    pub note: String,
}

/// Why a pass left a node alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The pass.
    pub pass: &'static str,
    /// Its reason.
    pub reason: String,
    /// How often it looked and said so.
    pub times: u64,
}

/// Collects what happens to some nodes while a pipeline runs, and tells another observer everything too.
pub struct Explainer<'a> {
    pattern: &'a str,
    inner: &'a dyn Observer,
    /// Names of nodes and of their outputs in the model as it was given, for suggestions.
    names: BTreeSet<String>,
    /// What its nodes are told apart by.
    labels: BTreeSet<String>,
    found: RefCell<BTreeMap<String, Explanation>>,
    /// Passes that looked at a node, by its label.
    looked: RefCell<BTreeMap<String, BTreeSet<&'static str>>>,
}

impl<'a> Explainer<'a> {
    /// For the nodes of `model`, and those that passes make, whose name or one of whose outputs matches `pattern`.
    pub fn new(pattern: &'a str, model: &Model, inner: &'a dyn Observer) -> Explainer<'a> {
        let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
        let mut e = Explainer {
            pattern,
            inner,
            names: BTreeSet::new(),
            labels: BTreeSet::new(),
            found: RefCell::default(),
            looked: RefCell::default(),
        };
        model.graph.walk(&mut |g| {
            for (_, node) in g.nodes() {
                let (name, outputs) = (node.name.as_str(), outputs(g, node));
                if e.wants(name, &outputs) {
                    e.with(label(name, &outputs), &node.op.to_string(), |_| {});
                }
                labels.insert(label(name, &outputs));
                names.extend(outputs);
                names.extend((!name.is_empty()).then(|| name.to_owned()));
            }
        });
        (e.names, e.labels) = (names, labels);
        e
    }

    /// The explanations by the name of the node, given the result; or, if there is no such node, a message with the name that
    /// was probably meant.
    pub fn finish(self, result: &Model) -> Result<Vec<Explanation>, String> {
        result.graph.walk(&mut |g| {
            for (_, node) in g.nodes() {
                let outputs = outputs(g, node);
                if self.wants(&node.name, &outputs) {
                    self.with(label(&node.name, &outputs), &node.op.to_string(), |x| x.in_result = true);
                }
            }
        });
        let (mut found, looked) = (self.found.into_inner(), self.looked.into_inner());
        if found.is_empty() {
            let like = suggest(self.pattern, self.names.iter().map(String::as_str));
            let hint = like.map_or_else(String::new, |n| format!("; did you mean {n:?}?"));
            return Err(format!(
                "no node, neither of the model nor made by a pass, has the name or an output {:?}{hint}",
                self.pattern
            ));
        }
        // Also where the name matches only since the node was rewritten.
        found.values_mut().for_each(|x| x.in_input = self.labels.contains(&x.node));
        for (node, passes) in looked {
            if let Some(x) = found.get_mut(&node) {
                let spoke =
                    |p: &&&str| x.refusals.iter().any(|r| r.pass == **p) || x.patches.iter().any(|r| r.pass == **p);
                let silent = passes.iter().filter(|p| !spoke(p)).copied().collect();
                x.no_match = silent;
            }
        }
        Ok(found.into_values().collect())
    }

    fn wants(&self, name: &str, outputs: &[String]) -> bool {
        let is_like = |n: &str| n == self.pattern || matches(self.pattern.as_bytes(), n.as_bytes());
        (!name.is_empty() && is_like(name)) || outputs.iter().any(|o| is_like(o))
    }

    fn with(&self, label: String, op: &str, change: impl FnOnce(&mut Explanation)) {
        let mut found = self.found.borrow_mut();
        let x = found.entry(label).or_insert_with_key(|node| Explanation { node: node.clone(), ..Default::default() });
        if x.ops.iter().all(|o| o != op) {
            x.ops.push(op.to_owned());
        }
        change(x);
    }

    fn effect(&self, patch: &Patched<'_>, effect: &'static str, name: &str, op: &str, outputs: &[String]) {
        if self.wants(name, outputs) {
            let (number, pass, note) = (patch.number, patch.pass, patch.note.to_owned());
            self.with(label(name, outputs), op, |x| match x.patches.last_mut() {
                // Another node has taken its place and its name.
                Some(p) if p.number == number && p.effect == "removed" => p.effect = "rewritten",
                _ => x.patches.push(PatchOfNode { number, pass, effect, note }),
            });
        }
    }
}

impl Observer for Explainer<'_> {
    fn pass_begins(&self, name: &str) {
        self.inner.pass_begins(name);
    }

    fn looks(&self, pass: &'static str, graph: &Graph, node: &Node) {
        self.inner.looks(pass, graph, node);
        let outputs = outputs(graph, node);
        if self.wants(&node.name, &outputs) {
            self.looked.borrow_mut().entry(label(&node.name, &outputs)).or_default().insert(pass);
        }
    }

    fn patch(&self, patch: &Patched<'_>) {
        self.inner.patch(patch);
        for gone in &patch.applied.removed {
            self.effect(patch, "removed", &gone.name, &gone.op.to_string(), &gone.outputs);
        }
        let added = &patch.applied.added;
        let touched = patch.applied.touched.iter().filter(|id| !added.contains(id)).map(|id| (id, "changed"));
        for (&id, effect) in added.iter().map(|id| (id, "made")).chain(touched) {
            if let Some(node) = patch.graph.node(id) {
                self.effect(patch, effect, &node.name, &node.op.to_string(), &outputs(patch.graph, node));
            }
        }
    }

    fn refusal(&self, r: &Refusal) {
        self.inner.refusal(r);
        if !self.wants(&r.node, &r.outputs) {
            return;
        }
        self.with(r.node.clone(), &r.op, |x| {
            match x.refusals.iter_mut().find(|known| known.pass == r.pass && known.reason == r.reason) {
                Some(known) => known.times += 1,
                None => x.refusals.push(Reason { pass: r.pass, reason: r.reason.clone(), times: 1 }),
            }
        });
    }

    fn explains(&self) -> bool {
        true
    }

    fn pass_ends(&self, report: &PassReport) {
        self.inner.pass_ends(report);
    }
}

fn outputs(graph: &Graph, node: &Node) -> Vec<String> {
    node.outputs().iter().flatten().map(|&v| graph.name_of(v)).collect()
}

fn label(name: &str, outputs: &[String]) -> String {
    if name.is_empty() { outputs.first().cloned().unwrap_or_default() } else { name.to_owned() }
}

/// True if a pattern of characters, `*` (any number of any) and `?` (any one) describes a whole text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // On a mismatch only the last `*` can take more, so the time is the product of the lengths at worst.
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || Some(&c) == text.get(t) => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    (p, t) = (*at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == b'*')
}

/// A paragraph per node.
pub fn render(explanations: &[Explanation]) -> String {
    let mut text = String::new();
    for x in explanations {
        let place = match (x.in_input, x.in_result) {
            (true, true) => "in the model and in the result",
            (true, false) => "in the model, not in the result",
            (false, true) => "made on the way, in the result",
            (false, false) => "made on the way, not in the result",
        };
        text += &format!("node {:?} ({}), {place}\n", x.node, x.ops.join(", then "));
        for p in &x.patches {
            text += &format!("  {} by patch {} of {}: {}\n", p.effect, p.number, p.pass, p.note);
        }
        for r in &x.refusals {
            let times = if r.times > 1 { format!(" ({} times)", r.times) } else { String::new() };
            text += &format!("  left alone by {}: {}{times}\n", r.pass, r.reason);
        }
        if !x.no_match.is_empty() {
            text += &format!("  not what these are about: {}\n", x.no_match.join(", "));
        }
        if x.patches.is_empty() && x.refusals.is_empty() && x.no_match.is_empty() {
            text += "  no pass said anything about it\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use planish_ir::text;
    use planish_passes::{Driver, InMemory, NoObserver, StepConfig};

    use super::*;

    fn explain(pattern: &str) -> Result<String, String> {
        let mut model = text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1,2,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z)
            <float[3,2,1,1] w, float[3,2,1,1] w2, float[3] s = {1.0, 2.0, 3.0}, float[3] b = {1.0, 1.0, 1.0}> {
                [conv] c = Conv (x, w)
                n = BatchNormalization (c, s, b, b, s)
                [same] i = Identity (n)
                y = Relu (i)
                [shared] d = Conv (x, w2)
                [bn] z0 = BatchNormalization (d, s, b, b, s)
                z = Add (z0, d)
            }"#,
        )
        .unwrap();
        let explainer = Explainer::new(pattern, &model, &NoObserver);
        let driver = Driver {
            engine: None,
            calibration: None,
            stopwatch: None,
            weights: &InMemory,
            target: Default::default(),
            stop_after: None,
            bindings: Default::default(),
            observer: &explainer,
        };
        let steps = ["no-ops", "bn-into-conv", "cse"].map(|name| StepConfig::default_of(name).unwrap());
        driver.run(&mut model, &steps).unwrap();
        explainer.finish(&model).map(|x| render(&x))
    }

    #[test]
    fn what_happens_to_a_node_is_told() {
        insta::assert_snapshot!(explain("conv").unwrap(), @r#"
        node "conv" (Conv), in the model and in the result
          changed by patch 2 of bn-into-conv: Conv "conv" takes BatchNormalization ""
        "#);
        insta::assert_snapshot!(explain("n").unwrap(), @r#"
        node "n" (BatchNormalization), in the model, not in the result
          removed by patch 2 of bn-into-conv: Conv "conv" takes BatchNormalization ""
        "#);
        insta::assert_snapshot!(explain("same").unwrap(), @r#"
        node "same" (Identity), in the model, not in the result
          removed by patch 1 of no-ops: Identity "i"
        "#);
        insta::assert_snapshot!(explain("z?").unwrap(), @r#"
        node "bn" (BatchNormalization), in the model and in the result
          left alone by bn-into-conv: "d" has other readers or is a graph output
        "#);
        insta::assert_snapshot!(explain("y").unwrap(), @r#"
        node "y" (Relu), in the model and in the result
          changed by patch 1 of no-ops: Identity "i"
          changed by patch 2 of bn-into-conv: Conv "conv" takes BatchNormalization ""
        "#);
        insta::assert_snapshot!(explain("sharde").unwrap_err(), @r#"no node, neither of the model nor made by a pass, has the name or an output "sharde"; did you mean "shared"?"#);
    }

    #[test]
    fn patterns() {
        let is = |p: &str, t: &str| matches(p.as_bytes(), t.as_bytes());
        assert!(is("*", "") && is("a*c", "abbc") && is("*b?", "abab/bc") && is("/h/*/c", "/h/0/c/1/c"));
        assert!(!is("a", "ab") && !is("?", "") && !is("*a", "ab") && !is("a*b", "acbd"));
    }
}
