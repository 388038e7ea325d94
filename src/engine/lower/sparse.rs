//! Sparse constants, which tract does not read, as dense ones.

use planish_ir::{DType, Tensor, onnx::import_tensor, product};
use planish_passes::EngineError;
use planish_proto::onnx::{GraphProto, SparseTensorProto, TensorProto};

use super::build::initializer;
use crate::engine::program::failed;

/// A few numbers can stand for a tensor larger than any memory. No weight of a model that runs is larger than this.
const MAX_BYTES: u64 = 8 << 30;

/// Moves the sparse initializers of a graph to the dense ones. Those of subgraphs follow when it is their turn.
pub(super) fn densify(graph: &mut GraphProto) -> Result<(), EngineError> {
    for sparse in std::mem::take(&mut graph.sparse_initializer) {
        let name = sparse.values.as_ref().and_then(|v| v.name.clone()).unwrap_or_default();
        let dense = dense(sparse).map_err(|e| failed(format!("the sparse constant {name:?} cannot be used: {e}")))?;
        graph.initializer.push(initializer(&name, &dense));
    }
    Ok(())
}

fn dense(sparse: SparseTensorProto) -> Result<Tensor, String> {
    let read = |t: Option<TensorProto>| {
        let t = t.ok_or("a part of it is missing")?;
        import_tensor(t, &|_| Err("it is stored elsewhere".into())).map_err(|e| e.to_string())
    };
    let (values, indices) = (read(sparse.values)?, read(sparse.indices)?);
    let dims: Vec<u64> = sparse
        .dims
        .iter()
        .map(|&d| u64::try_from(d))
        .collect::<Result<_, _>>()
        .map_err(|_| "a size of it is negative")?;
    let width = values.dtype().bits() / 8;
    if width == 0 || values.dtype() == DType::String {
        return Err(format!("it holds {}", values.dtype()));
    }
    let size = product(&dims).and_then(|n| n.checked_mul(width)).filter(|&n| n <= MAX_BYTES);
    let size = size.and_then(|n| usize::try_from(n).ok()).ok_or("it is too large to be held in full")?;
    let width = usize::try_from(width).map_err(|e| e.to_string())?;
    let raw = values.raw().map_or(&[][..], |b| b);
    let places = places(&indices, &dims)?;
    if places.len() != raw.len() / width {
        return Err(format!("it has {} values and {} places", raw.len() / width, places.len()));
    }
    let mut bytes = vec![0; size];
    for (value, place) in raw.chunks_exact(width).zip(places) {
        let at = usize::try_from(place).ok().and_then(|p| p.checked_mul(width));
        let target = at.and_then(|at| bytes.get_mut(at..at.checked_add(width)?));
        target.ok_or("a place of it lies outside")?.copy_from_slice(value);
    }
    Tensor::from_raw(values.dtype(), dims.as_slice(), bytes.into()).map_err(|e| e.to_string())
}

/// Linear indices, or one coordinate for each axis, as linear indices.
fn places(indices: &Tensor, dims: &[u64]) -> Result<Vec<u64>, String> {
    let numbers = indices.to_i64().map_err(|e| e.to_string())?;
    let numbers: Vec<u64> =
        numbers.into_iter().map(u64::try_from).collect::<Result<_, _>>().map_err(|_| "a place of it is negative")?;
    if indices.rank() == 1 {
        return Ok(numbers);
    }
    let linear = |coordinates: &[u64]| {
        coordinates.iter().zip(dims).try_fold(0u64, |place, (&c, &d)| {
            (c < d).then_some(())?;
            place.checked_mul(d)?.checked_add(c)
        })
    };
    let places: Option<Vec<u64>> = numbers.chunks_exact(dims.len().max(1)).map(linear).collect();
    places.ok_or_else(|| "a place of it lies outside".to_owned())
}
