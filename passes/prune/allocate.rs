//! How many channels of each class go, for a budget of the whole model.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{
    GraphPath, Model, ValueId,
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
    /// Numbers of removed channels that are allowed, ascending, and the expected error of the outputs for each.
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

/// Classes, and the share that each takes of an axis.
type Shares = Vec<(usize, f64)>;

/// A cost that shrinks with the channels of its factors: `amount * Π (1 - Σ share * removed share)`.
struct Cost {
    amount: f64,
    /// For each axis, classes on it and the share of it that they take; for an axis of heads and their channels two lists.
    axes: Vec<Shares>,
}

/// The classes along an axis of so many elements, and the share of it that each takes. Those in one list lie side by side; classes of
/// which each has channels in all channels of the other, as heads and the channels of a head have, are in different ones.
fn along(classes: &Classes, path: &GraphPath, (value, axis): (ValueId, usize), size: u64) -> Vec<Shares> {
    let mut lists: Vec<(BTreeSet<u64>, Shares)> = Vec::new();
    for &index in classes.indices_along(path, value, axis) {
        let Some(class) = classes.all().get(index).filter(|_| size > 0) else { continue };
        let here = class.members.iter().filter(|m| m.graph == *path && m.value == value && m.axis == axis);
        let channels = 0..class.size.known().unwrap_or(0);
        let places: BTreeSet<u64> = here.flat_map(|m| channels.clone().filter_map(|c| m.places(c))).flatten().collect();
        let share = (index, places.len() as f64 / size as f64);
        match lists.iter_mut().find(|(taken, _)| taken.is_disjoint(&places)) {
            Some((taken, list)) => {
                taken.extend(places);
                list.push(share);
            }
            None => lists.push((places, vec![share])),
        }
    }
    lists.into_iter().map(|l| l.1).collect()
}

/// The costs of a model, each as far as candidates can change it.
pub(super) struct Costs {
    all: Vec<Cost>,
    /// Which of them a class changes.
    of_class: BTreeMap<usize, BTreeSet<usize>>,
}

