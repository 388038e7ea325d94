//! The one operator that tract is taught: rounding to bfloat16.
//!
//! tract has no bfloat16, so such values live in f32 there. Rounding each of them when it is made gives the numbers that
//! hardware gives which multiplies in bfloat16, adds up in f32, and rounds the result.

use half::bf16;
use tract_onnx::{
    Onnx,
    prelude::{DatumType, Tensor, TractResult},
    tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp},
    tract_hir::ops::element_wise::ElementWiseIntoHir,
};

use crate::engine::lower::ROUND_TO_BFLOAT16;

/// tract with the operator.
pub(super) fn framework() -> Onnx {
    let mut framework = tract_onnx::onnx();
    framework
        .op_register
        .0
        .insert(ROUND_TO_BFLOAT16.into(), |_, _| Ok((ElementWiseOp(Box::new(ToBfloat16), None).into_hir(), vec![])));
    framework
}

/// The nearest bfloat16 of each f32; ties go to even.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ToBfloat16;

impl ElementWiseMiniOp for ToBfloat16 {
    fn name(&self) -> String {
        "ToBfloat16".into()
    }

    fn eval_in_place(&self, t: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        let mut elements = t.try_as_plain_ram_mut()?;
        for v in elements.as_slice_mut::<f32>()? {
            *v = bf16::from_f32(*v).to_f32();
        }
        Ok(())
    }
}
