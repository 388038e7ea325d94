//! Which weights there are, and how they are read.

use std::collections::{BTreeMap, BTreeSet};

use planish_ir::{DType, Graph, Node, NodeId, Operand, Tensor, Use, ValueId};

use super::QuantizeWeights;
use crate::{Skip, clean};

/// A weight, all of whose readers take it in codes.
pub(in crate::quantize) struct Weight {
    pub(in crate::quantize) value: ValueId,
    pub(in crate::quantize) tensor: Tensor,
    pub(in crate::quantize) readers: Vec<Reader>,
}

/// An input slot that reads a weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::quantize) struct Reader {
    pub(in crate::quantize) node: NodeId,
    pub(in crate::quantize) slot: usize,
    pub(in crate::quantize) kind: Kind,
}

/// What a reader does with a weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::quantize) enum Kind {
    /// Multiplies with a matrix and sums over the axis that is not `outer`.
    Product { outer: usize },
    /// Sums over other axes than `outer` in another way: convolutions, products of more than two axes.
    Channels { outer: usize },
    /// Picks entries along axis 0 of a matrix.
    Rows,
    /// Picks entries otherwise, but not along the last axis.
    Entries,
}

/// The weights of a graph, and the nodes that keep theirs, with the reason.
pub(in crate::quantize) fn weights(graph: &Graph, config: &QuantizeWeights) -> (Vec<Weight>, Vec<(NodeId, Skip)>) {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for (value, v) in graph.values() {
        if !matches!(v.dtype(), Some(DType::F32 | DType::F16)) {
            continue;
        }
        let Some(tensor) = clean::constant_of(graph, value) else { continue };
        // Only what some reader takes as a weight is worth a word.
        let takers = graph.users(value).filter_map(|u| reader(graph, u, &tensor, config)?.ok());
        let candidates: BTreeSet<NodeId> = takers.map(|r| r.node).collect();
        if candidates.is_empty() {
            refused.extend(graph.users(value).filter_map(|u| match (u, reader(graph, u, &tensor, config)?) {
                (Use::Node(node, _), Err(skip)) => Some((node, skip)),
                _ => None,
            }));
            continue;
        }
        match readers(graph, value, &tensor, config) {
            Ok(readers) => found.push(Weight { value, tensor, readers }),
            Err(skip) => refused.extend(candidates.into_iter().map(|node| (node, skip.clone()))),
        }
    }
    (found, refused)
}

/// The readers of a weight, if all of them take codes and it is worth it.
fn readers(graph: &Graph, value: ValueId, tensor: &Tensor, config: &QuantizeWeights) -> Result<Vec<Reader>, Skip> {
    let name = graph.name_of(value);
    if config.exclude.contains(&name) {
        return Err(Skip::because(format!("{name:?} is listed in `exclude`")));
    }
    let elements = tensor.elements();
    if elements == 0 || elements < config.min_elements {
        return Err(Skip::because(format!(
            "{name:?} has {elements} elements, and `min_elements` is {}",
            config.min_elements
        )));
    }
    let needs_floats =
        |user| Skip::because(format!("{name:?} is also read where it has to be float: {}", place(graph, user)));
    graph.users(value).map(|user| reader(graph, user, tensor, config).ok_or_else(|| needs_floats(user))?).collect()
}

/// How a weight is read at a place; `None` if what reads it there does not take it as a weight.
fn reader(graph: &Graph, user: Use, tensor: &Tensor, config: &QuantizeWeights) -> Option<Result<Reader, Skip>> {
    let Use::Node(id, Operand::Input(slot)) = user else { return None };
    let (node, slot) = (graph.node(id)?, slot as usize);
    let kind = match node.op.is("Transpose") && !node.is_local() {
        true => behind(graph, node, tensor, config)?,
        false => kind(node, slot, tensor)?,
    };
    if config.exclude.contains(&node.name) {
        return Some(Err(Skip::because(format!("{:?} is listed in `exclude`", node.name))));
    }
    if matches!(kind, Ok(Kind::Rows | Kind::Entries)) && !config.tables {
        return Some(Err(Skip::because("`tables` is off")));
    }
    Some(kind.map(|kind| Reader { node: id, slot, kind }))
}

/// A table with fewer columns is none.
const FEW: u64 = 8;

fn kind(node: &Node, slot: usize, tensor: &Tensor) -> Option<Result<Kind, Skip>> {
    if !node.op.domain.is_empty() || node.is_local() {
        return None;
    }
    let (rank, columns) = (tensor.rank(), tensor.dims().last().copied().unwrap_or(0));
    let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
    let product = |outer: usize| Some(Ok(Kind::Product { outer }));
    let channels = |outer: usize| Some(Ok(Kind::Channels { outer }));
    match (node.op.name.as_str(), slot, rank) {
        ("Conv", 1, 2..) => channels(0),
        ("ConvTranspose", 1, 2..) => match node.attrs.int("group").unwrap_or(1) {
            1 => channels(1),
            groups => {
                Some(Err(Skip::because(format!("{:?} has {groups} groups, of which axis 1 holds only one", node.name))))
            }
        },
        ("Gemm", 1, 2) => product(if flag("transB") { 0 } else { 1 }),
        ("Gemm", 0, 2) => product(if flag("transA") { 1 } else { 0 }),
        ("MatMul", 1, 2) => product(1),
        ("MatMul", 0, 2) => product(0),
        ("MatMul", 1, 3..) => channels(rank - 1),
        ("MatMul", 0, 3..) => channels(rank - 2),
        // Scales and the like have few columns.
        ("Gather", 0, 2..) if columns >= FEW => match node.attrs.int("axis").unwrap_or(0) {
            axis if axis == -1 || axis == rank as i64 - 1 => {
                Some(Err(Skip::because(format!("{:?} picks along the last axis", node.name))))
            }
            axis if rank == 2 && (axis == 0 || axis == -2) => Some(Ok(Kind::Rows)),
            _ => Some(Ok(Kind::Entries)),
        },
        _ => None,
    }
}

