//! Make one operator of several, by the built-in rules.
//!
//! Before     what exporters spell out: activations and normalizations as chains of elementwise operators
//! After      the operator that they stand for, in the form that the target runs best
//! When       a rule of `passes/fuse/rules` matches; `planish passes explain fuse` lists them
//! Refuses    what the conditions of the rule say; values inside that others read; operators that the model's operator
//!            set does not have; what would not leave fewer nodes
//! Numerics   that of each rule
//! Reference  each rule names its own

use std::{borrow::Cow, sync::LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Pass, Shape, rules::RuleSet, suggest};

/// One rule file per line, tried in this order.
static FILES: &[(&str, &str)] = &[
    ("bias_gelu", include_str!("rules/bias_gelu.rule")),
    ("clip", include_str!("rules/clip.rule")),
    ("depth_to_space", include_str!("rules/depth_to_space.rule")),
    ("gelu_erf", include_str!("rules/gelu_erf.rule")),
    ("gelu_tanh", include_str!("rules/gelu_tanh.rule")),
    ("group_norm", include_str!("rules/group_norm.rule")),
    ("hard_swish", include_str!("rules/hard_swish.rule")),
    ("instance_norm", include_str!("rules/instance_norm.rule")),
    ("layer_norm", include_str!("rules/layer_norm.rule")),
    ("layer_norm_axes", include_str!("rules/layer_norm_axes.rule")),
    ("layer_norm_plain", include_str!("rules/layer_norm_plain.rule")),
    ("leaky_relu", include_str!("rules/leaky_relu.rule")),
    ("log_softmax", include_str!("rules/log_softmax.rule")),
    ("mish", include_str!("rules/mish.rule")),
    ("norm_affine", include_str!("rules/norm_affine.rule")),
    ("prelu", include_str!("rules/prelu.rule")),
    ("rms_norm", include_str!("rules/rms_norm.rule")),
    ("rotary", include_str!("rules/rotary.rule")),
    ("sigmoid", include_str!("rules/sigmoid.rule")),
    ("silu", include_str!("rules/silu.rule")),
    ("skip_norm", include_str!("rules/skip_norm.rule")),
    ("softmax", include_str!("rules/softmax.rule")),
    ("space_to_depth", include_str!("rules/space_to_depth.rule")),
];

/// All built-in rules. A test holds that there is nothing wrong with them.
static ALL: LazyLock<RuleSet> = LazyLock::new(|| {
    FILES.iter().fold(RuleSet::default(), |all, (_, text)| all.with(RuleSet::parse(text).unwrap_or_default()))
});

/// Which rules.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Only these rules; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    /// All rules but these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
}

/// The selected rules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Selection", into = "Selection")]
pub struct Fuse {
    selection: Selection,
    rules: RuleSet,
}

impl Default for Fuse {
    fn default() -> Fuse {
        Fuse { selection: Selection::default(), rules: ALL.clone() }
    }
}

impl TryFrom<Selection> for Fuse {
    type Error = String;

    fn try_from(selection: Selection) -> Result<Fuse, String> {
        for name in selection.only.iter().chain(&selection.except) {
            if !ALL.names().any(|n| n == name) {
                return Err(match suggest(name, ALL.names()) {
                    Some(like) => format!("unknown rule `{name}`; did you mean `{like}`?"),
                    None => format!("unknown rule `{name}`; `planish passes explain fuse` lists them"),
                });
            }
        }
        let listed = |list: &[String], name: &str| list.iter().any(|n| n == name);
        let accept = |name: &str| {
            (selection.only.is_empty() || listed(&selection.only, name)) && !listed(&selection.except, name)
        };
        let rules = ALL.clone().filter(accept);
        Ok(Fuse { selection, rules })
    }
}

impl JsonSchema for Fuse {
    fn schema_name() -> Cow<'static, str> {
        Selection::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Selection::json_schema(generator)
    }
}

impl From<Fuse> for Selection {
    fn from(fuse: Fuse) -> Selection {
        fuse.selection
    }
}

impl Fuse {
    /// Name and purpose of each built-in rule.
    pub fn summaries() -> impl Iterator<Item = (&'static str, &'static str)> {
        ALL.summaries()
    }
}

impl Pass for Fuse {
    fn shape(&self) -> Shape<'_> {
        Shape::Rule(&self.rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_nothing_wrong_with_the_rules() {
        for (file, text) in FILES {
            if let Err(errors) = RuleSet::parse(text) {
                panic!("{}", errors.iter().map(|e| format!("{file}.rule:{e}\n")).collect::<String>());
            }
        }
    }
}
