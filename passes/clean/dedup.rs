//! Keep one of several equal initializers, also where one is the other one's transpose.
//!
//! Before     y = MatMul (x, w);  z = MatMul (x, v)         w and v equal, bit for bit
//! After      y = MatMul (x, w);  z = MatMul (x, w)
//! Before     e = Gather (w, i);  y = MatMul (x, v)         v equal to the transpose of w, above 1 MiB
//! After      t = Transpose (w);  e = Gather (w, i);  y = MatMul (x, t)
//! When       type, dims and content are equal; the transposed form for matrices above 1 MiB, because a smaller
//!            saving is not worth a node; runtimes compute the Transpose once, when they load the model
//! Refuses    an initializer that is a graph output, or that callers can override
//! Numerics   Exact; Reassociated for a transpose, because runtimes have other kernels for a matrix that is computed than for
//!            one that they know beforehand, and these round differently
//! Reference  –

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use planish_ir::{DType, Def, Graph, GraphPath, Model, Numerics, OpName, Operand, Patch, Tensor, Use, ValueId};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform, part};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupInitializers {}

/// Above this size in bytes a matrix is replaced that is another one's transpose. `fold-constants` knows, so that the two do
/// not undo each other's work.
pub(super) const TRANSPOSED_MIN_BYTES: u64 = 1 << 20;

impl Pass for DedupInitializers {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for DedupInitializers {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for path in model.graph_paths().into_iter().rev() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let constants: Vec<(ValueId, &Tensor)> = graph
                .values()
                .filter(|(_, v)| matches!(v.def(), Def::Constant(_)) && !v.is_output() && !v.users().is_empty())
                .filter_map(|(id, v)| Some((id, v.constant()?)))
                .collect();
            let kept = equal(graph, &path, constants, cx, &mut changes)?;
            transposed(graph, &path, &kept, cx, &mut changes)?;
        }
        Ok(changes)
    }
}

/// Replaces equal constants and returns those that stay.
fn equal<'a>(
    graph: &'a Graph,
    path: &GraphPath,
    constants: Vec<(ValueId, &'a Tensor)>,
    cx: &Context<'_>,
    changes: &mut Changes,
) -> Result<Vec<(ValueId, &'a Tensor)>, PassError> {
    type Key<'a> = (DType, &'a [u64]);
    let mut alike: BTreeMap<Key<'a>, Vec<(ValueId, &Tensor)>> = BTreeMap::new();
    for (id, t) in constants {
        alike.entry((t.dtype(), t.dims())).or_default().push((id, t));
    }
    // One group after another would leave cores idle: many models have one large group and thousands of small ones.
    type Merged<'a> = Vec<(ValueId, &'a Tensor, Option<ValueId>)>;
    let unreadable = |id: ValueId, source| PassError::Read { weight: graph.name_of(id), source };
    let merged: Result<Vec<Merged<'a>>, PassError> = alike
        .into_values()
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|group| {
            if group.len() == 1 {
                return Ok(group.into_iter().map(|(id, t)| (id, t, None)).collect());
            }
            let mut kept: BTreeMap<[u8; 32], Vec<(ValueId, &Tensor)>> = BTreeMap::new();
            let mut result = Vec::with_capacity(group.len());
            for (id, t) in group {
                let key = sample(t, cx).map_err(|e| unreadable(id, e))?;
                let candidates = kept.entry(key).or_default();
                let mut twin = None;
                for &(k, other) in candidates.iter() {
                    if same_content(other, t, cx).map_err(|e| unreadable(id, e))? {
                        twin = Some(k);
                        break;
                    }
                }
                if twin.is_none() {
                    candidates.push((id, t));
                }
                result.push((id, t, twin));
            }
            Ok(result)
        })
        .collect();
    let mut kept = Vec::new();
    let mut replaced = Vec::new();
    for (id, t, twin) in merged?.into_iter().flatten() {
        match twin {
            None => kept.push((id, t)),
            Some(twin) => replaced.push((id, twin)),
        }
    }
    kept.sort_unstable_by_key(|(id, _)| *id);
    replaced.sort_unstable();
    for (old, new) in replaced {
        let note = format!("{:?} equals {:?}", graph.name_of(old), graph.name_of(new));
        let mut patch = Patch::new(Numerics::Exact, note);
        patch.replace(old, new);
        changes.patches.push((path.clone(), patch));
    }
    Ok(kept)
}