/// How a weight is read that is transposed first, if all who read the result agree on it.
fn behind(graph: &Graph, transpose: &Node, tensor: &Tensor, config: &QuantizeWeights) -> Option<Result<Kind, Skip>> {
    let from = |axis: usize| match transpose.attrs.ints("perm") {
        Some(perm) => usize::try_from(*perm.get(axis)?).ok(),
        None => tensor.rank().checked_sub(axis + 1),
    };
    let mut agreed = None;
    for user in graph.users(transpose.output(0)?) {
        let Use::Node(id, Operand::Input(slot)) = user else { return None };
        let node = graph.node(id)?;
        if config.exclude.contains(&node.name) {
            return Some(Err(Skip::because(format!("{:?} is listed in `exclude`", node.name))));
        }
        let kind = match kind(node, slot as usize, tensor)? {
            Ok(Kind::Product { outer }) => Kind::Product { outer: from(outer)? },
            Ok(Kind::Channels { outer }) => Kind::Channels { outer: from(outer)? },
            Ok(Kind::Rows | Kind::Entries) => return None,
            refusal @ Err(_) => return Some(refusal),
        };
        if *agreed.get_or_insert(kind) != kind {
            return None;
        }
    }
    agreed.map(Ok)
}

/// A node that multiplies with a weight, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::quantize) struct Product {
    pub(in crate::quantize) node: NodeId,
    pub(in crate::quantize) slot: usize,
}

impl Reader {
    /// The nodes that multiply: the reader itself, or all behind it if it is a Transpose.
    pub(in crate::quantize) fn products(&self, graph: &Graph) -> Vec<Product> {
        let Some(node) = graph.node(self.node) else { return Vec::new() };
        if !node.op.is("Transpose") {
            return vec![Product { node: self.node, slot: self.slot }];
        }
        let users = node.output(0).into_iter().flat_map(|v| graph.users(v));
        let inputs = users.filter_map(|u| match u {
            Use::Node(node, Operand::Input(slot)) => Some(Product { node, slot: slot as usize }),
            Use::Node(_, Operand::Capture(_)) | Use::Output(_) => None,
        });
        inputs.collect()
    }
}

impl Product {
    /// The value that the weight is multiplied with, and the axis of it that is summed over, from the end if negative.
    pub(in crate::quantize) fn activation(&self, graph: &Graph) -> Option<(ValueId, i64)> {
        let node = graph.node(self.node)?;
        let other = 1usize.checked_sub(self.slot)?;
        let flag = |name: &str| node.attrs.int(name).unwrap_or(0) != 0;
        let axis = match (node.op.is("Gemm"), other) {
            (true, 0) => i64::from(!flag("transA")),
            (true, _) => i64::from(flag("transB")),
            (false, 0) => -1,
            (false, _) => -2,
        };
        Some((node.input(other)?, axis))
    }
}

/// Weights that are the same matrix, one of them a table, perhaps transposed: exporters that copy store the embedding of words
/// twice if it also turns states into words. Returns for each weight the number of the one that it repeats.
pub(in crate::quantize) fn repeated(weights: &[Weight]) -> BTreeMap<usize, usize> {
    let is_table = |w: &Weight| w.readers.iter().all(|r| r.kind == Kind::Rows);
    let mut repeats = BTreeMap::new();
    for (t, table) in weights.iter().enumerate().filter(|(_, w)| is_table(w)) {
        for (o, other) in weights.iter().enumerate() {
            let outer = match other.readers.as_slice() {
                [first, rest @ ..] if rest.iter().all(|r| r.kind == first.kind) => first.kind,
                _ => continue,
            };
            let Kind::Product { outer } = outer else { continue };
            if !repeats.contains_key(&o) && o != t && same(&table.tensor, &other.tensor, outer == 1) {
                repeats.insert(o, t);
            }
        }
    }
    repeats
}

/// True if two matrices of one type have the same elements, perhaps after a transposition of the second.
fn same(a: &Tensor, b: &Tensor, transposed: bool) -> bool {
    let (&[rows, columns], &[m, n]) = (a.dims(), b.dims()) else { return false };
    let fits = if transposed { (n, m) == (rows, columns) } else { (m, n) == (rows, columns) };
    let size = (a.dtype().bits() / 8) as usize;
    let (true, true, Some(a), Some(b)) = (fits && a.dtype() == b.dtype(), size > 0, a.raw(), b.raw()) else {
        return false;
    };
    if !transposed {
        return a == b;
    }
    let (rows, columns) = (rows as usize, columns as usize);
    let row = |r: usize| {
        let at = |i: usize| i * size..(i + 1) * size;
        (0..columns).all(|c| a.get(at(r * columns + c)) == b.get(at(c * rows + r)))
    };
    // Different matrices differ at once.
    (0..rows).all(row)
}

fn place(graph: &Graph, user: Use) -> String {
    match user {
        Use::Output(_) => "it is a graph output".into(),
        Use::Node(id, operand) => {
            let label = graph.node(id).map_or_else(
                || id.to_string(),
                |n| match (n.name.as_str(), n.output(0)) {
                    ("", Some(made)) => format!("the {} that makes {:?}", n.op, graph.name_of(made)),
                    (name, _) => format!("{} {name:?}", n.op),
                },
            );
            match operand {
                Operand::Input(slot) => format!("input {slot} of {label}"),
                Operand::Capture(_) => format!("a subgraph of {label}"),
            }
        }
    }
}
