//! Which matrices that are multiplied with one value get one factor in common in front of them, and one of their own behind it.
//!
//! Queries, keys and values look at the same tokens. Where those have few directions that matter, the same few do for all of them, and what
//! picks them out is computed and stored once: with `m` square matrices of size `n` that is `(m + 1) n` numbers for each rank, not `2 m n`.
//! The shared factor loses least of all outputs together, each matrix's power counting alike.
//!
//! Which is better is seen before ranks are chosen: at the share that is to be kept, what the matrices lose together on the one hand, and with
//! the best ranks of their own on the other, as shares of the power of their outputs. Errors times what each matrix alone does to the model's
//! outputs were tried instead, in the factor and in the comparison, and lead to models that lose more: one measurement says too little.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{Graph, ValueId};

use super::{
    allocate::{Ladder, Step, allocate},
    rank::{Own, Rule},
    sites::{Pick, Site, best},
};
use crate::Linear;

/// Sites of one node each that multiply the same rows of the same value, two or more in a group.
pub(super) fn groups<'s, 'a>(graph: &Graph, sites: &'s [Site<'a>]) -> Vec<Vec<&'s Site<'a>>> {
    let mut groups: BTreeMap<_, Vec<&Site<'a>>> = BTreeMap::new();
    for site in sites {
        let (&[node], &[weight]) = (site.nodes.as_slice(), site.weights.as_slice()) else { continue };
        let linear = Linear::of(graph, node).filter(|l| l.weight == weight && l.groups() == 1);
        let Some((linear, node)) = linear.zip(graph.node(node)) else { continue };
        // The shared factor is stored as the weights are.
        let is_out_in = linear.is_out_in();
        groups.entry((linear.input, linear.rows, node.op.to_string(), is_out_in)).or_default().push(site);
    }
    groups.into_values().filter(|m| m.len() > 1).collect()
}

/// The single sites by their weights.
fn alone(sites: &[Site<'_>]) -> BTreeMap<ValueId, usize> {
    let single = |(i, site): (usize, &Site<'_>)| match site.weights.as_slice() {
        &[weight] => Some((weight, i)),
        _ => None,
    };
    sites.iter().enumerate().filter_map(single).collect()
}

/// The sites that are left out, by index: those of a group, or the group itself, whichever loses more.
pub(super) fn left_out(rule: Rule, sites: &[Site<'_>], options: &[Vec<Pick>]) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    let of = |&i: &usize| Some(Seen { site: sites.get(i)?, options: options.get(i)? });
    let alone = alone(sites);
    for (group, site) in sites.iter().enumerate().filter(|(_, s)| s.weights.len() > 1) {
        let members: Vec<usize> = site.weights.iter().filter_map(|w| alone.get(w).copied()).collect();
        let apart: Vec<Seen<'_, '_>> = members.iter().filter_map(of).collect();
        match of(&group).is_some_and(|whole| is_better(rule, &whole, &apart)) {
            true => out.extend(members),
            false => drop(out.insert(group)),
        }
    }
    out
}

/// A site and what can be had of it.
struct Seen<'s, 'a> {
    site: &'s Site<'a>,
    options: &'s [Pick],
}

fn is_better(rule: Rule, together: &Seen<'_, '_>, apart: &[Seen<'_, '_>]) -> bool {
    match rule {
        Rule::Budget(budget) => {
            let limit = (budget.share() * budget.of(&together.site.cost) as f64) as u64;
            let ladder = |seen: &Seen<'_, '_>| -> Ladder {
                // Of several weights it is their mean.
                let count = seen.site.weights.len() as f64;
                let steps = seen.site.ladder(seen.options, budget).into_iter();
                steps.map(|s| Step { error: count * s.error, ..s }).collect()
            };
            let ladders: Vec<Ladder> = apart.iter().map(ladder).collect();
            let steps = || ladders.iter().zip(allocate(&ladders, limit)).filter_map(|(l, at)| l.get(at).copied());
            let kept = steps().map(|s| s.cost).fold(0, u64::saturating_add);
            let lost = if kept > limit { f64::INFINITY } else { steps().map(|s| s.error).sum() };
            let enough = ladder(together).into_iter().filter(|s| s.cost <= limit).map(|s| s.error);
            enough.fold(f64::INFINITY, f64::min) < lost
        }
        Rule::Own(own @ Own::Energy(_)) => {
            let time = |s: &Seen<'_, '_>| best(own, s.options).map_or(&s.site.cost, |p| &p.choice.cost).time();
            let alone = apart.iter().map(time).fold(0, u64::saturating_add);
            best(own, together.options).is_some_and(|p| p.choice.cost.time() < alone)
        }
        // A rank that is asked for is that of each matrix.
        Rule::Own(_) => false,
    }
}
