//! Unknown factors, of which some are known to be equal, inverse to each other, or one.

/// An unknown factor.
pub(super) type Var = u32;

/// A factor as a power of another: itself, or its inverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Signed {
    /// The factor that stands for all that depend on each other.
    pub(in super::super) root: Var,
    /// It is the inverse of that.
    pub(in super::super) inverse: bool,
}

/// Sets of factors that depend on each other.
#[derive(Debug, Default)]
pub(super) struct Factors {
    parents: Vec<Signed>,
    /// Why a set is one; only that of the root counts.
    fixed: Vec<Option<u32>>,
}

impl Factors {
    /// Adds `count` unknown factors and returns the first one.
    pub(super) fn add(&mut self, count: usize) -> Var {
        let first = self.parents.len();
        self.parents.extend((first..first + count).map(|i| Signed { root: i as Var, inverse: false }));
        self.fixed.resize(first + count, None);
        first as Var
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// A factor in terms of the one that stands for its set.
    pub(super) fn find(&mut self, var: Var) -> Signed {
        let mut path = Vec::new();
        let mut at = var;
        while let Some(&up) = self.parents.get(at as usize).filter(|up| up.root != at) {
            path.push((at, up.inverse));
            at = up.root;
        }
        let mut found = Signed { root: at, inverse: false };
        for (below, inverse) in path.into_iter().rev() {
            found.inverse ^= inverse;
            if let Some(slot) = self.parents.get_mut(below as usize) {
                *slot = found;
            }
        }
        found
    }

    /// Two factors are equal, or inverse to each other.
    pub(super) fn unite(&mut self, a: Var, b: Var, inverse: bool) {
        let (a, b) = (self.find(a), self.find(b));
        let inverse = inverse ^ a.inverse ^ b.inverse;
        if a.root == b.root {
            // Equal to its own inverse.
            if inverse {
                self.fix(a.root, CONTRADICTION);
            }
            return;
        }
        // The smaller number stands for both, so that results do not depend on the order of nodes.
        let (root, child) = (a.root.min(b.root), a.root.max(b.root));
        if let Some(slot) = self.parents.get_mut(child as usize) {
            *slot = Signed { root, inverse };
        }
        if let Some(why) = self.reason(child) {
            self.fix(root, why);
        }
    }

    /// A factor is one, for the given reason.
    pub(super) fn fix(&mut self, var: Var, why: u32) {
        let root = self.find(var).root;
        if let Some(slot) = self.fixed.get_mut(root as usize) {
            *slot = Some(slot.map_or(why, |old| old.min(why)));
        }
    }

    /// Why a factor is one; `None` if it is free.
    pub(super) fn why_fixed(&mut self, var: Var) -> Option<u32> {
        let root = self.find(var).root;
        self.reason(root)
    }

    fn reason(&self, root: Var) -> Option<u32> {
        self.fixed.get(root as usize).copied().flatten()
    }
}

/// Reason of a factor that would have to be its own inverse.
pub(super) const CONTRADICTION: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses_of_inverses_are_equal() {
        let mut f = Factors::default();
        let first = f.add(4);
        f.unite(first, 1, true);
        f.unite(1, 2, true);
        assert_eq!(f.find(2), Signed { root: 0, inverse: false });
        assert_eq!(f.find(1), Signed { root: 0, inverse: true });
        f.unite(3, 2, false);
        f.fix(3, 7);
        assert_eq!(f.why_fixed(1), Some(7));
    }

    #[test]
    fn what_is_its_own_inverse_is_one() {
        let mut f = Factors::default();
        f.add(3);
        f.unite(0, 1, true);
        f.unite(1, 2, false);
        assert_eq!(f.why_fixed(0), None);
        f.unite(0, 2, false);
        assert_eq!(f.why_fixed(1), Some(CONTRADICTION));
    }
}
