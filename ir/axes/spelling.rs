//! What the rule of an operator writes to: letters and the axes that they spell.

use std::collections::BTreeMap;

use super::{At, Axes, Index, Letter, Part, Port, Role, Spelled, Stated, Why};
use crate::{
    Dim,
    infer::{Call, Fact, shape::unify},
};

const STRETCH: Why = "it is not known whether an operand is broadcast";

/// A node, what is known of its operands, and the spelling of their axes so far.
#[derive(Debug)]
pub struct Spelling<'a> {
    /// The node and what is known of its inputs.
    pub call: &'a Call<'a>,
    outputs: &'a [Fact],
    letters: Vec<Index>,
    spelled: BTreeMap<(Port, usize), Vec<Part>>,
    stated: Vec<Stated>,
}

impl<'a> Spelling<'a> {
    pub(super) fn new(call: &'a Call<'a>, outputs: &'a [Fact]) -> Spelling<'a> {
        Spelling { call, outputs, letters: Vec::new(), spelled: BTreeMap::new(), stated: Vec::new() }
    }

    /// True if the operand is not left out.
    pub fn has(&self, port: Port) -> bool {
        match port {
            Port::In(slot) => self.call.has(slot),
            Port::Out(slot) => self.call.node.output(slot).is_some(),
        }
    }

    /// Sizes of an operand. Fails if it is left out or its rank is not known.
    pub fn shape(&self, port: Port) -> Result<&'a [Dim], Why> {
        let shape = match port {
            Port::In(slot) => self.call.shape(slot),
            Port::Out(slot) => self.outputs.get(slot).and_then(Fact::shape),
        };
        shape.filter(|_| self.has(port)).ok_or("the rank of an operand is not known")
    }