impl Costs {
    /// Of the main graph. Other graphs cost what they cost.
    pub(super) fn of_model(
        model: &Model,
        facts: &Inferred,
        classes: &Classes,
        bindings: &Bindings,
        budget: Budget,
    ) -> Costs {
        let graph = &model.graph;
        let path = GraphPath::main();
        let of_value = |v: ValueId| -> Vec<Shares> {
            let shape = facts.graph().fact(v).shape().unwrap_or_default();
            let sizes = shape.iter().map(|d| d.known().unwrap_or(0)).enumerate();
            sizes.flat_map(|(axis, size)| along(classes, &path, (v, axis), size)).collect()
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
        Costs::new(costs)
    }

    fn new(all: Vec<Cost>) -> Costs {
        let mut of_class: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (at, cost) in all.iter().enumerate() {
            for (class, _) in cost.axes.iter().flatten() {
                of_class.entry(*class).or_default().insert(at);
            }
        }
        Costs { all, of_class }
    }

    fn changed_by(&self, class: usize) -> impl Iterator<Item = &Cost> {
        self.of_class.get(&class).into_iter().flatten().filter_map(|&at| self.all.get(at))
    }

    /// Classes that a class shares a cost with, and itself.
    fn coupled(&self, class: usize) -> BTreeSet<usize> {
        self.changed_by(class).flat_map(|c| c.axes.iter().flatten().map(|a| a.0)).chain([class]).collect()
    }

    /// The sum of those that a class changes.
    fn of(&self, class: usize, removed: &BTreeMap<usize, f64>) -> f64 {
        self.changed_by(class).map(|c| c.value(removed)).sum()
    }

    /// The sum, when such shares of the classes are removed.
    pub(super) fn total(&self, removed: &BTreeMap<usize, f64>) -> f64 {
        self.all.iter().map(|c| c.value(removed)).sum()
    }
}

impl Cost {
    /// When such shares of the classes are removed.
    fn value(&self, removed: &BTreeMap<usize, f64>) -> f64 {
        let removed = |class: &usize| removed.get(class).copied().unwrap_or(0.0);
        let factor = |axis: &Vec<(usize, f64)>| 1.0 - axis.iter().map(|(c, share)| share * removed(c)).sum::<f64>();
        self.amount * self.axes.iter().map(factor).product::<f64>()
    }
}

/// For each candidate the index of its step. The cheapest step in error per cost is taken again and again, where a step may also be a
/// leap over steps that are worse than what follows.
pub(super) fn allocate(candidates: &[Candidate], costs: &Costs, budget: Budget) -> Vec<usize> {
    let mut plan = Plan { candidates, costs, chosen: vec![0; candidates.len()], shares: BTreeMap::new() };
    let limit = budget.share() * costs.total(&plan.shares);
    (0..candidates.len()).for_each(|i| plan.choose(i, 0));
    let mut now = costs.total(&plan.shares);
    let mut leaps: Vec<Option<Leap>> = (0..candidates.len()).map(|i| plan.best_leap(i)).collect();
    while now > limit {
        let found = leaps.iter().enumerate().filter_map(|(i, leap)| Some((i, leap.as_ref()?)));
        let Some((i, leap)) = found.min_by(|a, b| a.1.slope.total_cmp(&b.1.slope)) else { break };
        let next = leap.to;
        now -= leap.saved;
        let coupled = candidates.get(i).map_or_else(BTreeSet::new, |c| costs.coupled(c.class));
        plan.choose(i, next);
        for (i, (c, leap)) in candidates.iter().zip(&mut leaps).enumerate() {
            if coupled.contains(&c.class) {
                *leap = plan.best_leap(i);
            }
        }
    }
    plan.give_back(limit);
    plan.chosen
}

/// How far each candidate goes.
struct Plan<'a> {
    candidates: &'a [Candidate],
    costs: &'a Costs,
    /// Step of each.
    chosen: Vec<usize>,
    /// The share of each class that goes.
    shares: BTreeMap<usize, f64>,
}

/// From the chosen step of a candidate to a later one.
struct Leap {
    /// Error per cost.
    slope: f64,
    to: usize,
    saved: f64,
}

impl Plan<'_> {
    fn choose(&mut self, candidate: usize, step: usize) {
        if let (Some(chosen), Some(c)) = (self.chosen.get_mut(candidate), self.candidates.get(candidate)) {
            *chosen = step;
            self.shares.insert(c.class, c.share(step));
        }
    }

    /// The leap that costs least error for what it saves. None if nothing more is saved.
    fn best_leap(&mut self, candidate: usize) -> Option<Leap> {
        let (c, &at) = (self.candidates.get(candidate)?, self.chosen.get(candidate)?);
        let before = self.costs.of(c.class, &self.shares);
        let mut best: Option<Leap> = None;
        for to in at + 1..c.steps.len() {
            self.shares.insert(c.class, c.share(to));
            let saved = before - self.costs.of(c.class, &self.shares);
            let slope = (c.error(to) - c.error(at)).max(0.0) / saved;
            if saved > 0.0 && best.as_ref().is_none_or(|b| slope < b.slope) {
                best = Some(Leap { slope, to, saved });
            }
        }
        self.shares.insert(c.class, c.share(at));
        best
    }

    /// Takes less where the last leap has left room below the limit: again and again the step back that spares the most error.
    fn give_back(&mut self, limit: f64) {
        let candidates = self.candidates;
        let mut room = limit - self.costs.total(&self.shares);
        while room > 0.0 {
            let mut best: Option<(f64, usize, usize, f64)> = None;
            for (i, c) in candidates.iter().enumerate() {
                let at = self.chosen.get(i).copied().unwrap_or(0);
                let before = self.costs.of(c.class, &self.shares);
                for earlier in 0..at {
                    let spared = c.error(at) - c.error(earlier);
                    self.shares.insert(c.class, c.share(earlier));
                    let taken = self.costs.of(c.class, &self.shares) - before;
                    if spared > best.map_or(0.0, |b| b.0) && taken <= room {
                        best = Some((spared, i, earlier, taken));
                    }
                }
                self.shares.insert(c.class, c.share(at));
            }
            let Some((_, i, earlier, taken)) = best else { return };
            room -= taken;
            self.choose(i, earlier);
        }
    }
}

