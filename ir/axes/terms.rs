//! Axes as terms, made equal: union-find over sizes with inner structure.
//!
//! A term is an index set, or several behind each other, or a row-major product of several. Making two terms equal refines
//! both until their structures agree: a sum is cut at the other's seams, a product split at the other's factors. What cannot be
//! brought together, say a cut in the middle of a factor, is an error, and both stay apart.

use super::Why;
use crate::Dim;

/// A term; equal terms may have several ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TermId(u32);

impl TermId {
    /// Its place among all ids.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a term is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// Indices that nothing tells apart.
    Atom,
    /// Behind each other.
    Sum(Vec<TermId>),
    /// Row-major, the slowest one first.
    Product(Vec<TermId>),
}

#[derive(Debug)]
struct Term {
    parent: TermId,
    size: Dim,
    shape: Shape,
    /// How many ids it stands for.
    weight: u32,
    /// Indices into the list of what was noted.
    notes: Vec<u32>,
}

/// All terms of a model.
#[derive(Debug, Default)]
pub(super) struct Terms {
    terms: Vec<Term>,
    /// How much work is left. Structures that are deep and shared could otherwise take a hostile file exponential time.
    fuel: u64,
}

/// Longest list of parts or factors.
const MAX_PARTS: usize = 1024;
/// Deepest structure.
const MAX_DEPTH: usize = 64;

/// Why two terms cannot be brought together.
pub(super) type Apart = Why;

const SIZES: Apart = "sizes that have to be equal are not known to be";
const SEAMS: Apart = "a cut falls into a block";
const FACTORS: Apart = "factors of an axis do not match";
const INTRICATE: Apart = "its structure is too intricate";

impl Terms {
    /// Grants work for one more node.
    pub(super) fn refuel(&mut self, fuel: u64) {
        self.fuel = self.fuel.saturating_add(fuel);
    }

    /// A new index set.
    pub(super) fn atom(&mut self, size: Dim) -> TermId {
        self.term(size, Shape::Atom)
    }

    /// Terms behind each other.
    pub(super) fn sum(&mut self, parts: Vec<TermId>) -> TermId {
        if let [one] = parts.as_slice() {
            return *one;
        }
        let size = parts.iter().fold(Dim::Known(0), |n, &p| n.add(self.size(p)));
        self.term(size, Shape::Sum(parts))
    }

    /// A product of terms; those of size 1 drop out.
    pub(super) fn product(&mut self, factors: Vec<TermId>) -> TermId {
        let factors: Vec<TermId> = factors.into_iter().filter(|&f| *self.size(f) != Dim::Known(1)).collect();
        if let [one] = factors.as_slice() {
            return *one;
        }
        let size = factors.iter().fold(Dim::Known(1), |n, &f| n.mul(self.size(f)));
        let shape = if factors.is_empty() { Shape::Atom } else { Shape::Product(factors) };
        self.term(size, shape)
    }

    fn term(&mut self, size: Dim, shape: Shape) -> TermId {
        let id = TermId(u32::try_from(self.terms.len()).unwrap_or(u32::MAX));
        self.terms.push(Term { parent: id, size, shape, weight: 1, notes: Vec::new() });
        id
    }

    /// The id that stands for all terms equal to this one.
    pub(super) fn find(&mut self, id: TermId) -> TermId {
        let mut root = id;
        while let Some(term) = self.terms.get(root.index()).filter(|t| t.parent != root) {
            root = term.parent;
        }
        let mut at = id;
        while let Some(term) = self.terms.get_mut(at.index()).filter(|t| t.parent != root && at != root) {
            at = std::mem::replace(&mut term.parent, root);
        }
        root
    }

    fn root(&self, id: TermId) -> Option<&Term> {
        let mut term = self.terms.get(id.index())?;
        let mut at = id;
        while term.parent != at {
            at = term.parent;
            term = self.terms.get(at.index())?;
        }
        Some(term)
    }

    /// Number of indices.
    pub(super) fn size(&self, id: TermId) -> &Dim {
        self.root(id).map_or(&Dim::Unknown, |t| &t.size)
    }

