//! Typed ids. Both are indices into arenas of one [`Graph`](crate::Graph) and are never reused while that graph lives:
//! a removed entity leaves a tombstone, so a stale id finds nothing instead of finding a stranger.

use std::fmt;

/// A node of one graph. Displays as in diagnostics: `n7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A value of one graph: a graph input, a constant, the output of a node, or something captured from an enclosing graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(crate) u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl ValueId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

macro_rules! display {
    ($id:ident, $letter:literal) => {
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
display!(NodeId, "n");
display!(ValueId, "v");
