//! Holds a rule against the operator table, and its parts against each other, when it is loaded.

use std::collections::BTreeSet;

use planish_ir::{
    OpName,
    op::{self, TABLE, VARIADIC, attributes},
};

use super::{
    ast::{AttrPattern, Defined, Expr, Kind, NameKind, OpExpr, Pattern, Piece, RuleDef, Slot},
    error::{RuleError, Span, hint},
};

/// Parts of a pattern; the matcher calls itself for each.
const MAX_PARTS: usize = 256;

/// Everything that is wrong with a rule.
pub(super) fn check(rule: &RuleDef) -> Vec<RuleError> {
    let mut c = Checker { rule, errors: Vec::new(), parts: 0 };
    for line in &rule.lines {
        c.pattern(&line.pattern);
    }
    c.root();
    c.names();
    c.expressions();
    c.emits();
    if c.parts > MAX_PARTS {
        c.error(rule.at, format!("the pattern has {} parts, more than {MAX_PARTS}", c.parts));
    }
    c.errors.sort_by_key(|e| e.at);
    c.errors.dedup();
    c.errors
}

/// The operators at which a rule can match.
pub(super) fn roots(rule: &RuleDef) -> Vec<OpName> {
    fn collect(p: &Pattern, ops: &mut Vec<OpName>) {
        match p {
            Pattern::Op(o) => ops.push(o.op.clone()),
            Pattern::Any(all) => all.iter().for_each(|p| collect(p, ops)),
            _ => {}
        }
    }
    let mut ops = Vec::new();
    rule.lines.iter().last().into_iter().for_each(|l| collect(&l.pattern, &mut ops));
    ops.sort();
    ops.dedup();
    ops
}

struct Checker<'r> {
    rule: &'r RuleDef,
    errors: Vec<RuleError>,
    parts: usize,
}

