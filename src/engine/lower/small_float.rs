//! Conversions to floats of 4 and 8 bits, which live in f32 here.
//!
//! A value of such a type holds the numbers that its codes stand for, so whatever moves codes moves numbers, and widening
//! them is nothing to do. Where they are made they are rounded by an operator that tract is taught.

use planish_ir::{DType, SmallFloat};
use planish_passes::EngineError;

use super::{build::Builder, rounding_to, scope::Op};

/// `Cast` to a small float.
pub(super) fn cast(op: &Op<'_>, b: &mut Builder<'_>) -> Result<bool, EngineError> {
    let to = DType::from_code(i32::try_from(op.int("to", 0)).unwrap_or(0));
    let (true, Some(to), Some(output)) = (op.is("Cast"), to, op.output(0)) else { return Ok(false) };
    if SmallFloat::of(to).is_none() {
        return Ok(false);
    }
    let x = b.cast(op.required(0)?, DType::F32);
    b.op_into(&rounding_to(to, op.int("saturate", 1) != 0), &[&x], vec![], &[output]);
    Ok(true)
}