fn transposed(
    graph: &Graph,
    path: &GraphPath,
    kept: &[(ValueId, &Tensor)],
    cx: &Context<'_>,
    changes: &mut Changes,
) -> Result<(), PassError> {
    let matrices: Vec<Matrix<'_>> = kept.iter().filter_map(|&(id, t)| Matrix::of(graph, id, t)).collect();
    let unreadable = |m: &Matrix<'_>, source| PassError::Read { weight: graph.name_of(m.id), source };
    let forms: BTreeSet<(DType, usize, usize)> = matrices.iter().map(Matrix::form).collect();
    // Looked up, because models have hundreds of square matrices of one size, and each is a candidate for each.
    let mut alike: BTreeMap<Probe, Vec<usize>> = BTreeMap::new();
    let mut wanted: Vec<Option<Probe>> = Vec::new();
    for (i, m) in matrices.iter().enumerate() {
        let (dtype, rows, columns) = m.form();
        let has_partner = forms.contains(&(dtype, columns, rows));
        if has_partner {
            alike.entry(m.probe(false, cx).map_err(|e| unreadable(m, e))?).or_default().push(i);
        }
        wanted.push(has_partner.then(|| m.probe(true, cx)).transpose().map_err(|e| unreadable(m, e))?);
    }
    let mut gone = vec![false; matrices.len()];
    for (i, (a, wanted)) in matrices.iter().zip(&wanted).enumerate() {
        let partners = wanted.as_ref().and_then(|w| alike.get(w));
        for &j in partners.into_iter().flatten().filter(|&&j| j > i) {
            let b = &matrices[j];
            if gone[i] || gone[j] || !a.is_transpose_of(b, cx).map_err(|e| unreadable(a, e))? {
                continue;
            }
            // A Gather reads rows as they lie; it must not read them out of a computed transpose.
            let (keep, drop, dropped) = if b.is_gathered && !a.is_gathered { (b, a, i) } else { (a, b, j) };
            gone[dropped] = true;
            let name = graph.name_of(drop.id);
            let note = format!("{name:?} is {:?} transposed", graph.name_of(keep.id));
            let mut patch = Patch::new(Numerics::Reassociated, note);
            let t = patch
                .node(OpName::onnx("Transpose"), [Some(keep.id.into())])
                .attr("perm", vec![1, 0])
                .name(format!("{name}_transpose"))
                .output(name, graph.ty(drop.id).cloned());
            patch.replace(drop.id, t);
            changes.patches.push((path.clone(), patch));
        }
    }
    Ok(())
}

