//! Which option each layer gets, for a budget of all layers.

use std::cmp::Ordering;

/// What a layer costs, and what it loses, with each of its options. The first is the layer as it is.
pub(super) type Ladder = Vec<Step>;

/// An option, as far as the budget is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) cost: u64,
    pub(super) error: f64,
}

/// For each layer the index of its option: of all steps the one is taken next that loses least for what it saves, until no more than
/// `budget` is left. Steps that lie above the lower convex hull of a layer's options are leapt over.
pub(super) fn allocate(ladders: &[Ladder], budget: u64) -> Vec<usize> {
    let hulls: Vec<Vec<usize>> = ladders.iter().map(|l| hull(l)).collect();
    let step = |i: usize, at: usize| hulls.get(i).and_then(|h| ladders.get(i)?.get(*h.get(at)?)).copied();
    let mut moves = Vec::new();
    for (i, hull) in hulls.iter().enumerate() {
        for at in 1..hull.len() {
            let (Some(a), Some(b)) = (step(i, at - 1), step(i, at)) else { continue };
            moves.push((slope(a, b), i, at));
        }
    }
    // Slopes grow along a hull, so that the steps of a layer stay in their order.
    moves.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut chosen = vec![0usize; ladders.len()];
    let mut total: u64 = ladders.iter().filter_map(|l| l.first()).fold(0, |n, s| n.saturating_add(s.cost));
    for (_, i, at) in moves {
        if total <= budget {
            break;
        }
        let (Some(a), Some(b), Some(ladder), Some(chosen)) =
            (step(i, at - 1), step(i, at), ladders.get(i), chosen.get_mut(i))
        else {
            continue;
        };
        let others = total.saturating_sub(a.cost);
        // The last step need not go further than to the budget.
        let enough =
            |(_, s): &(usize, &Step)| s.cost < a.cost && s.cost >= b.cost && others.saturating_add(s.cost) <= budget;
        let least = ladder.iter().enumerate().filter(enough).min_by(|x, y| x.1.error.total_cmp(&y.1.error));
        let (index, cost) = match least {
            Some((index, s)) => (index, s.cost),
            None => (hulls.get(i).and_then(|h| h.get(at)).copied().unwrap_or(0), b.cost),
        };
        *chosen = index;
        total = others.saturating_add(cost);
    }
    chosen
}

fn slope(a: Step, b: Step) -> f64 {
    (b.error - a.error) / a.cost.saturating_sub(b.cost).max(1) as f64
}

/// Options with their numbers, the dearest first; of those that cost the same the one that loses least.
pub(super) fn dearest_first(a: &(usize, Step), b: &(usize, Step)) -> Ordering {
    b.1.cost.cmp(&a.1.cost).then(a.1.error.total_cmp(&b.1.error)).then(a.0.cmp(&b.0))
}

/// The options on the lower convex hull, from the dearest to the cheapest.
pub(super) fn hull(ladder: &[Step]) -> Vec<usize> {
    let mut order: Vec<(usize, Step)> = ladder.iter().copied().enumerate().collect();
    order.sort_by(dearest_first);
    let mut hull: Vec<(usize, Step)> = Vec::new();
    // What costs more than the layer as it is, is no option.
    for (index, s) in order.into_iter().skip_while(|(index, _)| *index != 0) {
        if hull.last().is_some_and(|(_, last)| s.cost >= last.cost) {
            continue;
        }
        while let [.., (_, a), (_, b)] = hull.as_slice() {
            if slope(*a, *b) < slope(*b, s) {
                break;
            }
            hull.pop();
        }
        hull.push((index, s));
    }
    hull.into_iter().map(|(index, _)| index).collect()
}

/// For each layer the option that loses least with no more than this share of what the layer costs. Ranks are steps, so that all of them
/// together keep less than the share; what is left of it buys the next step where that gains most.
pub(super) fn uniform(ladders: &[Ladder], share: f64) -> Vec<usize> {
    let option = |ladder: &Ladder| {
        let most = ladder.first().map_or(0.0, |s| s.cost as f64 * share);
        let fits = ladder.iter().enumerate().filter(|(_, s)| s.cost as f64 <= most);
        fits.min_by(|a, b| a.1.error.total_cmp(&b.1.error)).map_or(0, |(index, _)| index)
    };
    let mut chosen: Vec<usize> = ladders.iter().map(option).collect();
    let cost = |l: &Ladder, at: usize| l.get(at).map_or(0, |s| s.cost);
    let whole: u64 = ladders.iter().map(|l| cost(l, 0)).fold(0, u64::saturating_add);
    let kept: u64 = ladders.iter().zip(&chosen).map(|(l, &at)| cost(l, at)).fold(0, u64::saturating_add);
    let mut left = ((share * whole as f64) as u64).saturating_sub(kept);
    let mut steps: Vec<(f64, usize, usize, u64)> = Vec::new();
    for (i, (ladder, &at)) in ladders.iter().zip(&chosen).enumerate() {
        let Some(now) = ladder.get(at) else { continue };
        let dearer = ladder.iter().enumerate().skip(1).filter(|(_, s)| s.cost > now.cost && s.error < now.error);
        if let Some((next, s)) = dearer.min_by_key(|(_, s)| s.cost) {
            steps.push((slope(*s, *now), i, next, s.cost - now.cost));
        }
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, i, next, price) in steps {
        if let Some(at) = chosen.get_mut(i).filter(|_| price <= left) {
            *at = next;
            left -= price;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(steps: &[(u64, f64)]) -> Ladder {
        steps.iter().map(|&(cost, error)| Step { cost, error }).collect()
    }

    #[test]
    fn what_loses_least_per_saving_goes_first() {
        let cheap = ladder(&[(100, 0.0), (80, 0.1), (60, 0.3), (40, 0.8)]);
        let dear = ladder(&[(100, 0.0), (80, 0.4), (60, 0.9)]);
        let both = [cheap, dear];
        assert_eq!(allocate(&both, 200), [0, 0]);
        assert_eq!(allocate(&both, 180), [1, 0]);
        assert_eq!(allocate(&both, 140), [2, 1]);
        // More than there is.
        assert_eq!(allocate(&both, 0), [3, 2]);
        assert_eq!(allocate(&[], 0), [0usize; 0]);
    }

    #[test]
    fn a_first_step_that_is_dear_is_leapt_over_and_the_last_goes_no_further_than_needed() {
        let cliff = ladder(&[(100, 0.0), (90, 0.5), (30, 0.6)]);
        assert_eq!(allocate(std::slice::from_ref(&cliff), 95), [1]);
        assert_eq!(allocate(std::slice::from_ref(&cliff), 50), [2]);
        assert_eq!(allocate(&[cliff, ladder(&[(100, 0.0), (50, 1.0)])], 130), [2, 0]);
        // What costs more than the layer, or saves nothing.
        assert_eq!(allocate(&[ladder(&[(100, 0.0), (120, 0.0), (100, 0.0)])], 50), [0]);
    }

    #[test]
    fn each_keeps_the_same_share() {
        let ladders = [ladder(&[(100, 0.0), (80, 0.4), (60, 0.9)]), ladder(&[(10, 0.0), (9, 0.1)])];
        assert_eq!(uniform(&ladders, 0.7), [2, 0]);
        assert_eq!(uniform(&ladders, 0.9), [1, 1]);
        // Each keeps 60 of 100, and 20 are left for one of them.
        let alike = [ladder(&[(100, 0.0), (80, 0.1), (60, 0.5)]), ladder(&[(100, 0.0), (80, 0.4), (60, 0.5)])];
        assert_eq!(uniform(&alike, 0.7), [1, 2]);
    }
}
