//! Which axes of each value have factors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use planish_ir::{
    ValueId,
    axes::{Letter, Port},
};

use super::{
    Scales, Span,
    pieces::Site,
    relation::{Indices, Relation, ports},
};

/// Elements of a value for which factors are followed.
const MOST: usize = 1 << 20;

impl Scales<'_> {
    /// Decides which axes of each value have factors, and adds them.
    pub(super) fn allocate(&mut self, sites: &[&Site]) {
        let mut axes: BTreeMap<ValueId, BTreeSet<usize>> = BTreeMap::new();
        for (v, _) in self.graph.values() {
            if self.facts.fact(v).dtype().is_some_and(|d| d.is_float()) && self.facts.fact(v).shape().is_some() {
                axes.insert(v, BTreeSet::new());
            }
        }
        let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for (i, site) in sites.iter().enumerate() {
            for r in &site.relations {
                for p in ports(r) {
                    if let Some(v) = self.value(site.id, p) {
                        readers.entry(v).or_default().push(i);
                    }
                }
                match r {
                    Relation::Weighted { data, weight, result } => {
                        for port in [*data, *result] {
                            self.demand(site, *weight, port, &mut axes, &mut queue);
                        }
                    }
                    Relation::Equal { ports, indices: Indices::Tied } => {
                        if let [gain, .., result] = ports.as_slice() {
                            self.demand(site, *gain, *result, &mut axes, &mut queue);
                        }
                    }
                    _ => {}
                }
            }
        }
        // Axes are only ever added, so this ends.
        while let Some(v) = queue.pop_front() {
            let wanted = axes.get(&v).cloned().unwrap_or_default();
            for &i in readers.get(&v).into_iter().flatten() {
                let Some(site) = sites.get(i) else { continue };
                for r in &site.relations {
                    let ports = ports(r);
                    for &from in ports.iter().filter(|&&p| self.value(site.id, p) == Some(v)) {
                        for &to in ports.iter().filter(|&&p| p != from) {
                            self.demand_like(site, from, &wanted, to, &mut axes, &mut queue);
                        }
                    }
                }
            }
        }
        for (v, wanted) in axes {
            let shape = self.facts.fact(v).shape().unwrap_or(&[]);
            let sizes: Option<Vec<usize>> =
                wanted.iter().map(|&a| usize::try_from(shape.get(a)?.known()?).ok()).collect();
            let Some(sizes) = sizes else { continue };
            let count = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).filter(|&n| n > 0 && n <= MOST);
            let Some(count) = count else { continue };
            let first = self.factors.add(count);
            self.spans.insert(v, Span { axes: wanted.into_iter().collect(), sizes, first });
        }
    }

    /// The axes of `port` that have letters in common with any axis of `like` have factors.
    fn demand(
        &self,
        site: &Site,
        like: Port,
        port: Port,
        axes: &mut BTreeMap<ValueId, BTreeSet<usize>>,
        queue: &mut VecDeque<ValueId>,
    ) {
        let all: BTreeSet<usize> = site.axes.spelled.iter().filter(|s| s.port == like).map(|s| s.axis).collect();
        self.demand_like(site, like, &all, port, axes, queue);
    }

    /// The axes of `to` that have letters in common with some axes of `from` have factors.
    fn demand_like(
        &self,
        site: &Site,
        from: Port,
        from_axes: &BTreeSet<usize>,
        to: Port,
        axes: &mut BTreeMap<ValueId, BTreeSet<usize>>,
        queue: &mut VecDeque<ValueId>,
    ) {
        let Some(v) = self.value(site.id, to) else { return };
        let shape = self.facts.fact(v).shape().unwrap_or(&[]);
        let letters: BTreeSet<Letter> = site
            .axes
            .spelled
            .iter()
            .filter(|s| s.port == from && from_axes.contains(&s.axis))
            .flat_map(|s| s.parts.iter().flatten().copied())
            .collect();
        let Some(wanted) = axes.get_mut(&v) else { return };
        let mut grew = false;
        for s in site.axes.spelled.iter().filter(|s| s.port == to) {
            let Some(size) = shape.get(s.axis).and_then(|d| d.known()) else { continue };
            let tied = s.parts.iter().flatten().any(|l| letters.contains(l));
            let volume = wanted.iter().filter_map(|&a| shape.get(a)?.known()).try_fold(size, u64::checked_mul);
            if tied && volume.is_some_and(|n| n <= MOST as u64) {
                grew |= wanted.insert(s.axis);
            }
        }
        if grew {
            queue.push_back(v);
        }
    }
}
