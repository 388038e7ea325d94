//! Raise the version of the ai.onnx operator set.
//!
//! Before     Squeeze <axes = [1]> (x), Softmax <axis = 1> (y), Upsample (z, scales), ... at opset 7 to 20
//! After      the same operators as opset `to` defines them: axes are inputs, Softmax works on one axis, Resize, ...
//! When       the model imports ai.onnx 7 or newer; subgraphs are converted as well, other domains stay as they are
//! Refuses    the whole pass: an operator that ai.onnx does not have · one whose old meaning the new version cannot
//!            express · a type or shape that the conversion needs is unknown · a local function of an older opset
//! Numerics   Exact by the definitions; a runtime may have another kernel for another version (the AveragePool-19 of
//!            onnxruntime sums in another order than its AveragePool-11)
//! Reference  ONNX operator changelog, opsets 8 to 25
//!
//! A table (`history.rs`) lists for every operator the versions that changed it, and what to do about each. A node
//! starts at the definition that its model's opset gives it and takes the steps one after another, as a draft
//! (`draft.rs`).

mod axes;
mod details;
mod draft;
mod history;
mod inputs;
mod normalization;
mod resize;
mod softmax;

use std::collections::{BTreeMap, HashMap};

use planish_ir::{Graph, GraphPath, Model, Numerics, Patch, infer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform};
use draft::Draft;
use history::{Convert, NEWEST, OLDEST, Step, steps};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RaiseOpset {
    /// Version to reach. A model that has it already, or a newer one, stays as it is.
    #[schemars(range(min = 8, max = 25))]
    pub to: i64,
}

impl Default for RaiseOpset {
    /// The oldest version that has 4-bit types and blocked quantization.
    fn default() -> RaiseOpset {
        RaiseOpset { to: 21 }
    }
}

impl Pass for RaiseOpset {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for RaiseOpset {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        // A model that uses no ai.onnx operator has nothing to raise.
        let Some(&from) = model.opsets.get("").filter(|&&from| from < self.to) else { return Ok(Changes::default()) };
        self.check_range(model, from)?;

        // Conversions ask for types that the file may not declare.
        let mut typed = model.clone();
        infer::annotate(&mut typed);
        let mut raise = Raise { model: &typed, from, to: self.to, converted: BTreeMap::new(), refusals: Vec::new() };
        let patches = typed
            .graph_paths()
            .into_iter()
            .filter_map(|path| Some((raise.graph(&path, typed.graph_at(&path)?), path)))
            .filter(|(patch, _)| !patch.is_empty())
            .map(|(patch, path)| (path, patch))
            .collect();
        let Raise { converted, refusals, .. } = raise;
        match refusals.as_slice() {
            [] => {}
            [one] => return Err(PassError::Precondition(one.clone())),
            [first, rest @ ..] => {
                return Err(PassError::Precondition(format!("{first} (and {} more)", rest.len())));
            }
        }
        let list: Vec<String> = converted.iter().map(|(op, n)| format!("{n} {op}")).collect();
        Ok(Changes {
            patches,
            opsets: vec![(String::new(), self.to)],
            ir_version: Some(ir_version_of(self.to)),
            notes: if list.is_empty() { Vec::new() } else { vec![format!("rewritten: {}", list.join(", "))] },
            ..Changes::default()
        })
    }
}

impl RaiseOpset {
    fn check_range(&self, model: &Model, from: i64) -> Result<(), PassError> {
        if self.to > NEWEST {
            let message = format!("opset {} is too new: operators are known up to opset {NEWEST}; lower `to`", self.to);
            return Err(PassError::Precondition(message));
        }
        if from < OLDEST {
            let message = format!(
                "the model imports opset {from}, and operators are known from opset {OLDEST} on; export it anew"
            );
            return Err(PassError::Precondition(message));
        }
        // Patches do not reach into functions, and a function that keeps its opset is legal only as long as none of its
        // operators differs between the two.
        let stale = model.functions.iter().find_map(|f| Some((f, *f.opsets.get("")?)).filter(|(_, v)| *v < self.to));
        let Some((function, version)) = stale else { return Ok(()) };
        let message =
            format!("the local function {} is written for opset {version}; run `inline-functions` first", function.op);
        Err(PassError::Precondition(message))
    }
}

/// True if a node of ai.onnx that is written for opset `from` means the same at the later opset `to`, as it stands.
pub(crate) fn keeps_meaning(op: &str, from: i64, to: i64) -> bool {
    let unchanged = |s: &Step| !(from < s.version && s.version <= to) || matches!(s.convert, Convert::Compatible);
    from == to || (OLDEST <= from && from < to && to <= NEWEST && steps(op).is_some_and(|s| s.iter().all(unchanged)))
}

/// The oldest IR version that goes with an ai.onnx opset, by ONNX's table of releases (`docs/Versioning.md`). At least
/// 4, the first one in which a constant need not be an input.
const fn ir_version_of(opset: i64) -> i64 {
    match opset {
        ..=9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}

/// The conversion of one model.
struct Raise<'a> {
    model: &'a Model,
    from: i64,
    to: i64,
    /// Number of changed nodes by operator.
    converted: BTreeMap<String, usize>,
    refusals: Vec<String>,
}

