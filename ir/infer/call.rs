//! What the rule of an operator sees: one node and what is known of its inputs.

use super::{Fact, Num, fact::MAX_RANK};
use crate::{Attrs, DType, Dim, Node, Shape, Type};

/// One node and what is known of its inputs.
#[derive(Debug)]
pub struct Call<'a> {
    /// The node.
    pub node: &'a Node,
    /// Version of the operator set that the node's operator is from.
    pub opset: i64,
    /// By input slot; nothing is known of slots that are left out.
    pub(crate) inputs: Vec<&'a Fact>,
    /// For each subgraph, in the order of [`Attrs::graphs`], what is known of its outputs.
    pub(crate) bodies: Vec<Vec<Fact>>,
}

impl<'a> Call<'a> {
    /// What is known of the value at an input slot.
    pub fn fact(&self, slot: usize) -> &'a Fact {
        self.inputs.get(slot).copied().unwrap_or(&Fact::UNKNOWN)
    }

    /// True if the input slot is not left out.
    pub fn has(&self, slot: usize) -> bool {
        self.node.input(slot).is_some()
    }

    /// The attributes.
    pub fn attrs(&self) -> &'a Attrs {
        &self.node.attrs
    }

    /// Type of an input.
    pub fn ty(&self, slot: usize) -> Option<&'a Type> {
        self.fact(slot).ty.as_ref()
    }

    /// Element type of an input.
    pub fn dtype(&self, slot: usize) -> Option<DType> {
        self.fact(slot).dtype()
    }

    /// Shape of an input, if its rank is known.
    pub fn shape(&self, slot: usize) -> Option<&'a [Dim]> {
        self.fact(slot).shape()
    }

    /// Elements of an input, as far as they are known.
    pub fn elements(&self, slot: usize) -> Option<&'a [Num]> {
        self.fact(slot).elements()
    }

    /// Elements of an integer input, if all are known.
    pub fn ints(&self, slot: usize) -> Option<Vec<i64>> {
        self.elements(slot)?.iter().map(Num::int).collect()
    }

    /// Elements of a vector input that says something of each axis; unknown ones if only their number is known.
    pub fn per_axis(&self, slot: usize) -> Option<Vec<Num>> {
        let unknown = || {
            let length = usize::try_from(self.fact(slot).count()?).ok()?;
            (length <= MAX_RANK).then(|| vec![Num::Unknown; length])
        };
        self.elements(slot).map(<[_]>::to_vec).or_else(unknown)
    }

    /// An integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attrs().int(name).unwrap_or(default)
    }

    /// True if an integer attribute is not zero.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, i64::from(default)) != 0
    }

    /// The element type that an attribute names by its code.
    pub fn dtype_attr(&self, name: &str) -> Option<DType> {
        DType::from_code(i32::try_from(self.attrs().int(name)?).ok()?)
    }

    /// Axes, sorted and counted from the front, of an input if it is there, or else of an attribute. `Ok(None)` if they
    /// are not known; `None` inside if neither is given.
    pub fn axes(&self, slot: usize, rank: usize) -> Result<Option<Option<Vec<usize>>>, String> {
        let raw = match (self.has(slot), self.attrs().ints("axes")) {
            (true, _) => match self.ints(slot) {
                Some(axes) => axes,
                None => return Ok(None),
            },
            (false, Some(axes)) => axes.to_vec(),
            (false, None) => return Ok(Some(None)),
        };
        let mut axes = raw.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        Ok(Some(Some(axes)))
    }

    /// The axis that an attribute names, counted from the front.
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, String> {
        axis(self.int(name, default), rank)
    }

    /// A fact with the type of an input.
    pub fn same(&self, slot: usize) -> Fact {
        Fact::typed(self.ty(slot).cloned())
    }

    /// A fact with the element type of an input and another shape.
    pub fn like(&self, slot: usize, shape: Option<Shape>) -> Fact {
        Fact::tensor(self.dtype(slot), shape)
    }

    /// Fails if the rank of an input is known and is not `rank`.
    pub fn expect_rank(&self, slot: usize, rank: usize) -> Result<(), String> {
        match self.shape(slot) {
            Some(s) if s.len() != rank => Err(format!("input {slot} has rank {}, not {rank}", s.len())),
            _ => Ok(()),
        }
    }
}

/// Counts an axis from the front. Fails if there is no such axis.
pub fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let out_of_range = || format!("axis {axis} does not exist at rank {rank}");
    let signed_rank = i64::try_from(rank).map_err(|_| out_of_range())?;
    let from_front = if axis < 0 { axis.checked_add(signed_rank) } else { Some(axis) };
    from_front.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank).ok_or_else(out_of_range)
}
