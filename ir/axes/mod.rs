//! Axis roles: how the axes of a node's operands, weights included, hang together.
//!
//! A node's axes are spelled with letters, each of which stands for an index of some size. A letter that occurs at several
//! places ties them: whoever takes an index out at one place takes it out at all. An axis is a list of [parts](Spelled::parts)
//! that lie behind each other, and each part a row-major product of letters, the slowest one first:
//!
//! | tie | spelling | printed |
//! |---|---|---|
//! | identical | one letter on both sides | `0[a,b] -> 0[a,b]` |
//! | permuted | at another place | `0[a,b] -> 0[b,a]` |
//! | concatenated, split, cut, padded | parts | `0[a] 1[b] -> 0[a\|b]` |
//! | flattened, or taken apart, by blocks | a product | `0[a,b*c] -> 0[a,b,c]` |
//! | in groups | a product that shares its outer or inner letter | `0[a*b] 1[a*c,b+] -> 0[a*c]` |
//! | reduced | a letter of inputs only | `0[a,b+] -> 0[a]` |
//! | broadcast, repeated | nothing on one side | `0[a] 1[1] -> 0[a]` |
//! | opaque | a letter that has to stay whole | `0[a!] -> 0[b!]` |
//!
//! Axes of size 1 are spelled with no letter: there is nothing to take out. What a letter's index means to the node's
//! results is its [`Role`]. Attributes and small inputs that repeat a size (`group`, `hidden_size`, the target of a
//! `Reshape`) are listed with the letters that they count ([`Stated`]); whoever changes a size has to adjust them.
//!
//! Each operator has a [`Rule`] in its line of the table, next to its shape rule and from the same facts. [`classes`] forms the
//! closure over a whole model.

mod closure;
mod cut;
mod forms;
mod print;
mod spelling;
mod terms;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

pub use closure::{Block, Class, Classes, Member, Place, Repeat, classes};
pub use cut::{Fix, Kept};
pub(crate) use forms::{aligned, elementwise, free, like_first, reshape, same_axes};
pub use spelling::Spelling;

use crate::{
    Dim, Model, Node, ValueId,
    infer::{Call, Fact, GraphFacts},
};

/// Spells the axes of a node's operands. Axes that it leaves out are opaque. On an error all of them are, for that reason.
pub type Rule = fn(&mut Spelling<'_>) -> Result<(), Why>;

/// Why an axis has to stay whole, as the end of a sentence about the node.
pub type Why = &'static str;

/// The reason of axes of windows, and of what they slide along.
pub const WINDOW: Why = "a window slides along it";

/// The rule of operators of which nothing is known.
fn opaque(_: &mut Spelling<'_>) -> Result<(), Why> {
    Err("the operator's axes are not known")
}

/// An operand of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// Input slot.
    In(usize),
    /// Output slot.
    Out(usize),
}

/// A letter of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Letter(usize);

impl Letter {
    /// Its place in [`Axes::letters`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What becomes of a node's results when an index of a letter is taken out everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The results at this index are gone; all others are as before.
    Free,
    /// Results lose a summand: those at an index whose summands are zero are as before. Products contract such axes.
    Summed,
    /// Results at other indices change, for they depend on all of them: a mean, a norm, a softmax.
    Mixed,
    /// It cannot be taken out: its place has a meaning, or what it is tied to is not known.
    Whole(Why),
}

/// What a letter stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// How many values it takes.
    pub size: Dim,
    /// What they mean to the results.
    pub role: Role,
}

/// Row-major product of letters, the slowest one first; empty for a size of 1.
pub type Part = Vec<Letter>;

/// How one axis of one operand is spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelled {
    /// The operand.
    pub port: Port,
    /// The axis, counted from the front.
    pub axis: usize,
    /// What lies behind each other along it.
    pub parts: Vec<Part>,
}

/// A size that a node states besides having it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Where it is stated.
    pub at: At,
    /// What it counts.
    pub parts: Vec<Part>,
}

