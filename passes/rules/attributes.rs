//! Attributes of a node against those of a pattern.

use planish_ir::{
    Attr, Node,
    op::attributes::{Unset, moved, unset},
};

use super::{
    ast::{AttrPattern, OpPattern},
    literal,
    matcher::Matcher,
    value::Val,
};

impl<'r, T> Matcher<'_, 'r, T> {
    /// The input slots that attributes of the pattern stand for, or nothing if some attribute is not as it has to be.
    pub(super) fn attributes(&mut self, pattern: &'r OpPattern, node: &Node) -> Option<Vec<usize>> {
        let op = &pattern.op;
        let opset = self.cx.opsets.get(&op.domain).copied().unwrap_or(1);
        let mut claimed = Vec::new();
        for (name, _, wanted) in &pattern.attrs {
            let found = match moved(&op.domain, &op.name, name).filter(|m| opset >= m.since) {
                Some(m) => {
                    claimed.push(m.slot);
                    match node.input(m.slot) {
                        Some(v) => literal::constant(self.cx.graph, v).and_then(constant),
                        None => default(op, name, opset, wanted),
                    }
                }
                None => match node.attrs.get(name) {
                    Some(attr) => value(attr),
                    None => default(op, name, opset, wanted),
                },
            };
            let found = found.map(|v| self.normal(node, name, v));
            // A number may be stored as a list of one.
            let found = match (wanted, found) {
                (AttrPattern::Int(_) | AttrPattern::Float(_), Some(Val::List(l))) if l.len() == 1 => {
                    l.into_iter().next()
                }
                (_, found) => found,
            };
            let fits = match (wanted, &found) {
                (_, None) => false,
                (AttrPattern::Bind(i), Some(v)) => self.bind_attr(*i, v.clone()),
                (AttrPattern::Int(i), Some(Val::Int(v))) => i == v,
                (AttrPattern::Int(i), Some(Val::Float(v))) => literal::near(*i as f64, *v),
                (AttrPattern::Float(x), Some(Val::Float(v))) => literal::near(*x, *v),
                (AttrPattern::Text(t), Some(Val::Text(v))) => t == v,
                (AttrPattern::Ints(l), Some(v)) => Val::ints(l.iter().copied()) == *v,
                _ => false,
            };
            if !fits {
                let found = found.map_or("not known".to_owned(), |v| v.to_string());
                self.miss(|_| format!("{name} of {op} is {found}"));
                return None;
            }
        }
        if !pattern.open {
            let mentioned = |name: &str| pattern.attrs.iter().any(|(n, _, _)| n == name);
            let other = node
                .attrs
                .iter()
                .find(|(name, attr)| !mentioned(name) && !is_default(attr, unset(&op.domain, &op.name, name, opset)));
            if let Some((name, _)) = other {
                self.miss(|_| format!("{op} has the attribute {name}, which the rule does not mention"));
                return None;
            }
        }
        Some(claimed)
    }

    /// Axes count from the end where the rank is known, so that a rule has to know one spelling only.
    fn normal(&self, node: &Node, name: &str, value: Val) -> Val {
        // The axes of these do not count those of the input.
        if !matches!(name, "axis" | "axes") || matches!(node.op.name.as_str(), "OneHot" | "Unsqueeze") {
            return value;
        }
        let rank = node.input(0).and_then(|x| self.cx.facts.fact(x).shape()).map(<[_]>::len);
        let Some(rank) = rank.and_then(|r| i64::try_from(r).ok()) else { return value };
        let from_end = |v: Val| match v {
            Val::Int(i) if (0..rank).contains(&i) => Val::Int(i - rank),
            other => other,
        };
        match value {
            Val::List(l) => Val::List(l.into_iter().map(from_end).collect()),
            other => from_end(other),
        }
    }
}

/// What an attribute that is not given is, as far as it can be said in general.
fn default(op: &planish_ir::OpName, name: &str, opset: i64, wanted: &AttrPattern) -> Option<Val> {
    match (unset(&op.domain, &op.name, name, opset)?, wanted) {
        (Unset::Int(i), _) => Some(Val::Int(i)),
        (Unset::Float(x), _) => Some(Val::Float(f64::from(x))),
        (Unset::Text(t), _) => Some(Val::Text(t.to_owned())),
        // As many as the rule expects.
        (Unset::Each(i), AttrPattern::Ints(l)) => Some(Val::ints(vec![i; l.len()])),
        (Unset::Each(_) | Unset::Implied | Unset::Nothing, _) => None,
    }
}

fn is_default(attr: &Attr, unset: Option<Unset>) -> bool {
    match (unset, attr) {
        (Some(Unset::Implied), _) => true,
        (Some(Unset::Int(d)), Attr::Int(i)) => *i == d,
        (Some(Unset::Float(d)), Attr::Float(x)) => *x == d,
        (Some(Unset::Text(d)), Attr::String(s)) => s.as_ref() == d.as_bytes(),
        (Some(Unset::Each(d)), Attr::Ints(l)) => l.iter().all(|&i| i == d),
        _ => false,
    }
}

/// An attribute as a value of the language.
pub(super) fn value(attr: &Attr) -> Option<Val> {
    Some(match attr {
        Attr::Int(i) => Val::Int(*i),
        Attr::Float(x) => Val::Float(f64::from(*x)),
        Attr::String(s) => Val::Text(String::from_utf8(s.to_vec()).ok()?),
        Attr::Ints(l) => Val::ints(l.iter().copied()),
        Attr::Floats(l) => Val::List(l.iter().map(|&x| Val::Float(f64::from(x))).collect()),
        _ => return None,
    })
}

/// A constant input that was an attribute: a list, or a number if it is a scalar.
fn constant(t: &planish_ir::Tensor) -> Option<Val> {
    if t.elements() > 64 {
        return None;
    }
    let all: Vec<Val> = match t.dtype().is_float() {
        true => t.to_f64().ok()?.into_iter().map(Val::Float).collect(),
        false => t.to_i64().ok()?.into_iter().map(Val::Int).collect(),
    };
    match (t.rank(), all.as_slice()) {
        (0, [one]) => Some(one.clone()),
        _ => Some(Val::List(all)),
    }
}