/// Digest of the whole content, or of pieces at fixed places of a large one: nearly all weights of one shape differ in
/// the first piece already, and need not be read from the disk.
fn sample(t: &Tensor, cx: &Context<'_>) -> io::Result<[u8; 32]> {
    const WHOLE: usize = 4096;
    const PIECES: usize = 8;
    const PIECE: usize = 64;
    let mut hasher = blake3::Hasher::new();
    match t.raw() {
        None => return Ok(*t.digest().as_bytes()),
        Some(b) if b.len() <= WHOLE => {
            hasher.update(b);
        }
        Some(b) => {
            let mut piece = [0; PIECE];
            for i in 0..PIECES {
                cx.weights.read(t, (b.len() - PIECE) / (PIECES - 1) * i, &mut piece)?;
                hasher.update(&piece);
            }
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

fn same_content(a: &Tensor, b: &Tensor, cx: &Context<'_>) -> io::Result<bool> {
    const CHUNK: usize = 1 << 20;
    let (Some(x), Some(y)) = (a.raw(), b.raw()) else { return Ok(a == b) };
    if x.len() != y.len() {
        return Ok(false);
    }
    let size = CHUNK.min(x.len());
    let (mut left, mut right) = (vec![0; size], vec![0; size]);
    for offset in (0..x.len()).step_by(CHUNK) {
        let n = CHUNK.min(x.len() - offset);
        cx.weights.read(a, offset, &mut left[..n])?;
        cx.weights.read(b, offset, &mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Type, rows, columns and some elements of a matrix.
type Probe = (DType, usize, usize, Vec<u8>);

/// A large matrix of whole-byte elements.
struct Matrix<'a> {
    id: ValueId,
    tensor: &'a Tensor,
    rows: usize,
    columns: usize,
    /// Bytes of an element.
    size: usize,
    is_gathered: bool,
}

impl<'a> Matrix<'a> {
    fn of(graph: &Graph, id: ValueId, tensor: &'a Tensor) -> Option<Matrix<'a>> {
        let &[rows, columns] = tensor.dims() else { return None };
        let bits = tensor.dtype().bits();
        if tensor.byte_len() <= TRANSPOSED_MIN_BYTES || bits == 0 || !bits.is_multiple_of(8) || rows < 2 || columns < 2
        {
            return None;
        }
        let is_gathered = graph.users(id).any(|u| match u {
            Use::Node(n, Operand::Input(0)) => graph.node(n).is_some_and(|n| n.op.is("Gather")),
            _ => false,
        });
        let to_usize = |n: u64| usize::try_from(n).ok();
        let (rows, columns, size) = (to_usize(rows)?, to_usize(columns)?, to_usize(bits / 8)?);
        Some(Matrix { id, tensor, rows, columns, size, is_gathered })
    }

    fn form(&self) -> (DType, usize, usize) {
        (self.tensor.dtype(), self.rows, self.columns)
    }

    /// What has to be equal for two matrices to be equal, of this one or of its transpose: the dims and a few elements, at places
    /// that differ in row and column.
    fn probe(&self, is_transposed: bool, cx: &Context<'_>) -> io::Result<Probe> {
        const PLACES: usize = 8;
        let (rows, columns) = if is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        let mut elements = vec![0; PLACES * self.size];
        for (k, element) in elements.chunks_exact_mut(self.size).enumerate() {
            let (r, c) = (rows * k / PLACES, columns * ((k * 3 + 2) % PLACES) / PLACES);
            let (r, c) = if is_transposed { (c, r) } else { (r, c) };
            self.read(r, c, element, cx)?;
        }
        Ok((self.tensor.dtype(), rows, columns, elements))
    }

    /// Compares everything, in bands of rows of the taller matrix, whose elements lie together; those of the other are
    /// gathered from its columns. What is in memory is a few bands.
    fn is_transpose_of(&self, other: &Matrix<'_>, cx: &Context<'_>) -> io::Result<bool> {
        // Large enough that reading a piece of a column is worth a call, small enough for a core's cache.
        const BAND_BYTES: usize = 2 << 20;
        let (tall, wide) = if self.rows < self.columns { (other, self) } else { (self, other) };
        let row_bytes = tall.columns * tall.size;
        let band = (BAND_BYTES / row_bytes).clamp(1, tall.rows);
        let bands = (0..tall.rows.div_ceil(band)).into_par_iter();
        let equal = bands.map_init(Vec::new, |gathered, i| {
            let top = i * band;
            let rows = band.min(tall.rows - top);
            let ours = part(tall.tensor, top * row_bytes, rows * row_bytes)?;
            gathered.resize(rows * row_bytes, 0);
            for (c, column) in gathered.chunks_exact_mut(rows * tall.size).enumerate() {
                wide.read(c, top, column, cx)?;
            }
            let equal = is_transposed(ours, gathered, rows, tall.columns, tall.size);
            cx.weights.release(ours);
            Ok(equal)
        });
        equal.try_reduce(|| true, |x, y| Ok(x && y))
    }

    /// Reads consecutive elements from one place on.
    fn read(&self, row: usize, column: usize, buffer: &mut [u8], cx: &Context<'_>) -> io::Result<()> {
        cx.weights.read(self.tensor, (row * self.columns + column) * self.size, buffer)
    }
}

/// True if `a`, `[rows, columns]`, is the transpose of `b`, `[columns, rows]`; elements have `size` bytes.
fn is_transposed(a: &[u8], b: &[u8], rows: usize, columns: usize, size: usize) -> bool {
    fn compare<const N: usize>(a: &[u8], b: &[u8], rows: usize, columns: usize) -> bool {
        // Tiles fit the cache in both orders. One is turned around first, so that rows are compared with rows: many elements
        // at a time, which elements that lie apart cannot be.
        const TILE: usize = 32;
        let (a, b) = (a.as_chunks::<N>().0, b.as_chunks::<N>().0);
        let mut turned = [[[0; N]; TILE]; TILE];
        (0..rows).step_by(TILE).all(|top| {
            let height = TILE.min(rows - top);
            (0..columns).step_by(TILE).all(|left| {
                let width = TILE.min(columns - left);
                for c in 0..width {
                    let from = (left + c) * rows + top;
                    for (row, element) in turned.iter_mut().zip(&b[from..from + height]) {
                        row[c] = *element;
                    }
                }
                turned.iter().take(height).enumerate().all(|(r, row)| {
                    let from = (top + r) * columns + left;
                    a[from..from + width] == row[..width]
                })
            })
        })
    }
    match size {
        1 => compare::<1>(a, b, rows, columns),
        2 => compare::<2>(a, b, rows, columns),
        4 => compare::<4>(a, b, rows, columns),
        8 => compare::<8>(a, b, rows, columns),
        16 => compare::<16>(a, b, rows, columns),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn equal_constants_become_one_and_signs_of_zero_are_told_apart() {
        insta::assert_snapshot!(check::<DedupInitializers>(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[2] x) => (float[2] y)
            <float[2] a = {1.0, 2.0}, float[2] b = {1.0, 2.0}, float[2] c = {0.0, 2.0}, float[2] d = {-0.0, 2.0}> {
                p = Mul (x, a)
                q = Mul (p, b)
                r = Add (q, c)
                y = Add (r, d)
            }"#,
        ), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y)
        <
          float[2] a = {1.0, 2.0},
          float[2] c = {0.0, 2.0},
          float[2] d = {-0.0, 2.0}
        >
        {
          p = Mul (x, a)
          q = Mul (p, a)
          r = Add (q, c)
          y = Add (r, d)
        }
        "#);
    }

    #[test]
    fn a_large_transposed_duplicate_becomes_a_transpose() {
        let mut model = planish_ir::text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (int64[N] i, float[N,600] x) => (float[N,600] e, float[N,512] y) <float[512,600] w, float[600,512] v> {
                e = Gather (w, i)
                y = MatMul (x, v)
            }"#,
        )
        .unwrap();
        let id = |m: &Model, name: &str| m.graph.value_named(name).unwrap();
        let w: Vec<f32> = model.graph.constant(id(&model, "w")).unwrap().iter_f32().unwrap().collect();
        let transpose: Vec<f32> = (0..600 * 512).map(|k| w[(k % 512) * 600 + k / 512]).collect();
        let mut patch = Patch::new(Numerics::Exact, "");
        let v = patch.constant("v", Tensor::from_f32([600, 512].as_slice(), &transpose).unwrap());
        patch.replace(id(&model, "v"), v);
        model.apply(&GraphPath::main(), patch).unwrap();
        insta::assert_snapshot!(crate::testing::check_model(DedupInitializers::default(), model), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (int64[N] i, float[N,600] x) => (float[N,600] e, float[N,512] y)
        <
          float[512,600] w  # e3765ce1547f, 307200 elements
        >
        {
          e = Gather (w, i)
          [v_transpose] v = Transpose <perm = [1, 0]> (w)
          y = MatMul (x, v)
        }
        "#);
    }
}
