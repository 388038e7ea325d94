//! Rewrites that are written down instead of programmed: patterns, conditions and replacements in a text.
//!
//! `README.md` beside this file describes the language. A file goes through the lexer, the parser, and the checker, which
//! holds it against the operator table. At a node the matcher looks for a rule's pattern; on each match conditions are
//! evaluated, and the first emit that fits becomes a patch. The driver treats that as any other patch.

mod arithmetic;
mod ast;
mod attributes;
mod check;
mod emit;
mod error;
mod eval;
mod expression;
mod function;
mod interior;
mod lexer;
mod literal;
mod matcher;
mod parser;
mod pass;
mod pattern;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;

use planish_ir::{Node, NodeId, OpName, Patch};

pub use error::{RuleError, Span};
pub use pass::UserRules;

use crate::{Rule, RuleContext, Skip};

/// Longest rule file that is read.
pub const MAX_BYTES: usize = 1 << 20;

/// Rules in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Vec<ast::RuleDef>,
    /// The rules that can match at an operator.
    by_root: BTreeMap<OpName, Vec<usize>>,
}

impl RuleSet {
    /// Reads a file. Fails with everything that is wrong with it, in the order of lines.
    pub fn parse(text: &str) -> Result<RuleSet, Vec<RuleError>> {
        if text.len() > MAX_BYTES {
            return Err(vec![RuleError::new(Span { line: 1, column: 1 }, format!("longer than {MAX_BYTES} bytes"))]);
        }
        let (rules, mut errors) = parser::parse(text);
        errors.extend(rules.iter().flat_map(check::check));
        for (i, rule) in rules.iter().enumerate() {
            if rules.iter().take(i).any(|r| r.name == rule.name) {
                errors.push(RuleError::new(rule.at, format!("there is another rule `{}` before", rule.name)));
            }
        }
        errors.sort_by_key(|e| e.at);
        if errors.is_empty() { Ok(RuleSet::of(rules)) } else { Err(errors) }
    }

    fn of(rules: Vec<ast::RuleDef>) -> RuleSet {
        let mut by_root: BTreeMap<OpName, Vec<usize>> = BTreeMap::new();
        for (i, rule) in rules.iter().enumerate() {
            for op in check::roots(rule) {
                by_root.entry(op).or_default().push(i);
            }
        }
        RuleSet { rules, by_root }
    }

    /// The rules of both, these first.
    #[must_use]
    pub fn with(self, other: RuleSet) -> RuleSet {
        RuleSet::of(self.rules.into_iter().chain(other.rules).collect())
    }

    /// Only the rules whose names are accepted.
    #[must_use]
    pub fn filter(self, accept: impl Fn(&str) -> bool) -> RuleSet {
        RuleSet::of(self.rules.into_iter().filter(|r| accept(&r.name)).collect())
    }

    /// Names of the rules, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|r| r.name.as_str())
    }

    /// Name and purpose of each rule, in their order.
    pub fn summaries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().map(|r| (r.name.as_str(), r.what.as_str()))
    }
}

impl Rule for RuleSet {
    fn roots(&self) -> &'static [&'static str] {
        &[]
    }

    fn matches(&self, op: &OpName) -> bool {
        self.by_root.contains_key(op)
    }

    fn rewrite(&self, cx: &RuleContext<'_>, id: NodeId, node: &Node) -> Result<Patch, Skip> {
        let (mut refused, mut near) = (Vec::new(), Vec::new());
        for rule in self.by_root.get(&node.op).into_iter().flatten().filter_map(|&i| self.rules.get(i)) {
            match matcher::search(cx, rule, node, &mut |found| accept(cx, rule, id, found)) {
                matcher::Outcome::Accepted(patch) => return Ok(patch),
                matcher::Outcome::Refused(reason) => refused.push(format!("{}: {reason}", rule.name)),
                matcher::Outcome::NearMiss(text) => near.push(format!("{}: {text}", rule.name)),
                matcher::Outcome::Nothing => {}
            }
        }
        match (refused.is_empty(), near.is_empty()) {
            (false, _) => Err(Skip::because(refused.into_iter().chain(near).collect::<Vec<_>>().join("; "))),
            (true, false) => Err(Skip::NearMiss(near.join("; "))),
            (true, true) => Err(Skip::NoMatch),
        }
    }
}

/// The patch for a match, or what speaks against it.
fn accept(cx: &RuleContext<'_>, rule: &ast::RuleDef, id: NodeId, found: &matcher::Found) -> Result<Patch, String> {
    let interior = interior::Interior::of(cx.graph, rule, found, id)?;
    let eval = eval::Eval::new(cx, rule, found);
    for condition in &rule.conditions {
        match eval.eval(&condition.test).and_then(|v| v.bool()) {
            Ok(true) => {}
            Ok(false) => return Err(eval.text(&condition.reason)),
            Err(t) => return Err(emit::trouble(&condition.text, t)),
        }
    }
    emit::replace(&eval, &interior)
}
