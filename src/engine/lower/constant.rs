//! `Constant` nodes become initializers, so that large ones are shared and every rule sees them, and so do constants under other
//! dims.

use planish_ir::{DType, Dims, Tensor, onnx::import_tensor};
use planish_passes::EngineError;

use super::{build::Builder, scope::Op};
use crate::engine::program::failed;

pub(super) fn hoist(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(output)) = (op.is("Constant"), op.output(0)) else { return Ok(false) };
    let Some(a) = op.node.attribute.first() else { return Ok(false) };
    let list = |n: usize| Dims::from_slice(&[n as u64]);
    let tensor = match a.name.as_deref().unwrap_or("") {
        "value" => {
            let Some(t) = &a.t else { return Ok(false) };
            let none: &planish_ir::onnx::External<'_> = &|_| Err("it is stored elsewhere".into());
            import_tensor(t.clone(), none)
                .map_err(|e| failed(format!("the constant {output:?} cannot be read: {e}")))?
        }
        "value_float" => Tensor::scalar_f32(a.f.unwrap_or(0.0)),
        "value_floats" => Tensor::from_f32(list(a.floats.len()), &a.floats).map_err(|e| failed(e.to_string()))?,
        "value_int" => Tensor::from_i64(Dims::new(), &[a.i.unwrap_or(0)]).map_err(|e| failed(e.to_string()))?,
        "value_ints" => Tensor::ints(&a.ints),
        _ => return Ok(false),
    };
    b.constant_named(output, tensor);
    Ok(true)
}

/// A packed constant under other dims is a constant: what unpacks it needs to see it.
pub(super) fn reshape(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let (true, Some(output)) = (op.is("Reshape"), op.output(0)) else { return Ok(false) };
    let (Some(data), Some(shape)) = (op.constant(0), op.constant(1).and_then(|s| s.to_i64().ok())) else {
        return Ok(false);
    };
    if data.dtype() != DType::U8 || op.int("allowzero", 0) != 0 {
        return Ok(false);
    }
    let given = |(axis, &d): (usize, &i64)| match d {
        0 => data.dims().get(axis).copied(),
        -1 => Some(1),
        d => u64::try_from(d).ok(),
    };
    let Some(mut dims) = shape.iter().enumerate().map(given).collect::<Option<Dims>>() else { return Ok(false) };
    let known = planish_ir::product(&dims).filter(|&n| n > 0);
    let open = shape.iter().position(|&d| d == -1).and_then(|axis| dims.get_mut(axis));
    if let (Some(open), Some(known)) = (open, known) {
        *open = data.elements() / known;
    }
    let Ok(tensor) = data.with_dims(dims) else { return Ok(false) };
    b.constant_named(output, tensor);
    Ok(true)
}