    /// What it is made of.
    pub(super) fn shape(&self, id: TermId) -> &Shape {
        self.root(id).map_or(&Shape::Atom, |t| &t.shape)
    }

    /// What was noted of it, in no order.
    pub(super) fn notes(&self, id: TermId) -> &[u32] {
        self.root(id).map_or(&[], |t| &t.notes)
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.terms.len()
    }

    /// Notes something that holds of all its indices.
    pub(super) fn note(&mut self, id: TermId, note: u32) {
        let root = self.find(id);
        if let Some(t) = self.terms.get_mut(root.index())
            && t.notes.last() != Some(&note)
        {
            t.notes.push(note);
        }
    }

    /// Ids that stand for themselves.
    pub(super) fn roots(&self) -> impl Iterator<Item = TermId> + '_ {
        self.terms.iter().enumerate().filter_map(|(i, t)| (t.parent.index() == i).then_some(t.parent))
    }

    /// Makes two terms equal. On failure both are as they were or finer, and not equal.
    pub(super) fn unify(&mut self, a: TermId, b: TermId) -> Result<(), Apart> {
        self.unify_at(a, b, 0)
    }

    fn burn(&mut self, depth: usize) -> Result<(), Apart> {
        if depth > MAX_DEPTH {
            return Err(INTRICATE);
        }
        self.fuel = self.fuel.checked_sub(1).ok_or(INTRICATE)?;
        Ok(())
    }

    fn unify_at(&mut self, a: TermId, b: TermId, depth: usize) -> Result<(), Apart> {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return Ok(());
        }
        self.burn(depth)?;
        let (n, m) = (self.size(a).clone(), self.size(b).clone());
        if !n.compatible(&m) {
            return Err(SIZES);
        }
        match (self.shape(a).clone(), self.shape(b).clone()) {
            (Shape::Atom, Shape::Atom) => {
                self.link(a, b);
                return Ok(());
            }
            // Only with equal sizes can no term become a part of itself.
            _ if !n.same(&m) => return Err(SIZES),
            (Shape::Atom, _) => {
                self.link(a, b);
                return Ok(());
            }
            (_, Shape::Atom) => {
                self.link(b, a);
                return Ok(());
            }
            (Shape::Sum(_), Shape::Sum(_)) => {
                let (x, y) = (self.flat(a, true)?, self.flat(b, true)?);
                self.align_sums(x, y, depth)?;
            }
            (Shape::Product(_), Shape::Product(_)) => {
                let (x, y) = (self.flat(a, false)?, self.flat(b, false)?);
                self.align_products(x, y, depth)?;
            }
            (Shape::Sum(_), Shape::Product(factors)) => self.distribute(a, &factors, depth)?,
            (Shape::Product(factors), Shape::Sum(_)) => {
                self.distribute(b, &factors, depth)?;
                // The sum is the finer one.
                self.link(a, b);
                return Ok(());
            }
        }
        self.link(b, a);
        Ok(())
    }

    /// Lets both stand for what `to` stands for. The one with more ids stays, so that the way to it is short for all.
    fn link(&mut self, from: TermId, to: TermId) {
        let (from, to) = (self.find(from), self.find(to));
        if from == to {
            return;
        }
        let weight = |t: &Terms, id: TermId| t.terms.get(id.index()).map_or(0, |t| t.weight);
        let (child, root) = if weight(self, from) > weight(self, to) { (to, from) } else { (from, to) };
        let Some(c) = self.terms.get_mut(child.index()) else { return };
        c.parent = root;
        let (size, shape, weight) = (c.size.clone(), std::mem::replace(&mut c.shape, Shape::Atom), c.weight);
        let mut notes = std::mem::take(&mut c.notes);
        let Some(r) = self.terms.get_mut(root.index()) else { return };
        r.weight = r.weight.saturating_add(weight);
        if child == to {
            r.shape = shape;
        }
        if r.size.known().is_none() && (size.known().is_some() || r.size == Dim::Unknown) {
            r.size = size;
        }
        if r.notes.len() < notes.len() {
            std::mem::swap(&mut r.notes, &mut notes);
        }
        r.notes.append(&mut notes);
    }

    /// Parts of parts, or factors of factors, in one list, which is kept.
    fn flat(&mut self, id: TermId, sum: bool) -> Result<Vec<TermId>, Apart> {
        let mut flat = Vec::new();
        let mut stack = vec![id];
        let mut deep = false;
        while let Some(next) = stack.pop() {
            self.burn(0)?;
            match self.shape(next) {
                Shape::Sum(parts) if sum => {
                    deep |= next != id;
                    stack.extend(parts.iter().rev());
                }
                Shape::Product(factors) if !sum => {
                    deep |= next != id;
                    stack.extend(factors.iter().rev());
                }
                Shape::Atom | Shape::Sum(_) | Shape::Product(_) => flat.push(next),
            }
            if flat.len() + stack.len() > MAX_PARTS {
                return Err(INTRICATE);
            }
        }
        if deep {
            self.keep_shape(id, if sum { Shape::Sum(flat.clone()) } else { Shape::Product(flat.clone()) });
        }
        Ok(flat)
    }

    fn keep_shape(&mut self, id: TermId, shape: Shape) {
        let root = self.find(id);
        if let Some(t) = self.terms.get_mut(root.index()) {
            t.shape = shape;
        }
    }

    /// Cuts two lists of parts at each other's seams and makes the pieces equal.
    fn align_sums(&mut self, a: Vec<TermId>, b: Vec<TermId>, depth: usize) -> Result<(), Apart> {
        let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
        let (mut x, mut y) = (a.next(), b.next());
        while let (Some(p), Some(q)) = (x, y) {
            self.burn(depth)?;
            let (n, m) = (self.size(p).clone(), self.size(q).clone());
            let ends = a.peek().is_none() && b.peek().is_none();
            if n.same(&m) || ends {
                self.unify_at(p, q, depth + 1)?;
                (x, y) = (a.next(), b.next());
                continue;
            }
            let (Some(n), Some(m)) = (n.known(), m.known()) else { return Err(SEAMS) };
            if n < m {
                let (front, back) = self.cut(q, n, depth + 1)?;
                self.unify_at(p, front, depth + 1)?;
                (x, y) = (a.next(), Some(back));
            } else {
                let (front, back) = self.cut(p, m, depth + 1)?;
                self.unify_at(front, q, depth + 1)?;
                (x, y) = (Some(back), b.next());
            }
        }
        if x.is_none() && y.is_none() { Ok(()) } else { Err(SIZES) }
    }

    /// The first `at` indices and the others.
    fn cut(&mut self, id: TermId, at: u64, depth: usize) -> Result<(TermId, TermId), Apart> {
        self.burn(depth)?;
        let id = self.find(id);
        let rest = self.size(id).known().and_then(|n| n.checked_sub(at)).filter(|&r| r > 0 && at > 0).ok_or(SEAMS)?;
        match self.shape(id).clone() {
            Shape::Atom => {
                let pieces = (self.atom(Dim::Known(at)), self.atom(Dim::Known(rest)));
                self.keep_shape(id, Shape::Sum(vec![pieces.0, pieces.1]));
                Ok(pieces)
            }
            Shape::Sum(_) => {
                let parts = self.flat(id, true)?;
                let mut from = 0u64;
                for (i, &part) in parts.iter().enumerate() {
                    let size = self.size(part).known().ok_or(SEAMS)?;
                    let to = from.checked_add(size).ok_or(SEAMS)?;
                    if at < to {
                        let (mut front, mut back) = (parts.clone(), Vec::new());
                        back.extend(front.drain(i..));
                        if at > from {
                            let (x, y) = self.cut(part, at - from, depth + 1)?;
                            front.push(x);
                            if let Some(first) = back.first_mut() {
                                *first = y;
                            }
                        }
                        return Ok((self.sum(front), self.sum(back)));
                    }
                    from = to;
                }
                Err(SIZES)
            }
            Shape::Product(factors) => {
                let [outer, inner @ ..] = factors.as_slice() else { return Err(SEAMS) };
                let block = inner.iter().fold(Dim::Known(1), |n, &f| n.mul(self.size(f))).known().ok_or(SEAMS)?;
                if block == 0 || !at.is_multiple_of(block) {
                    return Err(SEAMS);
                }
                let (x, y) = self.cut(*outer, at / block, depth + 1)?;
                let with = |first| [&[first], inner].concat();
                Ok((self.product(with(x)), self.product(with(y))))
            }
        }
    }

    /// Splits two lists of factors until they are the same.
    fn align_products(&mut self, a: Vec<TermId>, b: Vec<TermId>, depth: usize) -> Result<(), Apart> {
        let (mut a, mut b) = (a.into_iter(), b.into_iter());
        let (mut x, mut y) = (a.next(), b.next());
        while let (Some(p), Some(q)) = (x, y) {
            self.burn(depth)?;
            let (n, m) = (self.size(p).clone(), self.size(q).clone());
            if n.same(&m) {
                self.unify_at(p, q, depth + 1)?;
                (x, y) = (a.next(), b.next());
            } else if n.div_exact(&m).is_some() {
                let (outer, inner) = self.split(p, &m, depth + 1)?;
                self.unify_at(outer, q, depth + 1)?;
                (x, y) = (Some(inner), b.next());
            } else if m.div_exact(&n).is_some() {
                let (outer, inner) = self.split(q, &n, depth + 1)?;
                self.unify_at(p, outer, depth + 1)?;
                (x, y) = (a.next(), Some(inner));
            } else {
                return Err(FACTORS);
            }
        }
        if x.is_none() && y.is_none() { Ok(()) } else { Err(FACTORS) }
    }

    /// An outer factor of the given size, which divides the term's, and an inner one.
    fn split(&mut self, id: TermId, outer: &Dim, depth: usize) -> Result<(TermId, TermId), Apart> {
        self.burn(depth)?;
        let id = self.find(id);
        let inner = self.size(id).div_exact(outer).ok_or(FACTORS)?;
        match self.shape(id).clone() {
            Shape::Atom => {
                let factors = (self.atom(outer.clone()), self.atom(inner));
                self.keep_shape(id, Shape::Product(vec![factors.0, factors.1]));
                Ok(factors)
            }
            Shape::Product(_) => {
                let factors = self.flat(id, false)?;
                let mut so_far = Dim::Known(1);
                for (i, &factor) in factors.iter().enumerate() {
                    let size = self.size(factor).clone();
                    let with = so_far.mul(&size);
                    let (mut front, mut back) = (factors.clone(), Vec::new());
                    back.extend(front.drain(i..));
                    if so_far.same(outer) {
                        return Ok((self.product(front), self.product(back)));
                    }
                    if with.div_exact(outer).is_some() && !with.same(outer) {
                        let (x, y) = self.split(factor, &outer.div_exact(&so_far).ok_or(FACTORS)?, depth + 1)?;
                        front.push(x);
                        if let Some(first) = back.first_mut() {
                            *first = y;
                        }
                        return Ok((self.product(front), self.product(back)));
                    }
                    so_far = with;
                }
                Err(FACTORS)
            }
            // Each part is a number of whole blocks; all blocks are one factor.
            Shape::Sum(_) => {
                let parts = self.flat(id, true)?;
                let mut outers = Vec::with_capacity(parts.len());
                let mut block: Option<TermId> = None;
                for part in parts {
                    let count = self.size(part).div_exact(&inner).ok_or(SEAMS)?;
                    let (x, y) = match count {
                        Dim::Known(1) => (self.atom(Dim::Known(1)), part),
                        _ => self.split(part, &count, depth + 1)?,
                    };
                    outers.push(x);
                    match block {
                        Some(b) => self.unify_at(b, y, depth + 1)?,
                        None => block = Some(y),
                    }
                }
                Ok((self.sum(outers), block.ok_or(FACTORS)?))
            }
        }
    }

    /// Makes a sum equal to a product.
    fn distribute(&mut self, sum: TermId, factors: &[TermId], depth: usize) -> Result<(), Apart> {
        let [first, rest @ ..] = factors else { return Err(FACTORS) };
        let size = self.size(*first).clone();
        let (outer, inner) = self.split(sum, &size, depth + 1)?;
        self.unify_at(outer, *first, depth + 1)?;
        let rest = self.product(rest.to_vec());
        self.unify_at(inner, rest, depth + 1)
    }
}
