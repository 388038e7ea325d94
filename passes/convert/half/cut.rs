//! The smallest cut of a network.
//!
//! Which nodes calculate in float32 and which in 16 bits, with as few casts as there can be, is a cut: float32 nodes lie
//! on the side of the source, the others on that of the sink, and each edge from the one side to the other costs its
//! capacity. Reference: Dinitz, Algorithm for solution of a problem of maximum flow in networks, 1970.

use std::collections::VecDeque;

/// A capacity that no smallest cut contains.
pub(super) const NEVER: u64 = 1 << 48;

/// The node from which everything flows.
pub(super) const SOURCE: usize = 0;
/// The node to which everything flows.
pub(super) const SINK: usize = 1;

/// A network with capacities. Edge `i ^ 1` is the reverse of edge `i`.
pub(super) struct Network {
    edges: Vec<Edge>,
    of: Vec<Vec<usize>>,
}

#[derive(Clone, Copy)]
struct Edge {
    to: usize,
    left: u64,
}

impl Network {
    /// Source and sink.
    pub(super) fn new() -> Network {
        Network { edges: Vec::new(), of: vec![Vec::new(), Vec::new()] }
    }

    /// Adds a node.
    pub(super) fn node(&mut self) -> usize {
        self.of.push(Vec::new());
        self.of.len() - 1
    }

    /// Adds an edge between nodes of the network.
    pub(super) fn edge(&mut self, from: usize, to: usize, capacity: u64) {
        for (from, to, left) in [(from, to, capacity), (to, from, 0)] {
            if let Some(edges) = self.of.get_mut(from) {
                edges.push(self.edges.len());
            }
            self.edges.push(Edge { to, left });
        }
    }

    /// Of the smallest cuts, the one with the fewest nodes on the side of the source: true for each of these.
    pub(super) fn cut(mut self) -> Vec<bool> {
        loop {
            let levels = self.levels();
            if levels.get(SINK).is_none_or(|l| *l == usize::MAX) {
                return levels.into_iter().map(|l| l != usize::MAX).collect();
            }
            self.saturate(&levels);
        }
    }

    /// Distance of each node from the source through edges with capacity left.
    fn levels(&self) -> Vec<usize> {
        let mut levels = vec![usize::MAX; self.of.len()];
        levels[SOURCE] = 0;
        let mut work = VecDeque::from([SOURCE]);
        while let Some(at) = work.pop_front() {
            for &e in &self.of[at] {
                let Edge { to, left } = self.edges[e];
                if left > 0 && levels[to] == usize::MAX {
                    levels[to] = levels[at] + 1;
                    work.push_back(to);
                }
            }
        }
        levels
    }

    /// Pushes flow along shortest ways until none is left.
    fn saturate(&mut self, levels: &[usize]) {
        let mut next = vec![0usize; self.of.len()];
        let mut path: Vec<usize> = Vec::new();
        loop {
            let at = path.last().map_or(SOURCE, |&e| self.edges[e].to);
            if at == SINK {
                let flow = path.iter().map(|&e| self.edges[e].left).min().unwrap_or(0);
                for &e in &path {
                    self.edges[e].left -= flow;
                    self.edges[e ^ 1].left += flow;
                }
                path.clear();
                continue;
            }
            let usable = |e: usize| self.edges[e].left > 0 && levels[self.edges[e].to] == levels[at] + 1;
            match self.of[at].get(next[at]) {
                Some(&e) if usable(e) => path.push(e),
                Some(_) => next[at] += 1,
                None => match path.pop() {
                    Some(e) => next[self.edges[e ^ 1].to] += 1,
                    None => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_cut_is_found() {
        let mut n = Network::new();
        let [a, b, c, d] = [n.node(), n.node(), n.node(), n.node()];
        for (from, to, capacity) in
            [(SOURCE, a, 3), (SOURCE, b, 2), (a, c, 2), (b, c, 1), (b, d, 2), (c, d, 5), (c, SINK, 2), (d, SINK, 3)]
        {
            n.edge(from, to, capacity);
        }
        // 5 flow at most: from the source, or into the sink.
        assert_eq!(n.cut(), [true, false, true, false, false, false]);
    }

    /// Every cut of small random networks.
    #[test]
    fn no_cut_is_smaller() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..300 {
            let size = 3 + random(5) as usize;
            let edges: Vec<(usize, usize, u64)> = (0..2 * size)
                .map(|_| (random(size as u64) as usize, random(size as u64) as usize, random(4)))
                .filter(|(a, b, _)| a != b)
                .collect();
            let mut n = Network::new();
            (2..size).for_each(|_| _ = n.node());
            edges.iter().for_each(|&(a, b, c)| n.edge(a, b, c));
            let cost = |side: &dyn Fn(usize) -> bool| -> u64 {
                edges.iter().filter(|(a, b, _)| side(*a) && !side(*b)).map(|e| e.2).sum()
            };
            let all = (0..1usize << size).filter(|s| s & 1 == 1 && s & 2 == 0);
            let best = all.clone().map(|s| cost(&|n| s >> n & 1 == 1)).min().unwrap();
            let found = n.cut();
            assert_eq!(cost(&|n| found[n]), best);
            let fewest = all.filter(|s| cost(&|n| s >> n & 1 == 1) == best).map(usize::count_ones).min().unwrap();
            assert_eq!(found.iter().filter(|f| **f).count(), fewest as usize);
        }
    }
}
