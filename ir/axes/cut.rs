//! What a node has to state differently once indices are gone from its operands.

use std::collections::BTreeMap;

use super::{At, Axes, Letter, Part, Port};
use crate::{Attr, Tensor, infer::Call};

/// Which indices of an axis of an operand stay; `None` if all do.
pub type Kept<'a> = &'a dyn Fn(Port, usize) -> Option<&'a [bool]>;

/// A change of a node.
#[derive(Debug, Clone)]
pub enum Fix {
    /// An attribute gets a value.
    Attr(&'static str, Attr),
    /// An attribute is left out.
    Remove(&'static str),
    /// An input slot gets another constant.
    Input(usize, Tensor),
}

impl Axes {
    /// What a node is to state instead of the sizes that it states now, when of its operands only some indices are kept. Fails,
    /// with the reason, if what is kept is not one choice for each letter, or if a size is stated by a value that is not known.
    pub fn cut(&self, call: &Call<'_>, kept: Kept<'_>) -> Result<Vec<Fix>, String> {
        let mut after: Vec<Option<u64>> = self.letters.iter().map(|l| l.size.known()).collect();
        let mut changed = false;
        for s in &self.spelled {
            let Some(mask) = kept(s.port, s.axis) else { continue };
            for (letter, count) in self.counts(&s.parts, mask)? {
                if let Some(slot) = after.get_mut(letter.index()) {
                    changed |= *slot != Some(count);
                    *slot = Some(count);
                }
            }
        }
        if !changed {
            return Ok(Vec::new());
        }
        let before: Vec<Option<u64>> = self.letters.iter().map(|l| l.size.known()).collect();
        let mut fixes = Fixes { call, attrs: Vec::new(), inputs: Vec::new() };
        let mut lists = Lists::new();
        let mut parts = Vec::new();
        for stated in &self.stated {
            let (old, new) = (volume(&stated.parts, &before), volume(&stated.parts, &after));
            match (stated.at, old, new) {
                (At::Part(_), ..) => parts.push((old, new)),
                (At::Item(name, index), ..) => lists.entry(name).or_default().push((index, (old, new))),
                (at, Some(old), Some(new)) if old != new => fixes.state(at, old, new)?,
                // What is no number, no number states.
                _ => {}
            }
        }
        let mut fixes = fixes.finish();
        fixes.extend(split(call, &parts)?);
        for (name, items) in lists {
            fixes.extend(list(call, name, &items)?);
        }
        Ok(fixes)
    }

    /// How many indices of each letter stay along an axis.
    fn counts(&self, parts: &[Part], mask: &[bool]) -> Result<Vec<(Letter, u64)>, String> {
        const UNEVEN: &str = "what stays of an axis is not the same in each of its blocks";
        let size = |l: &Letter| self.letters.get(l.index()).and_then(|l| usize::try_from(l.size.known()?).ok());
        let mut counts = Vec::new();
        let mut rest = mask;
        for part in parts {
            let sizes: Option<Vec<usize>> = part.iter().map(size).collect();
            let sizes = sizes.ok_or("the size of a part of the axis is not known")?;
            let length = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).ok_or(UNEVEN)?;
            let (own, behind) = rest.split_at_checked(length).ok_or(UNEVEN)?;
            rest = behind;
            let mut stays: Vec<Vec<bool>> = sizes.iter().map(|&n| vec![false; n]).collect();
            for (at, _) in own.iter().enumerate().filter(|(_, kept)| **kept) {
                let mut at = at;
                for (stays, size) in stays.iter_mut().zip(&sizes).rev() {
                    stays.get_mut(at % size).into_iter().for_each(|s| *s = true);
                    at /= size;
                }
            }
            let staying: Vec<usize> = stays.iter().map(|s| s.iter().filter(|x| **x).count()).collect();
            if staying.iter().product::<usize>() != own.iter().filter(|x| **x).count() {
                return Err(UNEVEN.to_owned());
            }
            counts.extend(part.iter().zip(staying).map(|(&l, n)| (l, n as u64)));
        }
        Ok(counts)
    }
}

/// Sum of products of sizes.
fn volume(parts: &[Part], sizes: &[Option<u64>]) -> Option<u64> {
    let size = |l: &Letter| sizes.get(l.index()).copied().flatten();
    let product = |p: &Part| p.iter().try_fold(1u64, |n, l| n.checked_mul(size(l)?));
    parts.iter().try_fold(0u64, |n, p| n.checked_add(product(p)?))
}

/// A size before and after.
type Change = (Option<u64>, Option<u64>);

/// What the items of attributes state.
type Lists = BTreeMap<&'static str, Vec<(usize, Change)>>;

fn numbers<'a>(sizes: impl Iterator<Item = &'a Change>) -> Result<Vec<i64>, String> {
    let sizes: Option<Vec<i64>> = sizes.map(|(_, new)| i64::try_from((*new)?).ok()).collect();
    sizes.ok_or_else(|| "a size that it lists is not known".to_owned())
}

