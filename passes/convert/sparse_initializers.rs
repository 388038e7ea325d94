//! Store constants that are mostly zeros in sparse form: the elements that are not zero, and where they are.
//!
//! Before     y = MatMul (x, w)      w dense, 95 % zeros
//! After      y = MatMul (x, w)      w among the sparse initializers of the graph
//! When       `min_elements` or more of one, two, four or eight bytes; the sparse form, with eight bytes for each place, is smaller: for
//!            floats of 32 bits if more than two thirds are zeros
//! Refuses    a constant that is a graph output · for TensorRT, whose parser reads dense initializers only
//! Numerics   Exact: a zero with a sign is stored
//! Reference  ONNX IR specification, `GraphProto.sparse_initializer` and `SparseTensorProto`
//!
//! It saves disk, and no time: runtimes make such constants dense when they load the model. No other pass looks into them, so it comes last.

use planish_ir::{DType, Def, Graph, GraphPath, Model, Numerics, Patch, SparseTensor, Tensor, TensorError};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Changes, Context, Pass, PassError, Shape, Target, Transform};

/// Bytes of a place, which ONNX counts in int64.
const PLACE: usize = 8;

/// The first IR version with sparse initializers.
const SINCE: i64 = 5;

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SparseInitializers {
    /// Constants with fewer elements stay dense.
    pub min_elements: u64,
}

impl Default for SparseInitializers {
    fn default() -> SparseInitializers {
        SparseInitializers { min_elements: 1024 }
    }
}

impl Pass for SparseInitializers {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for SparseInitializers {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if cx.target == Target::Tensorrt {
            let why = "TensorRT's parser reads dense initializers only; leave this pass out, or choose another target";
            return Err(PassError::Precondition(why.to_owned()));
        }
        let mut changes = Changes::default();
        for path in model.graph_paths().into_iter().rev() {
            // The body of a function holds no constants.
            let Some(graph) = model.graph_at(&path) else { continue };
            self.graph(graph, &path, cx, &mut changes)?;
        }
        changes.ir_version = (!changes.patches.is_empty()).then_some(SINCE);
        Ok(changes)
    }
}

impl SparseInitializers {
    fn graph(&self, graph: &Graph, path: &GraphPath, cx: &Context<'_>, changes: &mut Changes) -> Result<(), PassError> {
        let large = |t: &Tensor| t.elements() >= self.min_elements && matches!(t.dtype().bits(), 8 | 16 | 32 | 64);
        let dense: Vec<_> = graph
            .values()
            .filter(|(_, v)| matches!(v.def(), Def::Constant(t) if large(t)) && !v.is_output())
            .filter_map(|(id, v)| Some((id, v.constant()?)))
            .collect();
        let sparse = dense.par_iter().map(|&(id, tensor)| {
            let place = || graph.name_of(id);
            let sparse = sparse(tensor).map_err(|source| PassError::Tensor { place: place(), source });
            tensor.raw().into_iter().for_each(|raw| cx.weights.release(raw));
            Ok(sparse?.map(|sparse| (id, tensor, sparse)))
        });
        for (id, tensor, sparse) in sparse.collect::<Result<Vec<_>, PassError>>()?.into_iter().flatten() {
            let (before, after) = (tensor.byte_len(), sparse.values.byte_len() + sparse.indices.byte_len());
            let name = graph.name_of(id);
            changes.notes.push(format!(
                "{name}: {} of {} elements are not zero; {before} bytes become {after}",
                sparse.values.elements(),
                tensor.elements()
            ));
            let mut patch = Patch::new(Numerics::Exact, format!("{name:?} in sparse form"));
            patch.set_sparse(id, sparse);
            changes.patches.push((path.clone(), patch));
        }
        Ok(())
    }
}

/// A constant in sparse form, if that is smaller.
fn sparse(tensor: &Tensor) -> Result<Option<SparseTensor>, TensorError> {
    let Some(raw) = tensor.raw() else { return Ok(None) };
    let width = (tensor.dtype().bits() / 8).max(1) as usize;
    let is_set = |element: &[u8]| element.iter().any(|&b| b != 0);
    // One more than may be says enough.
    let most = raw.len() / (width + PLACE);
    let set = raw.chunks_exact(width).filter(|e| is_set(e)).take(most + 1).count();
    if set * (width + PLACE) >= raw.len() {
        return Ok(None);
    }
    let (mut values, mut places) = (Vec::with_capacity(set * width), Vec::with_capacity(set * PLACE));
    for (place, element) in raw.chunks_exact(width).enumerate().filter(|(_, e)| is_set(e)) {
        values.extend_from_slice(element);
        places.extend_from_slice(&(place as i64).to_le_bytes());
    }
    let list = [set as u64];
    Ok(Some(SparseTensor {
        values: Tensor::from_raw(tensor.dtype(), list.as_slice(), values.into())?,
        indices: Tensor::from_raw(DType::I64, list.as_slice(), places.into())?,
        dims: tensor.dims().into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_with, parse};

    const MODEL: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,4] y)
        <float[2,4] w = {0.0, 0.0, -0.0, 0.0, 0.0, 2.5, 0.0, 0.0}, float[4] b = {1.0, 2.0, 0.0, 0.0}> {
            h = MatMul (x, w)
            y = Add (h, b)
        }"#;

    #[test]
    fn what_is_mostly_zeros_is_stored_sparse() {
        insta::assert_snapshot!(check_with(SparseInitializers { min_elements: 4 }, MODEL), @r#"
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,4] y)
        <
          sparse_tensor(float[2,4]) w = {float[2] {-0.0, 2.5}, int64[2] {2, 5}},
          float[4] b = {1.0, 2.0, 0.0, 0.0}
        >
        {
          h = MatMul (x, w)
          y = Add (h, b)
        }
        "#);
    }

    #[test]
    fn the_default_leaves_small_ones() {
        assert_eq!(check_with(SparseInitializers::default(), MODEL), planish_ir::text::print(&parse(MODEL)));
    }

    #[test]
    fn refuses_tensorrt() {
        let cx = Context { target: Target::Tensorrt, ..Context::bare() };
        let refused = SparseInitializers::default().transform(&parse(MODEL), &cx).unwrap_err().to_string();
        assert!(refused.contains("dense initializers only"), "{refused}");
    }

    #[test]
    fn the_form_has_to_be_smaller() {
        let of = |set: usize| -> Vec<f32> { (0..9).map(|i| if i < set { 1.0 } else { 0.0 }).collect() };
        let stored = |set: usize| sparse(&Tensor::from_f32([9].as_slice(), &of(set)).unwrap()).unwrap();
        // Twelve bytes each, of 36.
        assert_eq!(stored(2).map(|s| s.values.elements()), Some(2));
        assert_eq!(stored(3), None);
        assert_eq!(stored(0).map(|s| s.indices.elements()), Some(0));
    }
}
