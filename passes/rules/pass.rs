//! Rewrite by the user's own rules.
//!
//! Before     what a rule of the file matches
//! After      what the rule makes of it
//! When       the rule's conditions hold; `passes/rules/README.md` describes the language
//! Refuses    what the rule says; values inside of a match that others read; what would not leave fewer nodes
//! Numerics   that of each rule
//! Reference  each rule names its own

use std::{borrow::Cow, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RuleSet;
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Where the rules are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// A rule file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// The rules themselves, instead of a file. What is recorded of a file that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Rules from outside. Nothing here reads files: whoever reads the pipeline puts the text beside the name of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub struct UserRules {
    source: Source,
    rules: RuleSet,
}

impl TryFrom<Source> for UserRules {
    type Error = String;

    fn try_from(source: Source) -> Result<UserRules, String> {
        let rules = RuleSet::parse(source.text.as_deref().unwrap_or("")).map_err(|errors| {
            let file = source.file.as_ref().map_or_else(|| "text".to_owned(), |f| f.display().to_string());
            errors.iter().map(|e| format!("{file}:{e}")).collect::<Vec<_>>().join("\n")
        })?;
        Ok(UserRules { source, rules })
    }
}

impl From<UserRules> for Source {
    fn from(rules: UserRules) -> Source {
        rules.source
    }
}

impl JsonSchema for UserRules {
    fn schema_name() -> Cow<'static, str> {
        "UserRules".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Source::json_schema(generator)
    }
}

impl Pass for UserRules {
    fn shape(&self) -> Shape<'_> {
        match (&self.source.file, &self.source.text) {
            (Some(_), None) => Shape::Transform(self),
            _ => Shape::Rule(&self.rules),
        }
    }
}

/// Only for a file that nobody has read.
impl Transform for UserRules {
    fn transform(&self, _: &planish_ir::Model, _: &Context<'_>) -> Result<Changes, PassError> {
        let file = self.source.file.as_ref().map_or_else(String::new, |f| f.display().to_string());
        Err(PassError::Precondition(format!("the rule file {file} was not read")))
    }
}
