//! Length of a slice of one axis.

use super::Num;
use crate::Dim;

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
            1 => self.forward(axis),
            -1 if self.reverses() => axis.clone(),
            _ => Dim::Unknown,
        }
    }

    /// The whole axis backwards: from the last element, to in front of the first.
    fn reverses(&self) -> bool {
        let from_last = matches!(self.start, Num::Int(s) if s == -1 || s >= i64::from(i32::MAX));
        from_last && matches!(self.end, Num::Int(e) if e <= i64::from(i32::MIN) + 1)
    }

    fn forward(&self, axis: &Dim) -> Dim {
        let size = Num::from_dim(axis);
        // The last element alone.
        if let (Num::Int(-1), Num::Int(end)) = (&self.start, &self.end)
            && *end >= i64::from(i32::MAX)
        {
            return Dim::Known(1);
        }
        let Some(start) = (match &self.start {
            Num::Int(s) if *s >= 0 => Some(self.start.clone()),
            s @ Num::Symbolic(_) if s.at_least(&Num::Int(0)) => Some(s.clone()),
            Num::Int(_) | Num::Float(_) | Num::Symbolic(_) | Num::Unknown => None,
        }) else {
            return Dim::Unknown;
        };
        let end = match &self.end {
            Num::Int(e) if *e >= i64::from(i32::MAX) => size.clone(),
            Num::Int(e) if *e < 0 => size.add(&self.end),
            // `min(size, e)`, which no expression says.
            Num::Int(_) => return Dim::Unknown,
            e @ Num::Symbolic(_) if axis.known().is_some() || size.at_least(e) => e.clone(),
            Num::Float(_) | Num::Symbolic(_) | Num::Unknown => return Dim::Unknown,
        };
        let length = end.sub(&start);
        // A start that is an expression has to be provably in front of the end.
        match start {
            Num::Int(_) => length.dim(),
            _ if length.at_least(&Num::Int(0)) => length.dim(),
            _ => Dim::Unknown,
        }
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
        assert_eq!(slice(1, i64::MAX, 1, &n), n.offset(-1));
        assert_eq!(slice(0, -1, 1, &n), n.offset(-1));
        assert_eq!(slice(-1, i64::MAX, 1, &n), Dim::Known(1));
        assert_eq!(slice(0, 5, 1, &n), Dim::Unknown);
        assert_eq!(slice(-5, i64::MAX, 1, &n), Dim::Unknown);
        assert_eq!(slice(-1, i64::MIN, -1, &n), n);
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
