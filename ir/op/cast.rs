//! Cast and CastLike: elements in another type.
//!
//! Opsets of Cast: 1 (`to` is a string), 6 (`to` is a number), 9, 13, 19 to 28 more types; of CastLike: 15, 19 to 25.
//!
//! Shape rule: the shape stays.

use super::{OpSpec, Traits, sig};
use crate::axes;
use crate::{
    DType,
    infer::{Call, Fact, Outcome},
};

pub(super) static CAST: OpSpec = OpSpec::new("Cast", &[sig(1, 1, 1)], Traits::ELEMENTWISE, |c| {
    let by_name = || DType::from_name(&c.attrs().str("to")?.to_ascii_lowercase());
    infer(c, c.dtype_attr("to").or_else(by_name))
});
pub(super) static CAST_LIKE: OpSpec =
    OpSpec::new("CastLike", &[sig(15, 2, 2)], Traits::PURE, |c| infer(c, c.dtype(1))).axes(axes::like_first);

fn infer(call: &Call<'_>, to: Option<DType>) -> Outcome {
    let Some(to) = to else { return Ok(Vec::new()) };
    let fact = Fact::tensor(Some(to), call.shape(0).map(<[_]>::to_vec));
    let elements = call.elements(0).map(|e| e.iter().map(|n| n.cast(to)).collect::<Vec<_>>());
    Ok(vec![fact.with(elements)])
}