impl Raise<'_> {
    /// One patch for the whole graph: with nodes of different opsets it would not be valid.
    fn graph(&mut self, path: &GraphPath, graph: &Graph) -> Patch {
        let note = format!("{path} from opset {} to {}", self.from, self.to);
        let mut patch = Patch::new(Numerics::Exact, note);
        let mut moved = HashMap::new();
        // A verified graph has no cycle.
        for id in graph.topological_order().unwrap_or_default() {
            let Some(node) = graph.node(id) else { continue };
            if !node.op.domain.is_empty() || self.model.function(&node.op).is_some() {
                continue;
            }
            match self.node(Draft::new(graph, id, node, &mut patch, &mut moved)) {
                Ok(true) => *self.converted.entry(node.op.name.clone()).or_default() += 1,
                Ok(false) => {}
                Err(reason) => {
                    let name = draft::label(graph, id, node);
                    self.refusals.push(format!("the node {name:?} ({}) {reason}", node.op));
                }
            }
        }
        patch
    }

    /// Takes all steps of a node; returns whether it had to be changed.
    fn node(&self, mut draft: Draft<'_>) -> Result<bool, String> {
        let mut version = self.from;
        // A step may rename the operator, so the table is asked again each time.
        while let Some(step) = self.next_step(&draft.op, version)? {
            version = step.version;
            let refused = |reason: &str| format!("has no equivalent in opset {version}: {reason}");
            match step.convert {
                Convert::Compatible => {}
                Convert::By(convert) => convert(&mut draft).map_err(|reason| refused(&reason))?,
                Convert::Impossible(reason) => return Err(refused(reason)),
            }
        }
        Ok(draft.commit())
    }

    fn next_step(&self, op: &str, version: i64) -> Result<Option<&'static Step>, String> {
        let unknown = || format!("cannot be converted: ai.onnx has no such operator up to opset {NEWEST}");
        Ok(steps(op).ok_or_else(unknown)?.iter().find(|s| s.version > version && s.version <= self.to))
    }
}

#[cfg(test)]
mod tests {
    use planish_ir::text;

    use super::*;
    use crate::testing::{check, check_with};

    /// The message with which the pass refuses a model.
    pub(super) fn refusal(text: &str) -> String {
        let model = text::parse(text).unwrap_or_else(|e| panic!("{e}"));
        RaiseOpset::default().transform(&model, &Context::bare()).unwrap_err().to_string()
    }

    #[test]
    fn a_model_that_is_there_stays() {
        let text = r#"<ir_version: 10, opset_import: ["" : 22]> g (float[4] x) => (float[4] y) { y = Relu (x) }"#;
        let changes = RaiseOpset::default().transform(&text::parse(text).unwrap(), &Context::bare()).unwrap();
        assert!(changes.patches.is_empty() && changes.opsets.is_empty());
        insta::assert_snapshot!(check::<RaiseOpset>(text), @r#"
        <ir_version: 10, opset_import: ["" : 22]>
        g (float[4] x) => (float[4] y) {
          y = Relu (x)
        }
        "#);
    }

    #[test]
    fn compatible_nodes_only_get_the_version() {
        insta::assert_snapshot!(check_with(RaiseOpset { to: 25 },
            r#"<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (float[4] x) => (float[4] y) { a = Relu (x) y = my.Softmax <axis = 0> (a) }"#,
        ), @r#"
        <ir_version: 13, opset_import: ["" : 25, "my" : 1]>
        g (float[4] x) => (float[4] y) {
          a = Relu (x)
          y = my.Softmax <axis = 0> (a)
        }
        "#);
    }

    #[test]
    fn subgraphs_follow() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]>
            g (bool c, float[N,3,4] x) => (y) {
                a = Softmax (x)
                y = If (c) <
                    then_branch = yes () => (b) { b = ReduceSum <axes = [1]> (a) },
                    else_branch = no () => (b) { b = ReduceMax <axes = [1]> (a) }
                >
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (bool c, float[N,3,4] x) => (float[N,1,4] y)
        <
          int64[3] a_shape = {-1, 3, 4}
        >
        {
          [a_matrix] a_matrix = Flatten <axis = 1> (x)
          a_1 = Softmax <axis = -1> (a_matrix)
          [a_reshaped] a = Reshape (a_1, a_shape)
          y = If (c) <
            else_branch = no () => (float[N,1,4] b)
            <
              int64[1] b_axes = {1}
            >
            {
              b = ReduceMax (a, b_axes)
            },
            then_branch = yes () => (float[N,1,4] b)
            <
              int64[1] b_axes = {1}
            >
            {
              b = ReduceSum (a, b_axes)
            }
          >
        }
        "#);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let text = r#"<ir_version: 6, opset_import: ["" : 11]>
            g (float[4] x) => (float[4] y) { [odd] a = Frobnicate (x) y = Frobnicate (a) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @r#"the node "odd" (Frobnicate) cannot be converted: ai.onnx has no such operator up to opset 25 (and 1 more)"#
        );
        let text = r#"<ir_version: 4, opset_import: ["" : 6]> g (float[4] x) => (float[4] y) { y = Relu (x) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @"the model imports opset 6, and operators are known from opset 7 on; export it anew"
        );
        let text = r#"<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (float[4] x) => (float[4] y) { y = my.F (x) }
            <domain: "my", opset_import: ["" : 17]> F (x) => (y) { y = Relu (x) }"#;
        insta::assert_snapshot!(
            refusal(text),
            @"the local function my::F is written for opset 17; run `inline-functions` first"
        );
        let model =
            text::parse(r#"<ir_version: 6, opset_import: ["" : 11]> g (float x) => (float y) { y = Relu (x) }"#);
        let error = RaiseOpset { to: 26 }.transform(&model.unwrap(), &Context::bare()).unwrap_err();
        insta::assert_snapshot!(
            error.to_string(),
            @"opset 26 is too new: operators are known up to opset 25; lower `to`"
        );
    }
}