/// Where a node states a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// In an integer attribute. One that is left out stays so.
    Attr(&'static str),
    /// In an item of an attribute that is a list.
    Item(&'static str, usize),
    /// In an element of an integer input. What is no size, such as 0 and -1 in a target, stays.
    Input(usize, usize),
    /// In an element of an integer input that bounds a slice, in any form: counted from the back, or behind the end.
    Bound(usize, usize),
    /// In the list of the parts that an axis is split into: an attribute until opset 13, then an input. If it is left out, the
    /// parts are equal.
    Part(usize),
    /// In a float attribute that is one over the root of the size if it is left out: then it has to be given, with the value
    /// that it has by default before the size changes.
    InverseRoot(&'static str),
}

/// How the axes of a node's operands hang together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Axes {
    /// The letters.
    pub letters: Vec<Index>,
    /// Every axis of every operand whose rank is known, by operand and axis.
    pub spelled: Vec<Spelled>,
    /// Where sizes are repeated.
    pub stated: Vec<Stated>,
}

impl Axes {
    /// Spells a node of the model, of whose graph `facts` are known; `None` if the model defines its operator itself.
    pub fn of_node(model: &Model, facts: &GraphFacts, node: &Node) -> Option<Axes> {
        if node.is_local() {
            return None;
        }
        let fact = |v: &Option<ValueId>| v.map_or(&Fact::UNKNOWN, |v| facts.fact(v));
        let call = crate::infer::call(node, &model.opsets, node.inputs().iter().map(fact).collect(), Vec::new())?;
        let outputs: Vec<Fact> = node.outputs().iter().map(|v| fact(v).clone()).collect();
        Some(Axes::of(&call, &outputs))
    }

    /// Spells a call by its operator's rule; opaque if the table does not list the operator.
    pub fn of(call: &Call<'_>, outputs: &[Fact]) -> Axes {
        let rule = crate::op::of(call.node).and_then(|s| s.axes).unwrap_or(opaque);
        Axes::by(rule, call, outputs)
    }

    /// The size that parts behind each other add up to.
    pub fn volume(&self, parts: &[Part]) -> Dim {
        volume(&self.letters, parts)
    }

    fn by(rule: Rule, call: &Call<'_>, outputs: &[Fact]) -> Axes {
        let mut s = Spelling::new(call, outputs);
        match rule(&mut s).and_then(|()| s.check()) {
            Ok(()) => s.finish("the axis is not followed through the operator"),
            Err(why) => Spelling::new(call, outputs).finish(why),
        }
    }
}

fn volume(letters: &[Index], parts: &[Part]) -> Dim {
    let size = |l: &Letter| letters.get(l.index()).map_or(Dim::Unknown, |l| l.size.clone());
    let product = |p: &Part| p.iter().fold(Dim::Known(1), |n, l| n.mul(&size(l)));
    parts.iter().fold(Dim::Known(0), |n, p| n.add(&product(p)))
}

/// As in the table above; `+` marks summed letters, `~` mixed ones, `!` those that have to stay whole.
impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<Option<usize>> = vec![None; self.letters.len()];
        let mut used = 0;
        let mut last = None;
        for s in &self.spelled {
            if last != Some(s.port) {
                let arrow = matches!((last, s.port), (None | Some(Port::In(_)), Port::Out(_)));
                f.write_str(match (last.is_some(), arrow) {
                    (true, true) => "] -> ",
                    (false, true) => "-> ",
                    (true, false) => "] ",
                    (false, false) => "",
                })?;
                match s.port {
                    Port::In(slot) | Port::Out(slot) => write!(f, "{slot}[")?,
                }
                last = Some(s.port);
            } else {
                f.write_str(",")?;
            }
            for (i, part) in s.parts.iter().enumerate() {
                f.write_str(if i > 0 { "|" } else { "" })?;
                if part.is_empty() {
                    f.write_str("1")?;
                }
                for (k, letter) in part.iter().enumerate() {
                    f.write_str(if k > 0 { "*" } else { "" })?;
                    let Some(name) = names.get_mut(letter.index()) else { continue };
                    let name = *name.get_or_insert_with(|| {
                        used += 1;
                        used - 1
                    });
                    match u8::try_from(name).ok().filter(|n| *n < 26) {
                        Some(n) => write!(f, "{}", char::from(b'a' + n))?,
                        None => write!(f, "z{name}")?,
                    }
                    f.write_str(match self.letters.get(letter.index()).map(|l| l.role) {
                        Some(Role::Summed) => "+",
                        Some(Role::Mixed) => "~",
                        Some(Role::Whole(_)) => "!",
                        Some(Role::Free) | None => "",
                    })?;
                }
            }
        }
        if last.is_some() { f.write_str("]") } else { Ok(()) }
    }
}
