//! What each node says of the factors on its operands.

use std::collections::BTreeSet;

use planish_ir::axes::{Letter, Port};

use super::{
    Scales, Span,
    pieces::{Piece, Site, may_differ, pieces},
    relation::{Indices, Relation, label},
    signed::Var,
};

/// Products of two computed values of which one is chosen to have the factor one, before this is done to all that are left.
const CHOICES: usize = 64;

impl Scales<'_> {
    pub(super) fn relate_site(&mut self, site: &Site) {
        for r in &site.relations {
            match r {
                Relation::Equal { ports, indices } => self.equal(site, ports, *indices),
                Relation::Inverse([a, b]) => self.relate(site, *a, *b, Indices::Contracted, true),
                Relation::Weighted { data, weight, result } => {
                    for port in [*data, *result] {
                        self.confine(site, port, *weight);
                    }
                }
                Relation::Gain(port) => self.gains.extend(self.value(site.id, *port)),
                Relation::Product { .. } => {}
            }
        }
    }

    /// All inputs are related to all outputs; where there is no other way, inputs to each other.
    fn equal(&mut self, site: &Site, ports: &[Port], indices: Indices) {
        let (inputs, outputs): (Vec<Port>, Vec<Port>) = ports.iter().partition(|p| matches!(p, Port::In(_)));
        let pairs: Vec<(Port, Port)> = match outputs.is_empty() {
            true => inputs.windows(2).filter_map(|w| Some((*w.first()?, *w.last()?))).collect(),
            false => inputs.iter().flat_map(|&i| outputs.iter().map(move |&o| (i, o))).collect(),
        };
        for (a, b) in pairs {
            self.relate(site, a, b, indices, false);
        }
    }

    /// Where one of three factors is known, the other two are equal or inverse. If none is known anywhere, the first
    /// operand of the first such node gets the factor one.
    pub(super) fn products(&mut self, sites: &[&Site]) {
        let mut open: Vec<(&Site, [Port; 2], Port)> = Vec::new();
        for site in sites {
            for r in &site.relations {
                if let Relation::Product { operands, result } = r {
                    open.push((site, *operands, *result));
                }
            }
        }
        let mut choices = 0;
        while !open.is_empty() {
            let before = open.len();
            open.retain(|&(site, [a, b], result)| {
                let [fixed_a, fixed_b, fixed_result] = [a, b, result].map(|p| self.is_fixed(site, p));
                match (fixed_a, fixed_b, fixed_result) {
                    (true, ..) => self.relate(site, b, result, Indices::Free, false),
                    (_, true, _) => self.relate(site, a, result, Indices::Free, false),
                    (.., true) => self.relate(site, a, b, Indices::Contracted, true),
                    _ => return true,
                }
                false
            });
            if open.len() < before {
                continue;
            }
            // One choice at a time may decide about others, but not for ever.
            choices += 1;
            for &(site, [a, _], _) in open.iter().take(if choices < CHOICES { 1 } else { usize::MAX }) {
                let why = self.reason(format!("{} multiplies it with another value", label(self.graph, site.id)));
                if let Some(v) = self.value(site.id, a) {
                    self.fix(v, why);
                }
            }
        }
    }

    fn is_fixed(&mut self, site: &Site, port: Port) -> bool {
        let span = self.value(site.id, port).and_then(|v| self.spans.get(&v)).cloned();
        span.is_none_or(|s| (0..s.len()).all(|i| self.factors.why_fixed(s.first + i as Var).is_some()))
    }

    /// Factors of two operands are equal, or inverse to each other, at equal indices; along all other letters they do not
    /// differ.
    fn relate(&mut self, site: &Site, a: Port, b: Port, indices: Indices, inverse: bool) {
        let (Some(va), Some(vb)) = (self.value(site.id, a), self.value(site.id, b)) else { return };
        let (x, y) = match (self.spans.get(&va).cloned(), self.spans.get(&vb).cloned()) {
            (Some(x), Some(y)) => (x, y),
            (None, None) => return,
            (x, _) => {
                let (lone, other) = if x.is_some() { (va, vb) } else { (vb, va) };
                let why = self.reason(format!(
                    "{} ties it to {:?}, which has no known size",
                    label(self.graph, site.id),
                    self.graph.name_of(other)
                ));
                return self.fix(lone, why);
            }
        };
        let (Some(px), Some(py)) = (pieces(site, a, &x), pieces(site, b, &y)) else {
            // How the axes hang together is not known: one factor for everything.
            for (span, sign) in [(&x, false), (&y, inverse)] {
                (0..span.len()).for_each(|i| self.factors.unite(x.first, span.first + i as Var, sign));
            }
            return;
        };
        for p in &px {
            for q in &py {
                if !p.unrelated_to(q, site, b, &y) && !q.unrelated_to(p, site, a, &x) {
                    self.relate_pieces(site, (&x, p), (&y, q), indices, inverse);
                }
            }
        }
    }

    fn relate_pieces(
        &mut self,
        site: &Site,
        (x, p): (&Span, &Piece),
        (y, q): (&Span, &Piece),
        indices: Indices,
        inverse: bool,
    ) {
        let shared: Vec<(Letter, usize)> = p
            .letters
            .iter()
            .filter(|(l, size, _)| {
                p.times(*l) == 1 && q.times(*l) == 1 && q.letters.iter().any(|(m, other, _)| m == l && other == size)
            })
            .filter(|(l, ..)| may_differ(site, *l, indices))
            .map(|&(l, size, _)| (l, size))
            .collect();
        let mut first: Vec<Option<Var>> = vec![None; shared.iter().map(|s| s.1).product()];
        for (span, piece, sign) in [(x, p, false), (y, q, inverse)] {
            piece.visit(&shared, &mut |at, index| {
                let var = span.first + at as Var;
                if let Some(slot) = first.get_mut(index) {
                    match *slot {
                        Some(other) => self.factors.unite(other, var, sign),
                        None => *slot = Some(var),
                    }
                }
            });
        }
    }

    /// Factors of an operand differ only along letters that a weight has too.
    fn confine(&mut self, site: &Site, port: Port, weight: Port) {
        let Some(span) = self.value(site.id, port).and_then(|v| self.spans.get(&v)).cloned() else { return };
        let letters: BTreeSet<Letter> = site
            .axes
            .spelled
            .iter()
            .filter(|s| s.port == weight)
            .flat_map(|s| s.parts.iter().flatten().copied())
            .collect();
        let pieces = pieces(site, port, &span).filter(|p| p.len() == 1);
        let Some(piece) = pieces.as_ref().and_then(|p| p.first()) else {
            (0..span.len()).for_each(|i| self.factors.unite(span.first, span.first + i as Var, false));
            return;
        };
        let kept: Vec<(Letter, usize)> = piece
            .letters
            .iter()
            .filter(|(l, ..)| letters.contains(l) && piece.times(*l) == 1)
            .map(|&(l, size, _)| (l, size))
            .collect();
        let mut first: Vec<Option<Var>> = vec![None; kept.iter().map(|s| s.1).product()];
        piece.visit(&kept, &mut |at, index| {
            let var = span.first + at as Var;
            if let Some(slot) = first.get_mut(index) {
                match *slot {
                    Some(other) => self.factors.unite(other, var, false),
                    None => *slot = Some(var),
                }
            }
        });
    }
}
