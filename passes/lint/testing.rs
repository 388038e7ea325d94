//! For the tests of rules.

use planish_ir::text;

use super::lint;
use crate::Target;

/// Findings of one rule in a small graph whose output is y, as lines.
pub(super) fn findings(
    rule: &str,
    target: Target,
    opset: i64,
    inputs: &str,
    weights: &str,
    nodes: &str,
) -> Vec<String> {
    let source = format!(
        r#"<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => (y) <{weights}> {{ {nodes} }}"#
    );
    let model = text::parse(&source).unwrap_or_else(|e| panic!("{e}\n{source}"));
    let all = lint(&model, target).into_iter().filter(|f| f.rule == rule);
    all.map(|f| {
        let tensor = f.tensor.map(|t| format!(" [{t}]")).unwrap_or_default();
        format!("{} {}{tensor}: {}; {}", f.node, f.op, f.problem, f.advice)
    })
    .collect()
}
