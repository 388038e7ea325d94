//! Keep one of several equal initializers, also where one is the other one's transpose.
//!
//! Before     y = MatMul (x, w);  z = MatMul (x, v)         w and v equal, bit for bit
//! After      y = MatMul (x, w);  z = MatMul (x, w)
//! Before     e = Gather (w, i);  y = MatMul (x, v)         v equal to the transpose of w, 1 MiB or more
//! After      t = Transpose (w);  e = Gather (w, i);  y = MatMul (x, t)
//! When       type, dims and content are equal; the transposed form for matrices from 1 MiB on, because a smaller
//!            saving is not worth a node; runtimes compute the Transpose once, when they load the model
//! Refuses    an initializer that is a graph output, or that callers can override
//! Numerics   Exact
//! Reference  –

use std::{collections::BTreeMap, ops::Range};

use planish_ir::{DType, Def, Graph, GraphPath, Model, Numerics, OpName, Patch, Tensor, Use, ValueId};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupInitializers {}

/// Smallest matrix, in bytes, of which a transposed duplicate is replaced. `fold-constants` computes what is smaller by
/// default, and the two must not undo each other.
const TRANSPOSED_MIN_BYTES: u64 = 1 << 20;

impl Pass for DedupInitializers {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for DedupInitializers {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for path in model.graph_paths() {
            let Some(graph) = model.graph_at(&path) else { continue };
            let constants: Vec<(ValueId, &Tensor)> = graph
                .values()
                .filter(|(_, v)| matches!(v.def(), Def::Constant(_)) && !v.is_output() && !v.users().is_empty())
                .filter_map(|(id, v)| Some((id, v.constant()?)))
                .collect();
            let kept = equal(graph, &path, constants, cx, &mut changes);
            transposed(graph, &path, &kept, cx, &mut changes);
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
) -> Vec<(ValueId, &'a Tensor)> {
    type Key<'a> = (DType, &'a [u64]);
    let mut alike: BTreeMap<Key<'a>, Vec<(ValueId, &Tensor)>> = BTreeMap::new();
    for (id, t) in constants {
        alike.entry((t.dtype(), t.dims())).or_default().push((id, t));
    }
    // One group after another would leave cores idle: many models have one large group and thousands of small ones.
    let merged: Vec<Vec<(ValueId, &Tensor, Option<ValueId>)>> = alike
        .into_values()
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|group| {
            if group.len() == 1 {
                return group.into_iter().map(|(id, t)| (id, t, None)).collect();
            }
            let mut kept: BTreeMap<[u8; 32], Vec<(ValueId, &Tensor)>> = BTreeMap::new();
            let mut result = Vec::with_capacity(group.len());
            for (id, t) in group {
                let candidates = kept.entry(sample(t, cx)).or_default();
                let twin = candidates.iter().find(|(_, k)| same_content(k, t, cx)).map(|(k, _)| *k);
                if twin.is_none() {
                    candidates.push((id, t));
                }
                result.push((id, t, twin));
            }
            result
        })
        .collect();
    let mut kept = Vec::new();
    let mut replaced = Vec::new();
    for (id, t, twin) in merged.into_iter().flatten() {
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
    kept
}

fn transposed(
    graph: &Graph,
    path: &GraphPath,
    kept: &[(ValueId, &Tensor)],
    cx: &Context<'_>,
    changes: &mut Changes,
) {
    let matrices: Vec<Matrix<'_>> = kept.iter().filter_map(|&(id, t)| Matrix::of(graph, id, t)).collect();
    let mut gone = vec![false; matrices.len()];
    for (i, a) in matrices.iter().enumerate() {
        for (j, b) in matrices.iter().enumerate().skip(i + 1) {
            if gone[i] || gone[j] || !a.may_be_transpose_of(b) || !a.is_transpose_of(b, cx) {
                continue;
            }
            // A Gather reads rows as they lie; it must not read them out of a computed transpose.
            let (keep, drop, dropped) = if b.is_gathered && !a.is_gathered { (b, a, i) } else { (a, b, j) };
            gone[dropped] = true;
            let name = graph.name_of(drop.id);
            let note = format!("{name:?} is {:?} transposed", graph.name_of(keep.id));
            let mut patch = Patch::new(Numerics::Exact, note);
            let t = patch
                .node(OpName::onnx("Transpose"), [Some(keep.id.into())])
                .attr("perm", vec![1, 0])
                .name(format!("{name}_transpose"))
                .output(name, graph.ty(drop.id).cloned());
            patch.replace(drop.id, t);
            changes.patches.push((path.clone(), patch));
        }
    }
}

/// Digest of the whole content, or of pieces at fixed places of a large one: nearly all weights of one shape differ in
/// the first piece already, and need not be read from the disk.
fn sample(t: &Tensor, cx: &Context<'_>) -> [u8; 32] {
    const WHOLE: usize = 4096;
    const PIECES: usize = 8;
    const PIECE: usize = 64;
    let mut hasher = blake3::Hasher::new();
    match t.raw() {
        None => return *t.digest().as_bytes(),
        Some(b) if b.len() <= WHOLE => {
            hasher.update(b);
        }
        Some(b) => {
            for i in 0..PIECES {
                let at = (b.len() - PIECE) / (PIECES - 1) * i;
                hasher.update(&b[at..at + PIECE]);
            }
            (cx.release)(t);
        }
    }
    *hasher.finalize().as_bytes()
}

fn same_content(a: &Tensor, b: &Tensor, cx: &Context<'_>) -> bool {
    let same = a == b;
    (cx.release)(a);
    (cx.release)(b);
    same
}

/// A large matrix of whole-byte elements.
struct Matrix<'a> {
    id: ValueId,
    tensor: &'a Tensor,
    bytes: &'a [u8],
    rows: usize,
    columns: usize,
    is_gathered: bool,
}

