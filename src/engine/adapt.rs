//! Tensors for models that differ from the original in the width of their floats.

use std::borrow::Cow;

use planish_ir::{DType, Model, Tensor, Type};
use planish_passes::{EngineError, Tensors};

use super::program::failed;

/// The inputs in the types that a model takes, as far as the widths of floats differ.
pub(crate) fn inputs<'a>(inputs: &'a Tensors, model: &Model) -> Result<Cow<'a, Tensors>, EngineError> {
    let graph = &model.graph;
    let mut adapted = Cow::Borrowed(inputs);
    for &value in graph.inputs() {
        let (name, wanted) = (graph.name_of(value), graph.ty(value).and_then(Type::dtype));
        if let (Some(tensor), Some(wanted)) = (inputs.get(&name), wanted)
            && let Some(converted) = converted(tensor, wanted)?
        {
            adapted.to_mut().insert(name, converted);
        }
    }
    Ok(adapted)
}

/// A tensor in the type of another one, as far as the widths of floats differ.
pub(crate) fn like(tensor: Tensor, other: &Tensor) -> Result<Tensor, EngineError> {
    Ok(converted(&tensor, other.dtype())?.unwrap_or(tensor))
}

/// The tensor in another width; `None` if it has it, or is no float.
fn converted(tensor: &Tensor, to: DType) -> Result<Option<Tensor>, EngineError> {
    let wide = |d: DType| d.is_float() && d.bits() >= 16;
    if tensor.dtype() == to || !wide(tensor.dtype()) || !wide(to) {
        return Ok(None);
    }
    let converted = tensor.to_f64().and_then(|v| Tensor::from_f64_as(to, tensor.dims(), &v));
    converted.map(Some).map_err(|e| failed(e.to_string()))
}
