//! Finds a pattern in a graph.
//!
//! A stack of goals, each a pattern and the value that is to look like it. Alternatives, the two orders of a commutative
//! operator's inputs and optional operators are tried in order, and undone by a trail; a match that the conditions refuse
//! is left for the next one. All of it is bounded by a number of steps.

use planish_ir::{Def, Graph, Node, NodeId, ValueId, op};

use super::{
    ast::{OpPattern, Pattern, RuleDef, Slot},
    literal,
    value::Val,
};
use crate::RuleContext;

/// Goals that are looked at for one root. Real patterns take a few hundred.
const MAX_STEPS: usize = 20_000;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bound {
    Value(Option<ValueId>),
    List(Vec<Option<ValueId>>),
}

/// What a match found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// By slot.
    pub(super) values: Vec<Option<Bound>>,
    /// By number of the attribute variable.
    pub(super) attrs: Vec<Option<Val>>,
    /// In the order in which they were found, the root first; a node may be listed twice.
    pub(super) nodes: Vec<NodeId>,
    /// A constant might stretch the shape of the result, so that it has to be proven not to.
    pub(super) stretches: bool,
}

impl Found {
    pub(super) fn value(&self, slot: Slot) -> Option<ValueId> {
        match self.values.get(slot)? {
            Some(Bound::Value(v)) => *v,
            _ => None,
        }
    }
}

/// How looking for a rule's pattern ended.
pub(super) enum Outcome<T> {
    Accepted(T),
    /// It is there, but this speaks against it.
    Refused(String),
    /// A part of it is there.
    NearMiss(String),
    Nothing,
}

enum Undo {
    Value(Slot),
    Attr(usize),
    Node,
    Stretches,
}

/// A pattern and what is to look like it; `slot` is the output of the producer that is meant.
#[derive(Clone, Copy)]
struct Goal<'r> {
    pattern: &'r Pattern,
    value: Option<ValueId>,
    slot: u32,
    next: Option<usize>,
}

pub(super) struct Matcher<'a, 'r, T> {
    pub(super) cx: &'a RuleContext<'a>,
    rule: &'r RuleDef,
    pub(super) found: Found,
    accept: &'a mut dyn FnMut(&Found) -> Result<T, String>,
    goals: Vec<Goal<'r>>,
    trail: Vec<Undo>,
    steps: usize,
    accepted: Option<T>,
    refusal: Option<String>,
    near: Option<(usize, String)>,
}

/// Looks for the pattern of a rule at a node. `accept` decides on each match; the first that it takes ends the search.
pub(super) fn search<T>(
    cx: &RuleContext<'_>,
    rule: &RuleDef,
    node: &Node,
    accept: &mut dyn FnMut(&Found) -> Result<T, String>,
) -> Outcome<T> {
    let Some(root) = rule.lines.last() else { return Outcome::Nothing };
    let found = Found {
        values: vec![None; rule.names.len()],
        attrs: vec![None; rule.attrs.len()],
        nodes: Vec::new(),
        stretches: false,
    };
    let mut m = Matcher {
        cx,
        rule,
        found,
        accept,
        goals: Vec::new(),
        trail: Vec::new(),
        steps: 0,
        accepted: None,
        refusal: None,
        near: None,
    };
    // The root is reached through one of its outputs that the rule names.
    let named = root.outputs.iter().enumerate().find_map(|(i, slot)| Some((i, (*slot)?)));
    let Some((i, value)) = named.and_then(|(i, _)| Some((i, node.output(i)?))) else { return Outcome::Nothing };
    for (slot, output) in root.outputs.iter().zip((0..).map(|i| node.output(i))) {
        if let Some(slot) = slot {
            m.bind(*slot, Bound::Value(output));
        }
    }
    m.goals.push(Goal { pattern: &root.pattern, value: Some(value), slot: i as u32, next: None });
    m.solve(Some(0));
    if m.steps > MAX_STEPS {
        return Outcome::Refused(format!("no match within {MAX_STEPS} steps"));
    }
    match (m.accepted, m.refusal, m.near) {
        (Some(t), _, _) => Outcome::Accepted(t),
        (None, Some(reason), _) => Outcome::Refused(reason),
        (None, None, Some((_, text))) => Outcome::NearMiss(text),
        (None, None, None) => Outcome::Nothing,
    }
}

