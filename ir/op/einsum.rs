//! Einsum.
//!
//! Opsets: 12, 28.
//!
//! Shape rule: each letter stands for a size, an ellipsis for axes that broadcast; the output has the letters behind the
//! arrow, or without an arrow the ellipsis and then the letters that occur once, in alphabetical order.

use std::collections::BTreeMap;

use super::{OpSpec, Traits, VARIADIC, sig};
use crate::axes::{
    Port::{self, In, Out},
    Role, Spelling, Why,
};
use crate::{
    Dim, Shape,
    infer::{
        Call, Fact, Outcome,
        shape::{broadcast, volume},
    },
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("Einsum", &[sig(12, 1, VARIADIC)], Traits::ROUNDING, infer).macs(macs).axes(axes);

/// What an equation says of the sizes.
struct Solved {
    sizes: BTreeMap<char, Dim>,
    ellipsis: Shape,
    output: Shape,
}

fn infer(call: &Call<'_>) -> Outcome {
    Ok(vec![call.like(0, solve(call)?.map(|s| s.output))])
}

/// Products of two factors or more: one multiplication less than there are factors, for each combination of all letters.
fn macs(call: &Call<'_>, _: &[Fact]) -> Option<u64> {
    let factors = (call.node.inputs().len() as u64).checked_sub(1)?;
    if factors == 0 {
        return Some(0);
    }
    let solved = solve(call).ok()??;
    let all = volume(solved.sizes.values().chain(&solved.ellipsis));
    all.known()?.checked_mul(factors)
}

/// `Ok(None)` if a rank is not known.
fn solve(call: &Call<'_>) -> Result<Option<Solved>, String> {
    let Some(equation) = call.attrs().str("equation") else { return Err("it has no equation".into()) };
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != call.node.inputs().len() {
        return Err(format!("its equation has {} terms, but it has {} inputs", terms.len(), call.node.inputs().len()));
    }
    let mut sizes: BTreeMap<char, Dim> = BTreeMap::new();
    let mut uses: BTreeMap<char, usize> = BTreeMap::new();
    let mut ellipsis: Shape = Vec::new();
    for (slot, term) in terms.iter().enumerate() {
        let Some(shape) = call.shape(slot) else { return Ok(None) };
        let (front, back) = term.split_once("...").unwrap_or((term, ""));
        let letters = front.chars().count() + back.chars().count();
        let dotted = term.contains("...");
        let spare = shape.len().checked_sub(letters).filter(|&n| dotted || n == 0);
        let Some(spare) = spare else {
            return Err(format!("the term {term:?} does not fit input {slot} of rank {}", shape.len()));
        };
        let (head, rest) = shape.split_at(front.chars().count());
        let (middle, tail) = rest.split_at(spare);
        if dotted {
            ellipsis = broadcast(&ellipsis, middle)?;
        }
        for (letter, d) in front.chars().zip(head).chain(back.chars().zip(tail)) {
            *uses.entry(letter).or_insert(0) += 1;
            let size = match sizes.get(&letter) {
                // A letter may also stand for 1 in one term and for more in another.
                Some(known) => broadcast(std::slice::from_ref(known), std::slice::from_ref(d))
                    .map_err(|e| format!("the letter {letter}: {e}"))?
                    .pop()
                    .unwrap_or(Dim::Unknown),
                None => d.clone(),
            };
            sizes.insert(letter, size);
        }
    }
    let letter = |c: char| sizes.get(&c).cloned().ok_or_else(|| format!("the output letter {c} is in no term"));
    let output: Shape = match right {
        Some(right) => {
            let (front, back) = right.split_once("...").unwrap_or((right, ""));
            let mut output = front.chars().map(letter).collect::<Result<Shape, _>>()?;
            if right.contains("...") {
                output.extend(ellipsis.iter().cloned());
            }
            output.extend(back.chars().map(letter).collect::<Result<Shape, _>>()?);
            output
        }
        None => {
            let single = uses.iter().filter(|(_, n)| **n == 1).filter_map(|(c, _)| sizes.get(c));
            ellipsis.iter().chain(single).cloned().collect()
        }
    };
    Ok(Some(Solved { sizes, ellipsis, output }))
}

/// As the equation says; letters that the output lacks are summed.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let equation = s.call.attrs().str("equation").ok_or("it has no equation")?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = equation.split_once("->").ok_or("its equation leaves the output open")?;
    let mut inputs: BTreeMap<Symbol, Vec<(Port, usize)>> = BTreeMap::new();
    for (slot, term) in left.split(',').enumerate() {
        for (axis, symbol) in symbols(term, s.shape(In(slot))?.len())?.into_iter().enumerate() {
            inputs.entry(symbol).or_default().push((In(slot), axis));
        }
    }
    let mut outputs: BTreeMap<Symbol, Vec<(Port, usize)>> = BTreeMap::new();
    for (axis, symbol) in symbols(right, s.shape(Out(0))?.len())?.into_iter().enumerate() {
        outputs.entry(symbol).or_default().push((Out(0), axis));
    }
    for (symbol, places) in inputs {
        let out = outputs.remove(&symbol).unwrap_or_default();
        let role = if out.is_empty() { Role::Summed } else { Role::Free };
        s.broadcast(&places, &out, role)?;
    }
    Ok(())
}

/// A letter, or an axis of the ellipsis, counted from the back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Symbol {
    Letter(char),
    Ellipsis(usize),
}

/// What each axis of an operand is called.
fn symbols(term: &str, rank: usize) -> Result<Vec<Symbol>, Why> {
    let (front, back) = term.split_once("...").unwrap_or((term, ""));
    let letters = |part: &str| part.chars().map(Symbol::Letter).collect::<Vec<_>>();
    let (mut all, back) = (letters(front), letters(back));
    let spare = rank.checked_sub(all.len() + back.len()).filter(|&n| n == 0 || term.contains("..."));
    all.extend((0..spare.ok_or("a term of its equation does not fit")?).rev().map(Symbol::Ellipsis));
    all.extend(back);
    Ok(all)
}
