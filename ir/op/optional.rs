//! Values that may be absent: Optional, OptionalGetElement, OptionalHasElement.
//!
//! Opsets: 15, 18 also takes plain tensors and sequences, 28.
//!
//! Shape rule: Optional wraps the type of its input, or of its attribute `type`; OptionalGetElement unwraps it;
//! OptionalHasElement gives a boolean scalar.

use super::{OpSpec, Traits, sig};
use crate::{
    Attr, DType, Type,
    infer::{Call, Fact, Outcome},
};

pub(super) static OPTIONAL: OpSpec = OpSpec::new("Optional", &[sig(15, 0, 1)], Traits::OPAQUE, wrap);
pub(super) static GET: OpSpec = OpSpec::new("OptionalGetElement", &[sig(15, 1, 1)], Traits::OPAQUE, |c| {
    Ok(vec![match c.ty(0) {
        Some(Type::Optional(t)) => Fact::of((**t).clone()),
        _ => c.same(0),
    }])
});
pub(super) static HAS: OpSpec =
    OpSpec::new("OptionalHasElement", &[sig(15, 1, 1), sig(18, 0, 1)], Traits::OPAQUE, |_| {
        Ok(vec![Fact::scalar(DType::Bool)])
    });

fn wrap(call: &Call<'_>) -> Outcome {
    let declared = match call.attrs().get("type") {
        Some(Attr::Type(t)) => Some((**t).clone()),
        _ => None,
    };
    let inner = if call.has(0) { call.ty(0).cloned() } else { declared };
    Ok(vec![Fact::typed(inner.map(|t| Type::Optional(Box::new(t))))])
}