    /// Size of one axis. Fails if there is none.
    pub fn size(&self, port: Port, axis: usize) -> Result<&'a Dim, Why> {
        self.shape(port)?.get(axis).ok_or("an operand has fewer axes than the operator needs")
    }

    /// All operands that are there, inputs first.
    pub fn ports(&self) -> impl Iterator<Item = Port> + use<'a> {
        let node = self.call.node;
        let inputs = node.inputs().iter().enumerate().filter(|(_, v)| v.is_some()).map(|(i, _)| Port::In(i));
        let outputs = node.outputs().iter().enumerate().filter(|(_, v)| v.is_some()).map(|(i, _)| Port::Out(i));
        inputs.chain(outputs)
    }

    /// A new letter.
    pub fn letter(&mut self, size: Dim, role: Role) -> Letter {
        self.letters.push(Index { size, role });
        Letter(self.letters.len() - 1)
    }

    /// A new letter for what an axis holds in each of `count` blocks of equal size. Fails if it does not divide.
    pub fn per_block(&mut self, port: Port, axis: usize, count: u64, role: Role) -> Result<Letter, Why> {
        let size = self.size(port, axis)?;
        let each = if count == 1 { Some(size.clone()) } else { size.div_exact(&Dim::Known(count)) };
        Ok(self.letter(each.ok_or("an axis is not known to divide into its blocks")?, role))
    }

    /// A positive integer attribute.
    pub fn count(&self, name: &str, default: Option<i64>) -> Result<u64, Why> {
        let n = self.call.attrs().int(name).or(default);
        n.and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0).ok_or("an attribute is no positive number")
    }

    /// Spells an axis with one product of letters.
    pub fn spell(&mut self, port: Port, axis: usize, letters: &[Letter]) {
        self.parts(port, axis, vec![letters.to_vec()]);
    }

    /// Spells an axis with parts behind each other. Letters of size 1 and parts of size 0 drop out. An operand that is left
    /// out has no axes to spell.
    pub fn parts(&mut self, port: Port, axis: usize, parts: Vec<Part>) {
        if !self.has(port) {
            return;
        }
        let size = |l: &Letter| self.letters.get(l.index()).and_then(|l| l.size.known());
        let kept = parts.into_iter().filter(|p| !p.iter().any(|l| size(l) == Some(0)));
        let kept = kept.map(|p| p.into_iter().filter(|l| size(l) != Some(1)).collect()).collect();
        self.spelled.insert((port, axis), kept);
    }

    /// The size that parts behind each other add up to.
    pub fn volume(&self, parts: &[Part]) -> Dim {
        super::volume(&self.letters, parts)
    }

    /// The node states a product of letters.
    pub fn state(&mut self, at: At, letters: &[Letter]) {
        self.state_parts(at, vec![letters.to_vec()]);
    }

    /// The node states the size of parts behind each other.
    pub fn state_parts(&mut self, at: At, parts: Vec<Part>) {
        self.stated.push(Stated { at, parts });
    }

    /// The node states the sizes of all axes of an operand that are spelled so far, by numbering them.
    pub fn state_axes(&mut self, port: Port, at: impl Fn(usize) -> At) {
        let spelled = self.spelled.range((port, 0)..=(port, usize::MAX));
        let stated: Vec<Stated> = spelled.map(|(&(_, axis), p)| Stated { at: at(axis), parts: p.clone() }).collect();
        self.stated.extend(stated);
    }

    /// A letter turns out to have to stay whole.
    pub(crate) fn keep(&mut self, letter: Letter, why: Why) {
        if let Some(index) = self.letters.get_mut(letter.index()) {
            index.role = Role::Whole(why);
        }
    }

    /// One letter for axes that the operator requires to be equal. Operands that are left out are skipped. Fails if an axis
    /// does not exist or sizes contradict.
    pub fn tie(&mut self, places: &[(Port, usize)], role: Role) -> Result<Letter, Why> {
        let mut size = Dim::Unknown;
        for &(port, axis) in places.iter().filter(|p| self.has(p.0)) {
            size = unify(&size, self.size(port, axis)?).map_err(|_| "the sizes of its operands contradict")?;
        }
        let letter = self.letter(size, role);
        places.iter().for_each(|&(port, axis)| self.spell(port, axis, &[letter]));
        Ok(letter)
    }

    /// Keeps an axis whole.
    pub fn whole(&mut self, port: Port, axis: usize, why: Why) -> Result<(), Why> {
        self.tie(&[(port, axis)], Role::Whole(why)).map(|_| ())
    }

    /// Keeps all axes of an operand whole.
    pub fn all_whole(&mut self, port: Port, why: Why) -> Result<(), Why> {
        if !self.has(port) {
            return Ok(());
        }
        (0..self.shape(port)?.len()).try_for_each(|axis| self.whole(port, axis, why))
    }

    /// Ties axes of inputs, of which those of size 1 are stretched to the others, and of the outputs. Where it is open
    /// whether an axis is stretched, all have to stay whole.
    pub fn broadcast(&mut self, inputs: &[(Port, usize)], outputs: &[(Port, usize)], role: Role) -> Result<(), Why> {
        let mut own = Vec::with_capacity(inputs.len() + outputs.len());
        for &(port, axis) in inputs {
            if !self.has(port) {
                continue;
            }
            if *self.size(port, axis)? == Dim::Known(1) {
                self.spell(port, axis, &[]);
            } else {
                own.push((port, axis));
            }
        }
        let Some((&(port, axis), rest)) = own.split_first() else {
            outputs.iter().for_each(|&(port, axis)| self.spell(port, axis, &[]));
            return Ok(());
        };
        let first = self.size(port, axis)?;
        let same = |&(port, axis): &(Port, usize)| self.size(port, axis).is_ok_and(|size| size.same(first));
        if rest.iter().all(same) {
            own.extend(outputs);
            self.tie(&own, role)?;
            return Ok(());
        }
        own.extend(outputs);
        own.into_iter().try_for_each(|(port, axis)| self.whole(port, axis, STRETCH))
    }

    /// Spells an axis that is stretched to a letter if its size is 1, and is as long as it otherwise.
    pub fn stretch(&mut self, port: Port, axis: usize, letter: Letter) -> Result<(), Why> {
        if !self.has(port) {
            return Ok(());
        }
        let size = self.size(port, axis)?;
        let whole = self.letters.get(letter.index()).map_or(&Dim::Unknown, |l| &l.size);
        match size {
            Dim::Known(1) => self.spell(port, axis, &[]),
            _ if size.same(whole) => self.spell(port, axis, &[letter]),
            Dim::Known(_) if whole.known().is_none() => self.spell(port, axis, &[letter]),
            Dim::Known(_) | Dim::Symbolic(_) | Dim::Unknown => {
                self.keep(letter, STRETCH);
                self.whole(port, axis, STRETCH)?;
            }
        }
        Ok(())
    }

    /// Spells a vector with one element for each index of a product; a scalar or a single element stands for all.
    pub fn vector(&mut self, port: Port, letters: &[Letter]) -> Result<(), Why> {
        if !self.has(port) {
            return Ok(());
        }
        match self.shape(port)? {
            [] => {}
            [Dim::Known(1)] => self.spell(port, 0, &[]),
            [_] => self.spell(port, 0, letters),
            _ => return Err("an operand has more axes than the operator takes"),
        }
        Ok(())
    }

    /// Fails if an axis has another size than its letters, as in a node that cannot run.
    pub(super) fn check(&self) -> Result<(), Why> {
        let fits = |(&(port, axis), parts): (&(Port, usize), &Vec<Part>)| match self.shape(port).map(|s| s.get(axis)) {
            Ok(Some(size)) => size.compatible(&self.volume(parts)),
            Ok(None) | Err(_) => true,
        };
        self.spelled.iter().all(fits).then_some(()).ok_or("the sizes of its operands contradict")
    }

    /// The finished spelling; what was left out stays whole for the given reason.
    pub(super) fn finish(mut self, why: Why) -> Axes {
        for port in self.ports() {
            let Ok(shape) = self.shape(port) else { continue };
            for (axis, size) in shape.iter().enumerate() {
                if !self.spelled.contains_key(&(port, axis)) {
                    let letter = self.letter(size.clone(), Role::Whole(why));
                    self.spell(port, axis, &[letter]);
                }
            }
        }
        // A rule may have spelled an axis that inference does not know of.
        let spelled = std::mem::take(&mut self.spelled).into_iter();
        let spelled = spelled.filter(|((port, axis), _)| self.shape(*port).is_ok_and(|s| *axis < s.len()));
        let spelled = spelled.map(|((port, axis), parts)| Spelled { port, axis, parts }).collect();
        Axes { letters: self.letters, spelled, stated: self.stated }
    }
}
