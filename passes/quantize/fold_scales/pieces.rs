//! The factors of an operand as its axes are spelled.

use planish_ir::axes::{Axes, Letter, Part, Port, Role};

use super::{
    Span,
    relation::{Indices, Relation},
};
use planish_ir::NodeId;

/// The axes of a node's operands, and what its factors have to do with each other.
pub(super) struct Site {
    pub(super) id: NodeId,
    pub(super) axes: Axes,
    pub(super) relations: Vec<Relation>,
}

/// A part of a value's factors: one for each combination of letters.
pub(super) struct Piece {
    start: usize,
    /// Each letter, its size, and how far one step of it moves.
    pub(super) letters: Vec<(Letter, usize, usize)>,
    /// The parts of axes that have several.
    parts: Vec<Part>,
}

pub(super) fn may_differ(site: &Site, letter: Letter, indices: Indices) -> bool {
    let role = site.axes.letters.get(letter.index()).map(|l| l.role);
    matches!(
        (role, indices),
        (Some(Role::Free), _)
            | (Some(Role::Summed), Indices::Contracted | Indices::Tied)
            | (Some(Role::Mixed), Indices::Tied)
    )
}

/// The letters of a product with their sizes and strides; `None` if a size is open.
pub(super) fn strides(site: &Site, part: &Part) -> Option<Vec<(Letter, usize, usize)>> {
    let mut stride = 1usize;
    let mut found = Vec::with_capacity(part.len());
    for &l in part.iter().rev() {
        let size = usize::try_from(site.axes.letters.get(l.index())?.size.known()?).ok()?;
        found.push((l, size, stride));
        stride = stride.checked_mul(size)?;
    }
    Some(found)
}

/// The pieces of an operand's factors; `None` if it is not known how its axes are spelled.
pub(super) fn pieces(site: &Site, port: Port, span: &Span) -> Option<Vec<Piece>> {
    let mut found = vec![Piece { start: 0, letters: Vec::new(), parts: Vec::new() }];
    for (i, (&axis, &size)) in span.axes.iter().zip(&span.sizes).enumerate() {
        let outer: usize = span.sizes.iter().skip(i + 1).product();
        let parts = &site.axes.spelled.iter().find(|s| s.port == port && s.axis == axis)?.parts;
        let mut next = Vec::with_capacity(found.len() * parts.len());
        let mut offset = 0usize;
        for part in parts {
            let letters = strides(site, part)?;
            for piece in &found {
                let mut piece = Piece {
                    start: piece.start + offset * outer,
                    letters: piece.letters.clone(),
                    parts: piece.parts.clone(),
                };
                piece.letters.extend(letters.iter().map(|&(l, size, stride)| (l, size, stride * outer)));
                if parts.len() > 1 {
                    piece.parts.push(part.clone());
                }
                next.push(piece);
            }
            offset += letters.iter().map(|l| l.1).product::<usize>();
        }
        if offset != size || next.len() > 1024 {
            return None;
        }
        found = next;
    }
    Some(found)
}

impl Piece {
    /// True if it lies in a part of an axis that `other`, a piece of another operand, has nothing of.
    pub(super) fn unrelated_to(&self, other: &Piece, site: &Site, port: Port, span: &Span) -> bool {
        let elsewhere = |l: &Letter| {
            let unfollowed = |s: &&planish_ir::axes::Spelled| s.port == port && !span.axes.contains(&s.axis);
            site.axes.spelled.iter().filter(unfollowed).any(|s| s.parts.iter().flatten().any(|m| m == l))
        };
        let missing = |l: &Letter| !other.letters.iter().any(|(m, ..)| m == l) && !elsewhere(l);
        self.parts.iter().any(|part| !part.is_empty() && part.iter().all(missing))
    }

    /// How often a letter occurs.
    pub(super) fn times(&self, letter: Letter) -> usize {
        self.letters.iter().filter(|(l, ..)| *l == letter).count()
    }

    /// Calls `f` with the place of each factor, and its index among combinations of some letters.
    pub(super) fn visit(&self, shared: &[(Letter, usize)], f: &mut dyn FnMut(usize, usize)) {
        let weight = |letter: Letter| {
            let at = shared.iter().position(|(l, _)| *l == letter)?;
            Some(shared.iter().skip(at + 1).map(|s| s.1).product::<usize>())
        };
        let weights: Vec<usize> = self.letters.iter().map(|(l, ..)| weight(*l).unwrap_or(0)).collect();
        let total: usize = self.letters.iter().map(|l| l.1).product();
        let mut index = vec![0usize; self.letters.len()];
        let (mut at, mut shared_index) = (self.start, 0);
        for _ in 0..total {
            f(at, shared_index);
            for ((i, (_, size, stride)), weight) in index.iter_mut().zip(&self.letters).zip(&weights).rev() {
                *i += 1;
                at += stride;
                shared_index += weight;
                if *i < *size {
                    break;
                }
                at -= stride * size;
                shared_index -= weight * size;
                *i = 0;
            }
        }
    }
}
