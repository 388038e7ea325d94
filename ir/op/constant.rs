//! Constant.
//!
//! Opsets: 1 (`value`), 9, 11 (`sparse_value`), 12 (`value_int` and its like), 13, 19 to 25 more types.
//!
//! Shape rule: what the attribute holds; lists are vectors, single numbers and strings scalars.

use super::{OpSpec, Traits, sig};
use crate::axes;
use crate::{
    Attr, DType, Dim, Type,
    infer::{Call, Fact, Num, Outcome},
};

pub(super) static SPEC: OpSpec = OpSpec::new("Constant", &[sig(1, 0, 0)], Traits::PURE, infer).axes(axes::free);

fn infer(call: &Call<'_>) -> Outcome {
    let vector = |dtype, n: usize| Fact::of(Type::tensor(dtype, [Dim::Known(n as u64)]));
    let fact = |(name, attr): (&str, &Attr)| {
        Some(match (name, attr) {
            ("value", Attr::Tensor(t)) => Fact::constant(t),
            ("sparse_value", Attr::SparseTensor(t)) => {
                Fact::of(Type::tensor(t.values.dtype(), t.dims.iter().map(|&d| d.into())))
            }
            ("value_int", Attr::Int(n)) => Fact::scalar(DType::I64).with(Some(vec![Num::Int(*n)])),
            ("value_float", Attr::Float(x)) => Fact::scalar(DType::F32).with(Some(vec![Num::Float(f64::from(*x))])),
            ("value_string", Attr::String(_)) => Fact::scalar(DType::String),
            ("value_ints", Attr::Ints(v)) => {
                vector(DType::I64, v.len()).with(Some(v.iter().map(|&n| Num::Int(n)).collect::<Vec<_>>()))
            }
            ("value_floats", Attr::Floats(v)) => vector(DType::F32, v.len()),
            ("value_strings", Attr::Strings(v)) => vector(DType::String, v.len()),
            _ => return None,
        })
    };
    Ok(vec![call.attrs().iter().find_map(fact).unwrap_or_default()])
}