impl<'r, T> Matcher<'_, 'r, T> {
    /// True if the goal and those behind it are reached and the match is accepted.
    fn solve(&mut self, goal: Option<usize>) -> bool {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return false;
        }
        let Some(goal) = goal.and_then(|i| self.goals.get(i).copied()) else { return self.complete() };
        match goal.pattern {
            Pattern::Anything => self.solve(goal.next),
            Pattern::Absent => match goal.value {
                None => self.solve(goal.next),
                Some(v) => self.miss(|g| format!("{:?} is given, where nothing was expected", g.name_of(v))),
            },
            Pattern::Any(all) => all.iter().any(|pattern| self.attempt(Goal { pattern, ..goal })),
            Pattern::Variable { slot, constant } => {
                let Some(value) = goal.value else { return self.miss(|_| "an input is left out".into()) };
                if *constant && literal::constant(self.cx.graph, value).is_none() {
                    return self.miss(|g| format!("{:?} is no constant", g.name_of(value)));
                }
                self.bind(*slot, Bound::Value(Some(value))) && self.solve(goal.next)
            }
            Pattern::Number { text, value, .. } => {
                let t = goal.value.and_then(|v| literal::constant(self.cx.graph, v));
                match literal::matches(t, text, *value) {
                    Ok(()) => self.solve(goal.next),
                    Err(reason) => self.miss(|_| reason.to_string()),
                }
            }
            Pattern::Ints(list) => {
                let t = goal.value.and_then(|v| literal::constant(self.cx.graph, v));
                match t.filter(|t| t.elements() <= 1024 && t.rank() <= 1).and_then(|t| t.to_i64().ok()) {
                    Some(v) if v == *list => self.solve(goal.next),
                    Some(v) => self.miss(|_| format!("the constant is {v:?}, not {list:?}")),
                    None => self.miss(|_| format!("an input is not the constant {list:?}")),
                }
            }
            Pattern::Line { slot } => self.line(*slot, goal),
            Pattern::Op(pattern) => self.operator(pattern, goal),
            // Only at the end of an operator's inputs, where `operator` deals with it.
            Pattern::Rest { .. } => false,
        }
    }

    fn complete(&mut self) -> bool {
        match (self.accept)(&self.found) {
            Ok(t) => {
                self.accepted = Some(t);
                true
            }
            Err(reason) => {
                self.refusal.get_or_insert(reason);
                false
            }
        }
    }

    /// Solves a goal instead of another one, and undoes everything if that fails.
    fn attempt(&mut self, goal: Goal<'r>) -> bool {
        let (trail, goals) = (self.trail.len(), self.goals.len());
        self.goals.push(goal);
        let solved = self.solve(Some(goals));
        if !solved {
            self.undo(trail);
            self.goals.truncate(goals);
        }
        solved
    }

    fn undo(&mut self, to: usize) {
        while self.trail.len() > to {
            match self.trail.pop() {
                Some(Undo::Value(slot)) => self.found.values[slot] = None,
                Some(Undo::Attr(i)) => self.found.attrs[i] = None,
                Some(Undo::Node) => {
                    self.found.nodes.pop();
                }
                Some(Undo::Stretches) => self.found.stretches = false,
                None => return,
            }
        }
    }

    /// False if the name stands for something else already.
    fn bind(&mut self, slot: Slot, bound: Bound) -> bool {
        match &self.found.values[slot] {
            Some(old) if *old == bound => true,
            Some(_) => {
                let rule = self.rule;
                let name = &rule.names[slot].text;
                self.miss(|_| format!("`{name}` would stand for two values"))
            }
            None => {
                self.found.values[slot] = Some(bound);
                self.trail.push(Undo::Value(slot));
                true
            }
        }
    }

    pub(super) fn bind_attr(&mut self, i: usize, value: Val) -> bool {
        match &self.found.attrs[i] {
            Some(old) => *old == value,
            None => {
                self.found.attrs[i] = Some(value);
                self.trail.push(Undo::Attr(i));
                true
            }
        }
    }

    /// Always false. The words are made only if somebody wants them and no match got further.
    pub(super) fn miss(&mut self, why: impl FnOnce(&Graph) -> String) -> bool {
        let count = self.found.nodes.len();
        if self.cx.explains && count >= 2 && self.near.as_ref().is_none_or(|(best, _)| count > *best) {
            let graph = self.cx.graph;
            let ops: Vec<&str> =
                self.found.nodes.iter().filter_map(|&n| Some(graph.node(n)?.op.name.as_str())).collect();
            let ops = match ops.split_last() {
                Some((last, before)) => format!("{} and {last}", before.join(", ")),
                None => String::new(),
            };
            self.near = Some((count, format!("matched {ops}, but {}", why(graph))));
        }
        false
    }

    /// What a line made: its pattern is looked at once, afterwards it has to be the same value.
    fn line(&mut self, slot: Slot, goal: Goal<'r>) -> bool {
        if let Some(bound) = &self.found.values[slot] {
            let same = *bound == Bound::Value(goal.value);
            return if same { self.solve(goal.next) } else { self.other_value(slot, goal.value) };
        }
        let super::ast::NameKind::Line { line, output } = self.rule.names[slot].kind else { return false };
        let rule = self.rule;
        let Some(line) = rule.lines.get(line) else { return false };
        let Some(value) = goal.value else { return false };
        if line.outputs.len() > 1 {
            let Some((_, node)) = self.cx.graph.producer(value) else { return false };
            for (i, slot) in line.outputs.iter().enumerate() {
                if let Some(slot) = slot
                    && !self.bind(*slot, Bound::Value(node.output(i)))
                {
                    return false;
                }
            }
            if node.output(output as usize) != Some(value) {
                return false;
            }
        } else if !self.bind(slot, Bound::Value(goal.value)) {
            return false;
        }
        self.attempt(Goal { pattern: &line.pattern, value: goal.value, slot: output, next: goal.next })
    }

    fn other_value(&mut self, slot: Slot, value: Option<ValueId>) -> bool {
        let rule = self.rule;
        let name = &rule.names[slot].text;
        self.miss(|g| format!("{} is not what `{name}` stands for", value.map_or("nothing".into(), |v| g.name_of(v))))
    }

    fn operator(&mut self, pattern: &'r OpPattern, goal: Goal<'r>) -> bool {
        let Some(value) = goal.value else { return self.miss(|_| format!("{} is left out", pattern.op)) };
        if self.node(pattern, goal, value) {
            return true;
        }
        match pattern.inputs.first() {
            Some(first) if pattern.optional => self.attempt(Goal { pattern: first, slot: 0, ..goal }),
            _ => false,
        }
    }

    /// The producer of a value against the pattern of an operator.
    fn node(&mut self, pattern: &'r OpPattern, goal: Goal<'r>, value: ValueId) -> bool {
        let graph = self.cx.graph;
        let Some(Def::Node { node: id, slot }) = graph.value(value).map(|v| v.def()) else {
            return self.miss(|g| format!("{:?} is made by no node, not by {}", g.name_of(value), pattern.op));
        };
        let Some(node) = graph.node(*id) else { return false };
        if node.op != pattern.op || op::of(node).is_none() || *slot != goal.slot || node.attrs.has_graphs() {
            return self.miss(|g| format!("{:?} is made by {}, not by {}", g.name_of(value), node.op, pattern.op));
        }
        let (trail, goals) = (self.trail.len(), self.goals.len());
        self.found.nodes.push(*id);
        self.trail.push(Undo::Node);
        let claimed = self.attributes(pattern, node);
        let solved = claimed.is_some_and(|claimed| self.orders(pattern, node, &claimed, goal));
        if !solved {
            self.undo(trail);
            self.goals.truncate(goals);
        }
        solved
    }

    /// The inputs of a node that no attribute of the pattern stands for, in the orders that the operator allows.
    fn orders(&mut self, pattern: &'r OpPattern, node: &Node, claimed: &[usize], goal: Goal<'r>) -> bool {
        let mut inputs: Vec<Option<ValueId>> =
            (0..node.inputs().len()).filter(|i| !claimed.contains(i)).map(|i| node.input(i)).collect();
        if self.inputs(pattern, &inputs, goal) {
            return true;
        }
        let broadcasts = node.attrs.int("broadcast").unwrap_or(0) != 0;
        let commutes = op::of(node).is_some_and(|s| s.traits.commutative) && !broadcasts;
        if commutes && inputs.len() >= 2 && pattern.inputs.len() >= 2 {
            inputs.swap(0, 1);
            return self.inputs(pattern, &inputs, goal);
        }
        false
    }

    fn inputs(&mut self, pattern: &'r OpPattern, inputs: &[Option<ValueId>], goal: Goal<'r>) -> bool {
        let (trail, goals) = (self.trail.len(), self.goals.len());
        let (fixed, rest) = match pattern.inputs.split_last() {
            Some((Pattern::Rest { slot, .. }, fixed)) => (fixed, Some(*slot)),
            _ => (pattern.inputs.as_slice(), None),
        };
        let solved = match (inputs.get(fixed.len()..), rest) {
            (Some(others), Some(slot)) => self.bind(slot, Bound::List(others.to_vec())),
            (Some(others), None) if others.iter().any(Option::is_some) => {
                self.miss(|_| format!("{} has {} inputs, not {}", pattern.op, inputs.len(), fixed.len()))
            }
            _ => true,
        } && {
            if fixed.iter().zip(inputs).any(|(p, v)| literal::may_be_number(p) && self.may_stretch(*v, inputs)) {
                self.trail.extend((!self.found.stretches).then_some(Undo::Stretches));
                self.found.stretches = true;
            }
            let mut next = goal.next;
            for (i, pattern) in fixed.iter().enumerate().rev() {
                self.goals.push(Goal { pattern, value: inputs.get(i).copied().flatten(), slot: 0, next });
                next = Some(self.goals.len() - 1);
            }
            self.solve(next)
        };
        if !solved {
            self.undo(trail);
            self.goals.truncate(goals);
        }
        solved
    }

    /// False for what no broadcasting can make larger: a constant of one element beside a value of no lesser rank.
    fn may_stretch(&self, value: Option<ValueId>, inputs: &[Option<ValueId>]) -> bool {
        let Some(t) = value.and_then(|v| literal::constant(self.cx.graph, v)) else { return false };
        let rank = |v: ValueId| self.cx.facts.fact(v).shape().map(<[_]>::len);
        let beside = inputs.iter().flatten().any(|&v| Some(v) != value && rank(v).is_some_and(|r| r >= t.rank()));
        t.rank() > 0 && !(t.elements() == 1 && beside)
    }
}
