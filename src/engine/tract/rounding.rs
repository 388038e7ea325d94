//! The operators that tract is taught: rounding to floats that it has no type for.
//!
//! Values of these types live in f32 there. Rounding each of them when it is made gives the numbers that hardware gives
//! which multiplies in that type, adds up in f32, and rounds the result.

use anyhow::Context;
use half::bf16;
use planish_ir::SmallFloat;
use tract_onnx::{
    Onnx,
    prelude::{DatumType, Tensor, TractResult},
    tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp},
    tract_hir::ops::element_wise::ElementWiseIntoHir,
};

use crate::engine::lower::{rounding_named, roundings};

/// tract with these operators.
pub(super) fn framework() -> Onnx {
    let mut framework = tract_onnx::onnx();
    for name in roundings() {
        framework.op_register.0.insert(name, |_, node| {
            let (dtype, saturate) = rounding_named(&node.op_type).context("an operator of this kind has a type")?;
            let rounding = match SmallFloat::of(dtype) {
                Some(format) => Rounding::Small { format, saturate },
                None => Rounding::Bfloat16,
            };
            Ok((ElementWiseOp(Box::new(rounding), None).into_hir(), vec![]))
        });
    }
    framework
}

/// The nearest number of a type for each f32; ties go to even.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rounding {
    Bfloat16,
    Small { format: SmallFloat, saturate: bool },
}

impl ElementWiseMiniOp for Rounding {
    fn name(&self) -> String {
        "Rounding".into()
    }

    fn eval_in_place(&self, t: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let mut elements = t.try_as_plain_ram_mut()?;
        for v in elements.as_slice_mut::<f32>()? {
            *v = match self {
                Rounding::Bfloat16 => bf16::from_f32(*v).to_f32(),
                Rounding::Small { format, saturate } => format.decode(format.encode(*v, *saturate)),
            };
        }
        Ok(())
    }
}
