//! Unique.
//!
//! Opsets: 11, 28.
//!
//! Shape rule: the axis, or everything as a vector, becomes as long as there are different elements; the int64 index
//! outputs are vectors, of which the inverse is as long as the axis was.

use super::{OpSpec, Traits, sig};
use crate::{
    DType, Dim,
    infer::{Call, Fact, Outcome, shape::volume},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Unique", &[sig(11, 1, 1).outputs(1, 4)], Traits::PURE, infer);

fn infer(call: &Call<'_>) -> Outcome {
    let vector = |d: Dim| Fact::tensor(Some(DType::I64), Some(vec![d]));
    let (y, length) = match (call.shape(0), call.attrs().int("axis")) {
        (None, Some(_)) => (call.like(0, None), Dim::Unknown),
        (s, None) => (call.like(0, Some(vec![Dim::Unknown])), s.map_or(Dim::Unknown, volume)),
        (Some(s), Some(_)) => {
            let at = call.axis("axis", 0, s.len())?;
            let mut shape = s.to_vec();
            let length = shape.get_mut(at).map_or(Dim::Unknown, |d| std::mem::replace(d, Dim::Unknown));
            (call.like(0, Some(shape)), length)
        }
    };
    Ok(vec![y, vector(Dim::Unknown), vector(length), vector(Dim::Unknown)])
}
