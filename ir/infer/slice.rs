//! Length of a slice of one axis.

use super::Num;
use crate::Dim;

/// Bounds from here on mean the end of the axis, which exporters write as one of several large numbers, 1 000 000 000 the
/// smallest of them. No axis of a tensor is that long.
const END: i64 = 1_000_000_000;

/// A slice along one axis: from `start`, up to `end`, in steps. Negative numbers count from the back.
#[derive(Debug, Clone)]
pub struct Range {
    /// First index.
    pub start: Num,
    /// First index that is not taken.
    pub end: Num,
    /// Step; not zero.
    pub step: i64,
}

impl Range {
    /// First index and number of elements on an axis of fixed size; `None` if a bound is not a number.
    pub fn on(&self, size: i64) -> Option<(i64, i64)> {
        let (start, end) = (self.start.int()?, self.end.int()?);
        let from_front = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
        let (start, end) = (from_front(start), from_front(end));
        let (start, span) = if self.step > 0 {
            let start = start.clamp(0, size);
            (start, end.clamp(0, size) - start)
        } else {
            let start = start.clamp(-1, size.saturating_sub(1));
            (start, start - end.clamp(-1, size.saturating_sub(1)))
        };
        let step = i64::try_from(self.step.unsigned_abs()).unwrap_or(i64::MAX);
        let count = if span <= 0 { 0 } else { (span - 1) / step + 1 };
        Some((start, count))
    }

    /// Size of the slice of an axis.
    pub fn size(&self, axis: &Dim) -> Dim {
        if let Some(size) = axis.known().and_then(|n| i64::try_from(n).ok())
            && let Some((_, count)) = self.on(size)
        {
            return Dim::from(count.unsigned_abs());
        }
        match self.step {
            -1 if self.reverses() => axis.clone(),
            1.. => self.forward(axis).offset(self.step - 1).floor_div(self.step.unsigned_abs()),
            _ => Dim::Unknown,
        }
    }

    /// The whole axis backwards: from the last element, to in front of the first.
    fn reverses(&self) -> bool {
        let from_last = matches!(self.start, Num::Int(s) if s == -1 || s >= END);
        from_last && matches!(self.end, Num::Int(e) if e <= -END)
    }

    /// Number of elements between the bounds.
    fn forward(&self, axis: &Dim) -> Dim {
        match (&self.start, &self.end) {
            (&Num::Int(start), &Num::Int(end)) => fixed(axis, start, end),
            (Num::Int(0), end @ Num::Symbolic(e)) if end.at_least(&Num::Int(0)) => {
                // A table that is cut to a named size is long enough for it.
                if axis.known().is_some() && !e.is_open() { e.clone() } else { axis.smaller(e) }
            }
            (start @ (Num::Int(_) | Num::Symbolic(_)), end) if start.at_least(&Num::Int(0)) => {
                let (size, zero) = (Num::from_dim(axis), Num::Int(0));
                let end = match end {
                    Num::Int(e) if *e >= END => size,
                    Num::Int(e) if *e < 0 => size.add(end).max(&zero),
                    Num::Symbolic(e) if (axis.known().is_some() && !e.is_open()) || size.at_least(end) => end.clone(),
                    _ => return Dim::Unknown,
                };
                let length = end.sub(start);
                // A start that is an expression has to be provably in front of the end.
                match start {
                    _ if length.at_least(&zero) => length.dim(),
                    Num::Int(_) => length.max(&zero).dim(),
                    _ => Dim::Unknown,
                }
            }
            _ => Dim::Unknown,
        }
    }
}