impl Checker<'_> {
    fn error(&mut self, at: Span, message: impl Into<String>) {
        self.errors.push(RuleError::new(at, message));
    }

    fn pattern(&mut self, p: &Pattern) {
        self.parts += 1;
        match p {
            Pattern::Any(all) => all.iter().for_each(|p| self.pattern(p)),
            Pattern::Op(o) => {
                if self.operator(&o.op, o.at) {
                    let claimed = o.attrs.iter().filter(|(n, _, _)| self.attribute(&o.op, n).1).count();
                    let open = matches!(o.inputs.last(), Some(Pattern::Rest { .. }));
                    self.arity(&o.op, o.at, o.inputs.len() - usize::from(open), claimed, open);
                }
                for (name, at, wanted) in &o.attrs {
                    self.named_attribute(&o.op, name, *at);
                    if let AttrPattern::Text(_) = wanted
                        && matches!(name.as_str(), "axis" | "axes" | "perm")
                    {
                        self.error(*at, format!("`{name}` is no text"));
                    }
                }
                for (i, input) in o.inputs.iter().enumerate() {
                    if let Pattern::Rest { at, .. } = input
                        && i + 1 < o.inputs.len()
                    {
                        self.error(*at, "`...` stands for all further inputs and comes last");
                    }
                    if o.optional && i > 0 && !binds(input).is_empty() {
                        self.error(o.at, "only the first input of an optional operator can bind names");
                    }
                    self.pattern(input);
                }
                if o.optional && o.inputs.is_empty() {
                    self.error(o.at, "an optional operator has an input, which stands for it where it is left out");
                }
            }
            _ => {}
        }
    }

    /// False if the table does not know the operator.
    fn operator(&mut self, op: &OpName, at: Span) -> bool {
        if op::spec(op).is_some() {
            return true;
        }
        let names: Vec<String> = TABLE.iter().map(|s| OpName::new(s.domain, s.name).to_string()).collect();
        let like = hint(&op.to_string(), names.iter().map(String::as_str));
        self.error(at, format!("the operator table does not know {op}{like}"));
        false
    }

    fn arity(&mut self, op: &OpName, at: Span, inputs: usize, claimed: usize, open: bool) {
        let Some(spec) = op::spec(op) else { return };
        let fits = |&(least, most): &(usize, usize)| {
            if open { inputs <= most } else { inputs + claimed >= least && inputs <= most }
        };
        let mut ranges: Vec<(usize, usize)> = spec.signatures.iter().map(|s| s.inputs).collect();
        ranges.dedup();
        if !ranges.iter().any(fits) {
            let range = |&(least, most): &(usize, usize)| match most {
                VARIADIC => format!("at least {least}"),
                _ if least == most => least.to_string(),
                _ => format!("{least} to {most}"),
            };
            let ranges: Vec<String> = ranges.iter().map(range).collect();
            self.error(at, format!("{op} takes {} inputs, not {inputs}", ranges.join(" or ")));
        }
    }

    /// Whether the operator has the attribute, and whether it is an input in some version.
    fn attribute(&self, op: &OpName, name: &str) -> (bool, bool) {
        let known = attributes::attributes(&op.domain, &op.name).unwrap_or_default();
        let moved = attributes::moved(&op.domain, &op.name, name).is_some();
        (moved || known.iter().any(|(n, _)| *n == name), moved)
    }

    fn named_attribute(&mut self, op: &OpName, name: &str, at: Span) {
        if op::spec(op).is_some() && !self.attribute(op, name).0 {
            let known = attributes::attributes(&op.domain, &op.name).unwrap_or_default();
            let like = hint(name, known.iter().map(|(n, _)| *n));
            self.error(at, format!("{op} has no attribute `{name}`{like}"));
        }
    }

    fn root(&mut self) {
        fn is_node(p: &Pattern) -> bool {
            match p {
                Pattern::Op(o) => !o.optional,
                Pattern::Any(all) => all.iter().all(is_node),
                _ => false,
            }
        }
        let rule = self.rule;
        match rule.lines.last() {
            None => self.error(rule.at, "the match has no line"),
            Some(line) if !is_node(&line.pattern) => {
                self.error(line.at, "the last line is where a match begins: an operator, or several as alternatives");
            }
            Some(line) if line.outputs.iter().all(Option::is_none) => {
                self.error(line.at, "the last line names nothing")
            }
            Some(_) => {}
        }
        for line in &rule.lines {
            if line.outputs.len() > 1 && !is_node(&line.pattern) {
                self.error(line.at, "only an operator has several outputs");
            }
        }
    }

    fn names(&mut self) {
        let rule = self.rule;
        let last = rule.lines.len().saturating_sub(1);
        for name in &rule.names {
            let text = &name.text;
            match name.kind {
                _ if name.uses > 0 => {}
                NameKind::Line { line, .. } if line == last => {}
                NameKind::Line { .. } => self.error(name.at, format!("no later line uses `{text}`")),
                NameKind::Variable | NameKind::Rest => {
                    self.error(name.at, format!("`{text}` is bound but never used; `_` matches anything"));
                }
            }
        }
        for (slot, at) in rule.also.iter().chain(&rule.shared) {
            let inside =
                rule.names.get(*slot).is_some_and(|n| matches!(n.kind, NameKind::Line { line, .. } if line != last));
            if !inside {
                self.error(*at, "is no value inside of the match");
            }
        }
        for l in rule.lets.iter().filter(|l| l.uses == 0) {
            self.error(l.at, format!("`{}` is defined but never used", l.name));
        }
    }

    /// What expressions mention has to be bound whichever alternatives match.
    fn expressions(&mut self) {
        let rule = self.rule;
        let bound = self.always();
        let mut used = Vec::new();
        for c in rule.conditions.iter().chain(rule.emits.iter().filter_map(|e| e.when.as_ref())) {
            visit(&c.test, &mut |e| used.push(e.clone()));
        }
        rule.lets.iter().for_each(|l| visit(&l.value, &mut |e| used.push(e.clone())));
        for line in rule.emits.iter().flat_map(|e| &e.lines) {
            visit(&line.value, &mut |e| used.push(e.clone()));
        }
        for reason in rule.conditions.iter().map(|c| &c.reason) {
            for piece in reason {
                if let Piece::Expr(e) = piece {
                    visit(e, &mut |e| used.push(e.clone()));
                }
            }
        }
        for e in used {
            let (missing, name) = match e.kind {
                Kind::Value(slot) => (!bound.0.contains(&slot), rule.names.get(slot).map(|n| n.text.clone())),
                Kind::Attr(i) => (!bound.1.contains(&i), rule.attrs.get(i).map(|a| format!("${}", a.0))),
                _ => continue,
            };
            if missing {
                let name = name.unwrap_or_default();
                self.error(e.at, format!("`{name}` is bound in some alternatives of the match only"));
            }
        }
    }

    /// Names and attributes that every match binds.
    fn always(&self) -> (BTreeSet<Slot>, BTreeSet<usize>) {
        let mut bound = (BTreeSet::new(), BTreeSet::new());
        if let Some(root) = self.rule.lines.last() {
            bound.0.extend(root.outputs.iter().flatten());
            self.bound_by(&root.pattern, &mut bound);
        }
        bound
    }

    fn bound_by(&self, p: &Pattern, bound: &mut (BTreeSet<Slot>, BTreeSet<usize>)) {
        match p {
            Pattern::Variable { slot, .. } | Pattern::Rest { slot, .. } => {
                bound.0.insert(*slot);
            }
            Pattern::Line { slot } => {
                let Some(NameKind::Line { line, .. }) = self.rule.names.get(*slot).map(|n| n.kind) else { return };
                let Some(line) = self.rule.lines.get(line) else { return };
                // Lines come before those that use them, so this ends; and once is enough.
                if bound.0.insert(*slot) {
                    bound.0.extend(line.outputs.iter().flatten());
                    self.bound_by(&line.pattern, bound);
                }
            }
            Pattern::Op(o) => {
                if !o.optional {
                    bound.1.extend(o.attrs.iter().filter_map(|(_, _, a)| match a {
                        AttrPattern::Bind(i) => Some(*i),
                        _ => None,
                    }));
                }
                o.inputs.iter().for_each(|p| self.bound_by(p, bound));
            }
            Pattern::Any(all) => {
                let each = all.iter().map(|p| {
                    let mut own = (BTreeSet::new(), BTreeSet::new());
                    self.bound_by(p, &mut own);
                    own
                });
                let common = each.reduce(|a, b| (&a.0 & &b.0, &a.1 & &b.1));
                if let Some((slots, attrs)) = common {
                    bound.0.extend(slots);
                    bound.1.extend(attrs);
                }
            }
            Pattern::Number { .. } | Pattern::Ints(_) | Pattern::Anything | Pattern::Absent => {}
        }
    }

    fn emits(&mut self) {
        let rule = self.rule;
        if rule.emits.is_empty() {
            self.error(rule.at, format!("`{}` has no emit", rule.name));
        }
        let root = rule.lines.last().map(|l| l.outputs.iter().flatten().copied()).into_iter().flatten();
        let results: BTreeSet<Slot> = root.chain(rule.also.iter().map(|(s, _)| *s)).collect();
        let mut takes_all: Option<Span> = None;
        for emit in &rule.emits {
            if let Some(first) = takes_all {
                self.error(
                    emit.at,
                    format!("is never reached: the emit in line {} takes all that is left", first.line),
                );
            }
            if emit.targets.is_empty() && emit.when.is_none() {
                // Operators of it may be too young for a model.
                let mut young = false;
                for line in &emit.lines {
                    visit(&line.value, &mut |e| {
                        if let Kind::Op(o) = &e.kind {
                            young |= op::spec(&o.op).is_none_or(|s| s.signature(7).is_none());
                        }
                    });
                }
                takes_all = (!young).then_some(emit.at);
            }
            let mut left = results.clone();
            for line in &emit.lines {
                for output in &line.outputs {
                    match output {
                        Defined::Result(slot) if !left.remove(slot) => {
                            let name = rule.names.get(*slot).map_or("", |n| n.text.as_str());
                            self.error(line.at, format!("`{name}` is no result of the match, or is made twice"));
                        }
                        _ => {}
                    }
                }
                if line.outputs.len() > 1 && !matches!(line.value.kind, Kind::Op(_)) {
                    self.error(line.at, "only an operator has several outputs");
                }
                visit(&line.value, &mut |e| {
                    if let Kind::Op(o) = &e.kind {
                        self.emitted(o, e.at);
                    }
                });
            }
            for slot in left {
                let name = rule.names.get(slot).map_or("", |n| n.text.as_str());
                self.error(emit.at, format!("does not make `{name}`"));
            }
            self.unused(emit);
        }
    }

    fn emitted(&mut self, o: &OpExpr, at: Span) {
        if self.operator(&o.op, at) {
            let claimed = o.attrs.iter().filter(|(n, _, _)| self.attribute(&o.op, n).1).count();
            // A list of values may stand for several inputs.
            let open = o.inputs.iter().any(|e| {
                matches!(e.kind, Kind::Value(s) if self.rule.names.get(s).is_some_and(|n| n.kind == NameKind::Rest))
            });
            self.arity(&o.op, at, o.inputs.len() - usize::from(open), claimed, open);
        }
        for (name, at, _) in &o.attrs {
            self.named_attribute(&o.op, name, *at);
        }
    }

    fn unused(&mut self, emit: &super::ast::Emit) {
        let mut used = BTreeSet::new();
        for line in &emit.lines {
            visit(&line.value, &mut |e| {
                if let Kind::New(line, output) = e.kind {
                    used.insert((line, output));
                }
            });
        }
        for (i, line) in emit.lines.iter().enumerate() {
            for (k, output) in line.outputs.iter().enumerate() {
                if let Defined::New { name, at } = output
                    && !used.contains(&(i, k))
                {
                    self.error(*at, format!("`{name}` is neither a result of the match nor used"));
                }
            }
        }
    }
}

/// Names that a pattern can bind.
fn binds(p: &Pattern) -> Vec<Slot> {
    match p {
        Pattern::Variable { slot, .. } | Pattern::Rest { slot, .. } | Pattern::Line { slot } => vec![*slot],
        Pattern::Any(all) => all.iter().flat_map(binds).collect(),
        Pattern::Op(o) => o.inputs.iter().flat_map(binds).collect(),
        _ => Vec::new(),
    }
}

/// Every part of an expression.
fn visit(e: &Expr, f: &mut dyn FnMut(&Expr)) {
    f(e);
    match &e.kind {
        Kind::List(l) | Kind::Call(_, l) => l.iter().for_each(|e| visit(e, f)),
        Kind::Not(a) | Kind::Neg(a) => visit(a, f),
        Kind::Binary(_, a, b) | Kind::At(a, b) | Kind::Typed(a, b) => {
            visit(a, f);
            visit(b, f);
        }
        Kind::Op(o) => o.attrs.iter().map(|(_, _, e)| e).chain(&o.inputs).for_each(|e| visit(e, f)),
        _ => {}
    }
}