impl Candidate {
    fn share(&self, step: usize) -> f64 {
        self.steps.get(step).map_or(0.0, |s| s.0 as f64) / self.size.max(1) as f64
    }

    fn error(&self, step: usize) -> f64 {
        self.steps.get(step).map_or(0.0, |s| s.1)
    }
}

#[cfg(test)]
mod tests {
    use planish_ir::{axes::classes, infer};

    use super::*;
    use crate::testing::parse;

    #[test]
    fn channels_of_heads_save_as_much_of_each_head_that_stays() {
        let model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[1,5,6] x) => (float[1,5,6] y)
            <float[6,12] wv, float[12,6] wo, int64[4] split = {0, 0, 3, 4}, int64[3] merge = {0, 0, 12}> {
                v = MatMul (x, wv)
                a = Reshape (v, split)
                b = Reshape (a, merge)
                y = MatMul (b, wo)
            }"#,
        );
        let facts = infer::infer(&model, &Bindings::new());
        let classes = classes(&model, &facts);
        let of =
            |size: u64| classes.all().iter().position(|c| c.blocks.is_empty() && c.size.known() == Some(size)).unwrap();
        let (heads, channels) = (of(3), of(4));
        let costs = Costs::of_model(&model, &facts, &classes, &Bindings::new(), Budget::Parameters(1.0));
        let total = |removed: &[(usize, f64)]| costs.total(&removed.iter().copied().collect()).round();
        assert_eq!(total(&[]), 144.0);
        assert_eq!(total(&[(heads, 2.0 / 3.0)]), 48.0);
        assert_eq!(total(&[(heads, 2.0 / 3.0), (channels, 0.5)]), 24.0);
    }

    #[test]
    fn costs_are_known_with_the_sizes_of_a_sample() {
        // Half of an open size has no closed form.
        let model = parse(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[1,S,6] x) => (y)
            <float[12,8] w, float[8,4] v, int64[1] two = {2}, int64[1] one = {1}, int64[1] twelve = {12}> {
                s = Shape <start = 1, end = 2> (x)
                h = Div (s, two)
                t = Concat <axis = 0> (one, h, twelve)
                a = Reshape (x, t)
                u = MatMul (a, w)
                y = MatMul (u, v)
            }"#,
        );
        let sizes = Bindings::from([("S".to_owned(), 10)]);
        let total = |facts: &Inferred| {
            let classes = classes(&model, facts);
            Costs::of_model(&model, facts, &classes, &sizes, Budget::Macs(1.0)).total(&BTreeMap::new())
        };
        assert_eq!(total(&infer::infer(&model, &Bindings::new())), 0.0);
        assert_eq!(total(&infer::infer(&model, &sizes)), (5 * 12 * 8 + 5 * 8 * 4) as f64);
    }

    #[test]
    fn the_class_that_costs_least_per_gain_goes_first() {
        let linear =
            |class, slope: f64| Candidate { class, size: 8, steps: (0..8).map(|k| (k, slope * k as f64)).collect() };
        let costs = Costs::new(vec![
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
        assert_eq!(allocate(&[cliff.clone(), linear(1, 0.5)], &costs, Budget::Macs(0.7)), [2, 0]);
        // A leap may go too far, and then others need not go.
        let ahead = Candidate { class: 1, size: 8, steps: vec![(0, 0.0), (1, 0.1)] };
        assert_eq!(allocate(&[cliff, ahead], &costs, Budget::Macs(0.64)), [2, 0]);
    }
}