/// Number of elements between two numbers on an axis that is no number, and may be too short for them.
fn fixed(axis: &Dim, start: i64, end: i64) -> Dim {
    let zero = Dim::Known(0);
    let first = |n: i64| axis.smaller(&Dim::from_i64(n));
    let without = |n: i64| axis.offset(n).larger(&zero);
    match (start, end) {
        _ if (start < 0) == (end < 0) && end <= start => zero,
        (0, _) if end >= END => axis.clone(),
        (0, 1..) => first(end),
        (..=-1, _) if end >= END && start > -END => first(-start),
        (1.., _) if end >= END => without(-start),
        (1.., 1..) => first(end).offset(-start).larger(&zero),
        (0.., ..=-1) if end > -END => end.checked_sub(start).map_or(Dim::Unknown, without),
        (..=-1, ..=-1) if start > -END => without(end).sub(&without(start)),
        _ => Dim::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(start: i64, end: i64, step: i64, axis: &Dim) -> Dim {
        Range { start: Num::Int(start), end: Num::Int(end), step }.size(axis)
    }

    #[test]
    fn fixed_sizes_are_clamped() {
        let ten = Dim::Known(10);
        assert_eq!(slice(0, i64::MAX, 1, &ten), ten);
        assert_eq!(slice(-3, i64::MAX, 1, &ten), Dim::Known(3));
        assert_eq!(slice(2, 100, 3, &ten), Dim::Known(3));
        assert_eq!(slice(-1, i64::MIN, -1, &ten), ten);
        assert_eq!(slice(i64::MIN, i64::MAX, 1, &ten), ten);
        assert_eq!(slice(5, 2, 1, &ten), Dim::Known(0));
        assert_eq!(slice(i64::MAX, i64::MIN, i64::MIN, &ten), Dim::Known(1));
        assert_eq!(slice(0, 1, 1, &Dim::Known(0)), Dim::Known(0));
        assert_eq!(slice(-1, i64::MIN, -1, &Dim::Known(0)), Dim::Known(0));
    }

    #[test]
    fn named_sizes_give_expressions_where_the_slice_does_not_depend_on_them() {
        let n = Dim::symbol("N");
        assert_eq!(slice(0, i64::MAX, 1, &n), n);
        assert_eq!(slice(1, i64::MAX, 1, &n.offset(1)), n);
        assert_eq!(slice(0, -1, 1, &n.offset(2)), n.offset(1));
        assert_eq!(slice(-1, i64::MAX, 1, &n.offset(1)), Dim::Known(1));
        assert_eq!(slice(0, 1_000_000_000, 1, &n), n);
        assert_eq!(slice(-4, -1, 1, &n.offset(4)), Dim::Known(3));
        assert_eq!(slice(-1, i64::MIN, -1, &n), n);
        assert_eq!(slice(3, 3, 1, &n), Dim::Known(0));
        assert_eq!(slice(i64::MIN, -1, 1, &n), Dim::Unknown);
        assert_eq!(slice(-1, i64::MIN, 1, &n), Dim::Known(0));
        assert_eq!(slice(0, i64::MIN, 1, &n), Dim::Unknown);
    }

    #[test]
    fn what_may_run_over_an_end_is_a_minimum_or_a_maximum() {
        let n = Dim::symbol("N");
        assert_eq!(slice(1, i64::MAX, 1, &n).to_string(), "max(0, N - 1)");
        assert_eq!(slice(0, -1, 1, &n), slice(1, i64::MAX, 1, &n));
        assert_eq!(slice(-1, i64::MAX, 1, &n).to_string(), "min(1, N)");
        assert_eq!(slice(-4, -1, 1, &n).to_string(), "-max(0, N - 4) + max(0, N - 1)");
        assert_eq!(slice(0, 5, 1, &n).to_string(), "min(5, N)");
        assert_eq!(slice(-5, i64::MAX, 1, &n), slice(0, 5, 1, &n));
        assert_eq!(slice(2, 5, 1, &n).to_string(), "max(0, min(5, N) - 2)");
        assert_eq!(slice(0, 5, 1, &n.offset(5)), Dim::Known(5));
    }

    #[test]
    fn steps_round_up() {
        let n = Dim::symbol("N");
        assert_eq!(slice(0, i64::MAX, 2, &n).to_string(), "floor((N + 1)/2)");
        assert_eq!(slice(1, i64::MAX, 2, &n.offset(1)).to_string(), "floor((N + 1)/2)");
    }

    #[test]
    fn a_size_that_data_decides_may_be_too_small_for_the_bounds() {
        let m = Dim::open("", crate::ValueId(3), 0);
        assert_eq!(slice(0, i64::MAX, 1, &m), m);
        assert_eq!(slice(0, 5, 1, &m).to_string(), "min(5, ?v3.0)");
        assert_eq!(slice(-1, i64::MAX, 1, &m).to_string(), "min(1, ?v3.0)");
        assert_eq!(slice(1, i64::MAX, 1, &m).to_string(), "max(0, ?v3.0 - 1)");
        assert_eq!(slice(0, -1, 1, &m), slice(1, i64::MAX, 1, &m));
    }

    #[test]
    fn a_table_is_cut_to_a_named_size() {
        let total = Dim::symbol("past").add(&Dim::symbol("seq"));
        let part = |axis: &Dim| {
            Range { start: Num::from_dim(&Dim::symbol("past")), end: Num::from_dim(&total), step: 1 }.size(axis)
        };
        assert_eq!(part(&Dim::Known(1024)), Dim::symbol("seq"));
        assert_eq!(part(&total), Dim::symbol("seq"));
        assert_eq!(part(&Dim::symbol("seq")), Dim::Unknown);
    }
}
