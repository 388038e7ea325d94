//! Make constants of initializers that are listed as inputs too.
//!
//! Before     (x, w = t) => y = MatMul (x, w)        callers may pass another w
//! After      (x) => y = MatMul (x, w)               w an initializer, always t
//! When       every initializer of the main graph is listed: exporters used to list all of them, since files before IR version 4 had
//!            to, and nobody passes weights · with `all`, also those among others that are not listed
//! Refuses    inputs without a default
//! Numerics   Exact, for callers that pass none of these inputs; others get an error from the runtime, which knows no such input
//! Reference  ONNX IR specification, “Graphs”: initializers that are also inputs are defaults
//!
//! As long as callers may override a weight, no pass and no runtime computes anything from it.

use planish_ir::{Def, GraphPath, Model, Numerics, Patch, Value, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FreezeInitializers {
    /// Also if only some initializers are listed as inputs, as those are that callers are meant to override.
    pub all: bool,
}

impl Pass for FreezeInitializers {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for FreezeInitializers {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let graph = &model.graph;
        let is_listed = |&v: &ValueId| graph.value(v).is_some_and(Value::has_default);
        let listed: Vec<ValueId> = graph.inputs().iter().copied().filter(is_listed).collect();
        let (Some(&first), count) = (listed.first(), listed.len()) else { return Ok(changes) };
        let is_constant = |d: &Def| matches!(d, Def::Constant(_) | Def::SparseConstant(_));
        if !self.all && graph.values().any(|(_, v)| is_constant(v.def())) {
            return Ok(changes);
        }
        let example = graph.name_of(first);
        let mut patch = Patch::new(Numerics::Exact, format!("{count} inputs are always their defaults"));
        patch.freeze(listed);
        changes.patches.push((GraphPath::main(), patch));
        changes.changes_interface = true;
        changes.notes.push(format!(
            "{count} initializers were inputs too, {example:?} for one; they are constants now, and callers can no longer pass them"
        ));
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_with};

    const ALL_LISTED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[2] w, float[2] b) => (float[2] y) <float[2] w = {1.0, 2.0}, float[2] b = {3.0, 4.0}> {
            p = Mul (x, w)
            y = Add (p, b)
        }"#;
    const SOME_LISTED: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}, float[2] b = {3.0, 4.0}> {
            p = Mul (x, w)
            y = Add (p, b)
        }"#;

    #[test]
    fn weights_that_an_exporter_listed_become_constants() {
        insta::assert_snapshot!(check::<FreezeInitializers>(ALL_LISTED), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y)
        <
          float[2] w = {1.0, 2.0},
          float[2] b = {3.0, 4.0}
        >
        {
          p = Mul (x, w)
          y = Add (p, b)
        }
        "#);
    }

    #[test]
    fn what_callers_are_meant_to_override_stays_unless_asked_for() {
        insta::assert_snapshot!(check::<FreezeInitializers>(SOME_LISTED), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x, float[2] w) => (float[2] y)
        <
          float[2] w = {1.0, 2.0},
          float[2] b = {3.0, 4.0}
        >
        {
          p = Mul (x, w)
          y = Add (p, b)
        }
        "#);
        let frozen = check_with(FreezeInitializers { all: true }, SOME_LISTED);
        assert_eq!(frozen, check::<FreezeInitializers>(ALL_LISTED));
    }

    #[test]
    fn only_inputs_with_a_default_can_be_frozen() {
        let mut model = planish_ir::text::parse(SOME_LISTED).unwrap();
        for name in ["x", "b", "p"] {
            let mut patch = Patch::new(Numerics::Exact, "");
            patch.freeze(vec![model.graph.value_named(name).unwrap()]);
            assert!(model.apply(&GraphPath::main(), patch).is_err(), "{name}");
        }
    }
}
