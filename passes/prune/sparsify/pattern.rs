//! Which weights are zero: a share of them, or a pattern along what a product sums over.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// So many of so many neighbours stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// At most so many are not zero.
    pub keep: usize,
    /// Channels that are neighbours.
    pub of: usize,
}

/// Most neighbours of a pattern.
const MOST: usize = 64;

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let numbers = text.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        match numbers {
            Some((keep, of)) if 0 < keep && keep < of && of <= MOST => Ok(Pattern { keep, of }),
            _ => Err(format!(
                "{text:?} is no pattern; \"2:4\" keeps 2 of 4 neighbours, and there may be up to {MOST} neighbours"
            )),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Pattern, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.keep, self.of)
    }
}

/// What is to become zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// That share, anywhere.
    Share(f64),
    /// What a pattern does not keep.
    Pattern(Pattern),
}

/// Columns of a matrix in the order in which they are decided on: neighbours behind each other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    pub(super) order: Vec<usize>,
    /// For each place in the order, where the neighbours end that it belongs to.
    ends: Vec<usize>,
}

impl Columns {
    /// Of rows that have `taps` places of each channel. Neighbours are channels at the same tap; the last ones may be fewer.
    pub(super) fn new(goal: Goal, channels: usize, taps: usize) -> Columns {
        let Goal::Pattern(Pattern { of, .. }) = goal else {
            let width = channels * taps;
            return Columns { order: (0..width).collect(), ends: vec![width; width] };
        };
        let mut columns = Columns { order: Vec::new(), ends: Vec::new() };
        // Those that are fewer come last, so that chunks of columns do not divide the others.
        for is_whole in [true, false] {
            for first in (0..channels).step_by(of) {
                let group = first..channels.min(first + of);
                if (group.len() == of) != is_whole {
                    continue;
                }
                for tap in 0..taps {
                    columns.order.extend(group.clone().map(|channel| channel * taps + tap));
                    columns.ends.resize(columns.order.len(), columns.order.len());
                }
            }
        }
        columns
    }

    /// Where the neighbours end that begin at this place; nothing if none do.
    pub(super) fn end_of_group_at(&self, place: usize) -> Option<usize> {
        let before = place.checked_sub(1).and_then(|p| self.ends.get(p));
        self.ends.get(place).copied().filter(|end| before != Some(end))
    }
}

impl Goal {
    /// How many of so many are to be zero.
    pub(super) fn zeros(self, of: usize) -> usize {
        match self {
            // Less a little: 0.3 is not a number of floats.
            Goal::Share(share) => ((share * of as f64 - 1e-9).ceil().max(0.0) as usize).min(of),
            Goal::Pattern(pattern) => of.saturating_sub(pattern.keep),
        }
    }

    /// Marks what stays: all but the least scores, row-major. A share is of each row, or of all rows together.
    pub(super) fn kept(self, scores: &[f64], columns: &Columns, by_row: bool) -> Vec<bool> {
        let width = columns.order.len().max(1);
        let mut kept = vec![true; scores.len()];
        match self {
            Goal::Share(_) => {
                let unit = if by_row { width } else { scores.len().max(1) };
                for (kept, scores) in kept.chunks_mut(unit).zip(scores.chunks(unit)) {
                    least(scores, self.zeros(scores.len())).into_iter().for_each(|i| kept[i] = false);
                }
            }
            Goal::Pattern(_) => {
                for (kept, scores) in kept.chunks_mut(width).zip(scores.chunks(width)) {
                    let groups = (0..width).filter_map(|i| Some(i..columns.end_of_group_at(i)?));
                    for group in groups {
                        let group = &columns.order[group];
                        let here: Vec<f64> = group.iter().map(|&c| scores[c]).collect();
                        least(&here, self.zeros(here.len())).into_iter().for_each(|i| kept[group[i]] = false);
                    }
                }
            }
        }
        kept
    }

    /// True if as many weights are zero already, where they are to be.
    pub(super) fn is_met(self, values: &[f64], columns: &Columns) -> bool {
        let width = columns.order.len().max(1);
        let zeros = |values: &mut dyn Iterator<Item = f64>| values.filter(|v| *v == 0.0).count();
        match self {
            Goal::Share(_) => zeros(&mut values.iter().copied()) >= self.zeros(values.len()),
            Goal::Pattern(_) => values.chunks(width).all(|row| {
                let mut groups = (0..width).filter_map(|i| Some(i..columns.end_of_group_at(i)?));
                groups.all(|g| zeros(&mut columns.order[g.clone()].iter().map(|&c| row[c])) >= self.zeros(g.len()))
            }),
        }
    }
}

/// Where the `count` least numbers are; of equal ones the first.
pub(super) fn least(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < places.len() {
        places.select_nth_unstable_by(count, |&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        places.truncate(count);
    }
    places
}