fn are_equal<'a>(mut sizes: impl Iterator<Item = &'a Change>) -> bool {
    let first = sizes.next().map(|s| s.1);
    sizes.all(|s| Some(s.1) == first)
}

/// What an attribute lists; one that is left out stands for equal sizes.
fn list(call: &Call<'_>, name: &'static str, items: &[(usize, Change)]) -> Result<Option<Fix>, String> {
    let changes = || items.iter().map(|(_, c)| c);
    if changes().all(|(old, new)| old == new) {
        return Ok(None);
    }
    let values = match call.attrs().ints(name) {
        None if are_equal(changes()) => return Ok(None),
        None => numbers(changes())?,
        Some(listed) => {
            let mut values = listed.to_vec();
            for (index, (_, new)) in items.iter().filter(|(_, (old, new))| old != new) {
                let new = new.and_then(|n| i64::try_from(n).ok()).ok_or("a size that it lists is not known")?;
                values.get_mut(*index).into_iter().for_each(|v| *v = new);
            }
            values
        }
    };
    Ok(Some(Fix::Attr(name, values.into())))
}

/// What a `Split` lists of its parts.
fn split(call: &Call<'_>, parts: &[Change]) -> Result<Vec<Fix>, String> {
    if parts.iter().all(|(old, new)| old == new) {
        return Ok(Vec::new());
    }
    let is_listed = call.has(1) || call.attrs().ints("split").is_some();
    if !is_listed && are_equal(parts.iter()) {
        return Ok(Vec::new());
    }
    let sizes = numbers(parts.iter())?;
    if call.opset < 13 {
        return Ok(vec![Fix::Attr("split", sizes.into())]);
    }
    Ok(vec![Fix::Remove("num_outputs"), Fix::Input(1, Tensor::ints(&sizes))])
}

struct Fixes<'a> {
    call: &'a Call<'a>,
    attrs: Vec<(&'static str, Attr)>,
    inputs: Vec<(usize, Vec<i64>)>,
}

impl Fixes<'_> {
    fn state(&mut self, at: At, old: u64, new: u64) -> Result<(), String> {
        let stated = i64::try_from(new).map_err(|e| e.to_string())?;
        match at {
            At::Attr(name) => {
                if self.call.attrs().int(name).is_some() {
                    self.attrs.push((name, stated.into()));
                }
            }
            At::Part(_) | At::Item(..) => {}
            At::Input(slot, index) | At::Bound(slot, index) => {
                let values = self.values(slot)?;
                let is_bound = matches!(at, At::Bound(..));
                match values.get_mut(index) {
                    Some(value) if is_bound || u64::try_from(*value) == Ok(old) => *value = stated,
                    // What is copied, follows from the others, or is stretched.
                    Some(-1..=1) | None => {}
                    Some(value) => return Err(format!("it states a size of {value} where it has {old}")),
                }
            }
            At::InverseRoot(name) => {
                if self.call.attrs().float(name).is_none() {
                    self.attrs.push((name, (1.0 / (old as f64).sqrt() as f32).into()));
                }
            }
        }
        Ok(())
    }

    /// The elements of an integer input, to be changed.
    fn values(&mut self, slot: usize) -> Result<&mut Vec<i64>, String> {
        if !self.inputs.iter().any(|(s, _)| *s == slot) {
            let known = self.call.ints(slot).ok_or_else(|| {
                format!("the graph computes the sizes in its input {slot}; `simplify` may make them constant")
            })?;
            self.inputs.push((slot, known));
        }
        let found = self.inputs.iter_mut().find(|(s, _)| *s == slot);
        found.map(|(_, values)| values).ok_or_else(|| "it has no such input".to_owned())
    }

    fn finish(self) -> Vec<Fix> {
        let changed = |(slot, values): &(usize, Vec<i64>)| self.call.ints(*slot).as_ref() != Some(values);
        let inputs = self.inputs.iter().filter(|i| changed(i)).map(|(slot, v)| Fix::Input(*slot, Tensor::ints(v)));
        let inputs: Vec<Fix> = inputs.collect();
        self.attrs.into_iter().map(|(name, attr)| Fix::Attr(name, attr)).chain(inputs).collect()
    }
}
