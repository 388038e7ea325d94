//! ConstantOfShape.
//!
//! Opsets: 9, 20 to 25 more types.
//!
//! Shape rule: the input lists the sizes; type and element are those of the attribute `value`, by default a float 0.

use super::{OpSpec, Traits, sig};
use crate::axes;
use crate::{
    DType, Tensor,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("ConstantOfShape", &[sig(9, 1, 1)], Traits::PURE, infer).axes(axes::free);

fn infer(call: &Call<'_>) -> Outcome {
    let value = call.attrs().tensor("value");
    let dtype = value.map_or(DType::F32, Tensor::dtype);
    let shape = call.per_axis(0).map(|sizes| sizes.iter().map(Num::dim).collect());
    let fact = Fact::tensor(Some(dtype), shape);
    let fill = match value {
        Some(t) => t.single_i64().map(Num::Int).or_else(|| t.single_f64().map(Num::Float)),
        None => Some(Num::Float(0.0)),
    };
    let elements = match (fill, fact.small_count()) {
        (Some(n), Some(count)) => Some(vec![n.fit(dtype); count]),
        _ => None,
    };
    Ok(vec![fact.with(elements)])
}
