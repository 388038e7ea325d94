//! How many channels of each class go, for a budget of the whole model.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    Model, ValueId,
    axes::Classes,
    cost,
    infer::{Bindings, Inferred},
};

/// What a class is to the allocation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    /// Index in [`Classes::all`].
    pub(super) class: usize,
    /// Channels.
    pub(super) size: u64,
    /// Numbers of removed channels that are allowed, ascending from 0, and the expected error of the outputs for each.
    pub(super) steps: Vec<(u64, f64)>,
}

/// What is to be kept to, as a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// Multiply-accumulates.
    Macs(f64),
    /// Elements of weights.
    Parameters(f64),
    /// Bytes of weights.
    Bytes(f64),
}

impl Budget {
    pub(super) const fn share(self) -> f64 {
        let (Budget::Macs(share) | Budget::Parameters(share) | Budget::Bytes(share)) = self;
        share
    }

    /// What is counted, for reports.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Budget::Macs(_) => "MACs",
            Budget::Parameters(_) => "parameters",
            Budget::Bytes(_) => "bytes of weights",
        }
    }
}

/// A cost that shrinks with the channels of its factors: `amount * Π (1 - Σ share * removed share)`.
struct Cost {
    amount: f64,
    /// For each axis, classes on it and the share of it that they take.
    axes: Vec<Vec<(usize, f64)>>,
}

/// The costs of a model, each as far as candidates can change it.
pub(super) struct Costs(Vec<Cost>);

impl Costs {
    /// Of the main graph. Other graphs cost what they cost.
    pub(super) fn of(model: &Model, facts: &Inferred, classes: &Classes, bindings: &Bindings, budget: Budget) -> Costs {
        let graph = &model.graph;
        let path = planish_ir::GraphPath::main();
        let along = |v: ValueId, axis: usize| -> Vec<(usize, f64)> {
            let size = facts.graph().fact(v).shape().and_then(|s| s.get(axis)?.known()).unwrap_or(0);
            let share = |&index: &usize| {
                let class = classes.all().get(index)?;
                let here = class.members.iter().filter(|m| m.graph == path && m.value == v && m.axis == axis);
                let places: u64 = here.filter_map(|m| super::units::places(class, m)).sum();
                (size > 0).then(|| (index, places as f64 / size as f64))
            };
            classes.indices_along(&path, v, axis).iter().filter_map(share).collect()
        };
        let of_value = |v: ValueId| -> Vec<Vec<(usize, f64)>> {
            let rank = facts.graph().fact(v).shape().map_or(0, <[_]>::len);
            (0..rank).map(|axis| along(v, axis)).filter(|a| !a.is_empty()).collect()
        };
        let mut costs = Vec::new();
        match budget {
            Budget::Macs(_) => {
                for (_, node) in graph.nodes() {
                    let macs = cost::node_macs(model, node, facts.graph(), bindings).unwrap_or(0);
                    if macs == 0 {
                        continue;
                    }
                    let weight = node
                        .inputs()
                        .iter()
                        .flatten()
                        .copied()
                        .find(|&v| graph.constant(v).is_some_and(|t| t.rank() > 1));
                    let axes = match weight {
                        Some(w) => of_value(w),
                        // A product of activations: what its result has, and what it sums over.
                        None => {
                            let mut axes: Vec<_> = node.output(0).into_iter().flat_map(of_value).collect();
                            let seen: BTreeSet<usize> = axes.iter().flatten().map(|a| a.0).collect();
                            let summed = node.input(0).into_iter().flat_map(of_value);
                            axes.extend(summed.filter(|a| a.iter().all(|(c, _)| !seen.contains(c))));
                            axes
                        }
                    };
                    costs.push(Cost { amount: macs as f64, axes });
                }
            }
            Budget::Parameters(_) | Budget::Bytes(_) => {
                for (v, value) in graph.values() {
                    if let Some(t) = value.constant().filter(|t| cost::is_weight(t)) {
                        let is_bytes = matches!(budget, Budget::Bytes(_));
                        let amount = if is_bytes { t.byte_len() } else { t.elements() };
                        costs.push(Cost { amount: amount as f64, axes: of_value(v) });
                    }
                }
            }
        }
        Costs(costs)
    }

    /// The sum, when such shares of the classes are removed.
    pub(super) fn total(&self, removed: &BTreeMap<usize, f64>) -> f64 {
        let removed = |class: &usize| removed.get(class).copied().unwrap_or(0.0);
        let factor = |axis: &Vec<(usize, f64)>| 1.0 - axis.iter().map(|(c, share)| share * removed(c)).sum::<f64>();
        self.0.iter().map(|c| c.amount * c.axes.iter().map(factor).product::<f64>()).sum()
    }
}

/// For each candidate the index of its step. The cheapest step in error per cost is taken again and again, where a step may also be a
/// leap over steps that are worse than what follows.
pub(super) fn allocate(candidates: &[Candidate], costs: &Costs, budget: Budget) -> Vec<usize> {
    let share = budget.share();
    let mut chosen = vec![0usize; candidates.len()];
    // The share of each class that goes, as chosen so far.
    let mut shares: BTreeMap<usize, f64> = BTreeMap::new();
    let start = costs.total(&shares);
    let mut now = start;
    while now > share * start {
        let mut best: Option<(f64, usize, usize, f64)> = None;
        for (i, (c, &at)) in candidates.iter().zip(&chosen).enumerate() {
            let Some(&(count, error)) = c.steps.get(at) else { continue };
            for (next, &(more, worse)) in c.steps.iter().enumerate().skip(at + 1) {
                shares.insert(c.class, more as f64 / c.size.max(1) as f64);
                let after = costs.total(&shares);
                let slope = (worse - error).max(0.0) / (now - after);
                if after < now && best.is_none_or(|(s, ..)| slope < s) {
                    best = Some((slope, i, next, after));
                }
            }
            shares.insert(c.class, count as f64 / c.size.max(1) as f64);
        }
        let Some((_, i, next, after)) = best else { break };
        if let (Some(chosen), Some(c)) = (chosen.get_mut(i), candidates.get(i)) {
            *chosen = next;
            shares.insert(c.class, c.steps.get(next).map_or(0.0, |s| s.0 as f64) / c.size.max(1) as f64);
        }
        now = after;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_that_costs_least_per_gain_goes_first() {
        let linear =
            |class, slope: f64| Candidate { class, size: 8, steps: (0..8).map(|k| (k, slope * k as f64)).collect() };
        let costs = Costs(vec![
            Cost { amount: 100.0, axes: vec![vec![(0, 1.0)]] },
            Cost { amount: 100.0, axes: vec![vec![(1, 1.0)]] },
        ]);
        let candidates = [linear(0, 1.0), linear(1, 3.0)];
        assert_eq!(allocate(&candidates, &costs, Budget::Macs(0.75)), [4, 0]);
        assert_eq!(allocate(&candidates, &costs, Budget::Macs(1.0)), [0, 0]);
        // More than there is.
        assert_eq!(allocate(&candidates, &costs, Budget::Macs(0.0)), [7, 7]);
        // A step that is dear is leapt over if the next ones are free.
        let cliff = Candidate { class: 0, size: 8, steps: vec![(0, 0.0), (1, 2.0), (6, 2.0)] };
        assert_eq!(allocate(&[cliff, linear(1, 0.5)], &costs, Budget::Macs(0.7)), [2, 0]);
    }
}
