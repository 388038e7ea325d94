//! TopK.
//!
//! Opsets: 1 (`k` is an attribute), 10 (an input), 11 `largest` and `sorted`, 24.
//!
//! Shape rule: the axis becomes `k` long, in the values and in the int64 indices.

use super::{OpSpec, Traits, sig};
use crate::axes::{
    Port::{In, Out},
    Role, Spelling, Why, same_axes,
};
use crate::{
    DType,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static SPEC: OpSpec =
    OpSpec::new("TopK", &[sig(1, 1, 1).outputs(2, 2), sig(10, 2, 2).outputs(2, 2)], Traits::PURE, infer).axes(axes);

fn infer(call: &Call<'_>) -> Outcome {
    let Some(input) = call.shape(0) else { return Ok(vec![call.like(0, None), Fact::tensor(Some(DType::I64), None)]) };
    let k = match (call.opset < 10, call.elements(1)) {
        (true, _) => call.attrs().int("k").map_or(Num::Unknown, Num::Int),
        (false, Some([k])) => k.clone(),
        (false, _) => Num::Unknown,
    };
    let at = call.axis("axis", -1, input.len())?;
    let mut shape = input.to_vec();
    if let Some(d) = shape.get_mut(at) {
        if let (Num::Int(k), Some(n)) = (&k, d.known())
            && u64::try_from(*k).is_ok_and(|k| k > n)
        {
            return Err(format!("it takes {k} of {n} elements"));
        }
        *d = k.dim();
    }
    Ok(vec![call.like(0, Some(shape.clone())), Fact::tensor(Some(DType::I64), Some(shape))])
}

/// `0[a,b!] -> 0[a,c!] 1[a,c!]`: the indices are places along the axis.
fn axes(s: &mut Spelling<'_>) -> Result<(), Why> {
    let rank = s.shape(In(0))?.len();
    let at = s.call.axis("axis", -1, rank).map_err(|_| "its axis does not exist")?;
    s.whole(In(0), at, "the results are places along it")?;
    same_axes(s, &[Out(0), Out(1)], [at], Role::Whole("its elements are sorted"))?;
    same_axes(s, &[In(0), Out(0), Out(1)], (0..rank).filter(|&a| a != at), Role::Free)
}