impl<'a> Matrix<'a> {
    fn of(graph: &Graph, id: ValueId, tensor: &'a Tensor) -> Option<Matrix<'a>> {
        let &[rows, columns] = tensor.dims() else { return None };
        let bytes = tensor.raw()?;
        if tensor.byte_len() < TRANSPOSED_MIN_BYTES || tensor.dtype().bits() % 8 != 0 || rows < 2 || columns < 2 {
            return None;
        }
        let is_gathered = graph.users(id).any(|u| match u {
            Use::Node(n, planish_ir::Operand::Input(0)) => graph.node(n).is_some_and(|n| n.op.is("Gather")),
            _ => false,
        });
        let (rows, columns) = (usize::try_from(rows).ok()?, usize::try_from(columns).ok()?);
        Some(Matrix { id, tensor, bytes, rows, columns, is_gathered })
    }

    fn may_be_transpose_of(&self, other: &Matrix<'_>) -> bool {
        let same_form = self.tensor.dtype() == other.tensor.dtype()
            && (self.rows, self.columns) == (other.columns, other.rows);
        // A few elements, at places that differ in row and column.
        same_form && (0..16).all(|k| {
            let (r, c) = (self.rows * k / 16, self.columns * ((k * 7 + 3) % 16) / 16);
            self.at(r, c) == other.at(c, r)
        })
    }

    /// Compares everything.
    fn is_transpose_of(&self, other: &Matrix<'_>, cx: &Context<'_>) -> bool {
        match self.tensor.dtype().bits() {
            8 => self.compare::<1>(other, cx),
            16 => self.compare::<2>(other, cx),
            32 => self.compare::<4>(other, cx),
            64 => self.compare::<8>(other, cx),
            _ => false,
        }
    }

    /// Compares elements of `N` bytes in tiles, which fit the cache in both orders; a band of tiles is let go before the
    /// next is read, so that little of both matrices is resident at a time.
    fn compare<const N: usize>(&self, other: &Matrix<'_>, cx: &Context<'_>) -> bool {
        const TILE: usize = 32;
        const BAND: usize = 32 * TILE;
        let (a, b) = (self.bytes.as_chunks::<N>().0, other.bytes.as_chunks::<N>().0);
        let tile = |rows: &Range<usize>, columns: Range<usize>| {
            rows.clone().all(|r| {
                let row = &a[r * self.columns..][columns.clone()];
                row.iter().zip(columns.clone()).all(|(x, c)| *x == b[c * self.rows + r])
            })
        };
        (0..self.rows).step_by(BAND).all(|top| {
            let bottom = (top + BAND).min(self.rows);
            let same = (0..self.columns.div_ceil(TILE)).into_par_iter().all(|i| {
                let columns = i * TILE..((i + 1) * TILE).min(self.columns);
                (top..bottom).step_by(TILE).all(|r| tile(&(r..(r + TILE).min(bottom)), columns.clone()))
            });
            (cx.release)(self.tensor);
            (cx.release)(other.tensor);
            same
        })
    }

    fn at(&self, row: usize, column: usize) -> &[u8] {
        let size = self.bytes.len() / (self.rows * self.columns);
        let at = (row * self.columns + column) * size;
        &self.bytes[at..at + size]
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
